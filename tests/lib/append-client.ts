// The workload that decides what "lost" means: one client that appends ids one at a time and remembers which were
// acknowledged, when, and which ended in doubt. It tries every node and never repeats an id.
import pg from "pg";

export interface Ack {
  readonly id: number;
  /** performance.now() when the answer to COMMIT arrived. */
  readonly atMs: number;
}

export interface Gap {
  readonly lastBeforeMs: number;
  readonly firstAfterMs: number;
  readonly gapMs: number;
}

/** Errors by which a server says that it certainly didn't execute the statement. */
const notExecuted = new Set(["25006", "57P03", "53300", "3D000", "42P01"]);

export class AppendClient {
  readonly acks: Ack[] = [];
  readonly inDoubt: number[] = [];
  readonly errors = new Map<string, number>();
  readonly #urls: () => readonly string[];
  readonly #table: string;
  readonly #pauseMs: number;
  #nextId = 1;
  #running = false;
  #loop: Promise<void> | undefined;
  #connection: pg.Client | undefined;
  #waiters: { afterMs: number; resolve: (ack: Ack) => void }[] = [];

  /** `urls`: of all nodes there are at the time. */
  constructor(urls: () => readonly string[], { table = "append_log", pauseMs = 0 } = {}) {
    this.#urls = urls;
    this.#table = table;
    this.#pauseMs = pauseMs;
  }

  get lastAck(): Ack | undefined {
    return this.acks.at(-1);
  }

  start(): void {
    this.#running = true;
    this.#loop = this.#run();
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.#loop;
    await discard(this.#connection);
    this.#connection = undefined;
  }

  /** Resolves at the first acknowledgement of a row that was sent after this call. */
  ackAfter(afterMs: number = performance.now()): Promise<Ack> {
    return new Promise((resolve) => this.#waiters.push({ afterMs, resolve }));
  }

  /** The longest pause between two acknowledgements that overlaps [fromMs, …). */
  longestGapSince(fromMs: number): Gap {
    let best: Gap = { lastBeforeMs: fromMs, firstAfterMs: fromMs, gapMs: 0 };
    for (let i = 1; i < this.acks.length; i++) {
      const before = this.acks[i - 1];
      const after = this.acks[i];
      if (before === undefined || after === undefined || after.atMs < fromMs) continue;
      const gapMs = after.atMs - before.atMs;
      if (gapMs > best.gapMs) best = { lastBeforeMs: before.atMs, firstAfterMs: after.atMs, gapMs };
    }
    return best;
  }

  async #run(): Promise<void> {
    while (this.#running) {
      this.#connection ??= await this.#findWriter();
      if (this.#connection !== undefined) await this.#appendOne(this.#connection);
      if (this.#pauseMs > 0) await pause(this.#pauseMs);
    }
  }

  async #appendOne(connection: pg.Client): Promise<void> {
    const id = this.#nextId++;
    const sentMs = performance.now();
    try {
      await connection.query(`insert into ${this.#table} (id) values ($1)`, [id]);
      this.#acknowledged(id, sentMs);
    } catch (error) {
      this.#failed(id, error);
      this.#connection = undefined;
      void discard(connection);
    }
  }

  #acknowledged(id: number, sentMs: number): void {
    const ack = { id, atMs: performance.now() };
    this.acks.push(ack);
    const due = this.#waiters.filter((waiter) => sentMs >= waiter.afterMs);
    this.#waiters = this.#waiters.filter((waiter) => sentMs < waiter.afterMs);
    for (const waiter of due) waiter.resolve(ack);
  }

  #failed(id: number, error: unknown): void {
    const code = (error as { code?: string }).code ?? "connection";
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
    if (!notExecuted.has(code)) this.inDoubt.push(id);
  }

  /** Asks every node, each again and again on its own: one that is slow to answer holds up nobody. The first writer wins. */
  async #findWriter(): Promise<pg.Client | undefined> {
    let over = false;
    const isOver = (): boolean => over || !this.#running;
    const attempts = this.#urls().map((url) => becomesWriter(url, isOver));
    const winner = await Promise.any(attempts).catch(() => undefined);
    over = true;
    for (const attempt of attempts) {
      void attempt.then((client) => (client === winner ? undefined : discard(client))).catch(() => undefined);
    }
    return winner;
  }
}

const askAgainMs = 5;
/** A server that is starting refuses each attempt with a process of its own: asked too often it takes longer. */
const connectAgainMs = 25;

async function becomesWriter(url: string, isOver: () => boolean): Promise<pg.Client> {
  while (!isOver()) {
    const client = await connectWriter(url, isOver).catch(() => undefined);
    if (client !== undefined) return client;
    await pause(connectAgainMs);
  }
  throw new Error("somebody else was found");
}

/** A follower may become the leader while we are connected to it. */
async function connectWriter(url: string, isOver: () => boolean): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
  client.on("error", () => undefined);
  try {
    await client.connect();
    while (!isOver()) {
      const { rows } = await client.query<{ standby: boolean }>("select pg_is_in_recovery() as standby");
      if (rows[0]?.standby === false) return client;
      await pause(askAgainMs);
    }
    throw new Error("not a leader");
  } catch (error) {
    await discard(client);
    throw error;
  }
}

async function discard(client: pg.Client | undefined): Promise<void> {
  await client?.end().catch(() => undefined);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
