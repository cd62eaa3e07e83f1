-- Files of bills. Lines and what they have in common have ids of their import x 2^32 and the row of the file.
CREATE TABLE bill_imports (
  id       INTEGER PRIMARY KEY,
  hash     TEXT NOT NULL UNIQUE,
  name     TEXT NOT NULL,
  format   TEXT NOT NULL,
  done     INTEGER NOT NULL,
  position INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  report   TEXT NOT NULL
);

-- The accounts and months that a file has lines of.
CREATE TABLE bill_scopes (
  import  INTEGER NOT NULL,
  account TEXT NOT NULL,
  period  INTEGER NOT NULL,
  PRIMARY KEY (import, account, period)
);

-- What lines have in common; the same may be there several times.
CREATE TABLE bill_dims (
  id             INTEGER PRIMARY KEY,
  account        TEXT NOT NULL,
  period         INTEGER NOT NULL,
  provider       TEXT NOT NULL,
  sub_account    TEXT NOT NULL,
  service        TEXT NOT NULL,
  sku            TEXT NOT NULL,
  meter          TEXT NOT NULL,
  region         TEXT NOT NULL,
  resource       TEXT NOT NULL,
  resource_group TEXT NOT NULL,
  category       TEXT NOT NULL,
  unit           TEXT NOT NULL,
  currency       TEXT NOT NULL,
  tags           TEXT NOT NULL,
  feature        TEXT NOT NULL,
  model          TEXT NOT NULL,
  token_class    TEXT NOT NULL,
  service_tier   TEXT NOT NULL
);

-- Amounts are nanos and, as _atto, what rounding took off in 10^-18. gone is the import that took the line's place, or 0.
CREATE TABLE bill_lines (
  id             INTEGER PRIMARY KEY,
  dim            INTEGER NOT NULL,
  key1           INTEGER NOT NULL,
  key2           INTEGER NOT NULL,
  day            INTEGER NOT NULL,
  start_s        INTEGER NOT NULL,
  end_s          INTEGER NOT NULL,
  quantity       INTEGER NOT NULL,
  quantity_nanos INTEGER NOT NULL,
  tokens         INTEGER NOT NULL,
  billed         INTEGER NOT NULL,
  billed_atto    INTEGER NOT NULL,
  effective      INTEGER,
  effective_atto INTEGER NOT NULL,
  list           INTEGER,
  list_atto      INTEGER NOT NULL,
  gone           INTEGER NOT NULL
);
INSERT INTO meta (name, value) VALUES ('bills', 0);
