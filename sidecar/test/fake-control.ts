/**
 * A control socket as docs/control-socket.md describes it, without a Postgres behind it: a small model of a node that
 * can be fenced, follow and lead. Its log is a number, its rule is always met.
 */
import { createServer, type Server, type Socket } from "node:net";

export type FakeState = {
  node: string;
  state: "starting" | "fenced" | "follower" | "fetching" | "candidate" | "elected" | "leader" | "stopping";
  term: number;
  fenceTerm: number;
  inRecovery: boolean;
  position: { term: number; lsn: string };
  leader: string | null;
  ruleset: { version: number; text: string } | null;
  rule: string | null;
  quiesced: boolean;
};

export type FakeRequest = { readonly id: number; readonly cmd: string } & Record<string, unknown>;
type Answer = Record<string, unknown>;

export class FakeControl {
  readonly server: Server;
  readonly state: FakeState;
  receiver: () => Answer | null = () => null;
  readonly requests: FakeRequest[] = [];
  /** Instead of the model's own answer; null: no answer at all. */
  override: ((request: FakeRequest) => Answer | null | undefined) | undefined;
  /** Called before anybody hears of a change. */
  onChange: () => void = () => {};
  readonly #sockets = new Set<Socket>();
  readonly #watching = new Set<Socket>();

  constructor(state: Partial<FakeState> = {}) {
    this.state = {
      node: "n1",
      state: "fenced",
      term: 1,
      fenceTerm: 0,
      inRecovery: true,
      position: { term: 1, lsn: "0/1000" },
      leader: null,
      ruleset: null,
      rule: null,
      quiesced: false,
      ...state,
    };
    this.server = createServer((socket) => this.#serve(socket));
  }

  listen(path: string): Promise<void> {
    return new Promise((resolve) => this.server.listen(path, resolve));
  }

  close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.server.close(() => resolve()));
  }

  status(): Answer {
    return {
      ...this.state,
      systemIdentifier: "7441000000000000001",
      pid: process.pid,
      consistent: true,
      commitLsn: this.state.position.lsn,
      termStartLsn: null,
      oldestLsn: null,
      receivedLsn: null,
      flushedLsn: this.state.position.lsn,
      appliedLsn: this.state.position.lsn,
      joint: [],
      receiver: this.receiver(),
      followers: [],
      waiting: 0,
    };
  }

  set(change: Partial<FakeState>): void {
    Object.assign(this.state, change);
    this.onChange();
    for (const socket of this.#watching) send(socket, { event: "status", status: this.status() });
  }

  /** Raw bytes to every connection. */
  write(text: string): void {
    for (const socket of this.#sockets) socket.write(text);
  }

  #serve(socket: Socket): void {
    let partial = "";
    this.#sockets.add(socket);
    socket.setEncoding("utf8");
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#sockets.delete(socket);
      this.#watching.delete(socket);
    });
    socket.on("data", (chunk: string) => {
      const lines = (partial + chunk).split("\n");
      partial = lines.pop() ?? "";
      for (const line of lines) this.#answer(socket, JSON.parse(line) as FakeRequest);
    });
  }

  #answer(socket: Socket, request: FakeRequest): void {
    this.requests.push(request);
    const overridden = this.override?.(request);
    if (overridden === null) return;
    if (request.cmd === "watch") this.#watching.add(socket);
    send(socket, { id: request.id, ...(overridden ?? this.#model(request)) });
  }

  #model(request: FakeRequest): Answer {
    const { state } = this;
    const wanted = Number(request["term"] ?? 0);
    const stale = wanted < state.fenceTerm;
    const refuse = (code: string): Answer => ({ ok: false, code, message: `${request.cmd}: ${code}` });
    switch (request.cmd) {
      case "status":
        return { ok: true, status: this.status() };
      case "watch":
        return { ok: true };
      case "fence": {
        if (stale) return refuse("stale_term");
        const keeps = state.term === wanted && state.state !== "fenced";
        state.fenceTerm = wanted;
        if (!keeps) this.set({ state: "fenced", leader: null });
        const { position, ruleset } = state;
        return { ok: true, position, commitLsn: "0/0", ruleset, tailRulesets: [], status: this.status() };
      }
      case "follow":
        if (stale) return refuse("stale_term");
        if (!state.inRecovery) return refuse("restart_required");
        state.fenceTerm = wanted;
        this.set({ state: "follower", term: wanted, leader: String(request["leader"]) });
        return { ok: true, status: this.status() };
      case "elect": {
        if (stale) return refuse("stale_term");
        if (!state.inRecovery) return refuse("restart_required");
        const position = { term: wanted, lsn: "0/2000" };
        const ruleset = request["ruleset"] as FakeState["ruleset"];
        const rule = String(request["rule"]);
        this.set({
          state: "elected",
          term: wanted,
          fenceTerm: wanted,
          position,
          ruleset,
          rule,
          leader: state.node,
        });
        setImmediate(() => this.set({ state: "leader", inRecovery: false }));
        return { ok: true, position };
      }
      case "fetch":
        return { ok: true, position: request["target"] };
      case "quiesce":
        if (state.state === "leader") this.set({ quiesced: request["on"] === true });
        return state.state === "leader" ? { ok: true, lsn: "0/3000" } : refuse("wrong_state");
      case "ruleset":
        return state.state === "leader" ? { ok: true, lsn: "0/3000" } : refuse("wrong_state");
      default:
        return refuse("bad_request");
    }
  }
}

function send(socket: Socket, message: Answer): void {
  socket.write(`${JSON.stringify(message)}\n`);
}
