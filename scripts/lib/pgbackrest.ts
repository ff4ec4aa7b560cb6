/** Pure parts of finding pgBackRest: versions, and the packages of a private root. */

/** The first version that knows PostgreSQL 18. */
export const minimumVersion = "2.57.0";

/** The version in `pgBackRest 2.60.0`; a development version counts as the release that it leads to. */
export function parseVersion(output: string): string | undefined {
  return /^pgBackRest (\d+\.\d+(?:\.\d+)?)/m.exec(output)?.[1];
}

export function isAtLeast(version: string, minimum: string): boolean {
  const parts = (text: string) => text.split(".").map(Number);
  const [have, want] = [parts(version), parts(minimum)];
  for (let at = 0; at < want.length; at++) {
    const difference = (have[at] ?? 0) - (want[at] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}

/** A dependency that holds libraries; scripts, servers and data of pgBackRest's dependencies aren't needed to run it. */
const libraryPackage = /^(lib|zlib1g$)/;

/**
 * The packages of a private root, from `apt-cache depends --recurse`: pgBackRest and the libraries that it depends on,
 * directly or by way of other libraries, down to the C library.
 */
export function packagesFor(start: string, depends: string): string[] {
  const graph = new Map<string, string[]>();
  let current: string[] = [];
  for (const line of depends.split("\n")) {
    const name = /^([a-z0-9][^\s]*)$/.exec(line)?.[1];
    if (name !== undefined) {
      current = [];
      graph.set(name, current);
    }
    const dependency = /^\s+\|?(?:Pre)?Depends: ([a-z0-9][^\s]*)$/.exec(line)?.[1];
    if (dependency !== undefined) current.push(dependency);
  }
  const found = new Set([start]);
  for (const name of found) {
    for (const dependency of graph.get(name) ?? []) {
      if (libraryPackage.test(dependency)) found.add(dependency);
    }
  }
  return [...found].sort();
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * Starts the program with its own C library, whatever the system's is. pgBackRest starts itself again for its helper
 * processes by the name it was called with, which therefore is the script's.
 */
export function wrapperScript(
  script: string,
  loader: string,
  directories: readonly string[],
  program: string,
) {
  return [
    "#!/bin/sh",
    "# From a newer release of the distribution, with the libraries that it was built for.",
    `exec ${quoted(loader)} --argv0 ${quoted(script)} --library-path ${quoted(directories.join(":"))} \\`,
    `  ${quoted(program)} "$@"`,
    "",
  ].join("\n");
}
