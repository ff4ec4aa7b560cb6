// A restored data directory becomes the beginning of another cluster: a system identifier of its own, no history, no
// ruleset, and a promise that makes its first term higher than all terms that were.
import { readdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import { run, writeCheckedJson, writeDurable } from "@quorate/common";
import { newSystemIdentifier, withSystemIdentifier } from "@quorate/sidecar/backup/control-file.ts";

export interface NewIdentityOptions {
  readonly data: string;
  readonly binDir: string;
  readonly owner:
    | { readonly uid: number; readonly gid: number; readonly name: string; readonly home: string }
    | undefined;
  readonly nowMs: number;
  readonly random: number;
}

export interface NewIdentity {
  readonly systemIdentifier: string;
  /** On which its new log begins; every term of the new cluster is higher. */
  readonly timeline: number;
}

/** Of a server that was shut down in good order. */
export async function giveNewIdentity(options: NewIdentityOptions): Promise<NewIdentity> {
  const { data, binDir, owner, nowMs, random } = options;
  const file = path.join(data, "global/pg_control");
  const identifier = newSystemIdentifier(nowMs, random);
  await writeDurable(
    file,
    withSystemIdentifier(await readFile(file), identifier),
    owner === undefined ? {} : { owner },
  );
  const as = { cwd: "/", ...(owner === undefined ? {} : { user: owner }) };
  // The log of the old cluster carries the old identifier: begin a new one.
  await run(path.join(binDir, "pg_resetwal"), ["-D", data], as);
  // pg_resetwal notes wal_level "minimal", from which no standby would start: say once what it really is.
  const settings = ["wal_level=logical", "shared_preload_libraries=", "archive_mode=off", "exit_on_error=on"];
  await run(
    path.join(binDir, "postgres"),
    ["--single", "-D", data, ...settings.flatMap((each) => ["-c", each]), "postgres"],
    { ...as, input: "checkpoint;\n" },
  );
  const wal = path.join(data, "pg_wal");
  for (const name of await readdir(wal)) if (name.endsWith(".history")) await rm(path.join(wal, name));
  await rm(path.join(data, "quorate/ruleset"), { force: true });
  for (const name of ["backup_label.old", "tablespace_map.old", "standby.signal", "recovery.signal"])
    await rm(path.join(data, name), { force: true });
  const { stdout } = await run(path.join(binDir, "pg_controldata"), ["-D", data], {
    ...as,
    env: { LC_ALL: "C" },
  });
  const read = (name: string): string => new RegExp(`^${name}:\\s+(\\S+)`, "m").exec(stdout)?.[1] ?? "";
  if (read("Database system identifier") !== String(identifier))
    throw new Error("pg_resetwal did not keep the new system identifier");
  return {
    systemIdentifier: String(identifier),
    timeline: Number(read("Latest checkpoint's TimeLineID")),
  };
}

/** The sidecar that finds this beside its data knows that no term up to `timeline` may be begun again. */
export async function writeFirstPromise(stateDirectory: string, timeline: number): Promise<void> {
  await writeCheckedJson(path.join(stateDirectory, "promise.json"), {
    term: timeline,
    coordinator: "restore",
  });
}
