import t from "tap";
import { Pool, type PoolHost, type Waiter } from "../src/pool/pool.ts";
import { Server } from "../src/pool/server.ts";
import { ServerLogin } from "../src/pool/server-login.ts";
import { settingsOf } from "../src/session/settings.ts";
import { message } from "../src/wire/build.ts";

const bytesOf = (...parts: Buffer[]): Buffer => Buffer.concat(parts);
const error = message(0x45, "SERROR\0VERROR\0C22023\0Mno\0\0");
const ready = message(0x5a, "I");

t.test(
  "a client whose settings a free connection refuses has waited since it asked, not since the beginning of time",
  async (t) => {
    let nowMs = 100_000;
    const refusals: string[] = [];
    const link = { send() {}, queued: 0, pause() {}, resume() {}, close() {}, destroy() {}, peer: "test" };
    const host = {
      plans: { knowsFunctions: true },
      nowMs: () => nowMs,
      connect: () => link,
      mayConnect: () => true,
      nextServerId: () => 2,
      later() {},
      log() {},
    } as unknown as PoolHost;
    const limits = { size: 1, serverIdleMs: 600_000, serverLifetimeMs: 3_600_000, waitMs: 30_000 };
    const pool = new Pool(host, "db", "user", undefined, limits);
    const server = new Server(1, pool, new ServerLogin(undefined));
    Object.assign(server, { link, phase: "ready", login: undefined, connectedAtMs: nowMs, usedAtMs: nowMs });
    server.settings = settingsOf(new Map([["search_path", "other"]]));
    pool.servers.add(server);
    pool.idle.push(server);
    const client = {
      settings: settingsOf(new Map([["work_mem", "nonsense"]])),
      waitingSinceMs: 0,
      waiting: false,
      granted() {},
      refused: (refusal: { message: string }) => refusals.push(refusal.message),
    } as unknown as Waiter;
    t.equal(pool.acquire(client), undefined, "its settings are being made");
    const answer = bytesOf(error, ready);
    server.data(answer, 0, answer.length);
    t.equal(pool.waitingCount, 1, "it waits for a clean connection");
    nowMs += 1_000;
    pool.sweep();
    t.same(refusals, []);
    nowMs += 30_000;
    pool.sweep();
    t.equal(refusals.length, 1);
  },
);
