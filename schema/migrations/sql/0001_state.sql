-- All state of Moonyard. Times are the database's, ids UUIDv7 made by the application, states are text with a CHECK
-- (a value of an enum type cannot be dropped), and each constraint is named for the rule that it holds.

COMMENT ON SCHEMA moonyard IS 'Moonyard''s own state. People read schema `inspect`.';

-- Who may speak --------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.runners (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz,
    draining boolean NOT NULL DEFAULT false,
    version text,
    capacity integer,
    CONSTRAINT runner_name_has_a_length CHECK (length(name) BETWEEN 1 AND 200)
) WITH (fillfactor = 50);
COMMENT ON TABLE moonyard.runners IS 'Machines that run jobs. Registered once, with a token that an orchestrator made.';

CREATE TABLE moonyard.tokens (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    name text NOT NULL,
    -- A token has 256 random bits: nothing can be guessed from its SHA-256, and a slow hash would protect nothing.
    hash bytea NOT NULL,
    runner_id uuid REFERENCES moonyard.runners (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    uses_left integer,
    CONSTRAINT token_hash_is_unique UNIQUE (hash),
    CONSTRAINT token_hash_is_sha256 CHECK (length(hash) = 32),
    CONSTRAINT token_kind_is_known CHECK (kind IN ('admin', 'registration', 'runner')),
    CONSTRAINT runner_tokens_have_a_runner CHECK ((kind = 'runner') = (runner_id IS NOT NULL)),
    CONSTRAINT uses_are_counted_for_registrations CHECK (uses_left IS NULL OR kind = 'registration'),
    CONSTRAINT uses_left_is_not_negative CHECK (uses_left >= 0)
);
COMMENT ON TABLE moonyard.tokens IS 'Bearer tokens of the API. Only hashes: the tokens themselves were shown once.';

-- What may be run ------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.pipelines (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    version_id uuid,  -- the newest: what was pushed last
    CONSTRAINT pipeline_name_is_unique UNIQUE (name)
);
COMMENT ON TABLE moonyard.pipelines IS 'Names, each with the version that was pushed last.';

CREATE TABLE moonyard.pipeline_versions (
    id uuid PRIMARY KEY,
    pipeline_id uuid NOT NULL REFERENCES moonyard.pipelines (id),
    sha256 text NOT NULL,
    filename text NOT NULL,
    source text NOT NULL,
    definition json NOT NULL,  -- json keeps the order of inputs, which jsonb would not
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT version_is_unique UNIQUE (pipeline_id, sha256),
    CONSTRAINT version_is_a_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$')
);
COMMENT ON TABLE moonyard.pipeline_versions IS 'Pipeline files and what was read from them. Never changed.';

ALTER TABLE moonyard.pipelines ADD CONSTRAINT newest_version_exists
    FOREIGN KEY (version_id) REFERENCES moonyard.pipeline_versions (id);

-- What runs and ran ----------------------------------------------------------------------------------------------

CREATE TABLE moonyard.jobs (
    id uuid PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY,
    pipeline_id uuid NOT NULL REFERENCES moonyard.pipelines (id),
    version_id uuid NOT NULL REFERENCES moonyard.pipeline_versions (id),
    state text NOT NULL DEFAULT 'queued',
    attempt integer NOT NULL DEFAULT 0,
    losses integer NOT NULL DEFAULT 0,
    inputs json NOT NULL,
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    cancel_requested_at timestamptz,
    error jsonb,
    CONSTRAINT job_number_is_unique UNIQUE (number),
    CONSTRAINT job_state_is_known CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'lost')),
    CONSTRAINT finished_jobs_have_an_end CHECK ((state IN ('queued', 'running')) = (finished_at IS NULL)),
    CONSTRAINT running_jobs_have_an_attempt CHECK (state <> 'running' OR attempt > 0),
    CONSTRAINT attempt_is_not_negative CHECK (attempt >= 0 AND losses >= 0)
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE moonyard.jobs IS 'Runs of pipelines. `attempt` is the newest attempt''s number and only goes up.';
COMMENT ON COLUMN moonyard.jobs.losses IS 'How many attempts were lost with their runner: after some, the job ends.';

-- The queue. As small as what waits in it, however many jobs are finished; the number is its order.
CREATE INDEX jobs_queued ON moonyard.jobs (number) WHERE state = 'queued';
CREATE INDEX jobs_of_pipeline ON moonyard.jobs (pipeline_id, number);
CREATE UNIQUE INDEX one_job_an_idempotency_key ON moonyard.jobs (pipeline_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- Attempts and what they leave have no foreign keys: a check of one is a query a row, and together they took a fifth of
-- the time that Postgres spends on a job. Whatever writes these rows holds the job's row, or an attempt's, in the same
-- statement; `job_remnants` sees that they go with their job.
CREATE TABLE moonyard.attempts (
    job_id uuid NOT NULL,
    number integer NOT NULL,
    runner_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'running',
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    lease_expires_at timestamptz NOT NULL,  -- in no index: heartbeats update rows in place
    next_seq bigint NOT NULL DEFAULT 1,
    CONSTRAINT attempts_pkey PRIMARY KEY (job_id, number),
    CONSTRAINT attempt_number_starts_at_1 CHECK (number > 0),
    CONSTRAINT attempt_state_is_known CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled', 'lost')),
    CONSTRAINT finished_attempts_have_an_end CHECK ((state = 'running') = (finished_at IS NULL))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
COMMENT ON TABLE moonyard.attempts IS 'Tries at jobs. A running one is its runner''s until lease_expires_at.';
COMMENT ON COLUMN moonyard.attempts.next_seq IS 'All events of this attempt below it are stored.';

CREATE INDEX attempts_running ON moonyard.attempts (runner_id) WHERE state = 'running';

CREATE TABLE moonyard.stages (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    container text,
    started_at timestamptz,
    finished_at timestamptz,
    error jsonb,
    first_seq bigint NOT NULL,
    CONSTRAINT stages_pkey PRIMARY KEY (job_id, attempt, name),
    CONSTRAINT stage_state_is_known CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled', 'skipped'))
);
COMMENT ON TABLE moonyard.stages IS 'Stages of attempts, as their newest event left them.';
COMMENT ON COLUMN moonyard.stages.first_seq IS 'The first event that spoke of the stage: the order of stages.';

CREATE TABLE moonyard.commands (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    seq bigint NOT NULL,
    stage text NOT NULL,
    argv text[] NOT NULL,
    container text NOT NULL,
    code integer,
    duration_seconds double precision NOT NULL,
    finished_at timestamptz NOT NULL,
    error jsonb,
    CONSTRAINT commands_pkey PRIMARY KEY (job_id, attempt, seq)
);
COMMENT ON TABLE moonyard.commands IS 'Commands that ended. `seq` is that of their event.';

-- A job's record: event lines as runners sent them, a batch a row. (A row a line would cost tens of bytes a line and
-- make the log the slowest part of all.) Attempt 0 holds what happened before the first attempt.
CREATE TABLE moonyard.event_batches (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    first_seq bigint NOT NULL,
    next_seq bigint NOT NULL,
    size_bytes integer NOT NULL,
    lines text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT event_batches_pkey PRIMARY KEY (job_id, attempt, next_seq),
    CONSTRAINT batches_hold_events CHECK (first_seq > 0 AND next_seq > first_seq),
    CONSTRAINT batches_end_with_a_newline CHECK (right(lines, 1) = E'\n')
);
COMMENT ON TABLE moonyard.event_batches IS 'Event lines (JSON), a batch a row: those from first_seq to below next_seq.';

DO $$
BEGIN
    ALTER TABLE moonyard.event_batches ALTER COLUMN lines SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;  -- this Postgres was built without lz4: its own pglz has to do
END $$;

CREATE FUNCTION moonyard.job_remnants() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    -- As an array: a join with a table of unknown size might be done by reading the whole history.
    gone CONSTANT uuid[] := ARRAY(SELECT id FROM removed);
BEGIN
    DELETE FROM moonyard.event_batches WHERE job_id = ANY (gone);
    DELETE FROM moonyard.commands WHERE job_id = ANY (gone);
    DELETE FROM moonyard.stages WHERE job_id = ANY (gone);
    DELETE FROM moonyard.attempts WHERE job_id = ANY (gone);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION moonyard.job_remnants IS 'Removes what attempts of removed jobs left.';

CREATE TRIGGER job_remnants AFTER DELETE ON moonyard.jobs REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION moonyard.job_remnants();

-- What jobs kept -------------------------------------------------------------------------------------------------

CREATE TABLE moonyard.blobs (
    id uuid PRIMARY KEY,
    sha256 text,  -- none while it is being uploaded
    size_bytes bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT blob_content_is_stored_once UNIQUE (sha256),
    CONSTRAINT whole_blobs_have_hash_and_size CHECK ((sha256 IS NULL) = (size_bytes IS NULL))
);
COMMENT ON TABLE moonyard.blobs IS 'Contents of artifacts. One without a hash is being uploaded, or was left and is swept.';
CREATE INDEX blobs_nascent ON moonyard.blobs (created_at) WHERE sha256 IS NULL;

CREATE TABLE moonyard.blob_chunks (
    blob_id uuid NOT NULL REFERENCES moonyard.blobs (id) ON DELETE CASCADE,
    position integer NOT NULL,
    data bytea NOT NULL,
    CONSTRAINT blob_chunks_pkey PRIMARY KEY (blob_id, position)
);
ALTER TABLE moonyard.blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL;  -- artifacts are mostly compressed already

CREATE TABLE moonyard.artifacts (
    job_id uuid NOT NULL REFERENCES moonyard.jobs (id) ON DELETE CASCADE,
    name text NOT NULL,
    attempt integer NOT NULL,
    blob_id uuid NOT NULL REFERENCES moonyard.blobs (id),
    content_type text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT artifacts_pkey PRIMARY KEY (job_id, name),
    CONSTRAINT artifact_name_has_a_length CHECK (length(name) BETWEEN 1 AND 255)
);
COMMENT ON TABLE moonyard.artifacts IS 'Files that jobs kept. A later attempt''s file takes the place of a lost one''s.';
CREATE INDEX artifacts_of_blob ON moonyard.artifacts (blob_id);

-- Functions ------------------------------------------------------------------------------------------------------

-- The orchestrator's own event lines are written where the database's time and the job's number are known.
CREATE FUNCTION moonyard.job_line(
    job uuid, number bigint, attempt integer, seq bigint, state text, error jsonb DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE
RETURN format(
    E'{"type":"job","at":"%s","job":"%s","attempt":%s,"seq":%s,"id":"%s","number":%s,"state":"%s","error":%s}\n',
    to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    job, attempt, seq, job, number, state, coalesce(error::text, 'null')
);
COMMENT ON FUNCTION moonyard.job_line IS 'Writes an event line of type job.';

CREATE FUNCTION moonyard.job_of(reference text) RETURNS uuid
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found uuid;
BEGIN
    IF reference ~ '^[0-9]{1,18}$' THEN
        SELECT id INTO found FROM moonyard.jobs WHERE number = reference::bigint;
    ELSIF reference ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' THEN
        SELECT id INTO found FROM moonyard.jobs WHERE id = reference::uuid;
    END IF;
    IF found IS NULL THEN
        RAISE EXCEPTION 'there is no job `%`', reference
            USING ERRCODE = 'no_data_found', HINT = 'A job is named by its number or id: see inspect.jobs.';
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION moonyard.job_of IS 'Finds a job by its number or id.';
