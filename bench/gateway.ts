/**
 * A direct connection, PgBouncer and the gateway, in turns: transactions per second and the proxy's CPU time per
 * transaction as the operating system counts it. Other work on the machine moves the former much and the latter
 * less; compare only inside one run.
 */
import { execFileSync } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { run } from "@quorate/common";
import { Command } from "commander";
import { startPostgres, type TestPostgres } from "../gateway/test/lib/postgres.ts";
import { type Case, idleMemory, measure, type Result } from "./gateway-measure.ts";
import { startTarget, type Target } from "./gateway-targets.ts";
import { percentile } from "./statistics.ts";

const given = new Command("bench:gateway")
  .description("CPU per transaction, memory per idle client: direct, PgBouncer, gateway")
  .option("--rounds <count>", "rounds in turn, of which medians are taken", "5")
  .option("--transactions <count>", "transactions per measurement", "20000")
  .option("--warm-up <count>", "transactions before the first measurement of a case", "40000")
  .option("--clients <list>", "numbers of clients", "1,8,64,256")
  .option("--modes <list>", "query modes of pgbench", "simple,extended,prepared")
  .option("--tls <list>", "off, on", "off,on")
  .option(
    "--targets <list>",
    "direct, pgbouncer, gateway-net, gateway-native; gateway-native-2 has two workers, gateway-native@DIR is that of another tree",
    "direct,pgbouncer,gateway-net,gateway-native",
  )
  .option("--pool <count>", "server connections", "16")
  .option("--large <count>", "queries of a large result (190 kB each); 0: none", "2000")
  .option("--churn <count>", "connections of one transaction; 0: none", "2000")
  .option("--idle <list>", "memory at so many idle clients", "1000,5000,10000,20000")
  .option(
    "--together",
    "the idle clients of all targets at the same time: more than one process may have files for",
  )
  .option("--json <file>", "all medians as JSON")
  .parse()
  .opts<Record<string, string>>();

const numbers = (name: string): number[] => (given[name] ?? "").split(",").filter(Boolean).map(Number);
const words = (name: string): string[] => (given[name] ?? "").split(",").filter(Boolean);
const [rounds = 1] = numbers("rounds");
const [transactions = 1] = numbers("transactions");
const [warmUp = 1] = numbers("warmUp");
const [pool = 16] = numbers("pool");

type Figure = {
  readonly case: string;
  readonly target: string;
  readonly tps?: number | undefined;
  readonly cpu?: number | undefined;
  readonly bytes?: number | undefined;
};
const figures: Figure[] = [];

function cases(largeScript: string): Case[] {
  const list: Case[] = [];
  for (const secure of words("tls")) {
    const tls = secure === "on";
    const suffix = tls ? ", TLS" : "";
    for (const mode of words("modes")) {
      for (const clients of numbers("clients")) {
        const args = ["-S", "-M", mode];
        list.push({ title: `${mode}, ${clients} clients${suffix}`, args, clients, transactions, tls });
      }
    }
    const [large = 0] = numbers("large");
    const [churn = 0] = numbers("churn");
    if (large > 0)
      list.push({
        title: `large results, 8 clients${suffix}`,
        args: ["-f", largeScript],
        clients: 8,
        transactions: large,
        tls,
      });
    if (churn > 0)
      list.push({
        title: `connections, 8 at a time${suffix}`,
        args: ["-S", "-C"],
        clients: 8,
        transactions: churn,
        tls,
      });
  }
  return list;
}

const median = (values: readonly (number | undefined)[]): number | undefined => {
  const known = values.filter((each) => each !== undefined).sort((a, b) => a - b);
  return known.length === 0 ? undefined : percentile(known, 0.5);
};

const ratio = (value: number | undefined, base: number | undefined): string =>
  value === undefined || base === undefined ? "   –" : (value / base).toFixed(2);

async function compare(targets: readonly Target[], postgres: TestPostgres, each: Case): Promise<void> {
  const able: Target[] = [];
  for (const target of targets) {
    const warm = {
      ...each,
      transactions: Math.max(
        each.transactions,
        each.args.includes("-S") && !each.args.includes("-C") ? warmUp : 0,
      ),
    };
    // The server has one process per connection: no more than it allows.
    if (target.pid === undefined && each.tls) continue;
    if ((await measure(target, postgres, warm)) !== undefined) able.push(target);
  }
  const results = new Map<string, Result[]>(able.map((target) => [target.name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const target of round % 2 === 0 ? able : [...able].reverse()) {
      const result = await measure(target, postgres, each);
      if (result !== undefined) results.get(target.name)?.push(result);
    }
  }
  const cpuOf = (name: string) => median((results.get(name) ?? []).map((result) => result.cpu));
  const tpsOf = (name: string) => median((results.get(name) ?? []).map((result) => result.tps));
  for (const { name } of targets) {
    const [cpu, tps] = [cpuOf(name), tpsOf(name)];
    figures.push({ case: each.title, target: name, cpu, tps });
    console.log(
      [
        each.title.padEnd(28),
        name.padEnd(16),
        `${tps === undefined ? "can't run it" : `${tps.toFixed(0)} tps`}`.padStart(12),
        `÷direct ${ratio(tps, tpsOf("direct"))}`,
        cpu === undefined
          ? ""
          : `cpu ${cpu.toFixed(1).padStart(6)} µs  ÷pgbouncer ${ratio(cpu, cpuOf("pgbouncer"))}`,
      ].join("  "),
    );
  }
}

/** On proxies that have just been started: what a heap has grown for others would be there already. */
async function compareIdle(names: readonly string[], count: number, tls: string): Promise<void> {
  const group: Target[] = [];
  try {
    for (const name of names)
      group.push(await startTarget(name, { postgres, directory, pool, certFile, keyFile }));
    const memory = await idleMemory(group, count, tls === "on");
    for (const [at, { atOnce, later }] of memory.entries()) {
      const target = group[at]?.name ?? "";
      figures.push({ case: `${count} idle clients, TLS ${tls}`, target, bytes: later });
      const [now, then] = [atOnce.toFixed(0), later.toFixed(0)];
      console.log(`${count} idle clients, TLS ${tls}  ${target.padEnd(16)} ${now} bytes each, ${then} later`);
    }
  } finally {
    for (const target of group) target.stop();
  }
}

const directory = await mkdtemp(path.join(tmpdir(), "bench-gateway-"));
await chmod(directory, 0o755);
const certFile = path.join(directory, "cert.pem");
const keyFile = path.join(directory, "key.pem");
const request =
  "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost";
execFileSync("openssl", [...request.split(" "), "-keyout", keyFile, "-out", certFile], { stdio: "ignore" });
await chmod(keyFile, 0o644);
const largeScript = path.join(directory, "large.sql");
await writeFile(largeScript, "select i, repeat('x', 180) from generate_series(1, 1000) i;\n");
const postgres = await startPostgres({
  max_connections: 400,
  shared_buffers: "'256MB'",
  synchronous_commit: "off",
});
const targets: Target[] = [];
try {
  const pgbench = path.join(postgres.build.bin, "pgbench");
  const at = ["-h", "127.0.0.1", "-p", String(postgres.port), "-U", "postgres"];
  await run(pgbench, [...at, "-i", "-q", "-s", "10", "postgres"], { timeoutMs: 600_000 });
  for (const name of words("targets"))
    targets.push(await startTarget(name, { postgres, directory, pool, certFile, keyFile }));
  console.log(`pool ${pool}, ${transactions} transactions, medians of ${rounds} rounds`);
  for (const each of cases(largeScript)) await compare(targets, postgres, each);
  const proxies = words("targets").filter((name) => name !== "direct");
  const groups = given["together"] === undefined ? proxies.map((each) => [each]) : [proxies];
  for (const tls of words("tls"))
    for (const count of numbers("idle")) for (const group of groups) await compareIdle(group, count, tls);
} finally {
  for (const target of targets) target.stop();
  await postgres.stop();
  await rm(directory, { recursive: true, force: true });
}
if (given["json"] !== undefined) await writeFile(given["json"], `${JSON.stringify(figures, null, 2)}\n`);
