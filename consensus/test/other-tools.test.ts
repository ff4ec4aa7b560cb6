// docs/failure-table.md says what becomes of everything that other tools call a problem: no code may be missing, and the
// rows that the page names must exist.
import { readFileSync } from "node:fs";
import t from "tap";
import { failureTable } from "../src/index.ts";

/** Analysis codes of VTOrc and of orchestrator before it. */
const vtorc = `
  AllPrimaryReplicasNotReplicating AllPrimaryReplicasNotReplicatingOrDead BinlogServerFailingToConnectToPrimary
  ClusterHasNoPrimary ConnectedToWrongPrimary DeadCoPrimary DeadIntermediatePrimary DeadPrimary DeadPrimaryAndReplicas
  DeadPrimaryAndSomeReplicas DeadPrimaryWithoutReplicas ErrantGTIDDetected IncapacitatedPrimary InvalidPrimary
  InvalidReplica LockedSemiSyncPrimary LockedSemiSyncPrimaryHypothesis NotConnectedToPrimary PrimaryCurrentTypeMismatch
  PrimaryDiskStalled PrimaryHasPrimary PrimaryIsReadOnly PrimarySemiSyncBlocked PrimarySemiSyncMustBeSet
  PrimarySemiSyncMustNotBeSet PrimarySingleReplicaDead PrimarySingleReplicaNotReplicating PrimaryTabletDeleted
  PrimaryWithoutReplicas ReplicaIsWritable ReplicaMisconfigured ReplicaSemiSyncMustBeSet ReplicaSemiSyncMustNotBeSet
  ReplicationStopped StaleTopoPrimary UnreachableIntermediatePrimary UnreachablePrimary
  UnreachablePrimaryWithBrokenReplicas UnreachablePrimaryWithLaggingReplicas`;

/** Problem codes of multiorch. */
const multiorch = `
  PrimaryAndReplicasDead PrimaryDiskStalled PrimaryIsDead PrimaryIsDeadAndSomeReplicas PrimaryIsReadOnly
  PrimaryMisconfigured PrimaryNotAcceptingWrites PrimaryRevoked ReplicaIsWritable ReplicaLagging ReplicaMisconfigured
  ReplicaNotInStandbyList ReplicaNotReplicating ReplicaWrongPrimary ShardNeedsBootstrap StalePrimary`;

const page = readFileSync(new URL("../../docs/failure-table.md", import.meta.url), "utf8");
const [table = ""] = page.split("<!-- other tools -->")[1]?.split("<!-- /other tools -->") ?? [];
const named = new Set([...table.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name));
const codes = new Set(`${vtorc} ${multiorch}`.trim().split(/\s+/));
const rows = new Set<string>(failureTable.map(({ name }) => name));

t.test("every code has its line", (t) => {
  for (const code of codes) t.ok(named.has(code), code);
  t.end();
});

t.test("every row that is named exists", (t) => {
  const words = [...named].filter((name) => /^[a-z]+(_[a-z]+)+$/.test(name));
  t.ok(words.length > 15);
  for (const name of words) t.ok(rows.has(name), name);
  t.end();
});
