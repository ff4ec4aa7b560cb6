/** What is to be built, and the name of it: the same inputs give the same directory in the cache. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { arch } from "node:os";
import path from "node:path";
import type { PostgresRelease } from "./release.ts";

export type Variant = "release" | "assert";

export type Patch = { readonly name: string; readonly file: string; readonly content: Uint8Array };

export type BuildPlan = {
  readonly release: PostgresRelease;
  readonly variant: Variant;
  readonly patches: readonly Patch[];
  readonly configure: readonly string[];
  /** Of the machine: libraries of another release of the distribution don't fit. */
  readonly platform: string;
  readonly key: string;
};

/** The numbered series for a major version, in order; a series that isn't there is an empty one. */
export function readPatches(root: string, major: number): Patch[] {
  const directory = path.join(root, "extension/patches", String(major));
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory).filter((name) => name.endsWith(".patch"));
  return names.sort().map((name) => {
    const file = path.join(directory, name);
    return { name, file, content: readFileSync(file) };
  });
}

/** Header or file whose presence means that the option can be used. */
const optional: readonly { readonly probe: string; readonly option: string }[] = [
  { probe: "openssl/ssl.h", option: "--with-ssl=openssl" },
  { probe: "lz4.h", option: "--with-lz4" },
  { probe: "zstd.h", option: "--with-zstd" },
  { probe: "libxml2/libxml/parser.h", option: "--with-libxml" },
  { probe: "uuid/uuid.h", option: "--with-uuid=e2fs" },
];

/** Options of Postgres that are on unless their library is missing. */
const defaultOn: readonly { readonly probe: string; readonly without: string }[] = [
  { probe: "unicode/ucol.h", without: "--without-icu" },
  { probe: "readline/readline.h", without: "--without-readline" },
  { probe: "zlib.h", without: "--without-zlib" },
];

export function configureOptions(variant: Variant, has: (probe: string) => boolean): string[] {
  return [
    "--enable-debug",
    ...optional.filter(({ probe }) => has(probe)).map(({ option }) => option),
    ...defaultOn.filter(({ probe }) => !has(probe)).map(({ without }) => without),
    // Postgres's own test suites in Perl need IPC::Run.
    ...(has("perl5/IPC/Run.pm") ? ["--enable-tap-tests"] : []),
    ...(variant === "assert" ? ["--enable-cassert", "--enable-injection-points"] : []),
  ];
}

const probeDirectories = ["/usr/include", "/usr/local/include", "/usr/share"];

export function systemHas(probe: string): boolean {
  return probeDirectories.some((directory) => existsSync(path.join(directory, probe)));
}

function platformName(): string {
  const release = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  const id = /^ID=(.*)$/m.exec(release)?.[1] ?? "linux";
  const version = /^VERSION_ID=(.*)$/m.exec(release)?.[1] ?? "";
  return `${arch()}-${id}${version}`.replaceAll('"', "");
}

export function planBuild(patches: readonly Patch[], release: PostgresRelease, variant: Variant): BuildPlan {
  const configure = configureOptions(variant, systemHas);
  const platform = platformName();
  const hash = createHash("sha256");
  hash.update(JSON.stringify({ layout: 1, sha256: release.sha256, configure, platform }));
  for (const { name, content } of patches) hash.update(`\n${name}\n`).update(content);
  const key = `${release.version}-${variant}-${hash.digest("hex").slice(0, 12)}`;
  return { release, variant, patches, configure, platform, key };
}

/** Made by a build in the clone, or no part of what is built. */
const notInput =
  /\.(o|so|a|bc|gcda|gcno|log)$|^(patches|test|results|output_iso|tmp_check|tmp_check_iso|log)$/;

/** The extension's inputs: files of extension/ and sql/, as paths relative to the clone. Empty: no extension yet. */
export function extensionInputs(root: string): string[] {
  if (!existsSync(path.join(root, "extension/Makefile"))) return [];
  const files: string[] = [];
  const walk = (directory: string) => {
    for (const entry of readdirSync(path.join(root, directory), { withFileTypes: true })) {
      const file = path.join(directory, entry.name);
      if (notInput.test(entry.name) || entry.name.startsWith(".")) continue;
      if (entry.isDirectory()) walk(file);
      else files.push(file);
    }
  };
  walk("extension");
  if (existsSync(path.join(root, "sql"))) walk("sql");
  return files.sort();
}

export function extensionKey(root: string, files: readonly string[]): string {
  const hash = createHash("sha256");
  for (const file of files) {
    const absolute = path.join(root, file);
    hash.update(`\n${file} ${statSync(absolute).mode & 0o111}\n`).update(readFileSync(absolute));
  }
  return hash.digest("hex").slice(0, 12);
}
