/**
 * npm run bench:backup — what backups cost and how fast they are:
 *  - backup and restore against plain pgbackrest with the same options, in turn, in the same run;
 *  - the time until a node that lost its disk has caught up;
 *  - the time to a cluster as it was at a moment;
 *  - the leader's tps while a follower is backed up, in turn with its tps without.
 */
import { execFile } from "node:child_process";
import { chmodSync, chownSync, rmSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { messageOf, poll } from "@quorate/common";
import { backupNow } from "@quorate/orchestrator/cli/backup.ts";
import { withBackupSource } from "@quorate/orchestrator/cluster/backup-source.ts";
import { paths } from "@quorate/orchestrator/cluster/files.ts";
import { Command } from "commander";
import { waitForEqualPositions } from "../tests/lib/checks.ts";
import { freeBasePort, quorate, TestCluster } from "../tests/lib/cluster.ts";
import { withClient } from "../tests/lib/contents.ts";
import { percentile } from "./statistics.ts";

interface Options {
  readonly sizeMb: number;
  readonly rounds: number;
  readonly tpsSeconds: number;
}

const scaleMb = 15; // of pgbench's scale 1

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return (performance.now() - startedMs) / 1000;
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

function say(name: string, values: readonly number[], bytes: number): void {
  const middle = median(values);
  const rate = (bytes / 1024 ** 2 / middle).toFixed(0);
  console.log(
    `${name.padEnd(34)} ${middle.toFixed(2).padStart(8)} s ${rate.padStart(7)} MB/s   (${values.map((v) => v.toFixed(2)).join(", ")})`,
  );
}

async function databaseBytes(cluster: TestCluster): Promise<number> {
  const picture = await cluster.picture();
  return picture.backup?.last?.databaseBytes ?? 0;
}

/** Ours and plain, in turn: a full backup of a follower, a restore of its files. */
async function throughput(cluster: TestCluster, { rounds }: Options): Promise<void> {
  const ours: number[] = [];
  const plain: number[] = [];
  const restorePlain: number[] = [];
  const leader = await cluster.leader();
  const follower = cluster.ids.find((id) => id !== leader) ?? leader;
  const conf = path.join(paths.node(cluster.dir, follower), "backup/pgbackrest.conf");
  await withBackupSource(cluster.open, async (source) => {
    const user = source.owner;
    const run = (args: string[]) =>
      promisify(execFile)(
        source.config.backup.pgbackrest,
        [`--config=${conf}`, `--stanza=${source.stanza}`, ...args],
        {
          cwd: "/",
          ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
          maxBuffer: 1 << 26,
        },
      );
    const node = paths.node(cluster.dir, leader);
    const standby = [
      `--pg2-path=${node}/data`,
      `--pg2-port=${cluster.node(leader).ports.postgres}`,
      `--pg2-socket-path=${node}/run`,
      "--pg2-user=postgres",
      "--backup-standby=y",
    ];
    for (let round = 0; round < rounds; round++) {
      ours.push(await seconds(() => quietly(() => backupNow(cluster.dir, { type: "full" }))));
      plain.push(await seconds(() => run([...standby, "--type=full", "backup"])));
      const target = await mkdtemp(path.join(tmpdir(), "quorate-bench-"));
      if (user !== undefined) chownSync(target, user.uid, user.gid);
      const data = path.join(target, "data");
      await mkdir(data, { mode: 0o700 });
      if (user !== undefined) chownSync(data, user.uid, user.gid);
      restorePlain.push(await seconds(() => run([`--pg1-path=${data}`, "--type=none", "restore"])));
      await rm(target, { recursive: true, force: true });
    }
  });
  const bytes = await databaseBytes(cluster);
  console.log(`database: ${(bytes / 1024 ** 2).toFixed(0)} MB`);
  say("full backup, quorate", ours, bytes);
  say("full backup, plain pgbackrest", plain, bytes);
  console.log(`ratio of medians: ${(median(ours) / median(plain)).toFixed(2)}`);
  say("restore of files, plain pgbackrest", restorePlain, bytes);
}

async function pgbench(cluster: TestCluster, leader: string, time: number): Promise<number> {
  const { stdout } = await promisify(execFile)(path.join(cluster.bin, "pgbench"), [
    "-n",
    "-M",
    "prepared",
    "-c",
    "4",
    "-T",
    String(time),
    cluster.url(leader),
  ]);
  return Number(/^tps = ([\d.]+)/m.exec(stdout)?.[1]);
}

/** One second for the backup to begin copying. */
const beforeLoadMs = 1000;

async function tpsDuringBackup(cluster: TestCluster, { rounds, tpsSeconds }: Options): Promise<void> {
  const without: number[] = [];
  const during: number[] = [];
  const leader = await cluster.leader();
  for (let round = 0; round < rounds; round++) {
    without.push(await pgbench(cluster, leader, tpsSeconds));
    let goOn = true;
    const backups = (async () => {
      while (goOn) await quietly(() => backupNow(cluster.dir, { type: "full" }));
    })();
    await new Promise((resolve) => setTimeout(resolve, beforeLoadMs));
    during.push(await pgbench(cluster, leader, tpsSeconds));
    goOn = false;
    await backups;
  }
  const ratio = median(during) / median(without);
  console.log(
    `leader's tps: ${median(without).toFixed(0)} without, ${median(during).toFixed(0)} while a follower is backed up, ` +
      `ratio ${ratio.toFixed(2)}   (${without.map((v) => v.toFixed(0)).join(", ")} / ${during.map((v) => v.toFixed(0)).join(", ")})`,
  );
}

async function newNode(cluster: TestCluster): Promise<void> {
  const leader = await cluster.leader();
  const id = cluster.ids.find((each) => each !== leader) ?? "n2";
  const took = await seconds(async () => {
    cluster.killSidecar(id);
    cluster.killPostgres(id);
    rmSync(path.join(paths.node(cluster.dir, id), "data"), { recursive: true, force: true });
    await poll(async () => (await cluster.pictureOf(id)).postgres === "cloning" || undefined, {
      what: `${id} to notice that its data is gone`,
      timeoutMs: 60_000,
    });
    await cluster.waitUntilWhole(3_600_000);
    await waitForEqualPositions(cluster, 3_600_000);
  });
  const from = /restoring from the backup/.test(cluster.log(id, "sidecar"))
    ? "backup, archive and stream"
    : "a copy of the leader";
  console.log(`a node that lost its disk has caught up after ${took.toFixed(1)} s, from ${from}`);
}

async function pointInTime(cluster: TestCluster): Promise<void> {
  const time = await withClient(cluster.url(await cluster.leader()), async (client) => {
    const { rows } = await client.query<{ now: string }>("select (now() at time zone 'UTC')::text as now");
    return rows[0]?.now ?? "";
  });
  const parent = await mkdtemp(path.join(tmpdir(), "quorate-bench-"));
  chmodSync(parent, 0o755);
  const dir = path.join(parent, "c");
  try {
    const restored = await seconds(async () => {
      const run = await quorate(
        "restore",
        "--to-time",
        time,
        "--dir",
        cluster.dir,
        "--into",
        dir,
        "--nodes",
        "1",
        "--base-port",
        String(await freeBasePort()),
      );
      if (run.code !== 0) throw new Error(run.stderr);
    });
    const up = await seconds(async () => {
      const run = await quorate("up", "--dir", dir, "--detach");
      if (run.code !== 0) throw new Error(run.stderr);
    });
    console.log(
      `a cluster as it was at a moment: restored after ${restored.toFixed(1)} s, accepts writes ${up.toFixed(1)} s later`,
    );
  } finally {
    await quorate("down", "--dir", dir);
    await rm(parent, { recursive: true, force: true });
  }
}

async function bench(options: Options): Promise<void> {
  const clean: (() => Promise<void> | void)[] = [];
  try {
    const cluster = await TestCluster.start({ teardown: (work) => clean.push(work) }, { backup: true });
    await cluster.waitUntilWhole();
    await poll(async () => (await cluster.picture()).backup?.last ?? undefined, {
      what: "the first backup",
      timeoutMs: 60_000,
    });
    const scale = Math.max(1, Math.round(options.sizeMb / scaleMb));
    await promisify(execFile)(path.join(cluster.bin, "pgbench"), [
      "-i",
      "-q",
      "-s",
      String(scale),
      cluster.url(await cluster.leader()),
    ]);
    await waitForEqualPositions(cluster, 600_000);
    await throughput(cluster, options);
    await tpsDuringBackup(cluster, options);
    await newNode(cluster);
    await pointInTime(cluster);
  } finally {
    for (const work of clean) await work();
  }
}

function number(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`${text}: give a whole number from 1 on`);
  return value;
}

const command = new Command("bench:backup")
  .description(
    "backup and restore throughput, time to a new node and to a moment, the leader's tps during a backup",
  )
  .option("--size-mb <megabytes>", "size of the database (1000 and 5000 for the long forms)", number, 200)
  .option("--rounds <count>", "of each comparison", number, 3)
  .option("--tps-seconds <seconds>", "of each pgbench run", number, 10)
  .action(async (options: Options) => {
    try {
      await bench(options);
    } catch (error) {
      console.error(`bench:backup: ${messageOf(error)}`);
      process.exitCode = 1;
    }
  });
await command.parseAsync();
