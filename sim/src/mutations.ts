// Seeded protocol bugs: each is a small edit of the real sources (the core, or the model of what Postgres must
// promise), applied while they are loaded. The simulator has to find every one of them; an edit whose text is no
// longer there, or is there twice, is an error of this list.

export interface Edit {
  /** Path from the root of the repository. */
  readonly file: string;
  readonly find: string;
  readonly put: string;
}

export interface Mutation {
  readonly name: string;
  readonly what: string;
  readonly edits: readonly Edit[];
  /** The first seed to try; 1 unless only a rare kind of world shows it. */
  readonly fromSeed?: number;
}

const recruitment = "consensus/src/recruitment.ts";
const coordinator = "consensus/src/coordinator.ts";
const node = "consensus/src/node.ts";
const types = "consensus/src/types.ts";
const detector = "consensus/src/detector.ts";
const rows = "consensus/src/failure-rows.ts";
const postgres = "sim/src/postgres.ts";
const postgresLog = "sim/src/postgres-log.ts";
const quorum = "sim/src/postgres-quorum.ts";
const machine = "sim/src/node-host.ts";
const processes = "sim/src/machine-processes.ts";
const orchestrator = "sim/src/orchestrator-host.ts";
const receiver = "sim/src/postgres-receiver.ts";
const reads = "sim/src/postgres-reads.ts";
const observation = "consensus/src/observation.ts";
const lease = "consensus/src/lease.ts";

function one(name: string, what: string, file: string, find: string, put: string): Mutation {
  return { name, what, edits: [{ file, find, put }] };
}

export const mutations: readonly Mutation[] = [
  // ---- the node
  one(
    "promise-not-persisted",
    "a promise is answered without being on disk",
    machine,
    "      this.promise = promise;\n      this.feed",
    "      this.feed",
  ),
  one(
    "report-before-promise",
    "a node reports before its promise is durable",
    node,
    "if (!samePromise(state.durable, promise)) {",
    "if (state.promise === null) {",
  ),
  one(
    "promise-lowered",
    "a node honours a term below the one it promised",
    node,
    "if (promise !== null && request.term < promise.term) {",
    "if (promise !== null && request.term < 0) {",
  ),
  one(
    "two-coordinators-one-term",
    "a node gives the same term to two coordinators",
    node,
    "if (sameTerm && promise.coordinator !== request.coordinator) {",
    "if (sameTerm && request.coordinator === undefined) {",
  ),
  one(
    "fence-forgotten-at-recruitment",
    "a recruited node goes on acknowledging to its old leader",
    postgres,
    'this.stopReceiver("superseded");\n    }\n    if (this.leading',
    "}\n    if (this.leading",
  ),
  // ---- the coordinator
  one(
    "revocation-not-checked",
    "older leaders are not revoked",
    recruitment,
    "if (!recruited.has(leader) && !canBlock(rule, recruited)) {",
    "if (!recruited.has(leader) && recruited.size === 0) {",
  ),
  one(
    "candidacy-not-checked",
    "the candidate's quorum need not be recruited",
    recruitment,
    "if (!canFulfil(rule, recruited)) {",
    "if (recruited.size === 0 && !canFulfil(rule, recruited)) {",
  ),
  one(
    "revocation-oldest-ruleset-only",
    "revocation against the applied ruleset only",
    recruitment,
    "rulesets.flatMap((ruleset) =>\n    revocationShortages(",
    "rulesets.slice(0, 1).flatMap((ruleset) =>\n    revocationShortages(",
  ),
  one(
    "revocation-newest-ruleset-only",
    "revocation against the newest ruleset only",
    recruitment,
    "rulesets.flatMap((ruleset) =>\n    revocationShortages(",
    "rulesets.slice(-1).flatMap((ruleset) =>\n    revocationShortages(",
  ),
  one(
    "tail-rulesets-ignored",
    "rulesets in the unapplied tail do not count",
    recruitment,
    "...report.tailRulesets]",
    "]",
  ),
  one(
    "tail-by-lsn",
    "the newest log is chosen by LSN alone",
    types,
    "if (a.term !== b.term) {\n    return a.term - b.term;",
    "if (a.term > 1e9) {\n    return a.term - b.term;",
  ),
  one(
    "tail-by-term",
    "the newest log is chosen by term alone",
    types,
    "return a.lsn < b.lsn ? -1 : a.lsn > b.lsn ? 1 : 0;",
    "return 0;",
  ),
  one(
    "no-propagation",
    "the candidate leads without fetching the newest log",
    coordinator,
    "needsFetch: comparePositions(candidate.position, newest.position) < 0,",
    "needsFetch: comparePositions(candidate.position, newest.position) > 1e12,",
  ),
  one(
    "no-joint-rules",
    "the establishment counts under one ruleset only",
    coordinator,
    "joint: [...joint],",
    "joint: [],",
  ),
  one(
    "own-term-reused",
    "a coordinator takes the highest term seen instead of one above",
    coordinator,
    "term(work.state.highestTerm + 1)",
    "term(Math.max(2, work.state.highestTerm))",
  ),
  {
    name: "coordinator-id-reused",
    what: "a coordinator takes its old name after a restart, and the highest term seen again (under a new name it is merely refused)",
    edits: [
      {
        file: orchestrator,
        // biome-ignore lint/suspicious/noTemplateCurlyInString: it is source text
        find: "coordinatorId(`${this.name}.${this.#run}`)",
        put: "coordinatorId(this.name)",
      },
      {
        file: orchestrator,
        find: "highestTerm: highestTerm(observation),",
        put: "highestTerm: noTerm,",
      },
    ],
  },
  // ---- what Postgres promises
  one(
    "commit-below-term-record",
    "D is published before the term record is durable (figure 8)",
    quorum,
    "if (durable < leading.begin.lsn || durable <= this.limitLsn) {",
    "if (durable <= this.limitLsn) {",
  ),
  one(
    "fenced-leader-commits",
    "a recruited leader goes on publishing commits",
    postgres,
    'this.stopLeading("superseded");\n    }\n    for',
    "}\n    for",
  ),
  one(
    "ack-of-old-log-counts",
    "a follower's position in its old log counts before it has followed",
    postgres,
    "flushed: 0,\n      beat: 0,",
    "flushed: hello.history.at(-1)?.endLsn ?? 0,\n      beat: 0,",
  ),
  {
    name: "sends-unflushed",
    what: "the leader sends, and calls committed, what is not on its own disk",
    edits: [
      {
        file: quorum,
        find: "const upTo = follower.member ? flushed",
        put: "const upTo = follower.member ? records.length",
      },
      {
        file: quorum,
        find: "return Math.min(durable, lastLsn(this.disk.records, this.disk.flushed));",
        put: "return Math.min(durable, lastLsn(this.disk.records));",
      },
    ],
  },
  one(
    "acks-unflushed",
    "a follower acknowledges what is not on its disk",
    receiver,
    "const flushed = lastLsn(this.disk.records, this.disk.flushed) + this.partOfNext();",
    "const flushed = lastLsn(this.disk.records);",
  ),
  {
    name: "reports-unflushed",
    what: "a recruited node reports a position that is not on its disk",
    edits: [
      {
        file: postgres,
        find: 'if (this.disk.flushed < this.disk.records.length || this.state === "starting") {',
        put: 'if (this.state === "starting") {',
      },
      {
        file: postgres,
        find: "const { records, flushed } = this.disk;\n      this.host.checker",
        put: "const { records } = this.disk;\n      const flushed = records.length;\n      this.host.checker",
      },
      {
        file: node,
        find: "|| state.recruitedTerm !== request.term) {",
        put: ") {",
      },
    ],
  },
  one(
    "replays-everything",
    "a follower replays what it received, committed or not",
    postgresLog,
    "const count = Math.min(countUpTo(records, this.limitLsn), flushed);",
    "const count = flushed;",
  ),
  one(
    "recovery-point-too-far",
    "the persisted replay limit runs ahead of the commit LSN",
    postgresLog,
    "this.disk.limit = this.applied;",
    "this.disk.limit = flushed;",
  ),
  one(
    "new-rules-at-once",
    "a new ruleset counts alone before it is durable",
    postgres,
    "leading.pending = { record, rule: rule.rule, requestId };",
    "leading.rule = rule.rule;\n    leading.pending = { record, rule: rule.rule, requestId };",
  ),
  one(
    "old-rules-until-durable",
    "a new ruleset's record needs the old rule only",
    quorum,
    "durable = Math.max(before, Math.min(durable, Number(commitLsn(pending.rule, flushed))));",
    "durable = Math.max(before, durable);",
  ),
  one(
    "joint-dropped-early",
    "the joint rules end with the term record instead of the ruleset record",
    quorum,
    "this.inRecovery = false;\n    const record",
    "this.inRecovery = false;\n    leading.joint = [];\n    const record",
  ),
  one(
    "tail-kept",
    "a follower keeps the tail that its leader's history contradicts",
    receiver,
    "this.truncate(message.fork);",
    "",
  ),
  one(
    "reads-unconfirmed",
    "a leader answers reads without asking its followers",
    quorum,
    "leading.reads.push({ beat: leading.beat + 1, answer });",
    "leading.reads.push({ beat: 0, answer });",
  ),
  one(
    "admits-before-establishment",
    "clients are admitted as soon as the term record is on the leader's own disk",
    postgres,
    'this.state = "elected";',
    'this.state = "elected";\n        leading.admits = true;\n        this.host.checker.admits(this.host.id, leading.term, leading.begin, [leading.rule]);',
  ),
  one(
    "partial-record-applied",
    "a record of which only a part is committed is applied",
    postgresLog,
    "Math.min(countUpTo(records, this.limitLsn), flushed)",
    "Math.min(countUpTo(records, this.limitLsn + 1), flushed)",
  ),
  // ---- reads, leases, clocks
  one(
    "lease-not-waited",
    "a coordinator that could not recruit the leader does not wait for its lease to end",
    coordinator,
    "if (waitMs > 0) {",
    "if (waitMs > 1e9) {",
  ),

  one(
    "lease-left-too-short",
    "a recruited node takes the time since its last heartbeat for longer than it was",
    lease,
    "heardAgeMs / (1 + leaseDriftMargin)",
    "(heardAgeMs + 100) / (1 + leaseDriftMargin)",
  ),
  one(
    "silent-postgres-has-ended",
    "an old leader of which its sidecar knows only that it is there is taken for one that holds no lease",
    observation,
    "(noPostgres.has(view.postgres) || notLeading.has(view.state))",
    '(noPostgres.has(view.postgres) || notLeading.has(view.state) || view.state === "")',
  ),
  one(
    "lease-from-last-sending",
    "a lease is counted from the last heartbeat sent instead of the last one confirmed",
    quorum,
    "leading.beats.get(this.confirmedBeat(leading));\n    return sent",
    "leading.beats.get(leading.beat);\n    return sent",
  ),
  {
    name: "lease-by-wall-clock",
    what: "a lease is counted on a clock that may be set back",
    edits: [
      { file: quorum, find: "{ sentMs: this.host.nowMs(),", put: "{ sentMs: this.host.wallMs()," },
      { file: quorum, find: "this.host.nowMs() < sent.sentMs", put: "this.host.wallMs() < sent.sentMs" },
    ],
  },
  one(
    "asked-read-unconfirmed",
    "a leader tells a follower's reader its commit LSN without asking its quorum",
    reads,
    "this.readLeader((commit) => {",
    "((answer: (commit: number | null) => void) => answer(this.appliedLsn))((commit) => {",
  ),
  one(
    "session-not-awaited",
    "a follower answers a session that knows more than the follower has applied",
    reads,
    "this.#waiting.push({ read, lsn: least });",
    "this.#waiting.push({ read, lsn: 0 });",
  ),
  one(
    "fresh-by-any-round",
    "a follower takes a heartbeat for fresh that no quorum has confirmed",
    quorum,
    "const beat = this.confirmedBeat(leading);",
    "const { beat } = leading;",
  ),
  one(
    "fresh-before-term-record",
    "a follower is called fresh by a leader whose term record is not durable",
    quorum,
    "const knows = this.limitLsn >= leading.begin.lsn;",
    "const knows = this.limitLsn >= 0;",
  ),
  // ---- lost disks, changes of the cohort

  one(
    "old-life-counts",
    "what the earlier life of a replaced node reported still counts",
    recruitment,
    "if (countsUnder(ruleset, report.node, report.incarnation)) {",
    "if (report.node !== undefined) {",
  ),
  {
    name: "replacement-acknowledges",
    what: "a node that lost its disk acknowledges as the one that it was",
    fromSeed: 1_000_000_000,
    edits: [
      {
        file: node,
        find: "member: request.member && state.admitted,",
        put: "member: request.member,",
      },
    ],
  },

  one(
    "lost-node-not-noticed",
    "a cohort node whose disk is gone is copied like a new one",
    observation,
    "if (counting.length === 0) {",
    "if (counting.length >= 0) {",
  ),

  one(
    "unfinished-cohort-ignored",
    "nobody goes on with a change of the cohort whose coordinator is gone",
    detector,
    "if (ruleset.intent === undefined || observation",
    "if (ruleset.intent !== null || observation",
  ),
  // ---- liveness
  one(
    "dead-promise-ignored",
    "a node stuck with a promise to a dead term is left alone",
    rows,
    "if (stuck.length === 0) {",
    "if (stuck.length >= 0) {",
  ),
  one(
    "fenced-node-ignored",
    "a fenced node is not pointed at the leader",
    detector,
    'return repair("node_fenced", "follow",',
    'return nothing("node_fenced", id) ?? repair("node_fenced", "follow",',
  ),
  one(
    "quiesced-for-ever",
    "a leader that was quiesced waits for a coordinator that is gone",
    postgres,
    "if (this.leading === leading && leading.quiesceRound === round) {",
    "if (this.leading === leading && leading.quiesceRound < round) {",
  ),
  {
    name: "ex-leader-chosen-again",
    what: "a fenced ex-leader is told to lead, and refuses because it would have to restart",
    edits: [
      {
        file: recruitment,
        find: "(report.inRecovery === false ? 0 : 1)",
        put: "(report.inRecovery === null ? 0 : 1)",
      },
      {
        file: node,
        find: 'request.kind === "follow" || request.kind === "elect" || request.kind === "fetch";',
        put: 'request.kind === "follow";',
      },
    ],
  },
  one(
    "restart-into-silence",
    "the sidecar does not start a Postgres that has died",
    processes,
    "if (this.core !== null) {\n      this.startPostgresSoon();",
    "if (this.core === undefined) {\n      this.startPostgresSoon();",
  ),
];

export function applyEdits(mutation: Mutation, path: string, source: string): string {
  let text = source;
  for (const edit of mutation.edits) {
    if (!path.endsWith(`/${edit.file}`)) {
      continue;
    }
    const at = text.indexOf(edit.find);
    if (at < 0 || text.indexOf(edit.find, at + 1) >= 0) {
      throw new Error(`mutation ${mutation.name}: "${edit.find}" is not exactly once in ${edit.file}`);
    }
    text = text.slice(0, at) + edit.put + text.slice(at + edit.find.length);
  }
  return text;
}
