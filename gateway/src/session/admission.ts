/** What has to happen, or to be known, before a message may go to the server. */
import { owed } from "../pool/ring.ts";
import type { Server } from "../pool/server.ts";
import type { Statement } from "../pool/statements.ts";
import { type Effect, type Plan, pins, plainWrite, probedPins } from "../text/plan.ts";
import { message } from "../wire/build.ts";
import { fe, txFailed, txIdle } from "../wire/codec.ts";
import type { Client } from "./client.ts";

/** Notes what the plan says before the statement is on its way. False: something must happen on the server first. */
export function admit(client: Client, server: Server, plan: Plan): boolean {
  if (client.settings.tempPath) client.needProbe = true;
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
export function note(client: Client, plan: Plan): void {
  if (plan.probe) client.needProbe = true;
  if (plan.changesParsing) client.parsingChanged = true;
  client.pins |= plan.pins;
  if (plan.customNames !== undefined) client.pool.noteCustomNames(plan.customNames);
  if (plan.ddl) {
    client.changesDefinitions = true;
    client.pool.definitionsChanged();
  }
  if (plan.changesDefaults) client.changesDefaults = true;
  if (plan.changesLogins) client.changesLogins = true;
}

/**
 * Requests that are pipelined behind a Sync may depend on whether names were given before it: then they wait for its
 * answer, as a Parse that was skipped after an error has named nothing.
 */
export function mustDrain(client: Client, server: Server, name: string, statement?: Statement): boolean {
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
export function mightFail(client: Client, server: Server): boolean {
  const { ring } = server;
  if (ring.length === 0 || ring.countReady() === 0) return false;
  if (server.status === txIdle && !ring.mayDo("begin")) return false;
  client.blocked = true;
  client.drainFirst = true;
  return true;
}

/**
 * What behaves otherwise once a connection has had temporary objects gets one that hasn't: `temp_buffers` can't be
 * changed any more, and where search_path names pg_temp, the first look at it counts as work on temporary objects.
 */
export function wantsFreshTemp(client: Client, server: Server, plan: Plan): boolean {
  return (
    server.usedTemp &&
    client.pins === 0 &&
    !client.verbatim &&
    server.status === txIdle &&
    server.ring.length === 0 &&
    (client.settings.tempPath || (plan.effects?.some(setsTempBuffers) ?? false))
  );
}

const setsTempBuffers = (effect: Effect): boolean => effect.kind === "set" && effect.name === "temp_buffers";

/** From now on the client's own names stand on the server; those it has already are made there. */
export function enterVerbatim(client: Client, server: Server): void {
  client.blocked = true;
  client.verbatim = true;
  // A function may have prepared something for the client, also in the open transaction: then only what is shared goes.
  const hasOwn = (client.pins & probedPins) !== 0 || server.status !== txIdle || server.settingsChanged;
  client.pins |= pins.prepared;
  if (hasOwn) server.closeShared();
  server.internal(hasOwn ? "" : "DEALLOCATE ALL", () => {
    if (server.phase === "closed") return;
    server.statements.clear();
    makeNamed(client, server, [...(client.statements ?? [])].reverse());
  });
}

/**
 * The client's named statements, the last of `left` first. Where its tables can't be found at present (by another
 * search_path, say) one can't be prepared; on a direct connection it is there all the same. It is made when it is used.
 */
function makeNamed(client: Client, server: Server, left: [string, Statement][]): void {
  const [name, statement] = left.pop() ?? [];
  if (name === undefined || statement === undefined) {
    client.unblock();
    return;
  }
  const more = () => {
    if (server.phase !== "closed") makeNamed(client, server, left);
  };
  // A failure would end an open transaction.
  const guarded = server.status !== txIdle;
  if (guarded) server.internal(`SAVEPOINT ${guard}`, () => {});
  const parse = Buffer.concat([message(fe.parse, `${name}\0`, statement.body), message(fe.sync)]);
  server.internalMessages(parse, ({ error }) => {
    if (server.phase === "closed") return;
    if (error !== undefined) {
      client.notMade ??= new Map();
      client.notMade.set(name, statement);
    }
    if (guarded)
      server.internal(`${error === undefined ? "" : `ROLLBACK TO ${guard};`}RELEASE ${guard}`, more);
    else more();
  });
}

const guard = "__quorate_named";
