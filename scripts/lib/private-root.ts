/**
 * A program of a newer suite of the distribution, unpacked with all its libraries into a folder of its own: it runs
 * with its own loader, whatever the system's C library is, and touches nothing of the system.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { run } from "@quorate/common";
import { withPrivateApt } from "./apt.ts";
import { packagesFor, wrapperScript } from "./pgbackrest.ts";

export async function unpack(debs: readonly string[], directory: string): Promise<void> {
  for (const deb of debs) await run("dpkg", ["-x", deb, directory], { timeoutMs: 60_000 });
}

/** The package and the libraries that it needs, downloaded into this folder. */
export function newerDebs(name: string, suites: readonly string[], directory: string): Promise<string[]> {
  return withPrivateApt("deb", suites, async (apt) => {
    const options = ["--recurse", "--important", "--no-pre-depends"];
    const packages = packagesFor(name, await apt.aptCache(["depends", ...options, name]));
    await apt.aptGet(["download", ...packages], directory);
    return (await readdir(directory)).map((file) => path.join(directory, file));
  });
}

/** Finds the loader and the library folders of an unpacked root, and writes the script that starts with them. */
export async function makeWrapper(root: string, script: string, program: string): Promise<void> {
  const directories: string[] = [];
  let loader: string | undefined;
  for (const base of ["usr/lib", "lib", "usr/lib64", "lib64"]) {
    if (!existsSync(path.join(root, base))) continue;
    for (const name of ["", ...(await readdir(path.join(root, base)))]) {
      const directory = path.join(root, base, name);
      const files = await readdir(directory).catch((): string[] => []);
      if (files.some((file) => /\.so\.\d/.test(file))) directories.push(directory);
      const found = files.find((file) => /^ld-linux.*\.so\.\d+$/.test(file));
      if (found !== undefined) loader ??= path.join(directory, found);
    }
  }
  if (loader === undefined) throw new Error("the packages hold no dynamic loader");
  await mkdir(path.dirname(script), { recursive: true, mode: 0o755 });
  const text = wrapperScript(script, loader, directories, path.join(root, program));
  await writeFile(script, text, { mode: 0o755 });
}
