// What a set of recruited nodes allows: revocation (no leader of an older term can complete anything more),
// candidacy (somebody among them can), discovery (the newest log), and the choice of the candidate.

import type { FenceReport, RulesetText } from "./node-types.ts";
import { canBlock, canFulfil, formatRule, type Rule, ruleNodes } from "./rule.ts";
import {
  allNodes,
  type CohortNode,
  countsUnder,
  distinctRulesets,
  eligibleLeaders,
  type Ruleset,
} from "./ruleset.ts";
import {
  assert,
  compareIds,
  comparePositions,
  formatPosition,
  type Lsn,
  type NodeId,
  type Position,
} from "./types.ts";

/** What a recruited node holds; it can't change under any older term, since the promise came first. */
export interface Report {
  readonly node: NodeId;
  readonly position: Position;
  readonly commitLsn: Lsn;
  /** Applied; null only on a node of a cluster that has no ruleset yet. */
  readonly ruleset: RecordedRuleset | null;
  /** Ruleset records in the log beyond what is applied, oldest first. */
  readonly tailRulesets: readonly RecordedRuleset[];
  /** False on an ex-leader that would have to restart before it could lead. Absent: true. */
  readonly inRecovery?: boolean;
  /** Which life of the node reports; a ruleset that names another one doesn't count it. */
  readonly incarnation?: string;
  /** For how much longer a leader may answer reads by what this node confirmed (leaseLeftMs). Absent: 0. */
  readonly leaseMs?: number;
  /** For how long its Postgres has been running; 0 while it isn't consistent. Absent: long. */
  readonly upMs?: number;
}

/** `recordedAt`: term and end of its record, as far as the node tells. */
export type RecordedRuleset = Ruleset & { readonly recordedAt?: Position };

export type Reports = ReadonlyMap<NodeId, Report>;

export interface CandidateWish {
  /** The operator's choice: this node or none. */
  readonly only?: NodeId;
  /** Tie-break: a node in this zone is preferred. */
  readonly zone?: string;
}

export type Shortage =
  | { readonly kind: "no_report" }
  | { readonly kind: "no_ruleset" }
  | {
      readonly kind: "revocation";
      readonly version: number;
      readonly leader: NodeId;
      readonly rule: Rule;
      readonly missing: readonly NodeId[];
    }
  | { readonly kind: "candidacy"; readonly candidates: readonly CandidateShortage[] };

export interface CandidateShortage {
  readonly node: NodeId;
  readonly version: number;
  readonly why: "not_recruited" | "replaced" | "not_eligible" | "too_few";
  readonly missing: readonly NodeId[];
}

export type Verdict =
  | {
      readonly ok: true;
      readonly rulesets: readonly Ruleset[];
      readonly newest: Report;
      readonly candidate: Report;
    }
  | {
      readonly ok: false;
      readonly rulesets: readonly Ruleset[];
      readonly newest: Report | null;
      readonly shortages: readonly Shortage[];
    };

/** Discovery: the highest position; ties by id, so that everybody names the same node. */
export function mostAdvanced(reports: Reports): Report | null {
  let best: Report | null = null;
  for (const report of reports.values()) {
    const order = best === null ? 1 : comparePositions(report.position, best.position);
    if (order > 0 || (order === 0 && best !== null && compareIds(report.node, best.node) < 0)) {
      best = report;
    }
  }
  return best;
}

/** What a node reported, as the coordinator judges it. `read` must not take a text that it can't read for none. */
export function reportFrom(
  node: NodeId,
  fence: FenceReport,
  read: (text: RulesetText) => RecordedRuleset,
): Report {
  const { position, commitLsn, ruleset, tailRulesets, inRecovery = true, leaseMs = 0 } = fence;
  const { incarnation, upMs } = fence;
  return {
    node,
    position,
    commitLsn,
    ruleset: ruleset === null ? null : read(ruleset),
    tailRulesets: tailRulesets.map(read),
    inRecovery,
    leaseMs,
    ...(incarnation === undefined ? {} : { incarnation }),
    ...(upMs === undefined ? {} : { upMs }),
  };
}

/** Every ruleset that a report names: the applied one and each in its tail, oldest first. */
export function rulesetsOf(report: Report): Ruleset[] {
  return distinctRulesets([...(report.ruleset === null ? [] : [report.ruleset]), ...report.tailRulesets]);
}

/**
 * The rulesets of the newest log that may still count, oldest first. Those before one that is known to be durable
 * don't: either some recruited node has applied that very record (same term, same LSN: the same record), or the log goes
 * on to another ruleset record. A leader writes one only when the one before is durable, and the first of its term only
 * when its term record is, and thus all before that. A commit LSN alone would be no proof: it may speak of another branch than the newest log among too few recruited nodes.
 */
export function countingRulesets(newest: Report, reports: Reports): Ruleset[] {
  const applied = new Set<string>();
  for (const { ruleset } of reports.values()) {
    if (ruleset?.recordedAt !== undefined) {
      applied.add(formatPosition(ruleset.recordedAt));
    }
  }
  let first = -1;
  for (const [index, { recordedAt }] of newest.tailRulesets.entries()) {
    const next = newest.tailRulesets[index + 1]?.recordedAt;
    if (recordedAt !== undefined && (applied.has(formatPosition(recordedAt)) || next !== undefined)) {
      first = index;
    }
  }
  return first < 0 ? rulesetsOf(newest) : distinctRulesets(newest.tailRulesets.slice(first));
}

export interface JudgeInput {
  readonly reports: Reports;
  /** A ruleset that this leader change is to bring in: checked like those found. */
  readonly newRuleset?: Ruleset | undefined;
  readonly wish?: CandidateWish | undefined;
}

/**
 * The validation of a leader change. When the candidate would have to fetch what only some of the recruited nodes hold,
 * a smaller set is looked for that is valid without them, as if they had not answered: what they hold beyond it was
 * never durable, and they may be out of the candidate's reach (a leader whose replication is cut off answers us, too).
 * Where there is none, the newest log comes before steadiness: the candidate rather waits for itself than for another.
 */
export function judge(input: JudgeInput): Verdict {
  const all = judgeSet(input);
  if (!all.ok || comparePositions(all.candidate.position, all.newest.position) === 0) {
    return all;
  }
  const reports = [...input.reports].sort(([, a], [, b]) => comparePositions(b.position, a.position));
  for (const [, { position: end }] of reports) {
    const some = new Map(reports.filter(([, { position }]) => comparePositions(position, end) <= 0));
    const verdict = judgeSet({ ...input, reports: some });
    if (verdict.ok && comparePositions(verdict.candidate.position, verdict.newest.position) === 0) {
      return verdict;
    }
  }
  return judgeSet(input, { steadyFirst: false });
}

/** Everything is checked against every ruleset that may count. */
function judgeSet({ reports, newRuleset, wish = {} }: JudgeInput, order: RankOrder = {}): Verdict {
  const newest = mostAdvanced(reports);
  if (newest === null) {
    return { ok: false, rulesets: [], newest, shortages: [{ kind: "no_report" }] };
  }
  const rulesets = distinctRulesets([
    ...countingRulesets(newest, reports),
    ...(newRuleset === undefined ? [] : [newRuleset]),
  ]);
  if (rulesets.length === 0) {
    return { ok: false, rulesets, newest, shortages: [{ kind: "no_ruleset" }] };
  }
  const shortages: Shortage[] = rulesets.flatMap((ruleset) =>
    revocationShortages(ruleset, countedUnder(ruleset, reports)),
  );
  const candidates = rankCandidates(rulesets, reports, wish, order);
  const candidate = candidates[0];
  if (candidate === undefined) {
    shortages.push({ kind: "candidacy", candidates: candidateShortages(rulesets, reports, wish) });
  }
  if (shortages.length > 0 || candidate === undefined) {
    return { ok: false, rulesets, newest, shortages };
  }
  return { ok: true, rulesets, newest, candidate };
}

/** The recruited nodes that count under the ruleset: not a node that has lost its disk since, or that replaces one. */
export function countedUnder(ruleset: Ruleset, reports: Reports): Set<NodeId> {
  const counted = new Set<NodeId>();
  for (const report of reports.values()) {
    if (countsUnder(ruleset, report.node, report.incarnation)) {
      counted.add(report.node);
    }
  }
  return counted;
}

/** Revoked: every eligible leader is recruited itself, or can't fulfil its rule without a recruited node. */
function revocationShortages(ruleset: Ruleset, recruited: ReadonlySet<NodeId>): Shortage[] {
  const shortages: Shortage[] = [];
  for (const leader of eligibleLeaders(ruleset)) {
    const rule = ruleset.leaders.get(leader);
    assert(rule !== undefined, "an eligible leader has a rule");
    if (!recruited.has(leader) && !canBlock(rule, recruited)) {
      const missing = [...new Set([leader, ...ruleNodes(rule)])].filter((id) => !recruited.has(id));
      shortages.push({ kind: "revocation", version: ruleset.version, leader, rule, missing });
    }
  }
  return shortages;
}

/** A candidate must be eligible under every ruleset that may count, and find its quorum among the recruited under each. */
function candidacyProblem(
  id: NodeId,
  rulesets: readonly Ruleset[],
  reports: Reports,
): CandidateShortage | null {
  // A node acknowledges as a member or not at all: whoever one of the rulesets doesn't count helps under none.
  const recruited = new Set(reports.keys());
  for (const ruleset of rulesets) {
    const counted = countedUnder(ruleset, reports);
    for (const each of recruited) {
      if (!counted.has(each)) {
        recruited.delete(each);
      }
    }
  }
  for (const ruleset of rulesets) {
    const rule = ruleset.leaders.get(id);
    if (rule === undefined) {
      return { node: id, version: ruleset.version, why: "not_eligible", missing: [] };
    }
    if (!recruited.has(id)) {
      const why = reports.has(id) ? "replaced" : "not_recruited";
      return { node: id, version: ruleset.version, why, missing: [id] };
    }
    if (!canFulfil(rule, recruited)) {
      const missing = ruleNodes(rule).filter((other) => !recruited.has(other));
      return { node: id, version: ruleset.version, why: "too_few", missing };
    }
  }
  return null;
}

function candidateShortages(
  rulesets: readonly Ruleset[],
  reports: Reports,
  wish: CandidateWish,
): CandidateShortage[] {
  const wanted = wish.only === undefined ? allNodes(rulesets) : [wish.only];
  return wanted
    .map((id) => candidacyProblem(id, rulesets, reports))
    .filter((problem) => problem !== null)
    .filter((problem) => wish.only !== undefined || problem.why !== "not_eligible");
}

/**
 * A Postgres that has just been started may not be consistent for a long time, has cold caches, and may fail again by what
 * it failed by before. Just: a moment ago, and much later than another one.
 */
const steadyMs = 10_000;

function steadyOnes(reports: Reports): ReadonlySet<Report> {
  const all = [...reports.values()];
  const longestMs = Math.max(...all.map(({ upMs = steadyMs }) => upMs));
  const enoughMs = Math.min(steadyMs, longestMs / 2);
  return new Set(all.filter(({ upMs = steadyMs }) => upMs >= enoughMs));
}

export interface RankOrder {
  /** Whether steadiness comes before the newest log. Absent: yes. */
  readonly steadyFirst?: boolean;
}

/** The valid candidates, best first: no restart needed, steady, newest log, the wished zone, priority, id. */
export function rankCandidates(
  rulesets: readonly Ruleset[],
  reports: Reports,
  wish: CandidateWish,
  { steadyFirst = true }: RankOrder = {},
): Report[] {
  const places = new Map<NodeId, CohortNode>();
  for (const ruleset of rulesets) {
    for (const member of ruleset.cohort) {
      places.set(member.id, member);
    }
  }
  const ready = (report: Report) => (report.inRecovery === false ? 0 : 1);
  const steadies = steadyOnes(reports);
  const steady = (report: Report) => (steadies.has(report) ? 1 : 0);
  const near = (report: Report) =>
    wish.zone !== undefined && places.get(report.node)?.zone === wish.zone ? 1 : 0;
  const priority = (report: Report) => places.get(report.node)?.priority ?? 0;
  return [...reports.values()]
    .filter((report) => wish.only === undefined || report.node === wish.only)
    .filter((report) => candidacyProblem(report.node, rulesets, reports) === null)
    .sort(
      (a, b) =>
        ready(b) - ready(a) ||
        (steadyFirst ? steady(b) - steady(a) : 0) ||
        comparePositions(b.position, a.position) ||
        steady(b) - steady(a) ||
        near(b) - near(a) ||
        priority(b) - priority(a) ||
        compareIds(a.node, b.node),
    );
}

/** Nodes named by any report's rulesets, that nobody has asked yet. */
export function furtherNodes(reports: Reports, asked: ReadonlySet<NodeId>): NodeId[] {
  const named = [...reports.values()].flatMap((report) => allNodes(rulesetsOf(report)));
  return [...new Set(named)].filter((id) => !asked.has(id)).sort(compareIds);
}

/** In words, exactly which nodes are missing for what. */
export function explainShortage(shortage: Shortage): string {
  switch (shortage.kind) {
    case "no_report":
      return "no node could be recruited";
    case "no_ruleset":
      return "the most advanced node knows no ruleset: the cluster was never bootstrapped";
    case "revocation": {
      const others = shortage.missing.filter((id) => id !== shortage.leader);
      const block =
        others.length === 0
          ? ""
          : `, or enough of ${others.join(", ")} to block ${formatRule(shortage.rule)}`;
      return `revocation: ${shortage.leader} could still lead under ruleset ${shortage.version}; missing ${shortage.leader} itself${block}`;
    }
    case "candidacy":
      if (shortage.candidates.length === 0) {
        return "candidacy: no node may lead under every ruleset that may count; make an intermediate ruleset";
      }
      return `candidacy: ${shortage.candidates.map(explainCandidate).join("; ")}`;
    default:
      return shortage satisfies never;
  }
}

function explainCandidate(shortage: CandidateShortage): string {
  switch (shortage.why) {
    case "not_recruited":
      return `${shortage.node} is not recruited`;
    case "replaced":
      return `${shortage.node} is another incarnation than ruleset ${shortage.version} counts: it lost its disk`;
    case "not_eligible":
      return `${shortage.node} may not lead under ruleset ${shortage.version}`;
    case "too_few":
      return `${shortage.node} lacks its quorum under ruleset ${shortage.version}, missing some of ${shortage.missing.join(", ")}`;
    default:
      return shortage.why satisfies never;
  }
}
