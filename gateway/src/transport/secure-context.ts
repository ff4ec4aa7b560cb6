/** TLS contexts of the server's side, which each transport has to make for itself: they keep what they were made of. */
import { createSecureContext, type SecureContext } from "node:tls";

type Pem = { readonly certificates: Buffer; readonly key: Buffer };

const made = new WeakMap<SecureContext, Pem>();

/** `certificates`: the server's own first, then its chain. */
export function serverContext(certificates: Buffer, key: Buffer): SecureContext {
  const context = createSecureContext({ cert: certificates, key, minVersion: "TLSv1.2" });
  made.set(context, { certificates, key });
  return context;
}

export function pemOf(context: SecureContext): Pem | undefined {
  return made.get(context);
}
