-- The audit says from where and with which result, and is chained: rows that were changed, removed or put in show.
--
-- What writes rows (submits, deliveries of secrets, several at once) does not wait for a chain. It leaves a row's id in
-- `audit_unsealed` besides, by a trigger. A second later a replica seals what is there, in a block: the ids, and a hash
-- over the hash of the block before and all its rows. Whose transaction ends late is in a later block than its id would
-- say, and no row is in two or none: whoever takes an id out of `audit_unsealed` stores the block in that transaction.
--
-- The database's owner could write a whole chain anew. So replicas say the newest block's number and hash, the head, in
-- their log now and then: a copy that is kept elsewhere tells (`moonyard audit verify --head`).

ALTER TABLE moonyard.audit
    ADD COLUMN address text,
    ADD COLUMN result text NOT NULL DEFAULT 'done',
    ADD CONSTRAINT result_is_known CHECK (result IN ('done', 'refused'));
UPDATE moonyard.audit SET result = 'refused' WHERE action = 'refuse secret';
COMMENT ON TABLE moonyard.audit IS 'Who did what, on what, from where and when, or was refused it: through the API (actor: a token or account) or in psql (actor: the session''s user). Rows are added, and nothing else.';
COMMENT ON COLUMN moonyard.audit.address IS 'The client''s, for the API; in psql, where the session comes from, with its application''s name. NULL in rows of before it was noted.';
COMMENT ON COLUMN moonyard.audit.detail IS 'Of a refusal: "code" says why, "times" how often it was, in up to a minute.';
CREATE INDEX audit_by_time ON moonyard.audit (at);
CREATE INDEX audit_of_removals ON moonyard.audit (id) WHERE action = 'remove audit';

CREATE FUNCTION moonyard.origin() RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    told CONSTANT text := nullif(current_setting('moonyard.address', true), '');
BEGIN
    -- Anybody can set a setting. It is believed of replicas, and of whoever could write any row.
    IF told IS NOT NULL AND EXISTS (
        SELECT FROM pg_namespace AS home LEFT JOIN pg_roles AS replica ON replica.rolname = 'moonyard_orchestrator'
        WHERE home.nspname = 'moonyard'
            AND (pg_has_role(session_user, home.nspowner, 'MEMBER') OR pg_has_role(session_user, replica.oid, 'MEMBER'))
    ) THEN
        RETURN left(told, 100);
    END IF;
    RETURN concat_ws(
        ' ', coalesce(host(inet_client_addr()), 'local'), '(' || nullif(current_setting('application_name'), '') || ')'
    );
END $$;
COMMENT ON FUNCTION moonyard.origin IS 'Where a change comes from: what a replica set for its transaction (moonyard.address), or the session''s own address and application.';

DROP FUNCTION moonyard.note;
CREATE FUNCTION moonyard.note(
    actor text, action text, subject text, detail jsonb DEFAULT NULL, address text DEFAULT NULL, result text DEFAULT 'done'
) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO moonyard.audit (actor, address, action, subject, result, detail)
    VALUES (actor, coalesce(address, moonyard.origin()), action, subject, result, detail);
$$;
COMMENT ON FUNCTION moonyard.note IS 'Writes a row of the audit.';

-- Of all that jobs_submit does, the rows that it writes here are all that changes: submits that come at the same moment go
-- into one statement, so each of them says itself where it came from.
DO $patch$
DECLARE
    body text := pg_get_functiondef('moonyard.jobs_submit'::regproc);
    change text[];
BEGIN
    FOREACH change SLICE 1 IN ARRAY ARRAY[
        ['INSERT INTO moonyard.audit (actor, action, subject, detail)', 'INSERT INTO moonyard.audit (actor, address, action, subject, detail)'],
        ['wish.actor, ''submit'',', 'wish.actor, coalesce(wish.address, moonyard.origin()), ''submit'','],
        ['AS wish (place integer, id uuid, actor text, together boolean)', 'AS wish (place integer, id uuid, actor text, address text, together boolean)'],
        ['GROUP BY wish.actor, CASE', 'GROUP BY wish.actor, wish.address, CASE']
    ] LOOP
        IF position(change[1] IN body) = 0 THEN
            RAISE EXCEPTION 'moonyard.jobs_submit is not what this migration knows: it lacks `%`', change[1];
        END IF;
        body := replace(body, change[1], change[2]);
    END LOOP;
    EXECUTE body;
END $patch$;

-- The chain ------------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.audit_unsealed (
    id bigint PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE moonyard.audit_unsealed IS 'Rows of the audit that are in no block yet: those of the last second or two.';

CREATE TABLE moonyard.audit_chain (
    number bigint PRIMARY KEY,
    ids int8multirange NOT NULL,
    entries integer NOT NULL,
    last_at timestamptz NOT NULL,
    sealed_at timestamptz NOT NULL,
    hash bytea NOT NULL,
    removed_at timestamptz,
    CONSTRAINT audit_blocks_start_at_1 CHECK (number > 0),
    CONSTRAINT audit_blocks_hold_rows CHECK (entries > 0 AND NOT isempty(ids)),
    CONSTRAINT audit_hash_is_sha256 CHECK (length(hash) = 32)
);
COMMENT ON TABLE moonyard.audit_chain IS 'Blocks of rows of the audit. Each has the hash of the one before in its own.';
COMMENT ON COLUMN moonyard.audit_chain.ids IS 'Those of its rows, which are in no other block.';
COMMENT ON COLUMN moonyard.audit_chain.last_at IS 'The newest of its rows.';
COMMENT ON COLUMN moonyard.audit_chain.removed_at IS 'When its rows, and all before, were old enough to go: the chain begins with its hash.';

CREATE FUNCTION moonyard.audit_await_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO moonyard.audit_unsealed (id) SELECT id FROM made;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION moonyard.audit_await_seal IS 'Has new rows of the audit sealed.';
CREATE TRIGGER audit_await_seal AFTER INSERT ON moonyard.audit REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION moonyard.audit_await_seal();
INSERT INTO moonyard.audit_unsealed (id) SELECT id FROM moonyard.audit;

CREATE FUNCTION moonyard.audit_hash(previous bytea, number bigint, ids int8multirange, sealed_at timestamptz) RETURNS bytea
LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(
        concat_ws(
            E'\n', encode(audit_hash.previous, 'hex'), audit_hash.number, audit_hash.ids,
            to_char(audit_hash.sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            string_agg(
                jsonb_build_array(
                    entry.id, to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), entry.actor,
                    entry.address, entry.action, entry.subject, entry.result, entry.detail
                )::text,
                E'\n' ORDER BY entry.id
            )
        ),
        'UTF8'
    ))
    FROM unnest(audit_hash.ids) AS piece
    JOIN moonyard.audit AS entry ON entry.id >= lower(piece) AND entry.id < upper(piece)
$$;
COMMENT ON FUNCTION moonyard.audit_hash IS 'SHA-256 of the lines: the hash before, the block''s number, its ids, when it was sealed, and each row as a JSON array.';

CREATE FUNCTION moonyard.audit_seal(most integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before record;
    first bigint;
    taken int8multirange;
    amount integer;
    newest timestamptz;
BEGIN
    IF most NOT BETWEEN 1 AND 10000 THEN
        PERFORM moonyard.refuse('request_invalid', format('a block of the audit has 1 to 10,000 rows, not %s', most));
    END IF;
    IF NOT pg_try_advisory_xact_lock(1836018031, 0) THEN
        RETURN 0;
    END IF;
    SELECT number, hash, upper(ids) AS beyond INTO before FROM moonyard.audit_chain ORDER BY number DESC LIMIT 1;
    -- A transaction that is open elsewhere keeps all ids that were taken out since in the index. So most looks begin a
    -- little before the last one's end, where whoever came late will be; a few begin at the start.
    first := CASE WHEN random() < 0.02 THEN 0 ELSE coalesce(before.beyond, 10000) - 10000 END;
    WITH gone AS (
        DELETE FROM moonyard.audit_unsealed WHERE id = ANY (ARRAY(
            SELECT id FROM moonyard.audit_unsealed WHERE id >= first ORDER BY id LIMIT most
        ))
        RETURNING id
    )
    SELECT range_agg(int8range(id, id, '[]')), count(*) INTO taken, amount FROM gone;
    IF amount = 0 THEN
        RETURN 0;
    END IF;
    SELECT coalesce(max(entry.at), now()) INTO newest FROM unnest(taken) AS piece
    JOIN moonyard.audit AS entry ON entry.id >= lower(piece) AND entry.id < upper(piece);
    INSERT INTO moonyard.audit_chain (number, ids, entries, last_at, sealed_at, hash)
    VALUES (
        coalesce(before.number, 0) + 1, taken, amount, newest, now(),
        moonyard.audit_hash(coalesce(before.hash, ''), coalesce(before.number, 0) + 1, taken, now())
    );
    RETURN amount;
END $$;
COMMENT ON FUNCTION moonyard.audit_seal IS 'Puts rows that are in no block into the chain''s next, and gives how many; one session at a time does it.';

CREATE FUNCTION moonyard.audit_check(after bigint, most integer, OUT last bigint, OUT entries bigint, OUT broken text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    block record;
    before record;
    found bigint;
BEGIN
    last := after;
    entries := 0;
    SELECT number, hash INTO before FROM moonyard.audit_chain WHERE number <= after ORDER BY number DESC LIMIT 1;
    FOR block IN SELECT * FROM moonyard.audit_chain WHERE number > after ORDER BY number LIMIT most LOOP
        IF before.number IS NULL AND block.removed_at IS NOT NULL THEN
            IF NOT EXISTS (
                SELECT FROM moonyard.audit AS entry
                WHERE entry.action = 'remove audit' AND entry.detail ->> 'head' = block.number || ':' || encode(block.hash, 'hex')
            ) THEN
                broken := format('rows up to block %s were removed, and no row of the audit says so', block.number);
                RETURN;
            END IF;
        ELSIF block.number <> coalesce(before.number, 0) + 1 THEN
            broken := format('blocks %s to %s are missing', coalesce(before.number, 0) + 1, block.number - 1);
            RETURN;
        ELSE
            SELECT count(*) INTO found FROM unnest(block.ids) AS piece
            JOIN moonyard.audit AS entry ON entry.id >= lower(piece) AND entry.id < upper(piece);
            IF found <> block.entries THEN
                broken := format(
                    'block %s had %s rows (ids %s), and %s are there', block.number, block.entries, block.ids, found
                );
                RETURN;
            END IF;
            IF block.hash <> moonyard.audit_hash(coalesce(before.hash, ''), block.number, block.ids, block.sealed_at) THEN
                broken := format(
                    'block %s is not what was sealed at %s: one of its %s rows (ids %s), or the block before, was changed',
                    block.number, block.sealed_at::timestamptz(0), block.entries, block.ids
                );
                RETURN;
            END IF;
            entries := entries + found;
        END IF;
        last := block.number;
        before := block;
    END LOOP;
END $$;
COMMENT ON FUNCTION moonyard.audit_check IS 'Verifies the blocks after one, so many at a time: gives the last that is whole, how many rows they have, and what is wrong with the one behind it.';

CREATE FUNCTION moonyard.audit_end(head text DEFAULT NULL, OUT blocks bigint, OUT newest text, OUT unsealed bigint, OUT broken text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    strays record;
    known record;
    kept_from bigint;
BEGIN
    SELECT number || ':' || encode(hash, 'hex') INTO newest FROM moonyard.audit_chain ORDER BY number DESC LIMIT 1;
    SELECT count(*), min(number) INTO blocks, kept_from FROM moonyard.audit_chain;
    SELECT count(*) INTO unsealed FROM moonyard.audit_unsealed;
    -- One statement, so that both sums are of the same moment. The rows of blocks were counted one by one.
    SELECT entries.there - blocks_of.sealed - waiting.waiting AS count INTO strays
    FROM (SELECT count(*) AS there FROM moonyard.audit) AS entries,
        (SELECT coalesce(sum(block.entries), 0) AS sealed FROM moonyard.audit_chain AS block WHERE removed_at IS NULL) AS blocks_of,
        (
            SELECT count(*) AS waiting FROM moonyard.audit_unsealed AS wait
            WHERE EXISTS (SELECT FROM moonyard.audit AS entry WHERE entry.id = wait.id)
        ) AS waiting;
    IF strays.count > 0 THEN
        SELECT min(entry.id) AS id INTO known FROM moonyard.audit AS entry
        WHERE NOT EXISTS (SELECT FROM moonyard.audit_unsealed AS wait WHERE wait.id = entry.id)
            AND NOT coalesce(entry.id <@ (SELECT range_agg(ids) FROM moonyard.audit_chain WHERE removed_at IS NULL), false);
        broken := format('%s rows are in no block, and wait for none: the first has id %s', strays.count, known.id);
    ELSIF EXISTS (
        SELECT FROM moonyard.audit_unsealed AS wait WHERE NOT EXISTS (SELECT FROM moonyard.audit AS entry WHERE entry.id = wait.id)
    ) THEN
        broken := 'rows were removed before they were sealed';
    ELSIF head IS NOT NULL THEN
        IF head !~ '^[0-9]{1,18}:[0-9a-f]{64}$' THEN
            PERFORM moonyard.refuse(
                'request_invalid', format('`%s` is no head of the audit', left(head, 90)),
                'A head is a block''s number and its hash, as replicas write it in their log: 17:0f3a...'
            );
        END IF;
        SELECT number, hash INTO known FROM moonyard.audit_chain WHERE number = split_part(head, ':', 1)::bigint;
        IF known.number IS NULL AND split_part(head, ':', 1)::bigint < kept_from THEN
            broken := format('block %s is older than what is kept: a later head can be compared', split_part(head, ':', 1));
        ELSIF known.number IS NULL THEN
            broken := format('block %s was sealed once, and the chain ends with %s', split_part(head, ':', 1), coalesce(split_part(newest, ':', 1), 'none'));
        ELSIF encode(known.hash, 'hex') <> split_part(head, ':', 2) THEN
            broken := format('block %s had another hash once: the chain up to it was written anew', known.number);
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION moonyard.audit_end IS 'Gives the chain''s head, and what is wrong behind it: rows that are in no block, or a head of once that is not in it. Its blocks are verified by audit_check.';

CREATE FUNCTION moonyard.audit_retire(seconds double precision, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old record;
    head record;
    removed bigint;
BEGIN
    -- Replicas may call this, and one that somebody took over is not to remove what it did.
    IF seconds < 30 * 86400 THEN
        PERFORM moonyard.refuse('request_invalid', 'the audit is kept for 30 days at least');
    END IF;
    PERFORM pg_advisory_xact_lock(1836018031, 0);
    -- Blocks from the first on that are old as a whole: one that is not ends the walk.
    SELECT max(number) AS number, range_agg(ids) AS ids INTO old
    FROM (
        SELECT number, ids, bool_and(last_at < now() - make_interval(secs => seconds)) OVER (ORDER BY number) AS is_old
        FROM (SELECT * FROM moonyard.audit_chain WHERE removed_at IS NULL ORDER BY number LIMIT most) AS first
    ) AS looked
    WHERE is_old;
    IF old.number IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM moonyard.audit AS entry USING unnest(old.ids) AS piece
    WHERE entry.id >= lower(piece) AND entry.id < upper(piece);
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM moonyard.audit_chain WHERE number < old.number;
    UPDATE moonyard.audit_chain SET removed_at = now() WHERE number = old.number RETURNING number, hash INTO head;
    PERFORM moonyard.note(
        session_user, 'remove audit', removed || ' rows of the audit',
        jsonb_build_object('days', seconds / 86400, 'head', head.number || ':' || encode(head.hash, 'hex'))
    );
    RETURN removed;
END $$;
COMMENT ON FUNCTION moonyard.audit_retire IS 'Removes the first blocks'' rows, where all of a block are older than so many seconds (30 days at least); the hash of the last stays, and a new row says so.';

REVOKE EXECUTE ON FUNCTION moonyard.audit_seal, moonyard.audit_check, moonyard.audit_end, moonyard.audit_retire FROM PUBLIC;

-- What people read and ask ---------------------------------------------------------------------------------------

DROP VIEW inspect.audit;
CREATE VIEW inspect.audit AS
SELECT
    to_char(at, 'YYYY-MM-DD HH24:MI:SS') AS at,
    inspect.shortened(actor, 19) AS actor,
    inspect.shortened(address, 15) AS address,
    inspect.shortened(action, 20) AS action,
    inspect.shortened(subject, 22) AS subject,
    result
FROM moonyard.audit
ORDER BY id DESC;
COMMENT ON VIEW inspect.audit IS 'What was done through the API or in schema control, or refused, the newest first. `moonyard audit` shows all of it.';

CREATE FUNCTION control.audit_verify(
    head text DEFAULT NULL, OUT state text, OUT blocks bigint, OUT entries bigint, OUT unsealed bigint, OUT newest text, OUT detail text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    checked record;
    ending record;
BEGIN
    SELECT * INTO checked FROM moonyard.audit_check(0, 2147483647);
    SELECT * INTO ending FROM moonyard.audit_end(head);
    state := CASE WHEN checked.broken IS NULL AND ending.broken IS NULL THEN 'whole' ELSE 'broken' END;
    blocks := ending.blocks;
    entries := checked.entries;
    unsealed := ending.unsealed;
    newest := ending.newest;
    detail := coalesce(checked.broken, ending.broken);
END $$;
COMMENT ON FUNCTION control.audit_verify IS
    'Verifies the audit''s chain and says its first break; head: a block''s number and hash that were noted once: SELECT * FROM control.audit_verify(''17:0f3a...'');';
REVOKE EXECUTE ON FUNCTION control.audit_verify FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON inspect.audit TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON inspect.audit TO moonyard_operator;
        GRANT EXECUTE ON FUNCTION control.audit_verify TO moonyard_operator;
    END IF;
END $$;
