/** The configuration of a node's own gateway. Pure. */
import type { configSchema } from "@quorate/gateway/config.ts";
import type { z } from "zod";
import { peerAddresses } from "../backup/peers.ts";
import { isLoopback, type SidecarConfig } from "../config.ts";
import { poolerFiles } from "./pooler-files.ts";

export type GatewayConfigInput = z.input<typeof configSchema>;
export type SidecarAddress = { readonly host: string; readonly grpcPort: number };

/** The sidecar waits for it at its own end. */
const drainMs = 3_000;

/** This node first, then everybody else in the rules that it has applied. */
export function sidecarsOf(config: SidecarConfig, rulesetText: string | undefined): SidecarAddress[] {
  const own = { host: config.host, grpcPort: config.ports.grpc };
  const others = peerAddresses(rulesetText)
    .filter(({ id }) => id !== config.node.id)
    .map(({ grpc }) => addressOf(grpc));
  return [own, ...others.sort((a, b) => (`${a.host}:${a.grpcPort}` < `${b.host}:${b.grpcPort}` ? -1 : 1))];
}

function addressOf(text: string): SidecarAddress {
  const colon = text.lastIndexOf(":");
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ""), grpcPort: Number(text.slice(colon + 1)) };
}

/** Clients of other machines need TLS where Postgres would want it of them. */
function tlsOf({ tls, host, postgres }: SidecarConfig): GatewayConfigInput["tls"] {
  if (tls === undefined) return undefined;
  return {
    certFile: poolerFiles.cert,
    keyFile: poolerFiles.key,
    required: !postgres.allowPlain && !isLoopback(host),
  };
}

/** Files are named as they are beside the configuration; `runAs` is the user that a sidecar who is root lets it be. */
export function poolerConfig(
  config: SidecarConfig,
  sidecars: readonly SidecarAddress[],
  runAs: string | undefined,
): GatewayConfigInput {
  const { ports, gateway, tls, tokenFile, node, host, app, pooler } = config;
  const { token, password, ca, cert, key } = poolerFiles;
  const clientTls = tlsOf(config);
  return {
    admin: { users: [app.user] },
    drainMs,
    ...(clientTls === undefined ? {} : { tls: clientTls }),
    ...pooler,
    home: node.id,
    zone: node.zone,
    listen: {
      host,
      ...(ports.pooler === undefined ? {} : { port: ports.pooler }),
      ...(ports.poolerRead === undefined ? {} : { readPort: ports.poolerRead }),
    },
    authentication: {
      ...(gateway === undefined ? {} : { user: gateway.user, passwordFile: password }),
    },
    ...(tls === undefined ? {} : { sidecarTls: { ca, cert, key } }),
    ...(tokenFile === undefined ? {} : { sidecarTokenFile: token }),
    ...(runAs === undefined ? {} : { runAs }),
    sidecars: [...sidecars],
  };
}
