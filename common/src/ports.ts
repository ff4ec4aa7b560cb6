/**
 * TCP ports for tests and benchmarks. All lie below those that Linux hands out to clients
 * (net.ipv4.ip_local_port_range, 32768 on by default): a port from among those can be somebody's connection a moment later.
 */
import { createServer, type Server } from "node:net";
import { commonErrors } from "./error-codes.ts";

const firstRange = 10_000;
/** Ranges come from below, single ports from above: they can't take each other's. */
const firstSingle = 22_000;
const end = 32_768;
const rangeSize = 60;
const attempts = 2_000;

function listen(host: string, port: number): Promise<Server | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") resolve(undefined);
      else reject(error);
    });
    server.listen({ host, port, exclusive: true }, () => resolve(server));
  });
}

async function close(server: Server): Promise<void> {
  await new Promise((done) => server.close(done));
}

function anyOf(first: number, last: number, step: number): number {
  return first + step * Math.floor(Math.random() * Math.floor((last - first) / step));
}

function noneFree(): Error {
  return commonErrors.error("timed_out", `no free TCP port after ${attempts} attempts`);
}

/** Whoever was given one may bind it later. */
const given = new Set<number>();

/**
 * `count` different TCP ports, never given before by this process, that nobody listens on now. Somebody else may take one before you do: whoever binds one
 * must be able to say so.
 */
export async function freePorts(count: number, host = "127.0.0.1"): Promise<number[]> {
  const ports: number[] = [];
  for (let attempt = 0; ports.length < count; attempt++) {
    if (attempt === attempts) throw noneFree();
    const port = anyOf(firstSingle, end, 1);
    if (given.has(port)) continue;
    const server = await listen(host, port);
    if (server === undefined) continue;
    await close(server);
    given.add(port);
    ports.push(port);
  }
  return ports;
}

export async function freePort(host = "127.0.0.1"): Promise<number> {
  const [port] = await freePorts(1, host);
  if (port === undefined) throw noneFree();
  return port;
}

async function areFree(host: string, first: number, count: number): Promise<boolean> {
  for (let port = first; port < first + count; port++) {
    const server = await listen(host, port);
    if (server === undefined) return false;
    await close(server);
  }
  return true;
}

/**
 * The first of 59 ports in a row on 127.0.0.1 (a cluster's) that nobody listens on, and that no other caller of this function
 * gets while this process lives, also one in another process: the sixtieth is held for that.
 */
export async function freePortRange(): Promise<number> {
  const host = "127.0.0.1";
  for (let attempt = 0; attempt < attempts; attempt++) {
    const first = anyOf(firstRange, firstSingle, rangeSize);
    const reserved = await listen(host, first + rangeSize - 1);
    if (reserved === undefined) continue;
    if (await areFree(host, first, rangeSize - 1)) {
      reserved.unref();
      return first;
    }
    await close(reserved);
  }
  throw noneFree();
}
