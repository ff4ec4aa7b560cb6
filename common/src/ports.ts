import { createServer, type Server } from "node:net";

function listen(host: string): Promise<{ readonly server: Server; readonly port: number }> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen({ host, port: 0, exclusive: true }, () => {
      const address = server.address();
      if (typeof address === "object" && address !== null) resolve({ server, port: address.port });
      else reject(new Error("the listening socket has no port"));
    });
  });
}

/** Whoever was given one may bind it later. */
const given = new Set<number>();

/**
 * `count` different TCP ports, never given before by this process, that nobody listens on now. Somebody else may take one before you do: whoever binds one
 * must be able to say so.
 */
export async function freePorts(count: number, host = "127.0.0.1"): Promise<number[]> {
  const held: Awaited<ReturnType<typeof listen>>[] = [];
  try {
    // Held all at once, so that no port comes twice.
    const fresh = (): number[] => held.map(({ port }) => port).filter((port) => !given.has(port));
    while (fresh().length < count) held.push(await listen(host));
    const ports = fresh();
    for (const port of ports) given.add(port);
    return ports;
  } finally {
    await Promise.all(held.map(({ server }) => new Promise((done) => server.close(done))));
  }
}

export async function freePort(host = "127.0.0.1"): Promise<number> {
  const [port] = await freePorts(1, host);
  if (port === undefined) throw new Error("no free port");
  return port;
}
