/**
 * What a startup packet asks for. An application's connections send the same one again and again: what was made of it
 * is remembered.
 */
import "../wire/buffer.ts";
import { type WireError, wireError } from "../wire/errors.ts";
import { readStartupPacket, type StartupPacket, splitOptions } from "../wire/startup-packet.ts";
import { type Settings, settingsOf } from "./settings.ts";

export class Startup {
  readonly user: string;
  readonly database: string;
  readonly replication: string | undefined;
  /** As they came. */
  readonly parameters: ReadonlyMap<string, string>;
  readonly minorVersion: number;
  /** It came by the port for reads. */
  readonly readOnly: boolean;
  /** quorate.pool=session: a server connection of its own, from its login to its end. */
  readonly own: boolean;
  /** In lower case, `options` taken apart. */
  readonly #values: ReadonlyMap<string, string>;
  #settings: Settings | undefined;

  constructor(
    { parameters, minor }: StartupParameters,
    values: ReadonlyMap<string, string>,
    own: boolean,
    readOnly: boolean,
  ) {
    const flag = parameters.get("replication");
    this.user = parameters.get("user") ?? "";
    this.database = parameters.get("database") ?? this.user;
    this.replication = flag === undefined || /^(false|off|no|0)$/i.test(flag) ? undefined : flag;
    this.parameters = parameters;
    this.minorVersion = Math.min(minor, 2);
    this.own = own;
    this.readOnly = readOnly;
    this.#values = values;
  }

  /** What the session begins with; only who has logged in may have it interned. */
  get settings(): Settings {
    this.#settings ??= settingsOf(this.#values);
    return this.#settings;
  }
}

type StartupParameters = Extract<StartupPacket, { kind: "startup" }>;

export type Packet =
  | Exclude<StartupPacket, { kind: "startup" }>
  | (StartupParameters & { readonly request: Startup | WireError });

const mostKnown = 500;
const longestKnown = 512;

export class Startups {
  readonly #readOnly: boolean;
  #known = new Map<string, Packet>();

  /** `readOnly`: those that come by the port for reads. */
  constructor(readOnly: boolean) {
    this.#readOnly = readOnly;
  }

  /** The packet at the beginning of these bytes, and what it asks for. */
  read(bytes: Buffer): Packet {
    const key = bytes.length <= longestKnown ? bytes.latin1Slice() : "";
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const packet = readStartupPacket(bytes, 0, bytes.length);
    if (packet.kind !== "startup") return packet;
    const made: Packet = { ...packet, request: requestOf(packet, this.#readOnly) };
    if (key !== "" && packet.bytes === bytes.length) {
      if (this.#known.size >= mostKnown) this.#known = new Map();
      this.#known.set(key, made);
    }
    return made;
  }
}

function requestOf(packet: StartupParameters, readOnly: boolean): Startup | WireError {
  const { parameters } = packet;
  if ((parameters.get("user") ?? "") === "")
    return wireError("FATAL", "28000", "no PostgreSQL user name specified in startup packet");
  const settings = new Map<string, string>();
  for (const [name, value] of parameters) {
    if (name === "user" || name === "database" || name === "replication" || name === "options") continue;
    settings.set(name.toLowerCase(), value);
  }
  const split = splitOptions(parameters.get("options") ?? "");
  if ("invalid" in split) {
    const text = `invalid command-line argument for server process: ${split.invalid}`;
    return wireError("FATAL", "42601", text);
  }
  // As in Postgres: what is in the packet itself wins over `options`.
  for (const [name, value] of split.settings) {
    if (!settings.has(name.toLowerCase())) settings.set(name.toLowerCase(), value);
  }
  const mode = settings.get("quorate.pool") ?? "transaction";
  settings.delete("quorate.pool");
  if (mode !== "session" && mode !== "transaction") {
    return wireError("FATAL", "22023", `invalid value for parameter "quorate.pool": "${mode}"`, {
      hint: "Available values: transaction, session.",
    });
  }
  // Also where no follower is left and the leader answers.
  if (readOnly) settings.set("default_transaction_read_only", "on");
  return new Startup(packet, settings, mode === "session", readOnly);
}
