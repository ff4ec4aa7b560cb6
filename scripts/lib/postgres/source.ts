/** Finds the source tarball of a PostgreSQL release. Whatever its origin, its checksum must be the pinned one. */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { copyFile, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { commonErrors, messageOf } from "@quorate/common";
import { withPrivateApt } from "../apt.ts";
import { makeCacheDirectory } from "../cache.ts";
import type { Progress } from "../progress.ts";
import { type PostgresRelease, tarballName } from "./release.ts";

/** Suites that may carry the release, besides the installed one. */
const debianSuites = ["trixie", "sid"];

export async function sha256Of(file: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file), hash);
  return hash.digest("hex");
}

/** Copies to its final name by way of a temporary one, so that an interrupted copy is never found there. */
async function keep(file: string, target: string): Promise<void> {
  const temporary = `${target}.${process.pid}.tmp`;
  await copyFile(file, temporary);
  await rename(temporary, target);
}

async function verify(file: string, release: PostgresRelease): Promise<void> {
  const actual = await sha256Of(file);
  if (actual !== release.sha256) {
    throw new Error(`${file} has sha256 ${actual}, expected ${release.sha256}`);
  }
}

/** An origin puts the tarball into the directory and returns its path, or throws why it can't. */
type Origin = {
  readonly name: string;
  readonly fetch: (directory: string) => Promise<string>;
};

/** The versions of `apt-cache showsrc` whose upstream part is the wanted one. */
export function matchingVersions(showsrc: string, release: PostgresRelease): string[] {
  const versions = [...showsrc.matchAll(/^Version: (.+)$/gm)].map((match) => match[1] ?? "");
  return versions.filter((version) => version.replace(/^\d+:/, "").startsWith(`${release.version}-`));
}

function fromFolder(folder: string | undefined, release: PostgresRelease): Origin {
  return {
    name: folder === undefined ? "QUORATE_SOURCE_DIR (not set)" : `QUORATE_SOURCE_DIR=${folder}`,
    fetch: async () => {
      if (folder === undefined) throw new Error("not set");
      const file = path.resolve(folder, tarballName(release));
      if (!existsSync(file)) throw new Error(`no file ${file}`);
      return file;
    },
  };
}

function fromDistribution(release: PostgresRelease): Origin {
  const name = `postgresql-${release.major}`;
  return {
    name: `the distribution's source package ${name}`,
    fetch: (directory) =>
      withPrivateApt("deb-src", debianSuites, async (apt) => {
        const showsrc = await apt.aptCache(["showsrc", "--only-source", name]).catch(() => "");
        const version = matchingVersions(showsrc, release)[0];
        if (version === undefined) throw new Error(`no ${name} ${release.version} in ${apt.archive}`);
        const wanted = `${name}=${version}`;
        await apt.aptGet(["source", "--download-only", "--only-source", "--tar-only", wanted], directory);
        const files = await readdir(directory);
        const tarball = files.find((file) => /\.orig\.tar\.bz2$/.test(file));
        if (tarball === undefined) throw new Error(`${wanted} of ${apt.archive} has no .orig.tar.bz2`);
        return path.join(directory, tarball);
      }),
  };
}

function fromUpstream(release: PostgresRelease): Origin {
  const url = `https://ftp.postgresql.org/pub/source/v${release.version}/${tarballName(release)}`;
  return {
    name: url,
    fetch: async (directory) => {
      const response = await fetch(url, { signal: AbortSignal.timeout(300_000) });
      if (!response.ok) throw new Error(`HTTP status ${response.status}`);
      const file = path.join(directory, tarballName(release));
      await writeFile(file, new Uint8Array(await response.arrayBuffer()));
      return file;
    },
  };
}

/** The path of the tarball in the cache. */
export async function ensureSource(release: PostgresRelease, progress: Progress): Promise<string> {
  const cached = path.join(makeCacheDirectory("sources"), tarballName(release));
  const refusals: string[] = [];
  if (existsSync(cached)) {
    try {
      await verify(cached, release);
      return cached;
    } catch (error) {
      refusals.push(`the cache: ${messageOf(error)}; removed`);
      await rm(cached);
    }
  } else {
    refusals.push(`the cache: no file ${cached}`);
  }
  const folder = process.env["QUORATE_SOURCE_DIR"];
  const origins = [
    fromFolder(folder === "" ? undefined : folder, release),
    fromDistribution(release),
    fromUpstream(release),
  ];
  for (const origin of origins) {
    const directory = await mkdtemp(path.join(tmpdir(), "quorate-source-"));
    try {
      progress(`looking for the source in ${origin.name}`);
      const file = await origin.fetch(directory);
      await verify(file, release);
      await keep(file, cached);
      return cached;
    } catch (error) {
      refusals.push(`${origin.name}: ${messageOf(error)}`);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }
  throw commonErrors.error(
    "no_postgres_source",
    [
      `The source of PostgreSQL ${release.version} is nowhere to be had. Looked in:`,
      ...refusals.map((refusal) => `  - ${refusal}`),
      `Provide ${tarballName(release)} (sha256 ${release.sha256})`,
      "in a folder of your choice, and name that folder: QUORATE_SOURCE_DIR=/that/folder npm start",
    ].join("\n"),
  );
}
