/** Loaded before postgres.js's tests: their `./test.js` is our harness. */
import { registerHooks } from "node:module";
import { pathToFileURL } from "node:url";

registerHooks({
  resolve(specifier, context, next) {
    if (specifier === "./test.js" && context.parentURL?.endsWith("/tests/index.js") === true)
      return next(pathToFileURL(process.env["JUDGE_HARNESS"] ?? "").href, context);
    return next(specifier, context);
  },
});
