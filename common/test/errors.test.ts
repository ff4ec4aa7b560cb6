import { test } from "tap";
import { codeOf, commonErrors, defineErrors, messageOf, QuorateError } from "../src/index.ts";

test("an error has its code, its details and its cause", async (t) => {
  const cause = new Error("no space left");
  const error = commonErrors.error("command_failed", "initdb: exit code 1", { cause, details: { code: 1 } });
  t.ok(error instanceof QuorateError);
  t.ok(error instanceof Error);
  t.equal(codeOf(error), "command_failed");
  t.same(error.details, { code: 1 });
  t.equal(messageOf(error), "initdb: exit code 1: no space left");
});

test("messageOf reads any thrown value, and an aggregate's parts", async (t) => {
  t.equal(messageOf("plain"), "plain");
  t.equal(messageOf(new AggregateError([new Error("a"), new Error("b")], "")), "a; b");
  t.equal(messageOf(new Error("same", { cause: new Error("same") })), "same");
});

test("codeOf reads the system's codes and nothing else", async (t) => {
  t.equal(codeOf(Object.assign(new Error("x"), { code: "ENOENT" })), "ENOENT");
  t.equal(codeOf(Object.assign(new Error("x"), { code: 7 })), undefined);
  t.equal(codeOf(null), undefined);
});

test("a table with a bad code or without an explanation is refused", async (t) => {
  t.throws(() => defineErrors({ BadCode: { means: "a", todo: "b" } }), /snake_case/);
  t.throws(() => defineErrors({ fine: { means: "", todo: "b" } }), /explanation/);
});
