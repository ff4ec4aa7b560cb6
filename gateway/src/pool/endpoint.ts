/** Where a pool's connections go to: a node in a term. */
export type Endpoint = {
  readonly node: string;
  readonly term: number;
  readonly host: string;
  readonly port: number;
};

export const sameEndpoint = (a: Endpoint | undefined, b: Endpoint | undefined): boolean =>
  a === b ||
  (a !== undefined &&
    b !== undefined &&
    a.node === b.node &&
    a.term === b.term &&
    a.host === b.host &&
    a.port === b.port);
