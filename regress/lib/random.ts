/** Choices that a seed repeats. */
export type Random = ReturnType<typeof makeRandom>;

export function makeRandom(seed: number) {
  let state = seed >>> 0;
  /** A whole number from 0 to below `limit`. */
  const below = (limit: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % limit;
  };
  const pick = <T>(items: readonly T[]): T => {
    const item = items[below(items.length)];
    if (item === undefined) throw new RangeError("nothing to choose from");
    return item;
  };
  const shuffle = <T>(items: readonly T[]): T[] => {
    const rest = [...items];
    const shuffled: T[] = [];
    while (rest.length > 0) shuffled.push(...rest.splice(below(rest.length), 1));
    return shuffled;
  };
  return { below, pick, shuffle, chance: (oneIn: number) => below(oneIn) === 0 };
}
