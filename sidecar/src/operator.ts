/** What is asked of a node outside of terms: its making, and an operator's control of its Postgres. */
import { assertNever } from "@quorate/common";
import { formatLsn } from "@quorate/consensus";
import type { ControlAction } from "@quorate/proto";
import type { SidecarNode } from "./sidecar-node.ts";

/** False: Postgres was started but didn't answer before the caller gave up. */
export async function control(
  node: SidecarNode,
  action: ControlAction,
  signal: AbortSignal,
): Promise<boolean> {
  const { memory, supervisor, watchers } = node;
  switch (action) {
    case "start":
    case "restart":
      memory.update({ operatorStopped: false });
      if (action === "start") await supervisor.start();
      else await supervisor.restart("fast");
      return (await supervisor.whenAttached(signal)) !== null;
    case "stop":
      // Remembered and told before it happens, so that nobody repairs it.
      memory.update({ operatorStopped: true });
      watchers.publish();
      await supervisor.stop("fast");
      return true;
    case "kill":
      await supervisor.kill(memory.current.operatorStopped ? "down" : "up");
      return true;
    case "discard":
      return await supervisor.discard(async () => {
        node.logger.error("the data can't be started and is put aside (data.lost): it must be copied anew");
        await node.data.setAside();
      });
    case "remake": {
      const { state, flushedLsn, receiver } = node.status();
      // Whoever receives something lacks nothing, whatever was seen from outside.
      if (state !== "follower" || flushedLsn === null || receiver?.state === "streaming") return false;
      return await supervisor.remake(async () => {
        node.logger.error(
          "the log that this node lacks is gone: its data is put aside (data.outdated) until it is updated or made anew",
        );
        await node.data.setOutdatedAside(formatLsn(flushedLsn));
      }, supervisor.run);
    }
    default:
      return assertNever(action);
  }
}

/** The first node of a new cluster. The caller has checked that there is no data. Returns the system identifier. */
export async function bootstrap(node: SidecarNode, signal: AbortSignal): Promise<string> {
  const { supervisor, data, logger } = node;
  await supervisor.produceData("starting", async () => {
    await node.beginLife(false);
    await data.initialize(signal);
  });
  const systemIdentifier = await node.readSystemIdentifier();
  logger.info({ systemIdentifier }, "made the data of a new cluster");
  await node.dataMade();
  await supervisor.start();
  if ((await supervisor.whenAttached(signal)) === null)
    throw new Error("the new Postgres doesn't answer on its control socket");
  return systemIdentifier;
}
