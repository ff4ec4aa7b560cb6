/** The space of young objects stays small, whatever is made and kept; the control without it grows. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";

const file = fileURLToPath(new URL("../src/small-heap.ts", import.meta.url));

/** Bytes of that space, in a process of its own, after so much was made of which a part lives for a while. */
async function youngBytes(small: boolean): Promise<number> {
  const program = `
    import { getHeapSpaceStatistics } from "node:v8";
    import { keepHeapSmall } from ${JSON.stringify(file)};
    if (${small}) keepHeapSmall();
    const kept = [];
    for (let each = 0; each < 2_000_000; each++) kept[each % 50_000] = { each, text: String(each) };
    const young = getHeapSpaceStatistics().find((space) => space.space_name === "new_space");
    console.log(young.space_size);`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program]);
  return Number(stdout);
}

t.test("young objects get no more room than they need", async (t) => {
  const [without, small] = await Promise.all([youngBytes(false), youngBytes(true)]);
  t.ok(small <= 8 * 1024 * 1024, `${small} bytes`); // as a rule 2 MB, at times 4
  t.ok(without >= 4 * small, `without it: ${without} bytes`);
});
