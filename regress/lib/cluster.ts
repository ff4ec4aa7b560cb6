/** Raw cohorts for tests of the extension: servers and their control sockets, no sidecar, nobody who decides. */
import { spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { appendFile, open, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import {
  asPostgres,
  descendants,
  dropSharedMemory,
  isAlive,
  killTree,
  makePostgresTempDirectory,
  poll,
  runAsPostgres,
  sendSignal,
  waitForExit,
} from "@quorate/common";
import pg from "pg";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import type { Variant } from "../../scripts/lib/postgres/plan.ts";
import { type Control, connectControl, type Response, type Status } from "./control.ts";
import { type Disk, makeDisk } from "./disk.ts";

/** QUORATE_TEST_BIN: use that installation, which must have the extension, instead of the cached build. */
export async function binDirectory(variant: Variant = "release"): Promise<string> {
  return process.env["QUORATE_TEST_BIN"] ?? (await ensurePostgres({ variant })).bin;
}

export type ClusterOptions = {
  readonly nodes: number;
  /** Lines of postgresql.conf for every node. */
  readonly settings?: readonly string[];
  readonly variant?: Variant;
  /** Another installation than that of the variant. */
  readonly bin?: string;
  /** Each data directory on a file system of its own, whose power can be cut. Needs root. */
  readonly disks?: boolean;
};

export type Server = ReturnType<typeof makeServer>;
export type Cluster = Awaited<ReturnType<typeof makeCluster>>;

/** Postmasters of this process, which don't outlive it. */
const running = new Set<number>();
process.once("exit", () => {
  for (const pid of running) if (isAlive(pid)) killTree(pid);
});

const startTimeoutMs = 60_000;
const stopTimeoutMs = 60_000;

function configuration(dir: string, id: string, settings: readonly string[]): string {
  return [
    "",
    "port = 5432",
    `unix_socket_directories = '${path.join(dir, id)}'`,
    "listen_addresses = ''",
    `cluster_name = '${id}'`,
    "shared_buffers = 32MB",
    "restart_after_crash = off",
    "max_prepared_transactions = 10",
    "wal_keep_size = 256MB",
    "wal_retrieve_retry_interval = 200ms",
    "wal_receiver_status_interval = 1s",
    "log_line_prefix = '%m [%p] %b '",
    "shared_preload_libraries = 'quorate'",
    `quorate.node_id = '${id}'`,
    `quorate.control_socket = '${path.join(dir, `${id}.ctl`)}'`,
    ...settings,
    "",
  ].join("\n");
}

function makeServer(bin: string, dir: string, id: string, disk?: Disk) {
  const data = disk === undefined ? path.join(dir, `${id}.data`) : path.join(disk.directory, "data");
  const socketDirectory = path.join(dir, id);
  const logFile = path.join(dir, `${id}.log`);
  let pid: number | undefined;
  let exit: Promise<number> = Promise.resolve(0);
  let connections: (Control | pg.Client)[] = [];

  const server = {
    id,
    data,
    logFile,
    socketDirectory,
    controlSocket: path.join(dir, `${id}.ctl`),

    /** What a member's walreceiver uses to reach this server. */
    conninfoFor: (follower: string) =>
      `host=${socketDirectory} port=5432 user=postgres application_name=${follower} options=-cquorate.member=on`,

    configure: (line: string) => appendFile(path.join(data, "postgresql.conf"), `${line}\n`),

    /** Starts the postmaster and waits for its control socket; SQL may not be possible yet. */
    async start() {
      await server.launch();
      await server.control().then((control) => control.close());
    },

    /** Without "standby" a stock server, which must not load the library. */
    async launch({ standby = true } = {}) {
      if (standby) await writeFile(path.join(data, "standby.signal"), "");
      const log = await open(logFile, "a", 0o644);
      const child = spawn(
        path.join(bin, "postgres"),
        ["-D", data],
        asPostgres({ stdio: ["ignore", log.fd, log.fd], detached: true }),
      );
      await new Promise((resolve, reject) => {
        child.once("spawn", resolve);
        child.once("error", reject);
      });
      await log.close();
      pid = child.pid;
      if (child.pid !== undefined) running.add(child.pid);
      child.once("exit", () => running.delete(child.pid ?? 0));
      exit = new Promise((resolve) => child.once("exit", (code) => resolve(code ?? -1)));
    },

    log: (): Promise<string> => readFile(logFile, "utf8"),

    /** The exit code of the postmaster that was started last, -1 if a signal ended it. */
    exited: (): Promise<number> => exit,

    pid(): number {
      if (pid === undefined) throw new Error(`${id} does not run`);
      return pid;
    },

    isRunning: () => pid !== undefined && isAlive(pid),

    /** kill -9 of all its processes at once, as when the machine dies. */
    async kill9() {
      await server.killAll();
      await server.forgetLocks();
    },

    /** Until the last of them has ended the shared memory is in use. */
    async killAll() {
      for (const each of killTree(server.pid())) await waitForExit(each, { timeoutMs: stopTimeoutMs });
    },

    /** The machine loses its power: what wasn't fsynced is lost. */
    async cutPower() {
      if (disk === undefined) throw new Error(`${id} has no disk of its own`);
      await disk.cutPower(() => server.killAll());
      await server.forgetLocks();
    },

    async forgetLocks() {
      await dropSharedMemory(data);
      await rm(path.join(data, "postmaster.pid"), { force: true });
      await rm(path.join(socketDirectory, ".s.PGSQL.5432.lock"), { force: true });
    },

    async stop(mode: "fast" | "immediate" = "fast") {
      sendSignal(server.pid(), mode === "fast" ? "SIGINT" : "SIGQUIT");
      await waitForExit(server.pid(), { timeoutMs: stopTimeoutMs });
    },

    /** The pid of a child process by its title, such as "walreceiver". */
    child(title: RegExp): number {
      const found = descendants(server.pid()).find((each) => title.test(server.title(each.pid)));
      if (found === undefined) throw new Error(`${id} has no process like ${title}`);
      return found.pid;
    },

    title: (each: number): string => readCommandLine(each),

    async control(): Promise<Control> {
      const control = await poll(
        async () => {
          if (pid !== undefined && !isAlive(pid)) throw new Error(`${id} has stopped, see ${logFile}`);
          return await connectControl(server.controlSocket).catch(() => undefined);
        },
        { what: `the control socket of ${id}`, timeoutMs: startTimeoutMs },
      );
      connections.push(control);
      return control;
    },

    /** One request on a connection of its own. */
    async ask(body: { readonly [key: string]: unknown }): Promise<Response> {
      const control = await server.control();
      try {
        return await control.request(body);
      } finally {
        control.close();
      }
    },

    async status(): Promise<Status> {
      const { status } = await server.ask({ cmd: "status" });
      if (status === undefined) throw new Error(`${id} answered without a status`);
      return status;
    },

    untilStatus: (what: string, fits: (status: Status) => boolean): Promise<Status> =>
      poll(
        async () => {
          const status = await server.status();
          return fits(status) && status;
        },
        { what: `${id}: ${what}`, timeoutMs: startTimeoutMs },
      ),

    /** A client connection; it's closed with the cluster. */
    async connect(options = "", database = "postgres"): Promise<pg.Client> {
      const client = new pg.Client({
        host: socketDirectory,
        port: 5432,
        user: "postgres",
        database,
        options,
        connectionTimeoutMillis: 20_000,
      });
      client.on("error", () => undefined); // servers die in these tests
      await client.connect();
      connections.push(client);
      return client;
    },

    /** One statement on a connection of its own: the rows as arrays of text. */
    async sql(text: string, timeoutMs = 20_000): Promise<string[][]> {
      const client = await server.connect(`-cstatement_timeout=${timeoutMs}`);
      try {
        const { rows } = await client.query<string[]>({ text, rowMode: "array", types: asText });
        return rows;
      } finally {
        await client.end();
      }
    },

    /** The first column of the first row. */
    async value(text: string): Promise<string | undefined> {
      return (await server.sql(text))[0]?.[0];
    },

    /** Also while it isn't ready for SQL yet, or hasn't applied what the statement needs. */
    async untilValue(text: string, expected: string): Promise<void> {
      let last: unknown;
      await poll(
        async () => {
          last = await server.value(text).catch((error: unknown) => error);
          return last === expected;
        },
        { what: `${id}: ${text} = ${expected}`, timeoutMs: 20_000 },
      ).catch((error: unknown) => {
        throw new Error(`${id}: ${text}: expected ${expected}, the last answer was ${last}`, {
          cause: error,
        });
      });
    },

    async dispose() {
      for (const each of connections) {
        if ("close" in each) each.close();
        else await each.end().catch(() => undefined);
      }
      connections = [];
      if (pid !== undefined && isAlive(pid)) await server.kill9();
      await disk?.dispose();
    },
  };
  return server;
}

const asText = { getTypeParser: () => (value: string | null) => value } as unknown as pg.CustomTypesConfig;

function readCommandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}

const templates = new Map<string, Promise<string>>();

/** A data directory to copy, made once per process and installation. */
function dataTemplate(bin: string): Promise<string> {
  const known = templates.get(bin);
  if (known !== undefined) return known;
  const template = (async () => {
    const dir = await makePostgresTempDirectory("qrt-template-");
    process.once("exit", () => rmSync(dir, { recursive: true, force: true }));
    const data = path.join(dir, "data");
    await runAsPostgres(path.join(bin, "initdb"), [
      ...["-D", data, "-U", "postgres", "-A", "trust"],
      ...["-E", "UTF8", "--locale=C", "--no-sync"],
    ]);
    return data;
  })();
  templates.set(bin, template);
  return template;
}

/** Nodes n1, n2, … with the same contents, fenced and not started. */
export async function makeCluster(options: ClusterOptions) {
  const bin = options.bin ?? (await binDirectory(options.variant));
  const dir = await makePostgresTempDirectory("qrt-");
  const ids = Array.from({ length: options.nodes }, (_, i) => `n${i + 1}`);
  const servers: Server[] = [];
  for (const id of ids) {
    await runAsPostgres("mkdir", ["-m", "700", path.join(dir, id)]);
    const disk = options.disks === true ? await makeDisk(dir, id) : undefined;
    const server = makeServer(bin, dir, id, disk);
    await runAsPostgres("cp", ["-a", await dataTemplate(bin), server.data]);
    await server.configure(configuration(dir, id, options.settings ?? []));
    await disk?.sync();
    servers.push(server);
  }

  const node = (id: string): Server => {
    const server = servers.find((each) => each.id === id);
    if (server === undefined) throw new Error(`no node ${id}`);
    return server;
  };

  return {
    bin,
    dir,
    servers,
    node,

    /** What a coordinator does, without looking: fence all, elect one, point the others at it. */
    async lead(leader: string, term: number, rule: string, followers: readonly string[] = []) {
      for (const id of [leader, ...followers]) expectOk(await node(id).ask({ cmd: "fence", term }));
      expectOk(
        await node(leader).ask({
          cmd: "elect",
          term,
          rule,
          ruleset: { version: term, text: `{"term":${term}}` },
        }),
      );
      for (const id of followers) await this.follow(id, leader, term);
      await node(leader).untilStatus(
        `leads term ${term}`,
        ({ state, ruleset }) => state === "leader" && ruleset?.version === term,
      );
    },

    async follow(id: string, leader: string, term: number) {
      const conninfo = node(leader).conninfoFor(id);
      expectOk(await node(id).ask({ cmd: "follow", term, leader, conninfo }));
    },

    async dispose() {
      for (const server of servers) await server.dispose();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

export function expectOk(response: Response): Response {
  if (!response.ok) throw new Error(`${response.code}: ${response.message}`);
  return response;
}
