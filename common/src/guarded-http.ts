/**
 * Small HTTP servers for monitoring that answer nobody whom they don't know: a client certificate of the cluster's own
 * authority, or the cluster's token as `Authorization: Bearer …`. What is open to everybody is said route by route.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import * as https from "node:https";
import type { AddressInfo } from "node:net";
import { TLSSocket } from "node:tls";
import { messageOf } from "./errors.ts";
import { hasToken } from "./secret-file.ts";
import { readTlsFiles, type TlsFiles, type TlsTexts, watchTlsFiles } from "./tls-files.ts";

export interface HttpAnswer {
  readonly code?: number;
  readonly type: string;
  readonly body: string;
}

export interface HttpRoute {
  /** Answered to everybody, with `known` false. */
  readonly open?: boolean;
  readonly answer: (known: boolean) => HttpAnswer | Promise<HttpAnswer>;
}

export interface GuardedHttpOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly routes: Readonly<Record<string, HttpRoute>>;
  /** With it HTTPS is spoken, and a certificate of this authority suffices. */
  readonly tls?: TlsFiles | undefined;
  /** Read at each request. Neither this nor TLS: everybody is answered. */
  readonly token?: (() => string) | undefined;
  readonly onError?: (error: unknown) => void;
}

export interface GuardedHttp {
  readonly port: number;
  close(): void;
}

const requestTimeoutMs = 5_000;

export const jsonAnswer = (body: string, code = 200): HttpAnswer => ({
  code,
  type: "application/json",
  body,
});

export async function startGuardedHttp(options: GuardedHttpOptions): Promise<GuardedHttp> {
  const { host, port, tls, onError = () => undefined } = options;
  const handle = (request: IncomingMessage, response: ServerResponse): void => {
    answer(options, request).then(
      (result) => send(response, result),
      (error: unknown) => {
        onError(error);
        send(response, text(500, `${messageOf(error)}\n`));
      },
    );
  };
  const secure = tls === undefined ? undefined : https.createServer(contextOf(readTlsFiles(tls)), handle);
  const server = secure ?? createServer(handle);
  const unwatch =
    tls === undefined || secure === undefined
      ? () => undefined
      : watchTlsFiles(tls, (texts) => secure.setSecureContext(contextOf(texts)), onError);
  server.requestTimeout = requestTimeoutMs;
  server.headersTimeout = requestTimeoutMs;
  server.unref();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.removeListener("error", reject);
      resolve();
    });
  });
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      unwatch();
      server.close();
      server.closeAllConnections();
    },
  };
}

/** Who shows no certificate is let in so far, and then needs the token. */
function contextOf({ ca, cert, key }: TlsTexts): https.ServerOptions {
  return { ca, cert, key, requestCert: true, rejectUnauthorized: false, minVersion: "TLSv1.2" };
}

async function answer(options: GuardedHttpOptions, request: IncomingMessage): Promise<HttpAnswer> {
  const { routes } = options;
  const path = (request.url ?? "/").split("?", 1)[0] ?? "/";
  const route = Object.hasOwn(routes, path) ? routes[path] : undefined;
  const known = isKnown(options, request);
  if (!known && route?.open !== true) return text(401, "show a client certificate or the cluster's token\n");
  if (request.method !== "GET" && request.method !== "HEAD") return text(405, "only GET is possible\n");
  if (route === undefined) return text(404, `there are ${Object.keys(routes).join(", ")}\n`);
  return await route.answer(known);
}

function isKnown({ tls, token }: GuardedHttpOptions, { socket, headers }: IncomingMessage): boolean {
  if (tls === undefined && token === undefined) return true;
  if (socket instanceof TLSSocket && socket.authorized) return true;
  // A token that can't be read throws: nobody is let in, and the log says why.
  return token !== undefined && hasToken(headers.authorization, token());
}

function text(code: number, body: string): HttpAnswer {
  return { code, type: "text/plain", body };
}

function send(response: ServerResponse, { code = 200, type, body }: HttpAnswer): void {
  const challenge = code === 401 ? { "www-authenticate": "Bearer" } : {};
  response.writeHead(code, { "content-type": type, "cache-control": "no-store", ...challenge }).end(body);
}

export interface HttpRequest {
  readonly host: string;
  readonly port: number;
  readonly path: string;
  /** What the server's certificate is checked against, when its address isn't in it. */
  readonly serverName?: string;
  readonly tls?: TlsFiles | undefined;
  readonly token?: string | undefined;
  readonly timeoutMs: number;
}

/** GET as one of the cluster. */
export async function guardedGet(
  asked: HttpRequest,
): Promise<{ readonly code: number; readonly body: string }> {
  const { host, port, path, serverName, tls, token, timeoutMs } = asked;
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const signal = AbortSignal.timeout(timeoutMs);
  if (tls === undefined) {
    const response = await fetch(`http://${host}:${port}${path}`, { headers, signal });
    return { code: response.status, body: await response.text() };
  }
  const identity = { ...readTlsFiles(tls), ...(serverName === undefined ? {} : { servername: serverName }) };
  return await new Promise((resolve, reject) => {
    const request = https.get(
      { host, port, path, headers, signal, agent: false, ...identity },
      (response) => {
        let body = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => (body += chunk));
        response.on("end", () => resolve({ code: response.statusCode ?? 0, body }));
        response.on("error", reject);
      },
    );
    request.on("error", reject);
  });
}
