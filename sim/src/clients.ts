// Clients: they write and read through whoever seems to lead, and read on followers and observers at every level.

import type { History } from "./history.ts";
import type { Machine } from "./node-host.ts";
import type { Postgres } from "./postgres.ts";
import type { Seen } from "./postgres-types.ts";
import type { EventQueue } from "./queue.ts";
import { Random } from "./random.ts";
import type { WorldPlan } from "./script.ts";

export interface ClientWorld {
  readonly plan: WorldPlan;
  readonly queue: EventQueue;
  readonly history: History;
  readonly machines: ReadonlyMap<string, Machine>;
}

interface Client {
  readonly random: Random;
  /** The newest commit LSN that this client has written or seen. */
  session: number;
}

type FollowerRead = "session" | "asked" | "bounded";

const boundMs = 400;

export class Clients {
  readonly #world: ClientWorld;
  readonly #writers = new Map<number, (lsnOf: number | null) => void>();
  readonly #readers = new Map<number, (seen: Seen | null) => void>();
  #reads = 0;

  constructor(world: ClientWorld) {
    this.#world = world;
  }

  start(): void {
    const { plan, queue } = this.#world;
    for (let number = 0; number < plan.clients; number += 1) {
      const client: Client = { random: Random.stream(plan.seed, `client ${number}`), session: 0 };
      queue.after(client.random.between(0, 100), () => this.#act(client));
    }
  }

  finishWrite(write: number, lsnOf: number | null): void {
    this.#writers.get(write)?.(lsnOf);
  }

  finishRead(read: number, seen: Seen | null): void {
    this.#readers.get(read)?.(seen);
  }

  #act(client: Client): void {
    const { queue, machines, plan } = this.#world;
    const { random } = client;
    let open = true;
    const again = (): void => {
      if (open) {
        open = false;
        queue.after(random.between(1, plan.thinkMs), () => this.#act(client));
      }
    };
    const running = [...machines.values()].filter((machine) => machine.postgres !== null);
    // Any node that thinks it leads will do: clients can't know better.
    const leaders = running.filter((machine) => machine.postgres?.leading?.admits === true);
    const others = running.filter((machine) => machine.postgres?.receiver?.purpose === "follow");
    const travelMs = random.chance(0.05) ? random.between(5, 400) : random.between(0.1, 2);
    const dice = random.fraction();
    if (dice < plan.reads * 0.55 && others.length > 0) {
      this.#readFollower(
        client,
        random.pick(others),
        random.pick(["session", "asked", "bounded", "bounded"]),
        travelMs,
        again,
      );
    } else if (leaders.length === 0) {
      queue.after(40, again);
    } else if (dice < plan.reads) {
      this.#readLeader(client, random.pick(leaders), random.chance(0.5), travelMs, again);
    } else {
      this.#write(client, random.pick(leaders), travelMs, again);
    }
  }

  #write(client: Client, machine: Machine, travelMs: number, again: () => void): void {
    const { queue, history } = this.#world;
    const write = history.ask(queue.nowMs);
    this.#writers.set(write, (lsnOf) => {
      this.#writers.delete(write);
      queue.after(travelMs, () => {
        if (lsnOf !== null) {
          history.acknowledge(write, queue.nowMs);
          client.session = Math.max(client.session, lsnOf);
        }
        again();
      });
    });
    queue.after(travelMs, () => {
      if (!machine.client((postgres) => postgres.write(write))) {
        this.finishWrite(write, null);
      }
    });
    queue.after(400, again);
  }

  #read(
    machine: Machine,
    travelMs: number,
    ask: (postgres: Postgres, read: number) => void,
    answered: (seen: Seen | null) => void,
  ): void {
    const { queue } = this.#world;
    this.#reads += 1;
    const read = this.#reads;
    this.#readers.set(read, (seen) => {
      this.#readers.delete(read);
      queue.after(travelMs, () => answered(seen));
    });
    queue.after(travelMs, () => {
      if (!machine.client((postgres) => ask(postgres, read))) {
        this.finishRead(read, null);
      }
    });
    // Nobody waits for ever: the answer to an old question is dropped.
    queue.after(600, () => {
      if (this.#readers.delete(read)) {
        answered(null);
      }
    });
  }

  #readLeader(client: Client, machine: Machine, leased: boolean, travelMs: number, again: () => void): void {
    const { queue, history, plan } = this.#world;
    const askedMs = queue.nowMs;
    this.#read(
      machine,
      travelMs,
      (postgres, read) => {
        const answer = (lsn: number | null): void => this.finishRead(read, lsn === null ? null : { lsn });
        if (leased && plan.leaseMs > 0) {
          postgres.readLeased(answer);
        } else {
          postgres.readLeader(answer);
        }
      },
      (seen) => {
        if (seen !== null) {
          history.read(askedMs, queue.nowMs, seen.lsn);
          client.session = Math.max(client.session, seen.lsn);
        }
        again();
      },
    );
  }

  #readFollower(
    client: Client,
    machine: Machine,
    level: FollowerRead,
    travelMs: number,
    again: () => void,
  ): void {
    const { queue, history } = this.#world;
    const askedMs = queue.nowMs;
    const { session } = client;
    this.#read(
      machine,
      travelMs,
      (postgres, read) => {
        if (level === "session") {
          postgres.readSession(read, session);
        } else if (level === "asked") {
          postgres.readAsked(read);
        } else {
          postgres.readBounded(read, boundMs);
        }
      },
      (seen) => {
        if (seen !== null) {
          if (level === "asked") {
            history.read(askedMs, queue.nowMs, seen.lsn);
          } else if (level === "session") {
            history.sessionRead(session, seen.lsn);
          } else {
            history.boundedRead(seen.freshMs ?? askedMs, seen.lsn);
          }
          client.session = Math.max(client.session, seen.lsn);
        }
        again();
      },
    );
  }
}
