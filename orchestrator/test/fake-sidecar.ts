// A cluster in memory that speaks the real gRPC contract: sidecars with a promise, a log of entries, a grant to follow,
// and "replication" that happens at once. No Postgres, no files, no waiting.
import {
  commitLsn,
  lsn,
  nodeId,
  noTerm,
  parseRule,
  parseRuleset,
  type Ruleset,
  term,
} from "@quorate/consensus";
import {
  type CoordinatorId,
  type ExtensionState,
  type Lsn,
  type NodeId,
  type NodeStatus,
  type Position,
  type PostgresState,
  type Refused,
  type RulesetText,
  type SidecarHandlers,
  type SidecarServer,
  type Subscription,
  startSidecarServer,
  type Term,
} from "@quorate/proto";

interface Entry {
  readonly term: Term;
  readonly what: "data" | "term" | "ruleset";
  readonly ruleset?: RulesetText;
}

const firstLsn = 0x1000;
const entryBytes = 16;

function refused(node: FakeNode, code: string, message: string): Refused {
  const { promise } = node;
  return {
    ok: false,
    refusal: {
      code,
      message,
      promisedTerm: promise?.term ?? noTerm,
      promisedTo: promise?.coordinator ?? null,
    },
  };
}

export class FakeNode {
  readonly id: NodeId;
  readonly zone: string;
  readonly calls: string[] = [];
  readonly events: string[] = [];
  promise: { term: Term; coordinator: CoordinatorId } | undefined;
  postgres: PostgresState = "absent";
  state: ExtensionState = "fenced";
  log: Entry[] = [];
  committed = 0;
  following: NodeId | undefined;
  grantTerm: Term = noTerm;
  rule: string | null = null;
  pendingRuleset: RulesetText | undefined;
  joint: readonly string[] = [];
  quiesced = false;
  wasLeader = false;
  operatorStopped = false;
  clones = 0;
  streaming = true;
  server: SidecarServer | undefined;
  readonly watchers = new Set<Subscription>();
  grpcPort = 0;
  seq = 0;
  pid = 1000;

  constructor(id: string, zone: string) {
    this.id = nodeId(id);
    this.zone = zone;
  }

  get running(): boolean {
    return this.postgres === "running";
  }

  get endLsn(): Lsn {
    return lsn(firstLsn + this.log.length * entryBytes);
  }

  get position(): Position {
    return { term: this.log.at(-1)?.term ?? noTerm, lsn: this.endLsn };
  }

  rulesets(from: number, to: number): RulesetText[] {
    return this.log.slice(from, to).flatMap(({ ruleset }) => (ruleset === undefined ? [] : [ruleset]));
  }

  status(): NodeStatus {
    const { running } = this;
    const leading = running && (this.state === "leader" || this.state === "elected");
    return {
      node: this.id,
      zone: this.zone,
      region: "local",
      cluster: "main",
      host: "127.0.0.1",
      pgPort: 10_000 + this.grpcPort,
      grpcPort: this.grpcPort,
      httpPort: 0,
      postgres: this.postgres,
      state: running ? this.state : null,
      term: leading || this.state === "follower" ? this.grantTerm : this.position.term,
      promisedTerm: this.promise?.term ?? noTerm,
      promisedTo: this.promise?.coordinator ?? null,
      fenceTerm: this.grantTerm,
      pid: running ? this.pid : null,
      inRecovery: this.state !== "leader",
      consistent: running,
      position: this.postgres === "absent" ? null : this.position,
      termStartLsn: null,
      oldestLsn: null,
      commitLsn: lsn(firstLsn + this.committed * entryBytes),
      receivedLsn: this.endLsn,
      flushedLsn: this.endLsn,
      appliedLsn: lsn(firstLsn + this.committed * entryBytes),
      rule: leading ? this.rule : null,
      joint: leading ? this.joint : [],
      ruleset: this.rulesets(0, this.committed).at(-1) ?? null,
      leader: leading ? this.id : (this.following ?? null),
      receiver:
        this.following === undefined || !running
          ? null
          : {
              state: this.streaming ? "streaming" : "connecting",
              timeline: this.grantTerm,
              lastMessageAgeMs: 1,
            },
      followers: [],
      quiesced: this.quiesced,
      waiting: 0,
      systemIdentifier: "7000",
      seq: ++this.seq,
      lastExit: this.postgres === "crashed" ? "killed by SIGKILL" : null,
      operatorStopped: this.operatorStopped,
      sidecarVersion: "fake",
      wasLeader: this.wasLeader,
      clone: null,
      controlAgeMs: 0,
      diskStuckMs: 0,
      incarnation: null,
      pending: null,
    };
  }

  push(): void {
    for (const watcher of this.watchers) watcher.send(this.status());
  }
}

export class FakeCluster {
  readonly nodes = new Map<string, FakeNode>();

  static async start(zones: Readonly<Record<string, string>>): Promise<FakeCluster> {
    const cluster = new FakeCluster();
    for (const [id, zone] of Object.entries(zones)) cluster.nodes.set(id, new FakeNode(id, zone));
    await Promise.all([...cluster.nodes.values()].map((node) => cluster.serve(node)));
    return cluster;
  }

  get addresses(): string[] {
    return [...this.nodes.values()].map((node) => `127.0.0.1:${node.grpcPort}`);
  }

  node(id: string): FakeNode {
    const node = this.nodes.get(id);
    if (node === undefined) throw new Error(`no fake node ${id}`);
    return node;
  }

  leader(): FakeNode | undefined {
    return [...this.nodes.values()].find((node) => node.running && node.state === "leader");
  }

  async serve(node: FakeNode): Promise<void> {
    const onError = (method: string, error: unknown): void => {
      throw new Error(`fake ${node.id} ${method}: ${String(error)}`);
    };
    node.server = await startSidecarServer(
      { host: "127.0.0.1", port: node.grpcPort, onError },
      this.#handlers(node),
    );
    node.grpcPort = node.server.port;
  }

  async stopSidecar(id: string): Promise<void> {
    const node = this.node(id);
    for (const watcher of node.watchers) watcher.end();
    await node.server?.stop();
    node.server = undefined;
  }

  async stop(): Promise<void> {
    await Promise.all([...this.nodes.keys()].map((id) => this.stopSidecar(id)));
  }

  /** kill -9 of Postgres. */
  crash(id: string): void {
    const node = this.node(id);
    node.wasLeader = node.state === "leader";
    node.postgres = "crashed";
    this.#ungrant(node);
    node.push();
  }

  /** The sidecar starts it again: a fenced follower. */
  restart(id: string): void {
    const node = this.node(id);
    node.postgres = "running";
    node.pid += 1;
    this.#ungrant(node);
    node.push();
  }

  /** The leader's end of the replication connection is gone; the follower tries to connect again. */
  breakStream(id: string): void {
    const node = this.node(id);
    node.streaming = false;
    node.push();
  }

  #ungrant(node: FakeNode): void {
    node.streaming = true;
    node.state = "fenced";
    node.following = undefined;
    node.rule = null;
    node.joint = [];
    node.pendingRuleset = undefined;
    node.quiesced = false;
  }

  /** A client writes: true if it was acknowledged. */
  write(count = 1): boolean {
    const leader = this.leader();
    if (leader === undefined || leader.quiesced) return false;
    for (let i = 0; i < count; i++) leader.log.push({ term: leader.grantTerm, what: "data" });
    this.replicate();
    return leader.committed === leader.log.length;
  }

  /** Everybody who may follow gets the leader's log; the leader evaluates its rule; followers learn the commit LSN. */
  replicate(): void {
    for (const leader of this.nodes.values()) {
      if (leader.running && (leader.state === "elected" || leader.state === "leader"))
        this.#replicateFrom(leader);
    }
  }

  #followersOf(leader: FakeNode): FakeNode[] {
    return [...this.nodes.values()].filter(
      (node) =>
        node.running &&
        node.state === "follower" &&
        node.following === leader.id &&
        node.grantTerm === leader.grantTerm,
    );
  }

  #replicateFrom(leader: FakeNode): void {
    const followers = this.#followersOf(leader);
    for (const follower of followers) {
      // The common prefix stays, a tail that the leader doesn't have is dropped.
      follower.log = [...leader.log];
    }
    const flushed = new Map<NodeId, Lsn>([leader, ...followers].map((node) => [node.id, node.endLsn]));
    const committed = this.#durable(leader, flushed);
    const termStart = leader.log.findIndex((entry) => entry.term === leader.grantTerm);
    if (committed <= termStart) return; // figure 8: nothing of an older term counts by itself
    leader.committed = Math.max(leader.committed, committed);
    if (leader.state === "elected" && leader.committed === leader.log.length) {
      leader.state = "leader";
      leader.wasLeader = true;
      leader.joint = [];
    }
    for (const follower of followers) follower.committed = Math.max(follower.committed, leader.committed);
    for (const node of [leader, ...followers]) node.push();
  }

  /** How many entries of the leader's log meet all the rules in force. */
  #durable(leader: FakeNode, flushed: ReadonlyMap<NodeId, Lsn>): number {
    const ends = [leader.rule, ...leader.joint].map((text) => {
      const parsed = parseRule(text ?? "");
      if (!parsed.ok) throw new Error(`bad rule ${text}`);
      return Number(commitLsn(parsed.rule, flushed));
    });
    return Math.min(leader.log.length, (Math.min(...ends) - firstLsn) / entryBytes);
  }

  #handlers(node: FakeNode): SidecarHandlers {
    const stale = (asked: Term): Refused | undefined =>
      node.promise !== undefined && asked < node.promise.term
        ? refused(node, "stale_term", `term ${asked} is below term ${node.promise.term}`)
        : undefined;
    return {
      recruit: async ({ term: asked, coordinator }) => {
        node.calls.push(`recruit ${asked}`);
        const problem = stale(asked);
        if (problem !== undefined) return problem;
        if (node.promise?.term === asked && node.promise.coordinator !== coordinator) {
          return refused(node, "promised_to_another", `term ${asked} went to ${node.promise.coordinator}`);
        }
        if (node.postgres === "absent") return refused(node, "no_data", "no data");
        node.promise = { term: asked, coordinator };
        if (!node.running) return refused(node, "postgres_down", `Postgres is ${node.postgres}`);
        if (node.grantTerm < asked) this.#ungrant(node);
        node.push();
        return {
          ok: true,
          position: node.position,
          commitLsn: lsn(firstLsn + node.committed * entryBytes),
          ruleset: node.rulesets(0, node.committed).at(-1) ?? null,
          tailRulesets: node.rulesets(node.committed, node.log.length),
          systemIdentifier: "7000",
          inRecovery: true,
          leaseMs: 0,
          upMs: 60_000,
          incarnation: null,
          status: node.status(),
        };
      },
      fetch: async ({ term: asked, from }) => {
        node.calls.push(`fetch ${asked} ${from}`);
        const problem = stale(asked);
        if (problem !== undefined) return problem;
        node.log = [...this.node(from).log];
        return { ok: true, position: node.position };
      },
      elect: async ({ term: asked, coordinator, rule, joint, ruleset }) => {
        node.calls.push(`elect ${asked} ${rule}`);
        const problem = stale(asked);
        if (problem !== undefined) return problem;
        if (node.promise?.term !== asked || node.promise.coordinator !== coordinator) {
          return refused(node, "not_recruited", `not recruited for term ${asked}`);
        }
        node.grantTerm = asked;
        node.state = "elected";
        node.following = undefined;
        node.rule = rule;
        node.joint = joint;
        node.log.push({ term: asked, what: "term" }, { term: asked, what: "ruleset", ruleset });
        const { position } = node;
        setImmediate(() => this.replicate());
        return { ok: true, position };
      },
      follow: async ({ term: asked, leader, coordinator }) => {
        node.calls.push(`follow ${asked} ${leader}`);
        const problem = stale(asked);
        if (problem !== undefined) return problem;
        const cloning = node.postgres === "absent";
        if (cloning) {
          node.clones += 1;
          node.postgres = "running";
        }
        if (!node.running) return refused(node, "postgres_down", `Postgres is ${node.postgres}`);
        node.promise = { term: term(Math.max(asked, node.promise?.term ?? 0)), coordinator };
        this.#ungrant(node);
        node.state = "follower";
        node.following = leader;
        node.grantTerm = asked;
        node.push();
        setImmediate(() => this.replicate());
        return { ok: true, done: cloning ? "cloning" : "following" };
      },
      changeRuleset: async ({ term: asked, rule, ruleset }) => {
        node.calls.push(`changeRuleset ${ruleset.version}`);
        if (node.state !== "leader" || node.grantTerm !== asked)
          return refused(node, "wrong_state", "not the leader");
        const old = node.rule;
        node.joint = old === null ? [] : [old];
        node.rule = rule;
        node.log.push({ term: asked, what: "ruleset", ruleset });
        this.replicate();
        if (node.committed < node.log.length) return refused(node, "timeout", "no quorum for the new rules");
        node.joint = [];
        node.push();
        return { ok: true, lsn: node.endLsn };
      },
      quiesce: async ({ term: asked, on }) => {
        node.calls.push(`quiesce ${on}`);
        if (node.state !== "leader" || node.grantTerm !== asked)
          return refused(node, "wrong_state", "not the leader");
        node.quiesced = on;
        node.push();
        return { ok: true, lsn: node.endLsn };
      },
      bootstrap: async () => {
        node.calls.push("bootstrap");
        if (node.postgres !== "absent") return refused(node, "wrong_state", "has data already");
        node.log = [{ term: term(1), what: "data" }];
        node.committed = 1;
        node.postgres = "running";
        node.push();
        return { ok: true, systemIdentifier: "7000" };
      },
      control: async ({ action }) => {
        node.calls.push(`control ${action}`);
        node.operatorStopped = action === "stop";
        if (action === "stop" || action === "kill") {
          this.#ungrant(node);
          node.postgres = action === "stop" ? "stopped" : "crashed";
        } else this.restart(node.id);
        node.push();
        return { ok: true, status: node.status() };
      },
      record: async ({ event }) => {
        node.events.push(event);
        return { ok: true, kept: true };
      },
      events: async ({ limit }) => ({ ok: true, events: node.events.slice(-limit) }),
      leaseConnections: async ({ wants }) => ({ ok: true, share: wants, expiresMs: 10_000, budget: 80 }),
      getStatus: async () => node.status(),
      watch: ({ intervalMs }, subscription) => {
        node.watchers.add(subscription);
        const heartbeat = setInterval(() => subscription.send(node.status()), intervalMs);
        subscription.signal.addEventListener("abort", () => {
          clearInterval(heartbeat);
          node.watchers.delete(subscription);
        });
        subscription.send(node.status());
      },
    };
  }
}

export function rulesetOf(text: RulesetText | null): Ruleset | undefined {
  const parsed = text === null ? undefined : parseRuleset(text.text);
  return parsed?.ok ? parsed.ruleset : undefined;
}
