/** Positions in the log, as the server's reports and functions write them. */
export function parseLsn(text: string): bigint {
  const slash = text.indexOf("/");
  if (slash < 0) return 0n;
  return (BigInt(`0x${text.slice(0, slash)}`) << 32n) | BigInt(`0x${text.slice(slash + 1)}`);
}

export function formatLsn(lsn: bigint): string {
  return `${(lsn >> 32n).toString(16)}/${(lsn & 0xffff_ffffn).toString(16)}`.toUpperCase();
}

/** Returns when a follower shows everything up to there, or fails. */
export function waitForLsnSql(lsn: bigint, timeoutMs: number): string {
  return `SELECT quorate.wait_for_lsn('${formatLsn(lsn)}', '${timeoutMs} ms')`;
}
