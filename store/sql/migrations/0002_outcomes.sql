-- How holds ended for the user, 2 bits each by seq % 4096: 0 not known, else usage.Outcome. Bits are set once.
CREATE TABLE hold_outcomes (
  owner   TEXT NOT NULL,
  chunk   INTEGER NOT NULL,
  marks   BLOB NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (owner, chunk)
);

-- Runs and users' tasks: where their last call is counted, and how they ended. counted: the outcome is in the rollups.
CREATE TABLE tasks (
  kind    INTEGER NOT NULL,
  feature TEXT NOT NULL,
  id      TEXT NOT NULL,
  hour    INTEGER NOT NULL,
  dim     INTEGER NOT NULL,
  calls   INTEGER NOT NULL,
  outcome INTEGER NOT NULL,
  counted INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (kind, feature, id)
);
CREATE INDEX tasks_by_update ON tasks (updated);

CREATE TABLE decisions (
  id      TEXT PRIMARY KEY,
  time    INTEGER NOT NULL,
  feature TEXT NOT NULL,
  effect  TEXT NOT NULL,
  cohort  TEXT NOT NULL,
  run     TEXT NOT NULL,
  model   TEXT NOT NULL,
  reason  TEXT NOT NULL,
  data    TEXT NOT NULL
);
CREATE INDEX decisions_by_time ON decisions (time, id);
CREATE INDEX decisions_by_feature ON decisions (feature, time, id);

CREATE TABLE adjustments (
  id       TEXT PRIMARY KEY,
  time     INTEGER NOT NULL,
  hour     INTEGER NOT NULL,
  dim      INTEGER NOT NULL,
  amount   INTEGER NOT NULL,
  reason   TEXT NOT NULL,
  corrects TEXT NOT NULL
);
CREATE INDEX adjustments_by_hour ON adjustments (hour, id);

-- compacting: until when, in Unix milliseconds, one server tidies up.
INSERT INTO meta (name, value) VALUES ('compacting', 0);
