// The load under which faults happen: clients that append to lists and move money, and readers on every node. What
// they were told is the history that the checkers judge.
import pg, { type ClientConfig } from "pg";
import { type Append, isPrefix, type ListRead, type SumRead } from "./checkers.ts";
import type { Random } from "./random.ts";

export interface Place {
  /** Where the clients find each node. */
  readonly nodes: ReadonlyMap<string, string>;
  /** Who leads, as far as one can tell from outside. */
  readonly leader: () => string | null;
}

export const accounts = 20;
export const startBalance = 100;
export const expectedSum: number = accounts * startBalance;
const valuesPerList = 60;
const parallelLists = 4;
const connectTimeoutMs = 2_000;
/** An answer that takes longer doesn't come; until then a new leader ends the wait. */
const answerTimeoutMs = 8_000;
const readTimeoutMs = 2_000;
const readPauseMs = 120;
const retryPauseMs = 10;
/** By these a server says that it didn't execute the statement. */
const notExecuted: ReadonlySet<string> = new Set([
  "25006",
  "57P03",
  "53300",
  "3D000",
  "42P01",
  "40001",
  "40P01",
]);

export const schema: readonly string[] = [
  "create table lists (id int primary key, items int[] not null)",
  "create table accounts (id int primary key, balance bigint not null)",
  `insert into accounts select id, ${startBalance} from generate_series(1, ${accounts}) id`,
];

function listOf(value: number): number {
  return Math.floor(value / (valuesPerList * parallelLists)) * parallelLists + (value % parallelLists);
}

/** pg waits politely for an answer; a connection that hangs has none. */
function destroy(client: pg.Client): void {
  (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
}

async function connect(url: string, timeoutMs: number): Promise<pg.Client> {
  const config: ClientConfig = { connectionString: url, connectionTimeoutMillis: connectTimeoutMs };
  const client = new pg.Client({ ...config, query_timeout: timeoutMs, keepAlive: true });
  client.on("error", () => undefined);
  try {
    await client.connect();
    return client;
  } catch (error) {
    destroy(client);
    throw error;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

abstract class Loop {
  #running = true;
  #done: Promise<void> | undefined;

  start(): void {
    this.#done = this.#run();
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.#done;
    this.drop();
  }

  async #run(): Promise<void> {
    while (this.#running) await this.turn().catch(() => pause(retryPauseMs));
  }

  protected abstract turn(): Promise<void>;
  abstract drop(): void;
}

/** Talks to the leader; when another one leads, it hangs up at once. */
abstract class Writer extends Loop {
  protected readonly place: Place;
  #client: pg.Client | undefined;
  #of: string | null = null;

  constructor(place: Place) {
    super();
    this.place = place;
  }

  drop(): void {
    if (this.#client !== undefined) destroy(this.#client);
    this.#client = undefined;
  }

  leaderChanged(leader: string | null): void {
    if (leader !== null && leader !== this.#of) this.drop();
  }

  protected async turn(): Promise<void> {
    // A client that is connected doesn't care whether others see a leader.
    if (this.#client === undefined) {
      const leader = this.place.leader();
      const url = leader === null ? undefined : this.place.nodes.get(leader);
      if (url === undefined) {
        await pause(retryPauseMs);
        return;
      }
      this.#of = leader;
      this.#client = await connect(url, answerTimeoutMs);
      return;
    }
    const client = this.#client;
    try {
      await this.write(client);
    } catch {
      if (this.#client === client) this.drop();
      await pause(retryPauseMs);
    }
  }

  protected abstract write(client: pg.Client): Promise<void>;
}

class Appender extends Writer {
  readonly #workload: Workload;

  constructor(workload: Workload, place: Place) {
    super(place);
    this.#workload = workload;
  }

  protected async write(client: pg.Client): Promise<void> {
    const value = this.#workload.nextValue();
    const list = listOf(value);
    const text =
      "insert into lists values ($1, array[$2::int]) on conflict (id) do update set items = lists.items || excluded.items";
    try {
      await client.query(text, [list, value]);
      this.#workload.appended({ list, value, outcome: "acknowledged" });
    } catch (error) {
      const refused = notExecuted.has((error as { code?: string }).code ?? "");
      this.#workload.appended({ list, value, outcome: refused ? "refused" : "doubtful" });
      throw error;
    }
  }
}

class Banker extends Writer {
  readonly #random: Random;

  constructor(place: Place, random: Random) {
    super(place);
    this.#random = random;
  }

  protected async write(client: pg.Client): Promise<void> {
    const from = this.#random.int(1, accounts);
    const to = 1 + ((from + this.#random.int(0, accounts - 2)) % accounts);
    const amount = this.#random.int(1, 10);
    const move = "update accounts set balance = balance + $2 where id = $1";
    const changes: [number, number][] = [
      [from, -amount],
      [to, amount],
    ];
    changes.sort(([a], [b]) => a - b);
    await client.query("begin");
    for (const change of changes) await client.query(move, change);
    await client.query("commit");
    await pause(5);
  }
}

class Reader extends Loop {
  readonly #node: string;
  readonly #url: string;
  readonly #workload: Workload;
  #client: pg.Client | undefined;

  constructor(workload: Workload, node: string, url: string) {
    super();
    this.#workload = workload;
    this.#node = node;
    this.#url = url;
  }

  drop(): void {
    if (this.#client !== undefined) destroy(this.#client);
    this.#client = undefined;
  }

  protected async turn(): Promise<void> {
    try {
      this.#client ??= await connect(this.#url, readTimeoutMs);
      await this.#read(this.#client);
    } catch {
      this.drop();
    }
    await pause(readPauseMs);
  }

  async #read(client: pg.Client): Promise<void> {
    const lists = await client.query<{ id: number; items: number[] }>(
      `select id, items from lists order by id desc limit ${2 * parallelLists}`,
    );
    for (const { id, items } of lists.rows)
      this.#workload.read({ node: this.#node, list: id, values: items });
    const { rows } = await client.query<{ sum: string }>("select sum(balance) as sum from accounts");
    this.#workload.summed({ node: this.#node, sum: Number(rows[0]?.sum) });
  }
}

export class Workload {
  readonly appends: Append[] = [];
  /** performance.now() of each acknowledged append. */
  readonly ackTimesMs: number[] = [];
  readonly #longest = new Map<string, ListRead>();
  readonly #odd: ListRead[] = [];
  readonly #sums = new Map<string, SumRead>();
  readonly #writers: Writer[];
  readonly #readers: Reader[];
  readonly #waiters = new Set<() => void>();
  #value = 0;
  reads = 0;

  constructor(place: Place, random: Random) {
    this.#writers = [new Appender(this, place), new Appender(this, place), new Banker(place, random)];
    this.#readers = [...place.nodes].map(([node, url]) => new Reader(this, node, url));
  }

  start(): void {
    for (const loop of [...this.#writers, ...this.#readers]) loop.start();
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#writers, ...this.#readers].map((loop) => loop.stop()));
  }

  leaderChanged(leader: string | null): void {
    for (const writer of this.#writers) writer.leaderChanged(leader);
  }

  nextValue(): number {
    return ++this.#value;
  }

  appended(append: Append): void {
    this.appends.push(append);
    if (append.outcome !== "acknowledged") return;
    this.ackTimesMs.push(performance.now());
    for (const wake of this.#waiters) wake();
  }

  read(read: ListRead): void {
    this.reads += 1;
    const key = `${read.node}/${read.list}`;
    const before = this.#longest.get(key);
    if (before === undefined || isPrefix(before.values, read.values)) this.#longest.set(key, read);
    else if (!isPrefix(read.values, before.values)) this.#odd.push(read);
  }

  summed(read: SumRead): void {
    this.#sums.set(`${read.node}/${read.sum}`, read);
  }

  get listReads(): ListRead[] {
    return [...this.#longest.values(), ...this.#odd];
  }

  get sums(): SumRead[] {
    return [...this.#sums.values()];
  }

  /** False when the time is over without that many acknowledgements from now on. */
  acknowledges(count: number, timeoutMs: number): Promise<boolean> {
    const target = this.ackTimesMs.length + count;
    return new Promise((resolve) => {
      const end = (came: boolean): void => {
        clearTimeout(timer);
        this.#waiters.delete(wake);
        resolve(came);
      };
      const wake = (): void => {
        if (this.ackTimesMs.length >= target) end(true);
      };
      const timer = setTimeout(() => end(false), timeoutMs);
      this.#waiters.add(wake);
    });
  }
}
