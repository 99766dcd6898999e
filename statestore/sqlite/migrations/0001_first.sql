-- What was fixed at first use, and the store's own counters.
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- Actor types, so that other tables hold a small number.
CREATE TABLE types (
    type INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- Which actors there are. A row does not change while its actor exists.
CREATE TABLE actors (
    num INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    id TEXT NOT NULL,
    partition INTEGER NOT NULL
);
CREATE UNIQUE INDEX actors_by_id ON actors (type, id);

-- What every commit of an actor changes: apart from `actors`, so that no index is touched.
CREATE TABLE heads (
    num INTEGER PRIMARY KEY,
    -- The number under which the actor's keys are; a reset gives a new one.
    keyset INTEGER NOT NULL,
    version BLOB NOT NULL,
    -- The two keys that nearly every commit of a workflow puts, here to save a row of `keys` each.
    metadata BLOB,
    custom_status BLOB
);

-- All other keys. Plain ones: numbered 0, name is the key, seq 0. Numbered ones: name is the family.
CREATE TABLE keys (
    keyset INTEGER NOT NULL,
    numbered INTEGER NOT NULL,
    name TEXT NOT NULL,
    seq INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (keyset, numbered, name, seq)
) WITHOUT ROWID;

-- Numbers whose keys belong to nobody any more and are still to be deleted.
CREATE TABLE garbage (keyset INTEGER PRIMARY KEY);

-- The mark `recover`.
CREATE TABLE owing (
    type INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    num INTEGER NOT NULL,
    PRIMARY KEY (type, partition, num)
) WITHOUT ROWID;

CREATE TABLE reminders (
    num INTEGER NOT NULL,
    name TEXT NOT NULL,
    type INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    id TEXT NOT NULL,
    due INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (num, name)
) WITHOUT ROWID;
CREATE INDEX reminders_by_due ON reminders (type, due, id, name, partition);

-- The index rows. A list of one status must not read those of a million others, and a list of all is a merge over
-- the few statuses: so this one index serves both.
CREATE TABLE instances (
    num INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    details BLOB NOT NULL
);
CREATE INDEX instances_by_status ON instances (type, status, created DESC, id);

CREATE TABLE fences (
    type INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    term INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    released INTEGER NOT NULL,
    PRIMARY KEY (type, partition)
) WITHOUT ROWID;

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    term INTEGER NOT NULL,
    value BLOB
) WITHOUT ROWID;

-- For people: every key of every actor under the names that the contract gives them.
CREATE VIEW state AS
SELECT t.name AS actor_type, a.id AS actor_id,
    CASE k.numbered WHEN 0 THEN k.name ELSE k.name || printf('%06d', k.seq) END AS key, k.value AS value
FROM actors a JOIN types t USING (type) JOIN heads h USING (num) JOIN keys k USING (keyset)
UNION ALL
SELECT t.name, a.id, 'metadata', h.metadata
FROM actors a JOIN types t USING (type) JOIN heads h USING (num) WHERE h.metadata IS NOT NULL
UNION ALL
SELECT t.name, a.id, 'customStatus', h.custom_status
FROM actors a JOIN types t USING (type) JOIN heads h USING (num) WHERE h.custom_status IS NOT NULL;
