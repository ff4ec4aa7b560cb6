/**
 * The server connections of one (database, user) and the clients that wait for one. First come, first served; a
 * connection that becomes free goes straight to the client that has waited longest.
 */

import type { View } from "../route/leader-source.ts";
import type { Secret } from "../session/scram.ts";
import { noSettings, type Reported, settingsChangeSql } from "../session/settings.ts";
import { terminateBytes } from "../wire/build.ts";
import { type WireError, wireError } from "../wire/errors.ts";
import { type Endpoint, sameEndpoint } from "./endpoint.ts";
import type { ServerOwner } from "./holder.ts";
import { lookAround } from "./look-around.ts";
import type { PoolHost, PoolLimits } from "./pool-host.ts";
import { Server } from "./server.ts";
import { ServerLogin } from "./server-login.ts";
import { waitedTooLong } from "./waited-too-long.ts";
import { type Waiter, Waiters } from "./waiters.ts";

const mostCustomNames = 1000;
const functionsGoodForMs = 60_000;

/** So long may a node that leads no more finish what it was asked before: its answers may be on their way. */
const lastWordsMs = 1_000;

/** So long who waits is left to those that give their connections back; a timer for each would cost more than they. */
const askAfterMs = 5;

/** What a leader that is handing over hasn't answered in this time, it probably holds. */
const takeBackMs = 40;

/** Errors of a login that waiting won't heal. */
const hopeless = /^(28|3D|42|0A|08P01|P0)/;

export class Pool implements ServerOwner {
  readonly host: PoolHost;
  /** The follower that its connections go to; undefined: whoever leads. */
  readonly node: string | undefined;
  /** How long a read may wait there for what its session has seen. */
  get readWaitMs(): number {
    return this.host.readWaitMs;
  }
  /** What that follower has surely applied. */
  appliedLsn = 0n;
  readonly database: string;
  readonly user: string;
  keys: Secret | undefined;
  limits: PoolLimits;
  endpoint: Endpoint | undefined;
  readonly servers = new Set<Server>();
  readonly idle: Server[] = [];
  /** What a server reports after login with these settings: a later client needs no server to be greeted. */
  readonly greetings = new Map<string, Reported>();
  /** Names of settings that clients made up, as far as seen. */
  readonly customNames = new Set<string>();
  /** When the bodies of functions were last read. */
  #functionsReadAtMs = Number.NEGATIVE_INFINITY;
  /** So many connections are to be ended when their clients let go. */
  shed = 0;
  paused = false;
  /** A planned change of the leader: as if paused. */
  holding = false;
  clients = 0;
  readonly #waiters = new Waiters();
  /** Those that take only a new connection. */
  readonly #waitersForNew = new Waiters();
  #connecting = 0;
  #retryAtMs = 0;

  constructor(
    host: PoolHost,
    database: string,
    user: string,
    keys: Secret | undefined,
    limits: PoolLimits,
    node?: string,
  ) {
    this.host = host;
    this.node = node;
    this.database = database;
    this.user = user;
    this.keys = keys;
    this.limits = limits;
  }

  /** A connection for this client at once, or undefined: then `granted` or `refused` comes later. */
  acquire(client: Waiter): Server | undefined {
    if (
      !this.paused &&
      !this.holding &&
      this.idle.length > 0 &&
      this.#waiters.count === 0 &&
      client.own !== true
    ) {
      const server = this.#takeIdle(client);
      if (server.settings.same(client.settings)) {
        server.settings = client.settings;
        this.#attach(server, client);
        return server;
      }
      client.waiting = true;
      client.waitingSinceMs = this.host.nowMs();
      this.#give(server, client);
      return undefined;
    }
    client.waiting = true;
    client.waitingSinceMs = this.host.nowMs();
    this.#queueOf(client).add(client);
    this.openMore();
    return undefined;
  }

  #queueOf(client: Waiter): Waiters {
    return client.own === true ? this.#waitersForNew : this.#waiters;
  }

  /** The one with the client's settings if it is near the top: what was used last is warmest. */
  #takeIdle(client: Waiter): Server {
    const { idle } = this;
    const stop = Math.max(0, idle.length - 16);
    let best = idle.length - 1;
    for (let at = idle.length - 1; at >= stop; at--) {
      const server = idle[at] as Server;
      if (server.lastHolder === client) {
        best = at;
        break;
      }
      if (server.settings === client.settings && (idle[best] as Server).settings !== client.settings)
        best = at;
    }
    const server = idle[best] as Server;
    for (let at = best + 1; at < idle.length; at++) idle[at - 1] = idle[at] as Server;
    idle.pop();
    return server;
  }

  #attach(server: Server, client: Waiter): void {
    server.holder = client;
    const again = server.lastHolder === client;
    server.holds = again ? server.holds + 1 : 1;
    if (!again) server.turns++;
    server.lastHolder = client;
    server.usedAtMs = this.host.nowMs();
  }

  /** The server is not idle any more; the client gets it when it has the client's settings. */
  #give(server: Server, client: Waiter): void {
    const sql = settingsChangeSql(server.settings, client.settings);
    if (sql === "") {
      server.settings = client.settings;
      this.#attach(server, client);
      client.waiting = false;
      client.granted(server);
      return;
    }
    server.internal(sql, (result) => {
      if (server.phase === "closed") {
        if (client.waiting) this.#waitAgain(client);
        return;
      }
      if (result.error !== undefined) {
        // All changes are one implicit transaction: nothing has been set.
        const clean = server.settings.same(noSettings);
        if (clean) this.release(server);
        else server.close("its settings could not be changed");
        if (!client.waiting) return;
        if (!clean) {
          this.#waitAgain(client); // perhaps the last client's settings were at fault
          return;
        }
        client.waiting = false;
        client.refused(result.error, undefined);
        return;
      }
      server.settings = client.settings;
      if (!client.waiting) {
        this.release(server);
        return;
      }
      this.#attach(server, client);
      client.waiting = false;
      client.granted(server);
    });
  }

  noteCustomNames(names: readonly string[]): void {
    if (this.customNames.size < mostCustomNames) for (const name of names) this.customNames.add(name);
  }

  /** Functions may have changed: the next look reads their bodies. Statements may be stale. */
  definitionsChanged(): void {
    this.host.statements.epoch++;
    this.#functionsReadAtMs = Number.NEGATIVE_INFINITY;
  }

  /** Whether it is time to read the bodies of functions (again). */
  readFunctionsNow(): boolean {
    const now = this.host.nowMs();
    if (now - this.#functionsReadAtMs < functionsGoodForMs) return false;
    this.#functionsReadAtMs = now;
    return true;
  }

  #waitAgain(client: Waiter): void {
    this.#queueOf(client).addFirst(client);
    this.openMore();
  }

  /** A client that waits has gone. */
  forget(client: Waiter): void {
    this.#queueOf(client).remove(client);
  }

  get waitingCount(): number {
    return this.#waiters.count + this.#waitersForNew.count;
  }

  /** A connection whose session is clean is free again. */
  release(server: Server): void {
    server.holder = undefined;
    if (server.phase === "closed") return;
    const now = this.host.nowMs();
    server.usedAtMs = now;
    if (!sameEndpoint(server.endpoint, this.endpoint)) {
      this.#endServer(server, "another node leads now");
      return;
    }
    if (this.shed > 0) {
      this.shed--;
      this.#endServer(server, "its node's connections are wanted elsewhere");
      return;
    }
    if (this.servers.size > this.limits.size || now - server.connectedAtMs > this.limits.serverLifetimeMs) {
      this.#endServer(server, "lifetime over");
      this.openMore();
      return;
    }
    if (server.turns > 0 && this.#makesRoomForNew()) {
      this.#endServer(server, "a session wants a connection of its own");
      this.openMore();
      return;
    }
    const next = this.paused || this.holding ? undefined : this.#nextFor(server);
    if (next !== undefined) this.#give(server, next);
    else this.idle.push(server);
  }

  #nextFor(server: Server): Waiter | undefined {
    return (server.turns === 0 ? this.#waitersForNew.next() : undefined) ?? this.#waiters.next();
  }

  /** All places are taken, and who wants a new connection has waited longest. */
  #makesRoomForNew(): boolean {
    const now = this.host.nowMs();
    return (
      this.#waitersForNew.count > this.#connecting &&
      this.servers.size >= this.limits.size &&
      this.#waitersForNew.longestWaitMs(now) >= this.#waiters.longestWaitMs(now)
    );
  }

  openMore(): void {
    const { host, endpoint } = this;
    if (this.paused || this.holding || endpoint === undefined || this.#retryAtMs > host.nowMs()) return;
    if (this.#waitersForNew.count > this.#connecting && this.servers.size >= this.limits.size) {
      const used = this.idle[0];
      if (used !== undefined) this.#endServer(used, "a session wants a connection of its own");
    }
    while (
      this.#connecting < this.waitingCount &&
      this.servers.size < this.limits.size &&
      host.mayConnect(this, endpoint.node)
    ) {
      this.#connecting++;
      const server: Server = new Server(
        host.nextServerId(),
        this,
        new ServerLogin(this.keys, this.node !== undefined),
      );
      this.servers.add(server);
      server.endpoint = endpoint;
      server.reader = this.node !== undefined;
      server.connectedAtMs = host.nowMs();
      server.link = host.connect(endpoint, server, () => {
        const bytes = ServerLogin.startup(
          new Map([
            ["user", this.user],
            ["database", this.database],
            ["options", "-c quorate.report_settings=on"],
          ]),
        );
        server.link.send(bytes, 0, bytes.length);
      });
    }
    if (this.waitingCount > this.#connecting) this.#askForOne();
  }

  /** Nothing more can be opened: who keeps a connection for little gives it up (not before we return to the waiter). */
  #askForOne(): void {
    if (this.#asking) return;
    this.#asking = true;
    this.host.later(askAfterMs, () => {
      this.#asking = false;
      if (this.waitingCount <= this.#connecting) return;
      for (const server of this.servers) if (server.holder?.yieldServer() === true) return;
    });
  }
  #asking = false;

  clientOf(processId: number): number {
    return this.host.processes.get(processId)?.lastHolder?.processId ?? 0;
  }

  serverReady(server: Server): void {
    if (!server.reader) this.host.processes.set(server.processId, server);
    this.#connecting--;
    this.#retryAtMs = 0;
    lookAround(server, this.host.plans, (found) => {
      this.listsSettings = found.listsSettings;
      this.loginTriggers = found.loginTriggers;
      this.release(server);
    });
  }
  /** This database has the extension's function that lists all settings of a session. */
  listsSettings = false;
  /** It has login event triggers: they are to run for each session. */
  loginTriggers = false;

  serverFailed(server: Server, error: WireError, raw: Buffer | undefined): void {
    this.#connecting--;
    this.servers.delete(server);
    if (hopeless.test(error.code)) {
      this.#refuseAll(error, raw);
      return;
    }
    this.lastError = error;
    if (this.node !== undefined) this.#refuseAll(error);
    const delayMs = 100;
    this.#retryAtMs = this.host.nowMs() + delayMs;
    this.host.later(delayMs + 1, () => this.openMore());
  }
  #refuseAll(error: WireError, raw?: Buffer): void {
    for (const queue of [this.#waiters, this.#waitersForNew]) {
      for (let next = queue.next(); next !== undefined; next = queue.next()) {
        next.waiting = false;
        next.refused(error, raw);
      }
    }
  }

  /** Why no connection could be made, for those whose wait ends without one. */
  lastError: WireError | undefined;

  serverClosed(server: Server, reason: string): void {
    this.servers.delete(server);
    const at = this.idle.indexOf(server);
    if (at >= 0) this.idle.splice(at, 1);
    if (server.holder === undefined && at >= 0) {
      this.host.log("info", "an idle server connection was closed", {
        database: this.database,
        user: this.user,
        reason,
      });
    }
    this.openMore();
  }

  dismiss(server: Server, reason: string): void {
    this.#endServer(server, reason);
    this.openMore();
  }

  #endServer(server: Server, reason: string): void {
    this.servers.delete(server);
    const at = this.idle.indexOf(server);
    if (at >= 0) this.idle.splice(at, 1);
    if (server.phase === "ready") {
      server.phase = "closed";
      server.link.send(terminateBytes, 0, terminateBytes.length);
      server.link.close();
    } else server.close(reason);
  }

  /** What the sidecars say now. */
  follow(view: View): void {
    if (this.node !== undefined) {
      this.#setEndpoint(view.followers.find((each) => each.node === this.node));
      if (this.endpoint === undefined) this.#refuseAll(wireError("ERROR", "57P03", "the follower is gone"));
      return;
    }
    this.#setEndpoint(view.leader);
    if (this.holding === view.holding) return;
    this.holding = view.holding;
    if (this.holding) this.#takeBackSoon();
    else this.#serve();
  }

  /** Requests that came to the leader after it had begun to hold transactions wait there, and would die with it. */
  #takeBackSoon(): void {
    this.host.later(takeBackMs, () => {
      if (!this.holding) return;
      for (const server of this.servers) server.holder?.takeBack();
      this.#takeBackSoon();
    });
  }

  /** Another node leads, or another term, or none: no byte goes to the old one any more. */
  #setEndpoint(endpoint: Endpoint | undefined): void {
    if (sameEndpoint(endpoint, this.endpoint)) return;
    this.endpoint = endpoint;
    this.appliedLsn = 0n; // it may have started anew
    this.#retryAtMs = 0;
    for (const server of [...this.servers]) {
      if (sameEndpoint(server.endpoint, endpoint)) continue;
      if (this.idle.includes(server)) this.#endServer(server, "another node leads now");
      else if (server.phase === "ready" && server.ring.length > 0) this.#retire(server);
      else server.close("another node leads now");
    }
    this.openMore();
  }

  /** What it was asked may be answered yet; nothing more is sent to it. */
  #retire(server: Server): void {
    server.retired = true;
    this.servers.delete(server);
    this.host.later(lastWordsMs, () => server.close("another node leads now"));
  }

  /** Closes all idle connections, and makes the others end with their transaction (RECONNECT). */
  reconnect(): void {
    for (const server of [...this.idle]) this.#endServer(server, "reconnect");
    for (const server of this.servers) server.connectedAtMs = Number.NEGATIVE_INFINITY;
    this.openMore();
  }

  resume(): void {
    this.paused = false;
    this.#serve();
  }

  #serve(): void {
    if (this.paused || this.holding) return;
    while (this.idle.length > 0) {
      const next = this.#waiters.next();
      if (next === undefined) break;
      this.#give(this.idle.pop() as Server, next);
    }
    this.openMore();
  }

  /** Called a few times a second: waits and idle times that are over. */
  sweep(): void {
    const now = this.host.nowMs();
    const waitMs = this.node === undefined ? this.limits.waitMs : this.readWaitMs;
    for (const queue of [this.#waiters, this.#waitersForNew]) {
      for (;;) {
        const oldest = queue.nextSince(now - waitMs);
        if (oldest === undefined) break;
        oldest.waiting = false;
        oldest.refused(
          waitedTooLong(this.limits.waitMs, this.endpoint !== undefined, this.lastError),
          undefined,
        );
      }
    }
    for (const server of [...this.idle]) {
      if (
        now - server.usedAtMs > this.limits.serverIdleMs ||
        now - server.connectedAtMs > this.limits.serverLifetimeMs
      ) {
        this.#endServer(server, "idle");
      }
    }
    if (this.waitingCount > 0) this.openMore();
  }

  /** How many connections there is use for now. */
  get wants(): number {
    const busy = this.servers.size - this.idle.length - this.#connecting;
    return Math.min(this.limits.size, busy + this.waitingCount);
  }

  longestWaitMs(nowMs: number): number {
    return Math.max(this.#waiters.longestWaitMs(nowMs), this.#waitersForNew.longestWaitMs(nowMs));
  }

  /** Ends one idle connection to make room for another pool's. */
  giveUpIdle(): boolean {
    const server = this.idle[0];
    if (server === undefined) return false;
    this.#endServer(server, "room for another pool");
    return true;
  }

  /** More is open than may be: idle ones end now, others when they are let go. */
  giveUp(count: number): void {
    let left = count;
    while (left > 0 && this.giveUpIdle()) left--;
    this.shed = Math.min(left, this.servers.size);
  }

  close(reason: string): void {
    for (const server of [...this.servers]) this.#endServer(server, reason);
  }
}
