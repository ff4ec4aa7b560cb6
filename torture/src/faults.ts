// What can go wrong, one entry each: how it is brought about, and what is expected while it lasts.
import { setTimeout as delay } from "node:timers/promises";
import type { LabCluster } from "../../tests/lib/lab-cluster.ts";
import type { Block } from "../../tests/lib/netlab.ts";
import type { Random } from "./random.ts";

export interface Situation {
  readonly lab: LabCluster;
  readonly random: Random;
  readonly leader: string;
  /** The other nodes, in random order. */
  readonly followers: readonly string[];
}

/** Undoes the fault. */
export type Heal = () => Promise<void>;

export interface Fault {
  readonly name: string;
  /** The write gap that the project aims at, for the table; null: no aim (nobody could write meanwhile). */
  readonly aimMs: number | null;
  /** While it lasts, clients can write after a pause. */
  readonly survivable: boolean;
  /** Drawn about so much more often. */
  readonly weight: number;
  readonly strike: (situation: Situation) => Promise<Heal>;
}

const nothing: Heal = async () => undefined;

function both(a: string, b: string, port?: number): Block[] {
  const only = port === undefined ? {} : { port };
  return [
    { from: a, to: b, ...only },
    { from: b, to: a, ...only },
  ];
}

function healAll(...heals: readonly Heal[]): Heal {
  return async () => {
    for (const heal of heals) await heal();
  };
}

function first(names: readonly string[]): string {
  const [name] = names;
  if (name === undefined) throw new Error("a cluster of one has no followers");
  return name;
}

/** How many nodes may fail at once. */
function minority({ lab, followers }: Situation): string[] {
  return followers.slice(0, Math.floor((lab.ids.length - 1) / 2));
}

function freezePids(lab: LabCluster, pids: () => number[]): Heal {
  const frozen = pids();
  lab.signal(frozen, "SIGSTOP");
  return async () => lab.signal(frozen, "SIGCONT");
}

function killNode(lab: LabCluster, id: string): void {
  lab.signal([lab.pid(id), ...lab.postgresPids(id)], "SIGKILL");
}

async function restartOrchestrators(lab: LabCluster, ids: readonly string[]): Promise<void> {
  for (const id of ids) lab.startOrchestrator(id);
  await lab.waitForOrchestrators(ids);
}

async function powerOff(lab: LabCluster, ids: readonly string[]): Promise<Heal> {
  return healAll(...(await Promise.all(ids.map((id) => lab.powerOff(id)))));
}

const kills: readonly Fault[] = [
  {
    name: "kill the leader's Postgres",
    aimMs: 300,
    survivable: true,
    weight: 2,
    strike: async ({ lab, leader }) => {
      lab.signal([lab.postmaster(leader)], "SIGKILL");
      return nothing;
    },
  },
  {
    name: "kill the leader's sidecar and Postgres",
    aimMs: 1_000,
    survivable: true,
    weight: 2,
    strike: async ({ lab, leader }) => {
      killNode(lab, leader);
      return nothing;
    },
  },
  {
    name: "kill the leader's sidecar",
    aimMs: 100,
    survivable: true,
    weight: 1,
    strike: async ({ lab, leader }) => {
      lab.signal([lab.pid(leader)], "SIGKILL");
      return nothing;
    },
  },
  {
    name: "kill a follower's sidecar and Postgres",
    aimMs: 300,
    survivable: true,
    weight: 1,
    strike: async ({ lab, followers }) => {
      killNode(lab, first(followers));
      return nothing;
    },
  },
  {
    name: "power off the leader",
    aimMs: 2_000,
    survivable: true,
    weight: 2,
    strike: ({ lab, leader }) => powerOff(lab, [leader]),
  },
  {
    name: "power off a follower",
    aimMs: 300,
    survivable: true,
    weight: 1,
    strike: ({ lab, followers }) => powerOff(lab, [first(followers)]),
  },
  {
    name: "power off the leader's zone",
    aimMs: 2_000,
    survivable: true,
    weight: 1,
    strike: async ({ lab, leader }) => {
      const zone = lab.inZone(lab.zone(leader));
      const orchestrators = zone.filter((id) => lab.orchestrators.includes(id));
      for (const id of orchestrators) await lab.halt(id);
      const heal = await powerOff(
        lab,
        zone.filter((id) => lab.ids.includes(id)),
      );
      return healAll(heal, () => restartOrchestrators(lab, orchestrators));
    },
  },
  {
    name: "power off every node",
    aimMs: null,
    survivable: false,
    weight: 1,
    strike: ({ lab }) => powerOff(lab, lab.ids),
  },
];

const freezes: readonly Fault[] = [
  {
    name: "freeze the leader's Postgres",
    aimMs: 2_000,
    survivable: true,
    weight: 2,
    strike: async ({ lab, leader }) => freezePids(lab, () => lab.postgresPids(leader)),
  },
  {
    name: "freeze the leader's sidecar",
    aimMs: 100,
    survivable: true,
    weight: 1,
    strike: async ({ lab, leader }) => freezePids(lab, () => [lab.pid(leader)]),
  },
  {
    name: "freeze the leader's machine",
    aimMs: 2_000,
    survivable: true,
    weight: 2,
    strike: async ({ lab, leader }) => freezePids(lab, () => [lab.pid(leader), ...lab.postgresPids(leader)]),
  },
  {
    name: "freeze a follower's Postgres",
    aimMs: 300,
    survivable: true,
    weight: 1,
    strike: async ({ lab, followers }) => freezePids(lab, () => lab.postgresPids(first(followers))),
  },
];

const cuts: readonly Fault[] = [
  {
    name: "cut the leader off from everybody",
    aimMs: 2_000,
    survivable: true,
    weight: 2,
    strike: ({ lab, leader }) => lab.net.block({ from: leader, to: "*" }, { from: "*", to: leader }),
  },
  {
    name: "cut the leader off from the other nodes",
    aimMs: 2_000,
    survivable: true,
    weight: 2,
    strike: ({ lab, leader, followers }) => lab.net.block(...followers.flatMap((id) => both(leader, id))),
  },
  {
    name: "cut only replication from the leader",
    aimMs: 2_000,
    survivable: true,
    weight: 2,
    strike: ({ lab, leader, followers }) =>
      lab.net.block(...followers.flatMap((id) => both(leader, id, lab.postgresPort(leader)))),
  },
  {
    name: "one way: nothing from the leader reaches the nodes",
    aimMs: 2_000,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader, followers }) =>
      lab.net.block(...followers.map((id) => ({ from: leader, to: id }))),
  },
  {
    name: "one way: nothing from the nodes reaches the leader",
    aimMs: 2_000,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader, followers }) =>
      lab.net.block(...followers.map((id) => ({ from: id, to: leader }))),
  },
  {
    name: "one way: nothing from the leader reaches anybody",
    aimMs: 2_000,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader }) => lab.net.block({ from: leader, to: "*" }),
  },
  {
    name: "cut one follower off from the leader",
    aimMs: 300,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader, followers }) => lab.net.block(...both(leader, first(followers))),
  },
  {
    name: "cut a minority off from everybody",
    aimMs: 300,
    survivable: true,
    weight: 1,
    strike: (situation) =>
      situation.lab.net.block(
        ...minority(situation).flatMap((id) => [
          { from: id, to: "*" },
          { from: "*", to: id },
        ]),
      ),
  },
  {
    name: "cut each orchestrator off from some nodes",
    aimMs: 100,
    survivable: true,
    weight: 1,
    strike: ({ lab, random }) =>
      lab.net.block(...lab.orchestrators.flatMap((id) => both(id, random.pick(lab.ids)))),
  },
  {
    name: "cut the orchestrators off from the leader",
    aimMs: 100,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader }) => lab.net.block(...lab.orchestrators.flatMap((id) => both(id, leader))),
  },
  {
    name: "flapping link of the leader",
    aimMs: null,
    survivable: true,
    weight: 1,
    strike: async ({ lab, leader, random }) => {
      for (let i = 0; i < 6; i++) {
        const heal = await lab.net.block({ from: leader, to: "*" }, { from: "*", to: leader });
        await delay(random.int(100, 900));
        await heal();
        await delay(random.int(100, 600));
      }
      return nothing;
    },
  },
];

const disks: readonly Fault[] = [
  {
    name: "the leader's disk hangs",
    aimMs: 5_000,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader }) => lab.freezeDisk(leader),
  },
  {
    name: "the leader's disk is slow",
    aimMs: null,
    survivable: true,
    weight: 1,
    strike: async ({ lab, leader, random }) => {
      for (let i = 0; i < 5; i++) {
        const thaw = await lab.freezeDisk(leader);
        await delay(random.int(100, 400));
        await thaw();
        await delay(random.int(20, 200));
      }
      return nothing;
    },
  },
  {
    name: "the leader's disk is full",
    aimMs: null,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader }) => lab.fillDisk(leader),
  },
];

/** Of a Postgres that was killed: nothing heals it but the cluster itself. */
async function spoil(lab: LabCluster, id: string, how: (id: string) => void): Promise<Heal> {
  lab.signal(lab.postgresPids(id), "SIGKILL");
  how(id);
  return nothing;
}

const losses: readonly Fault[] = [
  {
    name: "a follower loses its data",
    aimMs: 300,
    survivable: true,
    weight: 1,
    strike: ({ lab, followers }) => spoil(lab, first(followers), (id) => lab.loseData(id)),
  },
  {
    name: "a follower's data is damaged",
    aimMs: 300,
    survivable: true,
    weight: 1,
    strike: ({ lab, followers }) => spoil(lab, first(followers), (id) => lab.damageData(id)),
  },
  {
    name: "the leader loses its data",
    aimMs: 1_000,
    survivable: true,
    weight: 1,
    strike: ({ lab, leader }) => spoil(lab, leader, (id) => lab.loseData(id)),
  },
];

/** A failover's steps as the node sees them that is to lead. */
const failoverSteps = ["fenced", "candidate", "elected", "leader"] as const;
type FailoverStep = (typeof failoverSteps)[number];
const stepTimeoutMs = 20_000;

/** The node that has come this far, or further: steps may be too short to be seen. */
function nodeAtStep(lab: LabCluster, leader: string, step: FailoverStep): Promise<string | undefined> {
  const far = failoverSteps.slice(failoverSteps.indexOf(step)) as readonly (string | null)[];
  return new Promise((resolve) => {
    const end = (id: string | undefined): void => {
      clearTimeout(timer);
      setImmediate(unfollow);
      resolve(id);
    };
    const timer = setTimeout(() => end(undefined), stepTimeoutMs);
    const unfollow = lab.follow(({ nodes }) => {
      const found = nodes.find(({ id, state }) => id !== leader && far.includes(state));
      if (found !== undefined) end(found.id);
    });
  });
}

const atEachStep: readonly Fault[] = failoverSteps.map((step) => ({
  name: `kill the leader and, as soon as another node is ${step}, that one`,
  aimMs: 5_000,
  survivable: true,
  weight: 1,
  strike: async ({ lab, leader }) => {
    const reached = nodeAtStep(lab, leader, step);
    lab.signal([lab.postmaster(leader)], "SIGKILL");
    const id = await reached;
    if (id !== undefined) killNode(lab, id);
    return nothing;
  },
}));

const pairs: readonly Fault[] = [
  ...atEachStep,
  {
    name: "kill every orchestrator",
    aimMs: 100,
    survivable: true,
    weight: 1,
    strike: async ({ lab }) => {
      for (const id of lab.orchestrators) await lab.halt(id);
      return () => restartOrchestrators(lab, lab.orchestrators);
    },
  },
  {
    name: "kill two nodes at once",
    aimMs: 5_000,
    survivable: true,
    weight: 1,
    strike: async ({ lab, leader, followers }) => {
      killNode(lab, leader);
      killNode(lab, first(followers));
      return nothing;
    },
  },
  {
    name: "kill the leader and, during the failover, another node",
    aimMs: 5_000,
    survivable: true,
    weight: 2,
    strike: async ({ lab, leader, followers, random }) => {
      killNode(lab, leader);
      await delay(random.int(0, 500));
      killNode(lab, first(followers));
      return nothing;
    },
  },
  {
    name: "kill the leader and, during the failover, orchestrators",
    aimMs: 5_000,
    survivable: true,
    weight: 1,
    strike: async ({ lab, leader, random }) => {
      const [, ...others] = random.shuffle(lab.orchestrators);
      lab.signal([lab.postmaster(leader)], "SIGKILL");
      for (const id of others) {
        await delay(random.int(0, 200));
        lab.signal([lab.pid(id)], "SIGKILL");
      }
      return nothing;
    },
  },
  {
    name: "cut the leader off and kill another node",
    aimMs: null,
    survivable: false,
    weight: 1,
    strike: async ({ lab, leader, followers }) => {
      const heal = await lab.net.block({ from: leader, to: "*" }, { from: "*", to: leader });
      killNode(lab, first(followers));
      return heal;
    },
  },
];

export const allFaults: readonly Fault[] = [...kills, ...freezes, ...cuts, ...disks, ...losses, ...pairs];

/** Which fault comes when: each once in random order, then as the weights say. */
export function* schedule(random: Random, faults: readonly Fault[], count: number): Generator<Fault> {
  const bag = faults.flatMap((fault) => Array.from({ length: fault.weight }, () => fault));
  const firstRound = random.shuffle(faults);
  for (let i = 0; i < count; i++) yield firstRound[i] ?? random.pick(bag);
}
