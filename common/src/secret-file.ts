/** Secrets that lie in files: read when they are needed, read again when the file has changed. */
import { createHash, timingSafeEqual } from "node:crypto";
import { readFileSync, statSync } from "node:fs";

/** One line; a trailing newline isn't part of it. */
export class SecretFile {
  readonly file: string;
  #value = "";
  #version = "";

  constructor(file: string) {
    this.file = file;
  }

  /** Throws when the file can't be read or is empty: an empty secret would let everybody in. */
  get value(): string {
    const { mtimeMs, ino, size } = statSync(this.file);
    const version = `${ino} ${mtimeMs} ${size}`;
    if (version === this.#version) return this.#value;
    const value = readFileSync(this.file, "utf8").trim();
    if (value === "") throw new Error(`${this.file} is empty: it must hold one line, the secret`);
    this.#version = version;
    this.#value = value;
    return value;
  }
}

const bearer = /^Bearer ([\x21-\x7e]+)$/i;

/** Does this Authorization header carry the secret? Takes as long whatever is wrong with it. */
export function hasToken(authorization: string | undefined, secret: string): boolean {
  const given = bearer.exec(authorization ?? "")?.[1] ?? "";
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(secret)) && given !== "";
}
