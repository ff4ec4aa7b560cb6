/**
 * The node's own gateway: the same program as one that stands alone, run and looked after by the sidecar.
 *
 * It is a process, not a thread. A sidecar must answer its coordinators whatever its clients do, and threads of one
 * process share what clients can use up: file descriptors (a sidecar that has none left can't write its promise), memory,
 * libuv's pool for file access, and the fate of an addon in C. A process that fails, or is killed for its memory, costs
 * its clients their connections and nobody anything else.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { killLeftover, type Logger, Supervised, watchTlsFiles } from "@quorate/common";
import { type FromGateway, fromGatewaySchema, type ToGateway } from "@quorate/gateway/parent.ts";
import type { NodeStatus } from "@quorate/proto";
import type { SidecarConfig } from "../config.ts";
import type { PostgresOwner } from "../environment.ts";
import { poolerConfig, type SidecarAddress, sidecarsOf } from "./pooler-config.ts";
import { PoolerFiles, poolerFiles } from "./pooler-files.ts";

const gatewayMain = fileURLToPath(import.meta.resolve("@quorate/gateway/main.ts"));
const metricsTimeoutMs = 1_000;
const stopTimeoutMs = 6_000;
const lookIntervalMs = 1_000;

export type PoolerOptions = {
  readonly config: SidecarConfig;
  /** The node's directory. */
  readonly root: string;
  /** Whom Postgres runs as if we are root: the gateway is no more than that, either. */
  readonly owner: PostgresOwner;
  readonly status: () => NodeStatus;
  readonly logger: Logger;
};

export class Pooler {
  readonly #options: PoolerOptions;
  readonly #files: PoolerFiles;
  readonly #child: Supervised;
  readonly #asked = new Map<number, (text: string) => void>();
  readonly #ends: (() => void)[] = [];
  #complained = "";
  #sidecars: readonly SidecarAddress[];
  #nextId = 0;

  constructor(options: PoolerOptions) {
    this.#options = options;
    this.#files = new PoolerFiles(join(options.root, "pooler"), options.config, options.owner);
    this.#sidecars = sidecarsOf(options.config, undefined);
    this.#child = new Supervised(
      {
        name: "pooler",
        args: [gatewayMain, "--config", this.#files.at("config")],
        heard: (message) => this.#hear(message),
      },
      { log: options.logger, fatalCodes: new Set([2]) },
    );
  }

  async start(): Promise<void> {
    const { logger, config } = this.#options;
    await killLeftover(this.#files.at("pid"), this.#files.at("config"), (pid) =>
      logger.warn({ pid }, "the pooler of an earlier sidecar still runs: it is ended"),
    );
    rmSync(this.#files.at("pid"), { force: true }); // it may be another user's
    this.#files.copyTls();
    this.#look();
    this.#child.start();
    const looker = setInterval(() => {
      if (this.#look()) this.#child.hangUp();
    }, lookIntervalMs).unref();
    this.#ends.push(() => clearInterval(looker));
    const { tls } = config;
    const failed = (error: unknown): void =>
      logger.warn({ err: error }, "the pooler's certificate can't be read");
    const renewed = (): void => {
      this.#files.copyTls();
      this.#child.hangUp();
    };
    if (tls !== undefined) this.#ends.push(watchTlsFiles(tls, renewed, failed));
  }

  /** Writes what has changed: nodes come and go. While no rules are known, the last ones count. */
  #look(): boolean {
    const { config, owner, status } = this.#options;
    const ruleset = status().ruleset?.text;
    if (ruleset !== undefined) this.#sidecars = sidecarsOf(config, ruleset);
    const text = `${JSON.stringify(poolerConfig(config, this.#sidecars, owner?.name), undefined, 2)}\n`;
    const copied = this.#copySecrets();
    return this.#files.write(poolerFiles.config, text) || copied;
  }

  #copySecrets(): boolean {
    try {
      const changed = this.#files.copySecrets();
      this.#complained = "";
      return changed;
    } catch (error) {
      if (this.#complained !== String(error))
        this.#options.logger.warn({ err: error }, "a secret of the pooler can't be read");
      this.#complained = String(error);
      return false;
    }
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  #hear(raw: unknown): void {
    const parsed = fromGatewaySchema.safeParse(raw);
    if (!parsed.success) return;
    const message: FromGateway = parsed.data;
    if (message.kind === "metrics") this.#asked.get(message.id)?.(message.text);
    else this.#options.logger.info({ port: message.port }, "the pooler listens");
  }

  /** For the sidecar's own /metrics; nothing while it doesn't answer. */
  metrics(): Promise<string> {
    const id = this.#nextId++;
    const question: ToGateway = { kind: "metrics", id };
    return new Promise((resolve) => {
      const timer = setTimeout(() => answer(""), metricsTimeoutMs);
      const answer = (text: string): void => {
        clearTimeout(timer);
        this.#asked.delete(id);
        resolve(text);
      };
      this.#asked.set(id, answer);
      if (!this.#child.say(question)) answer("");
    });
  }

  async stop(): Promise<void> {
    for (const end of this.#ends) end();
    await this.#child.stop(stopTimeoutMs);
  }
}
