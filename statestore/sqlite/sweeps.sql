-- Statements that empty the garbage, a bounded number of rows at a time.

-- name: sweep_keys
-- Deletes up to :rows keys of the oldest garbage.
DELETE FROM keys WHERE (keyset, numbered, name, seq) IN (
    SELECT k.keyset, k.numbered, k.name, k.seq
    FROM (SELECT keyset FROM garbage ORDER BY keyset LIMIT :sets) g CROSS JOIN keys k USING (keyset)
    LIMIT :rows
);

-- name: sweep_garbage
-- Forgets the numbers among the oldest that have no keys left.
DELETE FROM garbage WHERE keyset IN (SELECT keyset FROM garbage ORDER BY keyset LIMIT :sets)
    AND NOT EXISTS (SELECT 1 FROM keys k WHERE k.keyset = garbage.keyset);

-- name: has_garbage
SELECT EXISTS (SELECT 1 FROM garbage);
