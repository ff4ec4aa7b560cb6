/** What a server connection needs of those around it: the client that holds it, and the pool that it belongs to. */
import type { Reported } from "../session/settings.ts";
import type { Effect } from "../text/plan.ts";
import type { Link } from "../transport/transport.ts";
import type { WireError } from "../wire/errors.ts";
import type { Server } from "./server.ts";
import type { Statement } from "./statements.ts";

/** What a server needs of the client that holds it. */
export interface Holder {
  /** The client has left; what it had asked for is still being answered. */
  readonly gone: boolean;
  readonly link: Link;
  /** The process id that it was told; 0: none. */
  readonly processId: number;
  /** What the client has been told of the server's parameters. */
  reported: Reported;
  /** A statement with an effect on the session has completed. */
  completed(effect: Effect, rolledBack: boolean): void;
  /** A Parse or Close that had been noted was not executed: `name` stands for `statement` again. */
  undo(name: string, statement: Statement | undefined): void;
  /** The client is told of this statement's rows. */
  described(statement: Statement, shape: number): void;
  /** The client is told of the types of this statement's parameters. */
  describedTypes(statement: Statement, types: Buffer): void;
  /** An error has come in front of the Sync that the client has yet to send, or what it waits for is known. */
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
  /** The leader is about to hand over: what has just been asked may be held by it, and is taken back if it can be. */
  takeBack(): void;
  /** The server has cancelled what is taken back; true if the request will be made again. */
  takenBack(): boolean;
  serverLost(reason: string, error: Buffer | undefined): void;
  /** Others wait: true if it was kept for something that can be done without, and has been let go. */
  yieldServer(): boolean;
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
  /** The process id that the client was told who has, or had last, the server with this one; 0: nobody's. */
  clientOf(processId: number): number;
  /** Its session can't be cleaned: it ends. */
  dismiss(server: Server, reason: string): void;
};
