import t from "tap";
import { readScenario, rewrite, ScenarioRun, scenarioFiles } from "./scenario.ts";

if (process.env.REWRITE === "1") {
  rewrite();
}

const files = scenarioFiles();
t.ok(files.length >= 10, `${files.length} scenario files`);

for (const { name, text } of files) {
  t.test(name, (t) => {
    const run = new ScenarioRun();
    for (const { line, comment, commands, expected } of readScenario(text)) {
      const what = comment.at(-1)?.replace(/^# ?/, "") ?? commands[0] ?? "";
      t.same(run.run(commands), expected, `${name}:${line} ${what}`);
    }
    t.end();
  });
}
