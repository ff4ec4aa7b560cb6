import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { term } from "@quorate/consensus";
import t, { type Test } from "tap";
import { ControlConnection, type ControlHandlers } from "../src/control-client.ts";
import {
  type ControlStatus,
  emptyResultSchema,
  fenceResultSchema,
  statusResultSchema,
} from "../src/control-protocol.ts";
import { FakeControl } from "./fake-control.ts";

type Opened = {
  readonly control: FakeControl;
  readonly connection: ControlConnection;
  readonly statuses: ControlStatus[];
  readonly ended: Promise<string>;
};

async function open(test: Test): Promise<Opened> {
  const directory = mkdtempSync(join(tmpdir(), "qc-"));
  const path = join(directory, "control.sock");
  const control = new FakeControl();
  await control.listen(path);
  const statuses: ControlStatus[] = [];
  let end: ControlHandlers["end"] = () => {};
  const ended = new Promise<string>((resolve) => {
    end = resolve;
  });
  const connection = await ControlConnection.open(path, { status: (status) => statuses.push(status), end });
  test.teardown(async () => {
    connection.close();
    await control.close();
    rmSync(directory, { recursive: true });
  });
  return { control, connection, statuses, ended };
}

const limits = { timeoutMs: 5_000 };

t.test("answers find their requests, whatever their order", async (t) => {
  const { control, connection } = await open(t);
  const late: number[] = [];
  control.override = (request) => {
    if (request.cmd !== "fence") return undefined;
    late.push(request.id);
    return null;
  };
  const first = connection.request({ cmd: "fence", term: term(7) }, emptyResultSchema, limits);
  const second = connection.request({ cmd: "status" }, statusResultSchema, limits);
  t.match(await second, {
    ok: true,
    value: { status: { state: "fenced", systemIdentifier: "7441000000000000001" } },
  });
  control.write(`{"id":${late[0]},"ok":false,"code":"stale_term","message":"no"}\n`);
  t.same(await first, { ok: false, code: "stale_term", message: "no" });
});

t.test("a line may come in pieces, several lines in one", async (t) => {
  const { control, connection, statuses } = await open(t);
  t.ok((await connection.watch(1_000, limits)).ok);
  const event = `${JSON.stringify({ event: "status", status: control.status() })}\n`;
  control.write(event.slice(0, 20));
  await new Promise((resolve) => setImmediate(resolve));
  control.write(event.slice(20) + event + event.slice(0, 5));
  control.write(event.slice(5));
  await connection.request({ cmd: "status" }, statusResultSchema, limits);
  t.equal(statuses.length, 3);
});

t.test("a report has its LSNs as numbers", async (t) => {
  const { connection } = await open(t);
  const answer = await connection.request({ cmd: "fence", term: term(3) }, fenceResultSchema, limits);
  t.match(answer, { ok: true, value: { position: { term: 1, lsn: 0x1000n }, commitLsn: null } });
});

t.test(
  "no answer in time, a caller that gives up, a connection that ends: values, no exceptions",
  async (t) => {
    const { control, connection, ended } = await open(t);
    control.override = () => null;
    const status = { cmd: "status" } as const;
    t.match(await connection.request(status, emptyResultSchema, { timeoutMs: 20 }), {
      ok: false,
      code: "timeout",
    });
    const abort = new AbortController();
    const given = connection.request(status, emptyResultSchema, { ...limits, signal: abort.signal });
    abort.abort();
    t.match(await given, { ok: false, code: "aborted" });
    const cut = connection.request(status, emptyResultSchema, limits);
    await control.close();
    t.match(await cut, { ok: false, code: "disconnected" });
    t.type(await ended, "string");
    t.notOk(connection.open);
    t.match(await connection.request(status, emptyResultSchema, limits), { ok: false, code: "disconnected" });
  },
);

t.test("what isn't the protocol ends the connection and says what it was", async (t) => {
  for (const line of ["rubbish", '{"event":"status","status":{"state":"new"}}', '{"id":1}']) {
    const { control, connection, ended } = await open(t);
    await connection.watch(1_000, limits);
    control.write(`${line}\n`);
    t.match(await ended, /not JSON|unexpected message/);
  }
});
