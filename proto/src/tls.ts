// Mutual TLS between coordinators and sidecars. Both ends show a certificate of the cluster's own authority; nobody
// else is answered. The files are watched: a renewed certificate is used from the next connection on, without a restart.
import { type ChannelCredentials, credentials, experimental, ServerCredentials } from "@grpc/grpc-js";

/** Paths of PEM files. */
export type TlsFiles = { readonly ca: string; readonly cert: string; readonly key: string };

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

let shared: ChannelCredentials | undefined;

/** What every connection of this process to a sidecar shows and expects, unless it is told otherwise. */
export function useClientCredentials(files: TlsFiles | undefined): void {
  shared = files === undefined ? undefined : clientCredentials(files);
}

export function sharedCredentials(): ChannelCredentials {
  return shared ?? credentials.createInsecure();
}
