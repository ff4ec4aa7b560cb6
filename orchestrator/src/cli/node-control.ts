// quorate node stop|start|restart|kill
import { messageOf } from "@quorate/common";
import { type ControlAction, connectSidecar } from "@quorate/proto";
import { findNode, openCluster } from "../cluster/files.ts";
import { orchestratorErrors } from "../error-codes.ts";
import { grpcAddress } from "./sightings.ts";
import { answer, say } from "./voice.ts";

export type OperatorAction = Exclude<ControlAction, "discard" | "remake">;

const done: Record<OperatorAction, string> = {
  start: "started",
  stop: "stopped",
  restart: "restarted",
  kill: "killed",
};

export async function nodeControl(dir: string, action: OperatorAction, id: string): Promise<void> {
  const node = findNode(openCluster(dir), id);
  const client = connectSidecar(grpcAddress(node));
  try {
    const reply = await client.control({ action }).catch((error: unknown) => {
      throw orchestratorErrors.error(
        "node_unreachable",
        `the sidecar of ${id} doesn't answer (${messageOf(error)}): start it with "quorate up"`,
      );
    });
    if (!reply.ok) {
      throw orchestratorErrors.error("refused", `${id} refused to ${action}: ${reply.refusal.message}`);
    }
    const { pid } = reply.status;
    say(`${id}: ${done[action]}${pid === null ? "" : `, process ${pid}`}`);
    answer({ node: id, action, pid });
  } finally {
    client.close();
  }
}
