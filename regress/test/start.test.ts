/** What keeps a server from starting. */
import { appendFile } from "node:fs/promises";
import { test } from "tap";
import { makeCluster } from "../lib/cluster.ts";

test("settings under which acknowledged data could be lost are refused", async (t) => {
  const refusals: [string, RegExp][] = [
    ["wal_level = minimal\nmax_wal_senders = 0", /cannot run with "wal_level" "minimal"/],
    ["full_page_writes = off", /cannot run with "full_page_writes" off/],
    ["restart_after_crash = on", /cannot run with "restart_after_crash" on/],
    ["hot_standby = off", /cannot run with "hot_standby" off/],
    ["max_wal_senders = 0", /cannot run with "max_wal_senders" 0/],
    ["quorate.node_id = ''", /"quorate.node_id" is not set/],
    ["quorate.node_id = 'N1'", /invalid value for parameter "quorate.node_id"/],
    [`quorate.control_socket = '/tmp/${"x".repeat(120)}'`, /is too long/],
    ["quorate.control_socket = ''\nunix_socket_directories = ''", /no place for the control socket/],
  ];
  for (const [setting, message] of refusals) {
    const cluster = await makeCluster({ nodes: 1, settings: [setting] });
    const server = cluster.node("n1");
    await server.launch();
    t.not(await server.exited(), 0, setting);
    t.match(await server.log(), message);
    await cluster.dispose();
  }
});

test("a damaged ruleset file keeps the server from starting", async (t) => {
  const cluster = await makeCluster({ nodes: 1 });
  t.teardown(() => cluster.dispose());
  const server = cluster.node("n1");
  await server.start();
  await cluster.lead("n1", 2, "n1");
  await server.stop();
  await appendFile(`${server.data}/quorate/ruleset`, "x");
  await server.launch();
  t.not(await server.exited(), 0);
  t.match(await server.log(), /file "quorate\/ruleset" is corrupt/);
});
