/**
 * One connection to a server: what it owes answers to, what state its session is in, and the way of its answers to
 * the client that holds it. Rows pass as ranges of the shared read buffer; only the few messages that tell something
 * about the session's state are looked at.
 */

import { parseLsn } from "../session/position.ts";
import type { Reported, Settings } from "../session/settings.ts";
import { noSettings, nothingReported } from "../session/settings.ts";
import type { Plan } from "../text/plan.ts";
import type { LinkOwner } from "../transport/transport.ts";
import {
  closeCompleteBytes,
  closeStatement,
  parameterStatus,
  parseCompleteBytes,
  query,
} from "../wire/build.ts";
import { be, int32, txIdle } from "../wire/codec.ts";
import { readError, type WireError } from "../wire/errors.ts";
import { rowShape } from "../wire/row-shape.ts";
import type { Endpoint } from "./endpoint.ts";
import type { Holder, InternalResult, ServerOwner } from "./holder.ts";
import { owed } from "./ring.ts";
import { readRow } from "./rows.ts";
import { ServerErrors } from "./server-errors.ts";
import type { ServerLogin } from "./server-login.ts";
import type { Statement } from "./statements.ts";

type Internal = {
  rows: (string | null)[][];
  error: WireError | undefined;
  done: (result: InternalResult) => void;
};

export class Server extends ServerErrors implements LinkOwner {
  readonly id: number;
  readonly owner: ServerOwner;
  login: ServerLogin | undefined;
  reported: Reported = nothingReported;
  settings: Settings = noSettings;
  status: number = txIdle;
  cancelKey: Buffer | undefined;
  /** Cancel requests on their way to this connection's process: it must not be given to another client meanwhile. */
  cancels = 0;
  connectedAtMs = 0;
  usedAtMs = 0;
  endpoint: Endpoint | undefined;
  /** Tells when settings have changed, by whatever means (the extension's report). */
  reportsSettings = false;
  /** The highest position that it has reported: what it showed is told only when that has grown. */
  shownLsn = 0n;
  /** They have, since the last ReadyForQuery outside of a transaction. */
  settingsChanged = false;
  /** A query of our own ends a client's transaction: what it reports is that one's. */
  endsTransaction = false;
  /** Its node leads no more: answers are awaited for a moment, nothing is sent. */
  retired = false;
  lastHolder: Holder | undefined;
  /** It has had temporary objects: temp_buffers can't be changed any more. */
  usedTemp = false;
  /** Of the process that it is a connection to. */
  processId = 0;
  /** What was said while it logged in (by login triggers). */
  loginNotices: readonly Buffer[] = [];
  /** How many have had it, one after the other. */
  turns = 0;
  /** How often in a row the last holder had it: from the second time on, `lastval` is its own. */
  holds = 0;
  #statementIndex = 0;
  #internals: Internal[] = [];

  constructor(id: number, owner: ServerOwner, login: ServerLogin) {
    super();
    this.id = id;
    this.owner = owner;
    this.login = login;
  }

  /** Nothing is owed, no transaction is open. */
  get idle(): boolean {
    return this.ring.length === 0 && this.status === txIdle && !this.copyIn && !this.skipping;
  }

  /** A cancel request of ours may still reach it: it gets nothing that could be hit instead. */
  barred = false;
  /** A query of our own; its answers go to `done`, never to the client. */
  internal(sql: string, done: (result: InternalResult) => void): void {
    this.unnamed = undefined; // as any simple query does
    this.internalMessages(query(sql), done);
  }

  /** Messages of our own that bring one ReadyForQuery. */
  internalMessages(bytes: Buffer, done: (result: InternalResult) => void): void {
    this.#internals.push({ rows: [], error: undefined, done });
    this.ring.push(owed.internal);
    this.link.send(bytes, 0, bytes.length);
  }

  /** Closes all shared statements. */
  closeShared(): void {
    for (const { serverName } of this.statements.takeAll()) {
      const close = closeStatement(serverName.toString());
      this.ring.push(owed.closeHidden);
      this.link.send(close, 0, close.length);
    }
  }

  /** Answers of our own that are due now. */
  override sendMade(): void {
    const { ring, holder } = this;
    for (;;) {
      const head = ring.head;
      if (head === owed.parseMade) {
        if (this.prelude()) holder?.link.send(parseCompleteBytes, 0, 5);
      } else if (head === owed.closeMade) {
        if (this.prelude()) holder?.link.send(closeCompleteBytes, 0, 5);
      } else if (head !== owed.copyEnd) return;
      ring.pop();
    }
  }

  onConnected: (() => void) | undefined;

  connected(): void {
    this.onConnected?.();
  }

  protected override loginMessage(bytes: Buffer, start: number, end: number): void {
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
        this.loginNotices = login.notices;
        if (login.cancelKey !== undefined) this.processId = int32(login.cancelKey, 0);
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
  protected override message(type: number, bytes: Buffer, start: number, end: number): boolean {
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
        return this.prelude();
      case be.bindComplete:
        if (head === owed.bind) ring.pop();
        return this.prelude();
      case be.closeComplete:
        if (head === owed.closeHidden) {
          ring.pop();
          return false;
        }
        if (head === owed.close) ring.pop();
        return this.prelude();
      case be.noData:
        if (head === owed.describeHidden) return this.#describedHidden(1);
        if (head === owed.describe) ring.pop();
        return this.prelude();
      case be.parameterDescription: {
        const statement = ring.statement(0);
        if (statement !== undefined) {
          const types = this.statements.noteTypes(statement, bytes, start, end);
          if (head === owed.describe && types !== undefined) this.holder?.describedTypes(statement, types);
        }
        if (head === owed.describeHidden) return false;
        this.answersSeen++;
        return true;
      }
      case be.rowDescription: {
        const shape = rowShape(bytes, start, end);
        if (head === owed.describeHidden) return this.#describedHidden(shape);
        if (head === owed.describe) {
          const statement = ring.statement(0);
          ring.pop();
          if (statement !== undefined) {
            this.statements.noteRows(statement, shape);
            this.holder?.described(statement, shape);
          }
        }
        return this.rowDescription(shape);
      }
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
        return this.error(bytes, start, end);
      case be.notification:
        return this.#notification(bytes, start, end);
      case be.notice:
        // A warning of a server that is being stopped: what it means for the client is told when it's gone.
        return bytes[start + 6] !== 0x57 || !stopping.test(readError(bytes, start, end).code);
      case be.parameterStatus: {
        const stop = bytes.indexOf(0, start + 5);
        const name = bytes.utf8Slice(start + 5, stop);
        const value = bytes.utf8Slice(stop + 1, end - 1);
        if (name.startsWith("quorate.") && name !== "quorate.read") {
          if (name === "quorate.settings_changes") {
            if (head !== owed.internal || this.endsTransaction) this.settingsChanged = true;
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

  /** Its rows are known here now: the client that waits for that goes on. */
  #describedHidden(shape: number): boolean {
    this.statements.noteRows(this.ring.statement(0) as Statement, shape);
    this.ring.pop();
    this.skipsFrom = this.holder;
    return false;
  }

  /** Says who has notified by the process id that this client was told of itself, not by the server's. */
  #notification(bytes: Buffer, start: number, end: number): boolean {
    const told = this.owner.clientOf(int32(bytes, start + 5));
    if (told === 0) return true;
    const renamed = Buffer.from(bytes.subarray(start, end));
    renamed.writeInt32BE(told, 5);
    this.instead = renamed;
    return false;
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

  protected override ready(bytes: Buffer, run: number, start: number, end: number): void {
    const { ring, holder } = this;
    const head = ring.head;
    const status = bytes[start + 5] as number;
    this.#statementIndex = 0;
    if (head === owed.internal) {
      this.forward(bytes, run, start);
      ring.pop();
      this.status = status;
      if (ring.length > 0) this.sendMade();
      const internal = this.#internals.shift() as Internal;
      internal.done({ error: internal.error, rows: internal.rows });
      return;
    }
    if (head !== owed.query && head !== owed.sync && head !== owed.functionCall) {
      this.broken(`ready without having been asked (${head} ${ring.length})`, end);
      return;
    }
    ring.pop();
    this.status = status;
    this.copyIn = false;
    this.cancelReason = undefined;
    this.takingBack = false;
    const hold = holder?.beforeReady(status) === true;
    this.errored = false;
    if (holder === undefined) return;
    if (hold) this.forward(bytes, run, start);
    else if (holder.reported === this.reported) this.forward(bytes, run, end);
    else {
      this.forward(bytes, run, start);
      this.report(holder);
      this.forward(bytes, start, end);
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
  report(holder: Pick<Holder, "link" | "reported">): void {
    for (const [name, value] of this.reported.values) {
      if (holder.reported.values.get(name) !== value) {
        const bytes = parameterStatus(name, value);
        holder.link.send(bytes, 0, bytes.length);
      }
    }
    holder.reported = this.reported;
  }

  protected override internalMessage(type: number, bytes: Buffer, start: number, end: number): boolean {
    const internal = this.#internals[0] as Internal;
    if (type === be.dataRow) internal.rows.push(readRow(bytes, start));
    else if (type === be.error) internal.error = readError(bytes, start, end);
    else if (type === be.parameterStatus) this.message(type, bytes, start, end);
    else if (type === be.notification) return this.#notification(bytes, start, end);
    return false;
  }

  resumeReading(): void {
    if (!this.paused) return;
    this.paused = false;
    this.link.resume();
  }

  drained(): void {
    this.holder?.serverDrained();
  }

  /** Its connection doesn't exist any more. */
  onGone: (() => void) | undefined;

  closed(reason: string): void {
    this.onGone?.();
    this.onGone = undefined;
    if (this.phase === "closed") return;
    this.close(reason);
  }

  override close(reason: string): void {
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
    holder?.serverLost(reason, this.lastError);
  }
}

/** Codes of a server that is being stopped, or has crashed. */
const stopping = /^57P0[12]$/;
