import fc from "fast-check";
import t from "tap";
import { Histogram } from "../src/admin/histogram.ts";
import { owed, Ring } from "../src/pool/ring.ts";
import {
  emptyTable,
  nodeForgotten,
  type SeenStatus,
  statusSeen,
  streamLost,
  viewOf,
} from "../src/route/leader-table.ts";
import { PendingSettings } from "../src/session/pending-settings.ts";
import { mockVerifier, readVerifier, ScramClient, ScramServer } from "../src/session/scram.ts";
import { changeSettings, noSettings, settingsChangeSql, settingsOf } from "../src/session/settings.ts";
import { message, startup } from "../src/wire/build.ts";
import { be } from "../src/wire/codec.ts";
import { rowShape } from "../src/wire/row-shape.ts";
import { readStartupPacket, splitOptions } from "../src/wire/startup-packet.ts";

t.test("the shape of rows: names, types and modifiers, as PostgreSQL compares them", async () => {
  type Column = {
    name: string;
    table: number;
    number: number;
    type: number;
    modifier: number;
    format: number;
  };
  const described = (columns: readonly Column[]): Buffer => {
    const parts = columns.map(({ name, table, number, type, modifier, format }) => {
      const tail = Buffer.alloc(18);
      tail.writeInt32BE(table, 0);
      tail.writeInt16BE(number, 4);
      tail.writeInt32BE(type, 6);
      tail.writeInt16BE(4, 10);
      tail.writeInt32BE(modifier, 12);
      tail.writeInt16BE(format, 16);
      return Buffer.concat([Buffer.from(`${name}\0`), tail]);
    });
    return message(be.rowDescription, Buffer.from([columns.length >>> 8, columns.length & 255]), ...parts);
  };
  const shape = (columns: readonly Column[], before = 0): number => {
    const bytes = described(columns);
    return rowShape(Buffer.concat([Buffer.alloc(before), bytes]), before, before + bytes.length);
  };
  const column = fc.record({
    name: fc.stringMatching(/^[a-z?]{0,9}$/),
    table: fc.nat(),
    number: fc.nat(1_600),
    type: fc.nat(),
    modifier: fc.integer({ min: -1, max: 0x7fff_ffff }),
    format: fc.nat(1),
  });
  fc.assert(
    fc.property(fc.array(column, { maxLength: 6 }), fc.nat(9), fc.nat(), (columns, before, other) => {
      const wanted = shape(columns);
      const elsewhere = columns.map((each) => ({
        ...each,
        table: other,
        number: 7,
        format: 1 - each.format,
      }));
      const differs = columns.map((_, at) =>
        (["name", "type", "modifier"] as const).map((what) => {
          const changed = { ...(columns[at] as Column) };
          if (what === "name") changed.name += "x";
          else changed[what] ^= 1;
          return shape(columns.with(at, changed));
        }),
      );
      return wanted !== 0 && shape(elsewhere, before) === wanted && !differs.flat().includes(wanted);
    }),
  );
});

t.test("startup packets: what goes in comes out, and nothing else is believed", async (t) => {
  const word = fc.stringMatching(/^[a-z_][a-z0-9_ ]{0,12}$/);
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.tuple(word, word), { selector: ([name]) => name, maxLength: 8 }),
      (pairs) => {
        const bytes = startup(pairs);
        const packet = readStartupPacket(bytes, 0, bytes.length);
        return packet.kind === "startup" && JSON.stringify([...packet.parameters]) === JSON.stringify(pairs);
      },
    ),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      const packet = readStartupPacket(Buffer.from(bytes), 0, bytes.length);
      return !("bytes" in packet) || packet.bytes <= bytes.length;
    }),
  );
  t.same(readStartupPacket(Buffer.from([0, 0, 0, 7]), 0, 4).kind, "invalid");
  t.same(readStartupPacket(Buffer.from([0x7f, 0xff, 0xff, 0xff]), 0, 4).kind, "invalid");
  t.same(readStartupPacket(Buffer.from([0x16, 3]), 0, 2).kind, "direct-tls");
  t.same(splitOptions("-c a=1 --b-c=2\\ 3 -cd=4"), {
    settings: [
      ["a", "1"],
      ["b_c", "2 3"],
      ["d", "4"],
    ],
  });
  t.same(splitOptions("-x"), { invalid: "-x" });
});

t.test("SCRAM: a client with the keys gets in, others don't", async (t) => {
  // RFC 7677's example, as Postgres would store it.
  const verifier = readVerifier(
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
  );
  if (verifier === undefined) throw new Error("the example is not a verifier");
  const login = (password: string) => {
    const client = new ScramClient({ password });
    const server = new ScramServer(verifier, undefined, false);
    const first = server.first(client.first());
    if (first.kind !== "continue") return { result: first, client };
    return { result: server.final(client.final(first.text) ?? ""), client };
  };
  const { result, client } = login("pencil");
  t.equal(result.kind, "ok");
  t.equal(result.kind === "ok" && client.verify(result.text), true);
  t.equal(login("pencils").result.kind, "wrong");
  if (result.kind === "ok") {
    // What the proof has revealed logs in elsewhere, without a password.
    const next = new ScramClient(result.keys);
    const server = new ScramServer(verifier, undefined, false);
    const first = server.first(next.first());
    t.equal(first.kind === "continue" && server.final(next.final(first.text) ?? "").kind, "ok");
    const other = new ScramServer(mockVerifier(Buffer.alloc(32), "x"), undefined, false).first(next.first());
    t.equal(
      other.kind === "continue" ? next.final(other.text) : "",
      undefined,
      "another verifier is refused",
    );
  }
  const plain = new ScramServer(verifier, undefined, true);
  t.equal(plain.first("y,,n=,r=abc").kind, "malformed", "a downgrade is noticed");
  fc.assert(
    fc.property(fc.string({ maxLength: 80 }), (text) => {
      const server = new ScramServer(verifier, undefined, false);
      server.first("n,,n=,r=abc");
      return server.final(text).kind !== "ok";
    }),
  );
});

t.test("settings of a transaction", async (t) => {
  const pending = new PendingSettings();
  const set = (name: string, value: string) => pending.completed({ kind: "set", name, value }, false);
  set("a", "1");
  pending.completed({ kind: "savepoint", name: "s" }, false);
  set("b", "2");
  pending.completed({ kind: "rollback-to", name: "s" }, false);
  set("c", "3");
  pending.completed({ kind: "release", name: "s" }, false);
  t.same(pending.completed({ kind: "commit" }, false), [
    { name: "a", value: "1" },
    { name: "c", value: "3" },
  ]);
  set("d", "4");
  t.equal(pending.completed({ kind: "commit" }, true), undefined, "COMMIT answered with ROLLBACK");
  t.equal(pending.empty, true);

  const defaults = settingsOf(new Map([["a", "0"]]));
  const changed = changeSettings(
    defaults,
    [
      { name: "a", value: "1" },
      { name: "b.c", value: "x'\\y" },
    ],
    defaults,
  );
  t.equal(changeSettings(changed, ["reset-all"], defaults), defaults, "equal settings are the same object");
  t.equal(settingsChangeSql(defaults, defaults), "");
  t.equal(
    settingsChangeSql(noSettings, changed),
    "SELECT pg_catalog.set_config('a','1',false),pg_catalog.set_config('b.c', E'x''\\\\y',false)",
  );
  t.equal(settingsChangeSql(changed, defaults), `RESET "b"."c";SELECT pg_catalog.set_config('a','0',false)`);
});

t.test("what is owed comes out in order, however much it is", async (t) => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 12 }), { maxLength: 200 }), (ops) => {
      const ring = new Ring();
      const model: number[] = [];
      for (const op of ops) {
        if (op === 0 && model.length > 0) {
          ring.pop();
          model.shift();
        } else {
          ring.push(op);
          model.push(op);
        }
        if (ring.length !== model.length || (model.length > 0 && ring.head !== model[0])) return false;
      }
      return model.every((kind, index) => ring.kind(index) === kind);
    }),
  );
  const ring = new Ring();
  for (const kind of [owed.execute, owed.sync, owed.bind, owed.sync]) ring.push(kind);
  ring.remove(1);
  t.same([ring.kind(0), ring.kind(1), ring.kind(2), ring.length], [owed.execute, owed.bind, owed.sync, 3]);
  const counted = new Ring();
  const model: number[] = [];
  let state = 7;
  for (let round = 0; round < 5_000; round++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    const choice = (state >>> 16) % 5;
    if (choice < 3 || model.length === 0) {
      const kind = 1 + ((state >>> 8) % 16);
      counted.push(kind);
      model.push(kind);
    } else if (choice === 3) {
      counted.pop();
      model.shift();
    } else {
      const index = (state >>> 4) % model.length;
      counted.remove(index);
      model.splice(index, 1);
    }
    const kind = 1 + (round % 16);
    if (counted.count(kind) !== model.filter((each) => each === kind).length)
      t.fail(`count of ${kind} in round ${round}`);
    if (counted.find(kind) !== model.indexOf(kind)) t.fail(`place of ${kind} in round ${round}`);
  }
});

t.test("the leader is the one of the highest term, and never again one of a lower", async (t) => {
  const status = (node: string, state: string, term: number, more: Partial<SeenStatus> = {}): SeenStatus => ({
    node,
    zone: "z",
    host: node,
    pgPort: 5432,
    postgres: "running",
    state,
    term,
    fenceTerm: term,
    promisedTerm: term,
    consistent: true,
    leader: null,
    commitLsn: 5n,
    appliedLsn: 1n,
    quiesced: false,
    ...more,
  });
  let table = statusSeen(emptyTable, status("n1", "leader", 3));
  table = statusSeen(table, status("n2", "follower", 3));
  t.equal(viewOf(table).leader?.node, "n1");
  t.same(
    viewOf(table).followers.map((each) => each.node),
    ["n2"],
  );
  t.equal(viewOf(statusSeen(table, status("n1", "leader", 3, { quiesced: true }))).holding, true);
  t.equal(viewOf(statusSeen(table, status("n1", "leader", 3, { fenceTerm: 4 }))).leader, undefined);
  t.equal(viewOf(statusSeen(table, status("n1", "leader", 3, { postgres: "crashed" }))).leader, undefined);
  t.equal(viewOf(streamLost(table, "n1")).leader?.node, "n1", "only its sidecar may have died");
  t.same(viewOf(streamLost(table, "n2")).followers, [], "a follower that can't be asked is not read");
  t.equal(viewOf(table).followers[0]?.lagBytes, 4);
  t.equal(viewOf(nodeForgotten(table, "n1")).leader, undefined);
  const elected = statusSeen(table, status("n2", "elected", 5));
  t.equal(viewOf(elected).leader, undefined, "a higher term begins: the old leader counts no more");
  const newer = statusSeen(elected, status("n2", "leader", 5));
  t.match(viewOf(newer).leader, { node: "n2", term: 5 });
  t.match(viewOf(statusSeen(newer, status("n1", "leader", 3))).leader, { node: "n2" });
  const stale = statusSeen(streamLost(table, "n1"), status("n2", "elected", 5));
  t.equal(viewOf(stale).leader, undefined, "the word of a dead sidecar doesn't outlive its term");
});

t.test("percentiles are within a bucket of the truth", async (t) => {
  const histogram = new Histogram();
  for (let ms = 1; ms <= 1000; ms++) histogram.add(ms);
  const p50 = histogram.percentileMs(0.5);
  t.ok(p50 >= 500 && p50 <= 600, `p50 is ${p50}`);
  t.equal(histogram.count, 1000);
});
