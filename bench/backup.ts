/**
 * npm run bench:backup — what backups cost and how fast they are:
 *  - backup, and restore of the files, against plain pgbackrest with the same options, in turn, in the same run;
 *  - the leader's tps while a follower is backed up, in turn with its tps without;
 *  - the time until a node that lost its disk has caught up;
 *  - the time to a cluster as it was at a moment.
 * Beside each time stands the CPU time of our process and all programs that it ran: on a machine that does other things,
 * too, that is what can be compared.
 */
import { execFile } from "node:child_process";
import { chmodSync, chownSync, mkdtempSync, readFileSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { loadavg, tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { messageOf, poll } from "@quorate/common";
import { backupNow } from "@quorate/orchestrator/cli/backup.ts";
import { type BackupSource, withBackupSource } from "@quorate/orchestrator/cluster/backup-source.ts";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { lookForRestore, restoreFiles } from "@quorate/sidecar/backup/restore-data.ts";
import { Command } from "commander";
import {
  archiveNow,
  loseDisk,
  prepareBackupCluster,
  restoreCluster,
  start,
} from "../tests/lib/backup-cluster.ts";
import { waitForEqualPositions } from "../tests/lib/checks.ts";
import type { TestCluster } from "../tests/lib/cluster.ts";
import { withClient } from "../tests/lib/contents.ts";
import type { Teardown } from "../tests/lib/told.ts";
import { percentile } from "./statistics.ts";

const parts = ["throughput", "tps", "node", "moment"] as const;
type Part = (typeof parts)[number];

interface Options {
  readonly sizeMb: number;
  readonly rounds: number;
  readonly tpsSeconds: number;
  readonly only: readonly Part[];
}

const scaleMb = 15; // of pgbench's scale 1
const longMs = 3_600_000;

interface Cost {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

/** Of this process and of the programs that it ran and that have ended, with theirs. */
function cpuSeconds(): number {
  const fields = readFileSync("/proc/self/stat", "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return ticks / 100;
}

async function measured(work: () => Promise<unknown>): Promise<Cost> {
  const startedMs = performance.now();
  const cpuBefore = cpuSeconds();
  await work();
  return { seconds: (performance.now() - startedMs) / 1000, cpuSeconds: cpuSeconds() - cpuBefore };
}

function median(values: readonly number[]): number {
  return percentile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}

async function quietly<T>(work: () => Promise<T>): Promise<T> {
  const { log } = console;
  console.log = () => undefined;
  try {
    return await work();
  } finally {
    console.log = log;
  }
}

const list = (values: readonly number[], digits: number): string =>
  values.map((value) => value.toFixed(digits)).join(", ");

function say(name: string, costs: readonly Cost[], bytes: number): void {
  const wall = costs.map(({ seconds }) => seconds);
  const cpu = costs.map(({ cpuSeconds: seconds }) => seconds);
  const rate = (bytes / 1024 ** 2 / median(wall)).toFixed(0);
  console.log(
    `${name.padEnd(34)} ${median(wall).toFixed(2).padStart(8)} s ${rate.padStart(6)} MB/s, CPU ${median(cpu).toFixed(2)} s` +
      `   (${list(wall, 2)}; CPU ${list(cpu, 2)})`,
  );
}

function compare(what: string, ours: readonly Cost[], plain: readonly Cost[], bytes: number): void {
  say(`${what}, quorate`, ours, bytes);
  say(`${what}, plain pgbackrest`, plain, bytes);
  const ratio = (of: (cost: Cost) => number): string =>
    (median(ours.map(of)) / median(plain.map(of))).toFixed(2);
  console.log(
    `  quorate / plain: ${ratio((c) => c.seconds)} in time, ${ratio((c) => c.cpuSeconds)} in CPU time`,
  );
}

/** Arguments of a backup of this follower, as an operator would give them to pgbackrest itself. */
function plainBackup(cluster: TestCluster, leader: string): string[] {
  const node = paths.node(cluster.dir, leader);
  return [
    `--pg2-path=${node}/data`,
    `--pg2-port=${cluster.node(leader).ports.postgres}`,
    `--pg2-socket-path=${node}/run`,
    "--pg2-user=postgres",
    "--backup-standby=y",
    "--type=full",
    "backup",
  ];
}

/** Ours and plain in turn, and who is first changes: full backups of a follower, restores of their files. */
async function throughput(cluster: TestCluster, { rounds }: Options): Promise<void> {
  const cost = { ours: [] as Cost[], plain: [] as Cost[], oursBack: [] as Cost[], plainBack: [] as Cost[] };
  const leader = await cluster.leader();
  const follower = cluster.ids.find((id) => id !== leader) ?? leader;
  const conf = path.join(paths.node(cluster.dir, follower), "backup/pgbackrest.conf");
  await withBackupSource(cluster.open, async (source) => {
    const { owner } = source;
    const plain = (args: string[]) =>
      promisify(execFile)(
        source.config.backup.pgbackrest,
        [`--config=${conf}`, `--stanza=${source.stanza}`, ...args],
        { cwd: "/", ...(owner === undefined ? {} : { uid: owner.uid, gid: owner.gid }), maxBuffer: 1 << 26 },
      );
    for (let round = 0; round < rounds; round++) {
      await inTurn(round, [
        async () =>
          cost.ours.push(await measured(() => quietly(() => backupNow(cluster.dir, { type: "full" })))),
        async () => cost.plain.push(await measured(() => plain(plainBackup(cluster, leader)))),
      ]);
      await inTurn(round, [
        async () => cost.oursBack.push(await restoreOnce(source, "ours", plain)),
        async () => cost.plainBack.push(await restoreOnce(source, "plain", plain)),
      ]);
    }
    const info = await source.pgbackrest.info();
    const bytes = info.kind === "ok" ? (info.backups.at(-1)?.databaseBytes ?? 0) : 0;
    console.log(`database: ${(bytes / 1024 ** 2).toFixed(0)} MB, ${rounds} rounds`);
    compare("full backup", cost.ours, cost.plain, bytes);
    compare("restore of files", cost.oursBack, cost.plainBack, bytes);
  });
}

async function inTurn(round: number, works: readonly (() => Promise<unknown>)[]): Promise<void> {
  for (const [i] of works.entries()) await works[(i + round) % works.length]?.();
}

async function restoreOnce(
  source: BackupSource,
  whose: "ours" | "plain",
  plain: (args: string[]) => Promise<unknown>,
): Promise<Cost> {
  const { owner } = source;
  const target = mkdtempSync(path.join(tmpdir(), "quorate-bench-"));
  if (owner !== undefined) chownSync(target, owner.uid, owner.gid);
  chmodSync(target, 0o755);
  const data = path.join(target, "data");
  try {
    if (whose === "ours")
      return await measured(async () =>
        restoreFiles({
          pgbackrest: source.pgbackrest,
          data,
          tablespaces: path.join(target, "tablespaces"),
          owner,
          source: await lookForRestore(source.pgbackrest, { kind: "latest" }),
          signal: new AbortController().signal,
          onProgress: () => undefined,
        }),
      );
    await mkdir(data, { mode: 0o700 });
    if (owner !== undefined) chownSync(data, owner.uid, owner.gid);
    return await measured(() => plain([`--pg1-path=${data}`, "--type=none", "restore"]));
  } finally {
    await rm(target, { recursive: true, force: true });
  }
}

async function pgbench(cluster: TestCluster, leader: string, ...args: string[]): Promise<string> {
  const program = path.join(cluster.bin, "pgbench");
  const url = new URL(cluster.url(leader));
  const env = { ...process.env, PGPASSWORD: decodeURIComponent(url.password) };
  url.password = "";
  return (await promisify(execFile)(program, [...args, url.href], { env })).stdout;
}

async function tps(cluster: TestCluster, leader: string, seconds: number): Promise<number> {
  const stdout = await pgbench(cluster, leader, "-n", "-M", "prepared", "-c", "4", "-T", String(seconds));
  return Number(/^tps = ([\d.]+)/m.exec(stdout)?.[1]);
}

/** A backup begins with a checkpoint of the leader, at once; what that costs by itself is measured, too. */
async function tpsDuringBackup(cluster: TestCluster, { rounds, tpsSeconds }: Options): Promise<void> {
  const without: number[] = [];
  const afterCheckpoint: number[] = [];
  const during: number[] = [];
  const leader = await cluster.leader();
  const measure = () => tps(cluster, leader, tpsSeconds);
  const checkpoint = async (): Promise<void> => {
    const [speed] = await Promise.all([
      measure(),
      withClient(cluster.superuser(leader), (client) => client.query("checkpoint")),
    ]);
    afterCheckpoint.push(speed);
  };
  const busy = async (): Promise<void> => {
    let goOn = true;
    const backups = (async () => {
      while (goOn) await quietly(() => backupNow(cluster.dir, { type: "full" }));
    })();
    during.push(await measure());
    goOn = false;
    await backups;
  };
  for (let round = 0; round < rounds; round++)
    await inTurn(round, [async () => without.push(await measure()), checkpoint, busy]);
  const line = (what: string, values: readonly number[]): void =>
    console.log(
      `leader's tps, medians: ${what.padEnd(30)} ${median(values).toFixed(0).padStart(6)}, ` +
        `of each round's ratio ${median(values.map((each, i) => each / (without[i] ?? 0))).toFixed(2)}   (${list(values, 0)})`,
    );
  line("without a backup", without);
  line("after a checkpoint", afterCheckpoint);
  line("while a follower is backed up", during);
}

async function newNode(cluster: TestCluster): Promise<void> {
  const leader = await cluster.leader();
  const id = cluster.ids.find((each) => each !== leader) ?? "n2";
  let restoredAfter = 0;
  const startedMs = performance.now();
  const { seconds } = await measured(async () => {
    await loseDisk(cluster, id);
    await poll(async () => (await cluster.pictureOf(id)).postgres === "running" || undefined, {
      what: `${id} to be restored`,
      timeoutMs: longMs,
    });
    restoredAfter = (performance.now() - startedMs) / 1000;
    await cluster.waitUntilWhole(longMs);
    await waitForEqualPositions(cluster, longMs);
  });
  const from = /restoring from the backup/.test(cluster.log(id, "sidecar"))
    ? "backup, archive and stream"
    : "a copy of the leader";
  console.log(
    `a node that lost its disk has caught up after ${seconds.toFixed(1)} s, from ${from} (its data is there after ${restoredAfter.toFixed(1)} s)`,
  );
}

async function pointInTime(t: Teardown, cluster: TestCluster, { tpsSeconds }: Options): Promise<void> {
  const leader = await cluster.leader();
  await tps(cluster, leader, tpsSeconds);
  const time = await withClient(cluster.url(leader), async (client) => {
    const { rows } = await client.query<{ now: string }>("select (now() at time zone 'UTC')::text as now");
    return rows[0]?.now ?? "";
  });
  await archiveNow(cluster);
  let other: TestCluster | undefined;
  const restore = await measured(async () => {
    other = await restoreCluster(t, cluster, ["--to-time", time]);
  });
  const up = await measured(async () => {
    if (other !== undefined) await start(other);
  });
  console.log(
    `a cluster as it was at a moment: restored after ${restore.seconds.toFixed(1)} s, accepts writes ${up.seconds.toFixed(1)} s later`,
  );
}

async function bench(options: Options): Promise<void> {
  const clean: (() => Promise<void> | void)[] = [];
  const t: Teardown = { teardown: (work) => clean.unshift(work) };
  const load = (when: string) =>
    console.log(
      `load average ${when}: ${loadavg()
        .map((x) => x.toFixed(1))
        .join(", ")}`,
    );
  try {
    load("at the beginning");
    const cluster = await prepareBackupCluster(t, { backup: (usual) => usual });
    await start(cluster);
    await cluster.waitUntilWhole(longMs);
    await poll(async () => (await cluster.picture()).backup?.last ?? undefined, {
      what: "the first backup",
      timeoutMs: longMs,
    });
    const scale = Math.max(1, Math.round(options.sizeMb / scaleMb));
    const loaded = await measured(async () => {
      await pgbench(cluster, await cluster.leader(), "-i", "-q", "-s", String(scale));
      await waitForEqualPositions(cluster, longMs);
    });
    console.log(`pgbench's tables of scale ${scale} are on all nodes after ${loaded.seconds.toFixed(0)} s`);
    const wanted = (part: Part): boolean => options.only.includes(part);
    if (wanted("throughput")) await throughput(cluster, options);
    else await quietly(() => backupNow(cluster.dir, { type: "full" }));
    if (wanted("tps")) await tpsDuringBackup(cluster, options);
    if (wanted("node")) await newNode(cluster);
    if (wanted("moment")) await pointInTime(t, cluster, options);
    load("at the end");
  } finally {
    for (const work of clean) await work();
  }
}

function number(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`${text}: give a whole number from 1 on`);
  return value;
}

function chosen(text: string): Part[] {
  return text.split(",").map((name) => {
    const part = parts.find((each) => each === name);
    if (part === undefined) throw new Error(`${name}: choose among ${parts.join(", ")}`);
    return part;
  });
}

const command = new Command("bench:backup")
  .description(
    "backup and restore throughput, time to a new node and to a moment, the leader's tps during a backup",
  )
  .option("--size-mb <megabytes>", "size of the database (1000 and 5000 for the long forms)", number, 200)
  .option("--rounds <count>", "of each comparison", number, 3)
  .option("--tps-seconds <seconds>", "of each pgbench run", number, 10)
  .option("--only <parts>", `some of ${parts.join(",")}`, chosen, [...parts])
  .action(async (options: Options) => {
    try {
      await bench(options);
    } catch (error) {
      console.error(`bench:backup: ${messageOf(error)}`);
      process.exitCode = 1;
    }
  });
await command.parseAsync();
