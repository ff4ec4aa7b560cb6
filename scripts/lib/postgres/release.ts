/** The PostgreSQL releases that our patch series are made for. */

export type PostgresRelease = {
  readonly major: number;
  readonly version: string;
  /** Of upstream's `postgresql-<version>.tar.bz2`; the distribution carries the same file. */
  readonly sha256: string;
};

export const defaultRelease: PostgresRelease = {
  major: 18,
  version: "18.6",
  sha256: "555610c24d53e4316da5b7d3fc25c279d96856d5e0e23ee308c328c5fa881d9f",
};

export function tarballName(release: PostgresRelease): string {
  return `postgresql-${release.version}.tar.bz2`;
}
