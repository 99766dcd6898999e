-- Statements that write. `{rows}` stands for as many rows `(?, …)` as a call has, filled up with rows of NULL to the
-- next size that is kept prepared; WHERE column1 IS NOT NULL leaves those out. One statement writes a table's rows of
-- a whole batch, because each step of a statement is a wait for the interpreter's lock.

-- name: put_types columns: 2
-- New actor types.
INSERT INTO types (type, name) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL;

-- name: put_settings columns: 2
INSERT INTO settings (name, value) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: put_actors columns: 4
-- New actors: num, type, id, partition.
INSERT INTO actors (num, type, id, partition) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL;

-- name: put_heads_0 columns: 5
-- The commit touches neither metadata nor customStatus: both stay.
INSERT INTO heads (num, keyset, version, metadata, custom_status)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (num) DO UPDATE SET version = excluded.version;

-- name: put_heads_1 columns: 5
-- It touches metadata only.
INSERT INTO heads (num, keyset, version, metadata, custom_status)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (num) DO UPDATE SET version = excluded.version, metadata = excluded.metadata;

-- name: put_heads_2 columns: 5
-- It touches customStatus only.
INSERT INTO heads (num, keyset, version, metadata, custom_status)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (num) DO UPDATE SET version = excluded.version, custom_status = excluded.custom_status;

-- name: put_heads_3 columns: 5
-- It touches both, or is a reset, or the actor is new.
INSERT INTO heads (num, keyset, version, metadata, custom_status)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (num) DO UPDATE SET keyset = excluded.keyset, version = excluded.version,
    metadata = excluded.metadata, custom_status = excluded.custom_status;

-- name: put_keys columns: 5
INSERT INTO keys (keyset, numbered, name, seq, value)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (keyset, numbered, name, seq) DO UPDATE SET value = excluded.value;

-- name: delete_keys columns: 4
DELETE FROM keys WHERE (keyset, numbered, name, seq) IN (VALUES {rows});

-- name: put_garbage columns: 1
INSERT INTO garbage (keyset) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL;

-- name: put_owing columns: 3
INSERT OR IGNORE INTO owing (type, partition, num)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL;

-- name: delete_owing columns: 3
DELETE FROM owing WHERE (type, partition, num) IN (VALUES {rows});

-- name: put_reminders columns: 7
INSERT OR REPLACE INTO reminders (num, name, type, partition, id, due, data)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL;

-- name: delete_reminders columns: 2
DELETE FROM reminders WHERE (num, name) IN (VALUES {rows});

-- name: clear_reminders columns: 1
DELETE FROM reminders WHERE num IN (VALUES {rows});

-- name: put_instances columns: 8
INSERT INTO instances (num, type, id, name, status, created, updated, details)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (num) DO UPDATE SET name = excluded.name, status = excluded.status, created = excluded.created,
    updated = excluded.updated, details = excluded.details;

-- name: delete_instances columns: 1
DELETE FROM instances WHERE num IN (VALUES {rows});

-- name: delete_heads columns: 1
DELETE FROM heads WHERE num IN (VALUES {rows});

-- name: delete_actors columns: 1
DELETE FROM actors WHERE num IN (VALUES {rows});

-- name: put_fences columns: 5
INSERT INTO fences (type, partition, term, epoch, released)
SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (type, partition) DO UPDATE SET
    term = excluded.term, epoch = excluded.epoch, released = excluded.released;

-- name: put_leases columns: 3
INSERT INTO leases (name, term, value) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (name) DO UPDATE SET term = excluded.term, value = excluded.value;
