-- Statements that read. Each is run packed (pack.py): its rows come as one, because each row that sqlite3 returns is a
-- wait for the interpreter's lock. `gives:` names the columns, `blobs:` the binary ones, which come last.

-- name: find_actors columns: 2 gives: type id num keyset blobs: version
-- The numbers and versions of those of (type, id) that exist.
SELECT a.type, a.id, a.num, h.keyset, h.version
FROM (VALUES {rows}) v
CROSS JOIN actors a ON a.type = v.column1 AND a.id = v.column2
CROSS JOIN heads h ON h.num = a.num;

-- name: knows
-- Whether there is an actor.
SELECT 1 FROM actors WHERE type = ? AND id = ?;

-- name: load columns: 2 gives: type id recover listing blobs: version metadata custom_status body
-- Those of (type, id) that exist, with up to 999 of their keys: `listing` says what `body` is made of.
SELECT a.type, a.id,
    EXISTS (SELECT 1 FROM owing o WHERE o.type = a.type AND o.partition = a.partition AND o.num = a.num) AS recover,
    (SELECT json_group_array(json_array(numbered, name, seq, size)) FROM (
        SELECT numbered, name, seq, length(value) AS size FROM keys WHERE keyset = h.keyset ORDER BY numbered, name, seq LIMIT 999)) AS listing,
    h.version, h.metadata, h.custom_status,
    (SELECT CAST(group_concat(value, '') AS BLOB) FROM (
        SELECT value FROM keys WHERE keyset = h.keyset ORDER BY numbered, name, seq LIMIT 999)) AS body
FROM (VALUES {rows}) v
CROSS JOIN actors a ON a.type = v.column1 AND a.id = v.column2
CROSS JOIN heads h ON h.num = a.num;

-- name: head gives: keyset recover blobs: version metadata custom_status
-- One actor's head.
SELECT h.keyset,
    EXISTS (SELECT 1 FROM owing o WHERE o.type = a.type AND o.partition = a.partition AND o.num = a.num) AS recover,
    h.version, h.metadata, h.custom_status
FROM actors a CROSS JOIN heads h ON h.num = a.num
WHERE a.type = :type AND a.id = :id;

-- name: keys_of_family gives: numbered name seq blobs: value
-- The keys of one numbered family, from a number on.
SELECT numbered, name, seq, value FROM keys
WHERE keyset = :keyset AND numbered = 1 AND name = :family AND seq >= :seq
ORDER BY seq LIMIT :limit;

-- name: keys_between gives: numbered name seq blobs: value
-- Whole families, or plain keys, from one name on and before another; NULL: to the end.
SELECT numbered, name, seq, value FROM keys
WHERE keyset = :keyset AND numbered = :numbered AND name >= :low AND (:high IS NULL OR name < :high)
ORDER BY name, seq LIMIT :limit;

-- name: next_family gives: name
-- The first numbered family after this name.
SELECT name FROM keys WHERE keyset = :keyset AND numbered = 1 AND name > :name ORDER BY name LIMIT 1;

-- name: owing gives: partition num id
-- Actors with the mark `recover`, after a place, in the partitions of a JSON array; NULL: in all.
SELECT o.partition, o.num, a.id FROM owing o CROSS JOIN actors a ON a.num = o.num
WHERE o.type = :type AND (o.partition, o.num) > (:partition, :num)
    AND (:held IS NULL OR o.partition IN (SELECT value FROM json_each(:held)))
ORDER BY o.partition, o.num LIMIT :limit;

-- name: due gives: due id name blobs: data
-- What is due, after a place, in the partitions of a JSON array; NULL: in all.
SELECT i.due, i.id, i.name, r.data
FROM reminders i INDEXED BY reminders_by_due CROSS JOIN reminders r ON r.num = i.num AND r.name = i.name
WHERE i.type = :type AND i.due <= :until AND (i.due, i.id, i.name) > (:due, :id, :name)
    AND (:held IS NULL OR i.partition IN (SELECT value FROM json_each(:held)))
ORDER BY i.due, i.id, i.name LIMIT :limit;

-- name: reminders gives: name due blobs: data
-- One actor's reminders.
SELECT r.name, r.due, r.data FROM actors a CROSS JOIN reminders r ON r.num = a.num
WHERE a.type = :type AND a.id = :id ORDER BY r.name;

-- name: row gives: id name status created updated blobs: details
-- One actor's index row.
SELECT i.id, i.name, i.status, i.created, i.updated, i.details
FROM actors a CROSS JOIN instances i ON i.num = a.num WHERE a.type = :type AND a.id = :id;

-- name: next_status gives: status
-- The first status after this text.
SELECT status FROM instances WHERE type = :type AND status > :status ORDER BY status LIMIT 1;

-- name: count gives: count
-- How many rows of one status there are, up to a limit: reads only the index.
SELECT count(*) AS count FROM (
    SELECT 1 FROM instances INDEXED BY instances_by_status WHERE type = :type AND status = :status LIMIT :limit);

-- name: query gives: id name status created updated blobs: details
-- Index rows of one status, newest first, after a place.
SELECT id, name, status, created, updated, details FROM instances INDEXED BY instances_by_status
WHERE type = :type AND status = :status AND created >= :from AND created < :to
    AND created <= :created AND (created < :created OR id > :id)
    AND (:name IS NULL OR name = :name) AND substr(id, 1, length(:prefix)) = :prefix
ORDER BY created DESC, id LIMIT :limit;

-- name: lease
-- A lease's term and value.
SELECT term, value FROM leases WHERE name = ?;
