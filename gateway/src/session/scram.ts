/**
 * SCRAM-SHA-256 (RFC 5802, 7677) on both sides, without a password anywhere: the client's proof is checked against
 * the server's stored verifier, and the ClientKey that the proof reveals logs in to the server, which has the same
 * verifier. The ClientKey is as good as a password for this one verifier; it stays in memory only.
 */
import { createHmac, createSecretKey, hash, pbkdf2Sync, randomBytes, timingSafeEqual } from "node:crypto";

export type Verifier = {
  readonly iterations: number;
  readonly salt: Buffer;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
};

/** What logs in to a server that has the verifier. */
export type ScramKeys = {
  readonly clientKey: Buffer;
  readonly verifier: Verifier;
};

/** Only the gateway's own account has a password; its users have keys. */
export type Secret = ScramKeys | { readonly password: string };

/** By a key object: with bytes as the key this takes fifteen times as long. */
const hmac = (key: Buffer, text: string) => createHmac("sha256", createSecretKey(key)).update(text).digest();
const sha256 = (bytes: Buffer): Buffer => hash("sha256", bytes, "buffer");

function xor(left: Buffer, right: Buffer): Buffer {
  return Buffer.from(left.map((byte, at) => byte ^ (right[at] as number)));
}

/** `SCRAM-SHA-256$4096:salt$storedKey:serverKey`, as in pg_authid. */
export function readVerifier(text: string): Verifier | undefined {
  const found = /^SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$/.exec(
    text,
  );
  if (found === null) return undefined;
  const verifier = {
    iterations: Number(found[1]),
    salt: Buffer.from(found[2] as string, "base64"),
    storedKey: Buffer.from(found[3] as string, "base64"),
    serverKey: Buffer.from(found[4] as string, "base64"),
  };
  return verifier.storedKey.length === 32 && verifier.serverKey.length === 32 ? verifier : undefined;
}

/** For a user that doesn't exist: the same dialogue, which can't succeed. The salt must not change between attempts. */
export function mockVerifier(secret: Buffer, user: string): Verifier {
  const salt = createHmac("sha256", secret).update(user).digest().subarray(0, 16);
  return { iterations: 4096, salt, storedKey: randomBytes(32), serverKey: randomBytes(32) };
}

export type ScramServerResult =
  | { readonly kind: "continue"; readonly text: string }
  | { readonly kind: "ok"; readonly text: string; readonly keys: ScramKeys }
  | { readonly kind: "wrong" }
  | { readonly kind: "malformed"; readonly reason: string };

/** The server's side of one dialogue with a client. */
export class ScramServer {
  readonly #verifier: Verifier;
  /** The certificate's hash when the client chose SCRAM-SHA-256-PLUS. */
  readonly #binding: Buffer | undefined;
  readonly #offeredPlus: boolean;
  #header = "";
  #firstBare = "";
  #serverFirst = "";
  #nonce = "";

  constructor(verifier: Verifier, binding: Buffer | undefined, offeredPlus: boolean) {
    this.#verifier = verifier;
    this.#binding = binding;
    this.#offeredPlus = offeredPlus;
  }

  first(message: string): ScramServerResult {
    const found = /^(([nyp])(?:=([A-Za-z0-9.-]+))?,(a=[^,]*)?,)(n=[^,]*,r=([\x21-\x2b\x2d-\x7e]+).*)$/.exec(
      message,
    );
    if (found === null) return { kind: "malformed", reason: "malformed SCRAM message" };
    const [, header = "", flag = "", name, authzid, bare = "", nonce = ""] = found;
    if (authzid !== undefined) {
      return { kind: "malformed", reason: "client uses authorization identity, but it is not supported" };
    }
    if (flag === "p" && name !== "tls-server-end-point") {
      return { kind: "malformed", reason: "unsupported SCRAM channel-binding type" };
    }
    if ((flag === "p") !== (this.#binding !== undefined)) {
      return { kind: "malformed", reason: "the selected mechanism and the channel-binding flag don't agree" };
    }
    if (flag === "y" && this.#offeredPlus) {
      return {
        kind: "malformed",
        reason:
          "SCRAM channel binding negotiation error: the client supports it and thinks the server does not",
      };
    }
    this.#header = header;
    this.#firstBare = bare;
    this.#nonce = nonce + randomBytes(18).toString("base64");
    const salt = this.#verifier.salt.toString("base64");
    this.#serverFirst = `r=${this.#nonce},s=${salt},i=${this.#verifier.iterations}`;
    return { kind: "continue", text: this.#serverFirst };
  }

  final(message: string): ScramServerResult {
    const found = /^(c=([A-Za-z0-9+/=]+),r=([^,]+)),p=([A-Za-z0-9+/=]+)$/.exec(message);
    if (found === null) return { kind: "malformed", reason: "malformed SCRAM message" };
    const [, withoutProof = "", binding = "", nonce = "", proofText = ""] = found;
    const expected = Buffer.concat([Buffer.from(this.#header), this.#binding ?? Buffer.alloc(0)]).toString(
      "base64",
    );
    if (binding !== expected) return { kind: "malformed", reason: "SCRAM channel binding check failed" };
    if (nonce !== this.#nonce)
      return { kind: "malformed", reason: "malformed SCRAM message: nonce does not match" };
    const proof = Buffer.from(proofText, "base64");
    if (proof.length !== 32) return { kind: "malformed", reason: "malformed SCRAM message: malformed proof" };
    const authMessage = `${this.#firstBare},${this.#serverFirst},${withoutProof}`;
    const clientKey = xor(proof, hmac(this.#verifier.storedKey, authMessage));
    if (!timingSafeEqual(sha256(clientKey), this.#verifier.storedKey)) return { kind: "wrong" };
    const signature = hmac(this.#verifier.serverKey, authMessage).toString("base64");
    return { kind: "ok", text: `v=${signature}`, keys: { clientKey, verifier: this.#verifier } };
  }
}

function derive(password: string, salt: string, iterations: number): ScramKeys {
  const saltBytes = Buffer.from(salt, "base64");
  const salted = pbkdf2Sync(
    password.normalize("NFKC"),
    saltBytes,
    Math.min(iterations, 1_000_000),
    32,
    "sha256",
  );
  const clientKey = hmac(salted, "Client Key");
  return {
    clientKey,
    verifier: {
      iterations,
      salt: saltBytes,
      storedKey: sha256(clientKey),
      serverKey: hmac(salted, "Server Key"),
    },
  };
}

/** The client's side towards a server, from keys. */
export class ScramClient {
  readonly #secret: Secret;
  readonly #nonce = randomBytes(18).toString("base64");
  #serverSignature = "";

  constructor(secret: Secret) {
    this.#secret = secret;
  }

  first(): string {
    return `n,,n=,r=${this.#nonce}`;
  }

  /** Undefined if the server's verifier isn't the one that the keys belong to. */
  final(serverFirst: string): string | undefined {
    const found = /^r=([^,]+),s=([A-Za-z0-9+/=]+),i=(\d+)$/.exec(serverFirst);
    if (found === null) return undefined;
    const [, nonce = "", salt = "", iterations = ""] = found;
    const keys =
      "password" in this.#secret ? derive(this.#secret.password, salt, Number(iterations)) : this.#secret;
    const { clientKey, verifier } = keys;
    if (!nonce.startsWith(this.#nonce) || Number(iterations) !== verifier.iterations) return undefined;
    if (!verifier.salt.equals(Buffer.from(salt, "base64"))) return undefined;
    const withoutProof = `c=biws,r=${nonce}`;
    const authMessage = `n=,r=${this.#nonce},${serverFirst},${withoutProof}`;
    this.#serverSignature = hmac(verifier.serverKey, authMessage).toString("base64");
    return `${withoutProof},p=${xor(clientKey, hmac(verifier.storedKey, authMessage)).toString("base64")}`;
  }

  verify(serverFinal: string): boolean {
    return serverFinal === `v=${this.#serverSignature}`;
  }
}
