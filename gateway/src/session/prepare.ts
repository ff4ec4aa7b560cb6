/** Parse: statements that clients share, and the names that they have on a server. */
import { owed } from "../pool/ring.ts";
import type { Server } from "../pool/server.ts";
import { isText, type Statement, serverNamePrefix } from "../pool/statements.ts";
import { closeStatement, message } from "../wire/build.ts";
import { fe, putInt32, txFailed, zeroAt } from "../wire/codec.ts";
import { wireError } from "../wire/errors.ts";
import { admit, mightFail, mustDrain } from "./admission.ts";
import type { Client } from "./client.ts";
import { keep } from "./kept-request.ts";
import { blocked, done, ended, fail, incomplete, longestWhole, malformed, type Outcome } from "./outcome.ts";
import { segmentReads } from "./segment.ts";

export const scratch = Buffer.allocUnsafeSlow(1024);
export function handleParse(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
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
  const before = name === "" ? client.unnamed : undefined;
  let statement: Statement;
  if (before !== undefined && isText(before, key, bytes, nameEnd + 1, next)) {
    statement = before;
    statement.seen++;
  } else
    statement = pool.host.statements.intern(bytes, nameEnd + 1, next, key, (body) =>
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
  if (!client.verbatim && server.statements.has(statement) && server.status !== txFailed) {
    if (server.statements.outdated(statement, pool.host.statements.epoch))
      statement = pool.host.statements.renew(statement);
  }
  const isThere = !client.verbatim || client.notMade?.get(name) === previous;
  if (name !== "" && previous !== undefined && isThere && !client.again) {
    if (!server.statements.has(statement)) {
      // Postgres looks at the name last: other errors come first.
      sendParse(server, statement);
      server.ring.push(owed.parseHidden, undefined, statement);
    } else if (server.status === txFailed) {
      tryParse(server, statement, () => server.ring.push(owed.parseHidden));
    }
    const shown = bytes.utf8Slice(at + 5, nameEnd);
    return fail(client, server, wireError("ERROR", "42P05", `prepared statement "${shown}" already exists`));
  }
  if (client.verbatim || (name === "" && statement.seen < 2)) {
    server.ring.push(owed.parse, undefined, statement, name, previous);
    if (name === "") server.unnamed = statement;
    server.link.send(bytes, at, next);
  } else if (server.statements.has(statement)) {
    if (server.status === txFailed) {
      tryParse(server, statement, () => server.ring.push(owed.parse, undefined, undefined, name, previous));
    } else server.ring.push(owed.parseMade, undefined, statement, name, previous);
  } else {
    sendParse(server, statement);
    server.ring.push(owed.parse, undefined, statement, name, previous);
  }
  if (name === "") client.unnamed = statement;
  else {
    client.statements ??= new Map();
    client.statements.set(name, statement);
    client.forgetTold(statement);
  }
  return done;
}

/**
 * A failed transaction accepts hardly any text: only the server can say so, who is given it under another name, for a
 * moment. If it refuses, it ignores what is behind.
 */
function tryParse(server: Server, { body }: Statement, note: () => void): void {
  const parse = Buffer.concat([message(fe.parse, `${tried}\0`, body), closeStatement(tried)]);
  note();
  server.ring.push(owed.closeHidden);
  server.link.send(parse, 0, parse.length);
}
const tried = `${serverNamePrefix}tried`;

export function sendParse(server: Server, statement: Statement): void {
  const { serverName, body } = statement;
  const evicted = server.statements.evict();
  if (evicted !== undefined) {
    const close = closeStatement(evicted.serverName.toString());
    server.ring.push(owed.closeHidden);
    server.link.send(close, 0, close.length);
  }
  if (server.statements.takeStale(statement)) {
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

export const nameless: Buffer = Buffer.alloc(0);

/** The name that the statement has on this server, after preparing it there if need be. */
export function nameOnServer(
  client: Client,
  server: Server,
  statement: Statement,
  name: string,
): Buffer | undefined {
  if (client.verbatim) {
    if (name === "" && server.unnamed !== statement) {
      // A query of our own has come in between, which drops it.
      const parse = message(fe.parse, "\0", statement.body);
      server.link.send(parse, 0, parse.length);
      server.ring.push(owed.parseHidden, undefined, statement);
      server.unnamed = statement;
    } else if (client.notMade?.get(name) === statement) {
      // Perhaps it was made by an earlier try.
      const parse = Buffer.concat([closeStatement(name), message(fe.parse, `${name}\0`, statement.body)]);
      server.link.send(parse, 0, parse.length);
      server.ring.push(owed.closeHidden);
      server.ring.push(owed.parseHidden);
    }
    return undefined;
  }
  if (server.statements.has(statement)) return statement.serverName;
  if (name === "" && server.unnamed === statement) return nameless;
  sendParse(server, statement);
  server.ring.push(owed.parseHidden, undefined, statement);
  return statement.serverName;
}

export function unknownStatement(client: Client, server: Server, name: string): Outcome {
  const text =
    name === "" ? "unnamed prepared statement does not exist" : `prepared statement "${name}" does not exist`;
  return fail(client, server, wireError("ERROR", "26000", text));
}
