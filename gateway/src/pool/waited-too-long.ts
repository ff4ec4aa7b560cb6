/** What a client is told whose request has waited in vain. */
import { type WireError, wireError } from "../wire/errors.ts";

/** `led`: some node leads; `lastError`: why the last attempt to connect to it failed. */
export function waitedTooLong(waitMs: number, led: boolean, lastError: WireError | undefined): WireError {
  const seconds = Math.round(waitMs / 1000);
  if (!led) {
    return wireError(
      "ERROR",
      "57P03",
      `no node leads the cluster: the request was held for ${seconds} s and not executed`,
      { hint: "Nothing has been executed; it is safe to try again." },
    );
  }
  return wireError(
    "ERROR",
    "57P03",
    `no server connection was free for ${seconds} s; the request was not executed`,
    {
      ...(lastError !== undefined && { detail: `The last attempt to connect: ${lastError.message}` }),
      hint: "Nothing has been executed. Long transactions or pinned sessions hold the connections: see SHOW CLIENTS on the console.",
    },
  );
}
