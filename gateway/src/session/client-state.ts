/** All that is known of a client after its login, but for what client.ts keeps to itself. */
import type { Pool } from "../pool/pool.ts";
import type { Server } from "../pool/server.ts";
import type { Statement } from "../pool/statements.ts";
import { leaderLevel, type ReadLevel } from "../route/choose-follower.ts";
import type { Link } from "../transport/transport.ts";
import type { ClientHost } from "./client-host.ts";
import type { PendingSettings } from "./pending-settings.ts";
import { nothingReported, type Reported, type Settings } from "./settings.ts";

/** A client may describe any number of texts without a name. */
const mostTold = 2_000;

export abstract class ClientState {
  link: Link;
  readonly host: ClientHost;
  readonly pool: Pool;
  readonly id: number;
  server: Server | undefined;
  settings: Settings;
  /** What RESET goes back to: the startup parameters. */
  startupSettings: Settings;
  /** Reads may be answered by followers. */
  routes = false;
  level: ReadLevel = leaderLevel;
  /** On the port for reads: everything goes to followers. */
  readonly readOnly: boolean;
  /** The highest position that the session has written or seen, as far as reported. */
  seenLsn = 0n;
  /** The follower that answered last. */
  lastReader: string | undefined;
  /** Something else than known effects has run since the last ReadyForQuery outside of a transaction. */
  otherWork = false;
  /** The transaction has changed definitions of any kind. */
  changesDefinitions = false;
  /** The transaction has changed what sessions begin with. */
  changesDefaults = false;
  /** The transaction has changed who may log in, or with which password. */
  changesLogins = false;
  reported: Reported = nothingReported;
  /** The client's names of shared statements. */
  statements: Map<string, Statement> | undefined;
  unnamed: Statement | undefined;
  /** The shapes of rows that the client was told of. */
  told: Map<Statement, number> | undefined;
  /** The types of parameters that the client was told of. */
  toldTypes: Map<Statement, Buffer> | undefined;
  /** The statement whose rows were asked for on the server, for this client's next message. */
  asked: Statement | undefined;
  portals: Map<string, Statement> | undefined;
  unnamedPortal: Statement | undefined;
  pins = 0;
  /** It wants a server connection that nobody has had before it, from its login to its end. */
  own = false;
  /** What it was told in BackendKeyData. */
  processId = 0;
  needProbe = false;
  /** Names of prepared statements are passed on as they are: SQL PREPARE and EXECUTE can see them. */
  verbatim = false;
  /** The client's named statements that aren't on the server all the same: they could not be prepared there. */
  notMade: Map<string, Statement> | undefined;
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
  transactionSinceMs = 0;
  /** When the last answer was complete. */
  idleSinceMs = 0;
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
  /** A request is being made again. */
  again = false;
  applicationName: string | undefined;

  #toldLast: Statement | undefined;
  #toldShape = 0;

  described(statement: Statement, shape: number): void {
    if (statement === this.#toldLast && shape === this.#toldShape) return;
    this.#toldLast = statement;
    this.#toldShape = shape;
    this.told ??= new Map();
    if (this.told.size >= mostTold) this.told.clear();
    this.told.set(statement, shape);
  }

  describedTypes(statement: Statement, types: Buffer): void {
    this.toldTypes ??= new Map();
    if (this.toldTypes.size >= mostTold) this.toldTypes.clear();
    this.toldTypes.set(statement, types);
  }

  forgetTold(statement: Statement): void {
    if (this.told?.delete(statement)) this.#toldLast = undefined;
    this.toldTypes?.delete(statement);
  }

  /** Another statement takes the place of one: the client's names, and what it was told, are that one's now. */
  exchange(old: Statement, made: Statement): void {
    if (this.unnamed === old) this.unnamed = made;
    for (const [name, each] of this.statements ?? []) if (each === old) this.statements?.set(name, made);
    const [shape, types] = [this.told?.get(old), this.toldTypes?.get(old)];
    if (shape !== undefined) this.told?.set(made, shape);
    if (types !== undefined) this.toldTypes?.set(made, types);
    this.forgetTold(old);
  }

  constructor(
    host: ClientHost,
    link: Link,
    pool: Pool,
    id: number,
    startupSettings: Settings,
    readOnly = false,
  ) {
    this.host = host;
    this.link = link;
    this.pool = pool;
    this.readOnly = readOnly;
    this.routes = readOnly;
    this.id = id;
    this.startupSettings = startupSettings;
    this.settings = startupSettings;
  }
}
