/**
 * A client's messages, in order: which go on as they are, which are rewritten (names of prepared statements), which
 * are answered here, and which have to wait for a server connection. No allocation per message but for new texts.
 */
import { owed } from "../pool/ring.ts";
import type { Server } from "../pool/server.ts";
import { type Statement, serverNamePrefix } from "../pool/statements.ts";
import { opaque, type Plan, pins, plainWrite } from "../text/plan.ts";
import { copyBytes, giveBuffer, takeBuffer } from "../wire/buffer.ts";
import {
  closeCompleteBytes,
  closeStatement,
  commandComplete,
  message,
  readyForQuery,
} from "../wire/build.ts";
import { fe, int32, maxMessageBytes, putInt32, txFailed, txIdle, zeroAt } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import type { Client } from "./client.ts";
import { keptRequestBytes } from "./client-host.ts";

/** Longer statements are passed on in parts and pin their client: they can't be looked at. */
const longestWhole = 64 * 1024 * 1024;

const scratch = Buffer.allocUnsafeSlow(1024);
const readyIdle = readyForQuery(txIdle);
const readyFailed = readyForQuery(txFailed);

/** What became of a message. */
const done = 0;
/** It waits for a server: kept from its start. */
const blocked = 1;
/** More of it must be here first. */
const incomplete = 2;
/** The client is not spoken to any more. */
const ended = 3;
type Outcome = 0 | 1 | 2 | 3;

/** Handles [start, end); gives where the first message starts that has to be kept. */
export function consume(client: Client, bytes: Buffer, start: number, end: number): number {
  let at = start;
  client.needs = 0;
  if (client.server?.retired) {
    client.blocked = true;
    return at;
  }
  if (client.streaming > 0) {
    const part = Math.min(client.streaming, end - at);
    client.streamTo?.link.send(bytes, at, at + part);
    client.streaming -= part;
    at += part;
    if (client.streaming === 0) client.streamEnded();
  }
  while (end - at >= 5) {
    const length = int32(bytes, at + 1);
    if (length < 4 || length > maxMessageBytes) {
      client.fatal(wireError("FATAL", "08P01", `invalid message length ${length}`));
      return end;
    }
    const next = at + length + 1;
    const outcome = handle(client, bytes, at, next, end);
    if (outcome === blocked) return at;
    if (outcome === incomplete) {
      client.needs = next - at;
      return at;
    }
    if (outcome === ended) return end;
    if (next > end) {
      client.streaming = next - end;
      return end;
    }
    at = next;
  }
  return at;
}

function handle(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
  const type = bytes[at] as number;
  if (client.skipping) return handleSkipping(client, type, next, end);
  if (client.lost) return handleLost(client, bytes, type, at, next, end);
  switch (type) {
    case fe.query:
      return handleQuery(client, bytes, at, next, end);
    case fe.parse:
      return handleParse(client, bytes, at, next, end);
    case fe.bind:
      return handleBind(client, bytes, at, next, end);
    case fe.describe:
      return next > end ? incomplete : handleDescribe(client, bytes, at, next);
    case fe.execute:
      return next > end ? incomplete : handleExecute(client, bytes, at, next);
    case fe.close:
      return next > end ? incomplete : handleClose(client, bytes, at, next);
    case fe.sync:
      if (next - at !== 5) return malformed(client);
      return handleSync(client, bytes, at, next);
    case fe.flush:
      // Refused here: on the server a malformed one would begin an error that nothing owed accounts for.
      if (next - at !== 5) return malformed(client);
      client.server?.link.send(bytes, at, next);
      return done;
    case fe.copyData:
      if (client.server !== undefined && !client.server.skipping)
        sendBeginning(client, client.server, bytes, at, next, end);
      return done;
    case fe.copyDone:
    case fe.copyFail: {
      if (next > end) return incomplete;
      const { server } = client;
      if (server === undefined || server.skipping) return done;
      if (server.copyIn) {
        server.copyIn = false;
        if (server.ring.head === owed.execute) client.unsynced = true; // what Sync came before was ignored
      } else if (server.ring.length > 0) server.ring.push(owed.copyEnd);
      server.link.send(bytes, at, next);
      return done;
    }
    case fe.functionCall: {
      if (next > end) return incomplete;
      const server = client.need();
      if (server === undefined) return blocked;
      if (server.skipping) return done;
      client.needProbe = true;
      server.ring.push(owed.functionCall);
      server.link.send(bytes, at, next);
      return done;
    }
    case fe.terminate:
      client.link.close();
      return ended;
    default:
      client.fatal(wireError("FATAL", "08P01", `invalid frontend message type ${type}`));
      return ended;
  }
}

/** As much of a message as is here; the rest follows to the same server. */
function sendBeginning(
  client: Client,
  server: Server,
  bytes: Buffer,
  at: number,
  next: number,
  end: number,
): void {
  server.link.send(bytes, at, Math.min(next, end));
  if (next > end) client.streamTo = server;
}

/** After an error of our own in the extended protocol: nothing counts until Sync. */
function handleSkipping(client: Client, type: number, next: number, end: number): Outcome {
  if (type === fe.terminate) {
    client.link.close();
    return ended;
  }
  if (type === fe.sync) {
    if (next > end) return incomplete;
    client.skipping = false;
    client.unsynced = false;
    const answer = client.lost ? readyFailed : readyIdle;
    client.link.send(answer, 0, answer.length);
  }
  return done;
}

/** The transaction's server is gone: like a failed transaction, until the client ends it. */
function handleLost(
  client: Client,
  bytes: Buffer,
  type: number,
  at: number,
  next: number,
  end: number,
): Outcome {
  if (next > end) return type === fe.copyData ? done : incomplete;
  const refuse = (): Outcome => {
    send(
      client,
      errorBytes(
        wireError(
          "ERROR",
          client.lostTold ? "25P02" : "40001",
          "the transaction was rolled back: the connection to its server was lost",
          {
            hint: "Nothing of it was committed; end it with ROLLBACK and repeat it.",
          },
        ),
      ),
    );
    client.lostTold = true;
    return done;
  };
  switch (type) {
    case fe.query: {
      const text = bytes.latin1Slice(at + 5, next - 1);
      if (/^\s*(rollback|abort|commit|end)\b(?!.*\bto\b)/i.test(text)) {
        client.lost = false;
        client.lostTold = false;
        send(client, commandComplete("ROLLBACK"));
        send(client, readyIdle);
        return done;
      }
      refuse();
      send(client, readyFailed);
      return done;
    }
    case fe.sync:
      send(client, readyFailed);
      return done;
    case fe.terminate:
      client.link.close();
      return ended;
    case fe.parse: {
      const text = bytes.latin1Slice(zeroAt(bytes, at + 5, next) + 1, next);
      if (/^\s*(rollback|abort|commit|end)\b(?!.*\bto\b)/i.test(text)) {
        client.lost = false; // goes to a server, which answers with a warning that there is no transaction
        client.lostTold = false;
        return handleParse(client, bytes, at, next, end);
      }
      refuse();
      client.skipping = true;
      return done;
    }
    case fe.copyData:
    case fe.copyDone:
    case fe.copyFail:
    case fe.flush:
      return done;
    default:
      refuse();
      client.skipping = true;
      return done;
  }
}

function send(client: Client, bytes: Buffer): void {
  client.link.send(bytes, 0, bytes.length);
}

/** Notes what the plan says before the statement is on its way. False: something must happen on the server first. */
function admit(client: Client, server: Server, plan: Plan): boolean {
  if (plan === plainWrite || (!plan.probe && plan.pins === 0 && !plan.sqlPrepare && !plan.changesParsing))
    return true;
  if (plan.sqlPrepare && !client.verbatim && server.ring.length > 0 && !client.unsynced) {
    client.blocked = true;
    client.drainFirst = true;
    return false;
  }
  if (server.ring.length === 0 && !client.unsynced && server.status !== txFailed) {
    if (plan.sqlPrepare && !client.verbatim) {
      enterVerbatim(client, server);
      return false;
    }
    if ((plan.pins & ~client.pins & pins.sequence) !== 0 && server.holds < 2 && server.status === txIdle) {
      client.blocked = true;
      server.internal("DISCARD SEQUENCES", () => {
        server.holds = 2;
        if (server.phase !== "closed") client.unblock();
      });
      return false;
    }
  }
  note(client, plan);
  return true;
}

/** What has to be remembered of a statement that goes to the server. */
function note(client: Client, plan: Plan): void {
  if (plan.probe) client.needProbe = true;
  if (plan.changesParsing) client.parsingChanged = true;
  client.pins |= plan.pins;
  if (plan.customNames !== undefined) client.pool.noteCustomNames(plan.customNames);
  if (plan.ddl) client.pool.definitionsChanged();
  if (plan.changesDefaults) client.changesDefaults = true;
}

/**
 * Requests that are pipelined behind a Sync may depend on whether names were given before it: then they wait for its
 * answer, as a Parse that was skipped after an error has named nothing.
 */
function mustDrain(client: Client, server: Server, name: string, statement?: Statement): boolean {
  const { ring } = server;
  if (ring.length === 0) return false;
  const nameUnsure = name === "" ? !client.parsedUnnamed : client.namesPending;
  if (
    !(nameUnsure && ring.find(owed.sync) >= 0) &&
    !(statement !== undefined && ring.parsedBeforeSync(statement))
  ) {
    return false;
  }
  client.blocked = true;
  client.drainFirst = true;
  return true;
}

/** A Parse behind requests that may leave a failed transaction: whether it is accepted isn't known before they are done. */
function mightFail(client: Client, server: Server): boolean {
  const { ring } = server;
  if (ring.length === 0 || ring.countReady() === 0) return false;
  if (server.status === txIdle && !ring.mayDo("begin")) return false;
  client.blocked = true;
  client.drainFirst = true;
  return true;
}

/** `temp_buffers` can't be changed once a connection has had temporary objects: such a statement gets another one. */
function wantsFreshTemp(client: Client, server: Server, plan: Plan): boolean {
  return (
    server.usedTemp &&
    client.pins === 0 &&
    !client.verbatim &&
    server.status === txIdle &&
    server.ring.length === 0 &&
    (plan.effects?.some((effect) => effect.kind === "set" && effect.name === "temp_buffers") ?? false)
  );
}

/** From now on the client's own names stand on the server; those it has already are made there. */
function enterVerbatim(client: Client, server: Server): void {
  client.blocked = true;
  client.verbatim = true;
  client.pins |= pins.prepared;
  server.internal("DEALLOCATE ALL", () => {
    if (server.phase === "closed") return;
    server.statements.clear();
    if (client.statements !== undefined && client.statements.size > 0) {
      for (const [name, statement] of client.statements) {
        const parse = message(fe.parse, `${name}\0`, statement.body);
        server.ring.push(owed.parseHidden);
        server.link.send(parse, 0, parse.length);
      }
      const sync = message(fe.sync);
      server.ring.push(owed.syncHidden);
      server.link.send(sync, 0, sync.length);
    }
    client.unblock();
  });
}

/**
 * Whether all statements from here to Sync only read. Where that can't be seen yet, the leader is right in any case.
 * `[at, end)` begins with a message.
 */
function segmentReads(client: Client, bytes: Buffer, at: number, end: number): boolean {
  if (client.readOnly) return true;
  if (client.server !== undefined) return false;
  for (let start = at; end - start >= 5; ) {
    const next = start + int32(bytes, start + 1) + 1;
    if (next > end) return false;
    switch (bytes[start]) {
      case fe.parse: {
        const nameEnd = zeroAt(bytes, start + 5, next);
        const textEnd = nameEnd < 0 ? -1 : zeroAt(bytes, nameEnd + 1, next);
        if (textEnd < 0) return false;
        const plan = client.pool.host.plans.of(bytes, nameEnd + 1, textEnd);
        if (!plan.read && !plan.readOnly) return false;
        break;
      }
      case fe.bind: {
        const portalEnd = zeroAt(bytes, start + 5, next);
        const nameEnd = portalEnd < 0 ? -1 : zeroAt(bytes, portalEnd + 1, next);
        if (nameEnd < 0) return false;
        // An unnamed one was parsed in this segment, or is the last; a name that is given here was looked at above.
        const name = bytes.latin1Slice(portalEnd + 1, nameEnd);
        const plan = (name === "" ? client.unnamed : client.statements?.get(name))?.plan;
        if (plan !== undefined && !plan.read && !plan.readOnly) return false;
        break;
      }
      case fe.sync:
        return true;
      case fe.describe:
      case fe.execute:
      case fe.close:
        break;
      default:
        return false;
    }
    start = next;
  }
  return false;
}

function handleQuery(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
  if (next > end && next - at <= longestWhole) return incomplete;
  const plan = next > end ? opaque : client.pool.host.plans.of(bytes, at + 5, next - 1);
  let server = client.need(client.routes && (client.readOnly || plan.read || plan.readOnly));
  while (server !== undefined && wantsFreshTemp(client, server, plan)) {
    client.swap("its temporary buffers are fixed");
    server = client.need();
  }
  if (server === undefined) return blocked;
  if (server.skipping) return done;
  if (!admit(client, server, plan)) return blocked;
  if (!plan.read && !plan.begins) client.requestReads = false;
  if (!plan.pure) client.otherWork = true;
  keep(client, server, bytes, at, next, end);
  server.ring.push(owed.query, plan.effects === null ? undefined : plan);
  client.unnamed = undefined;
  client.unnamedPortal = undefined;
  server.unnamed = undefined;
  client.unsynced = false;
  client.requests++;
  sendBeginning(client, server, bytes, at, next, end);
  return done;
}

/** Keeps a copy of an extended-protocol message while the request might have to be made again. */
function keep(client: Client, server: Server, bytes: Buffer, at: number, next: number, end: number): void {
  if (client.keptLength < 0) return;
  const length = next - at;
  if (server.status !== txIdle || next > end || client.keptLength + length > keptRequestBytes) {
    client.keptLength = -1;
    return;
  }
  let { kept } = client;
  if (kept === undefined || kept.length < client.keptLength + length) {
    const larger = takeBuffer((client.keptLength + length) * 2);
    if (kept !== undefined) {
      copyBytes(kept, 0, client.keptLength, larger, 0);
      giveBuffer(kept);
    }
    kept = larger;
    client.kept = larger;
  }
  copyBytes(bytes, at, next, kept, client.keptLength);
  client.keptLength += length;
}

/** Asks the server for something that fails, and has its error replaced: the order of answers stays right. */
function fail(client: Client, server: Server, error: WireError): Outcome {
  client.failures ??= [];
  client.failures.push(errorBytes(error));
  server.ring.push(owed.failing);
  const bind = message(fe.bind, `\0${serverNamePrefix}none\0`, Buffer.alloc(6));
  server.link.send(bind, 0, bind.length);
  client.unsynced = true;
  return done;
}

function malformed(client: Client): Outcome {
  client.fatal(wireError("FATAL", "08P01", "invalid message format"));
  return ended;
}

function handleParse(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
  if (next > end) {
    if (next - at <= longestWhole) return incomplete;
    client.fatal(wireError("FATAL", "54000", `a statement to prepare is longer than ${longestWhole} bytes`));
    return ended;
  }
  const nameEnd = zeroAt(bytes, at + 5, next);
  if (nameEnd < 0 || zeroAt(bytes, nameEnd + 1, next) < 0) return malformed(client);
  const server = client.need(client.routes && segmentReads(client, bytes, at, end));
  if (server === undefined) return blocked;
  if (server.skipping) return done;
  const name = nameEnd === at + 5 ? "" : bytes.latin1Slice(at + 5, nameEnd);
  if (name !== "" && mustDrain(client, server, name)) return blocked;
  const { pool } = client;
  // Inside a transaction that has changed what texts mean, nothing is shared.
  const key = client.parsingChanged ? `${client.id} ${client.transactions}` : client.settings.parseKey;
  const statement = pool.host.statements.intern(bytes, nameEnd + 1, next, key, (body) =>
    pool.host.plans.of(body, 0, body.indexOf(0)),
  );
  if (statement.plan.sqlPrepare && !client.verbatim && !admit(client, server, statement.plan)) {
    statement.seen--;
    return blocked;
  }
  client.parsedUnnamed ||= name === "";
  if (mustDrain(client, server, name, statement) || mightFail(client, server)) {
    statement.seen--;
    return blocked;
  }
  keep(client, server, bytes, at, next, end);
  client.unsynced = true;
  if (name !== "") client.segmentNames = true;
  const previous = name === "" ? client.unnamed : client.statements?.get(name);
  // A failed transaction accepts no Parse: only the server can say so.
  if (server.status === txFailed && server.statements.has(statement)) server.dropStatement(statement);
  if (name !== "" && previous !== undefined && !client.verbatim && !client.again) {
    if (!server.statements.has(statement)) {
      // Postgres looks at the name last: other errors come first.
      sendParse(server, statement);
      server.ring.push(owed.parseHidden, undefined, statement);
    }
    const shown = bytes.utf8Slice(at + 5, nameEnd);
    return fail(client, server, wireError("ERROR", "42P05", `prepared statement "${shown}" already exists`));
  }
  if (client.verbatim || (name === "" && statement.seen < 2)) {
    server.ring.push(owed.parse, undefined, statement, name, previous);
    if (name === "") server.unnamed = statement;
    server.link.send(bytes, at, next);
  } else if (server.statements.has(statement)) {
    server.ring.push(owed.parseMade, undefined, statement, name, previous);
    server.sendMade();
  } else {
    sendParse(server, statement);
    server.ring.push(owed.parse, undefined, statement, name, previous);
  }
  if (name === "") client.unnamed = statement;
  else {
    client.statements ??= new Map();
    client.statements.set(name, statement);
  }
  return done;
}

function sendParse(server: Server, statement: Statement): void {
  const { serverName, body } = statement;
  const evicted = server.evict();
  if (evicted !== undefined) {
    const close = closeStatement(evicted.serverName.toString());
    server.ring.push(owed.closeHidden);
    server.link.send(close, 0, close.length);
  }
  if (server.takeStale(statement)) {
    const close = closeStatement(serverName.toString());
    server.ring.push(owed.closeHidden);
    server.link.send(close, 0, close.length);
  }
  scratch[0] = fe.parse;
  putInt32(scratch, 1, 4 + serverName.length + 1 + body.length);
  scratch.set(serverName, 5);
  scratch[5 + serverName.length] = 0;
  server.link.send(scratch, 0, 6 + serverName.length);
  server.link.send(body, 0, body.length);
  server.statements.add(statement);
}

const nameless: Buffer = Buffer.alloc(0);

/** The name that the statement has on this server, after preparing it there if need be. */
function nameOnServer(
  client: Client,
  server: Server,
  statement: Statement,
  name: string,
): Buffer | undefined {
  if (client.verbatim) return undefined;
  if (server.statements.has(statement)) return statement.serverName;
  if (name === "" && server.unnamed === statement) return nameless;
  sendParse(server, statement);
  server.ring.push(owed.parseHidden, undefined, statement);
  return statement.serverName;
}

function unknownStatement(client: Client, server: Server, name: string): Outcome {
  const text =
    name === "" ? "unnamed prepared statement does not exist" : `prepared statement "${name}" does not exist`;
  return fail(client, server, wireError("ERROR", "26000", text));
}

function handleBind(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
  const here = Math.min(next, end);
  const portalEnd = zeroAt(bytes, at + 5, here);
  const nameEnd = portalEnd < 0 ? -1 : zeroAt(bytes, portalEnd + 1, here);
  if (nameEnd < 0 || nameEnd - at > 900) return next > end ? incomplete : malformed(client);
  const server = client.need(client.routes && segmentReads(client, bytes, at, end));
  if (server === undefined) return blocked;
  if (server.skipping) return done;
  const name = nameEnd === portalEnd + 1 ? "" : bytes.latin1Slice(portalEnd + 1, nameEnd);
  const statement = name === "" ? client.unnamed : client.statements?.get(name);
  if (mustDrain(client, server, name, statement)) return blocked;
  if (statement === undefined && !client.verbatim) {
    if (next > end) return incomplete;
    return unknownStatement(client, server, bytes.utf8Slice(portalEnd + 1, nameEnd));
  }
  keep(client, server, bytes, at, next, end);
  client.unsynced = true;
  if (portalEnd === at + 5) client.unnamedPortal = statement;
  else if (statement !== undefined) {
    client.portals ??= new Map();
    client.portals.set(bytes.latin1Slice(at + 5, portalEnd), statement);
  }
  const serverName = statement === undefined ? undefined : nameOnServer(client, server, statement, name);
  server.ring.push(owed.bind, undefined, statement, name);
  if (serverName === undefined) {
    sendBeginning(client, server, bytes, at, next, end);
    return done;
  }
  const portalLength = portalEnd + 1 - (at + 5);
  scratch[0] = fe.bind;
  putInt32(scratch, 1, next - at - 1 + serverName.length - (nameEnd - portalEnd - 1));
  bytes.copy(scratch, 5, at + 5, portalEnd + 1);
  scratch.set(serverName, 5 + portalLength);
  scratch[5 + portalLength + serverName.length] = 0;
  server.link.send(scratch, 0, 6 + portalLength + serverName.length);
  sendBeginning(client, server, bytes, nameEnd + 1, next, end);
  return done;
}

function handleDescribe(client: Client, bytes: Buffer, at: number, next: number): Outcome {
  const nameEnd = zeroAt(bytes, at + 6, next);
  if (nameEnd < 0) return malformed(client);
  const server = client.need();
  if (server === undefined) return blocked;
  if (server.skipping) return done;
  const ofStatement = bytes[at + 5] === 0x53;
  let statement: Statement | undefined;
  let serverName: Buffer | undefined;
  let name: string | undefined;
  if (ofStatement) {
    name = nameEnd === at + 6 ? "" : bytes.latin1Slice(at + 6, nameEnd);
    statement = name === "" ? client.unnamed : client.statements?.get(name);
    if (mustDrain(client, server, name, statement)) return blocked;
    if (statement === undefined && !client.verbatim)
      return unknownStatement(client, server, bytes.utf8Slice(at + 6, nameEnd));
    if (statement !== undefined) serverName = nameOnServer(client, server, statement, name);
  }
  keep(client, server, bytes, at, next, next);
  client.unsynced = true;
  server.ring.push(owed.describe, undefined, statement, name);
  if (serverName === undefined || serverName.length === 0) server.link.send(bytes, at, next);
  else {
    scratch[0] = fe.describe;
    putInt32(scratch, 1, 6 + serverName.length);
    scratch[5] = 0x53;
    scratch.set(serverName, 6);
    scratch[6 + serverName.length] = 0;
    server.link.send(scratch, 0, 7 + serverName.length);
  }
  return done;
}

function handleExecute(client: Client, bytes: Buffer, at: number, next: number): Outcome {
  const portalEnd = zeroAt(bytes, at + 5, next);
  if (portalEnd < 0) return malformed(client);
  const server = client.need();
  if (server === undefined) return blocked;
  if (server.skipping) return done;
  const statement =
    portalEnd === at + 5 ? client.unnamedPortal : client.portals?.get(bytes.latin1Slice(at + 5, portalEnd));
  const plan = statement?.plan;
  if (plan !== undefined) note(client, plan);
  if (!plan?.read && !plan?.begins) client.requestReads = false;
  if (!plan?.pure) client.otherWork = true;
  keep(client, server, bytes, at, next, next);
  client.unsynced = true;
  client.requests++;
  server.ring.push(owed.execute, plan?.effects ? plan : undefined, statement);
  server.link.send(bytes, at, next);
  return done;
}

function handleClose(client: Client, bytes: Buffer, at: number, next: number): Outcome {
  const nameEnd = zeroAt(bytes, at + 6, next);
  if (nameEnd < 0) return malformed(client);
  const { server } = client;
  if (server?.skipping) return done;
  const name = bytes.latin1Slice(at + 6, nameEnd);
  const ofStatement = bytes[at + 5] === 0x53;
  if (ofStatement) {
    if (server !== undefined && mustDrain(client, server, name)) return blocked;
    client.segmentNames = true;
    const previous = name === "" ? client.unnamed : client.statements?.get(name);
    if (name === "") client.unnamed = undefined;
    else client.statements?.delete(name);
    if (server !== undefined && !client.verbatim) {
      client.unsynced = true;
      server.ring.push(
        owed.closeMade,
        undefined,
        undefined,
        previous === undefined ? undefined : name,
        previous,
      );
      server.sendMade();
      return done;
    }
  }
  if (server === undefined) {
    client.link.send(closeCompleteBytes, 0, closeCompleteBytes.length);
    return done;
  }
  client.unsynced = true;
  server.ring.push(owed.close);
  server.link.send(bytes, at, next);
  return done;
}

function handleSync(client: Client, bytes: Buffer, at: number, next: number): Outcome {
  const { server } = client;
  if (server === undefined) {
    client.link.send(readyIdle, 0, readyIdle.length);
    return done;
  }
  client.unsynced = false;
  client.parsedUnnamed = false;
  if (client.segmentNames) client.namesPending = true;
  client.segmentNames = false;
  server.skipping = false;
  if (!server.copyIn) server.ring.push(owed.sync);
  server.link.send(bytes, at, next);
  keep(client, server, bytes, at, next, next);
  return done;
}
