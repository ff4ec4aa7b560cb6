// The coordinator's end: one connection to one sidecar, promise methods, and the status stream.

import {
  type CallOptions,
  type ChannelCredentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { QuorateError } from "@quorate/common";
import { ZodError } from "zod";
import type { errorTable } from "./error-codes.ts";
import { accessTo } from "./tls.ts";
import type * as t from "./types.ts";
import { type Codec, codecs, SidecarService, statusCodec } from "./wire.ts";

/** Why there is no answer. `refused`: nobody listens there; `denied`: it doesn't know us; `reset`: the connection broke. */
export type RpcFailure = "refused" | "denied" | "reset" | "timeout" | "aborted" | "protocol" | "internal";

export class RpcError extends QuorateError {
  readonly failure: RpcFailure;
  readonly address: string;
  constructor(failure: RpcFailure, address: string, message: string) {
    super(`rpc_${failure}` satisfies keyof typeof errorTable, `${address}: ${message}`);
    this.name = "RpcError";
    this.failure = failure;
    this.address = address;
  }
}

export type CallLimits = {
  /** From now; the default depends on the method (see defaultDeadlineMs). */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
};

/** Why a watch ended. It never reconnects by itself: when to try again is the coordinator's decision. */
export type WatchEnd = {
  readonly reason: "refused" | "reset" | "closed" | "timeout" | "cancelled" | "protocol";
  readonly message: string;
};

export type WatchOptions = {
  readonly watcher: string;
  /** The sidecar sends at least this often. */
  readonly intervalMs: number;
  /** No message for this long ends the watch with reason `timeout`. */
  readonly silenceMs: number;
  readonly signal?: AbortSignal;
};

export type WatchHandlers = {
  readonly status: (status: t.NodeStatus) => void;
  /** Called exactly once, last. */
  readonly end: (end: WatchEnd) => void;
};

export type SidecarClient = {
  readonly address: string;
  recruit(request: t.RecruitRequest, limits?: CallLimits): Promise<t.Reply<t.Recruited>>;
  fetch(request: t.FetchRequest, limits?: CallLimits): Promise<t.Reply<t.Fetched>>;
  elect(request: t.ElectRequest, limits?: CallLimits): Promise<t.Reply<t.Elected>>;
  follow(request: t.FollowRequest, limits?: CallLimits): Promise<t.Reply<t.Followed>>;
  changeRuleset(request: t.ChangeRulesetRequest, limits?: CallLimits): Promise<t.Reply<t.RulesetChanged>>;
  quiesce(request: t.QuiesceRequest, limits?: CallLimits): Promise<t.Reply<t.Quiesced>>;
  bootstrap(request: t.BootstrapRequest, limits?: CallLimits): Promise<t.Reply<t.Bootstrapped>>;
  control(request: t.ControlRequest, limits?: CallLimits): Promise<t.Reply<t.Controlled>>;
  record(request: t.RecordRequest, limits?: CallLimits): Promise<t.Reply<t.Recorded>>;
  events(request: t.EventsRequest, limits?: CallLimits): Promise<t.Reply<t.Events>>;
  leaseConnections(
    request: t.LeaseConnectionsRequest,
    limits?: CallLimits,
  ): Promise<t.Reply<t.LeasedConnections>>;
  getStatus(limits?: CallLimits): Promise<t.NodeStatus>;
  /** Returns a function that cancels the watch. */
  watch(options: WatchOptions, handlers: WatchHandlers): () => void;
  close(): void;
};

/** Instead of what the process shows everywhere (useClientAccess). */
export type ConnectOptions = { readonly credentials?: ChannelCredentials; readonly token?: () => string };

/** Requests with a timeout of their own get this much more, so that the sidecar answers first. */
const graceMs = 2_000;
const defaultDeadlineMs = {
  recruit: 10_000,
  elect: 10_000,
  follow: 30_000,
  bootstrap: 120_000,
  control: 60_000,
  record: 3_000,
  events: 5_000,
  leaseConnections: 2_000,
  getStatus: 3_000,
} as const;

const channelOptions = {
  "grpc.enable_http_proxy": 0,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.initial_reconnect_backoff_ms": 50,
  "grpc.min_reconnect_backoff_ms": 50,
  "grpc.max_reconnect_backoff_ms": 250,
  "grpc.max_receive_message_length": 16 * 1024 * 1024,
};

/** What a method of the loader's client looks like; the class itself is untyped. */
type UnaryMethod = (
  request: unknown,
  metadata: Metadata,
  options: CallOptions,
  callback: (error: ServiceError | null, reply: unknown) => void,
) => { cancel(): void };
type StreamMethod = (
  request: unknown,
  metadata: Metadata,
) => {
  on(event: "data", listener: (wire: unknown) => void): void;
  on(event: "error", listener: (error: ServiceError) => void): void;
  on(event: "end", listener: () => void): void;
  cancel(): void;
};

/** Connects lazily: the first call opens the connection, and a dead one is reopened by the next call. */
export function connectSidecar(address: string, options: ConnectOptions = {}): SidecarClient {
  const { credentials, token } =
    options.credentials === undefined
      ? accessTo(address)
      : { credentials: options.credentials, token: options.token };
  const stub = new SidecarService(address, credentials, channelOptions);
  const metadata = (): Metadata => {
    const shown = new Metadata();
    try {
      if (token !== undefined) shown.set("authorization", `Bearer ${token()}`);
    } catch {
      // The file can't be read: the sidecar says that it doesn't know us.
    }
    return shown;
  };
  const methods = stub as unknown as Record<string, UnaryMethod>;

  function call<Request, Result>(
    name: string,
    codec: { readonly request: Codec<Request>; readonly reply: Codec<Result> },
    request: Request,
    limits: CallLimits,
    fallbackDeadlineMs: number,
  ): Promise<Result> {
    return new Promise((resolve, reject) => {
      const { signal } = limits;
      if (signal?.aborted) {
        reject(new RpcError("aborted", address, `${name} was aborted`));
        return;
      }
      const deadline = Date.now() + (limits.deadlineMs ?? fallbackDeadlineMs);
      const method = methods[name];
      if (method === undefined) throw new TypeError(`no such method: ${name}`);
      const encoded = codec.request.encode(request);
      const pending = method.call(stub, encoded, metadata(), { deadline }, (error, wire) => {
        signal?.removeEventListener("abort", abort);
        if (error !== null) {
          reject(toRpcError(error, address, name));
          return;
        }
        try {
          resolve(codec.reply.decode(wire));
        } catch (problem) {
          reject(new RpcError("protocol", address, `${name}: ${describeProblem(problem)}`));
        }
      });
      const abort = (): void => pending.cancel();
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  return {
    address,
    recruit: (r, limits = {}) => call("recruit", codecs.recruit, r, limits, defaultDeadlineMs.recruit),
    fetch: (r, limits = {}) => call("fetch", codecs.fetch, r, limits, r.timeoutMs + graceMs),
    elect: (r, limits = {}) => call("elect", codecs.elect, r, limits, defaultDeadlineMs.elect),
    follow: (r, limits = {}) => call("follow", codecs.follow, r, limits, defaultDeadlineMs.follow),
    changeRuleset: (r, limits = {}) =>
      call("changeRuleset", codecs.changeRuleset, r, limits, r.timeoutMs + graceMs),
    quiesce: (r, limits = {}) => call("quiesce", codecs.quiesce, r, limits, r.timeoutMs + graceMs),
    bootstrap: (r, limits = {}) =>
      call("bootstrap", codecs.bootstrap, r, limits, defaultDeadlineMs.bootstrap),
    control: (r, limits = {}) => call("control", codecs.control, r, limits, defaultDeadlineMs.control),
    record: (r, limits = {}) => call("record", codecs.record, r, limits, defaultDeadlineMs.record),
    events: (r, limits = {}) => call("events", codecs.events, r, limits, defaultDeadlineMs.events),
    leaseConnections: (r, limits = {}) =>
      call("leaseConnections", codecs.leaseConnections, r, limits, defaultDeadlineMs.leaseConnections),
    getStatus: (limits = {}) =>
      call(
        "getStatus",
        { request: { decode: () => ({}), encode: () => ({}) }, reply: statusCodec },
        {},
        limits,
        defaultDeadlineMs.getStatus,
      ),
    watch: (watchOptions, handlers) =>
      watchStatus(stub as unknown as { watch: StreamMethod }, metadata, address, watchOptions, handlers),
    close: () => stub.close(),
  };
}

function watchStatus(
  stub: { watch: StreamMethod },
  metadata: () => Metadata,
  address: string,
  options: WatchOptions,
  handlers: WatchHandlers,
): () => void {
  const { watcher, intervalMs, silenceMs, signal } = options;
  const stream = stub.watch(codecs.watch.request.encode({ watcher, intervalMs }), metadata());
  let over = false;

  const finish = (reason: WatchEnd["reason"], message: string): void => {
    if (over) return;
    over = true;
    clearTimeout(silence);
    signal?.removeEventListener("abort", cancel);
    stream.cancel();
    handlers.end({ reason, message });
  };
  const cancel = (): void => finish("cancelled", "cancelled by the watcher");
  const silence = setTimeout(() => {
    finish("timeout", `${address} has sent nothing for ${silenceMs} ms`);
  }, silenceMs);

  stream.on("data", (wire) => {
    if (over) return;
    silence.refresh();
    let decoded: t.NodeStatus;
    try {
      decoded = codecs.watch.reply.decode(wire);
    } catch (problem) {
      finish("protocol", describeProblem(problem));
      return;
    }
    handlers.status(decoded);
  });
  stream.on("error", (error) => {
    const failure = failureOf(error);
    if (failure === "refused" || failure === "reset") finish(failure, error.details);
    else if (failure === "denied") finish("protocol", error.details);
    else if (failure === "timeout") finish("timeout", error.details);
    else if (failure === "aborted") finish("cancelled", error.details);
    else finish("reset", error.details || error.message);
  });
  stream.on("end", () => finish("closed", `${address} ended the stream`));
  if (signal?.aborted) queueMicrotask(cancel);
  else signal?.addEventListener("abort", cancel, { once: true });
  return cancel;
}

function toRpcError(error: ServiceError, address: string, method: string): RpcError {
  return new RpcError(failureOf(error), address, `${method}: ${error.details || error.message}`);
}

function failureOf(error: ServiceError): RpcFailure {
  switch (error.code) {
    case status.UNAVAILABLE:
      return /ECONNREFUSED|ENOENT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|No connection established|Name resolution/.test(
        error.details,
      )
        ? "refused"
        : "reset";
    case status.DEADLINE_EXCEEDED:
      return "timeout";
    case status.CANCELLED:
      return "aborted";
    case status.UNAUTHENTICATED:
      return "denied";
    case status.INVALID_ARGUMENT:
      return "protocol";
    default:
      return "internal";
  }
}

function describeProblem(problem: unknown): string {
  if (problem instanceof ZodError)
    return `unexpected message: ${problem.issues.map((i) => `${i.path.join(".")}: ${i.message}`).join("; ")}`;
  return String(problem);
}
