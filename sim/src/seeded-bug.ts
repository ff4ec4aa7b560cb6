// Loads the sources with one seeded bug in them. To be called before anything else of the simulator is imported.

import { registerHooks } from "node:module";
import { applyEdits, mutations } from "./mutations.ts";

/** Returns how many files were edited so far. */
export function seedBug(name: string): () => number {
  const mutation = mutations.find((each) => each.name === name);
  if (mutation === undefined) {
    throw new Error(
      `there is no mutation ${name}; choose one of ${mutations.map((each) => each.name).join(", ")}`,
    );
  }
  const edited = new Set<string>();
  registerHooks({
    load(url, context, nextLoad) {
      const result = nextLoad(url, context);
      if (!mutation.edits.some((edit) => url.endsWith(`/${edit.file}`))) {
        return result;
      }
      edited.add(url);
      return { ...result, source: applyEdits(mutation, url, String(result.source)) };
    },
  });
  return () => edited.size;
}
