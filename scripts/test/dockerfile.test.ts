import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "tap";
import { expand, parseDockerfile } from "../lib/dockerfile.ts";
import { repoRoot } from "../lib/repo.ts";

test("stages, continued lines, comments between them", async (t) => {
  const text = [
    "# syntax",
    "FROM debian:trixie-slim AS build",
    "ENV A=1 B=$A",
    "RUN one \\",
    "# in between",
    "  && two",
    "FROM debian:trixie-slim",
    "COPY --from=build /a /b",
    "VOLUME /data",
    'CMD ["x", "y"]',
  ].join("\n");
  t.same(parseDockerfile(text), [
    {
      name: "build",
      image: "debian:trixie-slim",
      instructions: [
        { kind: "env", values: { A: "1", B: "$A" } },
        { kind: "run", script: "one    && two" },
      ],
    },
    {
      name: undefined,
      image: "debian:trixie-slim",
      instructions: [
        { kind: "copy", from: "build", source: "/a", target: "/b" },
        { kind: "cmd", command: ["x", "y"] },
      ],
    },
  ]);
});

test("what isn't understood is refused", async (t) => {
  t.throws(() => parseDockerfile("FROM a\nADD x y"), /unknown instruction: ADD/);
  t.throws(() => parseDockerfile("RUN x"), /before the first FROM/);
});

test("variables", async (t) => {
  const braced = "$" + "{B}";
  t.equal(expand(`/a:$PATH:${braced}:$C`, { PATH: "/p", B: "b" }), "/a:/p:b:");
});

test("the repository's own Dockerfile is understood", async (t) => {
  const stages = parseDockerfile(readFileSync(path.join(repoRoot, "Dockerfile.postgres"), "utf8"));
  t.equal(stages.length, 2);
  t.equal(stages[0]?.name, "build");
});
