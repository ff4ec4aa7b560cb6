// Who may talk to a sidecar. With certificates: mutual TLS, both ends show one of the cluster's own authority; without:
// callers show the cluster's token. Nobody else is answered. The files are watched: a renewed certificate is used from the next connection on, without a restart.
import { type ChannelCredentials, credentials, experimental, ServerCredentials } from "@grpc/grpc-js";
import { SecretFile, type TlsFiles } from "@quorate/common";

export type { TlsFiles };

const refreshIntervalMs = 2_000;

function provider({ ca, cert, key }: TlsFiles): experimental.CertificateProvider {
  return new experimental.FileWatcherCertificateProvider({
    caCertificateFile: ca,
    certificateFile: cert,
    privateKeyFile: key,
    refreshIntervalMs,
  });
}

export function serverCredentials(files: TlsFiles | undefined): ServerCredentials {
  if (files === undefined) return ServerCredentials.createInsecure();
  const watched = provider(files);
  return experimental.createCertificateProviderServerCredentials(watched, watched, true);
}

export function clientCredentials(files: TlsFiles | undefined): ChannelCredentials {
  if (files === undefined) return credentials.createInsecure();
  const watched = provider(files);
  return experimental.createCertificateProviderChannelCredentials(watched, watched);
}

/** What a process shows to sidecars and expects of them. */
export type ClientAccess = {
  readonly tls?: TlsFiles | undefined;
  /** Without TLS the cluster's token is what lets a caller in. */
  readonly tokenFile?: string | undefined;
};

export type Access = {
  readonly credentials: ChannelCredentials;
  readonly token: (() => string) | undefined;
};

const open: Access = { credentials: credentials.createInsecure(), token: undefined };
let shared = open;
const byAddress = new Map<string, Access>();
/** Each watches its files: one per set of files is enough. */
const made = new Map<string, Access>();

/** For every connection of this process, or only for those to the given addresses. */
export function useClientAccess({ tls, tokenFile }: ClientAccess, addresses?: readonly string[]): void {
  const name = JSON.stringify([tls, tokenFile]);
  let access = made.get(name);
  if (access === undefined) {
    const secret = tokenFile === undefined ? undefined : new SecretFile(tokenFile);
    const token = secret === undefined || tls !== undefined ? undefined : () => secret.value;
    access = { credentials: clientCredentials(tls), token };
    made.set(name, access);
  }
  if (addresses === undefined) shared = access;
  else for (const address of addresses) byAddress.set(address, access);
}

export function accessTo(address: string): Access {
  return byAddress.get(address) ?? shared;
}
