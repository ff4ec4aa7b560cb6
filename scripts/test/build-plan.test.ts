import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "tap";
import { parseTargets, sourcesList } from "../lib/apt.ts";
import {
  configureOptions,
  extensionInputs,
  extensionKey,
  planBuild,
  readPatches,
} from "../lib/postgres/plan.ts";
import { defaultRelease } from "../lib/postgres/release.ts";
import { matchingVersions } from "../lib/postgres/source.ts";

test("the key changes with each patch, its name and the variant, and with nothing else", async (t) => {
  const root = t.testdir({ extension: { patches: { "18": { "0001-a.patch": "x", "README.md": "y" } } } });
  const key = () => planBuild(readPatches(root, 18), defaultRelease, "release").key;
  const first = key();
  t.equal(key(), first);
  t.match(first, /^18\.6-release-[0-9a-f]{12}$/);
  writeFileSync(path.join(root, "extension/patches/18/README.md"), "z");
  t.equal(key(), first);
  writeFileSync(path.join(root, "extension/patches/18/0001-a.patch"), "X");
  const second = key();
  t.not(second, first);
  writeFileSync(path.join(root, "extension/patches/18/0002-b.patch"), "");
  t.not(key(), second);
  t.not(planBuild(readPatches(root, 18), defaultRelease, "assert").key, key());
});

test("patches come in order of their numbers", async (t) => {
  const root = t.testdir({ extension: { patches: { "18": { "0010-c.patch": "", "0002-b.patch": "" } } } });
  t.same(
    readPatches(root, 18).map(({ name }) => name),
    ["0002-b.patch", "0010-c.patch"],
  );
});

test("the extension's key follows its sources, not what a build leaves among them", async (t) => {
  const root = t.testdir({
    extension: { src: { "a.c": "x" }, patches: { "18": { "0001.patch": "" } } },
    sql: {},
  });
  t.same(extensionInputs(root), [], "no Makefile: no extension");
  writeFileSync(path.join(root, "extension/Makefile"), "all:\n");
  const key = () => extensionKey(root, extensionInputs(root));
  t.same(extensionInputs(root), ["extension/Makefile", "extension/src/a.c"]);
  const first = key();
  writeFileSync(path.join(root, "extension/src/a.o"), "");
  mkdirSync(path.join(root, "extension/test"));
  writeFileSync(path.join(root, "extension/test/unit.c"), "");
  t.equal(key(), first);
  writeFileSync(path.join(root, "sql/quorate--1.0.sql"), "");
  t.not(key(), first);
  rmSync(path.join(root, "sql/quorate--1.0.sql"));
  t.equal(key(), first);
});

test("options follow what is installed", async (t) => {
  const all = configureOptions("release", () => true);
  t.ok(all.includes("--with-ssl=openssl") && all.includes("--with-lz4") && all.includes("--with-zstd"));
  t.notOk(all.some((option) => option.startsWith("--without")));
  const none = configureOptions("assert", () => false);
  t.ok(none.includes("--without-icu") && none.includes("--enable-cassert"));
  t.notOk(none.some((option) => option.startsWith("--with-")));
});

test("other suites come from the archive that the system uses, with its key", async (t) => {
  const output = [
    "http://mirror.example/debian-security/|bookworm-security|$(SIGNED_BY)|Debian|main",
    "https://other.example/apt|stable|/etc/other.gpg|Other|main",
    "http://mirror.example/debian/|bookworm-updates|/k.gpg|Debian|main",
    "http://mirror.example/debian/|bookworm|$(SIGNED_BY)|Debian|main",
    "http://mirror.example/debian/|bookworm|/k.gpg|Debian|contrib",
  ].join("\n");
  const targets = parseTargets(output);
  t.equal(targets.length, 1);
  const [target] = targets;
  if (target === undefined) return;
  t.equal(
    sourcesList({ ...target, signedBy: "/k.gpg" }, "deb-src", ["trixie", "sid"]),
    "deb-src [signed-by=/k.gpg] http://mirror.example/debian/ trixie main\n" +
      "deb-src [signed-by=/k.gpg] http://mirror.example/debian/ sid main\n",
  );
});

test("only the pinned upstream version of a source package will do", async (t) => {
  const showsrc =
    "Package: postgresql-18\nVersion: 18.6-3\n\nVersion: 1:18.6-1~bpo\nVersion: 18.60-1\nVersion: 18.7-1\n";
  t.same(matchingVersions(showsrc, defaultRelease), ["18.6-3", "1:18.6-1~bpo"]);
});
