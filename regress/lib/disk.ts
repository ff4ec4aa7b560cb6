/**
 * A file system in a file, for the data directory of one server, that can lose its power: EXT4_IOC_SHUTDOWN without a
 * flush of the journal drops everything that was not fsynced (and not written back by chance), like pulling the plug.
 */
import { spawnSync } from "node:child_process";
import { chown, mkdir, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import { poll, postgresUser, run } from "@quorate/common";

export type Disk = {
  /** Where it is mounted; belongs to the user that Postgres runs as. */
  readonly directory: string;
  readonly sync: () => Promise<void>;
  /** Nothing reaches the disk any more; then `kill` ends its users, and it is mounted anew, with what it had kept. */
  readonly cutPower: (kill: () => Promise<void>) => Promise<void>;
  readonly dispose: () => Promise<void>;
};

const diskBytes = 6 * 2 ** 30;
const unmountTimeoutMs = 20_000;

/** _IOR('X', 125, __u32) with EXT4_GOING_FLAGS_NOLOGFLUSH, in the language that the build of Postgres needs anyway. */
const shutDown = `open(my $d, "<", $ARGV[0]) or die "$!"; my $f = pack("L", 2); ioctl($d, 0x8004587d, $f) or die "$!";`;

export async function makeDisk(parent: string, id: string): Promise<Disk> {
  const user = postgresUser();
  if (user === undefined) throw new Error("power cuts need file systems of their own: run as root");
  const image = path.join(parent, `${id}.img`);
  const directory = path.join(parent, `${id}.disk`);
  await mkdir(directory);
  await writeFile(image, "");
  await truncate(image, diskBytes);
  await run("mkfs.ext4", ["-q", "-F", "-m", "0", image]);
  const mount = () => run("mount", ["-o", "loop", image, directory]);
  const unmount = () =>
    poll(async () => (await run("umount", [directory], { okCodes: [0, 1, 32] })).code === 0, {
      what: `${directory} to be unused`,
      timeoutMs: unmountTimeoutMs,
      intervalMs: 50,
    });
  await mount();
  await chown(directory, user.uid, user.gid);

  const atExit = () => {
    spawnSync("umount", ["--lazy", directory]);
  };
  process.once("exit", atExit);
  return {
    directory,
    sync: async () => {
      await run("sync", ["--file-system", directory]);
    },
    cutPower: async (kill) => {
      await run("perl", ["-e", shutDown, directory]);
      await kill();
      await unmount();
      await mount();
    },
    dispose: async () => {
      process.off("exit", atExit);
      await unmount();
    },
  };
}
