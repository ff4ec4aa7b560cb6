// Pure: what the watcher hears becomes the observation that the failure table looks at.
import {
  type Link,
  type NodeId,
  type NodeSet,
  type NodeView,
  type Observation,
  type Observed,
  parseRuleset,
  type Ruleset,
  rankOf,
  rulesetsInForce,
  type Term,
} from "@quorate/consensus";
import type { NodeStatus, WatchEnd } from "@quorate/proto";

/** One address as the watcher sees it (shell/cohort-watcher.ts). */
export interface WatchedFacts {
  readonly reachable: boolean;
  readonly sinceMs: number;
  readonly heardAtMs: number | undefined;
  readonly status: NodeStatus | undefined;
  readonly lastEnd: WatchEnd | undefined;
}

/** Carried from one look to the next. */
export interface Memory {
  readonly promises: ReadonlyMap<NodeId, { readonly term: number; readonly roseAtMs: number }>;
  /** Texts that were read before: a ruleset rarely changes and is looked at often. */
  readonly rulesets: ReadonlyMap<string, Ruleset | null>;
}

export const noMemory: Memory = { promises: new Map(), rulesets: new Map() };

export function linkOf({ reachable, lastEnd }: WatchedFacts): Link {
  if (reachable) return "connected";
  switch (lastEnd?.reason) {
    case undefined:
      return "unknown";
    case "refused":
    case "reset":
    case "closed":
      return "reset";
    case "timeout":
    case "cancelled":
    case "protocol":
      return "silent";
  }
}

/** Words of a Postgres that can't start from what is on its disk; a wrong setting or a taken port is none of these. */
const damageWords =
  /could not (open|read|stat|locate)[^"]*(file|directory|block|checkpoint record)|could not access status of transaction|could not find the database system|invalid (page|magic number|checkpoint|primary checkpoint)|incorrect (checksum|resource manager)|is not a valid data directory|required WAL directory|unexpected pageaddr|could not find redo location|has the wrong size|appears to be corrupt|calculated CRC/i;
/** These are about files that aren't in the data directory, or can't be written for other reasons. */
const otherWords =
  /permission denied|no space left|read-only file system|too many open files|configuration file|library|certificate|private key|lock file|socket|shared memory/i;

export function saysDamaged(lastExit: string | null): boolean {
  return lastExit !== null && damageWords.test(lastExit) && !otherWords.test(lastExit);
}

export function viewOf(status: NodeStatus, ruleset: Ruleset | null, pending: Ruleset | null): NodeView {
  const { receiver } = status;
  return {
    postgres: status.postgres,
    state: status.state ?? "",
    term: status.term,
    promisedTerm: status.promisedTerm,
    inRecovery: status.inRecovery,
    leader: status.leader,
    receiver: receiver === null ? null : { ...receiver },
    followers: status.followers,
    ruleset,
    pending,
    wasLeader: status.wasLeader,
    operatorStopped: status.operatorStopped,
    flushedLsn: status.flushedLsn,
    oldestLsn: status.oldestLsn,
    diskStuckMs: status.diskStuckMs,
    controlAgeMs: status.controlAgeMs,
    damaged: status.postgres === "failed" && saysDamaged(status.lastExit),
    incarnation: status.incarnation,
  };
}

export interface Look {
  readonly nowMs: number;
  readonly watched: readonly WatchedFacts[];
  readonly zone: string;
  readonly busy: NodeSet;
  readonly endedTerm?: Term | undefined;
}

export interface LookResult {
  readonly memory: Memory;
  readonly observation: Observation;
  /** Rulesets that came as a text that can't be read. */
  readonly unreadable: readonly string[];
}

export function look(memory: Memory, { nowMs, watched, zone, busy, endedTerm }: Look): LookResult {
  const promises = new Map(memory.promises);
  const texts = new Map<string, Ruleset | null>();
  const nodes = new Map<NodeId, Observed>();
  for (const facts of watched) {
    const { status } = facts;
    if (status === undefined) continue;
    const known = nodes.get(status.node);
    if (known !== undefined && known.viewAtMs >= (facts.heardAtMs ?? 0)) continue;
    const text = status.ruleset?.text;
    const ruleset = text === undefined ? null : (texts.get(text) ?? readText(memory, text));
    if (text !== undefined) texts.set(text, ruleset);
    const before = promises.get(status.node);
    if (before === undefined || status.promisedTerm > before.term) {
      // Seen for the first time, on a node that takes part in that very term: whoever asked for it has long succeeded.
      const old = before === undefined && status.term >= status.promisedTerm;
      const roseAtMs = old ? Number.NEGATIVE_INFINITY : nowMs;
      promises.set(status.node, { term: status.promisedTerm, roseAtMs });
    }
    nodes.set(status.node, {
      id: status.node,
      link: linkOf(facts),
      linkSinceMs: facts.sinceMs,
      // Not in force: it must not get among those that are.
      view: viewOf(status, ruleset, status.pending === null ? null : readText(memory, status.pending.text)),
      viewAtMs: facts.heardAtMs ?? facts.sinceMs,
      promiseRoseAtMs: promises.get(status.node)?.roseAtMs ?? nowMs,
    });
  }
  const rulesets = rulesetsInForce([...texts.values()].filter((ruleset) => ruleset !== null));
  const rank = rankOf(zone, rulesets, [...nodes.values()]);
  const unreadable = [...texts].filter(([, ruleset]) => ruleset === null).map(([text]) => text);
  return {
    memory: { promises, rulesets: texts },
    observation: { nowMs, nodes, rulesets, rank, busy, ...(endedTerm === undefined ? {} : { endedTerm }) },
    unreadable,
  };
}

function readText(memory: Memory, text: string): Ruleset | null {
  const known = memory.rulesets.get(text);
  if (known !== undefined) return known;
  const parsed = parseRuleset(text);
  return parsed.ok ? parsed.ruleset : null;
}
