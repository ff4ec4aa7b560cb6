// quorate status [--json] [--watch]
import { type OpenCluster, openCluster } from "../cluster/files.ts";
import { CohortWatcher } from "../shell/cohort-watcher.ts";
import { type ClusterPicture, formatPicture, pictureOf } from "../view.ts";
import { grpcAddress, sightingOf, takePicture } from "./sightings.ts";

/** Like a service manager's: nothing of it runs. */
export const exitNotRunning = 3;

function print(picture: ClusterPicture, json: boolean): void {
  console.log(json ? JSON.stringify(picture, undefined, 2) : formatPicture(picture));
}

export async function status(dir: string, options: { json?: boolean; watch?: boolean }): Promise<number> {
  const cluster = openCluster(dir);
  const json = options.json === true;
  if (options.watch === true) {
    await watchUntilSignal(cluster, json);
    return 0;
  }
  const picture = await takePicture(cluster);
  print(picture, json);
  return picture.nodes.every((node) => node.problem !== null) ? exitNotRunning : 0;
}

/** Calls `show` after each event, at most once in `pauseMs`; returns a function that ends it. */
export function followPicture(
  cluster: OpenCluster,
  show: (picture: ClusterPicture) => void,
  pauseMs = 100,
): () => void {
  const { nodes } = cluster.file;
  let timer: NodeJS.Timeout | undefined;
  const soon = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined;
      const views = new Map(watcher.views().map((view) => [view.address, view]));
      const sightings = nodes.map((node) => {
        const view = views.get(grpcAddress(node));
        return sightingOf(node, view?.reachable ? view.status : undefined, view?.lastEnd?.message);
      });
      show(pictureOf(cluster.file.cluster, sightings));
    }, pauseMs);
  };
  const watcher = new CohortWatcher({ watcher: "cli", nowMs: () => performance.now(), onEvent: soon });
  for (const node of nodes) watcher.add(grpcAddress(node));
  return () => {
    clearTimeout(timer);
    watcher.close();
  };
}

/** On a terminal the picture is redrawn in place; elsewhere each change is printed (--json: one per line). */
export async function watchUntilSignal(cluster: OpenCluster, json: boolean, footer = ""): Promise<void> {
  const stop = followPicture(cluster, (picture) => {
    if (json) console.log(JSON.stringify(picture));
    else if (process.stdout.isTTY) process.stdout.write(`\x1b[H\x1b[2J${formatPicture(picture)}\n${footer}`);
    else console.log(`${formatPicture(picture)}\n`);
  });
  await new Promise<void>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => resolve());
  });
  stop();
}
