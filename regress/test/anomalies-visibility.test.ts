/**
 * What is shown before it is durable. Each anomaly twice with the same steps: our servers don't have it, stock
 * synchronous replication has it (that is the control: the steps do provoke it).
 */
import { readdir } from "node:fs/promises";
import path from "node:path";
import { poll, runAsPostgres, sendSignal } from "@quorate/common";
import { type Test, test } from "tap";
import {
  begun,
  type Kind,
  kinds,
  patienceMs,
  restart,
  showsRows,
  type Trio,
  type TrioOptions,
  trio,
  waitingPids,
} from "../lib/anomaly.ts";
import type { Server } from "../lib/cluster.ts";
import { freezeReceiver } from "../lib/three-nodes.ts";

/** `provoke` says whether the anomaly was seen. */
function anomaly(
  name: string,
  provoke: (t: Test, trio: Trio) => Promise<boolean>,
  options: TrioOptions = {},
) {
  for (const kind of kinds) {
    const expected = kind === "stock";
    test(`${name}: ${expected ? "stock has it" : "ours has not"}`, async (t) => {
      t.equal(await provoke(t, await trio(t, kind, options)), expected, name);
    });
  }
}

function isolate({ n2, n3 }: Trio): () => void {
  const thaw = [freezeReceiver(n2), freezeReceiver(n3)];
  return () => {
    for (const each of thaw) each();
  };
}

anomaly("a commit whose wait was cancelled is visible", async (_t, all) => {
  isolate(all);
  await begun(all.n1, "insert into t values (1)");
  for (const pid of await waitingPids(all.n1)) await all.n1.sql(`select pg_cancel_backend(${pid})`);
  return showsRows(all.n1, undefined, patienceMs(all.kind));
});

anomaly("a commit whose session was terminated is visible", async (_t, all) => {
  isolate(all);
  await begun(all.n1, "insert into t values (1)");
  for (const pid of await waitingPids(all.n1)) sendSignal(pid, "SIGTERM");
  return showsRows(all.n1, undefined, patienceMs(all.kind));
});

anomaly(
  "a session opts out of the rule and gets an acknowledgement that nobody else backs",
  async (_t, all) => {
    isolate(all);
    const client = await all.n1.connect("-csynchronous_commit=local");
    const insert = client.query("insert into t values (1)").then(
      () => true,
      () => false,
    );
    const seen = await showsRows(all.n1, undefined, patienceMs(all.kind));
    return seen && (await insert);
  },
);

anomaly("a crash and restart of the leader shows commits that were waiting", async (_t, all) => {
  isolate(all);
  await begun(all.n1, "insert into t values (1)");
  await restart(all, all.n1);
  return showsRows(all.n1, undefined, patienceMs(all.kind));
});

anomaly("a fast shutdown lets go of commits that were waiting", async (_t, all) => {
  isolate(all);
  await begun(all.n1, "insert into t values (1)");
  sendSignal(all.n1.pid(), "SIGINT");
  // Ours doesn't stop before the quorum is back: its power goes at last.
  const stopped = await Promise.race([all.n1.exited().then(() => true), delayed(patienceMs(all.kind, 3000))]);
  if (stopped) {
    await all.n1.launch(all.kind === "stock" ? { standby: false } : {});
    await poll(() => all.n1.value("select 1").catch(() => undefined), { what: "SQL", timeoutMs: 20_000 });
  } else await restart(all, all.n1);
  return showsRows(all.n1, undefined, patienceMs(all.kind));
});

const delayed = (ms: number) =>
  new Promise<false>((resolve) => {
    setTimeout(() => resolve(false), ms);
  });

const everybody: TrioOptions = { rule: "3(n1,n2,n3)", names: "ANY 2 (n2,n3)" };

anomaly(
  "a follower shows what the leader has not committed",
  async (_t, all) => {
    freezeReceiver(all.n3);
    await begun(all.n1, "insert into t values (1)");
    return showsRows(all.n2, undefined, patienceMs(all.kind));
  },
  everybody,
);

anomaly(
  "logical decoding hands out what is not committed",
  async (_t, all) => {
    await all.n1.sql("select pg_create_logical_replication_slot('cdc', 'test_decoding')");
    isolate(all);
    await begun(all.n1, "insert into t values (1)");
    const changes =
      "select count(*) from pg_logical_slot_peek_changes('cdc', null, null) where data ~ 'INSERT'";
    return showsRows(all.n1, changes, patienceMs(all.kind));
  },
  { settings: ["wal_level = logical"] },
);

/** Is the text in any file of the directory? */
async function contains(directory: string, text: string): Promise<boolean> {
  const { code } = await runAsPostgres("grep", ["-rqaF", text, directory], { okCodes: [0, 1, 2] });
  return code === 0;
}

const holdsFiles = (directory: string) => async () => (await readdir(directory)).length > 0;

anomaly("pg_receivewal gets what is not committed", async (t, all) => {
  const directory = path.join(all.cluster.dir, "received");
  await runAsPostgres("mkdir", [directory]);
  const ended = new AbortController();
  const receiver = runAsPostgres(
    path.join(all.cluster.bin, "pg_receivewal"),
    ["-D", directory, "-h", all.n1.socketDirectory, "-p", "5432", "-U", "postgres", "--synchronous"],
    { signal: ended.signal, timeoutMs: 60_000 },
  ).catch(() => undefined);
  t.teardown(async () => {
    ended.abort();
    await receiver;
  });
  await poll(holdsFiles(directory), { what: "pg_receivewal to begin", timeoutMs: 20_000 });
  await all.n1.sql("create table s (b text); insert into s values ('the acknowledged needle')");
  await poll(() => contains(directory, "the acknowledged needle"), {
    what: "what is committed to be received",
    timeoutMs: 20_000,
  });
  isolate(all);
  await begun(all.n1, "insert into s values ('the waiting needle')");
  return untilContains(all, directory, "the waiting needle");
});

async function untilContains({ kind }: Trio, directory: string, text: string): Promise<boolean> {
  const timeoutMs = patienceMs(kind, 1000);
  return poll(() => contains(directory, text), { what: text, timeoutMs, intervalMs: 50 }).then(
    () => true,
    () => false,
  );
}

async function archiveOf(kind: Kind, n1: Server): Promise<string> {
  const directory = path.join(n1.socketDirectory, `archive-${kind}`);
  await runAsPostgres("mkdir", [directory]);
  await n1.configure(`archive_command = 'cp %p ${directory}/%f'`);
  await n1.sql("select pg_reload_conf()");
  return directory;
}

anomaly(
  "the archive gets what is not committed",
  async (_t, all) => {
    const directory = await archiveOf(all.kind, all.n1);
    await all.n1.sql("create table s (b text)");
    await all.n1.sql("select pg_switch_wal()");
    await poll(holdsFiles(directory), { what: "the archiver to work", timeoutMs: 20_000 });
    isolate(all);
    await begun(all.n1, "insert into s values ('the waiting needle')");
    const client = await all.n1.connect();
    client.query("select pg_switch_wal()").catch(() => undefined); // ours waits, too
    return untilContains(all, directory, "the waiting needle");
  },
  { settings: ["archive_mode = on", "archive_command = 'false'"] },
);

anomaly("COMMIT PREPARED is shown by a leader, and undone by the next one", async (_t, all) => {
  const { n1, n2, kind, cluster } = all;
  await n1.sql("begin; insert into t values (1); prepare transaction 'p'");
  const end = await n1.value("select pg_current_wal_lsn()");
  for (const each of [n2, all.n3])
    await each.untilValue(`select (pg_last_wal_replay_lsn() >= '${end}')::text`, "true");
  isolate(all);
  await begun(n1, "commit prepared 'p'");
  for (const pid of await waitingPids(n1)) await n1.sql(`select pg_cancel_backend(${pid})`);
  const shown = await showsRows(n1, undefined, patienceMs(all.kind));
  await n1.kill9();
  for (const each of [n2, all.n3]) {
    await each.kill9(); // what a frozen receiver has in its socket is gone with it
    if (kind === "stock") await each.launch();
    else await each.start();
  }
  if (kind === "stock") {
    await poll(() => n2.sql("select pg_promote(true, 30)").catch(() => undefined), {
      what: "the promotion",
      timeoutMs: 20_000,
    });
    await n2.untilValue("select pg_is_in_recovery()::text", "false");
  } else await cluster.lead("n2", 3, "2(n2,1(n1,n3))", ["n3"]);
  const undone = (await n2.value("select count(*) from pg_prepared_xacts")) === "1" && !(await showsRows(n2));
  if (kind === "two-phase") {
    await n2.sql("commit prepared 'p'");
    await n2.untilValue("select count(*) from t", "1");
    await all.n3.untilValue("select count(*) from t", "1");
  }
  return shown && undone;
});

anomaly("a change of the rule by a leader that is alone takes effect", async (_t, all) => {
  const { n1, kind } = all;
  isolate(all);
  await begun(n1, "insert into t values (1)");
  if (kind === "stock") {
    await n1.configure("synchronous_standby_names = ''");
    await n1.sql("select pg_reload_conf()");
  } else {
    const control = await n1.control();
    control.raw(
      `${JSON.stringify({ id: 1, cmd: "ruleset", term: 2, version: 3, rule: "n1", text: "alone" })}\n`,
    );
    await n1.untilStatus("both rules hold", ({ joint }) => joint.length === 1);
  }
  return showsRows(n1, undefined, patienceMs(all.kind));
});
