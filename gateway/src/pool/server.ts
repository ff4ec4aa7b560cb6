/**
 * One connection to a server: what it owes answers to, what state its session is in, and the way of its answers to
 * the client that holds it. Rows pass as ranges of the shared read buffer; only the few messages that tell something
 * about the session's state are looked at.
 */

import { parseLsn } from "../session/position.ts";
import type { Reported, Settings } from "../session/settings.ts";
import { noSettings, nothingReported } from "../session/settings.ts";
import type { Effect, Plan } from "../text/plan.ts";
import { type Link, type LinkOwner, queueHighBytes } from "../transport/transport.ts";
import { closeCompleteBytes, message, parameterStatus, parseCompleteBytes, query } from "../wire/build.ts";
import { be, int32, maxMessageBytes, txIdle } from "../wire/codec.ts";
import { readError, readErrorFields, type WireError } from "../wire/errors.ts";
import type { Endpoint } from "./pool.ts";
import { owed, Ring } from "./ring.ts";
import { readRow } from "./rows.ts";
import type { ServerLogin } from "./server-login.ts";
import { type Statement, serverNamePrefix } from "./statements.ts";

/** What a server needs of the client that holds it. */
export interface Holder {
  /** The client has left; what it had asked for is still being answered. */
  readonly gone: boolean;
  readonly link: Link;
  /** What the client has been told of the server's parameters. */
  reported: Reported;
  /** A statement with an effect on the session has completed. */
  completed(effect: Effect, rolledBack: boolean): void;
  /** A Parse or Close that had been noted was not executed: `name` stands for `statement` again. */
  undo(name: string, statement: Statement | undefined): void;
  /** An error has come in front of the Sync that the client has yet to send. */
  serverSkips(): void;
  /** ReadyForQuery has come; true holds it back, the client will be told later. */
  beforeReady(status: number): boolean;
  /** ReadyForQuery has been forwarded (or held back). */
  afterReady(): void;
  /** The error of the entry of kind `failing`. */
  failingError(): Buffer;
  /** A stale plan; true if the request will be made again, the error is not for the client then. */
  staleStatement(statement: Statement | undefined): boolean;
  /** The server's last words; true if the client needn't hear them, because its request will be made again. */
  serverEnding(code: string): boolean;
  /** A follower has refused; true if the leader is asked instead, the error is not for the client then. */
  followerFailed(code: string): boolean;
  serverLost(reason: string, error: Buffer | undefined): void;
  serverDrained(): void;
}

export type InternalResult = {
  readonly error: WireError | undefined;
  readonly rows: readonly (readonly (string | null)[])[];
};

export type ServerOwner = {
  /** Logged in: `settings` and `reported` are set. */
  serverReady(server: Server): void;
  serverFailed(server: Server, error: WireError, raw: Buffer | undefined): void;
  serverClosed(server: Server, reason: string): void;
  /** Its session is clean: it is free again. */
  release(server: Server): void;
};

type Internal = {
  rows: (string | null)[][];
  error: WireError | undefined;
  done: (result: InternalResult) => void;
};

/** Messages that must be here as a whole before they are handled. */
const whole = new Uint8Array(256);
for (const type of [
  be.commandComplete,
  be.readyForQuery,
  be.error,
  be.notice,
  be.parameterStatus,
  be.rowDescription,
  be.parseComplete,
  be.bindComplete,
  be.closeComplete,
  be.noData,
  be.portalSuspended,
  be.emptyQuery,
  be.authentication,
  be.backendKeyData,
  be.negotiateVersion,
]) {
  whole[type] = 1;
}
/** Shared statements on one connection. */
const mostStatements = 500;

/** A server that sends a longer control message than this is broken. */
const longestControl = 16 * 1024 * 1024;

export class Server implements LinkOwner {
  link!: Link;
  readonly id: number;
  readonly owner: ServerOwner;
  readonly ring = new Ring();
  phase: "login" | "ready" | "closed" = "login";
  login: ServerLogin | undefined;
  holder: Holder | undefined;
  reported: Reported = nothingReported;
  settings: Settings = noSettings;
  /** Shared statements that this connection has. */
  readonly statements = new Set<Statement>();
  unnamed: Statement | undefined;
  status: number = txIdle;
  /** An extended-protocol error has come: the server ignores everything until Sync. */
  skipping = false;
  copyIn = false;
  cancelKey: Buffer | undefined;
  /** Cancel requests on their way to this connection's process: it must not be given to another client meanwhile. */
  cancels = 0;
  /** How many such answers the client already had before its request was made again. */
  hidePrelude = 0;
  /** Answers that the client has seen since its request began … */
  answersSeen = 0;
  /** … and those that only say that parsing, binding or closing worked. */
  preludeSeen = 0;
  /** A hash of the description of rows among these. */
  rowsSeen = 0;
  hideReady = false;
  connectedAtMs = 0;
  usedAtMs = 0;
  endpoint: Endpoint | undefined;
  /** Its node follows: what fails there is asked of the leader. */
  reader = false;
  /** Tells when settings have changed, by whatever means (the extension's report). */
  reportsSettings = false;
  /** The highest position that it has reported: what it showed is told only when that has grown. */
  shownLsn = 0n;
  /** They have, since the last ReadyForQuery outside of a transaction. */
  settingsChanged = false;
  /** Its node leads no more: answers are awaited for a moment, nothing is sent. */
  retired = false;
  lastHolder: Holder | undefined;
  /** It has had temporary objects: temp_buffers can't be changed any more. */
  usedTemp = false;
  /** How often in a row the last holder had it: from the second time on, `lastval` is its own. */
  holds = 0;
  #errored = false;
  #statementIndex = 0;
  #passing = 0;
  #passOn = false;
  #carry: Buffer = emptyBuffer;
  #carryLength = 0;
  #paused = false;
  #internals: Internal[] = [];
  #skipsFrom: Holder | undefined;
  /** What the client gets in the place of the message that is being handled. */
  #instead: Buffer | undefined;
  /** The server's last words, if it said any (57P01 …). */
  #lastError: Buffer | undefined;

  constructor(id: number, owner: ServerOwner, login: ServerLogin) {
    this.id = id;
    this.owner = owner;
    this.login = login;
  }

  /** Nothing is owed, no transaction is open. */
  get idle(): boolean {
    return this.ring.length === 0 && this.status === txIdle && !this.copyIn && !this.skipping;
  }

  /** An error has come since the last ReadyForQuery. */
  get errored(): boolean {
    return this.#errored;
  }

  /** A query of our own; its answers go to `done`, never to the client. */
  internal(sql: string, done: (result: InternalResult) => void): void {
    this.#internals.push({ rows: [], error: undefined, done });
    this.ring.push(owed.internal);
    this.unnamed = undefined; // as any simple query does
    const bytes = query(sql);
    this.link.send(bytes, 0, bytes.length);
  }

  /** Its plan is stale: it will be prepared anew when it's needed. */
  dropStatement(statement: Statement): void {
    this.statements.delete(statement);
    this.#stale ??= new Set();
    this.#stale.add(statement);
  }
  #stale: Set<Statement> | undefined;

  /** The oldest shared statement, when there are too many; no longer one of this connection's. */
  evict(): Statement | undefined {
    if (this.statements.size < mostStatements) return undefined;
    for (const oldest of this.statements) {
      this.statements.delete(oldest);
      return oldest;
    }
    return undefined;
  }

  /** True, once, for a statement whose old plan is still there under its name. */
  takeStale(statement: Statement): boolean {
    return this.#stale?.delete(statement) ?? false;
  }

  /** Answers of our own that are due now. */
  sendMade(): void {
    const { ring, holder } = this;
    for (;;) {
      const head = ring.head;
      if (head === owed.parseMade) {
        if (this.#prelude()) holder?.link.send(parseCompleteBytes, 0, 5);
      } else if (head === owed.closeMade) {
        if (this.#prelude()) holder?.link.send(closeCompleteBytes, 0, 5);
      } else if (head !== owed.copyEnd) return;
      ring.pop();
    }
  }

  onConnected: (() => void) | undefined;

  connected(): void {
    this.onConnected?.();
  }

  data(bytes: Buffer, start: number, end: number): void {
    let at = start;
    if (this.#passing > 0) {
      const part = Math.min(this.#passing, end - at);
      if (this.#passOn) this.holder?.link.send(bytes, at, at + part);
      this.#passing -= part;
      at += part;
    }
    if (this.#carryLength > 0 && at < end) at = this.#finishCarry(bytes, at, end);
    if (at < end) {
      at = this.#scan(bytes, at, end);
      if (at < end && this.phase !== "closed") this.#keep(bytes, at, end);
    }
    const holder = this.holder;
    if (holder !== undefined && !this.#paused && holder.link.queued > queueHighBytes) {
      this.#paused = true;
      this.link.pause();
    }
  }

  #keep(bytes: Buffer, start: number, end: number): void {
    const length = this.#carryLength + end - start;
    if (this.#carry.length < length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(64, length * 2));
      larger.set(this.#carry.subarray(0, this.#carryLength));
      this.#carry = larger;
    }
    this.#carry.set(bytes.subarray(start, end), this.#carryLength);
    this.#carryLength = length;
  }

  /** Completes the message whose beginning has been kept; gives where its end is in `bytes`. */
  #finishCarry(bytes: Buffer, start: number, end: number): number {
    let at = start;
    if (this.#carryLength < 5) {
      const stop = Math.min(end, at + 5 - this.#carryLength);
      this.#keep(bytes, at, stop);
      at = stop;
      if (this.#carryLength < 5) return end;
    }
    const total = int32(this.#carry, 1) + 1;
    const needsAll =
      whole[this.#carry[0] as number] === 1 || this.ring.head === owed.internal || this.phase === "login";
    if (needsAll && total > this.#carryLength && total <= longestControl) {
      const stop = Math.min(end, at + total - this.#carryLength);
      this.#keep(bytes, at, stop);
      at = stop;
      if (this.#carryLength < total) return end;
    }
    const carry = this.#carry;
    const length = this.#carryLength;
    this.#carryLength = 0;
    this.#scan(carry, 0, length);
    if (this.#carry.length > 65_536) this.#carry = emptyBuffer;
    if (this.#passing > 0 && at < end) {
      const part = Math.min(this.#passing, end - at);
      if (this.#passOn) this.holder?.link.send(bytes, at, at + part);
      this.#passing -= part;
      at += part;
    }
    return at;
  }

  #forward(bytes: Buffer, start: number, end: number): void {
    if (end > start) this.holder?.link.send(bytes, start, end);
  }

  /** Handles all messages in [start, end); gives where the first incomplete one starts that must be complete. */
  #scan(bytes: Buffer, start: number, end: number): number {
    let at = start;
    let run = start;
    while (end - at >= 5) {
      const type = bytes[at] as number;
      const length = int32(bytes, at + 1);
      if (length < 4 || length > maxMessageBytes) return this.#broken(`message of length ${length}`, end);
      const next = at + length + 1;
      const internal = this.ring.head === owed.internal;
      if ((type === be.dataRow || type === be.copyData) && !internal) {
        if (next <= end) {
          at = next;
          continue;
        }
        this.#forward(bytes, run, end);
        this.answersSeen++;
        this.#passing = next - end;
        this.#passOn = true;
        return end;
      }
      if (next > end && (internal || whole[type] === 1 || this.phase === "login")) {
        if (length > longestControl) return this.#broken(`control message of length ${length}`, end);
        break;
      }
      const upTo = Math.min(next, end);
      if (this.phase === "login") {
        run = next; // nothing of a login is for a client, not even for one that gets the server at its end
        this.#loginMessage(bytes, at, next);
      } else if (type === be.readyForQuery) {
        this.#ready(bytes, run, at, next);
        run = next;
      } else {
        const passOn = internal
          ? this.#internalMessage(type, bytes, at, next)
          : this.#message(type, bytes, at, next);
        if (!passOn) {
          this.#forward(bytes, run, at);
          run = upTo;
          if (this.#instead !== undefined) {
            this.holder?.link.send(this.#instead, 0, this.#instead.length);
            this.#instead = undefined;
          }
        }
        if (this.#skipsFrom !== undefined && next <= end) {
          this.#forward(bytes, run, next);
          run = next;
          const skips = this.#skipsFrom;
          this.#skipsFrom = undefined;
          skips.serverSkips();
        }
        const head = this.ring.head;
        if (head === owed.parseMade || head === owed.closeMade || head === owed.copyEnd) {
          this.#forward(bytes, run, upTo);
          run = upTo;
          this.sendMade();
        }
        if (next > end) {
          this.#forward(bytes, run, end);
          this.#passing = next - end;
          this.#passOn = passOn;
          return end;
        }
      }
      if (this.phase === "closed") return end;
      at = next;
    }
    this.#forward(bytes, run, at);
    return at;
  }

  #broken(reason: string, end: number): number {
    this.close(`the server broke the protocol: ${reason}`);
    return end;
  }

  #loginMessage(bytes: Buffer, start: number, end: number): void {
    const login = this.login as ServerLogin;
    const step = login.message(bytes, start, end);
    switch (step.kind) {
      case "wait":
        return;
      case "send":
        this.link.send(step.bytes, 0, step.bytes.length);
        return;
      case "ready":
        this.reported = login.reported;
        this.reportsSettings = login.reportsSettings;
        this.cancelKey = login.cancelKey;
        this.login = undefined;
        this.phase = "ready";
        this.owner.serverReady(this);
        return;
      case "failed":
        this.phase = "closed";
        this.link.close();
        this.owner.serverFailed(this, step.error, step.raw);
        return;
    }
  }

  /** True: the client gets it. */
  #message(type: number, bytes: Buffer, start: number, end: number): boolean {
    const { ring } = this;
    const head = ring.head;
    switch (type) {
      case be.parseComplete:
        if (head === owed.parseHidden) {
          ring.pop();
          return false;
        }
        if (head !== owed.parse) return true;
        ring.pop();
        return this.#prelude();
      case be.bindComplete:
        if (head === owed.bind) ring.pop();
        return this.#prelude();
      case be.closeComplete:
        if (head === owed.closeHidden) {
          ring.pop();
          return false;
        }
        if (head === owed.close) ring.pop();
        return this.#prelude();
      case be.noData:
        if (head === owed.describe) ring.pop();
        return this.#prelude();
      case be.parameterDescription:
        this.answersSeen++;
        return true;
      case be.rowDescription:
        if (head === owed.describe) ring.pop();
        return this.#rowDescription(bytes, start, end);
      case be.commandComplete:
        this.#complete(bytes, start, end, ring.plan(0), head);
        this.answersSeen++;
        return true;
      case be.emptyQuery:
      case be.portalSuspended:
        if (head === owed.execute) ring.pop();
        this.answersSeen++;
        return true;
      case be.copyIn:
        this.#copyInBegins();
        return true;
      case be.error:
        return this.#error(bytes, start, end);
      case be.notice:
        // A warning of a server that is being stopped: what it means for the client is told when it's gone.
        return bytes[start + 6] !== 0x57 || !stopping.test(readError(bytes, start, end).code);
      case be.parameterStatus: {
        const stop = bytes.indexOf(0, start + 5);
        const name = bytes.utf8Slice(start + 5, stop);
        const value = bytes.utf8Slice(stop + 1, end - 1);
        if (name.startsWith("quorate.") && name !== "quorate.read") {
          if (name === "quorate.settings_changes") {
            if (head !== owed.internal) this.settingsChanged = true;
            return false;
          }
          const lsn = parseLsn(value);
          if (lsn > this.shownLsn) this.shownLsn = lsn;
          return head !== owed.internal;
        } else if (name !== "in_hot_standby" || !this.reader) this.reported = this.reported.with(name, value);
        return false; // the client is told just before ReadyForQuery
      }
      default:
        return true;
    }
  }

  /** Answers that are the same wherever a request is made; those that the client has had already are hidden. */
  #prelude(): boolean {
    if (this.hidePrelude > 0) {
      this.hidePrelude--;
      return false;
    }
    this.preludeSeen++;
    return true;
  }

  /** The one that a client has had already must be the same as that of the request when it is made again. */
  #rowDescription(bytes: Buffer, start: number, end: number): boolean {
    let hash = 0x811c9dc5 | 0;
    for (let at = start; at < end; at++) hash = Math.imul(hash ^ (bytes[at] as number), 0x01000193);
    if (this.rowsSeen !== 0 && this.hidePrelude === 0) this.answersSeen++;
    const hidden = !this.#prelude();
    if (hidden && hash !== this.rowsSeen) {
      this.answersSeen++;
      this.close("the columns of a request have changed since it was made first");
    }
    this.rowsSeen = hash;
    return !hidden;
  }

  #complete(bytes: Buffer, start: number, end: number, plan: Plan | undefined, head: number): void {
    if (plan?.effects) {
      const effect = plan.effects[head === owed.query ? this.#statementIndex++ : 0];
      if (effect !== undefined && effect.kind !== "none") {
        this.holder?.completed(effect, bytes.latin1Slice(start + 5, end - 1) === "ROLLBACK");
      }
    }
    if (head === owed.execute) this.ring.pop();
    if (this.copyIn) this.copyIn = false;
  }

  /** The server ignores Sync while it copies in, so those that were sent meanwhile get no answer. */
  #copyInBegins(): void {
    const { ring } = this;
    for (let index = 1; index < ring.length; ) {
      const kind = ring.kind(index);
      if (kind === owed.copyEnd) return; // the client had sent all of it already
      if (kind === owed.sync) ring.remove(index);
      else index++;
    }
    this.copyIn = true;
    if (this.holder?.gone) this.close("its client left before it sent its data");
  }

  #error(bytes: Buffer, start: number, end: number): boolean {
    const { ring, holder } = this;
    const head = ring.head;
    this.#errored = true;
    this.copyIn = false;
    const severity = bytes[start + 6];
    if (severity === 0x46 || severity === 0x50) {
      if (holder?.serverEnding(readError(bytes, start, end).code)) return false;
      this.#lastError = Buffer.from(bytes.subarray(start, end));
      return true;
    }
    if (this.reader && holder?.followerFailed(readError(bytes, start, end).code)) {
      if (head !== owed.query) this.#skipToSync();
      return false;
    }
    if (head === owed.none) {
      // Nothing is owed: the server will ignore everything up to a Sync.
      this.skipping = true;
      if (holder?.gone) this.close("its client left in the middle of a request");
      return true;
    }
    if (head === owed.query || head === owed.functionCall) return true;
    let passOn = true;
    if (head === owed.failing && holder !== undefined) {
      this.#instead = holder.failingError();
      passOn = false;
    } else if (head !== owed.sync) {
      const fields = readErrorFields(bytes, start, end);
      if (fields.get("C") === "0A000" && fields.get("R") === "RevalidateCachedQuery") {
        const statement = ring.statement(0);
        if (statement !== undefined) this.statements.delete(statement);
        const again = holder?.staleStatement(statement) ?? false;
        if (again) passOn = false;
      } else if (passOn && fields.get("M")?.includes(serverNamePrefix)) {
        this.#sayClientsName(bytes, start, end);
        passOn = false;
        this.answersSeen++;
      }
    }
    this.#skipToSync();
    if (passOn) this.answersSeen++;
    return passOn;
  }

  /** An error that names a shared statement: the client gets it with its own name. */
  #sayClientsName(bytes: Buffer, start: number, end: number): void {
    const name = this.ring.name(0) ?? "";
    const text = bytes.utf8Slice(start + 5, end).replace(sharedName, name);
    this.#instead = message(be.error, text);
  }

  /** After an error in the extended protocol everything up to Sync has been ignored: as if it had never been noted. */
  #skipToSync(): void {
    const { ring, holder } = this;
    const sync = ring.find(owed.sync);
    const skipped = sync < 0 ? ring.length : sync;
    for (let index = skipped - 1; index >= 0; index--) {
      const kind = ring.kind(index);
      const statement = ring.statement(index);
      if (kind === owed.parse || kind === owed.parseHidden) {
        if (statement !== undefined) {
          this.statements.delete(statement);
          if (this.unnamed === statement) this.unnamed = undefined;
        }
      }
      const name = ring.name(index);
      if (name !== undefined && kind !== owed.bind && kind !== owed.describe) {
        // A Parse that failed has dropped the unnamed statement all the same.
        const previous = index === 0 && name === "" ? undefined : ring.previous(index);
        holder?.undo(name, previous);
      }
    }
    const first = ring.head;
    for (let index = 0; index < skipped; index++) {
      if ((index > 0 || first !== owed.failing) && ring.head === owed.failing) holder?.failingError();
      ring.pop();
    }
    this.hidePrelude = 0;
    if (sync >= 0) return;
    this.skipping = true;
    this.#skipsFrom = holder;
    if (holder?.gone) this.close("its client left in the middle of a request");
  }

  #ready(bytes: Buffer, run: number, start: number, end: number): void {
    const { ring, holder } = this;
    const head = ring.head;
    const status = bytes[start + 5] as number;
    this.#statementIndex = 0;
    if (head === owed.internal) {
      this.#forward(bytes, run, start);
      ring.pop();
      this.status = status;
      if (ring.length > 0) this.sendMade();
      const internal = this.#internals.shift() as Internal;
      internal.done({ error: internal.error, rows: internal.rows });
      return;
    }
    if (head !== owed.query && head !== owed.sync && head !== owed.functionCall && head !== owed.syncHidden) {
      this.#broken(`ready without having been asked (${head} ${ring.length})`, end);
      return;
    }
    ring.pop();
    this.status = status;
    this.copyIn = false;
    let hold = head === owed.syncHidden || this.hideReady;
    this.hideReady = false;
    if (holder?.beforeReady(status)) hold = true;
    this.#errored = false;
    if (holder === undefined) return;
    if (hold) this.#forward(bytes, run, start);
    else if (holder.reported === this.reported) this.#forward(bytes, run, end);
    else {
      this.#forward(bytes, run, start);
      this.report(holder);
      this.#forward(bytes, start, end);
    }
    if (ring.length > 0) this.sendMade();
    else {
      this.answersSeen = 0;
      this.preludeSeen = 0;
      this.rowsSeen = 0;
    }
    holder.afterReady();
  }

  /** Tells the client what differs from what it knows. */
  report(holder: Holder): void {
    for (const [name, value] of this.reported.values) {
      if (holder.reported.values.get(name) !== value) {
        const bytes = parameterStatus(name, value);
        holder.link.send(bytes, 0, bytes.length);
      }
    }
    holder.reported = this.reported;
  }

  #internalMessage(type: number, bytes: Buffer, start: number, end: number): boolean {
    const internal = this.#internals[0] as Internal;
    if (type === be.dataRow) internal.rows.push(readRow(bytes, start));
    else if (type === be.error) internal.error = readError(bytes, start, end);
    else if (type === be.parameterStatus) this.#message(type, bytes, start, end);
    else if (type === be.notification) return true;
    return false;
  }

  resumeReading(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.link.resume();
  }

  drained(): void {
    this.holder?.serverDrained();
  }

  closed(reason: string): void {
    if (this.phase === "closed") return;
    this.close(reason);
  }

  close(reason: string): void {
    if (this.phase === "closed") return;
    const inLogin = this.phase === "login";
    this.phase = "closed";
    this.link.destroy();
    const holder = this.holder;
    this.holder = undefined;
    const internals = this.#internals;
    this.#internals = [];
    if (inLogin) {
      const error: WireError = {
        severity: "FATAL",
        code: "08006",
        message: `could not connect to the server: ${reason}`,
      };
      this.owner.serverFailed(this, error, undefined);
    } else this.owner.serverClosed(this, reason);
    for (const each of internals) {
      each.done({ error: { severity: "FATAL", code: "08006", message: reason }, rows: [] });
    }
    holder?.serverLost(reason, this.#lastError);
  }
}

/** Codes of a server that is being stopped, or has crashed. */
const stopping = /^57P0[12]$/;
const sharedName = new RegExp(`${serverNamePrefix}\\d+`, "g");
const emptyBuffer: Buffer = Buffer.alloc(0);
