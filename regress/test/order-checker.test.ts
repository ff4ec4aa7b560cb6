/** The checker itself. */
import { test } from "tap";
import { findForks } from "../lib/order.ts";

const seen = (reader: string, ...snapshot: number[]) => ({ reader, snapshot });

test("a chain has no fork, in whatever order it was seen", async (t) => {
  t.same(
    findForks([seen("x", 1, 0), seen("y", 0, 0), seen("x", 3, 2), seen("y", 1, 2), seen("y", 1, 2)]),
    [],
  );
  t.same(findForks([]), []);
});

test("two readers that saw two writes in different orders", async (t) => {
  t.match(findForks([seen("x", 1, 0), seen("y", 0, 1), seen("x", 1, 1)]), [{ readerA: "x", readerB: "y" }]);
  t.match(findForks([seen("x", 5, 7, 2), seen("y", 6, 8, 1)]), [{ a: [5, 7, 2], b: [6, 8, 1] }]);
});
