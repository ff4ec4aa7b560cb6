/**
 * What a client was told of a statement's rows must hold on every server connection. PostgreSQL refuses to run a plan
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
import { blocked, done, fail, type Outcome } from "./outcome.ts";
import { sendParse } from "./prepare.ts";

/** As PostgreSQL says it, by a routine that drivers look for. */
const changed = wireError("ERROR", "0A000", "cached plan must not change result type", {
  routine: "RevalidateCachedQuery",
});

/** `done`: the rows are those that the client knows, or it knows of none; undefined: the request has failed. */
export function rowsAsTold(
  client: Client,
  server: Server,
  statement: Statement,
  name: string,
): Outcome | undefined {
  const told = client.told?.get(statement);
  if (told === undefined || client.verbatim) return done;
  const here = server.statements.has(statement);
  if (name === "" && (client.parsedUnnamed || (!here && server.unnamed === statement))) return done;
  const rows = here ? server.rows.get(statement) : undefined;
  const asked = client.asked === statement;
  client.asked = undefined;
  if (rows === told) return done;
  if (rows !== undefined) {
    server.dropStatement(statement);
    if (asked) {
      const { statements } = client.pool.host;
      statements.epoch++; // whoever parses it from now on gets a new one
      statements.renew(statement);
      fail(client, server, changed);
      return undefined;
    }
  }
  ask(client, server, statement, here && rows === undefined);
  return blocked;
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
