// The sidecar's end: typed handlers behind a gRPC server.

import {
  type Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import { hasToken } from "@quorate/common";
import { ZodError } from "zod";
import type * as t from "./types.ts";
import { type Codec, codecs, SidecarService, statusCodec } from "./wire.ts";

export type CallContext = {
  /** Aborted when the caller gave up or its connection broke. */
  readonly signal: AbortSignal;
  readonly peer: string;
};

export type Subscription = {
  /** A watcher that reads too slowly gets only the latest status. */
  readonly send: (status: t.NodeStatus) => void;
  readonly end: () => void;
  readonly signal: AbortSignal;
};

export type SidecarHandlers = {
  recruit(request: t.RecruitRequest, context: CallContext): Promise<t.Reply<t.Recruited>>;
  fetch(request: t.FetchRequest, context: CallContext): Promise<t.Reply<t.Fetched>>;
  elect(request: t.ElectRequest, context: CallContext): Promise<t.Reply<t.Elected>>;
  follow(request: t.FollowRequest, context: CallContext): Promise<t.Reply<t.Followed>>;
  changeRuleset(request: t.ChangeRulesetRequest, context: CallContext): Promise<t.Reply<t.RulesetChanged>>;
  quiesce(request: t.QuiesceRequest, context: CallContext): Promise<t.Reply<t.Quiesced>>;
  bootstrap(request: t.BootstrapRequest, context: CallContext): Promise<t.Reply<t.Bootstrapped>>;
  control(request: t.ControlRequest, context: CallContext): Promise<t.Reply<t.Controlled>>;
  record(request: t.RecordRequest, context: CallContext): Promise<t.Reply<t.Recorded>>;
  events(request: t.EventsRequest, context: CallContext): Promise<t.Reply<t.Events>>;
  leaseConnections(
    request: t.LeaseConnectionsRequest,
    context: CallContext,
  ): Promise<t.Reply<t.LeasedConnections>>;
  getStatus(context: CallContext): Promise<t.NodeStatus>;
  /** Called once per watcher; the subscription's signal says when it is over. */
  watch(request: t.WatchRequest, subscription: Subscription): void;
};

export type SidecarServerOptions = {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly credentials?: ServerCredentials;
  /** Every caller must show it. */
  readonly token?: (() => string) | undefined;
  /** A handler threw: a bug or an unexpected failure; the caller gets INTERNAL. */
  readonly onError: (method: string, error: unknown) => void;
};

export type SidecarServer = {
  readonly port: number;
  /** Ends all calls; watchers see `closed` if their subscriptions were ended before. */
  readonly stop: () => Promise<void>;
};

export async function startSidecarServer(
  options: SidecarServerOptions,
  handlers: SidecarHandlers,
): Promise<SidecarServer> {
  const server = new Server({
    "grpc.max_receive_message_length": 16 * 1024 * 1024,
    "grpc.so_reuseport": 0,
  });

  function unary<Request, Result>(
    name: string,
    codec: { readonly request: Codec<Request>; readonly reply: Codec<Result> },
    handler: (request: Request, context: CallContext) => Promise<Result>,
  ): (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>) => void {
    return (call, callback) => {
      if (!mayCall(call, options.token)) {
        callback(denied);
        return;
      }
      let request: Request;
      try {
        request = codec.request.decode(call.request);
      } catch (problem) {
        callback({ code: status.INVALID_ARGUMENT, details: `${name}: ${describeProblem(problem)}` });
        return;
      }
      const abort = new AbortController();
      call.on("cancelled", () => abort.abort());
      handler(request, { signal: abort.signal, peer: call.getPeer() }).then(
        (result) => callback(null, codec.reply.encode(result)),
        (error: unknown) => {
          options.onError(name, error);
          callback({
            code: status.INTERNAL,
            details: `${name}: ${error instanceof Error ? error.message : String(error)}`,
          });
        },
      );
    };
  }

  const emptyRequest: Codec<object> = { decode: () => ({}), encode: () => ({}) };
  server.addService(SidecarService.service, {
    recruit: unary("recruit", codecs.recruit, handlers.recruit),
    fetch: unary("fetch", codecs.fetch, handlers.fetch),
    elect: unary("elect", codecs.elect, handlers.elect),
    follow: unary("follow", codecs.follow, handlers.follow),
    changeRuleset: unary("changeRuleset", codecs.changeRuleset, handlers.changeRuleset),
    quiesce: unary("quiesce", codecs.quiesce, handlers.quiesce),
    bootstrap: unary("bootstrap", codecs.bootstrap, handlers.bootstrap),
    control: unary("control", codecs.control, handlers.control),
    record: unary("record", codecs.record, handlers.record),
    events: unary("events", codecs.events, handlers.events),
    leaseConnections: unary("leaseConnections", codecs.leaseConnections, handlers.leaseConnections),
    getStatus: unary("getStatus", { request: emptyRequest, reply: statusCodec }, (_, context) =>
      handlers.getStatus(context),
    ),
    watch: (call: ServerWritableStream<unknown, unknown>) => serveWatch(call, handlers, options.token),
  });

  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(
      `${options.host}:${options.port}`,
      options.credentials ?? ServerCredentials.createInsecure(),
      (error, bound) => (error === null ? resolve(bound) : reject(error)),
    );
  });
  return { port, stop: () => stopServer(server) };
}

const denied = {
  code: status.UNAUTHENTICATED,
  details: "this sidecar answers only those who show the cluster's token (secrets/api.token)",
};

function mayCall({ metadata }: { readonly metadata: Metadata }, token: (() => string) | undefined): boolean {
  if (token === undefined) return true;
  try {
    return hasToken(metadata.get("authorization")[0]?.toString(), token());
  } catch {
    return false; // its own copy can't be read
  }
}

function serveWatch(
  call: ServerWritableStream<unknown, unknown>,
  handlers: SidecarHandlers,
  token: (() => string) | undefined,
): void {
  if (!mayCall(call, token)) {
    call.emit("error", denied);
    return;
  }
  let request: t.WatchRequest;
  try {
    request = codecs.watch.request.decode(call.request);
  } catch (problem) {
    call.emit("error", { code: status.INVALID_ARGUMENT, details: `watch: ${describeProblem(problem)}` });
    return;
  }
  const abort = new AbortController();
  const over = (): void => abort.abort();
  call.on("cancelled", over);
  call.on("close", over);
  call.on("error", over);
  let blocked = false;
  let latest: t.NodeStatus | null = null;
  const send = (value: t.NodeStatus): void => {
    if (abort.signal.aborted) return;
    if (blocked) latest = value;
    else blocked = !call.write(statusCodec.encode(value));
  };
  call.on("drain", () => {
    blocked = false;
    const missed = latest;
    latest = null;
    if (missed !== null) send(missed);
  });
  handlers.watch(request, {
    signal: abort.signal,
    send,
    end: () => {
      if (!abort.signal.aborted) call.end();
    },
  });
}

/** Lets calls in flight finish for a moment, then cuts them. */
function stopServer(server: Server): Promise<void> {
  const drainTimeoutMs = 500;
  return new Promise((resolve) => {
    const force = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, drainTimeoutMs);
    server.tryShutdown(() => {
      clearTimeout(force);
      resolve();
    });
  });
}

function describeProblem(problem: unknown): string {
  if (problem instanceof ZodError)
    return problem.issues.map((i) => `${i.path.join(".")}: ${i.message}`).join("; ");
  return String(problem);
}
