-- What users expect of a queue: priorities, delays, limits, pauses, tags, retries, schedules, and who did what.
--
-- Everything is added, nothing changed: replicas of the version before go on, as long as nobody uses what is new.
-- (One of those claims by state alone, and so would start a job that is delayed, paused or over its limit.)
SET LOCAL lock_timeout = '10s';  -- rather fail, and be run again, than make all claims queue up behind this

-- Columns --------------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.tag_sets (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tags text[] NOT NULL,
    CONSTRAINT tag_set_is_stored_once UNIQUE (tags),
    CONSTRAINT tag_set_has_tags CHECK (cardinality(tags) BETWEEN 1 AND 20)
);
COMMENT ON TABLE moonyard.tag_sets IS 'The sets of tags that pipelines ask for: few, so that a claim walks one index range a set.';

ALTER TABLE moonyard.runners
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}',
    ADD COLUMN drained_at timestamptz,
    ADD COLUMN drained_by text,
    ADD CONSTRAINT drained_runners_have_a_drainer CHECK ((drained_at IS NULL) = (drained_by IS NULL));
COMMENT ON COLUMN moonyard.runners.tags IS 'A job whose pipeline asks for tags goes to runners that have them all.';
COMMENT ON COLUMN moonyard.runners.drained_at IS 'An operator wants no more jobs to go there. (draining: the runner itself is stopping.)';

ALTER TABLE moonyard.pipeline_versions ADD COLUMN rules jsonb;
ALTER TABLE moonyard.commands
    ADD COLUMN digest text,
    ADD COLUMN cpu_seconds double precision,
    ADD COLUMN memory_peak_bytes bigint,
    ADD COLUMN output_bytes bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN moonyard.commands.cpu_seconds IS 'Processor time; NULL where other commands ran in the container meanwhile, or the runner''s machine does not tell.';
COMMENT ON COLUMN moonyard.commands.memory_peak_bytes IS 'The most memory that the container had while the command ran, cached files included; NULL as with cpu_seconds.';
COMMENT ON COLUMN moonyard.commands.output_bytes IS 'Of stdout and stderr, whether they are in the log or not.';
COMMENT ON COLUMN moonyard.commands.digest IS 'That of the container''s image in the registry that it came from.';
COMMENT ON COLUMN moonyard.pipeline_versions.rules IS 'What the definition says about queueing, by itself: a submit reads no more.';

ALTER TABLE moonyard.jobs
    ADD COLUMN priority smallint NOT NULL DEFAULT 0,
    ADD COLUMN turn bigint NOT NULL DEFAULT 0,
    ADD COLUMN parked text,
    ADD COLUMN not_before timestamptz,
    ADD COLUMN queue_timeout_seconds double precision,
    ADD COLUMN queue_deadline timestamptz,
    ADD COLUMN tag_set integer REFERENCES moonyard.tag_sets (id),
    ADD COLUMN concurrency_group text,
    ADD COLUMN concurrency_limit integer,
    ADD COLUMN retry jsonb,
    ADD COLUMN failures integer NOT NULL DEFAULT 0,
    ADD COLUMN request_hash bytea,
    ADD COLUMN cancel_forced boolean NOT NULL DEFAULT false,
    ADD COLUMN resume jsonb,
    ADD COLUMN traceparent text,
    ADD CONSTRAINT priority_in_range CHECK (priority BETWEEN -100 AND 100),
    ADD CONSTRAINT parked_is_known CHECK (parked IN ('delayed', 'group', 'paused')),
    ADD CONSTRAINT group_and_limit_come_together CHECK ((concurrency_group IS NULL) = (concurrency_limit IS NULL)),
    ADD CONSTRAINT concurrency_limit_is_positive CHECK (concurrency_limit > 0),
    ADD CONSTRAINT traceparent_has_its_length CHECK (length(traceparent) = 55);
COMMENT ON COLUMN moonyard.jobs.turn IS 'Its pipeline''s turn: with the priority, its place in the queue.';
COMMENT ON COLUMN moonyard.jobs.parked IS 'Why a queued job is kept out of the claims'' sight; NULL when a runner may have it.';
COMMENT ON COLUMN moonyard.jobs.failures IS 'How many attempts failed and were followed by an automatic retry.';
COMMENT ON COLUMN moonyard.jobs.retry IS 'Of the pipeline: {"times", "delay", "backoff"}. Losses have their own allowance.';
COMMENT ON COLUMN moonyard.jobs.traceparent IS 'The trace in which it was submitted: W3C Trace Context.';
COMMENT ON COLUMN moonyard.jobs.resume IS 'What its attempts begin with since its last retry: {"stage", "workspace"}. NULL: at the start.';
COMMENT ON COLUMN moonyard.jobs.cancel_forced IS 'A cancel that waits for nothing: commands are killed, and no stage runs afterwards.';
COMMENT ON COLUMN moonyard.jobs.request_hash IS 'What was asked for under the idempotency key: SHA-256 of the request.';

-- The queue's order, and why nothing starves. Pipelines take turns, as flows do in start-time fair queueing: a job's turn
-- is one after that of its pipeline's job before it, or after the turn that was last handed out, whichever is later. So
-- a pipeline's own jobs keep their order, and one that has a million waiting is a million turns ahead of the time, while
-- the first job of another is next. (Submits at the very same moment may get the same turn: then the number decides.)
--
-- A job's place is its turn less 1,000 a point of priority: with priority p it goes before the 1,000 p turns before its
-- own, and before no other. So whatever comes later, a job is overtaken by jobs with higher priority of the next
-- 1,000 (100 - its priority) turns, and then by none.
-- The place follows from two columns that never change: the order is an index, and nothing is recomputed as jobs age.
--
-- The index holds what a runner may have now, and nothing else. What has to wait for something is parked: it is looked
-- at when that happens, and not by every claim. However many jobs are finished, delayed, paused or behind a full group,
-- a claim is one short walk.
--
-- Listing what is queued has indexes of its own: by number, and in the order in which inspect.queue shows it. Their odd
-- condition is always true, and says so to nobody but the lists: were it one that a claim implies, a planner that knows of
-- few queued jobs (statistics are mostly taken when there are none) would walk it and sort, and with a backlog each claim
-- would read all of that.
DROP INDEX moonyard.jobs_queued;
CREATE INDEX jobs_queued_listed ON moonyard.jobs (number) WHERE state = 'queued' AND number > 0;
CREATE INDEX jobs_queued_in_order ON moonyard.jobs ((parked IS NOT NULL), (turn - 1000 * priority), number)
    WHERE state = 'queued' AND number > 0;
CREATE INDEX jobs_ready ON moonyard.jobs ((turn - 1000 * priority), number)
    WHERE state = 'queued' AND parked IS NULL AND tag_set IS NULL;
CREATE INDEX jobs_ready_tagged ON moonyard.jobs (tag_set, (turn - 1000 * priority), number)
    WHERE state = 'queued' AND parked IS NULL AND tag_set IS NOT NULL;
CREATE INDEX jobs_delayed ON moonyard.jobs (not_before) WHERE state = 'queued' AND parked = 'delayed';
CREATE INDEX jobs_behind_group ON moonyard.jobs (concurrency_group, (turn - 1000 * priority), number)
    WHERE state = 'queued' AND parked = 'group';
CREATE INDEX jobs_paused ON moonyard.jobs (pipeline_id) WHERE state = 'queued' AND parked = 'paused';
CREATE INDEX jobs_with_deadline ON moonyard.jobs (queue_deadline)
    WHERE state = 'queued' AND queue_deadline IS NOT NULL;
-- For figures of the last hours. Jobs lie in the table about in the order of their end, so a few bytes a range do.
CREATE INDEX jobs_finished ON moonyard.jobs USING brin (finished_at) WITH (pages_per_range = 32, autosummarize = on);

CREATE SEQUENCE moonyard.turns;
COMMENT ON SEQUENCE moonyard.turns IS 'The turn that was last handed out. A sequence, for all claims advance it and none waits for another.';

-- Limits ---------------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.concurrency_slots (
    concurrency_group text NOT NULL,
    slot integer NOT NULL,
    job_id uuid NOT NULL REFERENCES moonyard.jobs (id) ON DELETE CASCADE,
    taken_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT concurrency_slot_is_taken_once PRIMARY KEY (concurrency_group, slot),
    CONSTRAINT job_has_one_slot UNIQUE (job_id),
    CONSTRAINT concurrency_slots_start_at_1 CHECK (slot > 0)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE moonyard.concurrency_slots IS 'Jobs that count against their group''s limit: from when a runner may have them to their end, retries included.';

-- Pauses and audit -----------------------------------------------------------------------------------------------

CREATE TABLE moonyard.pauses (
    pipeline_id uuid REFERENCES moonyard.pipelines (id),
    paused_by text NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pause_is_stored_once UNIQUE NULLS NOT DISTINCT (pipeline_id)
);
COMMENT ON TABLE moonyard.pauses IS 'Pipelines whose jobs wait; the row without a pipeline pauses all.';

CREATE TABLE moonyard.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb
);
COMMENT ON TABLE moonyard.audit IS 'What operators did, through the API (actor: a token) or in psql (actor: the session''s user).';

-- Schedules ------------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.schedules (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    pipeline_id uuid NOT NULL REFERENCES moonyard.pipelines (id),
    cron text NOT NULL,
    time_zone text NOT NULL,
    inputs json NOT NULL,
    priority smallint,
    catch_up text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    next_at timestamptz NOT NULL,
    last_at timestamptz,
    last_job_id uuid REFERENCES moonyard.jobs (id) ON DELETE SET NULL,
    paused_at timestamptz,
    paused_by text,
    error jsonb,
    CONSTRAINT schedule_name_is_unique UNIQUE (name),
    CONSTRAINT schedule_priority_in_range CHECK (priority BETWEEN -100 AND 100),
    CONSTRAINT catch_up_is_known CHECK (catch_up IN ('skip', 'once', 'all')),
    CONSTRAINT paused_schedules_have_a_pauser CHECK ((paused_at IS NULL) = (paused_by IS NULL))
);
COMMENT ON TABLE moonyard.schedules IS 'Jobs to submit by the clock. The replica that locks a due row fires it and moves next_at on, in one transaction.';
COMMENT ON COLUMN moonyard.schedules.catch_up IS 'Of firings that were missed: none, the last, or all (up to 100).';
CREATE INDEX schedules_due ON moonyard.schedules (next_at) WHERE paused_at IS NULL;
CREATE INDEX schedules_last_job ON moonyard.schedules (last_job_id);

-- Functions ------------------------------------------------------------------------------------------------------

CREATE FUNCTION moonyard.refuse(code text, message text, hint text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF hint IS NULL THEN
        RAISE EXCEPTION USING MESSAGE = message, DETAIL = code;
    END IF;
    RAISE EXCEPTION USING MESSAGE = message, DETAIL = code, HINT = hint;
END $$;
COMMENT ON FUNCTION moonyard.refuse IS 'Raises what the API answers as a problem document: DETAIL is its stable code.';

CREATE FUNCTION moonyard.note(actor text, action text, subject text, detail jsonb DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO moonyard.audit (actor, action, subject, detail) VALUES (actor, action, subject, detail);
$$;
COMMENT ON FUNCTION moonyard.note IS 'Writes a row of the audit.';

CREATE FUNCTION moonyard.tell(channel text, id uuid DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_notify('moonyard_' || channel, 'sql:' || coalesce(id::text, ''));
$$;
COMMENT ON FUNCTION moonyard.tell IS 'Wakes replicas at commit: queue, jobs or runners. For what is rare; replicas themselves gather what they tell.';

CREATE FUNCTION moonyard.tell_queued(place bigint) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_notify('moonyard_queue', 'sql:' || place);
$$;
COMMENT ON FUNCTION moonyard.tell_queued IS 'Wakes replicas at commit: jobs were queued, the first of them at that place. Claims then need not look from the start.';

CREATE FUNCTION moonyard.queue_rules(definition json) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    asked text[];
    found integer;
BEGIN
    SELECT array_agg(DISTINCT tag ORDER BY tag) INTO asked
    FROM json_array_elements_text(coalesce(definition -> 'tags', '[]')) AS tag;
    IF asked IS NOT NULL THEN
        INSERT INTO moonyard.tag_sets (tags) VALUES (asked) ON CONFLICT (tags) DO NOTHING;
        SELECT id INTO found FROM moonyard.tag_sets WHERE tags = asked;
    END IF;
    RETURN nullif(jsonb_strip_nulls(jsonb_build_object(
        'priority', nullif((definition ->> 'priority')::integer, 0),
        'queue_timeout', definition -> 'queue_timeout',
        'retry', CASE WHEN (definition ->> 'retries')::integer > 0 THEN jsonb_build_object(
            'times', definition -> 'retries', 'delay', definition -> 'retry_delay', 'backoff', definition -> 'retry_backoff'
        ) END,
        'tag_set', found,
        'concurrency', definition -> 'concurrency'
    )), '{}');
END $$;
COMMENT ON FUNCTION moonyard.queue_rules IS 'Takes out of a definition what a submit has to know; notes its set of tags.';

CREATE FUNCTION moonyard.group_name(pattern text, inputs json) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    filled text;
BEGIN
    -- Piece by piece: what an input's value looks like is not looked at again.
    SELECT string_agg(
        CASE WHEN piece.found[1] LIKE '${%}' THEN inputs ->> substr(piece.found[1], 3, length(piece.found[1]) - 3)
            ELSE piece.found[1] END,
        '' ORDER BY piece.place
    ) INTO filled
    FROM regexp_matches(pattern, '\$\{[^}]*\}|[^$]+|\$', 'g') WITH ORDINALITY AS piece (found, place);
    IF length(filled) NOT BETWEEN 1 AND 200 THEN
        PERFORM moonyard.refuse(
            'concurrency_group_invalid',
            format('concurrency group `%s` of this job has %s characters, and may have 1 to 200', pattern, length(filled)),
            'Its placeholders stand for inputs: shorten the one that is so long.'
        );
    END IF;
    RETURN filled;
END $$;
COMMENT ON FUNCTION moonyard.group_name IS 'Fills the ${input} placeholders of a concurrency group.';

CREATE FUNCTION moonyard.job_record(job uuid, state text, error jsonb DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
    SELECT line.id, line.attempt, line.seq, line.seq + 1, octet_length(line.text), line.text
    FROM (
        SELECT job.id, job.attempt, last.seq,
            moonyard.job_line(job.id, job.number, job.attempt, last.seq, job_record.state, job_record.error) AS text
        FROM moonyard.jobs AS job
        CROSS JOIN LATERAL (
            SELECT coalesce(max(next_seq), 1) AS seq FROM moonyard.event_batches
            WHERE job_id = job.id AND attempt = job.attempt
        ) AS last
        WHERE job.id = job_record.job
    ) AS line
$$;
COMMENT ON FUNCTION moonyard.job_record IS 'Writes a job line after the newest attempt''s events. The job''s row has to be locked.';

CREATE FUNCTION moonyard.job_end_queued(job uuid, state text, error jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    UPDATE moonyard.jobs AS ended
    SET state = job_end_queued.state, finished_at = now(), error = job_end_queued.error,
        cancel_requested_at = CASE WHEN job_end_queued.state = 'cancelled' THEN coalesce(cancel_requested_at, now()) END
    WHERE ended.id = job AND ended.state = 'queued';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM moonyard.job_record(job, job_end_queued.state, job_end_queued.error);
    RETURN true;
END $$;
COMMENT ON FUNCTION moonyard.job_end_queued IS 'Ends a job that waits, with the last line of its record; says whether it did wait.';

-- A group's next jobs, as many as there are free slots. One at a time does it for a group. Nobody waits for the other
-- for long: a transaction that ends several jobs may lock groups in any order, so two of them would wait for ever. What
-- the one who holds the lock could not see is found by jobs_release, a second later at most. The primary key of the
-- slots holds the limit whatever happens.
CREATE FUNCTION moonyard.group_promote(grouped text, patience integer DEFAULT 25) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    candidate record;
    free integer;
    promoted integer := 0;
    lowest bigint;
BEGIN
    WHILE NOT pg_try_advisory_xact_lock(1836018030, hashtext(grouped)) LOOP
        IF patience <= 0 THEN
            RETURN 0;
        END IF;
        patience := patience - 1;
        PERFORM pg_sleep(0.002);
    END LOOP;
    FOR candidate IN
        SELECT id, concurrency_limit, turn - 1000 * priority AS place FROM moonyard.jobs
        WHERE state = 'queued' AND parked = 'group' AND concurrency_group = grouped
        ORDER BY turn - 1000 * priority, number
        LIMIT 1000
        FOR UPDATE SKIP LOCKED
    LOOP
        SELECT min(place) INTO free FROM generate_series(1, candidate.concurrency_limit) AS place
        WHERE NOT EXISTS (
            SELECT FROM moonyard.concurrency_slots WHERE concurrency_group = grouped AND slot = place
        );
        -- A version with a lower limit may be in line: as many as there are count, wherever their slots are.
        EXIT WHEN free IS NULL OR candidate.concurrency_limit <= (
            SELECT count(*) FROM moonyard.concurrency_slots WHERE concurrency_group = grouped
        );
        INSERT INTO moonyard.concurrency_slots (concurrency_group, slot, job_id) VALUES (grouped, free, candidate.id);
        UPDATE moonyard.jobs SET parked = NULL WHERE id = candidate.id;
        promoted := promoted + 1;
        lowest := least(lowest, candidate.place);
    END LOOP;
    IF promoted > 0 THEN
        PERFORM moonyard.tell_queued(lowest);
    END IF;
    RETURN promoted;
END $$;
COMMENT ON FUNCTION moonyard.group_promote IS 'Gives a group''s free slots to the next jobs of it that wait.';

CREATE FUNCTION moonyard.slot_release() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM moonyard.concurrency_slots WHERE job_id = NEW.id;
    PERFORM moonyard.group_promote(NEW.concurrency_group);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION moonyard.slot_release IS 'Frees the slot of a job that ended, however it did, and promotes the next.';

-- Jobs without a group pay for the look at two columns and nothing else.
CREATE TRIGGER slot_release AFTER UPDATE OF state ON moonyard.jobs FOR EACH ROW
    WHEN (NEW.concurrency_group IS NOT NULL AND OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION moonyard.slot_release();

CREATE FUNCTION moonyard.job_cancel(job uuid, actor text DEFAULT NULL, forced boolean DEFAULT false)
RETURNS TABLE (state text, runner uuid)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    looked record;
    called uuid;
BEGIN
    SELECT number INTO looked FROM moonyard.jobs WHERE id = job;
    IF NOT FOUND THEN
        PERFORM moonyard.refuse('job_unknown', format('there is no job `%s`', job), '`moonyard jobs` lists jobs.');
    END IF;
    IF actor IS NOT NULL THEN
        PERFORM moonyard.note(actor, 'cancel', 'job ' || looked.number, CASE WHEN forced THEN '{"force": true}'::jsonb END);
    END IF;
    -- It may go from one state to the other between two looks.
    FOR look IN 1..5 LOOP
        IF moonyard.job_end_queued(job, 'cancelled') THEN
            RETURN QUERY SELECT 'cancelled'::text, NULL::uuid;
            RETURN;
        END IF;
        UPDATE moonyard.jobs AS running
        SET cancel_requested_at = coalesce(running.cancel_requested_at, now()), cancel_forced = running.cancel_forced OR forced
        FROM moonyard.attempts AS attempt
        WHERE running.id = job AND running.state = 'running' AND attempt.job_id = job AND attempt.number = running.attempt
        RETURNING attempt.runner_id INTO called;
        IF FOUND THEN
            RETURN QUERY SELECT 'running'::text, called;
            RETURN;
        END IF;
        SELECT * INTO looked FROM moonyard.jobs WHERE id = job;
        IF looked.state = 'cancelled' THEN
            RETURN QUERY SELECT 'cancelled'::text, NULL::uuid;
            RETURN;
        END IF;
        IF looked.finished_at IS NOT NULL THEN
            PERFORM moonyard.refuse('job_finished', format('job %s %s already', looked.number, looked.state));
        END IF;
    END LOOP;
    PERFORM moonyard.refuse('busy', format('job %s changes too fast to be cancelled', looked.number), 'Try again.');
END $$;
COMMENT ON FUNCTION moonyard.job_cancel IS 'Cancels a job at once while it waits, and asks for it while it runs: then its runner has to be called. Forced, the runner waits for nothing.';

CREATE FUNCTION moonyard.jobs_cancel_queued(pipeline uuid, most integer, actor text DEFAULT NULL) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
    found uuid;
BEGIN
    IF actor IS NOT NULL THEN
        PERFORM moonyard.note(
            actor, 'cancel',
            coalesce('queued jobs of pipeline ' || (SELECT name FROM moonyard.pipelines WHERE id = pipeline), 'all queued jobs')
        );
    END IF;
    FOR found IN
        SELECT id FROM moonyard.jobs
        WHERE state = 'queued' AND (pipeline IS NULL OR pipeline_id = pipeline)
        ORDER BY number DESC  -- the last first: what is cancelled makes no room for what is cancelled next
        LIMIT most
        FOR UPDATE SKIP LOCKED
    LOOP
        IF moonyard.job_end_queued(found, 'cancelled') THEN
            RETURN NEXT found;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION moonyard.jobs_cancel_queued IS 'Cancels jobs that wait, of one pipeline or of all, so many at a time.';

CREATE FUNCTION moonyard.job_retry(job uuid, actor text) RETURNS bigint
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    retried record;
BEGIN
    -- The attempt's number stays: the next attempt's is one more, and what an old one still sends is refused.
    UPDATE moonyard.jobs
    SET state = 'queued', finished_at = NULL, started_at = NULL, error = NULL, cancel_requested_at = NULL, cancel_forced = false,
        resume = NULL,
        losses = 0, failures = 0, not_before = NULL, queue_deadline = now() + make_interval(secs => queue_timeout_seconds),
        parked = CASE WHEN concurrency_group IS NOT NULL THEN 'group' END
    WHERE id = job AND finished_at IS NOT NULL
    RETURNING * INTO retried;
    IF NOT FOUND THEN
        SELECT * INTO retried FROM moonyard.jobs WHERE id = job;
        IF NOT FOUND THEN
            PERFORM moonyard.refuse('job_unknown', format('there is no job `%s`', job), '`moonyard jobs` lists jobs.');
        END IF;
        PERFORM moonyard.refuse(
            'job_unfinished', format('job %s is %s, and only a job that ended can be retried', retried.number, retried.state),
            format('`moonyard logs -f %s` shows it end.', retried.number)
        );
    END IF;
    PERFORM moonyard.job_record(job, 'queued');
    PERFORM moonyard.note(actor, 'retry', 'job ' || retried.number);
    IF retried.concurrency_group IS NOT NULL THEN
        PERFORM moonyard.group_promote(retried.concurrency_group);
    END IF;
    RETURN retried.turn - 1000 * retried.priority;
END $$;
COMMENT ON FUNCTION moonyard.job_retry IS 'Queues a job that ended once more, as its next attempt; gives its place.';

-- The end of an attempt that failed, where the job is to be tried again: fenced as all that a runner sends. In the
-- record stands, in the place of the runner's `failed`, that the job is queued again, and why.
CREATE FUNCTION moonyard.attempt_retry(job uuid, attempt integer, runner uuid, seq bigint, error jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    tried record;
    delay double precision;
BEGIN
    PERFORM FROM moonyard.attempts AS held
    WHERE held.job_id = job AND held.number = attempt_retry.attempt AND held.runner_id = runner
        AND held.next_seq = seq AND held.finished_at IS NULL
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO tried FROM moonyard.jobs AS running
    WHERE running.id = job AND running.attempt = attempt_retry.attempt AND running.state = 'running'
        AND running.cancel_requested_at IS NULL AND running.failures < (running.retry ->> 'times')::integer
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    delay := coalesce((tried.retry ->> 'delay')::double precision, 0);
    IF tried.retry ->> 'backoff' = 'exponential' THEN
        delay := least(delay * 2 ^ least(tried.failures, 20), greatest(delay, 3600));
    END IF;
    UPDATE moonyard.attempts SET state = 'failed', finished_at = now(), next_seq = seq + 1
    WHERE job_id = job AND number = attempt_retry.attempt;
    UPDATE moonyard.jobs AS queued
    SET state = 'queued', failures = failures + 1,
        parked = CASE WHEN delay > 0 THEN 'delayed' END,
        not_before = CASE WHEN delay > 0 THEN now() + make_interval(secs => delay) END,
        queue_deadline = now() + make_interval(secs => delay) + make_interval(secs => queue_timeout_seconds)
    WHERE queued.id = job;
    PERFORM moonyard.job_record(job, 'queued', attempt_retry.error);
    RETURN tried.turn - 1000 * tried.priority;
END $$;
COMMENT ON FUNCTION moonyard.attempt_retry IS 'Ends a failed attempt and queues its job again, where retries are left; gives its place, or NULL if it did not.';

CREATE FUNCTION moonyard.group_supersede(grouped text, newest bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    older record;
    called uuid;
    error jsonb := jsonb_build_object(
        'code', 'job_superseded',
        'message', format('job %s came after this one in concurrency group `%s`', newest, grouped)
    );
BEGIN
    FOR older IN
        SELECT id, state FROM moonyard.jobs
        WHERE number < newest AND finished_at IS NULL AND id IN (
            SELECT id FROM moonyard.jobs WHERE state = 'queued' AND parked = 'group' AND concurrency_group = grouped
            UNION ALL
            SELECT job_id FROM moonyard.concurrency_slots WHERE concurrency_group = grouped
        )
        ORDER BY id
        FOR UPDATE
    LOOP
        IF moonyard.job_end_queued(older.id, 'cancelled', error) THEN
            PERFORM moonyard.tell('jobs', older.id);
        ELSE
            SELECT runner INTO called FROM moonyard.job_cancel(older.id);
            IF called IS NOT NULL THEN
                PERFORM moonyard.tell('runners', called);
            END IF;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION moonyard.group_supersede IS 'Cancels what is in a group before a job: for groups with cancel_running.';

-- Submits jobs: all or none. `asked` is a list of objects: place, id, pipeline_id, version_id, inputs (checked, with
-- defaults), and optionally idempotency_key with request, priority, delay or not_before, queue_timeout, keep_on_failure,
-- trigger. The one way to submit: of the API, of schedules, and of psql.
CREATE FUNCTION moonyard.jobs_submit(asked json)
RETURNS TABLE (place integer, id uuid, number bigint, created_at timestamptz, queue_place bigint, fresh boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    grouped text[];
    replaced record;
    taken record;
    item text;
BEGIN
    WITH lines AS MATERIALIZED (
        -- A pipeline's newest job says how far it is: found by an index, and no row is changed by all submits.
        SELECT named.pipeline_id, greatest(
            (SELECT last_value FROM moonyard.turns),
            (
                SELECT job.turn FROM moonyard.jobs AS job
                WHERE job.pipeline_id = named.pipeline_id ORDER BY job.number DESC LIMIT 1
            )
        ) AS last_turn
        FROM (SELECT DISTINCT pipeline_id FROM json_to_recordset(asked) AS wish (pipeline_id uuid)) AS named
    ),
    wanted AS MATERIALIZED (
        SELECT wish.*, version.rules,
            lines.last_turn + row_number() OVER (PARTITION BY wish.pipeline_id ORDER BY wish.place) AS turn,
            coalesce(wish.not_before, now() + make_interval(secs => wish.delay)) AS starts_at,
            coalesce(wish.queue_timeout, (version.rules ->> 'queue_timeout')::double precision) AS seconds,
            CASE WHEN version.rules ? 'concurrency' THEN moonyard.group_name(
                coalesce(version.rules #>> '{concurrency,group}', 'pipeline:' || pipeline.name), wish.inputs
            ) END AS concurrency_group
        FROM json_to_recordset(asked) AS wish (
            place integer, id uuid, pipeline_id uuid, version_id uuid, inputs json, idempotency_key text, request jsonb,
            priority integer, delay double precision, not_before timestamptz, queue_timeout double precision,
            traceparent text, actor text, together boolean, keep_on_failure double precision, trigger jsonb
        )
        JOIN moonyard.pipeline_versions AS version ON version.id = wish.version_id
        JOIN moonyard.pipelines AS pipeline ON pipeline.id = wish.pipeline_id
        JOIN lines ON lines.pipeline_id = wish.pipeline_id
        ORDER BY wish.place
    ),
    made AS (
        INSERT INTO moonyard.jobs (
            id, pipeline_id, version_id, inputs, idempotency_key, request_hash, turn, priority, not_before, parked,
            queue_timeout_seconds, queue_deadline, tag_set, concurrency_group, concurrency_limit, retry, traceparent,
            keep_on_failure_seconds, trigger
        )
        SELECT
            id, pipeline_id, version_id, inputs, idempotency_key,
            CASE WHEN idempotency_key IS NOT NULL THEN sha256(convert_to(request::text, 'UTF8')) END,
            turn, coalesce(priority, (rules ->> 'priority')::integer, 0),
            CASE WHEN starts_at > now() THEN starts_at END,
            CASE WHEN starts_at > now() THEN 'delayed' WHEN concurrency_group IS NOT NULL THEN 'group' END,
            seconds, greatest(starts_at, now()) + make_interval(secs => seconds),
            (rules ->> 'tag_set')::integer, concurrency_group, (rules #>> '{concurrency,limit}')::integer, rules -> 'retry',
            traceparent, keep_on_failure, trigger
        FROM wanted
        ORDER BY place
        ON CONFLICT (pipeline_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
        RETURNING id, number, concurrency_group
    ),
    line AS (
        SELECT id, moonyard.job_line(id, number, 0, 1, 'queued') AS text FROM made
    ),
    told AS (
        INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
        SELECT id, 0, 1, 2, octet_length(text), text FROM line
    )
    SELECT array_agg(DISTINCT concurrency_group ORDER BY concurrency_group) INTO grouped
    FROM made WHERE concurrency_group IS NOT NULL;

    -- A row for each request, however many jobs it asked for; what nobody asked for (a schedule fired) has no actor. Jobs are
    -- looked up one by one: a join would compare each of ten thousand with each other.
    INSERT INTO moonyard.audit (actor, action, subject, detail)
    SELECT
        wish.actor, 'submit',
        CASE count(*) WHEN 1 THEN 'job ' || min(job.number)
            ELSE count(*) || ' jobs, ' || min(job.number) || ' to ' || max(job.number) END,
        jsonb_build_object('pipeline', string_agg(DISTINCT pipeline.name, ', '))
    FROM json_to_recordset(asked) AS wish (place integer, id uuid, actor text, together boolean)
    CROSS JOIN LATERAL (SELECT found.number, found.pipeline_id FROM moonyard.jobs AS found WHERE found.id = wish.id LIMIT 1) AS job
    JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
    WHERE wish.actor IS NOT NULL
    GROUP BY wish.actor, CASE WHEN wish.together THEN NULL ELSE wish.place END;

    SELECT wish.idempotency_key, job.number INTO taken
    FROM json_to_recordset(asked) AS wish (pipeline_id uuid, idempotency_key text, request jsonb)
    JOIN moonyard.jobs AS job ON job.pipeline_id = wish.pipeline_id AND job.idempotency_key = wish.idempotency_key
    WHERE job.request_hash <> sha256(convert_to(wish.request::text, 'UTF8'))
    LIMIT 1;
    IF FOUND THEN
        PERFORM moonyard.refuse(
            'idempotency_key_used',
            format('idempotency key `%s` was used for job %s, which was submitted with something else', taken.idempotency_key, taken.number),
            'The same key means the same job: use another one for other inputs.'
        );
    END IF;

    IF grouped IS NOT NULL THEN
        FOR replaced IN
            SELECT job.concurrency_group, max(job.number) AS newest
            FROM json_to_recordset(asked) AS wish (id uuid)
            JOIN moonyard.jobs AS job ON job.id = wish.id
            JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
            WHERE job.parked = 'group' AND (version.rules #>> '{concurrency,cancel_running}')::boolean
            GROUP BY 1
            ORDER BY 1
        LOOP
            PERFORM moonyard.group_supersede(replaced.concurrency_group, replaced.newest);
        END LOOP;
        FOREACH item IN ARRAY grouped LOOP
            PERFORM moonyard.group_promote(item);
        END LOOP;
    END IF;

    RETURN QUERY
    SELECT wish.place, job.id, job.number, job.created_at, job.turn - 1000 * job.priority, job.id = wish.id
    FROM json_to_recordset(asked) AS wish (place integer, id uuid, pipeline_id uuid, idempotency_key text)
    CROSS JOIN LATERAL (
        SELECT found.id, found.number, found.created_at, found.turn, found.priority FROM moonyard.jobs AS found WHERE found.id = wish.id
        UNION ALL
        SELECT found.id, found.number, found.created_at, found.turn, found.priority FROM moonyard.jobs AS found
        WHERE found.pipeline_id = wish.pipeline_id AND found.idempotency_key = wish.idempotency_key
        LIMIT 1
    ) AS job
    ORDER BY wish.place;
END $$;
COMMENT ON FUNCTION moonyard.jobs_submit IS 'Queues jobs, all or none; a key that was used before gives the job of then.';

-- What was parked and need wait no longer. Any replica does it, one at a time; so many at most of each kind.
CREATE FUNCTION moonyard.jobs_release(
    most integer, at timestamptz DEFAULT now(), OUT released integer, OUT lowest bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moved integer;
    first bigint;
    item text;
    resumed uuid;
BEGIN
    released := 0;
    IF NOT pg_try_advisory_xact_lock(1836018030, 0) THEN
        RETURN;
    END IF;

    WITH due AS MATERIALIZED (
        SELECT id FROM moonyard.jobs
        WHERE state = 'queued' AND parked = 'delayed' AND not_before <= at
        ORDER BY not_before
        LIMIT most
        FOR UPDATE SKIP LOCKED
    ),
    moved AS (
        UPDATE moonyard.jobs AS job
        SET parked = CASE
            WHEN concurrency_group IS NOT NULL
                AND NOT EXISTS (SELECT FROM moonyard.concurrency_slots WHERE job_id = job.id) THEN 'group'
            END
        WHERE id = ANY (ARRAY(SELECT id FROM due))
        RETURNING turn - 1000 * priority AS place
    )
    SELECT count(*), min(place) INTO released, lowest FROM moved;

    FOR resumed IN
        SELECT pipeline.id FROM moonyard.pipelines AS pipeline
        WHERE EXISTS (
            SELECT FROM moonyard.jobs AS job
            WHERE job.state = 'queued' AND job.parked = 'paused' AND job.pipeline_id = pipeline.id
        ) AND NOT EXISTS (SELECT FROM moonyard.pauses AS pause WHERE pause.pipeline_id = pipeline.id)
    LOOP
        WITH due AS MATERIALIZED (
            SELECT id FROM moonyard.jobs
            WHERE state = 'queued' AND parked = 'paused' AND pipeline_id = resumed
            LIMIT most
            FOR UPDATE SKIP LOCKED
        ),
        moved AS (
            UPDATE moonyard.jobs SET parked = NULL WHERE id = ANY (ARRAY(SELECT id FROM due))
            RETURNING turn - 1000 * priority AS place
        )
        SELECT count(*), min(place) INTO moved, first FROM moved;
        released := released + moved;
        lowest := least(lowest, first);
    END LOOP;

    -- The names of groups that wait, one look in the index each, however many jobs are behind it.
    FOR item IN
        WITH RECURSIVE waiting (name) AS (
            SELECT min(concurrency_group) FROM moonyard.jobs WHERE state = 'queued' AND parked = 'group'
            UNION ALL
            SELECT (
                SELECT min(job.concurrency_group) FROM moonyard.jobs AS job
                WHERE job.state = 'queued' AND job.parked = 'group' AND job.concurrency_group > waiting.name
            )
            FROM waiting WHERE waiting.name IS NOT NULL
        )
        SELECT name FROM waiting WHERE name IS NOT NULL
    LOOP
        -- Most are full. Whoever ends a job of one is not to find the group locked by somebody who only looks.
        CONTINUE WHEN (SELECT count(*) FROM moonyard.concurrency_slots WHERE concurrency_group = item) >= (
            SELECT concurrency_limit FROM moonyard.jobs
            WHERE state = 'queued' AND parked = 'group' AND concurrency_group = item
            ORDER BY turn - 1000 * priority, number
            LIMIT 1
        );
        released := released + moonyard.group_promote(item, 0);  -- it tells of them itself
    END LOOP;
END $$;
COMMENT ON FUNCTION moonyard.jobs_release IS 'Lets go what was parked: delays that are over, pauses that ended, slots that are free. It gives how many, and the lowest place of those without a group.';

CREATE FUNCTION moonyard.jobs_time_out(most integer, at timestamptz DEFAULT now()) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
    late record;
BEGIN
    FOR late IN
        SELECT id, queue_timeout_seconds FROM moonyard.jobs
        WHERE state = 'queued' AND queue_deadline IS NOT NULL AND queue_deadline <= at
        ORDER BY queue_deadline
        LIMIT most
        FOR UPDATE SKIP LOCKED
    LOOP
        IF moonyard.job_end_queued(late.id, 'failed', jsonb_build_object(
            'code', 'queue_timeout',
            'message', format('the job waited for a runner longer than its queue_timeout of %s s', late.queue_timeout_seconds),
            'hint', 'Are there enough runners? `moonyard job` says why a job waits.'
        )) THEN
            RETURN NEXT late.id;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION moonyard.jobs_time_out IS 'Ends jobs that waited longer than their queue_timeout.';

CREATE FUNCTION moonyard.pipeline_of(name text) RETURNS uuid
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found uuid;
BEGIN
    SELECT pipeline.id INTO found FROM moonyard.pipelines AS pipeline WHERE pipeline.name = pipeline_of.name;
    IF found IS NULL THEN
        PERFORM moonyard.refuse(
            'pipeline_unknown', format('there is no pipeline `%s`', left(pipeline_of.name, 100)),
            '`moonyard pipeline list` lists those that there are.'
        );
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION moonyard.pipeline_of IS 'Finds a pipeline by its name.';

CREATE FUNCTION moonyard.pause(pipeline text, actor text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO moonyard.pauses (pipeline_id, paused_by)
    VALUES (CASE WHEN pipeline IS NOT NULL THEN moonyard.pipeline_of(pipeline) END, actor)
    ON CONFLICT (pipeline_id) DO NOTHING;
    PERFORM moonyard.note(actor, 'pause', coalesce('pipeline ' || pipeline, 'everything'));
END $$;
COMMENT ON FUNCTION moonyard.pause IS 'Lets the jobs of a pipeline wait, or all (NULL); what runs goes on.';

CREATE FUNCTION moonyard.resume(pipeline text, actor text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM moonyard.pauses AS pause
    WHERE pause.pipeline_id IS NOT DISTINCT FROM CASE WHEN pipeline IS NOT NULL THEN moonyard.pipeline_of(pipeline) END;
    PERFORM moonyard.note(actor, 'resume', coalesce('pipeline ' || pipeline, 'everything'));
END $$;
COMMENT ON FUNCTION moonyard.resume IS 'Ends a pause. Jobs that were paused are let go in steps: jobs_release.';

CREATE FUNCTION moonyard.drain(runner text, is_drained boolean, actor text) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    UPDATE moonyard.runners AS named
    SET drained_at = CASE WHEN is_drained THEN coalesce(named.drained_at, now()) END,
        drained_by = CASE WHEN is_drained THEN coalesce(named.drained_by, actor) END
    WHERE named.name = runner OR named.id::text = runner
    RETURNING named.id;
    IF NOT FOUND THEN
        PERFORM moonyard.refuse(
            'runner_unknown', format('there is no runner `%s`', left(runner, 100)), '`moonyard runner list` lists them.'
        );
    END IF;
    PERFORM moonyard.note(actor, CASE WHEN is_drained THEN 'drain' ELSE 'undrain' END, 'runner ' || runner);
END $$;
COMMENT ON FUNCTION moonyard.drain IS 'Lets no more jobs go to the runners of that name or id, or lets them again; what runs goes on.';

-- Why jobs wait --------------------------------------------------------------------------------------------------

CREATE VIEW moonyard.waits AS
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
        WHEN fleet.free = 0 THEN
            CASE fleet.open WHEN 1 THEN 'the only runner is busy' ELSE 'all ' || fleet.open || ' runners are busy' END
        ELSE 'its turn is next'
    END AS why
FROM moonyard.jobs AS job
CROSS JOIN (
    SELECT
        count(*) AS online,
        count(*) FILTER (WHERE is_open) AS open,
        count(*) FILTER (WHERE is_open AND running < capacity) AS free
    FROM (
        SELECT capacity, NOT draining AND drained_at IS NULL AS is_open,
            (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running') AS running
        FROM moonyard.runners AS runner
        WHERE seen_at >= now() - interval '30 seconds'
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
        CASE cardinality(wanted.tags) WHEN 1 THEN 'tag ' ELSE 'tags ' END || array_to_string(wanted.tags, ', ') AS words,
        count(runner.id) AS known,
        count(*) FILTER (WHERE runner.seen_at >= now() - interval '30 seconds') AS online,
        count(*) FILTER (
            WHERE runner.seen_at >= now() - interval '30 seconds' AND NOT runner.draining AND runner.drained_at IS NULL
                AND runner.capacity > (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running')
        ) AS free
    FROM moonyard.tag_sets AS wanted LEFT JOIN moonyard.runners AS runner ON runner.tags @> wanted.tags
    WHERE wanted.id = job.tag_set
    GROUP BY wanted.tags
) AS tagged ON true
WHERE job.state = 'queued';
COMMENT ON VIEW moonyard.waits IS 'Why each queued job waits, in words: for the API and inspect.queue.';
