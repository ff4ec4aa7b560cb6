/** Connection strings and password files of libpq. Pure. */

import type { TlsFiles } from "@quorate/common";

export type Peer = { readonly host: string; readonly port: number };

export type ReplicationIdentity = {
  /** This node's id: the other side knows it by its application_name. */
  readonly node: string;
  readonly user: string;
  readonly passFile: string;
  /** Both ends show certificates of one authority, and the other's must be for the address. */
  readonly tls?: TlsFiles | undefined;
  /** Of the cohort, or on its way into it; an observer gets only what is committed, and never counts. */
  readonly member: boolean;
};

/**
 * For the walreceiver of a node, observers included: only who says that it is
 * one of us is told the commit LSN, without which nothing may be replayed.
 * Whether a node counts is for the rules to say, not for this option.
 */
export function replicationConninfo(peer: Peer, identity: ReplicationIdentity): string {
  return formatConninfo({
    host: peer.host,
    port: String(peer.port),
    user: identity.user,
    passfile: identity.passFile,
    application_name: identity.node,
    connect_timeout: "3",
    // A peer that vanished without a FIN is noticed by the kernel, too.
    tcp_user_timeout: "5000",
    ...tlsFields(identity.tls),
    options: identity.member ? "-cquorate.member=on" : "-cquorate.observer=on",
  });
}

/** Without certificates nothing is tried that could fall back. */
export function tlsFields(tls: TlsFiles | undefined): Readonly<Record<string, string>> {
  const gssencmode = "disable";
  if (tls === undefined) return { gssencmode, sslmode: "disable" };
  const { ca, cert, key } = tls;
  return { gssencmode, sslmode: "verify-full", sslrootcert: ca, sslcert: cert, sslkey: key };
}

export function formatConninfo(fields: Readonly<Record<string, string>>): string {
  return Object.entries(fields)
    .map(([key, value]) => `${key}=${quoteConninfo(value)}`)
    .join(" ");
}

function quoteConninfo(value: string): string {
  if (/^[A-Za-z0-9_.:/=-]+$/.test(value) && !value.includes("=")) return value;
  return `'${value.replace(/[\\']/g, "\\$&")}'`;
}

export function passFileText(user: string, password: string): string {
  const escaped = (field: string): string => field.replace(/[\\:]/g, "\\$&");
  return `*:*:*:${escaped(user)}:${escaped(password)}\n`;
}
