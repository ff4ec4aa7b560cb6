/**
 * One client after its login: which server connection it holds and why, the state of its session that must follow it
 * from one connection to the next, and what it is told when a server is lost.
 */

import type { Pool } from "../pool/pool.ts";
import type { Server } from "../pool/server.ts";
import type { Waiter } from "../pool/waiters.ts";
import { pins, probedPins } from "../text/plan.ts";
import type { LinkOwner } from "../transport/transport.ts";
import { giveBuffer } from "../wire/buffer.ts";
import { readyForQuery } from "../wire/build.ts";
import { txIdle, txOpen } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import { deadLink } from "./client-host.ts";
import { ClientInput } from "./client-input.ts";
import { pinnedSessionLost, tellLoss } from "./loss.ts";
import { waitForLsnSql } from "./position.ts";
import { consume } from "./requests.ts";
import { noSettings, settingsChangeSql } from "./settings.ts";

/** What nothing can undo: the connection ends with its client. */
const forGood = pins.load | pins.opaque | pins.seed | pins.replication | pins.session | pins.buffers;

/** Once it has had temporary objects, its process keeps as many buffers for them, whatever is set later. */
const hasTempBuffers = ({ settings }: Server): boolean => settings.values.has("temp_buffers");

export class Client extends ClientInput implements LinkOwner, Waiter {
  #onGreeted: ((error: WireError | undefined, raw: Buffer | undefined) => void) | undefined;

  /** Finds out what a server reports with the client's settings, from an earlier login or from a server. */
  greet(done: (error: WireError | undefined, raw: Buffer | undefined) => void): void {
    const known = this.pool.greetings.get(this.settings.key);
    if (known !== undefined && !this.own) {
      this.welcomed(known);
      done(undefined, undefined);
      return;
    }
    this.#onGreeted = done;
    this.acquire((this.own && this.readOnly ? this.host.reader(this) : undefined) ?? this.pool);
  }

  /** From this pool at once, or `granted` comes later. */
  protected override acquire(pool: Pool): void {
    this.#from = pool;
    const server = pool.acquire(this);
    if (server !== undefined) this.granted(server);
    else this.blocked = true;
  }
  /** Where a connection is waited for, or was had from last. */
  #from: Pool = this.pool;

  get plain(): boolean {
    return true;
  }

  protected override get self(): this {
    return this;
  }

  protected override consume(bytes: Buffer, start: number, end: number): number {
    return consume(this, bytes, start, end);
  }

  /** A server for the next message: at once, or undefined and `granted` later. */
  need(reads = false): Server | undefined {
    if (this.server !== undefined) {
      if (this.server.ring.length === 0 && !this.unsynced) this.#requestBegins(this.server.status);
      return this.server;
    }
    this.#requestBegins(txIdle);
    const pool = reads ? (this.host.reader(this) ?? this.pool) : this.pool;
    this.#from = pool;
    const server = pool.acquire(this);
    if (server === undefined) {
      this.blocked = true;
      return undefined;
    }
    this.server = server;
    if (server.reader && this.#mustCatchUp(server, pool)) {
      this.blocked = true;
      return undefined;
    }
    return server;
  }

  #requestBegins(status: number): void {
    this.requestSinceMs = this.host.nowMs();
    if (status === txIdle) this.transactionSinceMs = this.requestSinceMs;
  }

  /** What the session has seen must be on the follower first; if it takes too long, the leader is asked. */
  #mustCatchUp(server: Server, pool: Pool): boolean {
    this.lastReader = pool.node;
    if (this.level.kind !== "session" || this.seenLsn <= pool.appliedLsn) return false;
    const lsn = this.seenLsn;
    this.#catchingUp = true;
    server.internal(waitForLsnSql(lsn, pool.readWaitMs), (result) => {
      if (server.phase === "closed") return;
      this.#catchingUp = false;
      if (result.error === undefined) {
        if (lsn > pool.appliedLsn) pool.appliedLsn = lsn;
        this.unblock();
      } else this.#askLeader();
    });
    return true;
  }
  #catchingUp = false;

  /** Nothing of the request is on the follower: the leader gets it. */
  #askLeader(): void {
    const server = this.server;
    this.server = undefined;
    if (server !== undefined) server.owner.release(server);
    if (this.gone) {
      this.host.clientGone(this);
      return;
    }
    this.acquire(this.pool);
  }

  /** Between transactions and without pins: another connection is as good, this one isn't. */
  swap(reason: string): void {
    const server = this.server as Server;
    this.server = undefined;
    server.holder = undefined;
    server.close(reason);
  }

  granted(server: Server): void {
    this.server = server;
    if (this.gone) {
      this.#leave();
      return;
    }
    const greeted = this.#onGreeted;
    if (greeted !== undefined) {
      if (!this.own && this.pool.loginTriggers && !this.#keepAsOwn(server)) return;
      this.#onGreeted = undefined;
      this.welcomed(server.reported);
      if (this.own) this.pins |= pins.session;
      else this.pool.greetings.set(this.settings.key, server.reported);
      greeted(undefined, undefined);
      if (!this.own) this.#letGo();
      this.blocked = false;
      return;
    }
    if (server.reader && this.#mustCatchUp(server, this.#from)) return;
    this.unblock();
  }

  /** Login triggers run for each session, so each gets a connection that is new; false: it is waited for. */
  #keepAsOwn(server: Server): boolean {
    this.own = true;
    if (server.turns === 1) return true;
    this.server = undefined;
    server.owner.release(server);
    this.acquire(this.pool);
    return false;
  }

  /** What was kept while waiting goes on. */
  override unblock(): void {
    this.blocked = false;
    if (this.gone) {
      this.afterReady();
      return;
    }
    const again = this.waitingRequest;
    if (again !== undefined) {
      if (this.server === undefined) {
        this.acquire(this.pool);
        return;
      }
      this.waitingRequest = undefined;
      this.sendAgain(this.server, again, this.againPrelude, this.againRows);
      if (this.blocked) return;
    }
    if (this.inbox.length > 0) this.consumeInbox();
    if (!this.blocked) this.link.resume();
  }

  refused(error: WireError, raw: Buffer | undefined): void {
    if (this.#from !== this.pool) {
      this.acquire(this.pool);
      return;
    }
    const greeted = this.#onGreeted;
    if (greeted !== undefined) {
      this.#onGreeted = undefined;
      greeted(error, raw);
      return;
    }
    this.blocked = false;
    this.failRequest({ ...error, severity: "ERROR" });
    this.unblock();
  }

  /** The request that waits at the head of the inbox, or that is on its way, ends with this error. */
  failRequest(error: WireError): void {
    this.send(errorBytes(error));
    if (this.waitingRequest !== undefined) {
      this.waitingRequest = undefined;
      this.send(readyForQuery(txIdle));
      return;
    }
    if (this.inbox.first === 0x51) {
      this.streaming = this.inbox.dropFirst();
      this.streamTo = undefined;
      this.send(readyForQuery(txIdle));
    } else this.skipping = true;
  }

  failingError(): Buffer {
    return this.failures?.shift() ?? errorBytes(wireError("ERROR", "XX000", "request failed"));
  }

  /** The server ignores everything up to a Sync that has not been sent yet: it may be among what is kept. */
  serverSkips(): void {
    if (!this.drainFirst) return;
    this.drainFirst = false;
    this.unblock();
  }

  beforeReady(status: number): boolean {
    const server = this.server as Server;
    if (this.elsewhere) {
      this.noteSeen(server);
      return true;
    }
    if (server.reported !== this.levelFrom) {
      this.levelFrom = server.reported;
      this.setLevel(server.reported.readLevel);
    }
    if (this.level.kind === "session" && server.shownLsn > this.seenLsn) this.seenLsn = server.shownLsn;
    if (server.settingsChanged && status === txIdle) {
      server.settingsChanged = false;
      // Who is kept for what a look would find is looked at when the text says that it may be over.
      if (this.otherWork && (this.pins & probedPins) === 0) this.needProbe = true;
    }
    if (status === txIdle) {
      if (this.changesDefaults) this.pool.host.defaultsChanged();
      if (this.changesLogins) this.pool.host.loginsChanged();
      if (this.changesDefinitions) this.pool.definitionsChanged();
      if (server.ring.length === 0) {
        // Otherwise what is noted may be of a request that is still under way.
        this.otherWork = false;
        this.changesDefaults = this.changesLogins = false;
        this.changesDefinitions = false;
      }
    }
    if (status !== txIdle) return status === txOpen && this.resetInTransaction(server);
    this.resets = undefined;
    this.transactions++;
    this.parsingChanged = false;
    this.portals = undefined;
    const pending = this.pending;
    if (pending !== undefined && !pending.empty) {
      if (server.errored) pending.discard();
      else this.apply(pending.take());
    }
    this.wholeOfParts(server);
    if (this.replay) {
      this.replay = false;
      this.makeAgain(server);
      return true;
    }
    if (this.settings !== server.settings && !this.unsynced && server.ring.length === 0) {
      const sql = settingsChangeSql(server.settings, this.settings);
      if (sql !== "") {
        this.setBack(server, sql, txIdle);
        return true;
      }
    }
    return false;
  }

  override afterReady(): void {
    const server = this.server;
    if (server === undefined) return;
    if (this.elsewhere) {
      this.elsewhere = false;
      if (server.cancels > 0) this.swap("a request is being cancelled on it");
      else if (server.settingsChanged) this.swap("a request that failed on it has left something behind");
      else {
        this.server = undefined;
        server.barred = false;
        server.owner.release(server);
      }
      this.repeat();
      return;
    }
    if (this.drainFirst && server.ring.countReady() === 0) {
      this.drainFirst = false;
      this.namesPending = false;
      this.unblock();
      return;
    }
    if (server.ring.length > 0) return;
    if (server.barred && !server.retired && !this.gone) {
      if (server.cancels > 0) return; // cancelDone comes back here
      server.barred = false;
      this.blocked = false;
      this.afterReady();
      if (!this.blocked) this.unblock();
      return;
    }
    this.namesPending = false;
    this.idleSinceMs = this.host.nowMs();
    if (server.status === txIdle) this.host.requestDone(this, this.requestSinceMs);
    this.keptLength = 0;
    if (this.kept !== undefined) giveBuffer(this.kept);
    this.kept = undefined;
    this.requestReads = true;
    if (this.gone) {
      if (!server.skipping) this.#leave();
      return;
    }
    if (server.retired) {
      this.#leaveRetired(server);
      return;
    }
    if (this.unsynced || server.status !== txIdle || server.copyIn || server.skipping || this.blocked) return;
    if (this.streamTo === server) return; // streamEnded comes back here
    if (this.needProbe) {
      this.needProbe = false;
      this.blocked = true;
      this.#probing = true;
      this.probe(server, () => {
        this.#probing = false;
        this.blocked = false;
        this.afterReady();
        if (!this.gone && !this.blocked) this.unblock();
      });
      return;
    }
    if (this.pins === 0 && !this.verbatim && server.cancels === 0) this.#letGo();
  }

  /** The session's state is being looked at; if the server is lost meanwhile, nobody knows it. */
  #probing = false;

  /** All is answered by a node that leads no more: what is left there is lost, if there is anything. */
  #leaveRetired(server: Server): void {
    if (!this.#freeOf(server) || this.needProbe) server.close("another node leads now");
    else {
      this.#letGo();
      this.unblock();
    }
  }

  /** A message that was passed on in parts is complete. */
  streamEnded(): void {
    const server = this.streamTo;
    this.streamTo = undefined;
    if (server !== undefined && server === this.server && server.ring.length === 0) this.afterReady();
  }

  #letGo(): void {
    const server = this.server;
    if (server === undefined) return;
    this.server = undefined;
    if (this.pausedForServer) this.serverDrained();
    this.unnamedPortal = undefined;
    if (server.usedTemp && hasTempBuffers(server)) this.#dismiss(server);
    else server.owner.release(server);
  }

  yieldServer(): boolean {
    const server = this.server;
    if (server === undefined || this.pins !== pins.process || this.needProbe || this.blocked || this.gone)
      return false;
    if (!server.idle || this.unsynced || this.verbatim || server.cancels > 0 || this.streaming > 0)
      return false;
    this.pins = 0;
    this.#letGo();
    return true;
  }

  #freeOf(server: Server): boolean {
    return server.status === txIdle && !this.unsynced && this.pins === 0 && !this.verbatim;
  }

  /** The error that the client gets when its server has gone, and whether it can go on. */
  serverLost(reason: string, lastError: Buffer | undefined): void {
    const server = this.server;
    this.server = undefined;
    this.streamTo = undefined;
    if (server === undefined || this.gone) {
      if (this.gone) this.host.clientGone(this);
      return;
    }
    if (this.#catchingUp) {
      this.#catchingUp = false;
      this.acquire(this.pool);
      return;
    }
    if (this.askElsewhere()) return;
    if (this.elsewhere || this.notExecuted || (this.requestReads && this.repeatable(server))) {
      this.noteSeen(server);
      this.repeat();
      return;
    }
    const inFlight = server.ring.countReady() > 0 || (this.unsynced && server.ring.length > 0);
    if (lastError !== undefined || this.pins !== 0 || this.verbatim || this.#probing) {
      if (lastError === undefined) this.send(errorBytes(pinnedSessionLost(reason, inFlight)));
      this.link.close();
      return;
    }
    if (this.heldReady !== 0) {
      this.send(readyForQuery(this.heldReady));
      this.heldReady = 0;
    }
    tellLoss(this, server, reason, inFlight);
    this.drainFirst = false;
    this.unblock();
  }

  fatal(error: WireError): void {
    this.send(errorBytes({ ...error, severity: "FATAL" }));
    this.link.close();
  }

  closed(_reason: string): void {
    if (this.gone) return;
    this.gone = true;
    this.drainFirst = false;
    this.link = deadLink;
    this.inbox.clear();
    this.#from.forget(this);
    const server = this.server;
    if (server === undefined) {
      this.host.clientGone(this);
      return;
    }
    if (this.unsynced || this.streamTo !== undefined || server.copyIn || server.skipping) {
      this.server = undefined;
      server.holder = undefined;
      server.close("its client left in the middle of a request");
      this.host.clientGone(this);
      return;
    }
    server.resumeReading();
    if (server.ring.length === 0) this.#leave();
  }

  #dismiss(server: Server): void {
    this.server = undefined;
    server.holder = undefined;
    server.owner.dismiss(server, "its session can't be cleaned");
  }

  /** The client has gone and nothing is owed: the session is cleaned for the next one. */
  #leave(): void {
    const server = this.server;
    if (server === undefined) return;
    if (server.status !== txIdle) {
      server.endsTransaction = true;
      server.internal("ROLLBACK", () => {
        server.endsTransaction = false;
        if (server.phase !== "closed") this.#leave();
      });
      return;
    }
    const unclean = this.pins !== 0 || this.needProbe || this.verbatim || server.settingsChanged;
    if ((this.pins & forGood) !== 0 || (unclean && hasTempBuffers(server))) {
      this.#dismiss(server);
      this.host.clientGone(this);
      return;
    }
    if (unclean) {
      this.pins = 0;
      this.needProbe = false;
      this.verbatim = false;
      server.internal("DISCARD ALL", (result) => {
        if (server.phase === "closed") return;
        server.statements.clear();
        server.settings = noSettings;
        server.settingsChanged = false;
        if (result.error !== undefined) server.close("its session can't be cleaned");
        else this.#leave();
      });
      return;
    }
    if (server.cancels > 0) return; // cancelDone comes back here
    this.#letGo();
    this.host.clientGone(this);
  }

  /** A cancel request has been delivered. */
  cancelDone(server: Server): void {
    server.cancels--;
    if (this.server !== server || server.ring.length > 0 || server.cancels > 0) return;
    // What was sent may still arrive: it hits an empty query, not the next client's.
    server.internal("", () => {
      if (server.phase !== "closed") this.afterReady();
    });
  }
}
