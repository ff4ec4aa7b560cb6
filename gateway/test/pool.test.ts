import t from "tap";
import { parseConfig } from "../src/config.ts";
import { limitsFor } from "../src/limits-for.ts";
import { Pool } from "../src/pool/pool.ts";
import type { PoolHost } from "../src/pool/pool-host.ts";
import { Server } from "../src/pool/server.ts";
import { ServerLogin } from "../src/pool/server-login.ts";
import type { Waiter } from "../src/pool/waiters.ts";
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
    const config = parseConfig({ server: { host: "127.0.0.1", port: 5432 }, pool: { size: 1 } });
    const limits = limitsFor(config, "db", "user");
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
