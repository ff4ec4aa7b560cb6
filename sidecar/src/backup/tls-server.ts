/** pgBackRest's own server, by which other nodes reach this one's data over TLS. Kept running while the sidecar does. */
import { type ChildProcess, spawn } from "node:child_process";
import { asPostgres, type Logger } from "@quorate/common";
import { pgbackrestEnvironment } from "./pgbackrest.ts";

export type TlsServerOptions = {
  readonly command: string;
  readonly conf: string;
  readonly osUser: string;
  readonly cwd: string;
  readonly logger: Logger;
};

/** util-linux: the kernel ends it when its sidecar ends, however that happens. */
const withItsParent = ["setpriv", "--pdeathsig", "TERM"] as const;
const restartDelayMs = 2_000;
const stopTimeoutMs = 5_000;

export class TlsServer {
  readonly #options: TlsServerOptions;
  #child: ChildProcess | null = null;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(options: TlsServerOptions) {
    this.#options = options;
  }

  start(): void {
    if (this.#ended) return;
    const { command, conf, osUser, cwd, logger } = this.#options;
    const env = { ...process.env, ...pgbackrestEnvironment() };
    const [program, ...through] = withItsParent;
    const child = spawn(
      program,
      [
        ...through,
        command,
        `--config=${conf}`,
        "--log-level-console=off",
        "--log-level-stderr=warn",
        "server",
      ],
      asPostgres({ stdio: ["ignore", "ignore", "pipe"], cwd, env }, osUser),
    );
    this.#child = child;
    let words = "";
    child.stderr?.on("data", (chunk: Buffer) => {
      words = (words + chunk.toString("utf8")).slice(-2_000);
    });
    let done = false;
    const over = (how: string): void => {
      if (done) return;
      done = true;
      this.#child = null;
      if (this.#ended) return;
      logger.warn({ how, words: words.trim() }, "pgBackRest's server ended and is started again");
      this.#timer = setTimeout(() => this.start(), restartDelayMs);
    };
    child.once("error", (error) => over(error.message));
    child.once("exit", (code, signal) => over(signal ?? `exit code ${code}`));
  }

  /** It reads its configuration and certificates again; connections that are open go on. */
  reload(): void {
    this.#child?.kill("SIGHUP");
  }

  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child === null) return;
    const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), stopTimeoutMs);
    await gone.finally(() => clearTimeout(late));
  }
}
