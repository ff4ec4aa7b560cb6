/**
 * The system identifier in pg_control, by which nodes of one cluster know each other. A restored cluster gets a new
 * one, so that it can never be taken for the old one. Pure but for nothing: works on the file's bytes.
 *
 * The identifier is the first field. The checksum (CRC-32C of everything before it) follows the last field, whose place
 * differs between versions of Postgres: it is found by being right.
 */

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

/** CRC-32C, as Postgres uses it. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 0xff] as number);
  return (crc ^ 0xffffffff) >>> 0;
}

const smallestControlData = 200;
const largestControlData = 512;

function checksumOffset(control: Buffer): number {
  const end = Math.min(control.length, largestControlData) - 4;
  for (let at = smallestControlData; at <= end; at += 4)
    if (control.readUInt32LE(at) === crc32c(control.subarray(0, at))) return at;
  throw new Error("pg_control is damaged or of an unknown form: its checksum isn't found");
}

export function systemIdentifierOf(control: Buffer): bigint {
  checksumOffset(control);
  return control.readBigUInt64LE(0);
}

/** A copy with another identifier and the right checksum. */
export function withSystemIdentifier(control: Buffer, identifier: bigint): Buffer {
  const at = checksumOffset(control);
  const changed = Buffer.from(control);
  changed.writeBigUInt64LE(identifier, 0);
  changed.writeUInt32LE(crc32c(changed.subarray(0, at)), at);
  return changed;
}

/** Made as initdb does it: seconds, microseconds and process; `nowMs` and `random` make it unique. */
export function newSystemIdentifier(nowMs: number, random: number): bigint {
  const seconds = BigInt(Math.floor(nowMs / 1000));
  const microseconds = BigInt(Math.floor(nowMs % 1000) * 1000);
  return (seconds << 32n) | (microseconds << 12n) | BigInt(random & 0xfff);
}
