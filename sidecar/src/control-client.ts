/**
 * The sidecar's end of the control socket: JSON lines, several requests in flight, status events.
 * One ControlConnection is one connection; its end is final. Reconnecting is the owner's business.
 */
import { connect, type Socket } from "node:net";
import { assert, codeOf } from "@quorate/common";
import type { z } from "zod";
import {
  answerSchema,
  type ControlCommand,
  type ControlStatus,
  emptyResultSchema,
  eventSchema,
} from "./control-protocol.ts";

/** The extension said no, or nothing: `disconnected` and `timeout` are ours, the others are the extension's. */
export type ControlRefusal = { readonly ok: false; readonly code: string; readonly message: string };
export type ControlResult<T> = { readonly ok: true; readonly value: T } | ControlRefusal;

export type RequestLimits = { readonly timeoutMs: number; readonly signal?: AbortSignal };

export type ControlHandlers = {
  readonly status: (status: ControlStatus) => void;
  /** Exactly once, when the connection is over. */
  readonly end: (reason: string) => void;
};

const maxLineBytes = 4 << 20;
const connectTimeoutMs = 1_000;

export class ControlConnection {
  readonly #socket: Socket;
  readonly #handlers: ControlHandlers;
  readonly #waiting = new Map<number, (answer: ControlResult<unknown>) => void>();
  #nextId = 1;
  #partial = "";
  #endReason: string | null = null;

  private constructor(socket: Socket, handlers: ControlHandlers) {
    this.#socket = socket;
    this.#handlers = handlers;
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => this.#onData(chunk));
    socket.on("error", (error) => this.#end(error.message));
    socket.on("close", () => this.#end("end of file"));
  }

  /** Rejects with the system's error (ENOENT, ECONNREFUSED …). */
  static open(path: string, handlers: ControlHandlers): Promise<ControlConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      const timer = setTimeout(
        () => socket.destroy(new Error("the control socket doesn't accept")),
        connectTimeoutMs,
      );
      socket.once("error", (error) => {
        clearTimeout(timer);
        reject(error);
      });
      socket.once("connect", () => {
        clearTimeout(timer);
        socket.removeAllListeners("error");
        resolve(new ControlConnection(socket, handlers));
      });
    });
  }

  get open(): boolean {
    return this.#endReason === null;
  }

  close(): void {
    this.#socket.destroy();
    this.#end("closed by the sidecar");
  }

  /** Never rejects for what the extension or the connection does; only for a bug in the answer's form. */
  request<T>(
    command: ControlCommand,
    result: z.ZodType<T>,
    limits: RequestLimits,
  ): Promise<ControlResult<T>> {
    if (this.#endReason !== null) return Promise.resolve(disconnected(this.#endReason));
    if (limits.signal?.aborted === true) return Promise.resolve(aborted);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const finish = (answer: ControlResult<unknown>): void => {
        clearTimeout(timer);
        limits.signal?.removeEventListener("abort", onAbort);
        this.#waiting.delete(id);
        if (!answer.ok) {
          resolve(answer);
          return;
        }
        const parsed = result.safeParse(answer.value);
        if (parsed.success) resolve({ ok: true, value: parsed.data });
        else reject(new Error(`unexpected answer to ${command.cmd}: ${parsed.error.message}`));
      };
      const onAbort = (): void => finish(aborted);
      const timer = setTimeout(
        () =>
          finish({
            ok: false,
            code: "timeout",
            message: `Postgres didn't answer "${command.cmd}" within ${limits.timeoutMs} ms`,
          }),
        limits.timeoutMs,
      );
      limits.signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.set(id, finish);
      this.#socket.write(`${JSON.stringify({ id, ...command })}\n`);
    });
  }

  async watch(intervalMs: number, limits: RequestLimits): Promise<ControlResult<object>> {
    return await this.request({ cmd: "watch", intervalMs }, emptyResultSchema, limits);
  }

  #onData(chunk: string): void {
    if (this.#endReason !== null) return;
    const lines = (this.#partial + chunk).split("\n");
    this.#partial = lines.pop() ?? "";
    if (this.#partial.length > maxLineBytes) this.#break("a line is too long");
    for (const line of lines) {
      if (line === "" || this.#endReason !== null) continue;
      const problem = this.#onLine(line);
      if (problem !== null) this.#break(problem);
    }
  }

  #onLine(line: string): string | null {
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch {
      return `not JSON: ${line.slice(0, 200)}`;
    }
    const isEvent = typeof json === "object" && json !== null && "event" in json;
    if (isEvent) {
      const event = eventSchema.safeParse(json);
      if (!event.success) return unexpected(line, event.error);
      this.#handlers.status(event.data.status);
      return null;
    }
    const answer = answerSchema.safeParse(json);
    if (!answer.success) return unexpected(line, answer.error);
    // The answer to a request that was given up is nobody's any more.
    const finish = this.#waiting.get(answer.data.id);
    if (answer.data.ok) finish?.({ ok: true, value: answer.data });
    else finish?.({ ok: false, code: answer.data.code, message: answer.data.message });
    return null;
  }

  #break(problem: string): void {
    this.#socket.destroy();
    this.#end(problem);
  }

  #end(reason: string): void {
    if (this.#endReason !== null) return;
    this.#endReason = reason;
    for (const finish of [...this.#waiting.values()]) finish(disconnected(reason));
    assert(this.#waiting.size === 0, "every request of an ended connection was answered");
    this.#handlers.end(reason);
  }
}

function unexpected(line: string, error: Error): string {
  return `unexpected message ${line.slice(0, 500)}: ${error.message}`;
}

const aborted: ControlRefusal = { ok: false, code: "aborted", message: "the caller gave up" };

function disconnected(reason: string): ControlRefusal {
  return { ok: false, code: "disconnected", message: `the control socket is gone: ${reason}` };
}

/** Nobody listens there (yet): worth another try. */
export function isNotListening(error: unknown): boolean {
  const code = codeOf(error);
  return code === "ENOENT" || code === "ECONNREFUSED";
}
