/** Bind, Describe, Execute and Close: names are those of the client, and become those of the server. */
import { owed } from "../pool/ring.ts";
import type { Statement } from "../pool/statements.ts";
import { closeCompleteBytes } from "../wire/build.ts";
import { fe, putInt32, zeroAt } from "../wire/codec.ts";
import { mustDrain, note } from "./admission.ts";
import type { Client } from "./client.ts";
import { asTold, toldOf } from "./descriptions.ts";
import { keep } from "./kept-request.ts";
import { blocked, done, incomplete, malformed, type Outcome, sendBeginning } from "./outcome.ts";
import { nameOnServer, scratch, unknownStatement } from "./prepare.ts";
import { segmentReads } from "./segment.ts";

export function handleBind(client: Client, bytes: Buffer, at: number, next: number, end: number): Outcome {
  const here = Math.min(next, end);
  const portalEnd = zeroAt(bytes, at + 5, here);
  const nameEnd = portalEnd < 0 ? -1 : zeroAt(bytes, portalEnd + 1, here);
  if (nameEnd < 0 || nameEnd - at > 900) return next > end ? incomplete : malformed(client);
  const server = client.need(client.routes && segmentReads(client, bytes, at, end));
  if (server === undefined) return blocked;
  if (server.skipping) return done;
  const name = nameEnd === portalEnd + 1 ? "" : bytes.latin1Slice(portalEnd + 1, nameEnd);
  let statement = name === "" ? client.unnamed : client.statements?.get(name);
  if (mustDrain(client, server, name, statement)) return blocked;
  if (statement === undefined && !client.verbatim) {
    if (next > end) return incomplete;
    return unknownStatement(client, server, bytes.utf8Slice(portalEnd + 1, nameEnd));
  }
  if (statement !== undefined && toldOf(client)) {
    const found = asTold(client, server, statement, name);
    if (typeof found === "number") return found;
    statement = found;
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

export function handleDescribe(client: Client, bytes: Buffer, at: number, next: number): Outcome {
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
    if (statement !== undefined && toldOf(client)) {
      const found = asTold(client, server, statement, name);
      if (typeof found === "number") return found;
      statement = found;
    }
    if (statement !== undefined) serverName = nameOnServer(client, server, statement, name);
  } else
    statement =
      nameEnd === at + 6 ? client.unnamedPortal : client.portals?.get(bytes.latin1Slice(at + 6, nameEnd));
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

export function handleExecute(client: Client, bytes: Buffer, at: number, next: number): Outcome {
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

export function handleClose(client: Client, bytes: Buffer, at: number, next: number): Outcome {
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
    else {
      client.statements?.delete(name);
      client.notMade?.delete(name);
    }
    if (server !== undefined && !client.verbatim) {
      client.unsynced = true;
      server.ring.push(
        owed.closeMade,
        undefined,
        undefined,
        previous === undefined ? undefined : name,
        previous,
      );
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
