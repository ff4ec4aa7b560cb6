/**
 * What a node's gateway reads, as copies in a directory of its own: the originals may be root's alone. Where the sidecar
 * is root the copies are, too, and the group of the user that the gateway runs as may read them: who could write its
 * configuration could say that it is to stay root.
 */
import { chmodSync, chownSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readTlsFiles, SecretFile } from "@quorate/common";
import type { SidecarConfig } from "../config.ts";
import type { PostgresOwner } from "../environment.ts";

/** Names in the directory. */
export const poolerFiles = {
  config: "gateway.json",
  pid: "gateway.pid",
  token: "token",
  password: "password",
  ca: "ca.pem",
  cert: "cert.pem",
  key: "key.pem",
} as const;

export class PoolerFiles {
  readonly #directory: string;
  readonly #owner: PostgresOwner;
  readonly #tls: SidecarConfig["tls"];
  readonly #secrets: readonly (readonly [name: string, original: SecretFile])[];
  readonly #written = new Map<string, string>();

  constructor(directory: string, config: SidecarConfig, owner: PostgresOwner) {
    this.#directory = directory;
    this.#owner = owner;
    this.#tls = config.tls;
    const secrets = { token: config.tokenFile, password: config.gateway?.passwordFile } as const;
    this.#secrets = Object.entries(secrets).flatMap(([name, file]) =>
      file === undefined ? [] : [[name, new SecretFile(file)] as const],
    );
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.#guard(directory, 0o700);
  }

  at(name: keyof typeof poolerFiles): string {
    return join(this.#directory, poolerFiles[name]);
  }

  /** True if that changes something. */
  write(name: string, text: string): boolean {
    if (this.#written.get(name) === text) return false;
    const file = join(this.#directory, name);
    rmSync(`${file}.new`, { force: true });
    writeFileSync(`${file}.new`, text, { mode: 0o600 });
    this.#guard(`${file}.new`, 0o600);
    renameSync(`${file}.new`, file);
    this.#written.set(name, text);
    return true;
  }

  #guard(name: string, mode: number): void {
    if (this.#owner !== undefined) chownSync(name, process.getuid?.() ?? 0, this.#owner.gid);
    chmodSync(name, this.#owner === undefined ? mode : mode | ((mode & 0o500) >> 3));
  }

  /** Throws if the originals can't be read; what was there before stays. True if something has changed. */
  copySecrets(): boolean {
    let changed = false;
    for (const [name, original] of this.#secrets)
      changed = this.write(poolerFiles[name as "token"], `${original.value}\n`) || changed;
    return changed;
  }

  /** The same of certificates. */
  copyTls(): void {
    if (this.#tls === undefined) return;
    const texts = readTlsFiles(this.#tls);
    for (const name of ["ca", "cert", "key"] as const) this.write(poolerFiles[name], texts[name]);
  }
}
