/** Certificates in PEM files that are renewed while processes run. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";

/** Paths of PEM files. */
export type TlsFiles = { readonly ca: string; readonly cert: string; readonly key: string };

export type TlsTexts = { readonly ca: string; readonly cert: string; readonly key: string };

/** Throws unless certificate and key belong together: they are replaced one after the other. */
export function readTlsFiles(files: TlsFiles): TlsTexts {
  const [ca, cert, key] = [files.ca, files.cert, files.key].map((file) => readFileSync(file, "utf8"));
  const texts = { ca: ca ?? "", cert: cert ?? "", key: key ?? "" };
  if (!new X509Certificate(texts.cert).checkPrivateKey(createPrivateKey(texts.key)))
    throw new Error(`${files.cert} and ${files.key} don't belong together`);
  return texts;
}

const lookIntervalMs = 2_000;

/** Looks at the files every two seconds; files that can't be used are looked at again the next time. */
export function watchTlsFiles(
  files: TlsFiles,
  changed: (texts: TlsTexts) => void,
  failed: (error: unknown) => void = () => undefined,
): () => void {
  const texts = (): string => JSON.stringify(readTlsFiles(files));
  let known = texts();
  let complained = "";
  const look = (): void => {
    try {
      const now = texts();
      complained = "";
      if (now === known) return;
      changed(JSON.parse(now) as TlsTexts);
      known = now;
    } catch (error) {
      if (complained !== String(error)) failed(error);
      complained = String(error);
    }
  };
  const timer = setInterval(look, lookIntervalMs).unref();
  return () => clearInterval(timer);
}
