/** A bare client of the control socket (docs/control-socket.md) that can also send what isn't a request. */
import { connect, type Socket } from "node:net";

export type Json = { readonly [key: string]: unknown };

export type Position = { readonly term: number; readonly lsn: string };

export type FollowerStatus = {
  readonly node: string;
  readonly member: boolean;
  readonly timeline: number;
  readonly flushedLsn: string | null;
  readonly appliedLsn: string | null;
};

export type Ruleset = { readonly version: number; readonly text: string };

export type Status = {
  readonly node: string;
  readonly state: string;
  readonly term: number;
  readonly fenceTerm: number;
  readonly pid: number;
  readonly inRecovery: boolean;
  readonly consistent: boolean;
  readonly position: Position | null;
  readonly commitLsn: string | null;
  readonly receivedLsn: string | null;
  readonly flushedLsn: string | null;
  readonly appliedLsn: string | null;
  readonly rule: string | null;
  readonly joint: readonly string[];
  readonly ruleset: Ruleset | null;
  readonly leader: string | null;
  readonly receiver: {
    readonly state: string;
    readonly timeline: number;
    readonly lastMessageAgeMs: number | null;
  } | null;
  readonly followers: readonly FollowerStatus[];
  readonly quiesced: boolean;
  readonly waiting: number;
  readonly stalenessMs: number | null;
};

export type Response = {
  readonly id: unknown;
  readonly ok: boolean;
  readonly code?: string;
  readonly message?: string;
  readonly position?: Position;
  readonly commitLsn?: string | null;
  readonly lsn?: string | null;
  readonly ruleset?: Ruleset | null;
  readonly tailRulesets?: readonly Ruleset[];
  readonly status?: Status;
};

export type StatusEvent = { readonly event: "status"; readonly status: Status };

export type Control = {
  /** Sends a request under the next id and waits for its response. */
  request(body: Json, timeoutMs?: number): Promise<Response>;
  /** Sends bytes as they are. */
  raw(text: string | Buffer): void;
  /** The next response that no request() waits for. */
  nextResponse(timeoutMs?: number): Promise<Response>;
  /** The next event that fits. Events that came before are looked at first. */
  nextEvent(fits?: (event: StatusEvent) => boolean, timeoutMs?: number): Promise<StatusEvent>;
  /** True when the server has closed the connection within the time. */
  closed(timeoutMs?: number): Promise<boolean>;
  close(): void;
};

const defaultTimeoutMs = 20_000;

/** Values that were delivered before somebody asked for them, and askers that came before. */
function mailbox<T>(what: string) {
  const items: T[] = [];
  let wake: (() => void)[] = [];
  return {
    put(item: T) {
      items.push(item);
      for (const each of wake) each();
      wake = [];
    },
    async take(fits: (item: T) => boolean, timeoutMs: number): Promise<T> {
      const deadlineMs = performance.now() + timeoutMs;
      for (;;) {
        const at = items.findIndex(fits);
        const [item] = at < 0 ? [] : items.splice(at, 1);
        if (item !== undefined) return item;
        const leftMs = deadlineMs - performance.now();
        if (leftMs <= 0) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, leftMs);
          wake.push(() => {
            clearTimeout(timer);
            resolve();
          });
        });
      }
    },
  };
}

function connectOnce(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("connect", () => resolve(socket));
    socket.once("error", reject);
  });
}

export async function connectControl(path: string): Promise<Control> {
  const socket = await connectOnce(path);
  const responses = mailbox<Response>("a response");
  const events = mailbox<StatusEvent>("an event");
  const end = mailbox<true>("the end of the connection");
  let rest = "";
  let lastId = 0;

  socket.setEncoding("utf8");
  socket.on("data", (chunk: string) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const message: Response | StatusEvent = JSON.parse(line);
      if ("event" in message) events.put(message);
      else responses.put(message);
    }
  });
  socket.on("error", () => undefined); // "close" follows
  socket.on("close", () => end.put(true));

  return {
    async request(body, timeoutMs = defaultTimeoutMs) {
      lastId += 1;
      const id = lastId;
      socket.write(`${JSON.stringify({ id, ...body })}\n`);
      return await responses.take((response) => response.id === id, timeoutMs);
    },
    raw: (text) => {
      socket.write(text);
    },
    nextResponse: (timeoutMs = defaultTimeoutMs) => responses.take(() => true, timeoutMs),
    nextEvent: (fits = () => true, timeoutMs = defaultTimeoutMs) => events.take(fits, timeoutMs),
    closed: (timeoutMs = defaultTimeoutMs) => end.take(() => true, timeoutMs).catch(() => false),
    close: () => {
      socket.destroy();
    },
  };
}
