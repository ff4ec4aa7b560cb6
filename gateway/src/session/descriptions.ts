/**
 * What a client was told of a statement's rows and parameters must hold on every server connection. PostgreSQL refuses to run a plan
 * whose rows aren't those that it was prepared for; a statement that we prepare on another connection after its tables
 * have changed would give other rows without a word. So who has had a description and comes to a connection whose rows
 * are unknown waits, once, for a description there.
 */
import { owed } from "../pool/ring.ts";
import type { Server } from "../pool/server.ts";
import type { Statement } from "../pool/statements.ts";
import { describeStatement, flushBytes } from "../wire/build.ts";
import { wireError } from "../wire/errors.ts";
import type { Client } from "./client.ts";
import { blocked, fail, type Outcome } from "./outcome.ts";
import { sendParse } from "./prepare.ts";

/** As PostgreSQL says it, by a routine that drivers look for. */
const changed = wireError("ERROR", "0A000", "cached plan must not change result type", {
  routine: "RevalidateCachedQuery",
});

/** Whether it was told of anything. */
export const toldOf = ({ told, toldTypes }: Client): boolean => told !== undefined || toldTypes !== undefined;

/**
 * The statement to use, whose rows and parameters are those that the client knows, if it knows of any; or what became of
 * the message.
 */
export function asTold(
  client: Client,
  server: Server,
  statement: Statement,
  name: string,
): Statement | Outcome {
  const rows = client.told?.get(statement);
  const types = client.toldTypes?.get(statement);
  if ((rows === undefined && types === undefined) || client.verbatim) return statement;
  const here = server.statements.has(statement);
  if (name === "" && (client.parsedUnnamed || (!here && server.unnamed === statement))) return statement;
  const rowsHere = here ? server.statements.rows(statement) : undefined;
  const typesHere = here ? server.statements.types(statement) : undefined;
  const asked = client.asked === statement;
  client.asked = undefined;
  if (types !== undefined && typesHere !== undefined && types !== typesHere && !types.equals(typesHere)) {
    const typed = withTypes(client, statement, types);
    if (typed !== statement) {
      client.exchange(statement, typed);
      return asTold(client, server, typed, name);
    }
  }
  const rowsKnown = rows === undefined || rows === rowsHere;
  if (rowsKnown && (types === undefined || typesHere !== undefined)) return statement;
  if (!rowsKnown && rowsHere !== undefined) {
    server.statements.drop(statement);
    if (asked) {
      const { statements } = client.pool.host;
      statements.epoch++; // whoever parses it from now on gets a new one
      statements.renew(statement);
      return fail(client, server, changed);
    }
  }
  ask(client, server, statement, server.statements.has(statement));
  return blocked;
}

/**
 * The server has found other types for the parameters than the client was told. PostgreSQL keeps those that it found
 * first, so they are given to it here.
 */
function withTypes(client: Client, { body, parseKey, plan }: Statement, types: Buffer): Statement {
  const typed = Buffer.concat([body.subarray(0, body.indexOf(0) + 1), types]);
  return client.pool.host.statements.intern(typed, 0, typed.length, parseKey, () => plan);
}

function ask(client: Client, server: Server, statement: Statement, prepared: boolean): void {
  if (!prepared) {
    sendParse(server, statement);
    server.ring.push(owed.parseHidden, undefined, statement);
  }
  const describe = describeStatement(statement.serverName.toString());
  server.ring.push(owed.describeHidden, undefined, statement);
  server.link.send(describe, 0, describe.length);
  server.link.send(flushBytes, 0, flushBytes.length);
  client.askRows(server, statement);
}
