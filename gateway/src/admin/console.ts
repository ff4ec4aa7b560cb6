/** The console: a database of its own name, simple queries only, in the manner of PgBouncer's. */
import { createHash, timingSafeEqual } from "node:crypto";
import { stateOf } from "../session/client-sweep.ts";
import type { Startup } from "../session/startup.ts";
import { pinReasons } from "../text/plan.ts";
import type { Link, LinkOwner } from "../transport/transport.ts";
import {
  backendKeyData,
  commandComplete,
  dataRow,
  parameterStatus,
  readyForQuery,
  rowDescription,
} from "../wire/build.ts";
import { fe, int32, txIdle } from "../wire/codec.ts";
import { errorBytes, type WireError, wireError } from "../wire/errors.ts";
import type { Worker } from "../worker.ts";
import { latencyRows } from "../workers/merge.ts";

export type Cell = string | number | null;
export type Table = {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly Cell[])[];
  readonly tag: string;
};

const longestCommand = 10_000;
/** Commands that one worker passes on to the main thread, which tells all. */
const ownMatters = new Set(["RELOAD", "SHUTDOWN"]);

export class AdminSession implements LinkOwner {
  readonly #worker: Worker;
  readonly #link: Link;
  #buffer: Buffer = Buffer.alloc(0);
  /** Waits for the other workers' answers. */
  #busy = false;

  constructor(worker: Worker, link: Link, request: Startup) {
    this.#worker = worker;
    this.#link = link;
    if (!worker.config.admin.users.some((each) => same(each, request.user))) {
      this.#fatal(wireError("FATAL", "42501", `user "${request.user}" may not use the console`));
      return;
    }
    for (const [name, value] of [
      ["server_version", "18.0 (quorate gateway)"],
      ["client_encoding", "UTF8"],
      ["server_encoding", "UTF8"],
      ["DateStyle", "ISO"],
      ["standard_conforming_strings", "on"],
      ["integer_datetimes", "on"],
    ] as const) {
      this.#send(parameterStatus(name, value));
    }
    this.#send(backendKeyData(0, Buffer.alloc(4)));
    this.#send(readyForQuery(txIdle));
  }

  #send(bytes: Buffer): void {
    this.#link.send(bytes, 0, bytes.length);
  }

  #fatal(error: WireError): void {
    this.#send(errorBytes(error));
    this.#link.close();
  }

  data(bytes: Buffer, start: number, end: number): void {
    this.#buffer = Buffer.concat([this.#buffer, bytes.subarray(start, end)]);
    this.#advance();
  }

  #advance(): void {
    while (this.#buffer.length >= 5 && !this.#busy) {
      const length = int32(this.#buffer, 1);
      if (length < 4 || length > longestCommand) {
        this.#fatal(wireError("FATAL", "08P01", "invalid message length"));
        return;
      }
      if (this.#buffer.length < length + 1) return;
      const type = this.#buffer[0];
      const text = this.#buffer.toString("utf8", 5, length);
      this.#buffer = this.#buffer.subarray(length + 1);
      if (type === fe.terminate) this.#link.close();
      else if (type === fe.query) this.#commands(text.split(";"));
      else if (type === fe.sync) this.#send(readyForQuery(txIdle));
      else if (type === fe.parse)
        this.#send(errorBytes(wireError("ERROR", "0A000", "the console knows simple queries only")));
    }
  }

  #commands(texts: readonly string[]): void {
    const { everywhere, transport } = this.#worker.options;
    for (const [at, each] of texts.entries()) {
      const words = each.trim().split(/\s+/);
      if (words[0] === "") continue;
      if (everywhere !== undefined && !ownMatters.has(words[0]?.toUpperCase() ?? "")) {
        this.#busy = true;
        everywhere(words).then((result) =>
          transport.turn(() => {
            this.#busy = false;
            if (this.#answer(result)) this.#commands(texts.slice(at + 1));
            else this.#send(readyForQuery(txIdle));
            this.#advance();
          }),
        );
        return;
      }
      if (!this.#answer(this.#run(words))) break;
    }
    this.#send(readyForQuery(txIdle));
  }

  #run(words: readonly string[]): Table | { readonly error: string } {
    try {
      return runCommand(this.#worker, words);
    } catch (error) {
      return { error: (error as Error).message };
    }
  }

  /** False after an error: what follows in the same query is not done. */
  #answer(result: Table | { readonly error: string }): boolean {
    if ("error" in result) {
      const hint = "SHOW HELP lists the commands.";
      this.#send(errorBytes(wireError("ERROR", "42601", result.error, { hint })));
      return false;
    }
    if (result.columns.length > 0) {
      this.#send(rowDescription(result.columns));
      for (const row of result.rows) this.#send(dataRow(row));
    }
    this.#send(commandComplete(result.tag));
    return true;
  }

  drained(): void {}
  closed(): void {}
}

function same(left: string, right: string): boolean {
  const hash = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(left), hash(right));
}

const shows: Record<string, (worker: Worker) => Table> = {
  POOLS: showPools,
  CLIENTS: showClients,
  SERVERS: showServers,
  STATS: showStats,
  DATABASES: showDatabases,
  CONFIG: showConfig,
  LEADER: showLeader,
  LEASES: showLeases,
  VERSION: () => show(["version"], [["Quorate gateway 0.1.0"]]),
  HELP: () =>
    show(
      ["command"],
      help.map((each) => [each]),
    ),
};

const help = [
  "SHOW POOLS | DATABASES | CLIENTS | SERVERS | STATS | LEADER | LEASES | CONFIG | VERSION",
  "PAUSE [database] | RESUME [database] | RECONNECT [database]",
  "RELOAD",
  "KILL CLIENT id | KILL SERVER id",
  "SHUTDOWN",
];

export function runCommand(worker: Worker, words: readonly string[]): Table {
  const [first = "", second = "", third = ""] = words.map((word) => word.toUpperCase());
  switch (first) {
    case "SHOW": {
      const handler = shows[second];
      if (handler === undefined) throw new Error(`there is no SHOW ${words[1] ?? ""}`);
      return handler(worker);
    }
    case "PAUSE":
    case "RESUME":
    case "RECONNECT": {
      for (const pool of worker.pools.values()) {
        if (second !== "" && pool.database !== words[1]) continue;
        if (first === "PAUSE") pool.paused = true;
        else if (first === "RESUME") pool.resume();
        else pool.reconnect();
      }
      return done(first);
    }
    case "RELOAD":
      worker.options.reload();
      return done(first);
    case "SHUTDOWN":
      worker.options.shutdown();
      return done(first);
    case "KILL":
      return kill(worker, second, Number(third));
    default:
      throw new Error(`unknown command "${words.join(" ")}"`);
  }
}

function kill(worker: Worker, what: string, id: number): Table {
  if (what === "CLIENT") {
    const client = [...worker.clients.values()].find((each) => worker.processId(each.id) === id);
    if (client === undefined) throw new Error(`there is no client ${id}`);
    client.fatal(wireError("FATAL", "57P01", "terminating connection due to administrator command"));
    return done("KILL");
  }
  if (what === "SERVER") {
    for (const pool of worker.pools.values()) {
      for (const server of pool.servers) {
        if (server.id !== id) continue;
        server.close("killed by an administrator");
        return done("KILL");
      }
    }
    throw new Error(`there is no server connection ${id}`);
  }
  throw new Error("KILL CLIENT id, or KILL SERVER id");
}

const show = (columns: readonly string[], rows: readonly (readonly Cell[])[]): Table => ({
  columns,
  rows,
  tag: "SHOW",
});
const done = (tag: string): Table => ({ columns: [], rows: [], tag });

function showPools(worker: Worker): Table {
  const now = worker.nowMs();
  return show(
    [
      "database",
      "user",
      "clients",
      "active",
      "waiting",
      "servers",
      "idle",
      "pinned",
      "maxwait_ms",
      "size",
      "paused",
      "role",
      "node",
      "term",
      "lease",
      "lease_used",
    ],
    [...worker.pools.values()].map((pool) => {
      const { limits } = worker.options;
      const node = pool.endpoint?.node;
      const lease = node === undefined ? Number.POSITIVE_INFINITY : limits.limit(node);
      let pinned = 0;
      let active = 0;
      for (const server of pool.servers) if (server.holder !== undefined) active++;
      for (const client of worker.clients.values())
        if (client.pool === pool && (client.pins !== 0 || client.verbatim)) pinned++;
      return [
        pool.database,
        pool.user,
        pool.clients,
        active,
        pool.waitingCount,
        pool.servers.size,
        pool.idle.length,
        pinned,
        Math.round(pool.longestWaitMs(now)),
        pool.limits.size,
        pool.paused ? "t" : "f",
        pool.node === undefined ? "leader" : "follower",
        pool.endpoint?.node ?? pool.node ?? null,
        pool.endpoint?.term ?? null,
        Number.isFinite(lease) ? lease : null,
        node === undefined ? null : limits.open(node),
      ];
    }),
  );
}

/** All pools of a database in one row. */
function showDatabases(worker: Worker): Table {
  const rows = new Map<string, [string, number, number, number, number, string]>();
  for (const pool of worker.pools.values()) {
    const row = rows.get(pool.database) ?? [pool.database, 0, 0, 0, 0, "f"];
    row[1] += pool.clients;
    row[2] += pool.waitingCount;
    row[3] += pool.servers.size;
    row[4] += pool.idle.length;
    if (pool.paused) row[5] = "t";
    rows.set(pool.database, row);
  }
  return show(["database", "clients", "waiting", "servers", "idle", "paused"], [...rows.values()]);
}

function showClients(worker: Worker): Table {
  return show(
    [
      "id",
      "database",
      "user",
      "application_name",
      "address",
      "state",
      "server",
      "pinned",
      "reads",
      "requests",
      "transactions",
      "prepared",
    ],
    [...worker.clients.values()].map((client) => [
      worker.processId(client.id),
      client.pool.database,
      client.pool.user,
      client.settings.values.get("application_name") ?? null,
      client.link.peer,
      stateOf(client, client.server),
      client.server?.id ?? null,
      pinReasons(client.pins).join(", "),
      client.readOnly ? "read port" : client.level.kind,
      client.requests,
      client.transactions,
      client.statements?.size ?? 0,
    ]),
  );
}

function showServers(worker: Worker): Table {
  const rows: Cell[][] = [];
  for (const pool of worker.pools.values()) {
    for (const server of pool.servers) {
      const processId = server.cancelKey === undefined ? null : int32(server.cancelKey, 0);
      const state = server.phase === "login" ? "login" : server.holder === undefined ? "idle" : "active";
      rows.push([
        server.id,
        pool.database,
        pool.user,
        state,
        processId,
        server.statements.size,
        server.endpoint?.node ?? null,
      ]);
    }
  }
  return show(["id", "database", "user", "state", "process_id", "prepared", "node"], rows);
}

function showStats(worker: Worker): Table {
  const { latency, plans } = worker;
  return show(
    ["name", "value"],
    [
      ["connections", worker.connections],
      ["clients", worker.clients.size],
      ["logins_failed", worker.loginsFailed],
      ["requests", latency.count],
      ...latencyRows(latency),
      ["reads_for_followers", worker.followerReads],
      ["shared_statements", worker.statements.size],
      ["texts_told_by_the_lexer", plans.quick],
      ["texts_from_the_cache", plans.hits],
      ["texts_parsed", plans.parses],
    ],
  );
}

function showConfig(worker: Worker): Table {
  const rows: [string, string][] = [];
  const visit = (prefix: string, value: unknown): void => {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [name, inner] of Object.entries(value))
        visit(prefix === "" ? name : `${prefix}.${name}`, inner);
    } else rows.push([prefix, JSON.stringify(value)]);
  };
  visit("", worker.config);
  return show(["key", "value"], rows);
}

/** Of all workers together. */
function showLeases(worker: Worker): Table {
  return show(
    ["node", "share", "leased", "used", "wanted"],
    worker.options.limits.all.map(({ node, limit, leased, open, wants }) => [
      node,
      Number.isFinite(limit) ? limit : null,
      leased ? "t" : "f",
      open,
      wants,
    ]),
  );
}

function showLeader(worker: Worker): Table {
  const { leader, followers } = worker.options.leaders.view;
  const rows: Cell[][] = [];
  if (leader !== undefined) rows.push(["leader", leader.node, leader.term, leader.host, leader.port]);
  for (const each of followers) rows.push(["follower", each.node, each.term, each.host, each.port]);
  return show(["role", "node", "term", "host", "port"], rows);
}
