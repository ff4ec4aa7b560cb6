/** A server's errors: which are the client's, which are answered otherwise, and what has come to nothing with them. */
import { message } from "../wire/build.ts";
import { be } from "../wire/codec.ts";
import { errorBytes, readError, readErrorFields, type WireError } from "../wire/errors.ts";
import { Prepared } from "./prepared.ts";
import { owed } from "./ring.ts";
import { ServerAnswers } from "./server-answers.ts";
import { type Statement, serverNamePrefix } from "./statements.ts";

const sharedName = new RegExp(`${serverNamePrefix}\\d+`, "g");

export abstract class ServerErrors extends ServerAnswers {
  readonly statements = new Prepared();
  unnamed: Statement | undefined;
  /** An extended-protocol error has come: the server ignores everything until Sync. */
  skipping = false;
  copyIn = false;
  /** Its node follows: what fails there is asked of the leader. */
  reader = false;
  /** The request in flight is being cancelled to be made again elsewhere. */
  takingBack = false;
  /** The request in flight is being cancelled for this reason. */
  cancelReason: WireError | undefined;
  /** An error has come since the last ReadyForQuery. */
  errored = false;
  /** The server's last words, if it said any (57P01 …). */
  protected lastError: Buffer | undefined;

  /** True: the client gets it. */
  protected error(bytes: Buffer, start: number, end: number): boolean {
    const { ring, holder } = this;
    const head = ring.head;
    this.errored = true;
    this.copyIn = false;
    const severity = bytes[start + 6];
    if (severity === 0x46 || severity === 0x50) {
      const error = readError(bytes, start, end);
      if (holder === undefined || holder.serverEnding(error.code)) {
        // The end of the connection may come later: until then it must be given to nobody, and asked nothing more.
        if (holder === undefined || ring.length === 0) this.close(error.message);
        return false;
      }
      this.lastError = Buffer.from(bytes.subarray(start, end));
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
    if (this.takingBack && readError(bytes, start, end).code === "57014" && holder?.takenBack()) {
      if (head !== owed.query) this.#skipToSync();
      return false;
    }
    const reason = this.cancelReason;
    if (reason !== undefined && readError(bytes, start, end).code === reason.code) {
      this.instead = errorBytes(reason);
      if (head === owed.query || head === owed.functionCall) return false;
      this.#skipToSync();
      this.answersSeen++;
      return false;
    }
    if (head === owed.query || head === owed.functionCall) return true;
    let passOn = true;
    if (head === owed.failing && holder !== undefined) {
      this.instead = holder.failingError();
      passOn = false;
    } else if (head !== owed.sync) {
      const fields = readErrorFields(bytes, start, end);
      if (fields.get("C") === "0A000" && fields.get("R") === "RevalidateCachedQuery") {
        const statement = ring.statement(0);
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
    this.instead = message(be.error, text);
  }

  /** After an error in the extended protocol everything up to Sync has been ignored: as if it had never been noted. */
  #skipToSync(): void {
    const { ring, holder } = this;
    const sync = ring.find(owed.sync);
    const skipped = sync < 0 ? ring.length : sync;
    let unnamed: { readonly was: Statement | undefined } | undefined;
    for (let index = skipped - 1; index >= 0; index--) {
      const kind = ring.kind(index);
      const statement = ring.statement(index);
      if (kind === owed.parse || kind === owed.parseHidden) {
        if (statement !== undefined) {
          this.statements.drop(statement); // an older one may be there yet: its Close was ignored as well
          if (this.unnamed === statement) this.unnamed = undefined;
        }
      }
      const name = ring.name(index);
      if (name !== undefined && kind !== owed.bind && kind !== owed.describe) {
        // A Parse that failed has dropped the unnamed statement all the same.
        if (name === "") unnamed = { was: index === 0 ? undefined : ring.previous(index) };
        else holder?.undo(name, ring.previous(index));
      }
    }
    if (unnamed !== undefined && !ring.restoreUnnamed(skipped, unnamed.was)) holder?.undo("", unnamed.was);
    const first = ring.head;
    for (let index = 0; index < skipped; index++) {
      if ((index > 0 || first !== owed.failing) && ring.head === owed.failing) holder?.failingError();
      ring.pop();
    }
    this.hidePrelude = 0;
    if (sync >= 0) return;
    this.skipping = true;
    this.skipsFrom = holder;
    if (holder?.gone) this.close("its client left in the middle of a request");
  }
}
