/** A sidecar process with its own directory, over fake programs of Postgres. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePorts, makePostgresTempDirectory, poll, postgresUser } from "@quorate/common";
import { connectSidecar, type NodeStatus, type SidecarClient, type WatchEnd } from "@quorate/proto";
import type { Test } from "tap";
import { postmasterPid } from "../src/postgres-process.ts";

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const programNames = ["postgres", "initdb", "pg_basebackup", "pg_controldata"];

export function writeFakePrograms(directory: string): void {
  mkdirSync(directory, { recursive: true });
  for (const program of programNames) {
    const file = join(directory, program);
    const script = `#!/bin/sh\nexec "${process.execPath}" "${here("fake-postgres.ts")}" ${program} "$@"\n`;
    writeFileSync(file, script);
    chmodSync(file, 0o755);
  }
}

export type Watched = { readonly atMs: number; readonly status: NodeStatus };

export class SidecarUnderTest {
  readonly root: string;
  readonly configFile: string;
  readonly data: string;
  readonly client: SidecarClient;
  readonly #ports: { readonly postgres: number; readonly grpc: number; readonly http: number };
  /** All that its processes have written. */
  output = "";
  #child: ChildProcess | null = null;
  #mutation: string | undefined;

  private constructor(root: string, ports: SidecarUnderTest["ports"]) {
    this.root = root;
    this.configFile = join(root, "sidecar.json");
    this.data = join(root, "data");
    this.#ports = ports;
    this.client = connectSidecar(`127.0.0.1:${ports.grpc}`);
  }

  /** Made and cleaned up with the test; not started yet. */
  static async make(
    test: Test,
    settings: object = {},
    programs: "fake" | "real" = "fake",
  ): Promise<SidecarUnderTest> {
    const root = await makePostgresTempDirectory("qs-");
    const [postgres = 0, grpc = 0, http = 0] = await freePorts(3);
    const made = new SidecarUnderTest(root, { postgres, grpc, http });
    test.teardown(async () => {
      if (!test.passing()) test.comment(made.output);
      await made.#cleanUp();
    });
    if (programs === "fake") writeFakePrograms(join(root, "bin"));
    for (const name of ["replication", "app"])
      writeFileSync(join(root, `${name}.password`), "secret\n", { mode: 0o600 });
    made.configure(settings);
    return made;
  }

  get ports(): { readonly postgres: number; readonly grpc: number; readonly http: number } {
    return this.#ports;
  }

  configure(settings: object): void {
    const config = {
      cluster: "main",
      insecure: true,
      node: { id: "n1" },
      ports: this.#ports,
      postgres: { binDir: "bin" },
      replication: { passwordFile: "replication.password" },
      app: { passwordFile: "app.password" },
      stopTimeoutMs: 3_000,
      ...settings,
    };
    writeFileSync(this.configFile, JSON.stringify(config));
  }

  /** From its next start on it has this bug (sim/src/mutations.ts). */
  seedBug(mutation: string): void {
    this.#mutation = mutation;
  }

  spawn(): ChildProcess {
    const preload = this.#mutation === undefined ? [] : ["--import", here("seed-bug.ts")];
    const program = [...preload, here("../src/main.ts"), "--config", this.configFile];
    const child = spawn(process.execPath, program, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, QUORATE_TEST_MUTATION: this.#mutation },
    });
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (chunk) => {
        this.output += String(chunk);
      });
    this.#child = child;
    return child;
  }

  async start(): Promise<void> {
    const child = this.spawn();
    let exited = false;
    child.once("exit", () => (exited = true));
    await poll(
      async () => {
        if (exited) throw new Error(`the sidecar ended: ${this.output}`);
        return await this.client.getStatus({ deadlineMs: 2_000 }).catch(() => undefined);
      },
      { what: "the sidecar to answer", timeoutMs: 60_000 },
    );
  }

  /** Exit code, or null for a signal. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return null;
    const exited = once(child, "exit");
    child.kill(signal);
    const [code] = (await exited) as [number | null];
    return code;
  }

  async until(what: string, reached: (status: NodeStatus) => boolean): Promise<NodeStatus> {
    return await poll(
      async () => {
        const status = await this.client.getStatus({ deadlineMs: 1_000 }).catch(() => null);
        return status !== null && reached(status) ? status : null;
      },
      { what, timeoutMs: 60_000 },
    );
  }

  /** Bootstrapped, fenced, running. */
  async bootstrap(): Promise<NodeStatus> {
    const reply = await this.client.bootstrap({ cluster: "main" });
    if (!reply.ok) throw new Error(reply.refusal.message);
    return await this.until("running", (status) => status.postgres === "running");
  }

  /** Fulfilled when the first status is there. */
  async watch(test: Test): Promise<{ readonly seen: Watched[]; readonly ended: Promise<WatchEnd> }> {
    const seen: Watched[] = [];
    const ended = new Promise<WatchEnd>((resolve) => {
      const cancel = this.client.watch(
        { watcher: "test", intervalMs: 10_000, silenceMs: 30_000 },
        { status: (status) => seen.push({ atMs: performance.now(), status }), end: resolve },
      );
      test.teardown(cancel);
    });
    await poll(() => seen.length > 0, { what: "the first status", timeoutMs: 30_000 });
    return { seen, ended };
  }

  file(name: string): string {
    return readFileSync(join(this.root, name), "utf8");
  }

  /** As Postgres's owner would write it. */
  writeData(name: string, content: string): void {
    const file = join(this.data, name);
    writeFileSync(file, content);
    const user = postgresUser();
    if (user !== undefined) chownSync(file, user.uid, user.gid);
  }

  /** Everything at once, without a goodbye. */
  async crash(): Promise<void> {
    await this.end("SIGKILL");
    const pid = postmasterPid(this.data);
    if (pid !== null) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // ended already
      }
    }
  }

  /** The disk is gone with all that was on it; the programs and their configuration are elsewhere. */
  loseDisk(): void {
    for (const name of ["data", "state"]) rmSync(join(this.root, name), { recursive: true, force: true });
  }

  async #cleanUp(): Promise<void> {
    this.client.close();
    await this.crash();
    rmSync(this.root, { recursive: true, force: true });
  }
}
