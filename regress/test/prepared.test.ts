/** Prepared transactions whose state file is newer than the checkpoint from which a crashed server begins. */
import { copyFile, readdir } from "node:fs/promises";
import path from "node:path";
import { test } from "tap";
import { makeCluster, type Server } from "../lib/cluster.ts";

const controlFile = (server: Server) => path.join(server.data, "global/pg_control");

test("a crash between the state file of a prepared transaction and the end of its checkpoint", async (t) => {
  const cluster = await makeCluster({ nodes: 1, settings: ["checkpoint_timeout = 1h", "autovacuum = off"] });
  t.teardown(() => cluster.dispose());
  const n1 = cluster.node("n1");
  await n1.start();
  await cluster.lead("n1", 2, "1(n1)");
  await n1.sql("create table t (a int); checkpoint");
  const before = `${controlFile(n1)}.before`;
  await copyFile(controlFile(n1), before);
  const client = await n1.connect();
  await client.query("insert into t values (0)"); // the file is not of the very next transaction
  await client.query("begin; insert into t values (1); prepare transaction 'p'");
  await n1.sql("checkpoint");
  const files = await readdir(path.join(n1.data, "pg_twophase"));
  t.equal(files.length, 1, "the checkpoint has written the file");
  await n1.kill9();
  await copyFile(before, controlFile(n1));

  await n1.start();
  await cluster.lead("n1", 3, "1(n1)");
  t.same(await n1.sql("select gid from pg_prepared_xacts"), [["p"]]);
  t.notMatch(await n1.log(), /could not remove file|has already been restored/);
  await n1.sql("commit prepared 'p'");
  t.same(await n1.sql("select a from t order by a"), [["0"], ["1"]]);
  await n1.sql("checkpoint");
  t.same(await readdir(path.join(n1.data, "pg_twophase")), []);
});
