/** The source of a package of the distribution, fetched once, or the tree or tarball that an environment variable names. */
import { mkdir, readdir, stat } from "node:fs/promises";
import path from "node:path";
import { messageOf, run } from "@quorate/common";
import { withPrivateApt } from "../../../scripts/lib/apt.ts";
import { makeCacheDirectory } from "../../../scripts/lib/cache.ts";

/** Newest first; where an archive lacks the file of one release, another's will do. */
const releases = ["trixie", "bookworm"];

async function tarball(name: string): Promise<string> {
  const kept = makeCacheDirectory("judges");
  const find = async () =>
    (await readdir(kept)).find((file) => file.startsWith(`${name}_`) && /\.orig\.tar\.[gx]z$/.test(file));
  const args = ["source", "--download-only", "--only-source", "--tar-only", name];
  const refusals: string[] = [];
  for (const release of releases) {
    const found = await find();
    if (found !== undefined) return path.join(kept, found);
    try {
      await withPrivateApt("deb-src", [release], (apt) => apt.aptGet(args, kept));
    } catch (error) {
      refusals.push(`${release}: ${messageOf(error).split("\n").slice(-2).join(" ")}`);
    }
  }
  const found = await find();
  if (found === undefined) throw new Error(`no source of ${name} (${refusals.join("; ")})`);
  return path.join(kept, found);
}

/** The folder with the sources: a tree that was given stays where it is, a tarball is unpacked below `directory`. */
export async function sourcePackage(name: string, variable: string, directory: string): Promise<string> {
  const given = process.env[variable] ?? "";
  if (given !== "" && (await stat(given)).isDirectory()) return path.resolve(given);
  const file = given === "" ? await tarball(name) : path.resolve(given);
  const unpacked = path.join(directory, "source");
  await mkdir(unpacked);
  await run("tar", ["xf", file, "--strip-components=1", "-C", unpacked], { timeoutMs: 60_000 });
  return unpacked;
}

/** Pure Python packages of the distribution, unpacked below `directory`: what to put into PYTHONPATH. */
export async function pythonPackages(names: readonly string[], directory: string): Promise<string> {
  const root = path.join(directory, "python");
  const debs = path.join(directory, "debs");
  await mkdir(debs);
  await withPrivateApt("deb", releases.slice(0, 1), (apt) => apt.aptGet(["download", ...names], debs));
  for (const deb of await readdir(debs))
    await run("dpkg", ["-x", path.join(debs, deb), root], { timeoutMs: 60_000 });
  return path.join(root, "usr/lib/python3/dist-packages");
}
