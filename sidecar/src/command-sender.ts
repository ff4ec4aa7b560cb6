/** Sends the core's commands to Postgres over the control socket, again if Postgres died over one that may be repeated. */
import { assert, type Logger } from "@quorate/common";
import type { ControlCommand as CoreCommand, ControlResult as CoreResult } from "@quorate/consensus";
import type { SidecarConfig } from "./config.ts";
import { type Peer, replicationConninfo } from "./conninfo.ts";
import type { ControlConnection, RequestLimits } from "./control-client.ts";
import { sendCommand } from "./control-commands.ts";
import type { ControlStatus } from "./control-protocol.ts";
import type { NodePaths } from "./paths.ts";
import type { Supervisor } from "./supervisor.ts";

type CommandSenderOptions = {
  readonly config: SidecarConfig;
  readonly paths: NodePaths;
  readonly supervisor: Supervisor;
  /** The end of the sidecar. */
  readonly shutdown: AbortSignal;
  readonly onStatus: (status: ControlStatus) => void;
  readonly logger: Logger;
};

/** On whose behalf a command is sent. */
export type Sending = {
  readonly signal: AbortSignal;
  readonly timeoutMs: number;
  readonly peer?: Peer;
  /** The run of Postgres to which it was sent last. */
  sentInRun?: number;
};

/** Of the answer: crash recovery may have much to read before it knows where the log ends. */
const attachFenceTimeoutMs = 3_600_000;
const tooLate: CoreResult = { ok: false, code: "timeout", message: "Postgres didn't come up in time" };
const repeatable: ReadonlySet<CoreCommand["cmd"]> = new Set(["fence", "follow"]);
const harmlessAtAttach: ReadonlySet<string> = new Set(["disconnected", "superseded", "not_consistent"]);

export class CommandSender {
  readonly #options: CommandSenderOptions;

  constructor(options: CommandSenderOptions) {
    this.#options = options;
  }

  /** The first command on a new connection. */
  async fenceAtAttach(connection: ControlConnection, command: CoreCommand): Promise<CoreResult> {
    assert(command.cmd === "fence", "only a fence is sent while attaching");
    const limits = { timeoutMs: attachFenceTimeoutMs };
    const result = await this.#send(connection, command, undefined, limits);
    if (!result.ok && !harmlessAtAttach.has(result.code))
      this.#options.logger.warn({ code: result.code }, `could not fence Postgres: ${result.message}`);
    return result;
  }

  async send(command: CoreCommand, sending: Sending): Promise<CoreResult> {
    const { peer, timeoutMs } = sending;
    const { supervisor, shutdown } = this.#options;
    const signal = AbortSignal.any([sending.signal, shutdown, AbortSignal.timeout(timeoutMs)]);
    const limits = { timeoutMs, signal };
    let result: CoreResult;
    do {
      const connection = await supervisor.whenAttached(signal);
      if (connection === null) return tooLate;
      sending.sentInRun = supervisor.run;
      result = await this.#send(connection, command, peer, limits);
      // Postgres died over it: the next one is asked the same, if that can't do more than was asked for.
    } while (!result.ok && result.code === "disconnected" && repeatable.has(command.cmd));
    return result;
  }

  async #send(
    connection: ControlConnection,
    command: CoreCommand,
    peer: Peer | undefined,
    limits: RequestLimits,
  ): Promise<CoreResult> {
    const conninfo = (member: boolean): string => this.#conninfo(peer, member);
    const { result, status } = await sendCommand(connection, command, conninfo, limits);
    if (status !== undefined) this.#options.onStatus(status);
    return result;
  }

  #conninfo(peer: Peer | undefined, member: boolean): string {
    assert(peer !== undefined, "the request says where the other node is");
    const { config, paths } = this.#options;
    return replicationConninfo(peer, {
      node: config.node.id,
      user: config.replication.user,
      passFile: paths.passFile,
      tls: config.tls === undefined ? undefined : paths.tls,
      member,
    });
  }
}
