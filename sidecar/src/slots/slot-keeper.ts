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

/** While something is to be done that isn't possible yet. */
const againMs = 2_000;
/** What nobody tells of: an operator has dropped the copier's slot, say. */
const lookMs = 30_000;
const timeoutMs = 5_000;
const slotsDatabase = "postgres";

const ownSlots = `select slot_name::text as name, slot_type as kind, failover, synced, active from pg_replication_slots`;
const leadersSlots =
  "select slot_name::text as name from pg_replication_slots where failover and not temporary";

export class SlotKeeper {
  readonly #options: SlotKeeperOptions;
  #timer: NodeJS.Timeout | undefined;
  #turning: Promise<void> = Promise.resolve();
  #situation = "";
  #ended = false;
  #lastProblem = "";

  constructor(options: SlotKeeperOptions) {
    this.#options = options;
  }

  /** At each event of this node: what it is, and whom it follows, says when there is something to do. */
  noticed(): void {
    const { state, postgres, consistent } = this.#options.status();
    const leader = this.#options.followed();
    const situation = `${state} ${postgres} ${consistent} ${leader?.host}:${leader?.port}`;
    if (situation === this.#situation || this.#ended) return;
    this.#situation = situation;
    this.#plan(0);
  }

  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
  }

  #plan(afterMs: number): void {
    clearTimeout(this.#timer);
    if (this.#ended) return;
    this.#timer = setTimeout(() => this.#turn(), afterMs);
    this.#timer.unref();
  }

  /** One look at a time; what is noticed meanwhile makes another one. */
  #turn(): void {
    this.#turning = this.#turning.then(async () => {
      const before = this.#situation;
      let nextMs = againMs;
      try {
        if (await this.#look()) nextMs = lookMs;
        this.#lastProblem = "";
      } catch (error) {
        this.#tell(messageOf(error));
      }
      if (before === this.#situation) this.#plan(nextMs);
    });
  }

  /** While nodes come and go much may fail; it is tried again, and said once. */
  #tell(problem: string): void {
    if (problem === this.#lastProblem || this.#ended) return;
    this.#lastProblem = problem;
    this.#options.logger.info({ problem }, "logical slots can't be looked after now");
  }

  /** Whether all is as it should be, until something changes. */
  async #look(): Promise<boolean> {
    const { state, postgres, consistent } = this.#options.status();
    if (postgres !== "running" || !consistent || (state !== "leader" && state !== "follower")) return true;
    const { createCopierSlot, blocking } = planSlots(await this.#own());
    if (createCopierSlot) await this.#query("select pg_create_physical_replication_slot($1)", [copierSlot]);
    const leader = state === "follower" ? this.#options.followed() : null;
    if (leader === null) return true;
    if (await this.#nameLeader(leader)) this.#options.reload();
    if (blocking.length === 0) return true;
    const dropped = slotsToDrop(blocking, await this.#ofLeader(leader));
    for (const name of dropped) {
      await this.#query("select pg_drop_replication_slot($1)", [name]);
      this.#options.logger.info(
        { slot: name },
        "dropped the slot of the time when this node led: the leader's is copied",
      );
    }
    return dropped.length === blocking.length;
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
