/**
 * The node's certificate for Postgres, which runs as another user and wants a key of its own: copies in run/tls/, made
 * anew when the originals are renewed. Postgres reads them again at a SIGHUP; walreceivers at each connection.
 */
import { chmodSync, chownSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Logger, readTlsFiles, type TlsFiles, type TlsTexts, watchTlsFiles } from "@quorate/common";
import type { PostgresOwner } from "./environment.ts";
import type { NodePaths } from "./paths.ts";

/** Throws when the files can't be used. */
export function installTls(files: TlsFiles, { tls }: NodePaths, owner: PostgresOwner): void {
  write(readTlsFiles(files), tls, owner);
}

function write(texts: TlsTexts, to: NodePaths["tls"], owner: PostgresOwner): void {
  const own = (name: string): void => {
    if (owner !== undefined) chownSync(name, owner.uid, owner.gid);
  };
  mkdirSync(to.directory, { recursive: true, mode: 0o700 });
  chmodSync(to.directory, 0o700);
  own(to.directory);
  for (const name of ["ca", "key", "cert"] as const) {
    const fresh = join(to.directory, `${name}.new`);
    writeFileSync(fresh, texts[name], { mode: 0o600 });
    own(fresh);
    renameSync(fresh, to[name]);
  }
}

export type TlsReload = {
  readonly files: TlsFiles;
  readonly paths: NodePaths;
  readonly owner: PostgresOwner;
  readonly logger: Logger;
  /** Tells a running Postgres to read its files again. */
  readonly reload: () => void;
};

/** Returns the function that ends it. */
export function keepTlsFresh({ files, paths, owner, logger, reload }: TlsReload): () => void {
  return watchTlsFiles(
    files,
    (texts) => {
      write(texts, paths.tls, owner);
      reload();
      logger.info("renewed certificates: Postgres reads them again");
    },
    (error) => logger.warn({ err: error }, "the certificates can't be used: those before stay in use"),
  );
}
