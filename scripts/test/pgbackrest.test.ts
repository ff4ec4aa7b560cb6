import { chmodSync, writeFileSync } from "node:fs";
import path from "node:path";
import { run } from "@quorate/common";
import { test } from "tap";
import { isAtLeast, packagesFor, parseVersion, wrapperScript } from "../lib/pgbackrest.ts";

test("versions", async (t) => {
  t.equal(parseVersion("pgBackRest 2.60.0\n"), "2.60.0");
  t.equal(parseVersion("pgBackRest 2.45\n"), "2.45");
  t.equal(parseVersion("sh: not found"), undefined);
  t.ok(isAtLeast("2.57.0", "2.57.0"));
  t.ok(isAtLeast("2.100", "2.57.0"));
  t.ok(isAtLeast("3.0", "2.57.0"));
  t.notOk(isAtLeast("2.56.9", "2.57.0"));
  t.notOk(isAtLeast("2.45", "2.57.0"));
});

test("a private root holds the program and its libraries, not what its scripts need", async (t) => {
  const depends = [
    "pgbackrest",
    "  Depends: postgresql-common",
    "  Depends: libc6",
    " |Depends: libssl3t64",
    "  Depends: <virtual>",
    "postgresql-common",
    "  Depends: perl",
    "  Depends: libjson-perl",
    "libssl3t64",
    "  Depends: zlib1g",
    "  Depends: openssl-provider-legacy",
    "zlib1g",
    "  Depends: libc6",
    "libc6",
    "  PreDepends: libgcc-s1",
  ].join("\n");
  t.same(packagesFor("pgbackrest", depends), ["libc6", "libgcc-s1", "libssl3t64", "pgbackrest", "zlib1g"]);
});

test("the wrapper starts the program under its own name with all arguments, wherever it lies", async (t) => {
  const directory = path.join(t.testdir({ "it's here": {} }), "it's here");
  const loader = path.join(directory, "loader");
  writeFileSync(loader, '#!/bin/sh\nprintf "%s|" "$@"\n');
  chmodSync(loader, 0o755);
  const script = path.join(directory, "program");
  writeFileSync(script, wrapperScript(script, loader, ["/a", "/b"], "/p"));
  chmodSync(script, 0o755);
  const { stdout } = await run(script, ["archive-push", "two words"]);
  t.equal(stdout, `--argv0|${script}|--library-path|/a:/b|/p|archive-push|two words|`);
});
