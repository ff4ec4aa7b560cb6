/** Three raw servers whose receivers can be frozen: what the fault tests share. */
import { sendSignal } from "@quorate/common";
import { type Cluster, makeCluster, type Server } from "./cluster.ts";

type Teardown = { readonly teardown: (fn: () => Promise<void>) => void };

export const majority = "2(n1,n2,n3)";

/** n1 leads term 2, n2 and n3 follow it, the table t is there. */
export async function threeNodes(
  t: Teardown,
  rule = majority,
  settings: readonly string[] = [],
): Promise<Cluster> {
  const cluster = await makeCluster({ nodes: 3, settings });
  t.teardown(() => cluster.dispose());
  await Promise.all(cluster.servers.map((server) => server.start()));
  await cluster.lead("n1", 2, rule, ["n2", "n3"]);
  await cluster.node("n1").sql("create extension quorate; create table t (a int)");
  for (const id of ["n2", "n3"]) await cluster.node(id).untilValue("select count(*) from t", "0");
  return cluster;
}

/** Its walreceiver stops as if the machine had frozen. Returns what thaws it. */
export function freezeReceiver(server: Server): () => void {
  const pid = server.child(/walreceiver/);
  sendSignal(pid, "SIGSTOP");
  return () => {
    sendSignal(pid, "SIGCONT");
  };
}

export const untilWaiting = (server: Server, count: number) =>
  server.untilStatus(`${count} wait for the quorum`, ({ waiting }) => waiting >= count);
