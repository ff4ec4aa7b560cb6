/** Connection strings and password files of libpq. Pure. */

export type Peer = { readonly host: string; readonly port: number };

export type ReplicationIdentity = {
  /** This node's id: the other side knows it by its application_name. */
  readonly node: string;
  readonly user: string;
  readonly passFile: string;
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
    gssencmode: "disable",
    options: identity.member ? "-cquorate.member=on" : "-cquorate.observer=on",
  });
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
