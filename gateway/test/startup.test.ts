/** Startup packets are remembered, and cancel keys found, by their bytes. */
import t from "tap";
import { CancelKeys } from "../src/session/cancel-keys.ts";
import { Startup, Startups } from "../src/session/startup.ts";
import { startup } from "../src/wire/build.ts";

const packet = (parameters: Record<string, string>): Buffer => startup(Object.entries(parameters));

t.test("the same packet is read once, another one for itself", async (t) => {
  const startups = new Startups(false);
  const read = (bytes: Buffer) => {
    const found = startups.read(bytes);
    return found.kind === "startup" && found.request instanceof Startup ? found.request : undefined;
  };
  const first = packet({ user: "u", application_name: "a", options: "-c work_mem=1MB" });
  const before = read(first);
  t.equal(read(Buffer.from(first)), before);
  t.same(
    [...(before?.settings.values ?? [])],
    [
      ["application_name", "a"],
      ["work_mem", "1MB"],
    ],
  );
  t.equal(read(packet({ user: "u", application_name: "b" }))?.settings.values.get("application_name"), "b");
  t.notOk(startups.read(first.subarray(0, first.length - 1)).kind === "startup", "what isn't whole yet");
  const more = Buffer.concat([first, Buffer.from("Q")]);
  const found = startups.read(more);
  t.equal(found.kind === "startup" && found.bytes, first.length, "something else behind it");
  t.equal(startups.read(packet({ user: "" })).kind, "startup");
  t.equal(read(packet({ user: "" })), undefined, "a refusal is remembered as one");
});

t.test("the port for reads has sessions of its own", async (t) => {
  const bytes = packet({ user: "u", default_transaction_read_only: "off" });
  for (const [readOnly, value] of [
    [false, "off"],
    [true, "on"],
  ] as const) {
    const found = new Startups(readOnly).read(bytes);
    if (found.kind !== "startup" || !(found.request instanceof Startup)) throw new Error("refused");
    t.equal(found.request.settings.values.get("default_transaction_read_only"), value);
    t.equal(found.request.readOnly, readOnly);
  }
});

t.test("many packets are not remembered for ever", async (t) => {
  const startups = new Startups(false);
  const bytes = packet({ user: "u" });
  const first = startups.read(bytes);
  for (let each = 0; each < 1_000; each++) startups.read(packet({ user: `u${each}` }));
  t.not(startups.read(bytes), first);
});

t.test("a cancel key names its client until that has gone", async (t) => {
  const keys = new CancelKeys();
  const keyOf = (message: Buffer): Uint8Array => Uint8Array.from(message.subarray(5));
  const short = keyOf(keys.add(1, 4711, 0));
  const long = keyOf(keys.add(2, 4711, 2));
  t.same([short.length, long.length], [8, 36]);
  t.same([keys.find(short), keys.find(long)], [1, 2]);
  const wrong = Uint8Array.from(short);
  wrong[7] = (wrong[7] as number) ^ 1;
  t.equal(keys.find(wrong), undefined);
  const again = keyOf(keys.add(2, 4712, 2));
  t.same([keys.find(long), keys.find(again)], [undefined, 2]);
  keys.forget(1);
  t.equal(keys.find(short), undefined);
});
