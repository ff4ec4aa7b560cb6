// A cluster whose nodes and orchestrators are machines of a NetLab, each node with a disk of its own (an ext4 file
// system in a file), kept running the way a supervisor would, and broken in every way that a test asks for.
import { execFile } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import {
  createLogger,
  dropSharedMemory,
  guardedGet,
  isAlive,
  killTree,
  poll,
  Supervised,
  sendSignal,
} from "@quorate/common";
import { bringUp } from "@quorate/orchestrator/cli/bring-up.ts";
import { certsInit } from "@quorate/orchestrator/cli/certs.ts";
import { takePicture } from "@quorate/orchestrator/cli/sightings.ts";
import { followPicture } from "@quorate/orchestrator/cli/status.ts";
import {
  accessOf,
  appUrl,
  findNode,
  type OpenCluster,
  openCluster,
  paths,
  writeCluster,
  writeJson,
} from "@quorate/orchestrator/cluster/files.ts";
import { planCluster } from "@quorate/orchestrator/cluster/plan.ts";
import { livePid } from "@quorate/orchestrator/cluster/processes.ts";
import { orchestratorMain, sidecarMain } from "@quorate/orchestrator/cluster/programs.ts";
import { type ClusterPicture, formatPicture, isWhole } from "@quorate/orchestrator/view.ts";
import { processesIn } from "@quorate/sidecar/postgres-process.ts";
import type { ClientConfig } from "pg";
import { ensurePostgres } from "../../scripts/build-postgres.ts";
import { quorate } from "./cluster.ts";
import { NetLab } from "./netlab.ts";
import { type Teardown, tellIfFailed } from "./told.ts";

const runFile = promisify(execFile);
/** Each leader change leaves a segment until `wal_keep_size` of log has passed; a sparse file costs nothing. */
const diskBytes = 2_000 * 2 ** 20;
/** EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH: the file system is dead, and what was not synced never happened. */
const shutdownScript =
  'open(my $d, "<", $ARGV[0]) or die $!; my $flags = pack("L", 2); ioctl($d, 0x8004587d, $flags) or die $!;';

/** Small disks, small machine. */
const labSettings = {
  shared_buffers: "32MB",
  max_wal_size: "96MB",
  min_wal_size: "32MB",
  wal_keep_size: "96MB",
  max_slot_wal_keep_size: "128MB",
} as const;

export interface LabOptions {
  readonly nodes?: number;
  readonly zones?: readonly string[];
  readonly policy?: string;
  /** Off by default: every fault is to be met without regard to those before. */
  readonly damping?: boolean;
  /** As in production: certificates everywhere. Without them the token alone, in the clear. */
  readonly certificates?: boolean;
}

export class LabCluster {
  open: OpenCluster;
  readonly net: NetLab;
  readonly #children = new Map<string, Supervised>();
  readonly #log: ReturnType<typeof createLogger>;

  private constructor(open: OpenCluster, net: NetLab) {
    this.open = open;
    this.net = net;
    this.#log = createLogger({ name: "lab", file: path.join(open.dir, "lab.log") });
  }

  static async start(test: Teardown, options: LabOptions = {}): Promise<LabCluster> {
    const { nodes = 3, zones = ["a", "b", "c"], policy = "majority" } = options;
    const dir = mkdtempSync(path.join(tmpdir(), "qlab-"));
    chmodSync(dir, 0o755);
    test.teardown(() => {
      if (process.env["QUORATE_KEEP"] === undefined) rmSync(dir, { recursive: true, force: true });
    });
    const plan = planCluster({
      cluster: "lab",
      binDir: (await ensurePostgres()).bin,
      nodes,
      zones,
      policy,
      basePort: 5500,
      gateway: false, // nobody would use it
    });
    const zoneNumber = (zone: string): number => zones.indexOf(zone) + 1;
    const machines = [...plan.nodes, ...plan.orchestrators].map(({ id, zone }) => ({
      name: id,
      zone: zoneNumber(zone),
    }));
    const net = await NetLab.create(test, machines);
    const file = {
      ...plan,
      nodes: plan.nodes.map((node) => ({ ...node, host: net.address(node.id) })),
      orchestrators: plan.orchestrators.map((each) => ({ ...each, host: net.address(each.id) })),
    };
    const cluster = new LabCluster({ dir, file }, net);
    test.teardown(async () => {
      await tellIfFailed(test, () => cluster.story());
      await cluster.#clean();
    });
    for (const { id } of file.nodes) await cluster.#makeDisk(id);
    writeCluster(dir, file, labSettings);
    if (options.certificates === true) {
      await certsInit(dir);
      cluster.open = openCluster(dir);
    }
    cluster.#configure(options);
    await runFile("sync");
    for (const id of cluster.ids) cluster.startSidecar(id);
    for (const id of cluster.orchestrators) cluster.startOrchestrator(id);
    await bringUp(cluster.open, () => undefined).catch(async (error: unknown) => {
      throw new Error(`the lab's cluster did not come up: ${String(error)}\n${await cluster.story()}`);
    });
    await cluster.waitUntilWhole();
    return cluster;
  }

  // ---- what is where

  get ids(): string[] {
    return this.open.file.nodes.map(({ id }) => id);
  }

  get orchestrators(): string[] {
    return this.open.file.orchestrators.map(({ id }) => id);
  }

  zone(id: string): string {
    const { nodes, orchestrators } = this.open.file;
    return [...nodes, ...orchestrators].find((each) => each.id === id)?.zone ?? "";
  }

  /** Nodes and orchestrators of a zone. */
  inZone(zone: string): string[] {
    return [...this.ids, ...this.orchestrators].filter((id) => this.zone(id) === zone);
  }

  url(id: string): string {
    return appUrl(this.open, findNode(this.open, id));
  }

  postgresPort(id: string): number {
    return findNode(this.open, id).ports.postgres;
  }

  superuser(id: string, database = "app"): ClientConfig {
    const host = path.join(paths.node(this.open.dir, id), "run");
    return { host, port: this.postgresPort(id), user: "postgres", database };
  }

  // ---- what it is like

  picture(): Promise<ClusterPicture> {
    return takePicture(this.open);
  }

  /** Event by event, from the host; returns the function that ends it. */
  follow(show: (picture: ClusterPicture) => void): () => void {
    return followPicture(this.open, show, 0);
  }

  async leader(timeoutMs = 30_000): Promise<string> {
    return poll(async () => (await this.picture()).leader ?? undefined, { what: "a leader", timeoutMs });
  }

  async waitForLeader(id: string, timeoutMs = 30_000): Promise<void> {
    await poll(async () => (await this.picture()).leader === id, { what: `${id} to lead`, timeoutMs });
  }

  async waitUntilWhole(timeoutMs = 90_000): Promise<ClusterPicture> {
    let last: ClusterPicture | undefined;
    const seen = (): string => (last === undefined ? "nothing" : `\n${formatPicture(last)}`);
    return poll(
      async () => {
        last = await this.picture();
        return isWhole(last) && last;
      },
      { what: "the lab's cluster to be whole", timeoutMs, intervalMs: 50, seen },
    );
  }

  sidecarLog(id: string): string {
    const file = paths.sidecarLog(this.open.dir, id);
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  }

  async story(lines = 300): Promise<string> {
    const run = await quorate("logs", "--dir", this.open.dir, "--lines", String(lines));
    return run.stdout;
  }

  // ---- processes

  startSidecar(id: string): void {
    this.#keep(
      id,
      [sidecarMain, "--config", paths.sidecarConfig(this.open.dir, id)],
      paths.sidecarLog(this.open.dir, id),
    );
  }

  /** They run, and hear every node that the host hears. */
  async waitForOrchestrators(ids: readonly string[] = this.orchestrators, timeoutMs = 30_000): Promise<void> {
    for (const { id, host, httpPort } of this.open.file.orchestrators.filter((each) => ids.includes(each.id)))
      await poll(
        async () => {
          const { tls } = accessOf(this.open);
          const ask = { host, port: httpPort, path: "/health", serverName: id, tls, timeoutMs: 2_000 };
          return (await guardedGet(ask).catch(() => undefined))?.code === 200;
        },
        { what: `orchestrator ${id} to hear the nodes`, timeoutMs },
      );
  }

  startOrchestrator(id: string): void {
    const { dir } = this.open;
    this.#keep(
      id,
      [orchestratorMain, "--config", paths.orchestratorConfig(dir, id)],
      paths.orchestratorLog(dir, id),
    );
  }

  #keep(id: string, args: readonly string[], logFile: string): void {
    const spec = { name: id, args, logFile, through: this.net.on(id) };
    const child = new Supervised(spec, { log: this.#log, fatalCodes: new Set([2]) });
    this.#children.set(id, child);
    child.start();
  }

  /** Of a sidecar or an orchestrator. */
  pid(id: string): number {
    const pid = this.#children.get(id)?.pid;
    if (pid === undefined) throw new Error(`${id} does not run`);
    return pid;
  }

  /** Where the sidecar talks to its Postgres, for tests that go behind its back. */
  controlSocket(id: string): string {
    return path.join(paths.node(this.open.dir, id), "run", "control.sock");
  }

  postmaster(id: string): number {
    const pid = livePid(paths.postmasterPid(this.open.dir, id));
    if (pid === undefined) throw new Error(`Postgres of ${id} does not run`);
    return pid;
  }

  /** Every process of this node's Postgres. */
  postgresPids(id: string): number[] {
    return processesIn(path.join(paths.node(this.open.dir, id), "data"));
  }

  signal(pids: readonly number[], signal: NodeJS.Signals): void {
    for (const pid of pids) sendSignal(pid, signal);
  }

  /** It stays down, however it ends, until it is started again. */
  async halt(id: string): Promise<void> {
    const child = this.#children.get(id);
    if (child?.pid !== undefined) sendSignal(child.pid, "SIGSTOP");
    await child?.stop(0);
  }

  // ---- machines and their disks

  /** Everything that was not synced is lost, nobody hears a goodbye. */
  async powerOff(id: string): Promise<() => Promise<void>> {
    const reconnect = await this.net.block({ from: id, to: "*" }, { from: "*", to: id });
    const disk = paths.node(this.open.dir, id);
    // Nobody acts on the errors of a disk that is gone.
    const sidecar = this.#children.get(id)?.pid;
    this.signal([...(sidecar === undefined ? [] : [sidecar]), ...this.postgresPids(id)], "SIGSTOP");
    await runFile("perl", ["-e", shutdownScript, disk]);
    await this.halt(id);
    const postgres = this.postgresPids(id);
    this.signal(postgres, "SIGKILL");
    await poll(() => this.postgresPids(id).length === 0, {
      what: `Postgres of ${id} to die`,
      timeoutMs: 10_000,
    });
    await this.#unmount(id);
    return async () => {
      await this.#mount(id);
      mkdirSync(path.join(disk, "log"), { recursive: true });
      await reconnect();
      this.startSidecar(id);
    };
  }

  /** At once: Postgres may still write new files into it. */
  loseData(id: string): void {
    const node = paths.node(this.open.dir, id);
    const gone = path.join(node, "gone");
    renameSync(path.join(node, "data"), gone);
    rmSync(gone, { recursive: true, force: true, maxRetries: 50, retryDelay: 5 });
  }

  /** What Postgres can't start without. */
  damageData(id: string): void {
    rmSync(path.join(paths.node(this.open.dir, id), "data", "global", "pg_control"));
  }

  /** No write ends until it is thawed. */
  async freezeDisk(id: string): Promise<() => Promise<void>> {
    const disk = paths.node(this.open.dir, id);
    await runFile("fsfreeze", ["--freeze", disk]);
    return async () => {
      await runFile("fsfreeze", ["--unfreeze", disk]);
    };
  }

  async fillDisk(id: string): Promise<() => Promise<void>> {
    const ballast = path.join(paths.node(this.open.dir, id), "ballast");
    const { bavail, bsize } = statfsSync(paths.node(this.open.dir, id));
    await runFile("fallocate", ["-l", String(bavail * bsize), ballast]).catch(() => undefined);
    return async () => {
      rmSync(ballast, { force: true });
      // Or a loss of power brings it back.
      await runFile("sync", ["--file-system", paths.node(this.open.dir, id)]);
    };
  }

  /** Whether orchestrators lose patience with a leader that changes often; they read it when they start. */
  damp(damping: boolean): void {
    for (const id of this.orchestrators)
      changeJson(paths.orchestratorConfig(this.open.dir, id), { dampFree: damping ? 2 : 1_000_000 });
  }

  /** Without certificates: nobody else is on these networks. */
  #configure({ damping = false, certificates = false }: LabOptions): void {
    const insecure = !certificates;
    for (const id of this.ids) changeJson(paths.sidecarConfig(this.open.dir, id), { insecure });
    for (const id of this.orchestrators)
      changeJson(paths.orchestratorConfig(this.open.dir, id), { insecure });
    this.damp(damping);
  }

  #image(id: string): string {
    return path.join(this.open.dir, `${id}.img`);
  }

  async #makeDisk(id: string): Promise<void> {
    await runFile("truncate", ["-s", String(diskBytes), this.#image(id)]);
    await runFile("mkfs.ext4", ["-q", "-m", "0", this.#image(id)]);
    mkdirSync(paths.node(this.open.dir, id), { recursive: true });
    await this.#mount(id);
  }

  async #mount(id: string): Promise<void> {
    await runFile("mount", ["-o", "loop", this.#image(id), paths.node(this.open.dir, id)]);
  }

  async #unmount(id: string): Promise<void> {
    await poll(
      () =>
        runFile("umount", [paths.node(this.open.dir, id)]).then(
          () => true,
          () => false,
        ),
      { what: `the disk of ${id} to be free`, timeoutMs: 20_000 },
    );
  }

  async #clean(): Promise<void> {
    for (const id of this.ids)
      await runFile("fsfreeze", ["--unfreeze", paths.node(this.open.dir, id)]).catch(() => undefined);
    for (const id of [...this.orchestrators, ...this.ids]) {
      const pid = this.#children.get(id)?.pid;
      await this.halt(id);
      if (pid !== undefined && isAlive(pid)) killTree(pid);
    }
    for (const id of this.ids) {
      this.signal(this.postgresPids(id), "SIGKILL");
      await dropSharedMemory(path.join(paths.node(this.open.dir, id), "data"));
      await runFile("umount", ["--lazy", paths.node(this.open.dir, id)]).catch(() => undefined);
    }
  }
}

function changeJson(name: string, changed: object): void {
  const config = JSON.parse(readFileSync(name, "utf8")) as object;
  writeJson(name, { ...config, ...changed });
}
