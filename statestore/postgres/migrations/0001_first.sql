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

-- All other keys. Plain ones: numbered 0, name is the key, seq 0. Numbered ones: numbered 1, name is the family.
CREATE TABLE perdure.keys (
    keyset bigint NOT NULL,
    seq bigint NOT NULL,
    numbered smallint NOT NULL,
    name text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (keyset, numbered, name, seq)
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

-- For people: every key of every actor under the names that the contract gives them.
CREATE VIEW perdure.state AS
SELECT t.name AS actor_type, a.id AS actor_id,
    CASE WHEN k.numbered = 1 THEN k.name || lpad(k.seq::text, greatest(6, length(k.seq::text)), '0') ELSE k.name END AS key,
    k.value AS value
FROM perdure.actors a JOIN perdure.types t USING (type) JOIN perdure.keys k USING (keyset)
UNION ALL
SELECT t.name, a.id, 'metadata', a.metadata
FROM perdure.actors a JOIN perdure.types t USING (type) WHERE a.metadata IS NOT NULL
UNION ALL
SELECT t.name, a.id, 'customStatus', a.custom_status
FROM perdure.actors a JOIN perdure.types t USING (type) WHERE a.custom_status IS NOT NULL;

-- A batch of commits. Arrays that begin alike belong together; `…_at` is the place of a commit in the batch, from 1.
--   f: the fences that commits need, each once, ordered; a_fence is a place among them.
--   a: the commits, ordered by (type, id). a_flags: 1 metadata is put or deleted (NULL), 2 customStatus likewise,
--      4 reset, 8 removal (with 4), 16 no actor is expected (without 8).
--   news: how many have 16.
--   k, d: keys to put, to delete. o, p: `recover` to put, to delete. c, e, r: reminders of which actors to clear, to
--   delete, to put. x, i: index rows to delete, to put.
-- Gives nothing for a commit that passed, now or by an earlier call; else its place, and the fence or the version that
-- it met (both NULL: there is none of what its kind says). kind: 1 the fence is another one, 2 the version is.
--
-- Runs as READ COMMITTED: each statement sees what was committed when it begins, so what is read after a lock was
-- waited for is never older than the lock. Locks are taken in one order by all: fences, then the actors that exist,
-- then those that are made, each ordered.
CREATE FUNCTION perdure.commit_1(
    f_type bigint[], f_partition integer[], f_term bigint[], f_epoch bigint[],
    a_type bigint[], a_id text[], a_fence integer[], a_flags integer[], a_expected bytea[], a_version bytea[],
    a_metadata bytea[], a_custom_status bytea[], news integer,
    k_at integer[], k_numbered smallint[], k_name text[], k_seq bigint[], k_value bytea[],
    d_at integer[], d_numbered smallint[], d_name text[], d_seq bigint[],
    o_at integer[], o_id text[], p_at integer[],
    c_at integer[], e_at integer[], e_name text[],
    r_at integer[], r_id text[], r_name text[], r_due bigint[], r_data bytea[],
    x_at integer[],
    i_at integer[], i_id text[], i_name text[], i_status text[], i_created bigint[], i_updated bigint[], i_details bytea[]
) RETURNS TABLE (at integer, kind integer, version bytea, term bigint, epoch bigint)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    size CONSTANT integer := cardinality(a_type);
    fences integer[];
    open boolean;
    places bigint[];
    found_nums bigint[];
    found_keysets bigint[];
    formers bigint[];
    -- By place: 0 for a commit that did not pass.
    nums bigint[];
    keysets bigint[];
    done integer;
    made bigint[];
BEGIN
    SELECT array_agg(s.ord) INTO fences FROM (
        SELECT u.ord FROM unnest(f_type, f_partition, f_term, f_epoch) WITH ORDINALITY u(type, partition, term, epoch, ord)
        JOIN perdure.fences f ON f.type = u.type AND f.partition = u.partition
        WHERE f.term = u.term AND f.epoch = u.epoch
        ORDER BY u.ord FOR SHARE OF f
    ) s;
    open := cardinality(fences) = cardinality(f_type);

    WITH moved AS (
        UPDATE perdure.actors a SET
            version = u.version,
            keyset = CASE WHEN u.flags & 4 = 0 THEN a.keyset ELSE nextval('perdure.numbers') END,
            former = CASE WHEN u.flags & 4 = 0 THEN a.former ELSE a.keyset END,
            metadata = CASE WHEN u.flags & 1 = 0 THEN a.metadata ELSE u.metadata END,
            custom_status = CASE WHEN u.flags & 2 = 0 THEN a.custom_status ELSE u.custom_status END
        FROM unnest(a_type, a_id, a_fence, a_flags, a_expected, a_version, a_metadata, a_custom_status)
            WITH ORDINALITY u(type, id, fence, flags, expected, version, metadata, custom_status, ord)
        WHERE a.type = u.type AND a.id = u.id AND a.version = u.expected AND (open OR u.fence = ANY (fences))
        RETURNING u.ord, a.num, a.keyset, CASE WHEN u.flags & 4 <> 0 THEN a.former END AS former
    )
    SELECT array_agg(m.ord), array_agg(m.num), array_agg(m.keyset), array_agg(m.former) FILTER (WHERE m.former IS NOT NULL)
    INTO places, found_nums, found_keysets, formers FROM moved m;

    done := coalesce(cardinality(places), 0);
    IF done = size THEN
        -- All of them, and in order, since nothing but a loop over the batch can find them.
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
        SELECT array_agg(CASE WHEN u.flags & 16 = 0 THEN 0 ELSE nextval('perdure.numbers') END ORDER BY u.ord) INTO made
        FROM unnest(a_flags) WITH ORDINALITY u(flags, ord);
        WITH new AS (
            INSERT INTO perdure.actors AS a (num, type, keyset, partition, id, version, metadata, custom_status)
            SELECT u.num, u.type, u.num, f_partition[u.fence], u.id, u.version, u.metadata, u.custom_status
            FROM unnest(made, a_type, a_id, a_fence, a_version, a_metadata, a_custom_status)
                WITH ORDINALITY u(num, type, id, fence, version, metadata, custom_status, ord)
            WHERE u.num <> 0 AND (open OR u.fence = ANY (fences))
            ORDER BY u.ord
            ON CONFLICT DO NOTHING
            RETURNING a.num
        )
        SELECT array_agg(new.num) INTO found_nums FROM new;
        IF cardinality(found_nums) = size THEN
            nums := made;
            keysets := made;
            done := size;
        ELSIF found_nums IS NOT NULL THEN
            FOR i IN 1..size LOOP
                IF made[i] = ANY (found_nums) THEN
                    nums[i] := made[i];
                    keysets[i] := made[i];
                    done := done + 1;
                END IF;
            END LOOP;
        END IF;
    END IF;

    IF formers IS NOT NULL THEN
        INSERT INTO perdure.garbage (keyset) SELECT unnest(formers);
    END IF;
    IF d_at <> '{}' THEN
        DELETE FROM perdure.keys k USING unnest(d_at, d_numbered, d_name, d_seq) d(at, numbered, name, seq)
        WHERE k.keyset = keysets[d.at] AND k.numbered = d.numbered AND k.name = d.name AND k.seq = d.seq;
    END IF;
    IF k_at <> '{}' THEN
        INSERT INTO perdure.keys (keyset, numbered, name, seq, value)
        SELECT keysets[k.at], k.numbered, k.name, k.seq, k.value
        FROM unnest(k_at, k_numbered, k_name, k_seq, k_value) k(at, numbered, name, seq, value)
        WHERE keysets[k.at] <> 0
        ON CONFLICT (keyset, numbered, name, seq) DO UPDATE SET value = excluded.value;
    END IF;
    IF p_at <> '{}' THEN
        DELETE FROM perdure.owing o USING unnest(p_at) p(at)
        WHERE o.type = a_type[p.at] AND o.partition = f_partition[a_fence[p.at]] AND o.num = nums[p.at];
    END IF;
    IF o_at <> '{}' THEN
        INSERT INTO perdure.owing (type, partition, num, id)
        SELECT a_type[o.at], f_partition[a_fence[o.at]], nums[o.at], o.id FROM unnest(o_at, o_id) o(at, id)
        WHERE nums[o.at] <> 0
        ON CONFLICT DO NOTHING;
    END IF;
    IF c_at <> '{}' THEN
        DELETE FROM perdure.reminders r USING unnest(c_at) c(at) WHERE r.num = nums[c.at];
    END IF;
    IF e_at <> '{}' THEN
        DELETE FROM perdure.reminders r USING unnest(e_at, e_name) e(at, name)
        WHERE r.num = nums[e.at] AND r.name = e.name;
    END IF;
    IF r_at <> '{}' THEN
        INSERT INTO perdure.reminders (num, type, due, partition, id, name, data)
        SELECT nums[r.at], a_type[r.at], r.due, f_partition[a_fence[r.at]], r.id, r.name, r.data
        FROM unnest(r_at, r_id, r_name, r_due, r_data) r(at, id, name, due, data)
        WHERE nums[r.at] <> 0
        ON CONFLICT (num, name) DO UPDATE SET due = excluded.due, data = excluded.data;
    END IF;
    IF x_at <> '{}' THEN
        DELETE FROM perdure.instances i USING unnest(x_at) x(at) WHERE i.num = nums[x.at];
    END IF;
    IF i_at <> '{}' THEN
        INSERT INTO perdure.instances (num, type, created, updated, id, name, status, details)
        SELECT nums[i.at], a_type[i.at], i.created, i.updated, i.id, i.name, i.status, i.details
        FROM unnest(i_at, i_id, i_name, i_status, i_created, i_updated, i_details)
            i(at, id, name, status, created, updated, details)
        WHERE nums[i.at] <> 0
        ON CONFLICT (num) DO UPDATE SET created = excluded.created, updated = excluded.updated, name = excluded.name,
            status = excluded.status, details = excluded.details;
    END IF;
    IF formers IS NOT NULL THEN
        -- Removals: p, c and x have done the rest.
        DELETE FROM perdure.actors a USING unnest(a_type, a_id, a_flags) WITH ORDINALITY u(type, id, flags, ord)
        WHERE u.flags & 8 <> 0 AND nums[u.ord] <> 0 AND a.type = u.type AND a.id = u.id;
    END IF;

    IF done < size THEN
        -- Why the others did not pass, in the contract's order: the new version is there already; a removal finds
        -- nothing; the fence; the version.
        RETURN QUERY
        SELECT u.ord::integer,
            CASE WHEN f.term IS NOT DISTINCT FROM f_term[u.fence] AND f.epoch IS NOT DISTINCT FROM f_epoch[u.fence]
                THEN 2 ELSE 1 END,
            a.version, f.term, f.epoch
        FROM unnest(a_type, a_id, a_fence, a_flags, a_version, nums)
            WITH ORDINALITY u(type, id, fence, flags, version, num, ord)
        LEFT JOIN perdure.actors a ON a.type = u.type AND a.id = u.id
        LEFT JOIN perdure.fences f ON f.type = u.type AND f.partition = f_partition[u.fence]
        WHERE u.num = 0 AND a.version IS DISTINCT FROM u.version AND NOT (u.flags & 8 <> 0 AND a.version IS NULL);
    END IF;
END
$$;

-- Takes partitions, in order. Each place that was taken, with whether it was given back or never had; each other one
-- with the fence that it has.
CREATE FUNCTION perdure.take_1(f_type bigint[], f_partition integer[], new_term bigint, new_epoch bigint)
RETURNS TABLE (at integer, taken boolean, released boolean, term bigint, epoch bigint)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO perdure.fences (type, partition, term, epoch, released)
    SELECT u.type, u.partition, -1, -1, true FROM unnest(f_type, f_partition) WITH ORDINALITY u(type, partition, ord)
    WHERE NOT EXISTS (SELECT 1 FROM perdure.fences f WHERE f.type = u.type AND f.partition = u.partition)
    ORDER BY u.ord
    ON CONFLICT DO NOTHING;
    -- Waits here for every commit that is under way in these partitions.
    RETURN QUERY
    SELECT u.ord::integer, (f.term, f.epoch) < (new_term, new_epoch), f.released, f.term, f.epoch
    FROM unnest(f_type, f_partition) WITH ORDINALITY u(type, partition, ord)
    JOIN perdure.fences f ON f.type = u.type AND f.partition = u.partition
    ORDER BY u.ord FOR UPDATE OF f;
    UPDATE perdure.fences f SET term = new_term, epoch = new_epoch, released = false
    FROM unnest(f_type, f_partition) u(type, partition)
    WHERE f.type = u.type AND f.partition = u.partition AND (f.term, f.epoch) < (new_term, new_epoch);
END
$$;

-- Marks partitions as given back in good order, where the fence is this one.
CREATE FUNCTION perdure.release_1(f_type bigint[], f_partition integer[], its_term bigint, its_epoch bigint)
RETURNS integer
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
BEGIN
    PERFORM 1 FROM unnest(f_type, f_partition) WITH ORDINALITY u(type, partition, ord)
    JOIN perdure.fences f ON f.type = u.type AND f.partition = u.partition
    WHERE f.term = its_term AND f.epoch = its_epoch
    ORDER BY u.ord FOR UPDATE OF f;
    UPDATE perdure.fences f SET released = true FROM unnest(f_type, f_partition) u(type, partition)
    WHERE f.type = u.type AND f.partition = u.partition AND f.term = its_term AND f.epoch = its_epoch;
    RETURN 0;
END
$$;

-- Deletes up to so many keys of the oldest garbage that nobody else is deleting; whether there is more.
CREATE FUNCTION perdure.sweep_1(most integer) RETURNS boolean
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
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
        SELECT k.ctid FROM unnest(sets) s(keyset) JOIN perdure.keys k ON k.keyset = s.keyset LIMIT most));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    DELETE FROM perdure.garbage g WHERE g.keyset = ANY (sets)
        AND (deleted < most OR NOT EXISTS (SELECT 1 FROM perdure.keys k WHERE k.keyset = g.keyset));
    RETURN deleted = most OR cardinality(sets) = 100;
END
$$;
