/** The limits of one database and user: the general ones, then every override that fits, the last one wins. Pure. */
import type { Config } from "./config.ts";
import type { PoolLimits } from "./pool/pool-host.ts";

export function limitsFor(config: Config, database: string, user: string): PoolLimits {
  const { requestMs, transactionMs, idleInTransactionMs, clientIdleMs } = config.limits;
  let limits: PoolLimits = {
    ...config.pool,
    requestMs,
    transactionMs,
    idleInTransactionMs,
    clientIdleMs,
    clients: Number.POSITIVE_INFINITY,
  };
  for (const { database: ofDatabase, user: ofUser, ...given } of config.overrides) {
    if (ofDatabase !== undefined && ofDatabase !== database) continue;
    if (ofUser !== undefined && ofUser !== user) continue;
    const said = Object.entries(given).filter(([, value]) => value !== undefined);
    limits = { ...limits, ...Object.fromEntries(said) };
  }
  return limits;
}
