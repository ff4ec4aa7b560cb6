/**
 * The shell around the node core (consensus/src/node.ts): performs its effects, feeds their results back.
 * What is honoured, in which order, and what is durable before what is answered is decided there.
 */
import { assert, assertNever, keepLogsBounded, type Logger, messageOf } from "@quorate/common";
import {
  attachRequestId,
  type ControlCommand as CoreCommand,
  type ControlResult as CoreResult,
  coordinatorId,
  initialNode,
  isOwnRequest,
  type NodeAnswer,
  type NodeEffect,
  type NodeEvent,
  type NodeRequest,
  type NodeState,
  nodeId,
  noTerm,
  type Promised,
  parseRuleset,
  type Stored,
  stepNode,
} from "@quorate/consensus";
import type { NodeStatus } from "@quorate/proto";
import { CommandSender } from "./command-sender.ts";
import type { SidecarConfig } from "./config.ts";
import type { Peer } from "./conninfo.ts";
import type { ControlConnection } from "./control-client.ts";
import type { ControlStatus } from "./control-protocol.ts";
import { DataCopy } from "./data-copy.ts";
import { DataDirectory } from "./data-directory.ts";
import { DiskCheck } from "./disk-check.ts";
import { EventLog } from "./event-log.ts";
import { LifeStore } from "./life-store.ts";
import { MemoryStore } from "./node-memory.ts";
import { keepTlsFresh } from "./postgres-tls.ts";
import { PromiseStore } from "./promise-store.ts";
import { postgresArguments } from "./settings.ts";
import {
  freshConfig,
  type Pending,
  type SidecarNodeOptions,
  type SubmitOptions,
} from "./sidecar-node-types.ts";
import { nodeStatus } from "./status-view.ts";
import { Supervisor } from "./supervisor.ts";
import { Watchers } from "./watchers.ts";

const watchIntervalMs = 250;
const diskCheckIntervalMs = 500;
const followTimeoutMs = 20_000;
/** A running Postgres that doesn't answer for so long isn't well: say so. */
const adoptTimeoutMs = 2_000;

export class SidecarNode {
  readonly #options: SidecarNodeOptions;
  readonly #promises: PromiseStore;
  readonly #lives: LifeStore;
  readonly memory: MemoryStore;
  readonly #disk: DiskCheck;
  /** The audit trail, as coordinators told it. */
  readonly events: EventLog;
  readonly #pending = new Map<string, Pending>();
  readonly #shutdown = new AbortController();
  readonly #begun: Promise<void>;
  #markBegun: () => void = () => {};
  readonly data: DataDirectory;
  readonly #copy: DataCopy;
  readonly #commands: CommandSender;
  readonly supervisor: Supervisor;
  readonly watchers: Watchers;
  #state: NodeState;
  #control: ControlStatus | null = null;
  #controlAtMs = 0;
  /** The run of Postgres that has applied all that was committed at some time since it started. */
  #freshRun = 0;
  /** What the core was told last of the applied rules. */
  #toldApplied = "";
  #attaching: ControlConnection | null = null;
  #systemIdentifier: string | null = null;
  readonly #ends: (() => void)[] = [];
  #seq = 0;
  #nextRequest = 1;

  private constructor(
    options: SidecarNodeOptions,
    stores: { readonly promises: PromiseStore; readonly lives: LifeStore; readonly memory: MemoryStore },
    stored: Stored,
  ) {
    const { config, paths, owner, logger } = options;
    this.#options = options;
    this.#begun = new Promise((resolve) => {
      this.#markBegun = resolve;
    });
    this.#promises = stores.promises;
    this.#lives = stores.lives;
    this.memory = stores.memory;
    this.events = new EventLog(paths.events);
    this.#disk = new DiskCheck({
      file: paths.diskCheck,
      intervalMs: diskCheckIntervalMs,
      onError: (message) => logger.warn(`the node's disk can't be written: ${message}`),
    });
    const fresh = (): SidecarConfig => freshConfig(options);
    this.data = new DataDirectory(config, paths, owner, fresh);
    const hasData = (): boolean => this.data.exists();
    this.#state = initialNode(nodeId(config.node.id), stored, hasData() ? "stopped" : "absent");
    this.watchers = new Watchers(() => this.status());
    this.supervisor = new Supervisor({
      startOptions: {
        get binDir() {
          return fresh().postgres.binDir;
        },
        get arguments() {
          return postgresArguments(fresh(), paths);
        },
        paths,
        owner,
      },
      configure: () => this.data.configure(),
      hasData,
      stopTimeoutMs: config.stopTimeoutMs,
      watchIntervalMs,
      logger,
      handlers: {
        changed: () => this.#onPhase(),
        attached: (connection, status) => this.#onAttached(connection, status),
        status: (status) => this.#onStatus(status),
        crashed: (reason) => this.#onCrash(reason),
      },
    });
    const { supervisor, data } = this;
    const shutdown = this.#shutdown.signal;
    const onStatus = (status: ControlStatus): void => this.#onStatus(status);
    this.#commands = new CommandSender({ config, paths, supervisor, shutdown, onStatus, logger });
    this.#copy = new DataCopy({
      data,
      supervisor,
      backup: options.backup,
      shutdown,
      beginLife: () => this.beginLife(true),
      changed: () => this.watchers.publish(),
      logger,
    });
  }

  /** Throws ConfigError when what the node must remember is damaged. */
  static async load(options: SidecarNodeOptions): Promise<SidecarNode> {
    const { config, paths, owner, logger } = options;
    const promises = new PromiseStore(paths.promise);
    const hasData = new DataDirectory(config, paths, owner).exists();
    const promise = await promises.load(hasData);
    const warn = (message: string): void => logger.warn(message);
    const lives = new LifeStore(paths.incarnation, warn);
    const life = await lives.load(hasData);
    const memory = new MemoryStore(paths.memory, warn);
    await memory.load();
    const following = memory.current.follow;
    return new SidecarNode(options, { promises, lives, memory }, { promise, following, ...life });
  }

  /**
   * Adopts a running Postgres or starts it, unless there is no data or an operator stopped it. Nobody gets an answer
   * before: a leader that goes on must not look like one that is down.
   */
  async begin(): Promise<void> {
    this.#disk.start();
    this.#keepFiles();
    try {
      await this.#adoptOrStart();
    } finally {
      this.#markBegun();
    }
  }

  /** Certificates that are renewed, a log that grows. */
  #keepFiles(): void {
    const { config, paths, owner, logger } = this.#options;
    const { tls } = config;
    const reload = (): void => this.supervisor.reload();
    if (tls !== undefined) this.#ends.push(keepTlsFresh({ files: tls, paths, owner, logger, reload }));
    const failed = (error: unknown): void => logger.warn({ err: error }, "postgres.log can't be rotated");
    this.#ends.push(keepLogsBounded(() => [paths.postgresLog], failed));
  }

  /** Fulfilled when this node knows how its Postgres is. */
  get begun(): Promise<void> {
    return this.#begun;
  }

  async #adoptOrStart(): Promise<void> {
    const { logger } = this;
    if (this.data.exists() && this.supervisor.adopt()) {
      await this.supervisor.whenAttached(AbortSignal.timeout(adoptTimeoutMs));
      return;
    }
    if (!this.data.exists()) {
      logger.info("no data directory: waiting for Bootstrap or Follow");
      return;
    }
    await this.readSystemIdentifier();
    if (this.memory.current.operatorStopped) {
      logger.info("an operator stopped this Postgres: it stays down until he starts it");
      return;
    }
    await this.supervisor
      .start()
      .catch((error: unknown) => logger.error({ err: error }, "could not start Postgres"));
  }

  status(): NodeStatus {
    const { current } = this.memory;
    return nodeStatus({
      config: this.#options.config,
      sidecarVersion: this.#options.sidecarVersion,
      seq: ++this.#seq,
      phase: this.supervisor.phase,
      pid: this.supervisor.pid,
      lastExit: this.supervisor.lastExit,
      promise: this.#state.durable,
      incarnation: this.#state.incarnation,
      operatorStopped: current.operatorStopped,
      ledTerm: current.ledTerm,
      control: this.#control,
      controlAgeMs: Math.round(performance.now() - this.#controlAtMs),
      diskStuckMs: Math.max(this.#disk.stuckMs, this.#walWriteMs()),
      systemIdentifier: this.#systemIdentifier,
      clone: this.#copy.progress,
      backup: this.#options.backup?.report(),
    });
  }

  get promise(): Promised | null {
    return this.#state.durable;
  }

  /** Runs a request through the core. Never rejects for what Postgres or a coordinator does. */
  async submit(request: NodeRequest, options: SubmitOptions): Promise<NodeAnswer> {
    const startedAtMs = performance.now();
    await this.#settle(options.signal);
    const requestId = `r${this.#nextRequest++}`;
    const answer = await new Promise<NodeAnswer>((resolve) => {
      this.#pending.set(requestId, { ...options, request, resolve });
      this.#step({ kind: "request", requestId, request });
    });
    const code = answer.kind === "refused" ? answer.refusal.code : "ok";
    this.#options.onEvent({
      kind: "answered",
      request: request.kind,
      code,
      durationMs: performance.now() - startedAtMs,
    });
    return answer;
  }

  /** A Postgres that is down, or between two runs, is brought up before the core looks at it. */
  async #settle(signal: AbortSignal): Promise<void> {
    const { phase } = this.supervisor;
    const down = phase === "stopped" || phase === "crashed" || phase === "failed" || phase === "stopping";
    if (!down || this.memory.current.operatorStopped || this.#shutdown.signal.aborted) return;
    const gaveUp = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener("abort", () => resolve(), { once: true });
    });
    await Promise.race([this.supervisor.start().catch(() => undefined), gaveUp]);
  }

  async readSystemIdentifier(): Promise<string> {
    this.#systemIdentifier = await this.data.systemIdentifier();
    return this.#systemIdentifier;
  }

  get logger(): Logger {
    return this.#options.logger;
  }

  /** For the end of the sidecar. */
  async end(postgres: "stop" | "leave"): Promise<void> {
    for (const end of this.#ends) end();
    this.#disk.stop();
    this.#shutdown.abort();
    if (postgres === "leave") this.supervisor.release();
    else await this.supervisor.stop("fast");
    await this.memory.flush();
  }

  // ---- the core's effects

  #step(event: NodeEvent): void {
    const durable = this.#state.durable;
    const { state, effects } = stepNode(this.#state, event);
    this.#state = state;
    for (const effect of effects) this.#perform(effect);
    if (state.durable !== durable) {
      this.logger.info({ term: state.durable?.term, coordinator: state.durable?.coordinator }, "promised");
      this.watchers.publish();
    }
  }

  #perform(effect: NodeEffect): void {
    switch (effect.kind) {
      case "persist":
        this.#persist(effect.requestId, effect.promise);
        break;
      case "control":
        this.#command(effect.requestId, effect.command);
        break;
      case "restartFenced":
        this.#prepare(effect.requestId, () => this.#restartFenced(effect.requestId));
        break;
      case "clone":
        this.#prepare(effect.requestId, () => this.#cloneFrom(effect.requestId));
        break;
      case "admit":
        this.#admit(effect.incarnation);
        break;
      case "reply":
        this.#reply(effect.requestId, effect.answer);
        break;
      default:
        assertNever(effect);
    }
  }

  #persist(requestId: string, promise: Promised): void {
    const persist = async (): Promise<void> => {
      await this.#promises.save(promise);
      // It may have died meanwhile.
      await this.#settle(this.#pending.get(requestId)?.signal ?? this.#shutdown.signal);
    };
    persist().then(
      () => this.#step({ kind: "persisted", requestId, ok: true }),
      (error: unknown) => {
        this.logger.error({ err: error }, "could not write the promise");
        this.#step({ kind: "persisted", requestId, ok: false, message: messageOf(error) });
      },
    );
  }

  /** A new life: on disk before its data is made. */
  async beginLife(copied: boolean): Promise<void> {
    const { incarnation } = await this.#lives.begin(!copied);
    this.logger.info({ incarnation }, "a new life of this node begins");
    this.#step({ kind: "reborn", incarnation, copied });
  }

  #admit(incarnation: string): void {
    this.#lives.admit(incarnation).then(
      () => {
        this.logger.info({ incarnation }, "this life of the node counts from now on");
        this.#step({ kind: "admitted", incarnation });
      },
      (error: unknown) => this.logger.error({ err: error }, "could not write the incarnation"),
    );
  }

  #prepare(requestId: string, prepare: () => Promise<void>): void {
    prepare().then(
      () => this.#step({ kind: "prepared", requestId, ok: true }),
      (error: unknown) => {
        this.logger.warn({ err: error }, "could not prepare Postgres to follow");
        this.#step({ kind: "prepared", requestId, ok: false, message: messageOf(error) });
      },
    );
  }

  /** Several coordinators may ask at once: one restart is enough. */
  async #restartFenced(requestId: string): Promise<void> {
    await this.supervisor.restart("immediate", this.#pendingOf(requestId)?.sentInRun);
  }

  async #cloneFrom(requestId: string): Promise<void> {
    const pending = this.#pending.get(requestId);
    assert(pending?.request.kind === "follow" && pending.peer !== undefined, "only a follow clones");
    pending.onCloning?.();
    await this.#copy.make(pending.request.leader, pending.peer);
    await this.readSystemIdentifier();
    await this.supervisor.start();
  }

  /** The first data directory of a cluster is there, Postgres doesn't run yet. */
  async dataMade(): Promise<void> {
    await this.#options.backup?.dataMade();
  }

  #reply(requestId: string, answer: NodeAnswer): void {
    const pending = this.#pending.get(requestId);
    if (pending === undefined) return;
    this.#pending.delete(requestId);
    const { request } = pending;
    const fields = { request: request.kind, term: request.term };
    if (answer.kind === "refused") {
      const { code, message, controlCode } = answer.refusal;
      this.logger.info({ ...fields, code: controlCode ?? code }, `refused: ${message}`);
    } else {
      this.logger.info(fields, request.kind === "recruit" ? "recruited" : `${request.kind}: done`);
    }
    pending.resolve(answer);
  }

  /** Of the core's own requests, too: they follow whom this node followed. */
  #pendingOf(requestId: string): Pending | undefined {
    const pending = this.#pending.get(requestId);
    const { follow } = this.memory.current;
    if (pending !== undefined || !isOwnRequest(requestId) || follow === null) return pending;
    const request = { kind: "follow", coordinator: coordinatorId("own"), ...follow } as const;
    const own: Pending = {
      request,
      signal: this.#shutdown.signal,
      timeoutMs: followTimeoutMs,
      peer: follow,
      resolve: () => undefined,
    };
    this.#pending.set(requestId, own);
    this.logger.info({ term: follow.term, leader: follow.leader }, "following again");
    return own;
  }

  #command(requestId: string, command: CoreCommand): void {
    const work =
      requestId === attachRequestId && this.#attaching !== null
        ? this.#commands.fenceAtAttach(this.#attaching, command)
        : this.#commandFor(requestId, command);
    void work
      .catch((error: unknown): CoreResult => {
        this.logger.error({ err: error }, `the control command ${command.cmd} failed`);
        return { ok: false, code: "internal", message: messageOf(error) };
      })
      .then((result) => this.#step({ kind: "controlled", requestId, result }));
  }

  async #commandFor(requestId: string, command: CoreCommand): Promise<CoreResult> {
    const pending = this.#pendingOf(requestId);
    assert(pending !== undefined, "a control command belongs to a request");
    const { request, peer } = pending;
    if (request.kind === "follow") this.#rememberFollow(request, peer);
    return this.#commands.send(command, pending);
  }

  /** Of a write that was under way when Postgres spoke last: it may have gone on since. */
  #walWriteMs(): number {
    return this.supervisor.connection === null ? 0 : (this.#control?.walWriteAgeMs ?? 0);
  }

  #rememberFollow(request: NodeRequest & { kind: "follow" }, peer: Peer | undefined): void {
    assert(peer !== undefined, "a follow says where the leader is");
    const { term: ofTerm, leader, member } = request;
    this.memory.update({ follow: { term: ofTerm, leader, member, host: peer.host, port: peer.port } });
  }

  // ---- what Postgres does

  #onPhase(): void {
    this.#step({ kind: "postgres", state: this.supervisor.phase });
    this.watchers.publish();
  }

  #onCrash(reason: string): void {
    const led = this.memory.current.ledTerm !== noTerm && this.memory.current.ledTerm === this.#control?.term;
    this.logger.error({ reason, wasLeader: led, term: this.#control?.term }, "Postgres died");
    this.#options.onEvent({ kind: "crash" });
  }

  #onStatus(status: ControlStatus): void {
    const before = this.#control;
    this.#control = status;
    this.#controlAtMs = performance.now();
    if (status.state === "leader" && this.memory.current.ledTerm !== status.term)
      this.memory.update({ ledTerm: status.term });
    if (before?.state !== status.state || before.term !== status.term)
      this.logger.info(
        { state: status.state, term: status.term, leader: status.leader, before: before?.state },
        "Postgres's state",
      );
    this.#tellApplied(status);
    this.#options.onEvent({ kind: "status" });
    this.watchers.publish();
  }

  #tellApplied({ ruleset, stalenessMs }: ControlStatus): void {
    const { run } = this.supervisor;
    if (stalenessMs !== null) this.#freshRun = run;
    const fresh = this.#freshRun === run;
    const told = `${fresh} ${ruleset?.text ?? ""}`;
    if (told === this.#toldApplied) return;
    this.#toldApplied = told;
    const parsed = ruleset === null ? undefined : parseRuleset(ruleset.text);
    this.#step({ kind: "applied", ruleset: parsed?.ok === true ? parsed.ruleset : null, fresh });
  }

  #onAttached(connection: ControlConnection, status: ControlStatus): void {
    this.#onStatus(status);
    // The fence is the first command on this connection, so it comes before whatever else is asked. Its answer may
    // take long (it names the end of the log, which recovery must find first) and is nobody's.
    this.#attaching = connection;
    const { fenceTerm, state, term } = status;
    this.#step({ kind: "attached", fenceTerm, state, term });
    this.#attaching = null;
  }
}
