/**
 * One worker: its listeners, clients, pools and statistics. Everything in it runs on one thread; several workers share
 * a port by reusePort and divide the budget of server connections.
 */
import type { SecureContext } from "node:tls";
import type { Logger } from "@quorate/common";
import { AdminSession, type Table } from "./admin/console.ts";
import { Histogram } from "./admin/histogram.ts";
import { Room, type RoomOptions } from "./budget/room.ts";
import type { Config } from "./config.ts";
import { limitsFor } from "./limits-for.ts";
import type { Endpoint } from "./pool/endpoint.ts";
import { Pool } from "./pool/pool.ts";
import type { PoolHost } from "./pool/pool-host.ts";
import type { Server } from "./pool/server.ts";
import { Statements } from "./pool/statements.ts";
import { chooseFollower } from "./route/choose-follower.ts";
import type { LeaderSource } from "./route/leader-source.ts";
import { CancelKeys } from "./session/cancel-keys.ts";
import { Client } from "./session/client.ts";
import type { ClientHost } from "./session/client-host.ts";
import { ClientSweep } from "./session/client-sweep.ts";
import { Directory } from "./session/directory.ts";
import { Login, type LoginHost, newMockSecret, type Tls } from "./session/login.ts";
import { readyIdle } from "./session/outcome.ts";
import type { ScramKeys, Secret } from "./session/scram.ts";
import { type Startup, Startups } from "./session/startup.ts";
import { Tunnel } from "./session/tunnel.ts";
import type { Plans } from "./text/plans.ts";
import type {
  ConnectOptions,
  Link,
  LinkOwner,
  Listener,
  ServerSideLink,
  Transport,
} from "./transport/transport.ts";
import { cancelRequest } from "./wire/build.ts";
import { errorBytes, type WireError, wireError } from "./wire/errors.ts";

export type WorkerOptions = RoomOptions & {
  readonly config: Config;
  readonly workerId: number;
  readonly transport: Transport;
  readonly plans: Plans;
  readonly leaders: LeaderSource;
  readonly log: Logger;
  readonly tls: () => Tls | undefined;
  /** What servers' certificates are checked by; undefined: no TLS towards servers. */
  readonly serverTls: () => SecureContext | undefined;
  /** Password of the gateway's own account, if the server asks for one. */
  readonly ownPassword: () => string | undefined;
  /** A cancel request for a client of another worker. */
  readonly forwardCancel: (key: Uint8Array) => void;
  /** Carries out a console's command in all workers; undefined where there is only one. */
  readonly everywhere:
    | ((words: readonly string[]) => Promise<Table | { readonly error: string }>)
    | undefined;
  /** RELOAD and SHUTDOWN on the console. */
  readonly reload: () => void;
  readonly shutdown: () => void;
};

/** Client ids are in the low bits of the process id that clients see, the worker's above. */
const clientBits = 20;

export class Worker implements LoginHost, ClientHost, PoolHost {
  config: Config;
  readonly options: WorkerOptions;
  readonly plans: Plans;
  readonly statements = new Statements();
  readonly pools = new Map<string, Pool>();
  readonly clients = new Map<number, Client>();
  readonly processes = new Map<number, Server>();
  readonly tunnels = new Set<Tunnel>();
  readonly log_: Logger;
  readonly directory: Directory;
  readonly mockSecret = newMockSecret();
  readonly startups = new Startups(false);
  readonly readOnlyStartups = new Startups(true);
  readonly latency = new Histogram();
  readonly room: Room;
  readonly startedAtMs: number;
  connections = 0;
  loginsFailed = 0;
  /** Transactions for which a follower was chosen. */
  followerReads = 0;
  draining = false;
  readonly #cancelKeys = new CancelKeys();
  readonly #logins = new Set<Login>();
  readonly #listeners: Listener[] = [];
  #nextClient = 1;
  #nextServer: number;
  #sweeper: NodeJS.Timeout | undefined;
  readonly #unsubscribe: () => void;
  readonly #clientSweep = new ClientSweep(this);

  constructor(options: WorkerOptions) {
    this.options = options;
    this.config = options.config;
    this.plans = options.plans;
    this.log_ = options.log;
    this.startedAtMs = this.nowMs();
    this.room = new Room(
      options,
      this.pools,
      () => this.tunnels.size,
      () => this.nowMs(),
    );
    this.#nextServer = (options.workerId << clientBits) + 1;
    this.directory = new Directory(
      () => this.#ownPool(),
      () => this.nowMs(),
      this.config.authentication.keepMs,
    );
    this.#unsubscribe = options.leaders.subscribe((view) => {
      options.transport.turn(() => {
        for (const pool of this.pools.values()) pool.follow(view);
        for (const tunnel of [...this.tunnels]) tunnel.endpointChanged(view.leader);
      });
    });
  }

  /** `readOnly`: the port for reads. */
  async listen(host: string, port: number, readOnly = false): Promise<number> {
    const several = this.config.workers > 1;
    const server = await this.options.transport.listen(
      { host, port, backlog: 4096, ...(several ? { reusePort: true } : {}) },
      (link) => {
        const login = new Login(this, link, this.nowMs(), readOnly);
        this.#logins.add(login);
        return login;
      },
    );
    this.#listeners.push(server);
    this.#sweeper ??= setInterval(() => this.options.transport.turn(() => this.#sweep()), 250).unref();
    return server.port;
  }

  nowMs(): number {
    return this.options.transport.nowMs();
  }

  // --- for logins

  tls(): Tls | undefined {
    return this.options.tls();
  }

  get authentication(): "scram" | "trust" {
    return this.config.authentication.method;
  }

  get tlsRequired(): boolean {
    return this.config.tls?.required ?? false;
  }

  findUser(user: string, done: Parameters<Directory["find"]>[1]): void {
    this.directory.find(user, done);
  }

  wrongPassword(user: string): void {
    this.directory.doubt(user);
  }

  admit(request: { user: string; database: string }): WireError | undefined {
    if (this.draining) return wireError("FATAL", "57P03", "the gateway is shutting down");
    const clients = this.options.counters.total("clients");
    if (clients >= this.config.limits.clients && request.database !== this.config.admin.database) {
      return wireError("FATAL", "53300", `the gateway already has ${this.config.limits.clients} clients`, {
        hint: "Raise limits.clients, or connect to another gateway.",
      });
    }
    const pool = this.pools.get(`${request.database}\0${request.user}`);
    if (pool !== undefined && pool.clients >= pool.limits.clients) {
      const text = `user "${request.user}" already has ${pool.clients} clients in database "${request.database}"`;
      return wireError("FATAL", "53300", text, {
        hint: "Raise clients in the gateway's overrides for this user or database.",
      });
    }
    return undefined;
  }

  loginFailed(reason: string, peer: string): void {
    this.loginsFailed++;
    this.log_.info({ peer, reason }, "a login failed");
  }

  loggedIn(link: ServerSideLink, request: Startup, keys: ScramKeys | undefined): LinkOwner {
    this.connections++;
    if (request.database === this.config.admin.database) return new AdminSession(this, link, request);
    if (request.replication !== undefined) {
      const tunnel = new Tunnel(this, link, request, keys);
      this.tunnels.add(tunnel);
      return tunnel;
    }
    const pool = this.pool(request.database, request.user, keys);
    const id = this.#newClientId();
    const client = new Client(this, link, pool, id, request.settings, request.readOnly);
    client.own = request.own || pool.loginTriggers;
    client.connectedAtMs = this.nowMs();
    client.idleSinceMs = client.connectedAtMs;
    this.clients.set(id, client);
    this.options.counters.set("clients", this.clients.size);
    pool.clients++;
    client.blocked = true;
    client.greet((error, raw) => {
      if (error !== undefined) {
        const bytes = raw ?? errorBytes({ ...error, severity: "FATAL" });
        link.send(bytes, 0, bytes.length);
        link.close();
        return;
      }
      this.#welcome(client, link, request);
      client.blocked = false;
    });
    return client;
  }

  #welcome(client: Client, link: ServerSideLink, request: Startup): void {
    const told = request.readOnly ? client.reported.with("in_hot_standby", "on") : client.reported;
    link.send(told.messages, 0, told.messages.length);
    // Who has a server connection for itself gets that one's process id.
    const own = client.own ? client.server : undefined;
    client.processId = own?.processId ?? this.processId(client.id);
    const key = this.newCancelKey(client.id, request.minorVersion, client.processId);
    link.send(key, 0, key.length);
    for (const notice of own?.loginNotices ?? []) link.send(notice, 0, notice.length);
    link.send(readyIdle, 0, readyIdle.length);
  }

  /** BackendKeyData for a client: a process id (by default one that names worker and client), and a secret. */
  newCancelKey(id: number, minorVersion: number, processId = this.processId(id)): Buffer {
    return this.#cancelKeys.add(id, processId, minorVersion);
  }

  forgetCancelKey(id: number): void {
    this.#cancelKeys.forget(id);
  }

  processId(clientId: number): number {
    return (((this.options.workerId + 1) << clientBits) | clientId) & 0x7fff_ffff;
  }

  newTunnelId(): number {
    return this.#newClientId();
  }

  #newClientId(): number {
    do {
      this.#nextClient = (this.#nextClient + 1) & ((1 << clientBits) - 1);
    } while (this.clients.has(this.#nextClient) || this.#nextClient === 0);
    return this.#nextClient;
  }

  /** `forwarded`: by another worker that doesn't know it. */
  cancel(key: Uint8Array, forwarded = false): void {
    const id = this.#cancelKeys.find(key);
    if (id === undefined) {
      if (!forwarded) this.options.forwardCancel(key);
      return;
    }
    for (const tunnel of this.tunnels) if (tunnel.id === id) tunnel.cancel();
    const client = this.clients.get(id);
    const server = client?.server;
    if (client === undefined) return;
    if (server === undefined) {
      if (client.waiting && client.blocked) this.#cancelWaiting(client);
      return;
    }
    server.takingBack = false; // the client wants it to end, not to be made elsewhere
    this.cancelRequest(client, server);
  }

  /** What the server is doing for this client, if it does something. */
  cancelRequest(client: Client, server: Server): void {
    const { endpoint, cancelKey } = server;
    if (server.ring.length === 0 || cancelKey === undefined || endpoint === undefined) return;
    server.cancels++;
    this.sendCancel(endpoint, cancelKey, () => client.cancelDone(server));
  }

  #cancelWaiting(client: Client): void {
    client.pool.forget(client);
    client.refused(wireError("ERROR", "57014", "canceling statement due to user request"), undefined);
  }

  sendCancel(endpoint: Endpoint, key: Buffer, done: () => void): void {
    const bytes = cancelRequest(key);
    const link = this.options.transport.connect(this.wayTo(endpoint), {
      connected: () => link.send(bytes, 0, bytes.length),
      data() {},
      drained() {},
      closed: done,
    });
  }

  // --- for clients

  clientGone(client: Client): void {
    if (!this.clients.delete(client.id)) return;
    this.options.counters.set("clients", this.clients.size);
    this.forgetCancelKey(client.id);
    client.pool.clients--;
  }

  requestDone(client: Client, startedAtMs: number): void {
    const now = this.nowMs();
    this.latency.add(now - startedAtMs);
    client.requestSinceMs = now;
  }

  // --- for pools

  reconfigure(config: Config): void {
    this.config = config;
    for (const pool of this.pools.values()) {
      pool.limits = limitsFor(config, pool.database, pool.user);
      pool.openMore();
    }
    this.directory.forget();
  }

  get readWaitMs(): number {
    return this.config.reads.waitMs;
  }

  reader(client: Client): Pool | undefined {
    const { database, user, keys } = client.pool;
    const of = (node: string) => this.pools.get(`${database}\0${user}\0${node}`);
    const { home } = this.config;
    const { leader, followers } = this.options.leaders.view;
    if (home !== undefined && leader?.node === home) return undefined; // the leader is nearest
    const follower = chooseFollower(
      followers,
      {
        zone: this.config.zone,
        home,
        lsn: client.level.kind === "session" ? client.seenLsn : 0n,
        mostLagBytes: this.config.reads.mostLagBytes,
        last: client.lastReader,
      },
      ({ node }) => {
        const pool = of(node);
        return pool === undefined ? 0 : pool.servers.size - pool.idle.length + pool.waitingCount;
      },
    );
    if (follower === undefined) return undefined;
    this.followerReads++;
    const pool = this.pool(database, user, keys, follower.node);
    if (follower.appliedLsn > pool.appliedLsn) pool.appliedLsn = follower.appliedLsn;
    return pool;
  }

  /** `node`: the follower that it is for; without it, whoever leads. */
  pool(database: string, user: string, keys: Secret | undefined, node?: string): Pool {
    const name = node === undefined ? `${database}\0${user}` : `${database}\0${user}\0${node}`;
    let pool = this.pools.get(name);
    if (pool === undefined) {
      pool = new Pool(this, database, user, keys, limitsFor(this.config, database, user), node);
      this.pools.set(name, pool);
      pool.follow(this.options.leaders.view);
    } else if (keys !== undefined) pool.keys = keys;
    return pool;
  }

  #ownPool(): Pool {
    const { user, database } = this.config.authentication;
    const pool = this.pool(database, user, undefined);
    const password = this.options.ownPassword();
    if (password !== undefined && (pool.keys === undefined || password !== this.#ownPassword))
      pool.keys = { password };
    this.#ownPassword = password;
    return pool;
  }
  #ownPassword: string | undefined;

  wayTo({ host, port }: Endpoint): ConnectOptions {
    const context = this.options.serverTls();
    const timeoutMs = this.config.pool.connectTimeoutMs;
    return { host, port, timeoutMs, ...(context && { tls: { context } }) };
  }

  connect(endpoint: Endpoint, server: Server, connected: () => void): Link {
    server.onConnected = connected;
    const { node } = endpoint;
    server.onGone = () => {
      if (this.processes.get(server.processId) === server) this.processes.delete(server.processId);
      this.room.gone(node);
    };
    this.options.transport.began();
    return this.options.transport.connect(this.wayTo(endpoint), server);
  }

  mayConnect(wanting: Pool, node: string): boolean {
    this.options.transport.began(); // it may ask for a lease
    return this.room.take(wanting, node, this.config.pool.total);
  }

  /** New connections begin with it; those that there are end when their clients let go. */
  defaultsChanged(): void {
    for (const pool of this.pools.values()) {
      pool.greetings.clear();
      pool.reconnect();
    }
  }

  loginsChanged(): void {
    this.directory.forget();
  }

  nextServerId(): number {
    return this.#nextServer++;
  }

  later(delayMs: number, action: () => void): void {
    setTimeout(() => this.options.transport.turn(action), delayMs).unref();
  }

  log(level: "info" | "warn", text: string, fields: Record<string, unknown>): void {
    this.options.transport.began();
    this.log_[level](fields, text);
  }

  // --- upkeep

  #sweep(): void {
    const now = this.nowMs();
    const { limits } = this.config;
    for (const pool of this.pools.values()) pool.sweep();
    this.room.sweep();
    for (const login of this.#logins) {
      if (!login.over && now - login.startedAtMs > limits.loginTimeoutMs) login.timeOut();
      if (login.over) this.#logins.delete(login);
    }
    this.#clientSweep.run(now);
  }

  /** No new clients; those that are here may finish their transactions. */
  async drain(): Promise<void> {
    this.draining = true;
    for (const listener of this.#listeners) listener.close();
    const stopAtMs = this.nowMs() + this.config.drainMs;
    while (this.clients.size > 0 && this.nowMs() < stopAtMs) {
      this.options.transport.turn(() => this.#sweep());
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    this.close();
  }

  close(): void {
    this.#unsubscribe();
    clearInterval(this.#sweeper);
    for (const listener of this.#listeners) listener.close();
    this.options.transport.turn(() => {
      for (const client of [...this.clients.values()]) {
        client.fatal(wireError("FATAL", "57P01", "the gateway is shutting down"));
      }
      for (const tunnel of [...this.tunnels]) tunnel.end("the gateway is shutting down");
      for (const pool of this.pools.values()) pool.close("the gateway is shutting down");
    });
  }
}
