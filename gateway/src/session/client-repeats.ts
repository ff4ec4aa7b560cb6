/** Requests that are made again: with a stale statement prepared anew, on the leader, or on the next leader. */

import type { Pool } from "../pool/pool.ts";
import { owed } from "../pool/ring.ts";
import type { Server } from "../pool/server.ts";
import type { Statement } from "../pool/statements.ts";
import { txIdle } from "../wire/codec.ts";
import type { Client } from "./client.ts";
import { ClientSettings } from "./client-settings.ts";
import { describesAll } from "./kept-request.ts";

/** A request that has been under way for longer was begun before, and is being executed. */
const takeBackWithinMs = 2_000;

export abstract class ClientRepeats extends ClientSettings {
  protected replay = false;
  /** From this pool at once, or `granted` comes later. */
  protected abstract acquire(pool: Pool): void;
  protected abstract readonly self: Client;
  /** Handles [start, end); gives where the first message starts that has to be kept. */
  protected abstract consume(bytes: Buffer, start: number, end: number): number;

  /** The whole request goes to the server once more, with its stale statement prepared anew. */
  protected makeAgain(server: Server): void {
    const kept = Buffer.from((this.kept as Buffer).subarray(0, this.keptLength));
    this.keptLength = 0;
    this.sendAgain(server, kept, server.preludeSeen, server.rowsSeen);
    this.keptLength = -1; // not a second time
  }

  /** `prelude`: so many of the answers has the client had already, `rows` is the hash of a description among them. */
  protected sendAgain(server: Server, kept: Buffer, prelude: number, rows: number): void {
    server.hidePrelude = prelude;
    server.preludeSeen = prelude;
    server.rowsSeen = rows;
    this.blocked = false;
    this.again = true;
    const stopped = this.consume(kept, 0, kept.length);
    this.again = false;
    if (stopped === kept.length) return;
    if (stopped === 0 && this.blocked) {
      // Something has to happen on the server first, or it can't be used any more.
      this.againPrelude = prelude;
      this.againRows = rows;
      this.waitingRequest = kept;
    } else server.close("a request could not be made again");
  }

  staleStatement(statement: Statement | undefined): boolean {
    const server = this.server as Server;
    if (statement === undefined) return false;
    const { statements } = this.pool.host;
    statements.epoch++; // who changed them doesn't use this gateway
    const renewed = statements.renew(statement);
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
      ring.count(owed.sync) === 1 &&
      describesAll((this.kept as Buffer).subarray(0, this.keptLength));
    this.replay = again;
    if (again) {
      // The client hears the new description: the new statement is its own from now on.
      if (this.unnamed === statement) this.unnamed = renewed;
      for (const [name, each] of this.statements ?? []) {
        if (each === statement) this.statements?.set(name, renewed);
      }
    }
    return again;
  }

  /** Its next message waits for the description of this statement's rows on the server. */
  askRows(server: Server, statement: Statement): void {
    this.asked = statement;
    this.#asksFirst = !this.unsynced && server.status === txIdle && server.ring.countReady() === 0;
    this.unsynced = true;
    this.blocked = true;
    this.drainFirst = true;
  }
  #asksFirst = false;

  /** Nothing else was asked there: another server is asked; false: there is more to it. */
  protected askElsewhere(): boolean {
    if (this.asked === undefined || !this.#asksFirst) return false;
    this.asked = undefined;
    this.unsynced = false;
    this.drainFirst = false;
    this.acquire(this.pool);
    return true;
  }

  followerFailed(code: string): boolean {
    const server = this.server as Server;
    if (this.asked !== undefined && this.#asksFirst) {
      this.server = undefined;
      server.holder = undefined;
      server.close("a statement can't be prepared there");
      return this.askElsewhere();
    }
    // What the client has cancelled, or its own timeout, is no failure of the follower.
    if (code === "57014" || !this.repeatable(server)) return false;
    this.elsewhere = true;
    return true;
  }
  /** The request has failed where it was for reasons that lie there: it is made again. */
  protected elsewhere = false;

  /**
   * What the leader has only just been asked may have come after it began to hold transactions; there it would wait
   * until that server ends, and nobody could say whether it was executed. Cancelled, it surely wasn't.
   */
  takeBack(): void {
    const { server } = this;
    if (server === undefined || server.retired || server.ring.length === 0 || server.cancels > 0) return;
    if (this.blocked || server.barred || !this.repeatable(server)) return;
    if (this.host.nowMs() - this.requestSinceMs > takeBackWithinMs) return;
    server.takingBack = true;
    server.barred = true;
    this.host.cancelRequest(this.self, server);
  }

  takenBack(): boolean {
    const again = this.repeatable(this.server as Server);
    if (again) this.elsewhere = true;
    return again;
  }

  /**
   * A request can be made again elsewhere if it surely left nothing behind: it began outside of a transaction, no
   * answer has come, and either it only reads, or the server has said (57P01) that it was ended before its commit.
   */
  protected repeatable(server: Server): boolean {
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
    if (code === "57P01" && this.repeatable(server)) {
      this.notExecuted = true;
      return true;
    }
    // It is being stopped, or has crashed: what that means for the client is told when the connection is gone.
    return (code === "57P01" || code === "57P02") && this.pins === 0 && !this.verbatim;
  }
  protected notExecuted = false;

  /** The kept request waits for another server. */
  protected repeat(): void {
    this.waitingRequest = Buffer.from((this.kept as Buffer).subarray(0, this.keptLength));
    this.keptLength = 0; // sending it keeps it once more
    this.notExecuted = false;
    this.elsewhere = false;
    this.needProbe = false;
    this.blocked = true;
    this.acquire(this.pool);
  }
  /** What the client has had of the answers already. */
  protected noteSeen(server: Server): void {
    this.againPrelude = server.preludeSeen;
    this.againRows = server.rowsSeen;
  }
  protected waitingRequest: Buffer | undefined;
  protected againPrelude = 0;
  protected againRows = 0;
}
