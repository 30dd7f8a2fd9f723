-- Runners' credentials: replaced without a stop, revoked at once; what a runner may name of what is stored; its share of
-- limits; and which pipelines' jobs go to which runners.

ALTER TABLE moonyard.runners
    ADD COLUMN revoked_at timestamptz,
    ADD COLUMN revoked_by text,
    ADD COLUMN removed_at timestamptz,
    ADD COLUMN rotation_wanted_at timestamptz,
    ADD COLUMN reused_at timestamptz,
    ADD CONSTRAINT revoked_runners_have_a_revoker CHECK ((revoked_at IS NULL) = (revoked_by IS NULL)),
    ADD CONSTRAINT removed_runners_are_revoked CHECK (removed_at IS NULL OR revoked_at IS NOT NULL);
COMMENT ON COLUMN moonyard.runners.revoked_at IS 'Its token is refused from then on, and it holds no attempt.';
COMMENT ON COLUMN moonyard.runners.removed_at IS 'It is listed no more; the row stays, for what it ran names it.';
COMMENT ON COLUMN moonyard.runners.rotation_wanted_at IS 'An operator wants it to get a new token.';
COMMENT ON COLUMN moonyard.runners.reused_at IS 'When one of its tokens was used last that had been replaced: somebody else may have one.';
CREATE INDEX runners_revoked ON moonyard.runners (id) WHERE revoked_at IS NOT NULL;

-- A runner's tokens. It asks for a new one with the one it has, writes it down, and uses it: only then is the old one
-- replaced. So it may be killed at any point, and what stands in its file is valid.
--
--        asked for              used first                   a minute later
--     ───────────────> waiting ────────────> valid ────┐  ┌───────────────> refused: a use of it is a sign of theft
--                         │                   its successor used first
--                         └─────> refused, at once, when another that was asked for was used first
ALTER TABLE moonyard.tokens
    ADD COLUMN first_used_at timestamptz,
    ADD COLUMN replaced_at timestamptz,
    ADD CONSTRAINT only_runner_tokens_are_replaced CHECK (kind = 'runner' OR replaced_at IS NULL);
COMMENT ON COLUMN moonyard.tokens.first_used_at IS 'Of a runner''s token: from then on the runner''s others are replaced.';
COMMENT ON COLUMN moonyard.tokens.replaced_at IS 'When another took its place. What is under way with it may end: it is good for another minute.';
CREATE INDEX tokens_of_runner ON moonyard.tokens (runner_id, created_at) WHERE runner_id IS NOT NULL;

CREATE FUNCTION moonyard.runners_of(reference text) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT known.id FROM moonyard.runners AS known
    WHERE (known.name = reference OR known.id::text = reference) AND known.removed_at IS NULL
    ORDER BY known.id;
    IF NOT FOUND THEN
        PERFORM moonyard.refuse(
            'runner_unknown', format('there is no runner `%s`', left(reference, 100)), '`moonyard runner list` lists them.'
        );
    END IF;
END $$;
COMMENT ON FUNCTION moonyard.runners_of IS 'Finds the runners of a name or id.';

CREATE FUNCTION moonyard.runner_token_make(runner uuid, asking uuid, made uuid, made_hash bytea) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    known record;
BEGIN
    -- The runner's row puts all that changes its tokens in order.
    SELECT name, revoked_at INTO known FROM moonyard.runners WHERE id = runner FOR UPDATE;
    IF known.revoked_at IS NOT NULL OR NOT EXISTS (
        SELECT FROM moonyard.tokens AS held
        WHERE held.id = asking AND held.runner_id = runner AND held.replaced_at IS NULL AND held.revoked_at IS NULL
    ) THEN
        RETURN false;
    END IF;
    -- What was asked for and never used is kept, for it may be what the runner has written down; but not without an end.
    DELETE FROM moonyard.tokens AS stale WHERE stale.id IN (
        SELECT waiting.id FROM moonyard.tokens AS waiting
        WHERE waiting.runner_id = runner AND waiting.first_used_at IS NULL AND waiting.replaced_at IS NULL
            AND waiting.id <> asking
        ORDER BY waiting.created_at DESC, waiting.id DESC
        OFFSET 7
    );
    INSERT INTO moonyard.tokens (id, kind, name, hash, runner_id) VALUES (made, 'runner', known.name, made_hash, runner);
    RETURN true;
END $$;
COMMENT ON FUNCTION moonyard.runner_token_make IS 'Stores another token of a runner, which counts once it is used; says whether the one that asks may.';

CREATE FUNCTION moonyard.runner_token_use(token uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    holder uuid;
    named text;
    replaced bigint;
BEGIN
    SELECT held.runner_id INTO holder FROM moonyard.tokens AS held WHERE held.id = token;
    SELECT known.name INTO named FROM moonyard.runners AS known
    WHERE known.id = holder AND known.revoked_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE moonyard.tokens AS held SET first_used_at = now()
    WHERE held.id = token AND held.first_used_at IS NULL AND held.replaced_at IS NULL AND held.revoked_at IS NULL;
    IF NOT FOUND THEN
        -- Another request with it was first, or another token took its place.
        RETURN EXISTS (
            SELECT FROM moonyard.tokens AS held
            WHERE held.id = token AND held.first_used_at IS NOT NULL AND held.revoked_at IS NULL
        );
    END IF;
    UPDATE moonyard.tokens AS held SET replaced_at = now()
    WHERE held.runner_id = holder AND held.id <> token AND held.replaced_at IS NULL;
    GET DIAGNOSTICS replaced = ROW_COUNT;
    IF replaced > 0 THEN
        UPDATE moonyard.runners AS known SET rotation_wanted_at = NULL WHERE known.id = holder;
        PERFORM moonyard.note('runner ' || named, 'rotate token', 'runner ' || named, jsonb_build_object('runner', holder));
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION moonyard.runner_token_use IS 'Takes note of the first use of a runner''s token, which replaces its others; says whether it is good.';

CREATE FUNCTION moonyard.runner_token_reused(token uuid) RETURNS void
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    reused record;
BEGIN
    -- Who tries a token again and again fills no table: one row a minute tells as much.
    UPDATE moonyard.runners AS known SET reused_at = now()
    FROM moonyard.tokens AS held
    WHERE held.id = token AND known.id = held.runner_id
        AND (known.reused_at IS NULL OR known.reused_at < now() - interval '1 minute')
    RETURNING known.id, known.name, held.replaced_at INTO reused;
    IF FOUND THEN
        PERFORM moonyard.note(
            'runner ' || reused.name, 'reuse replaced token', 'runner ' || reused.name,
            jsonb_build_object('runner', reused.id, 'token', token, 'replaced_at', reused.replaced_at)
        );
    END IF;
END $$;
COMMENT ON FUNCTION moonyard.runner_token_reused IS 'Takes note that a runner''s token was used which had been replaced.';

CREATE FUNCTION moonyard.runner_rotate(runner text, actor text) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    meant uuid[] := ARRAY(SELECT moonyard.runners_of(runner));
BEGIN
    IF EXISTS (SELECT FROM moonyard.runners AS known WHERE known.id = ANY (meant) AND known.revoked_at IS NOT NULL) THEN
        PERFORM moonyard.refuse(
            'runner_revoked', format('runner `%s` was revoked, and gets no new token', left(runner, 100)),
            'It can be registered again, as a runner of its own.'
        );
    END IF;
    RETURN QUERY
    UPDATE moonyard.runners AS known SET rotation_wanted_at = now() WHERE known.id = ANY (meant) RETURNING known.id;
    PERFORM moonyard.note(actor, 'ask for rotation', 'runner ' || runner);
END $$;
COMMENT ON FUNCTION moonyard.runner_rotate IS 'Has the runners of a name or id get a new token: each does so when it hears of it.';

-- An attempt's end as lost, and what becomes of its job: `$3` its next state, `$4` by how much its losses grow, `$5` why,
-- `$6` the job's error. The attempt's row has to be locked.
CREATE FUNCTION moonyard.attempt_lose(
    job uuid, attempt integer, next_state text, losses integer, told jsonb, error jsonb
) RETURNS void
LANGUAGE sql AS $$
    WITH lost AS (
        UPDATE moonyard.attempts SET state = 'lost', finished_at = now()
        WHERE job_id = $1 AND number = $2 AND finished_at IS NULL
        RETURNING job_id, next_seq
    ),
    changed AS (
        UPDATE moonyard.jobs AS job
        SET state = $3, losses = job.losses + $4, error = $6,
            finished_at = CASE WHEN $3 = 'queued' THEN NULL ELSE now() END,
            -- It keeps its slot in a group: a runner may have it at once.
            parked = NULL, queue_deadline = now() + make_interval(secs => queue_timeout_seconds)
        FROM lost WHERE job.id = lost.job_id AND job.attempt = $2
        RETURNING job.id, job.number, lost.next_seq
    ),
    line AS (
        SELECT id, next_seq, moonyard.job_line(id, number, $2, next_seq, $3, $5) AS text FROM changed
    ),
    told AS (
        INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
        SELECT id, $2, next_seq, next_seq + 1, octet_length(text), text FROM line
    )
    UPDATE moonyard.stages SET state = 'cancelled', finished_at = now()
    WHERE job_id = $1 AND attempt = $2 AND state = 'running';
$$;
COMMENT ON FUNCTION moonyard.attempt_lose IS 'Ends an attempt as lost, and says in its record what becomes of its job.';

-- Attempts are locked before their runner, as heartbeats do it. What a claim gives to the runner meanwhile is found by
-- whoever looks for leases that ran out: those of a revoked runner have.
CREATE FUNCTION moonyard.runner_revoke(runner text, actor text, is_removed boolean DEFAULT false) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    meant uuid[] := ARRAY(SELECT moonyard.runners_of(runner));
    lost record;
    changed uuid[];
BEGIN
    FOR lost IN
        SELECT attempt.job_id, attempt.number AS attempt, job.turn - 1000 * job.priority AS place,
            job.cancel_requested_at IS NOT NULL AS cancelled, named.name AS runner
        FROM moonyard.attempts AS attempt
        JOIN moonyard.jobs AS job ON job.id = attempt.job_id
        JOIN moonyard.runners AS named ON named.id = attempt.runner_id
        WHERE attempt.runner_id = ANY (meant) AND attempt.state = 'running'
        ORDER BY attempt.job_id
        FOR UPDATE OF attempt
    LOOP
        -- Nobody's fault: it is not counted among the job's losses.
        PERFORM moonyard.attempt_lose(
            lost.job_id, lost.attempt, CASE WHEN lost.cancelled THEN 'cancelled' ELSE 'queued' END, 0,
            moonyard.revoked_error(lost.attempt, lost.runner, actor),
            CASE WHEN lost.cancelled THEN moonyard.revoked_error(lost.attempt, lost.runner, actor) END
        );
        PERFORM moonyard.tell('jobs', lost.job_id);
        PERFORM moonyard.tell_queued(lost.place);
    END LOOP;
    WITH revoked AS (
        UPDATE moonyard.runners AS known
        SET revoked_at = coalesce(known.revoked_at, now()), revoked_by = coalesce(known.revoked_by, actor),
            removed_at = CASE WHEN is_removed THEN now() END
        WHERE known.id = ANY (meant)
        RETURNING known.id
    )
    SELECT array_agg(id) INTO changed FROM revoked;
    UPDATE moonyard.tokens AS held SET revoked_at = coalesce(held.revoked_at, now()) WHERE held.runner_id = ANY (meant);
    PERFORM moonyard.note(
        actor, CASE WHEN is_removed THEN 'remove' ELSE 'revoke' END, 'runner ' || runner,
        jsonb_build_object('runners', changed)
    );
    RETURN QUERY SELECT unnest(changed);
END $$;
COMMENT ON FUNCTION moonyard.runner_revoke IS 'Refuses the tokens of the runners of a name or id from now on, and queues what they ran again; removed, they are listed no more.';

CREATE FUNCTION moonyard.revoked_error(attempt integer, runner text, actor text) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'code', 'attempt_lost', 'message', format('attempt %s was lost: runner `%s` was revoked by %s', attempt, runner, actor)
    );
$$;
COMMENT ON FUNCTION moonyard.revoked_error IS 'Says why an attempt of a revoked runner was lost.';

-- What a runner may name ---------------------------------------------------------------------------------------------

-- A content is named as an artifact, cache or workspace by its hash. Only a runner that has sent all of it may: whoever
-- knows a hash alone would get at what it stands for.
CREATE TABLE moonyard.blob_senders (
    blob_id uuid NOT NULL REFERENCES moonyard.blobs (id) ON DELETE CASCADE,
    runner_id uuid NOT NULL REFERENCES moonyard.runners (id) ON DELETE CASCADE,
    sent_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT blob_senders_pkey PRIMARY KEY (blob_id, runner_id)
);
COMMENT ON TABLE moonyard.blob_senders IS 'Which runners have sent which contents, whole, and so may name them.';

-- Shares of limits ---------------------------------------------------------------------------------------------------

-- The permits that a runner had last of each limit. Until their time is over it has no others, however often it asks.
CREATE TABLE moonyard.http_shares (
    host text NOT NULL REFERENCES moonyard.http_limits (host) ON DELETE CASCADE,
    runner_id uuid NOT NULL REFERENCES moonyard.runners (id) ON DELETE CASCADE,
    first_at timestamptz NOT NULL,
    size integer NOT NULL,
    interval_seconds double precision NOT NULL,
    CONSTRAINT http_shares_pkey PRIMARY KEY (host, runner_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE moonyard.http_shares IS 'When the permits that each runner was given last are due, the first at first_at.';

CREATE FUNCTION moonyard.http_permits_take(
    host text, runner uuid, wanted integer, most integer,
    OUT size integer, OUT delay double precision, OUT interval_seconds double precision, OUT rate text
) RETURNS SETOF record
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    known moonyard.http_limits;
    share moonyard.http_shares;
    passed integer;
    first timestamptz;
BEGIN
    -- The limit's row first: two requests of one runner see each other's share.
    SELECT * INTO known FROM moonyard.http_limits AS found WHERE found.host = http_permits_take.host FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    rate := known.rate;
    interval_seconds := known.interval_seconds;
    SELECT * INTO share FROM moonyard.http_shares AS found
    WHERE found.host = known.host AND found.runner_id = runner AND found.interval_seconds = known.interval_seconds;
    -- A runner asks for more once its last is used. One that asks before (it was started again, or wants more than its
    -- turn) is told of those that are not due yet, and the others' turn comes no later.
    passed := greatest(0, least(share.size, ceil(extract(epoch FROM now() - share.first_at) / known.interval_seconds)));
    IF passed < share.size THEN
        size := share.size - passed;
        delay := extract(epoch FROM share.first_at - now()) + passed * known.interval_seconds;
        RETURN NEXT;
        RETURN;
    END IF;
    -- Not more than come in a second, so that runners take turns: whoever asks next gets the time behind that of this
    -- one. What nobody asked for in time is not saved up beyond the burst.
    size := greatest(1, least(wanted, most, floor(1 / known.interval_seconds)::integer));
    first := greatest(known.next_at, now()) - make_interval(secs => (known.burst - 1) * known.interval_seconds);
    delay := extract(epoch FROM first - now());
    UPDATE moonyard.http_limits AS found
    SET next_at = greatest(found.next_at, now()) + make_interval(secs => http_permits_take.size * known.interval_seconds),
        permits = found.permits + http_permits_take.size, asked_at = now()
    WHERE found.host = known.host;
    INSERT INTO moonyard.http_shares AS held (host, runner_id, first_at, size, interval_seconds)
    VALUES (known.host, runner, first, http_permits_take.size, known.interval_seconds)
    ON CONFLICT (host, runner_id) DO UPDATE
    SET first_at = excluded.first_at, size = excluded.size, interval_seconds = excluded.interval_seconds;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION moonyard.http_permits_take IS 'Gives a runner permits for requests to a host with a limit: those that come next, or those that it has and that are not due yet.';

-- Which jobs go to which runners -------------------------------------------------------------------------------------

-- A runner that is bound takes only jobs of pipelines that fit one of its patterns. Jobs of a pipeline that is reserved go
-- only to runners that are bound to it. Nobody else notices: it all rides on the tags by which claims find jobs anyway.
--
-- Pipelines that fit the same patterns (of bindings and of reservations) are of one class. A class is a tag: `@` and the
-- patterns where any runner that is not bound may have the jobs, too, `!` and the patterns where none may. Jobs of a
-- pipeline with a class ask for that tag, by its versions' rules; a runner reaches its own tags, and those of the classes
-- that it may take. A bound one has the tag `@` besides, by which a claim passes over what asks for no class. So there are
-- as many sets of tags more as there are classes, however many pipelines, and a claim walks one index range for each that
-- its runner reaches. No tag of people's begins like that.

CREATE TABLE moonyard.runner_bindings (
    runner_id uuid NOT NULL REFERENCES moonyard.runners (id) ON DELETE CASCADE,
    pipelines text NOT NULL,
    bound_by text NOT NULL,
    bound_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT runner_bindings_pkey PRIMARY KEY (runner_id, pipelines)
);
COMMENT ON TABLE moonyard.runner_bindings IS 'To which pipelines, by name or pattern, a runner is bound: it takes jobs of no others.';

CREATE TABLE moonyard.reservations (
    pipelines text PRIMARY KEY,
    reserved_by text NOT NULL,
    reserved_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE moonyard.reservations IS 'Pipelines, by name or pattern, whose jobs go to no runner that is not bound to them.';

ALTER TABLE moonyard.pipelines ADD COLUMN class text;
COMMENT ON COLUMN moonyard.pipelines.class IS 'The tag by which bindings and reservations that it fits are held; NULL where it fits none.';
CREATE INDEX pipelines_of_class ON moonyard.pipelines (class) WHERE class IS NOT NULL;

ALTER TABLE moonyard.tag_sets
    ADD COLUMN has_class boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT tag_set_has_tags,
    ADD CONSTRAINT tag_set_has_tags CHECK (cardinality(tags) BETWEEN 1 AND 21);
COMMENT ON COLUMN moonyard.tag_sets.has_class IS 'One of its tags is a class of pipelines.';

ALTER TABLE moonyard.runners ADD COLUMN reach text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN moonyard.runners.reach IS 'Its tags, and those of the classes of pipelines that it may take.';
UPDATE moonyard.runners SET reach = tags;

CREATE FUNCTION moonyard.class_of(pipeline text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN bool_or(fitting.is_reserved) THEN '!' ELSE '@' END
        || string_agg(DISTINCT fitting.pattern, ' ' ORDER BY fitting.pattern)
    FROM (
        SELECT bound.pipelines AS pattern, false AS is_reserved
        FROM moonyard.runner_bindings AS bound JOIN moonyard.runners AS known ON known.id = bound.runner_id
        WHERE known.revoked_at IS NULL
        UNION ALL
        SELECT reserved.pipelines, true FROM moonyard.reservations AS reserved
    ) AS fitting
    WHERE moonyard.pattern_fits(fitting.pattern, class_of.pipeline)
    HAVING count(*) > 0;
$$;
COMMENT ON FUNCTION moonyard.class_of IS 'Works out the class of a pipeline from the bindings and reservations that it fits; NULL where it fits none.';

CREATE FUNCTION moonyard.reach_of(runner uuid, tags text[]) RETURNS text[]
LANGUAGE sql STABLE AS $$
    WITH mine AS (
        SELECT array_agg(bound.pipelines) AS patterns FROM moonyard.runner_bindings AS bound WHERE bound.runner_id = runner
    ),
    classes AS (SELECT DISTINCT class FROM moonyard.pipelines WHERE class IS NOT NULL)
    SELECT ARRAY(
        SELECT unnest(reach_of.tags)
        UNION
        SELECT '@' FROM mine WHERE mine.patterns IS NOT NULL
        UNION
        SELECT classes.class FROM classes CROSS JOIN mine
        WHERE CASE WHEN mine.patterns IS NULL THEN classes.class LIKE '@%'
            ELSE string_to_array(substr(classes.class, 2), ' ') && mine.patterns END
        ORDER BY 1
    );
$$;
COMMENT ON FUNCTION moonyard.reach_of IS 'Works out what a runner with these tags may take.';

CREATE FUNCTION moonyard.rules_with_class(rules jsonb, definition json, class text) RETURNS jsonb
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    asked text[];
    found integer;
BEGIN
    SELECT array_agg(tag ORDER BY tag) INTO asked FROM (
        SELECT json_array_elements_text(coalesce(definition -> 'tags', '[]')) UNION SELECT class WHERE class IS NOT NULL
    ) AS wanted (tag);
    IF asked IS NULL THEN
        RETURN nullif(rules - 'tag_set', '{}');
    END IF;
    INSERT INTO moonyard.tag_sets (tags, has_class) VALUES (asked, class IS NOT NULL) ON CONFLICT (tags) DO NOTHING;
    SELECT known.id INTO found FROM moonyard.tag_sets AS known WHERE known.tags = asked;
    RETURN coalesce(rules, '{}') || jsonb_build_object('tag_set', found);
END $$;
COMMENT ON FUNCTION moonyard.rules_with_class IS 'Gives a version''s rules with the set of its definition''s tags and its pipeline''s class.';

CREATE FUNCTION moonyard.reaches_settle() RETURNS SETOF uuid
LANGUAGE sql AS $$
    UPDATE moonyard.runners AS runner SET reach = now_it_is.reach
    FROM (SELECT known.id, moonyard.reach_of(known.id, known.tags) AS reach FROM moonyard.runners AS known) AS now_it_is
    WHERE now_it_is.id = runner.id AND runner.reach <> now_it_is.reach
    RETURNING runner.id;
$$;
COMMENT ON FUNCTION moonyard.reaches_settle IS 'Sets anew what each runner may take; gives those for which that changed.';

-- After a change of bindings or reservations: what is queued, what will be, and what runners reach. It runs as its owner,
-- for nothing else changes versions; and alone with these tables, so that no job is submitted by the old rules at the same
-- time and no version or pipeline is pushed that it does not see.
CREATE FUNCTION moonyard.classes_settle() RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record;
BEGIN
    BEGIN
        PERFORM set_config('lock_timeout', '2s', true);
        LOCK TABLE moonyard.pipelines, moonyard.pipeline_versions, moonyard.jobs IN SHARE ROW EXCLUSIVE MODE;
        PERFORM set_config('lock_timeout', '0', true);
    EXCEPTION WHEN lock_not_available THEN
        PERFORM moonyard.refuse(
            'busy', 'somebody holds the queue''s rows for longer than a moment: nothing was changed',
            'Try again. inspect.health and inspect.locks show who that is: an open transaction in psql, for instance.'
        );
    END;
    FOR changed IN
        UPDATE moonyard.pipelines AS pipeline SET class = moonyard.class_of(pipeline.name)
        WHERE pipeline.class IS DISTINCT FROM moonyard.class_of(pipeline.name)
        RETURNING pipeline.id, pipeline.class
    LOOP
        UPDATE moonyard.pipeline_versions AS version
        SET rules = moonyard.rules_with_class(version.rules, version.definition, changed.class)
        WHERE version.pipeline_id = changed.id;
        UPDATE moonyard.jobs AS job SET tag_set = (version.rules ->> 'tag_set')::integer
        FROM moonyard.pipeline_versions AS version
        WHERE job.state = 'queued' AND job.number > 0 AND job.pipeline_id = changed.id AND version.id = job.version_id
            AND job.tag_set IS DISTINCT FROM (version.rules ->> 'tag_set')::integer;
    END LOOP;
    RETURN QUERY SELECT moonyard.reaches_settle();
    -- What was not to be had may be now, at whatever place.
    PERFORM moonyard.tell('queue');
END $$;
COMMENT ON FUNCTION moonyard.classes_settle IS 'Has bindings and reservations hold from now on; gives the runners for which something changed.';

CREATE FUNCTION moonyard.pipeline_classed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.class := moonyard.class_of(NEW.name);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION moonyard.pipeline_classed IS 'Gives a new pipeline its class.';
CREATE TRIGGER pipeline_classed BEFORE INSERT ON moonyard.pipelines FOR EACH ROW
    EXECUTE FUNCTION moonyard.pipeline_classed();

CREATE FUNCTION moonyard.pipeline_reached() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM moonyard.tell('runners', changed) FROM moonyard.reaches_settle() AS changed;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION moonyard.pipeline_reached IS 'Has the runners that may take jobs of a new pipeline reach its class.';
CREATE TRIGGER pipeline_reached AFTER INSERT ON moonyard.pipelines FOR EACH ROW WHEN (NEW.class IS NOT NULL)
    EXECUTE FUNCTION moonyard.pipeline_reached();

CREATE FUNCTION moonyard.version_classed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    class CONSTANT text := (SELECT known.class FROM moonyard.pipelines AS known WHERE known.id = NEW.pipeline_id);
BEGIN
    IF class IS NOT NULL THEN
        NEW.rules := moonyard.rules_with_class(NEW.rules, NEW.definition, class);
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION moonyard.version_classed IS 'Puts the class of its pipeline into a new version''s rules.';
CREATE TRIGGER version_classed BEFORE INSERT ON moonyard.pipeline_versions FOR EACH ROW
    EXECUTE FUNCTION moonyard.version_classed();

-- A job that was submitted before its pipeline was reserved, and is queued once more.
CREATE FUNCTION moonyard.job_classed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.tag_set := (SELECT (known.rules ->> 'tag_set')::integer FROM moonyard.pipeline_versions AS known WHERE known.id = NEW.version_id);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION moonyard.job_classed IS 'Gives a job that is queued again the tags that its version asks for now.';
CREATE TRIGGER job_classed BEFORE UPDATE OF state ON moonyard.jobs FOR EACH ROW
    WHEN (NEW.state = 'queued' AND OLD.state <> 'queued')
    EXECUTE FUNCTION moonyard.job_classed();

CREATE FUNCTION moonyard.runner_reaches() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.reach := moonyard.reach_of(NEW.id, NEW.tags);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION moonyard.runner_reaches IS 'Works out what a new runner may take.';
CREATE TRIGGER runner_reaches BEFORE INSERT ON moonyard.runners FOR EACH ROW EXECUTE FUNCTION moonyard.runner_reaches();

CREATE FUNCTION moonyard.pattern_check(pattern text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pattern IS NULL OR pattern !~ '^[A-Za-z0-9*][A-Za-z0-9._*-]{0,99}$' THEN
        PERFORM moonyard.refuse(
            'request_invalid', format('`%s` is no name of a pipeline, nor a pattern of such', left(coalesce(pattern, ''), 100)),
            'For instance: build, or deploy-* for all whose names begin so.'
        );
    END IF;
END $$;
COMMENT ON FUNCTION moonyard.pattern_check IS 'Refuses what is no pattern of pipelines'' names.';

CREATE FUNCTION moonyard.runner_bind(runner text, pipelines text[], actor text) RETURNS TABLE (id uuid, is_meant boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    meant uuid[] := ARRAY(SELECT moonyard.runners_of(runner));
    wanted text[] := ARRAY(SELECT DISTINCT unnest(pipelines) ORDER BY 1);
    pattern text;
    changed uuid[];
BEGIN
    IF cardinality(wanted) > 100 THEN
        PERFORM moonyard.refuse('request_invalid', 'a runner is bound by up to 100 names or patterns');
    END IF;
    FOREACH pattern IN ARRAY wanted LOOP
        PERFORM moonyard.pattern_check(pattern);
    END LOOP;
    DELETE FROM moonyard.runner_bindings AS bound
    WHERE bound.runner_id = ANY (meant) AND bound.pipelines <> ALL (wanted);
    INSERT INTO moonyard.runner_bindings (runner_id, pipelines, bound_by)
    SELECT one, named, actor FROM unnest(meant) AS one CROSS JOIN unnest(wanted) AS named
    ON CONFLICT DO NOTHING;
    changed := ARRAY(SELECT moonyard.classes_settle());
    PERFORM moonyard.note(
        actor, CASE WHEN wanted = '{}' THEN 'unbind' ELSE 'bind' END, 'runner ' || runner,
        jsonb_build_object('runners', meant, 'pipelines', wanted)
    );
    RETURN QUERY SELECT one, one = ANY (meant) FROM unnest(meant || changed) AS one GROUP BY one ORDER BY one;
END $$;
COMMENT ON FUNCTION moonyard.runner_bind IS 'Binds the runners of a name or id to pipelines, to none by an empty list; gives all runners that have something to hear.';

CREATE FUNCTION moonyard.reserve(pipelines text, is_reserved boolean, actor text) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    PERFORM moonyard.pattern_check(pipelines);
    IF is_reserved THEN
        INSERT INTO moonyard.reservations AS known (pipelines, reserved_by) VALUES (pipelines, actor) ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM moonyard.reservations AS known WHERE known.pipelines = reserve.pipelines;
        IF NOT FOUND THEN
            PERFORM moonyard.refuse(
                'reservation_unknown', format('`%s` is not reserved', pipelines), '`moonyard runner reserved` lists what is.'
            );
        END IF;
    END IF;
    PERFORM moonyard.note(actor, CASE WHEN is_reserved THEN 'reserve' ELSE 'unreserve' END, 'pipelines ' || pipelines);
    RETURN QUERY SELECT moonyard.classes_settle();
END $$;
COMMENT ON FUNCTION moonyard.reserve IS 'Lets jobs of pipelines go only to runners that are bound to them, or to any again; gives the runners that have something to hear.';

CREATE OR REPLACE VIEW moonyard.waits AS
SELECT
    job.id AS job_id, job.number, job.pipeline_id, job.priority, job.created_at, job.parked,
    job.turn - 1000 * job.priority AS place,
    CASE
        WHEN job.parked = 'delayed' THEN
            'not before ' || to_char(job.not_before AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
            || CASE WHEN job.failures > 0 THEN ', after a failed attempt' ELSE '' END
        WHEN everything.paused_by IS NOT NULL THEN 'everything is paused by ' || everything.paused_by
        WHEN pause.paused_by IS NOT NULL THEN 'paused by ' || pause.paused_by
        WHEN job.parked = 'group' THEN
            CASE WHEN job.concurrency_group LIKE 'pipeline:%' THEN 'the limit of ' || substr(job.concurrency_group, 10)
                ELSE 'concurrency group ' || job.concurrency_group END
            || CASE holder.count
                WHEN 0 THEN ' is about to be free'
                WHEN 1 THEN ' is taken by job ' || holder.first
                ELSE ' is taken by job ' || holder.first || ' and ' || holder.count - 1 || ' more' END
        WHEN fleet.online = 0 THEN 'no runner is connected'
        WHEN job.tag_set IS NOT NULL AND tagged.known = 0 THEN 'no runner has ' || tagged.words
        WHEN job.tag_set IS NOT NULL AND tagged.online = 0 THEN 'no runner with ' || tagged.words || ' is connected'
        WHEN fleet.open = 0 THEN
            CASE fleet.online WHEN 1 THEN 'the only runner is draining' ELSE 'all ' || fleet.online || ' runners are draining' END
        WHEN job.tag_set IS NOT NULL AND tagged.free = 0 THEN 'runners with ' || tagged.words || ' are busy or draining'
        WHEN job.tag_set IS NULL AND fleet.unbound = 0 THEN 'all connected runners are bound to other pipelines'
        WHEN job.tag_set IS NULL AND fleet.free = 0 THEN
            CASE fleet.unbound WHEN 1 THEN 'the only runner is busy' ELSE 'all ' || fleet.unbound || ' runners are busy' END
        ELSE 'its turn is next'
    END AS why
FROM moonyard.jobs AS job
CROSS JOIN (
    SELECT
        count(*) AS online,
        count(*) FILTER (WHERE is_open) AS open,
        count(*) FILTER (WHERE is_open AND NOT is_bound) AS unbound,
        count(*) FILTER (WHERE is_open AND NOT is_bound AND running < capacity) AS free
    FROM (
        SELECT capacity, NOT draining AND drained_at IS NULL AS is_open, '@' = ANY (reach) AS is_bound,
            (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running') AS running
        FROM moonyard.runners AS runner
        WHERE seen_at >= now() - interval '30 seconds' AND revoked_at IS NULL
    ) AS seen
) AS fleet
LEFT JOIN moonyard.pauses AS everything ON everything.pipeline_id IS NULL
LEFT JOIN moonyard.pauses AS pause ON pause.pipeline_id = job.pipeline_id
LEFT JOIN LATERAL (
    SELECT count(*) AS count, min(other.number) AS first
    FROM moonyard.concurrency_slots AS slot JOIN moonyard.jobs AS other ON other.id = slot.job_id
    WHERE slot.concurrency_group = job.concurrency_group AND job.parked = 'group'
) AS holder ON true
LEFT JOIN LATERAL (
    SELECT
        concat_ws(
            ' and ',
            CASE WHEN wanted.has_class THEN (SELECT 'a binding to ' || known.name FROM moonyard.pipelines AS known WHERE known.id = job.pipeline_id) END,
            (
                SELECT CASE count(*) WHEN 1 THEN 'tag ' ELSE 'tags ' END || string_agg(tag, ', ' ORDER BY tag)
                FROM unnest(wanted.tags) AS tag WHERE tag !~ '^[@!]'
                HAVING count(*) > 0
            )
        ) AS words,
        count(runner.id) AS known,
        count(*) FILTER (WHERE runner.seen_at >= now() - interval '30 seconds') AS online,
        count(*) FILTER (
            WHERE runner.seen_at >= now() - interval '30 seconds' AND NOT runner.draining AND runner.drained_at IS NULL
                AND runner.capacity > (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running')
        ) AS free
    FROM moonyard.tag_sets AS wanted
    LEFT JOIN moonyard.runners AS runner ON runner.reach @> wanted.tags AND runner.revoked_at IS NULL
        AND (wanted.has_class OR NOT '@' = ANY (runner.reach))
    WHERE wanted.id = job.tag_set
    GROUP BY wanted.tags, wanted.has_class
) AS tagged ON true
WHERE job.state = 'queued';

CREATE OR REPLACE VIEW inspect.runners AS
SELECT
    inspect.shortened(runner.name, 28) AS runner,
    CASE
        WHEN runner.revoked_at IS NOT NULL THEN 'revoked'
        WHEN runner.seen_at IS NULL OR runner.seen_at < now() - interval '30 seconds' THEN 'offline'
        WHEN runner.draining OR runner.drained_at IS NOT NULL THEN 'draining'
        ELSE 'online'
    END AS state,
    (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running') AS running,
    runner.capacity,
    runner.version,
    inspect.shortened(array_to_string(runner.tags, ' '), 14) AS tags,
    inspect.shortened(runner.drained_by, 12) AS drained_by,
    inspect.duration(now() - runner.seen_at) AS seen_ago
FROM moonyard.runners AS runner
WHERE runner.removed_at IS NULL
ORDER BY runner.name, runner.registered_at;
COMMENT ON VIEW inspect.runners IS 'Runners; one that said nothing for 30 s is offline, one whose token is refused revoked. drained_by: who wants no more jobs to go there. What they are bound to: inspect.bindings.';

CREATE VIEW inspect.bindings AS
SELECT
    inspect.shortened(named.pipelines, 40) AS pipelines,
    reserved.pipelines IS NOT NULL AS reserved,
    inspect.shortened((
        SELECT string_agg(runner.name, ', ' ORDER BY runner.name)
        FROM moonyard.runner_bindings AS bound JOIN moonyard.runners AS runner ON runner.id = bound.runner_id
        WHERE bound.pipelines = named.pipelines AND runner.revoked_at IS NULL
    ), 40) AS runners,
    (SELECT count(*) FROM moonyard.pipelines AS known WHERE moonyard.pattern_fits(named.pipelines, known.name)) AS fitting
FROM (SELECT pipelines FROM moonyard.runner_bindings UNION SELECT pipelines FROM moonyard.reservations) AS named
LEFT JOIN moonyard.reservations AS reserved ON reserved.pipelines = named.pipelines
ORDER BY named.pipelines;
COMMENT ON VIEW inspect.bindings IS 'Pipelines by name or pattern, and the runners that are bound to them. reserved: their jobs go to no other runner. fitting: how many pipelines that is now.';

CREATE VIEW inspect.runner_tokens AS
SELECT
    inspect.shortened(runner.name, 28) AS runner,
    CASE
        WHEN token.revoked_at IS NOT NULL THEN 'revoked'
        WHEN token.replaced_at IS NOT NULL THEN 'replaced'
        WHEN token.first_used_at IS NULL THEN 'never used'
        ELSE 'in use'
    END AS state,
    inspect.duration(now() - token.created_at) AS age,
    inspect.duration(now() - token.last_used_at) AS used_ago,
    inspect.duration(now() - token.replaced_at) AS replaced_ago,
    CASE WHEN token.replaced_at IS NULL THEN inspect.duration(now() - runner.reused_at) END AS old_one_used_ago
FROM moonyard.tokens AS token JOIN moonyard.runners AS runner ON runner.id = token.runner_id
WHERE runner.removed_at IS NULL
ORDER BY runner.name, runner.id, token.created_at DESC;
COMMENT ON VIEW inspect.runner_tokens IS 'Runners'' tokens, never what they are. old_one_used_ago: when one that had been replaced was used last: somebody may have a copy.';

-- What operators do in psql ------------------------------------------------------------------------------------------

CREATE FUNCTION control.rotate_runner(runner text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', called)) FROM moonyard.runner_rotate(runner, session_user) AS called;
$$;
COMMENT ON FUNCTION control.rotate_runner IS
    'Has the running runners of that name or id get a new token, and says how many they are: SELECT control.rotate_runner(''builder-1'');';

CREATE FUNCTION control.revoke_runner(runner text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', called)) FROM moonyard.runner_revoke(runner, session_user) AS called;
$$;
COMMENT ON FUNCTION control.revoke_runner IS
    'Refuses the tokens of the runners of that name or id, for ever, and queues what they ran again: SELECT control.revoke_runner(''builder-1'');';

CREATE FUNCTION control.remove_runner(runner text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', called)) FROM moonyard.runner_revoke(runner, session_user, true) AS called;
$$;
COMMENT ON FUNCTION control.remove_runner IS
    'Revokes the runners of that name or id, and lists them no more: SELECT control.remove_runner(''builder-1'');';

CREATE FUNCTION control.bind_runner(runner text, pipelines text[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- All are told that have something to hear; those that were meant are counted.
    SELECT count(*) FILTER (WHERE bound.is_meant) + 0 * count(moonyard.tell('runners', bound.id))
    FROM moonyard.runner_bind(runner, pipelines, session_user) AS bound;
$$;
COMMENT ON FUNCTION control.bind_runner IS
    'Lets the runners of that name or id take only jobs of these pipelines, names or patterns, or of any again: SELECT control.bind_runner(''builder-1'', ''{deploy-*}'');';

CREATE FUNCTION control.reserve(pipelines text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', called)) FROM moonyard.reserve(pipelines, true, session_user) AS called;
$$;
COMMENT ON FUNCTION control.reserve IS
    'Lets jobs of pipelines, a name or pattern, go only to runners that are bound to them: SELECT control.reserve(''deploy-*'');';

CREATE FUNCTION control.unreserve(pipelines text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(moonyard.tell('runners', called)) FROM moonyard.reserve(pipelines, false, session_user) AS called;
$$;
COMMENT ON FUNCTION control.unreserve IS 'Ends what control.reserve began: SELECT control.unreserve(''deploy-*'');';

REVOKE EXECUTE ON FUNCTION control.rotate_runner, control.revoke_runner, control.remove_runner, control.bind_runner,
    control.reserve, control.unreserve FROM PUBLIC;
