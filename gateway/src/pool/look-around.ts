/** What a new connection is asked before anybody gets it. */
import type { Plans } from "../text/plans.ts";
import { aboutDatabaseSql, functionNamesSql } from "./probe.ts";
import type { Server } from "./server.ts";

export type Surroundings = {
  /** The extension's function that lists all settings of a session is there. */
  readonly listsSettings: boolean;
  /** There are login event triggers. */
  readonly loginTriggers: boolean;
};

/** `done` isn't called if the connection is lost over it. */
export function lookAround(server: Server, plans: Plans, done: (found: Surroundings) => void): void {
  if (plans.knowsFunctions) {
    lookAtDatabase(server, done);
    return;
  }
  server.internal(functionNamesSql, (result) => {
    if (server.phase === "closed") return;
    if (result.error === undefined) plans.addSafeFunctions(result.rows.map((row) => row[0] ?? ""));
    lookAtDatabase(server, done);
  });
}

function lookAtDatabase(server: Server, done: (found: Surroundings) => void): void {
  server.internal(aboutDatabaseSql, (result) => {
    if (server.phase === "closed") return;
    const [lists, loginTriggers] = result.rows[0] ?? [];
    done({
      listsSettings: server.reportsSettings && lists === "t",
      loginTriggers: loginTriggers === "true",
    });
  });
}
