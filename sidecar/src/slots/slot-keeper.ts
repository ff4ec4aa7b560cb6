/**
 * Keeps a node ready for failover slots (docs/operating.md, "Logical slots"): tells Postgres where the leader is whose
 * slots it shall copy, keeps the slot that the copier asks for, and removes what would block the copying.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { codeOf, type Logger, messageOf, readTlsFiles, writeDurable } from "@quorate/common";
import type { NodeStatus } from "@quorate/proto";
import pg from "pg";
import { localQuery } from "../backup/local-sql.ts";
import type { SidecarConfig } from "../config.ts";
import { formatConninfo, type Peer, tlsFields } from "../conninfo.ts";
import { type PostgresOwner, readSecret } from "../environment.ts";
import type { NodePaths } from "../paths.ts";
import { leaderConfFile } from "../settings.ts";
import { copierSlot, planSlots, type Slot, slotsToDrop } from "./slot-plan.ts";

type SlotKeeperOptions = {
  readonly config: SidecarConfig;
  readonly paths: NodePaths;
  readonly owner: PostgresOwner;
  readonly status: () => NodeStatus;
  /** Whom this node was told to follow last. */
  readonly followed: () => Peer | null;
  /** Makes Postgres read its files again. */
  readonly reload: () => void;
  readonly logger: Logger;
};

const intervalMs = 2_000;
const timeoutMs = 5_000;
const slotsDatabase = "postgres";

const ownSlots = `select slot_name::text as name, slot_type as kind, failover, synced, active from pg_replication_slots`;
const leadersSlots =
  "select slot_name::text as name from pg_replication_slots where failover and not temporary";

export class SlotKeeper {
  readonly #options: SlotKeeperOptions;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;
  #lastProblem = "";

  constructor(options: SlotKeeperOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setTimeout(() => void this.#turn(), intervalMs);
    this.#timer.unref();
  }

  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
  }

  async #turn(): Promise<void> {
    try {
      await this.#look();
      this.#lastProblem = "";
    } catch (error) {
      this.#tell(messageOf(error));
    }
    if (!this.#ended) this.start();
  }

  /** While nodes come and go much may fail; it is tried again, and said once. */
  #tell(problem: string): void {
    if (problem === this.#lastProblem || this.#ended) return;
    this.#lastProblem = problem;
    this.#options.logger.info({ problem }, "logical slots can't be looked after now");
  }

  async #look(): Promise<void> {
    const { state, postgres, consistent } = this.#options.status();
    if (postgres !== "running" || !consistent || (state !== "leader" && state !== "follower")) return;
    const { createCopierSlot, blocking } = planSlots(await this.#own());
    if (createCopierSlot) await this.#query("select pg_create_physical_replication_slot($1)", [copierSlot]);
    const leader = state === "follower" ? this.#options.followed() : null;
    if (leader === null) return;
    if (await this.#nameLeader(leader)) this.#options.reload();
    if (blocking.length === 0) return;
    for (const name of slotsToDrop(blocking, await this.#ofLeader(leader))) {
      await this.#query("select pg_drop_replication_slot($1)", [name]);
      this.#options.logger.info(
        { slot: name },
        "dropped the slot of the time when this node led: the leader's is copied",
      );
    }
  }

  async #own(): Promise<Slot[]> {
    return (await this.#query(ownSlots)) as Slot[];
  }

  #query(sql: string, values: readonly string[] = []): Promise<Record<string, unknown>[]> {
    const { paths, config } = this.#options;
    return localQuery({ socketDirectory: paths.run, port: config.ports.postgres }, sql, {
      values,
      statementTimeoutMs: timeoutMs,
      applicationName: "quorate slots",
    });
  }

  async #ofLeader({ host, port }: Peer): Promise<Set<string>> {
    const { replication, tls } = this.#options.config;
    const client = new pg.Client({
      ...(tls === undefined ? {} : { ssl: readTlsFiles(tls) }),
      host,
      port,
      user: replication.user,
      password: readSecret(replication.passwordFile, "replication.passwordFile"),
      database: slotsDatabase,
      connectionTimeoutMillis: timeoutMs,
      statement_timeout: timeoutMs,
    });
    client.on("error", () => undefined);
    await client.connect();
    try {
      const { rows } = await client.query<{ name: string }>(leadersSlots);
      return new Set(rows.map(({ name }) => name));
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  /** Only PostgreSQL's copier of slots uses it: where to stream from is told over the control socket. */
  async #nameLeader({ host, port }: Peer): Promise<boolean> {
    const { config, paths, owner } = this.#options;
    const conninfo = formatConninfo({
      host,
      port: String(port),
      user: config.replication.user,
      dbname: slotsDatabase,
      passfile: paths.passFile,
      application_name: `${config.node.id}_slots`,
      connect_timeout: "3",
      tcp_user_timeout: "5000",
      ...tlsFields(config.tls === undefined ? undefined : paths.tls),
    });
    const text = `# Written by the sidecar: whose logical slots are copied here.\nprimary_conninfo = '${conninfo.replaceAll("'", "''")}'\n`;
    const file = join(paths.data, leaderConfFile);
    const before = await readFile(file, "utf8").catch((error: unknown) => {
      if (codeOf(error) === "ENOENT") return "";
      throw error;
    });
    if (before === text) return false;
    await writeDurable(file, text, owner === undefined ? {} : { owner });
    return true;
  }
}
