/** Logs so many clients in and holds them until it is killed: `gateway-holder.ts port count address tls`. */
import * as net from "node:net";
import * as tls from "node:tls";
import { startup } from "../gateway/src/wire/build.ts";
import { sslRequestCode } from "../gateway/src/wire/codec.ts";

const [, , port = "", count = "", localAddress = "", secure = ""] = process.argv;
const atOnce = 50;
const hello = startup([
  ["user", "postgres"],
  ["database", "postgres"],
]);

async function login(): Promise<net.Socket> {
  const plain = net.connect({ host: "127.0.0.1", port: Number(port), localAddress });
  await once(plain, "connect");
  let socket = plain;
  if (secure === "true") {
    const request = Buffer.alloc(8);
    request.writeInt32BE(8, 0);
    request.writeInt32BE(sslRequestCode, 4);
    plain.write(request);
    await once(plain, "data");
    socket = tls.connect({ socket: plain, rejectUnauthorized: false, ALPNProtocols: ["postgresql"] });
    await once(socket, "secureConnect");
  }
  socket.write(hello);
  let last = Buffer.alloc(0);
  while (last.at(-6) !== 0x5a) last = Buffer.concat([last, (await once(socket, "data")) as Buffer]);
  socket.on("error", () => process.exit(1));
  socket.on("end", () => process.exit(1));
  return socket;
}

function once(socket: net.Socket, event: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once(event, (value) => {
      socket.off("error", reject);
      resolve(value);
    });
  });
}

const held: net.Socket[] = [];
while (held.length < Number(count)) {
  const some = Array.from({ length: Math.min(atOnce, Number(count) - held.length) }, login);
  held.push(...(await Promise.all(some)));
}
process.stdout.write("ready\n");
