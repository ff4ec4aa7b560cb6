/** A server of its own for each run of a suite, and the gateway in front of it if it is judged. */
import { startTestGateway } from "../../test/lib/gateway.ts";
import { startPostgres, type TestPostgres } from "../../test/lib/postgres.ts";
import type { Known, Results } from "./verdict.ts";

export type Way = "direct" | "through";

export type Target = {
  readonly postgres: TestPostgres;
  /** Where the suite is to connect to. */
  readonly port: number;
  readonly way: Way;
};

export type Suite = {
  readonly title: string;
  readonly known: readonly Known[];
  /** Why it can't be run here, or undefined; may fetch what it needs. */
  prepare?(): Promise<string | undefined>;
  /** `tests`: these only; empty: all. */
  run(way: Way, tests: readonly string[]): Promise<Results>;
};

/** Who may connect how, over TCP; it counts once the configuration is read again. */
export async function admit(postgres: TestPostgres, lines: readonly string[]): Promise<void> {
  const file = await postgres.sql("show hba_file");
  const values = ["local all all trust", ...lines].map((line) => `('${line}')`).join(",");
  await postgres.sql(`copy (values ${values}) to '${file}'`);
}

export async function withTarget<T>(
  way: Way,
  settings: Record<string, string | number>,
  work: (target: Target) => Promise<T>,
  options: { readonly poolSize?: number; readonly gateway?: Record<string, unknown> } = {},
): Promise<T> {
  const postgres = await startPostgres(settings);
  try {
    if (way === "direct") return await work({ postgres, way, port: postgres.port });
    const gateway = await startTestGateway(
      { host: "127.0.0.1", port: postgres.port },
      {
        pool: { size: options.poolSize ?? 40 },
        transport: process.env["GATEWAY_TRANSPORT"] ?? "native",
        ...options.gateway,
      },
    );
    try {
      return await work({ postgres, way, port: gateway.port });
    } finally {
      await gateway.close();
    }
  } finally {
    await postgres.stop();
  }
}
