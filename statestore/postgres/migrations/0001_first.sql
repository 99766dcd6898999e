-- Everything is in one schema, written `perdure.` here and replaced by the store's own. What is changed later comes in
-- a migration of its own: a function that older releases call keeps its name and arguments as long as they may.

-- What was fixed at first use, and which migrations ran.
CREATE TABLE perdure.settings (
    name text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL
);

-- Actor types, so that other tables hold a number: a hash of the name, which every process can compute. A row is there
-- from the first `take` of the type on, and shows that no two names have the same.
CREATE TABLE perdure.types (
    type bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- Gives the numbers of actors and key sets.
CREATE SEQUENCE perdure.numbers;

-- Every actor: who it is, and what each of its commits changes. No index has a column that changes, and pages have
-- room, so that a new version of a row stays beside the old one (HOT) and no index is touched.
CREATE TABLE perdure.actors (
    num bigint NOT NULL,
    type bigint NOT NULL,
    -- The number under which the actor's keys are; a reset gives a new one. `former`: the one before the last reset.
    keyset bigint NOT NULL,
    former bigint,
    partition integer NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bytea NOT NULL,
    -- The two keys that nearly every commit of a workflow puts, here to save a row of `keys` each.
    metadata bytea,
    custom_status bytea,
    PRIMARY KEY (type, id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);

-- All other keys. `place` is the key's text made so that the order of bytes is that of keys. Plain ones: \x00, the text.
-- Numbered ones: \x01, the family (a byte \x00 in it as \x00ff), \x0000, the number as eight bytes.
CREATE TABLE perdure.keys (
    keyset bigint NOT NULL,
    place bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (keyset, place)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1);

-- Numbers whose keys belong to nobody any more and are still to be deleted.
CREATE TABLE perdure.garbage (keyset bigint PRIMARY KEY)
WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);

-- The mark `recover`.
CREATE TABLE perdure.owing (
    type bigint NOT NULL,
    partition integer NOT NULL,
    num bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (type, partition, num)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

CREATE TABLE perdure.reminders (
    num bigint NOT NULL,
    type bigint NOT NULL,
    due bigint NOT NULL,
    partition integer NOT NULL,
    id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (num, name)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
CREATE INDEX reminders_by_due ON perdure.reminders (type, due, id, name);

-- The index rows. A list of one status must not read those of a million others, and a list of all is a merge over
-- the few statuses: so this one index serves both.
CREATE TABLE perdure.instances (
    num bigint PRIMARY KEY,
    type bigint NOT NULL,
    created bigint NOT NULL,
    updated bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    details bytea NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
CREATE INDEX instances_by_status ON perdure.instances (type, status, created DESC, id);

-- A commit locks the rows of its partitions FOR SHARE until it ends, and `take` changes them: so what passed under a
-- fence is committed before the next one is raised.
CREATE TABLE perdure.fences (
    type bigint NOT NULL,
    partition integer NOT NULL,
    term bigint NOT NULL,
    epoch bigint NOT NULL,
    released boolean NOT NULL,
    PRIMARY KEY (type, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 500);

CREATE TABLE perdure.leases (
    name text COLLATE "C" PRIMARY KEY,
    term bigint NOT NULL,
    -- How often the holder of this term wrote.
    writes bigint NOT NULL,
    value bytea
) WITH (fillfactor = 50);

-- For people: every key of every actor under the name that it has there.
CREATE FUNCTION perdure.key_text(place bytea) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN position('\x00'::bytea IN name) = 0 THEN convert_from(name, 'UTF8') ELSE encode(name, 'escape') END
        || CASE WHEN number IS NULL THEN '' ELSE lpad(number, greatest(6, length(number)), '0') END
    FROM (SELECT
        CASE get_byte(place, 0) WHEN 0 THEN substr(place, 2) ELSE substr(place, 2, length(place) - 11) END AS name,
        CASE get_byte(place, 0) WHEN 1 THEN
            (('x' || encode(substr(place, length(place) - 7), 'hex'))::bit(64)::bigint)::text END AS number
    ) parts
$$;
CREATE VIEW perdure.state AS
SELECT t.name AS actor_type, a.id AS actor_id, perdure.key_text(k.place) AS key, k.value AS value
FROM perdure.actors a JOIN perdure.types t USING (type) JOIN perdure.keys k USING (keyset)
UNION ALL
SELECT t.name, a.id, 'metadata', a.metadata
FROM perdure.actors a JOIN perdure.types t USING (type) WHERE a.metadata IS NOT NULL
UNION ALL
SELECT t.name, a.id, 'customStatus', a.custom_status
FROM perdure.actors a JOIN perdure.types t USING (type) WHERE a.custom_status IS NOT NULL;

-- The functions. How their statements are written keeps each on its index, whatever the statistics of a new table say:
-- a loop over places (`generate_series`) on the outside, and what it looks up in a LATERAL subquery that OFFSET 0 keeps
-- from being joined otherwise; where a table is changed, `= ANY (ARRAY[…])` for the first column of its index, since `=`
-- would make a scan of the whole index, joined the other way round, worth a thought of the planner's. Subscripts cost nothing here: PL/pgSQL keeps arrays taken apart.

-- A batch of commits. Arrays that begin alike belong together; NULL for one with nothing in it. `…_at` is the place of
-- a commit in the batch, from 1.
--   t: the tables by which partitions were taken: type, term and epoch, each once, ordered.
--   f: the fences that commits need, each once, ordered by (type, partition): place in t << 32 | partition.
--   a: the commits, ordered by (type, id). a_flags: place in f << 5, and 1 metadata is put or deleted (NULL),
--      2 customStatus likewise, 4 reset, 8 removal (with 4), 16 no actor is expected (without 8).
--   news: how many have 16.
--   h, k: keys to put; those of h are new, or it is an error (unique_violation). d: keys to delete.
--   o, p: `recover` to put, to delete. c, e, r: reminders of which actors to clear, to delete, to put.
--   x, i: index rows to delete, to put.
-- All this is as it is because each element that is sent costs more than it costs here to take it apart.
-- Gives nothing for a commit that passed, now or by an earlier call; else its place, and why: kind 1 the fence is
-- another one, 2 the version is; and what is stored, NULL where nothing is.
--
-- Runs as READ COMMITTED: each statement sees what was committed when it begins, so what is read after a lock was
-- waited for is never older than the lock. Locks are taken in one order by all: fences, then the actors that exist,
-- then those that are made, each ordered.
CREATE FUNCTION perdure.commit_1(
    t_type bigint[], t_term bigint[], t_epoch bigint[], f bigint[],
    a_id text[], a_flags bigint[], a_expected bytea[], a_version bytea[],
    a_metadata bytea[], a_custom_status bytea[], news integer,
    h_at integer[], h_place bytea[], h_value bytea[],
    k_at integer[], k_place bytea[], k_value bytea[],
    d_at integer[], d_place bytea[],
    o_at integer[], p_at integer[],
    c_at integer[], e_at integer[], e_name text[],
    r_at integer[], r_name text[], r_due bigint[], r_data bytea[],
    x_at integer[],
    i_at integer[], i_name text[], i_status text[], i_created bigint[], i_updated bigint[], i_details bytea[]
) RETURNS TABLE (at integer, kind integer, version bytea, term bigint, epoch bigint)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    size CONSTANT integer := cardinality(a_id);
    -- By place among the fences: whether it is the stored one.
    stands boolean[];
    places integer[];
    found_nums bigint[];
    found_keysets bigint[];
    formers bigint[];
    -- By place: 0 for a commit that did not pass.
    nums bigint[];
    keysets bigint[];
    done integer := 0;
    made bigint[];
    next integer := 1;
BEGIN
    -- The fences are locked until the end, so that no higher one is raised before.
    IF size = 1 THEN
        -- The same as below, in half the time.
        SELECT ARRAY[s.term = t_term[1] AND s.epoch = t_epoch[1]] INTO stands FROM perdure.fences s
        WHERE s.type = t_type[1] AND s.partition = (f[1] & 4294967295)::integer FOR SHARE;
        IF stands[1] THEN
            UPDATE perdure.actors a SET
                version = a_version[1],
                keyset = CASE WHEN a_flags[1] & 4 = 0 THEN a.keyset ELSE nextval('perdure.numbers') END,
                former = CASE WHEN a_flags[1] & 4 = 0 THEN a.former ELSE a.keyset END,
                metadata = CASE WHEN a_flags[1] & 1 = 0 THEN a.metadata ELSE a_metadata[1] END,
                custom_status = CASE WHEN a_flags[1] & 2 = 0 THEN a.custom_status ELSE a_custom_status[1] END
            WHERE a.type = t_type[1] AND a.id = a_id[1] AND a.version = a_expected[1]
            RETURNING ARRAY[a.num], ARRAY[a.keyset], CASE WHEN a_flags[1] & 4 <> 0 THEN ARRAY[a.former] END
            INTO nums, keysets, formers;
            IF nums IS NULL AND news = 1 THEN
                INSERT INTO perdure.actors AS a (num, type, keyset, partition, id, version, metadata, custom_status)
                SELECT n, t_type[1], n, (f[1] & 4294967295)::integer, a_id[1], a_version[1], a_metadata[1],
                    a_custom_status[1]
                FROM nextval('perdure.numbers') n
                ON CONFLICT DO NOTHING
                RETURNING ARRAY[a.num], ARRAY[a.keyset] INTO nums, keysets;
            END IF;
        END IF;
        IF nums IS NULL THEN
            nums := ARRAY[0];
            keysets := nums;
        ELSE
            done := 1;
        END IF;
    ELSE
        SELECT array_agg(s.stands) INTO stands FROM (
            SELECT s.stands FROM generate_series(1, cardinality(f)) g(n) LEFT JOIN LATERAL (
                SELECT s.term = t_term[f[n] >> 32] AND s.epoch = t_epoch[f[n] >> 32] AS stands FROM perdure.fences s
                WHERE s.type = t_type[f[n] >> 32] AND s.partition = (f[n] & 4294967295)::integer
                OFFSET 0 FOR SHARE
            ) s ON true
            ORDER BY n
        ) s;

        WITH moved AS (
            UPDATE perdure.actors a SET
                version = a_version[n],
                keyset = CASE WHEN a_flags[n] & 4 = 0 THEN a.keyset ELSE nextval('perdure.numbers') END,
                former = CASE WHEN a_flags[n] & 4 = 0 THEN a.former ELSE a.keyset END,
                metadata = CASE WHEN a_flags[n] & 1 = 0 THEN a.metadata ELSE a_metadata[n] END,
                custom_status = CASE WHEN a_flags[n] & 2 = 0 THEN a.custom_status ELSE a_custom_status[n] END
            FROM generate_series(1, size) g(n)
            WHERE a.type = ANY (ARRAY[t_type[f[a_flags[n] >> 5] >> 32]]) AND a.id = a_id[n]
                AND a.version = a_expected[n] AND stands[a_flags[n] >> 5]
            RETURNING n, a.num, a.keyset, CASE WHEN a_flags[n] & 4 <> 0 THEN a.former END AS former
        )
        SELECT array_agg(m.n), array_agg(m.num), array_agg(m.keyset),
            array_agg(m.former) FILTER (WHERE m.former IS NOT NULL)
        INTO places, found_nums, found_keysets, formers FROM (SELECT * FROM moved ORDER BY n) m;

        done := coalesce(cardinality(places), 0);
        IF done = size THEN
            nums := found_nums;
            keysets := found_keysets;
        ELSE
            nums := array_fill(0::bigint, ARRAY[size]);
            keysets := nums;
            FOR i IN 1..done LOOP
                nums[places[i]] := found_nums[i];
                keysets[places[i]] := found_keysets[i];
            END LOOP;
        END IF;

        IF news > 0 THEN
            -- Numbers that rise with the places.
            SELECT array_agg(m.num) INTO made FROM (
                SELECT CASE WHEN a_flags[n] & 16 = 0 THEN 0 ELSE nextval('perdure.numbers') END AS num
                FROM (SELECT n FROM generate_series(1, size) g(n) ORDER BY n) g
            ) m;
            WITH new AS (
                INSERT INTO perdure.actors AS a (num, type, keyset, partition, id, version, metadata, custom_status)
                SELECT made[n], t_type[f[a_flags[n] >> 5] >> 32], made[n], (f[a_flags[n] >> 5] & 4294967295)::integer,
                    a_id[n], a_version[n], a_metadata[n], a_custom_status[n]
                FROM generate_series(1, size) g(n)
                WHERE made[n] <> 0 AND stands[a_flags[n] >> 5]
                ORDER BY n
                ON CONFLICT DO NOTHING
                RETURNING a.num
            )
            SELECT array_agg(m.num) INTO found_nums FROM (SELECT num FROM new ORDER BY num) m;
            IF cardinality(found_nums) = size THEN
                nums := made;
                keysets := made;
                done := size;
            ELSIF found_nums IS NOT NULL THEN
                done := done + cardinality(found_nums);
                FOR i IN 1..size LOOP
                    IF made[i] = found_nums[next] THEN
                        nums[i] := made[i];
                        keysets[i] := made[i];
                        next := next + 1;
                    END IF;
                END LOOP;
            END IF;
        END IF;
    END IF;

    IF formers IS NOT NULL THEN
        INSERT INTO perdure.garbage (keyset) SELECT unnest(formers);
    END IF;
    IF d_at IS NOT NULL THEN
        DELETE FROM perdure.keys k USING generate_series(1, cardinality(d_at)) g(n)
        WHERE k.keyset = ANY (ARRAY[keysets[d_at[n]]]) AND k.place = d_place[n];
    END IF;
    IF h_at IS NOT NULL THEN
        INSERT INTO perdure.keys (keyset, place, value)
        SELECT keysets[h_at[n]], h_place[n], h_value[n] FROM generate_series(1, cardinality(h_at)) g(n)
        WHERE keysets[h_at[n]] <> 0;
    END IF;
    IF k_at IS NOT NULL THEN
        INSERT INTO perdure.keys (keyset, place, value)
        SELECT keysets[k_at[n]], k_place[n], k_value[n] FROM generate_series(1, cardinality(k_at)) g(n)
        WHERE keysets[k_at[n]] <> 0
        ON CONFLICT (keyset, place) DO UPDATE SET value = excluded.value;
    END IF;
    IF p_at IS NOT NULL THEN
        DELETE FROM perdure.owing o USING generate_series(1, cardinality(p_at)) g(n)
        WHERE o.type = ANY (ARRAY[t_type[f[a_flags[p_at[n]] >> 5] >> 32]]) AND o.partition = (f[a_flags[p_at[n]] >> 5] & 4294967295)::integer
            AND o.num = nums[p_at[n]];
    END IF;
    IF o_at IS NOT NULL THEN
        INSERT INTO perdure.owing (type, partition, num, id)
        SELECT t_type[f[a_flags[o_at[n]] >> 5] >> 32], (f[a_flags[o_at[n]] >> 5] & 4294967295)::integer, nums[o_at[n]], a_id[o_at[n]]
        FROM generate_series(1, cardinality(o_at)) g(n)
        WHERE nums[o_at[n]] <> 0
        ON CONFLICT DO NOTHING;
    END IF;
    IF c_at IS NOT NULL THEN
        DELETE FROM perdure.reminders r USING generate_series(1, cardinality(c_at)) g(n)
        WHERE r.num = ANY (ARRAY[nums[c_at[n]]]);
    END IF;
    IF e_at IS NOT NULL THEN
        DELETE FROM perdure.reminders r USING generate_series(1, cardinality(e_at)) g(n)
        WHERE r.num = ANY (ARRAY[nums[e_at[n]]]) AND r.name = e_name[n];
    END IF;
    IF r_at IS NOT NULL THEN
        INSERT INTO perdure.reminders (num, type, due, partition, id, name, data)
        SELECT nums[r_at[n]], t_type[f[a_flags[r_at[n]] >> 5] >> 32], r_due[n], (f[a_flags[r_at[n]] >> 5] & 4294967295)::integer, a_id[r_at[n]],
            r_name[n], r_data[n]
        FROM generate_series(1, cardinality(r_at)) g(n)
        WHERE nums[r_at[n]] <> 0
        ON CONFLICT (num, name) DO UPDATE SET due = excluded.due, data = excluded.data;
    END IF;
    IF x_at IS NOT NULL THEN
        DELETE FROM perdure.instances i USING generate_series(1, cardinality(x_at)) g(n)
        WHERE i.num = ANY (ARRAY[nums[x_at[n]]]);
    END IF;
    IF i_at IS NOT NULL THEN
        INSERT INTO perdure.instances (num, type, created, updated, id, name, status, details)
        SELECT nums[i_at[n]], t_type[f[a_flags[i_at[n]] >> 5] >> 32], i_created[n], i_updated[n], a_id[i_at[n]], i_name[n],
            i_status[n], i_details[n]
        FROM generate_series(1, cardinality(i_at)) g(n)
        WHERE nums[i_at[n]] <> 0
        ON CONFLICT (num) DO UPDATE SET created = excluded.created, updated = excluded.updated, name = excluded.name,
            status = excluded.status, details = excluded.details;
    END IF;
    IF formers IS NOT NULL THEN
        -- Removals: p, c and x have done the rest.
        DELETE FROM perdure.actors a USING generate_series(1, size) g(n)
        WHERE a_flags[n] & 8 <> 0 AND nums[n] <> 0
            AND a.type = ANY (ARRAY[t_type[f[a_flags[n] >> 5] >> 32]]) AND a.id = a_id[n];
    END IF;

    IF done < size THEN
        -- Why the others did not pass, in the contract's order: the new version is there already, or a removal finds
        -- nothing: then they did; the fence; the version.
        RETURN QUERY
        SELECT n, CASE WHEN stands[a_flags[n] >> 5] THEN 2 ELSE 1 END, a.version, s.term, s.epoch
        FROM generate_series(1, size) g(n)
        LEFT JOIN LATERAL (
            SELECT a.version FROM perdure.actors a WHERE a.type = t_type[f[a_flags[n] >> 5] >> 32] AND a.id = a_id[n] OFFSET 0
        ) a ON true
        LEFT JOIN LATERAL (
            SELECT s.term, s.epoch FROM perdure.fences s
            WHERE s.type = t_type[f[a_flags[n] >> 5] >> 32] AND s.partition = (f[a_flags[n] >> 5] & 4294967295)::integer OFFSET 0
        ) s ON true
        WHERE nums[n] = 0 AND a.version IS DISTINCT FROM a_version[n] AND NOT (a_flags[n] & 8 <> 0 AND a.version IS NULL);
    END IF;
END
$$;

-- Takes partitions, ordered. For each place: whether it was taken; whether it had been given back, or never taken; the
-- fence that it had.
CREATE FUNCTION perdure.take_1(f_type bigint[], f_partition integer[], new_term bigint, new_epoch bigint)
RETURNS TABLE (at integer, taken boolean, released boolean, term bigint, epoch bigint)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO perdure.fences (type, partition, term, epoch, released)
    SELECT f_type[n], f_partition[n], -1, -1, true FROM generate_series(1, cardinality(f_type)) g(n)
    WHERE NOT EXISTS (
        SELECT 1 FROM perdure.fences f WHERE f.type = f_type[n] AND f.partition = f_partition[n] OFFSET 0
    )
    ON CONFLICT DO NOTHING;
    -- Waits here for every commit that is under way in these partitions.
    RETURN QUERY
    SELECT n, (f.term, f.epoch) < (new_term, new_epoch), f.released, f.term, f.epoch
    FROM generate_series(1, cardinality(f_type)) g(n) CROSS JOIN LATERAL (
        SELECT f.term, f.epoch, f.released FROM perdure.fences f
        WHERE f.type = f_type[n] AND f.partition = f_partition[n]
        OFFSET 0 FOR UPDATE
    ) f;
    UPDATE perdure.fences f SET term = new_term, epoch = new_epoch, released = false
    FROM generate_series(1, cardinality(f_type)) g(n)
    WHERE f.type = ANY (ARRAY[f_type[n]]) AND f.partition = f_partition[n]
        AND (f.term, f.epoch) < (new_term, new_epoch);
END
$$;

-- Numbers and names of those types, each there from now on, unless another name has its number.
CREATE FUNCTION perdure.types_1(numbers bigint[], names text[]) RETURNS TABLE (type bigint, name text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    IF (SELECT count(*) FROM perdure.types t WHERE t.name = ANY (names)) < cardinality(names) THEN
        INSERT INTO perdure.types (type, name)
        SELECT numbers[n], names[n] FROM generate_series(1, cardinality(names)) g(n) ORDER BY numbers[n]
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT t.type, t.name FROM perdure.types t WHERE t.name = ANY (names);
END
$$;

-- Writes something.
CREATE FUNCTION perdure.check_1() RETURNS void LANGUAGE sql AS $$
    INSERT INTO perdure.settings AS s (name, value) VALUES ('checks', 1)
    ON CONFLICT (name) DO UPDATE SET value = s.value + 1
$$;

-- Who answers; for requests through a pooler. What sessions of our own have set once is set for one transaction here.
CREATE FUNCTION perdure.server_1(OUT started text, OUT timeline bigint)
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
        set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
        set_config('jit', 'off', true);
    started := extract(epoch FROM pg_postmaster_start_time())::text;
    timeline := CASE WHEN pg_is_in_recovery() THEN 0
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END;
END
$$;

-- Marks partitions, ordered, as given back in good order, where the fence is this one.
CREATE FUNCTION perdure.release_1(f_type bigint[], f_partition integer[], its_term bigint, its_epoch bigint)
RETURNS integer
LANGUAGE sql
AS $$
    UPDATE perdure.fences f SET released = true FROM generate_series(1, cardinality(f_type)) g(n)
    WHERE f.type = ANY (ARRAY[f_type[n]]) AND f.partition = f_partition[n]
        AND f.term = its_term AND f.epoch = its_epoch AND NOT f.released;
    SELECT 0;
$$;

-- Deletes up to so many keys of the oldest garbage that nobody else is deleting; whether there may be more.
CREATE FUNCTION perdure.sweep_1(most integer) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    sets bigint[];
    deleted integer;
BEGIN
    SELECT array_agg(g.keyset) INTO sets FROM (
        SELECT keyset FROM perdure.garbage ORDER BY keyset LIMIT 100 FOR UPDATE SKIP LOCKED
    ) g;
    IF sets IS NULL THEN
        RETURN false;
    END IF;
    DELETE FROM perdure.keys WHERE ctid = ANY (ARRAY(
        SELECT k.tid FROM generate_series(1, cardinality(sets)) g(n) CROSS JOIN LATERAL (
            SELECT k.ctid AS tid FROM perdure.keys k WHERE k.keyset = sets[n] LIMIT most
        ) k LIMIT most
    ));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    DELETE FROM perdure.garbage g WHERE g.keyset = ANY (sets) AND NOT EXISTS (
        SELECT 1 FROM perdure.keys k WHERE k.keyset = g.keyset OFFSET 0
    );
    RETURN deleted = most OR cardinality(sets) = 100;
END
$$;
