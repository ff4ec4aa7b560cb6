/** A worker with its transport, its certificates and its plans, on the thread that calls. */
import { readFileSync } from "node:fs";
import { createSecureContext, type SecureContext } from "node:tls";
import type { Logger } from "@quorate/common";
import type { Table } from "./admin/console.ts";
import type { RoomOptions } from "./budget/room.ts";
import type { Config } from "./config.ts";
import type { LeaderSource } from "./route/leader-source.ts";
import type { Tls } from "./session/login.ts";
import { Plans } from "./text/plans.ts";
import { buildNative } from "./transport/native-build.ts";
import { NativeTransport } from "./transport/native-transport.ts";
import { endPointHash, NetTransport } from "./transport/net-transport.ts";
import { serverContext } from "./transport/secure-context.ts";
import type { Transport } from "./transport/transport.ts";
import { Worker } from "./worker.ts";

export type WorkerParts = RoomOptions & {
  readonly config: Config;
  readonly workerId: number;
  readonly leaders: LeaderSource;
  readonly log: Logger;
  /** A cancel request for a client of another worker. */
  readonly forwardCancel: (key: Uint8Array) => void;
  readonly reload: () => void;
  readonly shutdown: () => void;
  /** Carries out a console's command in all workers; undefined where there is only one. */
  readonly everywhere:
    | ((words: readonly string[]) => Promise<Table | { readonly error: string }>)
    | undefined;
};

export type MadeWorker = {
  readonly worker: Worker;
  /** Throws, and changes nothing, when its files can't be read. */
  reconfigure(config: Config): void;
};

export async function makeWorker(parts: WorkerParts): Promise<MadeWorker> {
  let tls = readTls(parts.config);
  let serverTls = readServerTls(parts.config);
  let password = readPassword(parts.config);
  const worker = new Worker({
    ...parts,
    transport: chooseTransport(parts.config, parts.log),
    plans: await Plans.load(),
    tls: () => tls,
    serverTls: () => serverTls,
    ownPassword: () => password,
  });
  return {
    worker,
    reconfigure(config) {
      const fresh = [readTls(config), readServerTls(config), readPassword(config)] as const;
      [tls, serverTls, password] = fresh;
      worker.reconfigure(config);
    },
  };
}

function chooseTransport(config: Config, log: Logger): Transport {
  const onBug = (error: unknown) => log.error({ error }, "a bug in a session: its connection was closed");
  if (config.transport === "net") return new NetTransport(onBug);
  const build = buildNative();
  if ("file" in build) {
    const wanted = config.transport !== "epoll";
    const transport = NativeTransport.get(build.file, onBug, wanted);
    if (wanted && !transport.uring)
      log.info("no io_uring on this kernel or in this container: epoll is used");
    return transport;
  }
  if (config.transport !== "auto") throw new Error(`the native transport can't be built: ${build.reason}`);
  log.info({ reason: build.reason }, "no native transport: Node's own sockets are used");
  return new NetTransport(onBug);
}

function readPassword(config: Config): string | undefined {
  const file = config.authentication.passwordFile;
  return file === undefined ? undefined : readFileSync(file, "utf8").trim();
}

/** In a cluster with certificates Postgres, too, shows one of its authority, and wants TLS. */
function readServerTls({ sidecarTls }: Config): SecureContext | undefined {
  if (sidecarTls === undefined) return undefined;
  const [ca, cert, key] = [sidecarTls.ca, sidecarTls.cert, sidecarTls.key].map((file) => readFileSync(file));
  return createSecureContext({ ca, cert, key, minVersion: "TLSv1.2" });
}

function readTls(config: Config): Tls | undefined {
  if (config.tls === undefined) return undefined;
  const cert = readFileSync(config.tls.certFile);
  const key = readFileSync(config.tls.keyFile);
  return { context: serverContext(cert, key), endPointHash: endPointHash(cert) };
}
