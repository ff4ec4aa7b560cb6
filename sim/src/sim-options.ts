// How patient the simulated orchestrators are: everything scaled down, so that a run is short.

import type { CohortChangeOptions, CoordinatorOptions, DetectorOptions } from "@quorate/consensus";

export const simCoordinatorOptions: CoordinatorOptions = {
  graceMs: 5,
  recruitTimeoutMs: 250,
  fetchTimeoutMs: 800,
  electTimeoutMs: 500,
  followTimeoutMs: 800,
  establishTimeoutMs: 1_200,
  backoffMinMs: 30,
  backoffMaxMs: 1_000,
};

/** For the storms: attempts come and go quickly. */
export const hastyCoordinatorOptions: CoordinatorOptions = {
  graceMs: 2,
  recruitTimeoutMs: 40,
  fetchTimeoutMs: 80,
  electTimeoutMs: 60,
  followTimeoutMs: 200,
  establishTimeoutMs: 150,
  backoffMinMs: 10,
  backoffMaxMs: 500,
};

/** For coordinators that a long pause overtakes: what they were told early counts late. */
export const patientCoordinatorOptions: CoordinatorOptions = {
  ...simCoordinatorOptions,
  graceMs: 0,
  recruitTimeoutMs: 6_000,
};

export const simDetectorOptions: DetectorOptions = {
  silentMs: 900,
  noLeaderHoldMs: 400,
  attemptMs: 600,
  establishMs: 1_500,
  deadPromiseMs: 1_500,
  repairHoldMs: 500,
  stuckMs: 3_000,
  lagBytes: 1_000,
  finishHoldMs: 700,
  dampFree: 4,
  dampWindowMs: 3_000,
  dampMax: 4,
  staggerMs: 60,
};

export const simCohortOptions: CohortChangeOptions = { catchUpBytes: 20, silentMs: 900 };

/** Both clocks may be wrong by this share: the core waits for a lease by a tenth longer. */
export const maxDrift = 0.045;
