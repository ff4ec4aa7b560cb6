/** Rows of the gateway's own queries; those of clients are never decoded. */
import { int32 } from "../wire/codec.ts";

/** A DataRow message that starts at `start`, its values as text. */
export function readRow(bytes: Buffer, start: number): (string | null)[] {
  const count = ((bytes[start + 5] as number) << 8) | (bytes[start + 6] as number);
  const values: (string | null)[] = [];
  let at = start + 7;
  for (let column = 0; column < count; column++) {
    const length = int32(bytes, at);
    at += 4;
    if (length < 0) values.push(null);
    else {
      values.push(bytes.utf8Slice(at, at + length));
      at += length;
    }
  }
  return values;
}
