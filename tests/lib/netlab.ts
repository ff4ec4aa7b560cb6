// A network in a box: each machine is a network namespace, wired to a router in a namespace of its own, and the router
// drops what a test tells it to, the way a broken network does: silently. The test's own process is the machine "host".
// Zones are subnets: 10.<lab>.<zone>.<number>.
import { execFile, spawn } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import type { Teardown } from "./told.ts";

const runFile = promisify(execFile);
/** The router's address on every wire. */
const gateway = "169.254.1.1";
const neededPrograms = [
  "ip",
  "iptables-restore",
  "nsenter",
  "mount",
  "umount",
  "mkfs.ext4",
  "fsfreeze",
  "perl",
];
const programDirectories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

export interface Machine {
  readonly name: string;
  /** From 1: the third part of its address. */
  readonly zone: number;
}

/** Packets from one machine to another are dropped; "*" stands for every machine. */
export interface Block {
  readonly from: string;
  readonly to: string;
  /** Only TCP with this port on either side, in both halves of a connection. */
  readonly port?: number;
}

/** Why there can be no lab here; undefined when there can be one. */
export async function whyNoLab(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "network namespaces need root: run as root";
  const missing = neededPrograms.filter(
    (program) => !programDirectories.some((dir) => executable(dir, program)),
  );
  if (missing.length > 0)
    return `${missing.join(", ")} not found: install the packages of scripts/system-packages.json`;
  const probe = `qprobe${process.pid}`;
  try {
    await runFile("ip", ["netns", "add", probe]);
    await runFile("ip", ["netns", "exec", probe, "iptables", "-w", "-S"]);
    return undefined;
  } catch (error) {
    return `network namespaces are not possible here: ${String((error as { stderr?: string }).stderr ?? error).trim()}`;
  } finally {
    if (existsSync(`/run/netns/${probe}`)) await runFile("ip", ["netns", "del", probe]);
  }
}

function executable(dir: string, program: string): boolean {
  try {
    accessSync(path.join(dir, program), constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export class NetLab {
  readonly #id: string;
  readonly #net: number;
  readonly #addresses = new Map<string, string>();
  readonly #blocks = new Map<symbol, readonly Block[]>();
  #applied: Promise<unknown> = Promise.resolve();

  private constructor(id: string, net: number) {
    this.#id = id;
    this.#net = net;
  }

  static async create(test: Teardown, machines: readonly Machine[]): Promise<NetLab> {
    const net = await freeNet();
    const lab = new NetLab(`q${net}`, net);
    test.teardown(() => lab.#remove());
    await lab.#build(machines);
    return lab;
  }

  address(name: string): string {
    const address = this.#addresses.get(name);
    if (address === undefined) throw new Error(`no machine ${name} in this lab`);
    return address;
  }

  /** What starts a program on that machine: prefix its command line with this. */
  on(name: string): string[] {
    return ["nsenter", `--net=/run/netns/${this.#namespace(name)}`];
  }

  /** Drops from now on; the function that comes back undoes it. */
  async block(...blocks: readonly Block[]): Promise<() => Promise<void>> {
    const key = Symbol("block");
    this.#blocks.set(key, blocks);
    await this.#apply();
    return async () => {
      if (this.#blocks.delete(key)) await this.#apply();
    };
  }

  /** Everything flows again. */
  async heal(): Promise<void> {
    this.#blocks.clear();
    await this.#apply();
  }

  #namespace(name: string): string {
    return `${this.#id}-${name}`;
  }

  get #router(): string {
    return this.#namespace("router");
  }

  async #build(machines: readonly Machine[]): Promise<void> {
    const batch: string[] = [`netns add ${this.#router}`];
    const inZone = new Map<number, number>();
    for (const { name, zone } of machines) {
      const number = (inZone.get(zone) ?? 0) + 1;
      inZone.set(zone, number);
      this.#addresses.set(name, `10.${this.#net}.${zone}.${number}`);
      batch.push(...this.#wire(name, this.#namespace(name)));
    }
    this.#addresses.set("host", `10.${this.#net}.0.1`);
    batch.push(...this.#wire("host", undefined));
    await ip(batch);
    await runFile("ip", [
      "netns",
      "exec",
      this.#router,
      "sh",
      "-c",
      "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ]);
  }

  /** One veth pair; without a namespace it ends here, in the host. */
  #wire(name: string, namespace: string | undefined): string[] {
    const address = this.address(name);
    const port = `${this.#id}p${name}`;
    const end = namespace === undefined ? `${this.#id}host` : `${this.#id}e${name}`;
    const inside = namespace === undefined ? "" : `-n ${namespace} `;
    return [
      ...(namespace === undefined ? [] : [`netns add ${namespace}`]),
      `link add ${end} type veth peer name ${port}`,
      `link set ${port} netns ${this.#router}`,
      ...(namespace === undefined
        ? []
        : [`link set ${end} netns ${namespace}`, `-n ${namespace} link set lo up`]),
      `-n ${this.#router} addr add ${gateway}/32 dev ${port}`,
      `-n ${this.#router} link set ${port} up`,
      `-n ${this.#router} route add ${address}/32 dev ${port}`,
      `${inside}addr add ${address}/32 dev ${end}`,
      `${inside}link set ${end} up`,
      `${inside}route add ${namespace === undefined ? `10.${this.#net}.0.0/16` : "default"} via ${gateway} dev ${end} onlink`,
    ];
  }

  /** All of the router's rules at once, in the order of the calls. */
  #apply(): Promise<void> {
    const rules = [...this.#blocks.values()].flat().flatMap((block) => this.#rules(block));
    const text = [
      "*filter",
      ":INPUT ACCEPT",
      ":FORWARD ACCEPT",
      ":OUTPUT ACCEPT",
      ...rules,
      "COMMIT",
      "",
    ].join("\n");
    const next = this.#applied.then(() =>
      feed("ip", ["netns", "exec", this.#router, "iptables-restore", "-w"], text),
    );
    this.#applied = next.catch(() => undefined);
    return next;
  }

  #rules({ from, to, port }: Block): string[] {
    const source = from === "*" ? "" : ` -s ${this.address(from)}`;
    const target = to === "*" ? "" : ` -d ${this.address(to)}`;
    const rule = `-A FORWARD${source}${target}`;
    if (port === undefined) return [`${rule} -j DROP`];
    return [`${rule} -p tcp --dport ${port} -j DROP`, `${rule} -p tcp --sport ${port} -j DROP`];
  }

  async #remove(): Promise<void> {
    const { stdout } = await runFile("ip", ["netns", "list"]);
    const ours = stdout
      .split("\n")
      .map((line) => line.split(" ")[0] ?? "")
      .filter((name) => name.startsWith(`${this.#id}-`));
    await ip([...ours.map((name) => `netns del ${name}`)]);
  }
}

/** Nobody else's lab, and no network of this machine. */
async function freeNet(): Promise<number> {
  const { stdout } = await runFile("ip", ["-4", "addr", "show"]);
  const { stdout: routes } = await runFile("ip", ["-4", "route", "show"]);
  const start = 64 + Math.floor(Math.random() * 190);
  for (let i = 0; i < 190; i++) {
    const net = 64 + ((start - 64 + i) % 190);
    const taken = `${stdout}${routes}`.includes(` 10.${net}.`) || `${routes}`.includes(`10.${net}.`);
    if (!taken && !existsSync(`/run/netns/q${net}-router`)) return net;
  }
  throw new Error("no free network 10.64.0.0/16 to 10.253.0.0/16");
}

/** `netns` isn't for -batch in one go with `-n`: each line is a command of its own. */
async function ip(lines: readonly string[]): Promise<void> {
  for (const line of lines) await runFile("ip", line.trim().split(/\s+/));
}

function feed(program: string, args: readonly string[], input: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["pipe", "ignore", "pipe"] });
    let errors = "";
    child.stderr.on("data", (chunk) => {
      errors += String(chunk);
    });
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0 ? resolve() : reject(new Error(`${program} ${args.join(" ")}: ${errors.trim()}`)),
    );
    child.stdin.end(input);
  });
}
