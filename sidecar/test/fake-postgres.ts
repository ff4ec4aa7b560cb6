/**
 * Stands in for the programs of Postgres: postgres, initdb, pg_basebackup, pg_controldata. Started by small scripts
 * that fake-bin.ts writes; the first argument is the program's name. The log is a file in the data directory.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FakeControl, type FakeState } from "./fake-control.ts";

const [program = "", ...args] = process.argv.slice(2);

function option(prefix: string): string | undefined {
  return args.find((arg) => arg.startsWith(prefix))?.slice(prefix.length);
}

function fail(message: string): never {
  process.stderr.write(`${program}: ${message}\n`);
  process.exit(1);
}

function makeData(directory: string, log: object): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "PG_VERSION"), "18\n");
  writeFileSync(join(directory, "postgresql.conf"), "# sample\n");
  writeFileSync(join(directory, "fake-log.json"), JSON.stringify(log));
}

function initdb(): void {
  const data = option("--pgdata=") ?? fail("no --pgdata");
  if (args.includes("--sync-only")) return;
  makeData(data, { term: 1, position: { term: 1, lsn: "0/1000" } });
}

function baseBackup(): void {
  const data = option("--pgdata=") ?? fail("no --pgdata");
  const conninfo = option("--dbname=") ?? fail("no --dbname");
  if (conninfo.includes("port=1 ")) fail("could not connect to server");
  process.stderr.write("   1024/4096 kB (25%), 0/1 tablespace\r   4096/4096 kB (100%), 1/1 tablespace\n");
  makeData(data, { term: 1, position: { term: 1, lsn: "0/1000" } });
}

function postgres(): void {
  if (args[0] === "--single") {
    const sql = readFileSync(0, "utf8");
    writeFileSync(join(args[2] ?? "", "fake-sql.txt"), sql, { flag: "a" });
    return;
  }
  const data = args[args.indexOf("-D") + 1] ?? fail("no -D");
  if (!existsSync(join(data, "standby.signal"))) fail("would not start as a follower");
  if (existsSync(join(data, "fake-broken"))) fail("this data directory is broken");
  const pidFile = join(data, "postmaster.pid");
  writeFileSync(pidFile, `${process.pid}\n${data}\n`);
  const logFile = join(data, "fake-log.json");
  const control = new FakeControl(JSON.parse(readFileSync(logFile, "utf8")) as Partial<FakeState>);
  control.receiver = () =>
    existsSync(join(data, "fake-streams"))
      ? { state: "streaming", timeline: control.state.term, lastMessageAgeMs: 5 }
      : null;
  const keepLog = (): void => {
    const { term, position, ruleset } = control.state;
    writeFileSync(`${logFile}.new`, JSON.stringify({ term, position, ruleset }));
    renameSync(`${logFile}.new`, logFile);
  };
  control.onChange = keepLog;
  const socket = option("quorate.control_socket=") ?? fail("no control socket");
  void control.listen(socket);
  for (const signal of ["SIGINT", "SIGQUIT"] as const)
    process.on(signal, () => {
      keepLog();
      rmSync(pidFile, { force: true });
      rmSync(socket, { force: true });
      process.exit(0);
    });
}

if (program === "initdb") initdb();
else if (program === "pg_basebackup") baseBackup();
else if (program === "pg_controldata")
  process.stdout.write("Database system identifier:           7441000000000000001\n");
else if (program === "postgres") postgres();
else fail("unknown program");
