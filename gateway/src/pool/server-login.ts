/** Logging in to a server: its messages in, ours out. Pure but for the nonce. */

import { ScramClient, type Secret } from "../session/scram.ts";
import { nothingReported, type Reported } from "../session/settings.ts";
import { message, startup } from "../wire/build.ts";
import { be, fe, int32 } from "../wire/codec.ts";
import { readError, type WireError, wireError } from "../wire/errors.ts";

export type LoginStep =
  | { readonly kind: "wait" }
  | { readonly kind: "send"; readonly bytes: Buffer }
  | { readonly kind: "ready" }
  | { readonly kind: "failed"; readonly error: WireError; readonly raw?: Buffer };

const mostNotices = 100;
const wait: LoginStep = { kind: "wait" };

export class ServerLogin {
  reported: Reported = nothingReported;
  /** BackendKeyData's body: process id and secret. */
  cancelKey: Buffer | undefined;
  reportsSettings = false;
  /** What the server said meanwhile, as messages. */
  readonly notices: Buffer[] = [];
  readonly #keys: Secret | undefined;
  readonly #reader: boolean;
  #scram: ScramClient | undefined;
  #verified = false;

  /** `reader`: on a follower, for reads. */
  constructor(keys: Secret | undefined, reader = false) {
    this.#keys = keys;
    this.#reader = reader;
  }

  static startup(parameters: ReadonlyMap<string, string>): Buffer {
    return startup(parameters);
  }

  /** One whole message, [start, end). */
  message(bytes: Buffer, start: number, end: number): LoginStep {
    switch (bytes[start]) {
      case be.authentication:
        return this.#authentication(bytes, start, end);
      case be.parameterStatus: {
        const stop = bytes.indexOf(0, start + 5);
        const name = bytes.utf8Slice(start + 5, stop);
        if (name === "quorate.settings_changes") this.reportsSettings = true;
        else if (!/^quorate\.last_/.test(name)) {
          // A session is the same wherever its reads are answered.
          const value =
            name === "in_hot_standby" && this.#reader ? "off" : bytes.utf8Slice(stop + 1, end - 1);
          this.reported = this.reported.with(name, value);
        }
        return wait;
      }
      case be.backendKeyData:
        this.cancelKey = Buffer.from(bytes.subarray(start + 5, end));
        return wait;
      case be.readyForQuery:
        return { kind: "ready" };
      case be.error:
        return {
          kind: "failed",
          error: readError(bytes, start, end),
          raw: Buffer.from(bytes.subarray(start, end)),
        };
      case be.notice:
        if (this.notices.length < mostNotices) this.notices.push(Buffer.from(bytes.subarray(start, end)));
        return wait;
      case be.negotiateVersion:
        return wait;
      default:
        return failed("08P01", `unexpected message ${bytes[start]} from the server during login`);
    }
  }

  #authentication(bytes: Buffer, start: number, end: number): LoginStep {
    if (end - start < 9) return failed("08P01", "short authentication message from the server");
    const text = bytes.utf8Slice(start + 9, end);
    switch (int32(bytes, start + 5)) {
      case 0:
        // A server that asks for SCRAM and then skips its proof isn't the one that has the verifier.
        if (this.#scram !== undefined && !this.#verified)
          return failed("08P01", "the server did not prove its identity");
        return wait;
      case 10: {
        if (!text.split("\0").includes("SCRAM-SHA-256"))
          return failed("08P01", "the server offers no SCRAM-SHA-256");
        if (this.#keys === undefined) {
          return failed("28000", "the server asks for a password, and the gateway has no key for this user", {
            hint: "Let the gateway authenticate clients with SCRAM-SHA-256, or allow it on the server without.",
          });
        }
        this.#scram = new ScramClient(this.#keys);
        const first = Buffer.from(this.#scram.first());
        const length = Buffer.alloc(4);
        length.writeInt32BE(first.length);
        return { kind: "send", bytes: message(fe.password, "SCRAM-SHA-256\0", length, first) };
      }
      case 11: {
        const final = this.#scram?.final(text);
        if (final === undefined) {
          return failed("28P01", "the server's verifier isn't the one that the client was checked against", {
            hint: "The password has been changed: connect again.",
          });
        }
        return { kind: "send", bytes: message(fe.password, final) };
      }
      case 12:
        this.#verified = this.#scram?.verify(text) ?? false;
        return this.#verified ? wait : failed("08P01", "the server's SCRAM signature is wrong");
      default:
        return failed("28000", `the server asks for an authentication method that the gateway doesn't use`, {
          hint: "Give the gateway's address scram-sha-256 (or trust, or peer) in the server's pg_hba.conf.",
        });
    }
  }
}

function failed(code: string, text: string, more: { hint?: string } = {}): LoginStep {
  return { kind: "failed", error: wireError("FATAL", code, text, more) };
}
