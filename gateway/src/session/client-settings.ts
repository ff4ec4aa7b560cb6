/** The settings of a client's session: what its statements change, what RESET goes back to, what follows its read level. */
import { customNamesIn, type ProbeResult, probeSql, readProbe } from "../pool/probe.ts";
import type { Server } from "../pool/server.ts";
import type { Statement } from "../pool/statements.ts";
import { levelChanges, type ReadLevel, sameLevel } from "../route/choose-follower.ts";
import { type Effect, pins, probedPins } from "../text/plan.ts";
import { readyForQuery } from "../wire/build.ts";
import { txIdle, txOpen } from "../wire/codec.ts";
import { ClientState } from "./client-state.ts";
import { PendingSettings } from "./pending-settings.ts";
import {
  type Change,
  changeSettings,
  noSettings,
  nothingReported,
  type Reported,
  setInParts,
  settingsChangeSql,
  settingsOf,
} from "./settings.ts";

export abstract class ClientSettings extends ClientState {
  /** What was kept while waiting goes on. */
  abstract unblock(): void;
  /** ReadyForQuery has been forwarded (or held back). */
  abstract afterReady(): void;

  protected send(bytes: Buffer): void {
    this.link.send(bytes, 0, bytes.length);
  }

  protected welcomed(reported: Reported): void {
    this.reported = reported;
    this.levelFrom = reported;
    this.setLevel(reported.readLevel);
    this.startupSettings = this.settings;
  }
  protected levelFrom: Reported = nothingReported;

  /** The server gets the settings that go with it before the client hears of the change. */
  protected setLevel(level: ReadLevel): void {
    if (sameLevel(level, this.level)) return;
    const changes = levelChanges(this.level, level, this.pool.readWaitMs);
    this.settings = changeSettings(this.settings, changes, noSettings);
    this.level = level;
    this.routes = this.readOnly || level.kind !== "leader";
  }

  completed(effect: Effect, rolledBack: boolean): void {
    const server = this.server as Server;
    switch (effect.kind) {
      case "discard-all":
        this.apply(["reset-all"]);
        this.forgetStatements(server);
        this.pins &= pins.seed | pins.load | pins.opaque | pins.session | pins.buffers;
        return;
      case "deallocate-all":
        this.forgetStatements(server);
        return;
      case "discard-sequences":
        this.pins &= ~pins.sequence;
        return;
      default: {
        if (this.pending === undefined) {
          if (effect.kind !== "set" && effect.kind !== "reset-all") return;
          this.pending = new PendingSettings();
        }
        if (effect.kind === "reset-all" || (effect.kind === "set" && effect.value === null)) {
          this.resets ??= new Set();
          this.resets.add(effect.kind === "set" ? effect.name : "*");
        }
        const changes = this.pending.completed(effect, rolledBack);
        if (changes !== undefined) this.apply(changes);
      }
    }
  }

  protected forgetStatements(server: Server): void {
    this.statements = undefined;
    this.notMade = undefined;
    this.verbatim = false;
    this.pins &= ~pins.prepared;
    server.statements.clear();
  }

  protected apply(changes: readonly Change[]): void {
    for (const change of changes) {
      if (change === "reset-all") continue;
      if (change.name.includes(".")) this.pool.noteCustomNames([change.name]);
      if (change.value !== null && setInParts.has(change.name)) this.#partsSet = true;
    }
    const server = this.server as Server;
    this.settings = changeSettings(this.settings, changes, this.startupSettings);
    server.settings = changeSettings(server.settings, changes, noSettings);
  }

  /** Outside of a transaction: the whole of what was set in parts is what the server has reported. */
  protected wholeOfParts(server: Server): void {
    if (!this.#partsSet) return;
    this.#partsSet = false;
    const changes: Change[] = [];
    for (const name of setInParts) {
      const value = server.reported.get(name);
      if (value !== undefined && this.settings.values.has(name)) changes.push({ name, value });
    }
    this.apply(changes);
    this.#partsSet = false;
  }
  #partsSet = false;

  undo(name: string, statement: Statement | undefined): void {
    if (name === "") this.unnamed = statement;
    else if (statement === undefined) this.statements?.delete(name);
    else this.statements?.set(name, statement);
  }

  /** The same inside a transaction, where nothing has become the session's yet. */
  protected resetInTransaction(server: Server): boolean {
    const { resets } = this;
    this.resets = undefined;
    if (resets === undefined || this.unsynced || server.ring.length > 0) return false;
    const wanted = new Map<string, string>();
    const now = changeSettings(this.settings, this.pending?.changes ?? [], this.startupSettings).values;
    for (const name of this.startupSettings.values.keys()) {
      const value = now.get(name);
      if (value !== undefined && (resets.has("*") || resets.has(name))) wanted.set(name, value);
    }
    if (wanted.size === 0) return false;
    // They are explicit from now on: at the commit nothing has to be set back once more.
    for (const [name, value] of wanted) this.pending?.completed({ kind: "set", name, value }, false);
    this.setBack(server, settingsChangeSql(noSettings, settingsOf(wanted)), txOpen);
    return true;
  }

  /** After RESET: the server is at its own defaults, the client's are its startup parameters. */
  protected setBack(server: Server, sql: string, status: number): void {
    this.blocked = true;
    this.heldReady = status;
    server.internal(sql, (result) => {
      if (server.phase === "closed") return;
      if (result.error === undefined && status === txIdle) server.settings = this.settings;
      if (this.reported !== server.reported) server.report(this);
      this.heldReady = 0;
      this.send(readyForQuery(status));
      this.blocked = false;
      this.afterReady();
      this.unblock();
    });
  }

  /** The status of a ReadyForQuery that the client is still to get, or 0. */
  protected heldReady = 0;

  /** Looks at the session's state, which nobody else knows; `done` isn't called if the server is lost over it. */
  protected probe(server: Server, done: () => void): void {
    const { pool } = this;
    server.internal(probeSql(pool.customNames, pool.readFunctionsNow(), pool.listsSettings), (result) => {
      if (server.phase === "closed") return;
      server.settingsChanged = false;
      if (result.error !== undefined) this.pins |= pins.unknown;
      else this.#probed(server, readProbe(result.rows, pool.user));
      done();
    });
  }

  #probed(server: Server, found: ProbeResult): void {
    const before = this.pool.customNames.size;
    for (const [, body] of found.functions) this.pool.noteCustomNames(customNamesIn(body));
    if (this.pool.customNames.size > before) this.needProbe = true; // look again, with the new names
    this.pins = (this.pins & ~probedPins) | found.pins;
    if (found.usedTemp) server.usedTemp = true;
    if (this.verbatim && (found.pins & pins.prepared) === 0) {
      this.verbatim = false;
      this.statements = this.notMade; // the unnamed one is in no list, and lives on
      this.notMade = undefined;
      server.statements.clear();
    }
    const settings = settingsOf(found.settings);
    server.settings = settings;
    this.settings = settings;
  }
}
