/**
 * One client after its login: which server connection it holds and why, the state of its session that must follow it
 * from one connection to the next, and what it is told when a server is lost.
 */

import type { Pool, Waiter } from "../pool/pool.ts";
import { customNamesIn, type ProbeResult, probeSql, readProbe } from "../pool/probe.ts";
import { owed } from "../pool/ring.ts";
import type { Server } from "../pool/server.ts";
import type { Statement } from "../pool/statements.ts";
import { type Effect, pins, probedPins } from "../text/plan.ts";
import { type Link, type LinkOwner, queueHighBytes } from "../transport/transport.ts";
import { copyBytes, giveBuffer, takeBuffer } from "../wire/buffer.ts";
import { readyForQuery } from "../wire/build.ts";
import { txFailed, txIdle, txOpen } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import { type ClientHost, deadLink, nothing } from "./client-host.ts";
import { PendingSettings } from "./pending-settings.ts";
import { consume } from "./requests.ts";
import {
  type Change,
  changeSettings,
  noSettings,
  nothingReported,
  type Reported,
  type Settings,
  settingsChangeSql,
  settingsOf,
} from "./settings.ts";

/** A blocked client may send so much before it is read no further. */
const keptWhileBlocked = 64 * 1024;

/** Largest request of extended-protocol messages that is kept for making it again. */
export const keptRequestBytes = 16 * 1024;

export class Client implements LinkOwner, Waiter {
  link: Link;
  readonly host: ClientHost;
  readonly pool: Pool;
  readonly id: number;
  server: Server | undefined;
  settings: Settings;
  /** What RESET goes back to: the startup parameters. */
  readonly startupSettings: Settings;
  reported: Reported = nothingReported;
  /** The client's names of shared statements. */
  statements: Map<string, Statement> | undefined;
  unnamed: Statement | undefined;
  portals: Map<string, Statement> | undefined;
  unnamedPortal: Statement | undefined;
  pins = 0;
  needProbe = false;
  /** Names of prepared statements are passed on as they are: SQL PREPARE and EXECUTE can see them. */
  verbatim = false;
  /** Extended-protocol messages were sent since the last Sync. */
  unsynced = false;
  /** Waits for a server connection, or for the settings of one: what comes is kept. */
  blocked = false;
  /** The next message waits until everything before it has been answered. */
  drainFirst = false;
  /** The open transaction has changed settings that texts depend on. */
  parsingChanged = false;
  /** The unnamed statement was parsed since the last Sync. */
  parsedUnnamed = false;
  /** Statements were named or closed since the last Sync … */
  segmentNames = false;
  /** … or before it, and whether that worked isn't known yet. */
  namesPending = false;
  /** Messages up to Sync are ignored: an error was given without a server. */
  skipping = false;
  /** The transaction was lost with its server: only its end is accepted. */
  lost = false;
  gone = false;
  lostTold = false;
  waiting = false;
  waitingSinceMs = 0;
  requestSinceMs = 0;
  connectedAtMs = 0;
  requests = 0;
  transactions = 0;
  /** Bytes that are still to come of a message that is passed on, or ignored, in parts … */
  streaming = 0;
  /** … and the server that has had its beginning: it gets the rest, whatever happens meanwhile, or nobody does. */
  streamTo: Server | undefined;
  /** Settings that went back to their defaults since the last ReadyForQuery; "*": all. */
  resets: Set<string> | undefined;
  /** All that is in flight only reads. */
  requestReads = true;
  pending: PendingSettings | undefined;
  failures: Buffer[] | undefined;
  kept: Buffer | undefined;
  keptLength = 0;
  #inbox: Buffer = nothing;
  #inboxLength = 0;
  #inboxNeeds = 0;
  #pausedForServer = false;
  #replay = false;
  /** A request is being made again. */
  again = false;
  #onGreeted: ((error: WireError | undefined, raw: Buffer | undefined) => void) | undefined;
  applicationName: string | undefined;

  constructor(host: ClientHost, link: Link, pool: Pool, id: number, startupSettings: Settings) {
    this.host = host;
    this.link = link;
    this.pool = pool;
    this.id = id;
    this.startupSettings = startupSettings;
    this.settings = startupSettings;
  }

  /** Finds out what a server reports with the client's settings, from an earlier login or from a server. */
  greet(done: (error: WireError | undefined, raw: Buffer | undefined) => void): void {
    const known = this.pool.greetings.get(this.settings.key);
    if (known !== undefined) {
      this.reported = known;
      done(undefined, undefined);
      return;
    }
    this.#onGreeted = done;
    const server = this.pool.acquire(this);
    if (server !== undefined) this.granted(server);
    else this.blocked = true;
  }

  data(bytes: Buffer, start: number, end: number): void {
    if (this.blocked || this.#inboxLength > 0) {
      this.#keep(bytes, start, end, 0);
      if (this.blocked || this.#inboxLength < this.#inboxNeeds) return;
      this.#consumeInbox();
      return;
    }
    this.#consume(bytes, start, end);
  }

  #consume(bytes: Buffer, start: number, end: number): void {
    const stopped = consume(this, bytes, start, end);
    if (stopped < end) this.#keep(bytes, stopped, end, this.needs);
    const server = this.server;
    if (server !== undefined && server.link.queued > queueHighBytes) {
      this.#pausedForServer = true;
      this.link.pause();
    }
  }
  /** Set by `consume`: the length of the message it stopped at, if that must be complete. */
  needs = 0;

  #consumeInbox(): void {
    const inbox = this.#inbox;
    const length = this.#inboxLength;
    this.#inbox = nothing;
    this.#inboxLength = 0;
    this.#inboxNeeds = 0;
    this.#consume(inbox, 0, length);
    giveBuffer(inbox);
  }

  #keep(bytes: Buffer, start: number, end: number, needs: number): void {
    const length = this.#inboxLength + end - start;
    if (this.#inbox.length < length) {
      const larger = takeBuffer(Math.max(length, needs, Math.min(length * 2, 1 << 20)));
      copyBytes(this.#inbox, 0, this.#inboxLength, larger, 0);
      giveBuffer(this.#inbox);
      this.#inbox = larger;
    }
    copyBytes(bytes, start, end, this.#inbox, this.#inboxLength);
    this.#inboxLength = length;
    if (needs > 0) this.#inboxNeeds = needs;
    // Read on while there is little: only so is it noticed when the client leaves.
    if (this.blocked && this.#inboxLength > keptWhileBlocked) this.link.pause();
  }

  /** A server for the next message: at once, or undefined and `granted` later. */
  need(): Server | undefined {
    if (this.server !== undefined) return this.server;
    this.requestSinceMs = this.host.nowMs();
    const server = this.pool.acquire(this);
    if (server === undefined) {
      this.blocked = true;
      return undefined;
    }
    this.server = server;
    return server;
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
      this.#onGreeted = undefined;
      this.reported = server.reported;
      this.pool.greetings.set(this.settings.key, server.reported);
      greeted(undefined, undefined);
      this.#letGo();
      this.blocked = false;
      return;
    }
    const again = this.#again;
    if (again !== undefined) {
      this.#again = undefined;
      this.#sendAgain(server, again, this.#againPrelude, this.#againRows);
    }
    this.unblock();
  }

  /** What was kept while waiting goes on. */
  unblock(): void {
    this.blocked = false;
    if (this.gone) {
      this.afterReady();
      return;
    }
    if (this.#inboxLength > 0) this.#consumeInbox();
    if (!this.blocked) this.link.resume();
  }

  refused(error: WireError, raw: Buffer | undefined): void {
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
    this.#send(errorBytes(error));
    if (this.#again !== undefined) {
      this.#again = undefined;
      this.#send(readyForQuery(txIdle));
      return;
    }
    if (this.#inboxLength > 0 && this.#inbox[0] === 0x51) {
      this.#dropFirst();
      this.#send(readyForQuery(txIdle));
    } else this.skipping = true;
  }

  #dropFirst(): void {
    const total = this.#inbox.readUInt32BE(1) + 1;
    if (total <= this.#inboxLength) {
      this.#inbox = this.#inbox.subarray(total, this.#inboxLength);
      this.#inboxLength -= total;
    } else {
      this.streaming = total - this.#inboxLength;
      this.streamTo = undefined;
      this.#inboxLength = 0;
    }
    this.#inboxNeeds = 0;
  }

  #send(bytes: Buffer): void {
    this.link.send(bytes, 0, bytes.length);
  }

  completed(effect: Effect, rolledBack: boolean): void {
    const server = this.server as Server;
    switch (effect.kind) {
      case "discard-all":
        this.#apply(["reset-all"]);
        this.#forgetStatements(server);
        this.pins &= pins.seed | pins.load | pins.opaque;
        return;
      case "deallocate-all":
        this.#forgetStatements(server);
        return;
      case "discard-sequences":
        this.pins &= ~pins.sequence;
        return;
      default: {
        if (this.pending === undefined) {
          if (effect.kind !== "set" && effect.kind !== "reset-all") return;
          this.pending = new PendingSettings();
        }
        if (effect.kind === "reset-all" || (effect.kind === "set" && effect.value === null)) {
          this.resets ??= new Set();
          this.resets.add(effect.kind === "set" ? effect.name : "*");
        }
        const changes = this.pending.completed(effect, rolledBack);
        if (changes !== undefined) this.#apply(changes);
      }
    }
  }

  #forgetStatements(server: Server): void {
    this.statements = undefined;
    this.verbatim = false;
    this.pins &= ~pins.prepared;
    server.statements.clear();
  }

  #apply(changes: readonly Change[]): void {
    for (const change of changes) {
      if (change !== "reset-all" && change.name.includes(".")) this.pool.noteCustomNames([change.name]);
    }
    const server = this.server as Server;
    this.settings = changeSettings(this.settings, changes, this.startupSettings);
    server.settings = changeSettings(server.settings, changes, noSettings);
  }

  undo(name: string, statement: Statement | undefined): void {
    if (name === "") this.unnamed = statement;
    else if (statement === undefined) this.statements?.delete(name);
    else this.statements?.set(name, statement);
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
    if (status !== txIdle) return status === txOpen && this.#resetInTransaction(server);
    this.resets = undefined;
    this.transactions++;
    this.parsingChanged = false;
    this.portals = undefined;
    const pending = this.pending;
    if (pending !== undefined && !pending.empty) {
      if (server.errored) pending.discard();
      else this.#apply(pending.take());
    }
    if (this.#replay) {
      this.#replay = false;
      this.#makeAgain(server);
      return true;
    }
    if (this.settings !== server.settings && !this.unsynced && server.ring.length === 0) {
      const sql = settingsChangeSql(server.settings, this.settings);
      if (sql !== "") {
        this.#setBack(server, sql, txIdle);
        return true;
      }
    }
    return false;
  }

  /** The same inside a transaction, where nothing has become the session's yet. */
  #resetInTransaction(server: Server): boolean {
    const { resets } = this;
    this.resets = undefined;
    if (resets === undefined || this.unsynced || server.ring.length > 0) return false;
    const wanted = new Map<string, string>();
    for (const [name, value] of this.startupSettings.values) {
      if (resets.has("*") || resets.has(name)) wanted.set(name, value);
    }
    if (wanted.size === 0) return false;
    this.#setBack(server, settingsChangeSql(noSettings, settingsOf(wanted)), txOpen);
    return true;
  }

  /** After RESET: the server is at its own defaults, the client's are its startup parameters. */
  #setBack(server: Server, sql: string, status: number): void {
    this.blocked = true;
    this.#heldReady = status;
    server.internal(sql, (result) => {
      if (server.phase === "closed") return;
      if (result.error === undefined && status === txIdle) server.settings = this.settings;
      if (this.reported !== server.reported) server.report(this);
      this.#heldReady = 0;
      this.#send(readyForQuery(status));
      this.blocked = false;
      this.afterReady();
      this.unblock();
    });
  }

  /** The status of a ReadyForQuery that the client is still to get, or 0. */
  #heldReady = 0;

  /** The whole request goes to the server once more, with its stale statement prepared anew. */
  #makeAgain(server: Server): void {
    const kept = Buffer.from((this.kept as Buffer).subarray(0, this.keptLength));
    this.keptLength = 0;
    this.#sendAgain(server, kept, server.preludeSeen, server.rowsSeen);
    this.keptLength = -1; // not a second time
  }

  /** `prelude`: so many of the answers has the client had already, `rows` is the hash of a description among them. */
  #sendAgain(server: Server, kept: Buffer, prelude: number, rows: number): void {
    server.hidePrelude = prelude;
    server.preludeSeen = prelude;
    server.rowsSeen = rows;
    this.blocked = false;
    this.again = true;
    const stopped = consume(this, kept, 0, kept.length);
    this.again = false;
    if (stopped < kept.length) server.close("a request could not be made again");
  }

  staleStatement(statement: Statement | undefined): boolean {
    const server = this.server as Server;
    if (statement === undefined) return false;
    server.dropStatement(statement);
    const { ring } = server;
    const again =
      server.status === txIdle &&
      server.answersSeen === 0 &&
      this.keptLength > 0 &&
      !this.verbatim &&
      !this.unsynced &&
      this.streaming === 0 &&
      ring.length > 0 &&
      ring.kind(ring.length - 1) === owed.sync &&
      ring.count(owed.query) === 0 &&
      ring.count(owed.sync) === 1;
    this.#replay = again;
    return again;
  }

  afterReady(): void {
    const server = this.server;
    if (server === undefined) return;
    if (this.drainFirst && server.ring.countReady() === 0) {
      this.drainFirst = false;
      this.namesPending = false;
      this.unblock();
      return;
    }
    if (server.ring.length > 0) return;
    this.namesPending = false;
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
      const sql = probeSql(this.pool.customNames, this.pool.readFunctionsNow());
      server.internal(sql, (result) => {
        if (server.phase === "closed") return;
        this.#probing = false;
        if (result.error !== undefined) this.pins |= pins.unknown;
        else this.#probed(server, readProbe(result.rows, this.pool.user));
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

  #probed(server: Server, found: ProbeResult): void {
    const before = this.pool.customNames.size;
    for (const [, body] of found.functions) this.pool.noteCustomNames(customNamesIn(body));
    if (this.pool.customNames.size > before) this.needProbe = true; // look again, with the new names
    this.pins = (this.pins & ~probedPins) | found.pins;
    if (found.usedTemp) server.usedTemp = true;
    if (this.verbatim && (found.pins & pins.prepared) === 0) {
      this.verbatim = false;
      this.statements = undefined;
      this.unnamed = undefined;
      server.statements.clear();
    }
    const settings = settingsOf(found.settings);
    server.settings = settings;
    this.settings = settings;
  }

  #letGo(): void {
    const server = this.server;
    if (server === undefined) return;
    this.server = undefined;
    if (this.#pausedForServer) this.serverDrained();
    this.unnamedPortal = undefined;
    this.pool.release(server);
  }

  /**
   * A request can be made again elsewhere if it surely left nothing behind: it began outside of a transaction, no
   * answer has come, and either it only reads, or the server has said (57P01) that it was ended before its commit.
   */
  #repeatable(server: Server): boolean {
    return (
      this.keptLength > 0 &&
      server.status === txIdle &&
      server.answersSeen === 0 &&
      server.ring.countReady() === 1 &&
      !this.unsynced &&
      !server.copyIn &&
      this.streaming === 0 &&
      this.pins === 0 &&
      !this.verbatim &&
      !this.gone
    );
  }

  serverEnding(code: string): boolean {
    const server = this.server as Server;
    if (code === "57P01" && this.#repeatable(server)) {
      this.#notExecuted = true;
      return true;
    }
    // It is being stopped, or has crashed: what that means for the client is told when the connection is gone.
    return (code === "57P01" || code === "57P02") && this.pins === 0 && !this.verbatim;
  }
  #notExecuted = false;

  #freeOf(server: Server): boolean {
    return server.status === txIdle && !this.unsynced && this.pins === 0 && !this.verbatim;
  }

  /** The kept request waits for another server. */
  #repeat(server: Server): void {
    this.#again = Buffer.from((this.kept as Buffer).subarray(0, this.keptLength));
    this.keptLength = 0; // sending it keeps it once more
    this.#againPrelude = server.preludeSeen;
    this.#againRows = server.rowsSeen;
    this.#notExecuted = false;
    this.needProbe = false;
    this.blocked = true;
    const next = this.pool.acquire(this);
    if (next !== undefined) this.granted(next);
  }
  #again: Buffer | undefined;
  #againPrelude = 0;
  #againRows = 0;

  /** The error that the client gets when its server has gone, and whether it can go on. */
  serverLost(reason: string, lastError: Buffer | undefined): void {
    const server = this.server;
    this.server = undefined;
    this.streamTo = undefined;
    if (server === undefined || this.gone) {
      if (this.gone) this.host.clientGone(this);
      return;
    }
    if (this.#notExecuted || (this.requestReads && this.#repeatable(server))) {
      this.#repeat(server);
      return;
    }
    const inFlight = server.ring.countReady() > 0 || (this.unsynced && server.ring.length > 0);
    if (lastError !== undefined || this.pins !== 0 || this.verbatim || this.#probing) {
      if (lastError === undefined) {
        this.#send(
          errorBytes(
            wireError("FATAL", "57P01", `the server connection of this session was lost: ${reason}`, {
              detail: inFlight
                ? "Whether the request in flight was executed is unknown."
                : "No request was in flight.",
              hint: "The session's state on the server is gone with it: connect again.",
            }),
          ),
        );
      }
      this.link.close();
      return;
    }
    if (this.#heldReady !== 0) {
      this.#send(readyForQuery(this.#heldReady));
      this.#heldReady = 0;
    }
    this.#lostInFlight(server, reason, inFlight);
    this.drainFirst = false;
    this.unblock();
  }

  #lostInFlight(server: Server, reason: string, inFlight: boolean): void {
    this.pending = undefined;
    const open = server.status !== txIdle || this.unsynced;
    if (!inFlight && !open) return;
    if (!inFlight || (open && !server.ring.mayDo("commit"))) {
      // Without COMMIT the transaction is certainly not committed.
      this.lost = true;
      if (!inFlight) return;
      this.#send(
        errorBytes(
          wireError(
            "ERROR",
            "40001",
            `the transaction was rolled back: the connection to its server was lost (${reason})`,
            {
              hint: "Nothing of it was committed; the transaction can be repeated.",
            },
          ),
        ),
      );
      this.#endRequests(server, txFailed);
      return;
    }
    this.#send(
      errorBytes(
        wireError("ERROR", "08007", `outcome unknown: the connection to the server was lost (${reason})`, {
          hint: "The request may or may not have been executed: look before you repeat it.",
        }),
      ),
    );
    this.#endRequests(server, txIdle);
  }

  /** One ReadyForQuery for each request that is owed one. */
  #endRequests(server: Server, status: number): void {
    const owedReady = server.ring.countReady();
    for (let each = 0; each < owedReady; each++) {
      if (each > 0)
        this.#send(errorBytes(wireError("ERROR", "08006", "the connection to the server was lost")));
      this.#send(readyForQuery(status));
    }
    if (this.unsynced) {
      this.skipping = true;
      this.unsynced = false;
    }
    this.link.resume();
  }

  drained(): void {
    this.server?.resumeReading();
  }

  serverDrained(): void {
    this.#pausedForServer = false;
    if (!this.blocked) this.link.resume();
  }

  fatal(error: WireError): void {
    this.#send(errorBytes({ ...error, severity: "FATAL" }));
    this.link.close();
  }

  closed(_reason: string): void {
    if (this.gone) return;
    this.gone = true;
    this.drainFirst = false;
    this.link = deadLink;
    this.#inbox = nothing;
    this.#inboxLength = 0;
    this.pool.forget(this);
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

  /** The client has gone and nothing is owed: the session is cleaned for the next one. */
  #leave(): void {
    const server = this.server;
    if (server === undefined) return;
    if (server.status !== txIdle) {
      server.internal("ROLLBACK", () => {
        if (server.phase !== "closed") this.#leave();
      });
      return;
    }
    if (this.pins & (pins.load | pins.opaque | pins.seed | pins.replication)) {
      this.server = undefined;
      server.holder = undefined;
      server.close("its session can't be cleaned");
      this.host.clientGone(this);
      return;
    }
    if (this.pins !== 0 || this.needProbe || this.verbatim) {
      this.pins = 0;
      this.needProbe = false;
      this.verbatim = false;
      server.internal("DISCARD ALL", (result) => {
        if (server.phase === "closed") return;
        server.statements.clear();
        server.settings = noSettings;
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
