/** Lines that tell a person what goes on: `[ 83 s] PostgreSQL 18.6: compiling`. On stderr, so stdout stays clean. */

export type Progress = (stage: string) => void;

export function terminalProgress(subject: string): Progress {
  const startMs = performance.now();
  return (stage) => {
    const elapsed = Math.round((performance.now() - startMs) / 1000);
    process.stderr.write(`[${String(elapsed).padStart(4)} s] ${subject}: ${stage}\n`);
  };
}

export const silent: Progress = () => undefined;
