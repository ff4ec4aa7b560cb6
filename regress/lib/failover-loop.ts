/**
 * Round after round: load, a fault, another leader, everybody back, everything compared.
 *
 * The harness is the only coordinator and knows who leads, so it recruits as little as it may: a set of nodes that
 * blocks the rule of the last leader and can meet the rule of the next one. The rest goes on with the old term for a
 * while, clients and readers included.
 */
import { rm } from "node:fs/promises";
import path from "node:path";
import { makePostgresTempDirectory, poll, runAsPostgres, sendSignal, sleep } from "@quorate/common";
import {
  canBlock,
  canFulfil,
  compilePolicy,
  findPolicy,
  formatRule,
  type NodeId,
  nodeId,
  parseLsn,
  type Rule,
} from "@quorate/consensus";
import type { Variant } from "../../scripts/lib/postgres/plan.ts";
import { type Cluster, expectOk, makeCluster, type Server } from "./cluster.ts";
import type { Position } from "./control.ts";
import { createLoadTables, type Known, knowsNothing, type Load, startLoad, startReaders } from "./load.ts";
import { makeRandom, type Random } from "./random.ts";
import { checkArchive, type LogWatcher, verify, watchLogs } from "./verify.ts";

export const loopRules = ["majority", "cross-zone"] as const;
export type LoopRule = (typeof loopRules)[number];

export type LoopOptions = {
  readonly rounds: number;
  readonly seed: number;
  readonly nodes: 3 | 5;
  readonly rule: LoopRule;
  readonly variant?: Variant;
  readonly powerCut?: boolean;
  /** Acknowledged rows between two faults, at least. */
  readonly rowsPerRound?: number;
  /** More lines for postgresql.conf. */
  readonly settings?: readonly string[];
  /** Leave the servers' directory when something is wrong. */
  readonly keep?: boolean;
  readonly onRound?: (round: Round) => void;
};

export type Round = {
  readonly round: number;
  readonly fault: string;
  readonly from: string;
  readonly to: string;
  readonly term: number;
  readonly recruited: readonly string[];
  /** How much the longest log among those that came back went beyond the one that was elected. */
  readonly droppedBytes: number;
  readonly acknowledged: number;
  readonly problems: readonly string[];
};

export type LoopResult = {
  readonly rounds: readonly Round[];
  readonly known: Known;
  readonly directory: string;
};

export const loopSettings = (archive: string): string[] => [
  "shared_buffers = 4MB",
  "max_wal_size = 64MB",
  "min_wal_size = 32MB",
  "wal_keep_size = 512MB",
  "checkpoint_timeout = 30s",
  "autovacuum_naptime = 2s",
  "bgwriter_delay = 20ms",
  "bgwriter_lru_maxpages = 1000",
  // Without a bound replay may wait for a check that waits for a lock that replay holds, for ever.
  "max_standby_streaming_delay = 10s",
  "archive_mode = on",
  // never replaced by something else
  `archive_command = 'if test -f ${archive}/%f; then cmp %p ${archive}/%f; else cp %p ${archive}/%f.part && mv ${archive}/%f.part ${archive}/%f; fi'`,
  "summarize_wal = on",
  "wal_sender_timeout = 5s",
  "wal_receiver_timeout = 5s",
];

type State = {
  readonly cluster: Cluster;
  readonly random: Random;
  readonly rules: ReadonlyMap<string, Rule>;
  readonly powerCut: boolean;
  readonly logs: LogWatcher;
  readonly alarms: string[];
  leader: Server;
  term: number;
};

/** Zones of two nodes each, with three nodes of one. */
function rulesOf(options: LoopOptions, ids: readonly string[]): ReadonlyMap<string, Rule> {
  const policy = findPolicy(options.rule);
  if (policy === undefined) throw new Error(`no policy ${options.rule}`);
  const perZone = ids.length > 3 ? 2 : 1;
  const nodes = ids.map((id, i) => ({
    id: nodeId(id),
    zone: `z${Math.floor(i / perZone)}`,
    region: "r",
  }));
  const compiled = compilePolicy({ policy, nodes, version: 1 });
  if (!compiled.ok) throw new Error(compiled.refusals.map(({ message }) => message).join("; "));
  return compiled.ruleset.leaders;
}

const ruleOf = (state: State, id: string): Rule => {
  const rule = state.rules.get(id);
  if (rule === undefined) throw new Error(`${id} may not lead`);
  return rule;
};

function setOf(servers: readonly Server[]): { has(id: NodeId): boolean } {
  const ids = new Set(servers.map(({ id }) => id));
  return { has: (id) => ids.has(id) };
}

const canRevoke = (state: State, recruited: readonly Server[]): boolean =>
  canBlock(ruleOf(state, state.leader.id), setOf(recruited));

const eligible = (state: State, recruited: readonly Server[]): Server[] =>
  recruited.filter(({ id }) => canFulfil(ruleOf(state, id), setOf(recruited)));

const suffices = (state: State, recruited: readonly Server[]): boolean =>
  canRevoke(state, recruited) && eligible(state, recruited).length > 0;

/** Raft's comparison of logs. */
function isBefore(a: Position, b: Position): boolean {
  return a.term < b.term || (a.term === b.term && (parseLsn(a.lsn) ?? 0n) < (parseLsn(b.lsn) ?? 0n));
}

/** What happens to the leader and perhaps to others. Returns who is down. */
type Fault = { readonly name: string; readonly run: (state: State) => Promise<Server[]> };

const followersOf = (state: State): Server[] => state.cluster.servers.filter((each) => each !== state.leader);

function receiversOf(servers: readonly Server[]): number[] {
  return servers.flatMap((server) => {
    try {
      return [server.child(/walreceiver/)];
    } catch {
      return []; // it reconnects just now
    }
  });
}

const faults: readonly Fault[] = [
  {
    name: "kill -9 of the leader",
    async run({ leader }) {
      await leader.kill9();
      return [leader];
    },
  },
  {
    name: "kill -9 of the leader and a follower",
    async run(state) {
      const follower = state.random.pick(followersOf(state));
      await Promise.all([state.leader.kill9(), follower.kill9()]);
      return [state.leader, follower];
    },
  },
  {
    name: "followers frozen, then kill -9 of the leader",
    async run(state) {
      const { leader, random } = state;
      const frozen = receiversOf(followersOf(state));
      for (const pid of frozen) sendSignal(pid, "SIGSTOP");
      await leader.untilStatus("has waiting backends", ({ waiting }) => waiting >= 4);
      await sleep(random.below(400));
      const early = random.below(frozen.length + 1);
      for (const pid of frozen.slice(0, early)) sendSignal(pid, "SIGCONT");
      await leader.kill9();
      for (const pid of frozen) sendSignal(pid, "SIGCONT");
      return [leader];
    },
  },
  { name: "the leader is cut off and goes on", run: async () => [] },
  {
    name: "immediate shutdown of the leader",
    async run({ leader }) {
      await leader.stop("immediate");
      return [leader];
    },
  },
  {
    name: "fast shutdown of the leader",
    async run({ leader }) {
      await leader.stop("fast");
      return [leader];
    },
  },
];

async function cutPower(state: State, servers: readonly Server[]): Promise<Server[]> {
  state.alarms.push(...(await state.logs.check()));
  await Promise.all(servers.map((server) => server.cutPower()));
  await state.logs.forgive(servers);
  return [...servers];
}

const powerFaults: readonly Fault[] = [
  { name: "power cut of the leader", run: (state) => cutPower(state, [state.leader]) },
  { name: "power cut of all nodes", run: (state) => cutPower(state, state.cluster.servers) },
  {
    name: "power cut of the leader and a follower",
    run: (state) => cutPower(state, [state.leader, state.random.pick(followersOf(state))]),
  },
  {
    name: "power cut of a follower, then kill -9 of the leader",
    async run(state) {
      const down = await cutPower(state, [state.random.pick(followersOf(state))]);
      await state.leader.kill9();
      return [...down, state.leader];
    },
  },
];

/** Starts some of those that are down; enough to go on. Returns who still is down. */
async function startSome(state: State, down: readonly Server[], cutOff: boolean): Promise<Server[]> {
  const still = new Set(down);
  const up = () =>
    state.cluster.servers.filter((each) => !still.has(each) && !(cutOff && each === state.leader));
  for (const server of state.random.shuffle(down)) {
    if (suffices(state, up()) && state.random.chance(2)) continue;
    await server.start();
    still.delete(server);
  }
  return [...still];
}

/** As few as may be, or more. */
function chooseRecruits(state: State, up: readonly Server[]): Server[] {
  const recruited: Server[] = [];
  for (const server of state.random.shuffle(up)) {
    if (!suffices(state, recruited) || state.random.chance(2)) recruited.push(server);
  }
  if (!suffices(state, recruited))
    throw new Error(`${recruited.map(({ id }) => id)} can't change the leader`);
  return recruited;
}

/** Fences the recruited, elects one that has, or fetches, all that any of them has. */
async function changeLeader(state: State, recruited: readonly Server[]): Promise<Position> {
  const { term, random, cluster } = state;
  const positions = await Promise.all(
    recruited.map(async (server) => {
      const { position } = expectOk(await server.ask({ cmd: "fence", term }));
      if (position === undefined) throw new Error(`${server.id} has no position`);
      return { server, position };
    }),
  );
  const best = positions.reduce((a, b) => (isBefore(a.position, b.position) ? b : a));
  const candidate = random.pick(eligible(state, recruited));
  const mine = positions.find(({ server }) => server === candidate);
  if (mine !== undefined && isBefore(mine.position, best.position)) {
    const conninfo = best.server.conninfoFor(candidate.id);
    const { id } = best.server;
    expectOk(await candidate.ask({ cmd: "fetch", term, from: id, conninfo, target: best.position }));
  }
  const others = recruited.filter((each) => each !== candidate).map(({ id }) => id);
  await cluster.lead(candidate.id, term, formatRule(ruleOf(state, candidate.id)), others);
  await poll(() => candidate.value("select 1").catch(() => undefined), {
    what: `${candidate.id} to admit clients`,
    timeoutMs: 20_000,
  });
  state.leader = candidate;
  return best.position;
}

/** The rest follows, whatever it was. Returns how much of a log that goes beyond `base` was dropped. */
async function bringBack(state: State, base: Position, absent: readonly Server[]): Promise<number> {
  let dropped = 0;
  for (const server of absent) {
    if (server.isRunning() && !(await server.status()).inRecovery) await server.stop("immediate");
    if (!server.isRunning()) await server.start();
    const { position } = expectOk(await server.ask({ cmd: "fence", term: state.term }));
    await state.cluster.follow(server.id, state.leader.id, state.term);
    const beyond = Number((parseLsn(position?.lsn ?? "") ?? 0n) - (parseLsn(base.lsn) ?? 0n));
    dropped = Math.max(dropped, beyond);
  }
  return dropped;
}

async function untilRows(known: Known, goal: number): Promise<void> {
  await poll(() => known.acknowledged.size >= goal, { what: `${goal} acknowledged rows`, timeoutMs: 90_000 });
}

async function forgetOldRows(leader: Server, known: Known): Promise<void> {
  const tables = await leader.sql("select relname from pg_class where relname ~ '^ddl_[0-9]+$' order by oid");
  for (const [name] of tables.slice(0, -5)) await leader.sql(`drop table ${name}`);
  if (known.acknowledged.size < 20_000) return;
  const before = known.nextId - 5_000;
  await leader.sql(`delete from ack where id < ${before}`);
  for (const id of known.acknowledged) if (id < before) known.acknowledged.delete(id);
  for (const id of known.seen.keys()) if (id < before) known.seen.delete(id);
}

/** The newest files are enough for the next check. */
const pruneArchive = (archive: string) =>
  runAsPostgres("sh", ["-c", 'cd "$1" && ls -t | tail -n +20 | xargs -r rm -f', "sh", archive]);

async function playRound(
  state: State,
  known: Known,
  rows: number,
): Promise<Omit<Round, "round" | "problems">> {
  const { cluster, random } = state;
  const load = await startLoad(state.leader, known);
  await untilRows(known, known.acknowledged.size + rows + random.below(rows));
  const from = state.leader;
  const fault = random.pick(state.powerCut && random.chance(2) ? powerFaults : faults);
  const down = await fault.run(state);
  state.term += 1 + random.below(20);
  const cutOff = down.length === 0;
  const still = await startSome(state, down, cutOff);
  const up = cluster.servers.filter((each) => !still.includes(each) && !(cutOff && each === from));
  const recruited = chooseRecruits(state, up);
  const base = await changeLeader(state, recruited);
  const next = await startLoad(state.leader, known);
  if (cutOff) await sleep(random.below(300));
  const absent = cluster.servers.filter((each) => !recruited.includes(each));
  const droppedBytes = await bringBack(state, base, absent);
  await load.stop();
  await untilRows(known, known.acknowledged.size + Math.ceil(rows / 4));
  await next.stop();
  return {
    fault: fault.name,
    from: from.id,
    to: state.leader.id,
    term: state.term,
    recruited: recruited.map(({ id }) => id),
    droppedBytes,
    acknowledged: known.acknowledged.size,
  };
}

export async function runLoop(options: LoopOptions): Promise<LoopResult> {
  const random = makeRandom(options.seed);
  const archives = await makePostgresTempDirectory("qrt-archive-");
  const archive = path.join(archives, "wal");
  await runAsPostgres("mkdir", [archive]);
  const cluster = await makeCluster({
    nodes: options.nodes,
    settings: [...loopSettings(archive), ...(options.settings ?? [])],
    variant: options.variant ?? "release",
    disks: options.powerCut ?? false,
  });
  const known = knowsNothing();
  const rounds: Round[] = [];
  let readers: Load | undefined;
  let clean = true;
  try {
    await Promise.all(cluster.servers.map((server) => server.start()));
    const rules = rulesOf(
      options,
      cluster.servers.map(({ id }) => id),
    );
    const [first, ...others] = cluster.servers;
    if (first === undefined) throw new Error("no node");
    const powerCut = options.powerCut ?? false;
    const logs = watchLogs(cluster.servers);
    const state: State = { cluster, random, rules, powerCut, logs, alarms: [], leader: first, term: 2 };
    const rule = formatRule(ruleOf(state, first.id));
    await cluster.lead(
      first.id,
      2,
      rule,
      others.map(({ id }) => id),
    );
    await createLoadTables(first);
    readers = startReaders(cluster.servers, known);
    for (let round = 1; round <= options.rounds && clean; round++) {
      const played = await playRound(state, known, options.rowsPerRound ?? 100);
      const problems = [
        ...(await verify(cluster, state.leader, known)),
        ...(await checkArchive(state.leader, archive)),
        ...state.alarms.splice(0),
        ...(await logs.check()),
      ];
      clean = problems.length === 0;
      rounds.push({ round, ...played, problems });
      options.onRound?.({ round, ...played, problems });
      await forgetOldRows(state.leader, known);
      await pruneArchive(archive);
    }
  } catch (error) {
    clean = false;
    throw error;
  } finally {
    await readers?.stop();
    if (clean || options.keep !== true) {
      await cluster.dispose();
      await rm(archives, { recursive: true, force: true });
    } else {
      console.error(`the servers' directories are left in ${cluster.dir} and ${archives}`);
      for (const server of cluster.servers) if (server.isRunning()) await server.kill9();
    }
  }
  return { rounds, known, directory: cluster.dir };
}
