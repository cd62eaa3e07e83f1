-- What can be counted for, once each; id is dense, so that sums can be found by it.
CREATE TABLE dims (
  id   INTEGER PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  data TEXT NOT NULL
);

-- Sums, packed: level 0 of an hour, 1 of a day, 2 of a month. Several rows of one level and start add up. A row that is
-- folded is counted in the level above as well.
CREATE TABLE rollups (
  id     INTEGER PRIMARY KEY,
  level  INTEGER NOT NULL,
  start  INTEGER NOT NULL,
  folded INTEGER NOT NULL,
  data   BLOB NOT NULL
);
CREATE INDEX rollups_by_start ON rollups (level, start, folded, id);

-- The batches of the journals that are counted, as runs of numbers.
CREATE TABLE applied (
  owner   TEXT NOT NULL,
  from_n  INTEGER NOT NULL,
  to_n    INTEGER NOT NULL,
  newest  INTEGER NOT NULL,
  PRIMARY KEY (owner, from_n)
);

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
);
-- rollups: the newest id of a row. hours_from: hours before this day are no longer kept, only days.
INSERT INTO meta (name, value) VALUES ('rollups', 0), ('hours_from', 0);
