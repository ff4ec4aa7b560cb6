import { test } from "tap";
import { assert, assertNever } from "../src/index.ts";

test("assert narrows and throws with its code", async (t) => {
  const value: string | undefined = ["a"][0];
  assert(value !== undefined, "there is one");
  t.equal(value.length, 1);
  t.throws(() => assert(0, "zero"), { code: "assertion_failed", message: "zero" });
});

test("assertNever tells what it got", async (t) => {
  t.throws(() => assertNever({ kind: "odd" } as never, "effect"), {
    message: 'unexpected effect: {"kind":"odd"}',
  });
});
