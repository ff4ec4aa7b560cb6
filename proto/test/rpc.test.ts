// The typed client against the typed server, over a real socket.

import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { coordinatorId, nodeId, term } from "@quorate/consensus/types.ts";
import t, { type Test } from "tap";
import {
  connectSidecar,
  type Lsn,
  type NodeStatus,
  RpcError,
  type SidecarHandlers,
  type SidecarServer,
  startSidecarServer,
  type Term,
  type WatchEnd,
} from "../src/index.ts";

const status: NodeStatus = {
  node: nodeId("n1"),
  zone: "a",
  region: "local",
  cluster: "main",
  host: "127.0.0.1",
  pgPort: 5501,
  grpcPort: 5511,
  httpPort: 5521,
  postgres: "running",
  state: "leader",
  term: term(7),
  promisedTerm: term(4_294_967_295),
  promisedTo: coordinatorId("o1"),
  fenceTerm: term(7),
  pid: 4711,
  inRecovery: false,
  consistent: true,
  position: { term: term(7), lsn: 0x1_0000_0001n as Lsn },
  termStartLsn: 0x60n as Lsn,
  oldestLsn: 0x10n as Lsn,
  commitLsn: 0xffffffff_ffffffffn as Lsn,
  receivedLsn: null,
  flushedLsn: 1n as Lsn,
  appliedLsn: 2n as Lsn,
  rule: "2(n1,n2,n3)",
  joint: ["n1"],
  ruleset: { version: 3, text: '{"version":3}' },
  leader: nodeId("n1"),
  receiver: { state: "streaming", timeline: term(7), lastMessageAgeMs: 12 },
  followers: [
    {
      node: nodeId("n2"),
      member: true,
      pid: 12,
      timeline: term(7),
      writtenLsn: 3n as Lsn,
      flushedLsn: null,
      appliedLsn: null,
      replyAgeMs: 3,
    },
  ],
  quiesced: true,
  waiting: 9,
  systemIdentifier: "7441111111111111111",
  seq: 5,
  lastExit: "signal SIGKILL",
  operatorStopped: true,
  sidecarVersion: "0.1.0",
  wasLeader: true,
  clone: { from: nodeId("n2"), doneBytes: 10, totalBytes: 5_000_000_000_000 },
  controlAgeMs: 0,
  diskStuckMs: 12,
  incarnation: "Zy3-x_9k",
  pending: { version: 4, text: "{}" },
};

const nothingKnown: NodeStatus = {
  ...status,
  postgres: "absent",
  state: null,
  promisedTo: null,
  pid: null,
  position: null,
  termStartLsn: null,
  oldestLsn: null,
  commitLsn: null,
  rule: null,
  joint: [],
  ruleset: null,
  leader: null,
  receiver: null,
  followers: [],
  systemIdentifier: null,
  lastExit: null,
  clone: null,
  controlAgeMs: null,
  diskStuckMs: 0,
  incarnation: null,
  pending: null,
};

const refusal = { code: "stale_term", message: "no", promisedTerm: term(9), promisedTo: coordinatorId("o2") };
const refused = { ok: false, refusal } as const;
const limits = { deadlineMs: 5_000 };

const handlers: SidecarHandlers = {
  recruit: async (request) =>
    request.term === 8
      ? refused
      : {
          ok: true,
          position: { term: term(7), lsn: 5n as Lsn },
          commitLsn: null,
          ruleset: null,
          tailRulesets: [
            { version: 4, text: request.reason },
            { version: 5, text: "later", recordedAt: { term: term(7), lsn: 4n as Lsn } },
          ],
          systemIdentifier: "1",
          inRecovery: false,
          leaseMs: 500,
          upMs: 12_000,
          incarnation: "Zy3-x_9k",
          pending: { version: 4, text: "{}" },
          status,
        },
  fetch: async (request) => ({ ok: true, position: request.target }),
  elect: async (request) => ({ ok: true, position: { term: request.term, lsn: 6n as Lsn } }),
  follow: async () => ({ ok: true, done: "cloning" }),
  changeRuleset: async () => ({ ok: true, lsn: 7n as Lsn }),
  quiesce: async () => ({ ok: true, lsn: null }),
  bootstrap: async () => ({ ok: true, systemIdentifier: "1" }),
  control: async () => ({ ok: true, status: nothingKnown }),
  record: async () => ({ ok: true, kept: true }),
  events: async ({ limit }) => ({ ok: true, events: ['{"id":"a"}', String(limit)] }),
  leaseConnections: async ({ open, wants }) => ({ ok: true, share: wants, expiresMs: 9_000, budget: open }),
  getStatus: async () => status,
  watch: (_request, subscription) => {
    subscription.send(status);
    subscription.send(nothingKnown);
    subscription.end();
  },
};

async function serve(test: Test, overrides: Partial<SidecarHandlers> = {}): Promise<SidecarServer> {
  const server = await startSidecarServer(
    { host: "127.0.0.1", port: 0, onError: () => {} },
    { ...handlers, ...overrides },
  );
  test.teardown(() => server.stop());
  return server;
}

function client(test: Test, port: number): ReturnType<typeof connectSidecar> {
  const sidecar = connectSidecar(`127.0.0.1:${port}`);
  test.teardown(() => sidecar.close());
  return sidecar;
}

function failureOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => "no failure",
    (error: unknown) => error,
  );
}

t.test("every method carries its values there and back", async (t) => {
  const sidecar = client(t, (await serve(t)).port);
  t.same(await sidecar.getStatus(limits), status);
  t.same(
    await sidecar.recruit({ term: term(8), coordinator: coordinatorId("o1"), reason: "r" }, limits),
    refused,
  );
  t.same(await sidecar.recruit({ term: term(9), coordinator: coordinatorId("o1"), reason: "r" }, limits), {
    ok: true,
    position: { term: term(7), lsn: 5n },
    commitLsn: null,
    ruleset: null,
    tailRulesets: [
      { version: 4, text: "r" },
      { version: 5, text: "later", recordedAt: { term: 7, lsn: 4n } },
    ],
    inRecovery: false,
    leaseMs: 500,
    upMs: 12_000,
    incarnation: "Zy3-x_9k",
    systemIdentifier: "1",
    status,
  });
  const target = { term: term(3), lsn: 0xabcd_00000001n as Lsn };
  const peer = { coordinator: coordinatorId("o1"), host: "h", port: 1 };
  t.same(
    await sidecar.fetch({ ...peer, term: term(9), from: nodeId("n2"), target, timeoutMs: 1_000 }, limits),
    {
      ok: true,
      position: target,
    },
  );
  const ruleset = { version: 1, text: "{}" };
  t.same(
    await sidecar.elect(
      { term: term(9), coordinator: coordinatorId("o1"), rule: "n1", joint: ["n1"], ruleset },
      limits,
    ),
    {
      ok: true,
      position: { term: term(9), lsn: 6n },
    },
  );
  t.same(await sidecar.follow({ ...peer, term: term(9), leader: nodeId("n2"), member: true }, limits), {
    ok: true,
    done: "cloning",
  });
  t.same(await sidecar.changeRuleset({ term: term(9), rule: "n1", ruleset, timeoutMs: 1_000 }, limits), {
    ok: true,
    lsn: 7n,
  });
  t.same(await sidecar.quiesce({ term: term(9), on: true, timeoutMs: 1_000 }, limits), {
    ok: true,
    lsn: null,
  });
  t.same(await sidecar.bootstrap({ cluster: "main" }, limits), { ok: true, systemIdentifier: "1" });
  t.same(await sidecar.control({ action: "stop" }, limits), { ok: true, status: nothingKnown });
});

t.test("a request that breaks the contract is refused by the server with its reason", async (t) => {
  const sidecar = client(t, (await serve(t)).port);
  await t.rejects(
    sidecar.recruit({ term: 0 as Term, coordinator: coordinatorId("o1"), reason: "" }, limits),
    {
      failure: "protocol",
      message: /term/,
    },
  );
});

t.test("a handler that throws is an internal error and is reported to the server's owner", async (t) => {
  const errors: unknown[] = [];
  const server = await startSidecarServer(
    { host: "127.0.0.1", port: 0, onError: (method, error) => errors.push([method, String(error)]) },
    {
      ...handlers,
      getStatus: async () => {
        throw new Error("broken");
      },
    },
  );
  t.teardown(() => server.stop());
  await t.rejects(client(t, server.port).getStatus(limits), { failure: "internal", message: /broken/ });
  t.same(errors, [["getStatus", "Error: broken"]]);
});

t.test("deadline, abort and a dead address are told apart", async (t) => {
  const never = new Promise<never>(() => {});
  const gone: string[] = [];
  const server = await serve(t, {
    getStatus: (context) => {
      context.signal.addEventListener("abort", () => gone.push("server side aborted"));
      return never;
    },
  });
  const sidecar = client(t, server.port);
  t.match(await failureOf(sidecar.getStatus({ deadlineMs: 50 })), {
    failure: "timeout",
    code: "rpc_timeout",
  });
  const abort = new AbortController();
  const pending = sidecar.getStatus({ signal: abort.signal, deadlineMs: 5_000 });
  abort.abort();
  t.match(await failureOf(pending), { failure: "aborted" });
  t.match(await failureOf(sidecar.getStatus({ signal: abort.signal })), { failure: "aborted" });

  const unused = createServer().listen(0, "127.0.0.1");
  await once(unused, "listening");
  const { port } = unused.address() as { port: number };
  unused.close();
  const error = await failureOf(client(t, port).getStatus(limits));
  t.type(error, RpcError);
  t.match(error, { failure: "refused", code: "rpc_refused" });
});

type Watched = { readonly statuses: NodeStatus[]; readonly end: WatchEnd };

function watch(port: number, test: Test, silenceMs = 5_000): Promise<Watched> {
  return new Promise((resolve) => {
    const statuses: NodeStatus[] = [];
    client(test, port).watch(
      { watcher: "test", intervalMs: 1_000, silenceMs },
      { status: (s) => statuses.push(s), end: (end) => resolve({ statuses, end }) },
    );
  });
}

t.test("a watch gets every status and says why it ended", async (t) => {
  t.test("closed by the sidecar", async (t) => {
    const { statuses, end } = await watch((await serve(t)).port, t);
    t.same(statuses, [status, nothingKnown]);
    t.equal(end.reason, "closed");
  });

  t.test("silence", async (t) => {
    const server = await serve(t, { watch: (_request, subscription) => void subscription.send(status) });
    const { statuses, end } = await watch(server.port, t, 100);
    t.equal(statuses.length, 1);
    t.equal(end.reason, "timeout");
  });

  t.test("connection reset", async (t) => {
    const upstream = await serve(t, { watch: (_request, subscription) => void subscription.send(status) });
    const { proxyPort, cut } = await cuttableProxy(t, upstream.port);
    const ended = new Promise<WatchEnd>((resolve) => {
      client(t, proxyPort).watch(
        { watcher: "test", intervalMs: 1_000, silenceMs: 5_000 },
        { status: cut, end: resolve },
      );
    });
    t.equal((await ended).reason, "reset");
  });

  t.test("nobody listens", async (t) => {
    const unused = createServer().listen(0, "127.0.0.1");
    await once(unused, "listening");
    const { port } = unused.address() as { port: number };
    unused.close();
    const { end } = await watch(port, t);
    t.equal(end.reason, "refused");
  });

  t.test("cancelled, and the server hears of it", async (t) => {
    let heard: () => void = () => {};
    const over = new Promise<void>((resolve) => {
      heard = resolve;
    });
    const server = await serve(t, {
      watch: (_request, subscription) => {
        subscription.signal.addEventListener("abort", heard);
        subscription.send(status);
      },
    });
    const ended = new Promise<WatchEnd>((resolve) => {
      const cancel = client(t, server.port).watch(
        { watcher: "test", intervalMs: 1_000, silenceMs: 5_000 },
        { status: () => cancel(), end: resolve },
      );
    });
    t.equal((await ended).reason, "cancelled");
    await over;
  });
});

async function cuttableProxy(test: Test, port: number): Promise<{ proxyPort: number; cut: () => void }> {
  const { connect } = await import("node:net");
  const sockets: Socket[] = [];
  const proxy = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    for (const socket of [near, far]) {
      sockets.push(socket);
      socket.on("error", () => {});
    }
    near.pipe(far).pipe(near);
  }).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  test.teardown(() => proxy.close());
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
    proxy.close();
  };
  return { proxyPort: (proxy.address() as { port: number }).port, cut };
}
