/** Limits of time and number, for all and for a user or a database; what a client is told when it passes one. */
import { poll } from "@quorate/common";
import type pg from "pg";
import t from "tap";
import { parseConfig } from "../src/config.ts";
import { limitsFor } from "../src/limits-for.ts";
import { judgeTimes, type TimeLimits } from "../src/session/time-limits.ts";
import { startTestGateway } from "./lib/gateway.ts";
import { startPostgres } from "./lib/postgres.ts";

t.setTimeout(120_000);

const none: TimeLimits = { requestMs: 0, transactionMs: 0, idleInTransactionMs: 0, clientIdleMs: 0 };
const since = { requestSinceMs: 100, transactionSinceMs: 50, idleSinceMs: 200 };

t.test("what is judged, and how", async (test) => {
  const verdict = (
    state: "idle" | "waiting" | "active" | "idle in transaction",
    limits: object,
    nowMs: number,
  ) => {
    const found = judgeTimes({ state, ...since }, { ...none, ...limits }, nowMs);
    return found.kind === "none" ? "none" : `${found.kind} ${found.error.severity} ${found.error.code}`;
  };
  test.equal(verdict("active", {}, 1e9), "none", "without limits nothing ever happens");
  test.equal(verdict("active", { requestMs: 10 }, 110), "none");
  test.equal(verdict("active", { requestMs: 10 }, 111), "cancel ERROR 57014");
  test.equal(verdict("idle in transaction", { requestMs: 10 }, 1_000), "none", "the request is over");
  test.equal(verdict("idle in transaction", { idleInTransactionMs: 10 }, 210), "none");
  test.equal(verdict("idle in transaction", { idleInTransactionMs: 10 }, 211), "end FATAL 25P03");
  test.equal(verdict("active", { idleInTransactionMs: 10 }, 1_000), "none", "it isn't idle");
  test.equal(verdict("active", { transactionMs: 10, requestMs: 10 }, 1_000), "end FATAL 25P04");
  test.equal(verdict("idle", { transactionMs: 10 }, 1_000), "none");
  test.equal(verdict("idle", { clientIdleMs: 10 }, 211), "end FATAL 57P05");
  test.equal(
    verdict("waiting", { requestMs: 1, clientIdleMs: 1, transactionMs: 1 }, 1e9),
    "none",
    "pool.waitMs counts",
  );
});

t.test("of the overrides that fit the last one wins, setting by setting", async (test) => {
  const config = parseConfig({
    server: { host: "127.0.0.1", port: 5432 },
    pool: { size: 20, waitMs: 1_000 },
    limits: { requestMs: 60_000 },
    overrides: [
      { user: "report", size: 2, requestMs: 0 },
      { database: "shop", waitMs: 2_000 },
      { user: "report", database: "shop", size: 3, clients: 7 },
    ],
  });
  const of = (database: string, user: string) => {
    const { size, waitMs, requestMs, clients } = limitsFor(config, database, user);
    return [size, waitMs, requestMs, clients];
  };
  test.same(of("other", "app"), [20, 1_000, 60_000, Number.POSITIVE_INFINITY]);
  test.same(of("other", "report"), [2, 1_000, 0, Number.POSITIVE_INFINITY]);
  test.same(of("shop", "app"), [20, 2_000, 60_000, Number.POSITIVE_INFINITY]);
  test.same(of("shop", "report"), [3, 2_000, 0, 7]);
  test.throws(
    () => parseConfig({ server: { host: "a", port: 1 }, overrides: [{ role: "x" }] }),
    /overrides\.0/,
  );
});

t.test("on a server", async (test) => {
  const postgres = await startPostgres();
  test.teardown(() => postgres.stop());
  await postgres.sql("create user trusted");
  for (const database of ["tight", "work", "few"])
    await postgres.sql(`create database ${database} owner trusted`);
  await postgres.sql("create table done (n int); grant all on done to public", "work");
  const gateway = await startTestGateway(
    { host: "127.0.0.1", port: postgres.port },
    {
      overrides: [
        { database: "tight", requestMs: 400 },
        { database: "tight", user: "postgres", requestMs: 0 },
        { database: "work", transactionMs: 600, idleInTransactionMs: 300 },
        { database: "few", clients: 1 },
      ],
    },
  );
  test.teardown(() => gateway.close());
  const failing = async (run: Promise<unknown>): Promise<Record<string, string>> => {
    try {
      await run;
    } catch (error) {
      const { code, message, hint } = error as pg.DatabaseError;
      return { code: code ?? "", message, hint: hint ?? "" };
    }
    return { code: "none" };
  };

  await test.test("a request that takes too long", async (test) => {
    const slow = await gateway.client({ user: "postgres", database: "tight" });
    test.equal(
      (await failing(slow.query("select pg_sleep(0.8)")))["code"],
      "none",
      "not for whom it is raised",
    );
    await slow.end();
    for (const extended of [false, true]) {
      const limited = await gateway.client({ user: "trusted", database: "tight" });
      const text = "select pg_sleep(20)";
      const error = await failing(extended ? limited.query({ name: "s", text }) : limited.query(text));
      test.match(error, { code: "57014", message: /took longer than 400 ms/, hint: /limits\.requestMs/ });
      test.same((await limited.query("select 1 as one")).rows, [{ one: 1 }], "the session goes on");
      await limited.end();
    }
  });

  await test.test("a transaction that takes too long, or stands idle", async (test) => {
    const client = await gateway.client({ user: "trusted", database: "work" });
    await client.query("begin");
    await client.query("insert into done values (1)");
    await poll(() => gateway.worker.clients.size === 0, {
      what: "the idle one to be ended",
      timeoutMs: 10_000,
    });
    test.match(await failing(client.query("commit")), { code: /^$|25P03/ });

    const busy = await gateway.client({ user: "trusted", database: "work" });
    let told = "";
    busy.on("error", (error: Error & { code?: string }) => {
      told ||= error.code ?? "";
    });
    await busy.query("begin");
    await busy.query("insert into done values (2)");
    const error = await failing(
      (async () => {
        for (;;) await busy.query("select pg_sleep(0.05)");
      })(),
    );
    test.equal(error["code"] || told, "25P04");
    await poll(
      async () =>
        (await postgres.sql("select count(*) from pg_stat_activity where state like 'idle in%'")) === "0",
      {
        what: "their transactions to end",
        timeoutMs: 10_000,
      },
    );
    test.equal(await postgres.sql("select count(*) from done", "work"), "0", "nothing of them is there");
  });

  await test.test("too many clients", async (test) => {
    const only = await gateway.client({ user: "trusted", database: "few" });
    test.match(await failing(gateway.client({ user: "trusted", database: "few" })), {
      code: "53300",
      message: /already has 1 clients/,
      hint: /overrides/,
    });
    await only.end();
  });
});
