// A real cluster in a temporary directory, started and stopped through the CLI like a user would, and always cleaned up
// by process id, also after a failure.
import { execFile } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { dropSharedMemory, freePortRange, isAlive, killTree, poll, sendSignal } from "@quorate/common";
import { takePicture } from "@quorate/orchestrator/cli/sightings.ts";
import {
  appUrl,
  type ClusterNode,
  findNode,
  type OpenCluster,
  openCluster,
  paths,
} from "@quorate/orchestrator/cluster/files.ts";
import { livePid } from "@quorate/orchestrator/cluster/processes.ts";
import { type ClusterPicture, formatPicture, isWhole, type NodePicture } from "@quorate/orchestrator/view.ts";
import type { ClientConfig } from "pg";
import type { Test } from "tap";
import { type Teardown, tellIfFailed } from "./told.ts";

export const quorateBin: string = fileURLToPath(
  new URL("../../orchestrator/bin/quorate.js", import.meta.url),
);

export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const runFile = promisify(execFile);
const cliTimeoutMs = 240_000;

/** Runs the CLI as a user does; never rejects for its exit code. */
export async function quorate(...args: string[]): Promise<Run> {
  try {
    const { stdout, stderr } = await runFile(process.execPath, [quorateBin, ...args], {
      timeout: cliTimeoutMs,
      maxBuffer: 16 << 20,
    });
    return { code: 0, stdout, stderr };
  } catch (error) {
    const { code, stdout = "", stderr = "" } = error as { code?: unknown; stdout?: string; stderr?: string };
    return { code: typeof code === "number" ? code : -1, stdout, stderr };
  }
}

export interface TestClusterOptions {
  readonly nodes?: number;
  readonly zones?: string;
  readonly policy?: string;
  readonly settings?: Readonly<Record<string, string>>;
  /** With backups, as users have them; they cost a short while, so only tests of backups have them. */
  readonly backup?: boolean;
  /** With a gateway, as users have it; only tests of the gateway have it. */
  readonly gateway?: boolean;
}

/** A verb that must succeed; it may have changed which nodes there are. Returns what it said. */
export async function done(test: Test, cluster: TestCluster, ...args: string[]): Promise<string> {
  const run = await quorate(...args, "--dir", cluster.dir);
  cluster.reopen();
  test.equal(run.code, 0, `quorate ${args.join(" ")}\n${run.stdout}${run.stderr}`);
  return run.stdout;
}

export class TestCluster {
  readonly dir: string;
  readonly basePort: number;
  readonly #options: TestClusterOptions;
  #open: OpenCluster | undefined;

  private constructor(dir: string, basePort: number, options: TestClusterOptions) {
    this.dir = dir;
    this.basePort = basePort;
    this.#options = options;
  }

  /** An empty directory and free ports; nothing runs yet. */
  static async prepare(test: Teardown, options: TestClusterOptions = {}): Promise<TestCluster> {
    const dir = mkdtempSync(path.join(tmpdir(), "quorate-"));
    chmodSync(dir, 0o755);
    const cluster = new TestCluster(dir, await freePortRange(), options);
    test.teardown(async () => {
      await tellIfFailed(test, () => cluster.story());
      await cluster.clean();
    });
    return cluster;
  }

  /** A cluster that somebody else made and cleans up. */
  static at(dir: string, basePort: number): TestCluster {
    return new TestCluster(dir, basePort, {});
  }

  static async start(test: Teardown, options: TestClusterOptions = {}): Promise<TestCluster> {
    const cluster = await TestCluster.prepare(test, options);
    await cluster.up();
    return cluster;
  }

  upArguments(): string[] {
    const {
      nodes = 3,
      zones = "a,b,c",
      policy = "majority",
      settings = {},
      backup = false,
      gateway = false,
    } = this.#options;
    const sets = Object.entries(settings).flatMap(([name, value]) => ["--set", `${name}=${value}`]);
    const size = ["--nodes", String(nodes), "--zones", zones, "--policy", policy];
    return [
      "up",
      "--dir",
      this.dir,
      ...size,
      "--base-port",
      String(this.basePort),
      "--detach",
      ...sets,
      ...(backup ? [] : ["--no-backup"]),
      ...(gateway ? [] : ["--no-gateway"]),
    ];
  }

  async up(): Promise<Run> {
    const run = await quorate(...this.upArguments());
    if (run.code !== 0) throw new Error(`quorate up failed:\n${run.stdout}\n${run.stderr}`);
    return run;
  }

  async down(): Promise<Run> {
    const run = await quorate("down", "--dir", this.dir);
    if (run.code !== 0) throw new Error(`quorate down failed:\n${run.stdout}\n${run.stderr}`);
    return run;
  }

  get open(): OpenCluster {
    this.#open ??= openCluster(this.dir);
    return this.#open;
  }

  /** Nodes were added or removed. */
  reopen(): void {
    this.#open = undefined;
  }

  get ids(): string[] {
    return this.open.file.nodes.map(({ id }) => id);
  }

  get urls(): string[] {
    return this.open.file.nodes.map((node) => appUrl(this.open, node));
  }

  node(id: string): ClusterNode {
    return findNode(this.open, id);
  }

  url(id: string): string {
    return appUrl(this.open, this.node(id));
  }

  secret(name: string): string {
    return readFileSync(path.join(paths.secrets(this.dir), name), "utf8").trim();
  }

  /** After `certs init`. */
  get authority(): string {
    return readFileSync(path.join(this.dir, "tls", "ca.pem"), "utf8");
  }

  /** Every node in one URL, for libpq. */
  get urlOfAll(): string {
    const hosts = this.open.file.nodes.map((node) => `${node.host}:${node.ports.postgres}`).join(",");
    const url = this.urls[0]?.replace(/@[^/]+\//, `@${hosts}/`) ?? "";
    return `${url}${url.includes("?") ? "&" : "?"}target_session_attrs=read-write&connect_timeout=2`;
  }

  get bin(): string {
    return this.open.file.binDir;
  }

  /** Superuser on the node's own socket. */
  superuser(id: string, database = "app"): ClientConfig {
    const host = path.join(paths.node(this.dir, id), "run");
    return { host, port: this.node(id).ports.postgres, user: "postgres", database };
  }

  picture(): Promise<ClusterPicture> {
    return takePicture(this.open);
  }

  async pictureOf(id: string): Promise<NodePicture> {
    const picture = await this.picture();
    const node = picture.nodes.find((each) => each.id === id);
    if (node === undefined) throw new Error(`no node ${id}`);
    return node;
  }

  async leader(): Promise<string> {
    return this.waitForLeader(() => true);
  }

  /** Waits for a leader that the condition likes. */
  async waitForLeader(like: (id: string) => boolean, timeoutMs = 30_000): Promise<string> {
    const { leader } = await this.waitForPicture(
      "a leader",
      (picture) => picture.leader !== null && like(picture.leader),
      { timeoutMs, intervalMs: 20 },
    );
    return leader ?? "";
  }

  /** One leader, and everybody else streams from it. */
  async waitUntilWhole(timeoutMs = 60_000): Promise<ClusterPicture> {
    return this.waitForPicture("the cluster to be whole", isWhole, { timeoutMs, intervalMs: 50 });
  }

  /** The first picture that is as wished; in vain, the error shows the last one. */
  async waitForPicture(
    what: string,
    like: (picture: ClusterPicture) => boolean,
    { timeoutMs, intervalMs }: { readonly timeoutMs: number; readonly intervalMs: number },
  ): Promise<ClusterPicture> {
    let last: ClusterPicture | undefined;
    const seen = (): string => (last === undefined ? "nothing" : `\n${formatPicture(last)}`);
    return poll(
      async () => {
        last = await this.picture();
        return like(last) && last;
      },
      { what: `${what} in ${this.dir}`, timeoutMs, intervalMs, seen },
    );
  }

  postmasterPid(id: string): number {
    const pid = livePid(paths.postmasterPid(this.dir, id));
    if (pid === undefined) throw new Error(`Postgres of ${id} does not run`);
    return pid;
  }

  sidecarPid(id: string): number {
    const pid = livePid(paths.sidecarPid(this.dir, id), paths.sidecarConfig(this.dir, id));
    if (pid === undefined) throw new Error(`the sidecar of ${id} does not run`);
    return pid;
  }

  /** kill -9 of the postmaster. */
  killPostgres(id: string): number {
    const pid = this.postmasterPid(id);
    sendSignal(pid, "SIGKILL");
    return pid;
  }

  killSidecar(id: string): number {
    const pid = this.sidecarPid(id);
    sendSignal(pid, "SIGKILL");
    return pid;
  }

  /** Changes when the data directory is made anew (a clone), and not otherwise. */
  dataIdentity(id: string): string {
    const data = path.join(paths.node(this.dir, id), "data");
    const version = statSync(path.join(data, "PG_VERSION"));
    return `${statSync(data).ino} ${version.ino} ${version.mtimeMs}`;
  }

  log(id: string, which: "sidecar" | "postgres"): string {
    const file = which === "sidecar" ? paths.sidecarLog(this.dir, id) : paths.postgresLog(this.dir, id);
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  }

  /** What all components say, for a failed test. */
  async story(lines = 400): Promise<string> {
    return (await quorate("logs", "--dir", this.dir, "--postgres", "--lines", String(lines))).stdout;
  }

  /** In order if possible, by force otherwise; leaves no process and no file. */
  async clean(): Promise<void> {
    if (existsSync(paths.clusterFile(this.dir))) {
      await quorate("down", "--dir", this.dir);
      this.#killRest();
      for (const { id } of this.open.file.nodes)
        await dropSharedMemory(path.join(paths.node(this.dir, id), "data"));
    }
    if (process.env["QUORATE_KEEP"] === undefined) rmSync(this.dir, { recursive: true, force: true });
  }

  #killRest(): void {
    const { file } = this.open;
    const files = [
      paths.supervisorPid(this.dir),
      ...file.orchestrators.map(({ id }) => paths.orchestratorPid(this.dir, id)),
      ...file.nodes.flatMap(({ id }) => [paths.sidecarPid(this.dir, id), paths.postmasterPid(this.dir, id)]),
    ];
    for (const each of files) {
      const pid = livePid(each);
      if (pid !== undefined && isAlive(pid)) killTree(pid);
    }
  }
}
