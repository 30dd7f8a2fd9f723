-- Shells in the containers of jobs, and the containers of failed attempts that are kept to be looked into.

CREATE TABLE moonyard.kept_containers (
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    runner_id uuid NOT NULL REFERENCES moonyard.runners (id),
    images text[] NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    released_at timestamptz,
    CONSTRAINT kept_containers_pkey PRIMARY KEY (job_id, attempt),
    CONSTRAINT kept_containers_belong_to_an_attempt FOREIGN KEY (job_id, attempt)
        REFERENCES moonyard.attempts (job_id, number) ON DELETE CASCADE
);
COMMENT ON TABLE moonyard.kept_containers IS 'Failed attempts whose containers and workspace their runner keeps, where the job was submitted so. A row goes when they go.';
COMMENT ON COLUMN moonyard.kept_containers.released_at IS 'Somebody needs them no longer: the runner is to remove them before their time.';
CREATE INDEX kept_containers_of_runner ON moonyard.kept_containers (runner_id);

ALTER TABLE moonyard.jobs ADD COLUMN keep_on_failure_seconds double precision;
COMMENT ON COLUMN moonyard.jobs.keep_on_failure_seconds IS 'How long the containers of an attempt that failed are to be kept.';

CREATE TABLE moonyard.shells (
    id uuid PRIMARY KEY,
    job_id uuid NOT NULL REFERENCES moonyard.jobs (id) ON DELETE CASCADE,
    attempt integer NOT NULL,
    runner_id uuid NOT NULL REFERENCES moonyard.runners (id),
    actor text NOT NULL,
    token_id uuid NOT NULL,  -- what it says is for this one alone
    state text NOT NULL DEFAULT 'wanted',
    stage text,
    container text,
    command text[],  -- until the runner has it
    terminal text,  -- the kind, as TERM names it; none for one without
    lines integer NOT NULL,
    columns integer NOT NULL,
    image text,
    created_at timestamptz NOT NULL DEFAULT now(),
    opened_at timestamptz,
    ended_at timestamptz,
    exit_code integer,
    error jsonb,
    CONSTRAINT shell_state_is_known CHECK (state IN ('wanted', 'open', 'ended')),
    CONSTRAINT ended_shells_have_an_end CHECK ((state = 'ended') = (ended_at IS NOT NULL)),
    CONSTRAINT terminal_size_in_range CHECK (lines BETWEEN 1 AND 10000 AND columns BETWEEN 1 AND 10000)
) WITH (fillfactor = 70);
COMMENT ON TABLE moonyard.shells IS 'Shells that users opened in containers of jobs: wanted until the runner has opened it, then open, then ended.';
COMMENT ON COLUMN moonyard.shells.container IS 'The image whose container was asked for; `image` is where the shell is.';
CREATE INDEX shells_of_job ON moonyard.shells (job_id);
CREATE INDEX shells_not_ended ON moonyard.shells (runner_id) WHERE state <> 'ended';

-- What a shell and its user say to each other, on its way: bytes, each way numbered from 0. What was taken is deleted,
-- and nobody may run ahead of who takes by more than a little, so this is small. It is not worth a write to the log: after
-- a crash of Postgres both tables are empty, and the shells that had something here are ended.
CREATE UNLOGGED TABLE moonyard.shell_streams (
    shell_id uuid NOT NULL,
    is_output boolean NOT NULL,
    written bigint NOT NULL DEFAULT 0,
    taken bigint NOT NULL DEFAULT 0,
    is_over boolean NOT NULL DEFAULT false,
    written_at timestamptz NOT NULL DEFAULT now(),
    read_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT shell_streams_pkey PRIMARY KEY (shell_id, is_output),
    CONSTRAINT streams_belong_to_a_shell FOREIGN KEY (shell_id) REFERENCES moonyard.shells (id) ON DELETE CASCADE,
    CONSTRAINT only_what_was_written_is_taken CHECK (0 <= taken AND taken <= written)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE moonyard.shell_streams IS 'The two ways of each open shell: how many bytes were written into it, and how many of them taken out.';

CREATE UNLOGGED TABLE moonyard.shell_chunks (
    shell_id uuid NOT NULL,
    is_output boolean NOT NULL,
    position bigint NOT NULL,
    is_stderr boolean NOT NULL,
    data bytea NOT NULL,
    CONSTRAINT shell_chunks_pkey PRIMARY KEY (shell_id, is_output, position),
    CONSTRAINT chunks_belong_to_a_stream FOREIGN KEY (shell_id, is_output)
        REFERENCES moonyard.shell_streams (shell_id, is_output) ON DELETE CASCADE,
    CONSTRAINT chunks_hold_something CHECK (length(data) > 0)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE moonyard.shell_chunks ALTER COLUMN data SET STORAGE EXTERNAL;  -- it is here for a moment
COMMENT ON TABLE moonyard.shell_chunks IS 'Bytes of shells on their way; `position` is that of the first.';

CREATE FUNCTION moonyard.containers_release(job uuid, actor text) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE moonyard.kept_containers AS kept SET released_at = now()
    WHERE kept.job_id = containers_release.job AND kept.released_at IS NULL AND kept.expires_at > now()
    RETURNING kept.runner_id;
    IF FOUND THEN
        PERFORM moonyard.note(
            containers_release.actor, 'release',
            'job ' || (SELECT named.number FROM moonyard.jobs AS named WHERE named.id = containers_release.job)
        );
    END IF;
END $$;
COMMENT ON FUNCTION moonyard.containers_release IS 'Has the kept containers of a job removed before their time; gives the runners that keep them.';

CREATE VIEW inspect.shells AS
SELECT
    job.number AS job,
    shell.attempt,
    inspect.shortened(shell.actor, 24) AS actor,
    shell.state,
    inspect.shortened(replace(coalesce(shell.image, shell.container), 'docker.io/library/', ''), 20) AS container,
    inspect.shortened(runner.name, 12) AS runner,
    to_char(shell.created_at, 'MM-DD HH24:MI:SS') AS created,
    inspect.duration(coalesce(shell.ended_at, now()) - shell.opened_at) AS took,
    shell.exit_code AS code,
    inspect.shortened(shell.error ->> 'code', 16) AS error
FROM moonyard.shells AS shell
JOIN moonyard.jobs AS job ON job.id = shell.job_id
JOIN moonyard.runners AS runner ON runner.id = shell.runner_id
ORDER BY shell.created_at DESC;
COMMENT ON VIEW inspect.shells IS 'Shells that users opened in containers of jobs, the newest first.';

CREATE VIEW inspect.kept AS
SELECT
    job.number AS job,
    kept.attempt,
    inspect.shortened(runner.name, 24) AS runner,
    inspect.shortened(array_to_string(kept.images, ', '), 40) AS containers,
    kept.kept_at::timestamptz(0) AS kept,
    kept.expires_at::timestamptz(0) AS until,
    kept.released_at IS NOT NULL AS released
FROM moonyard.kept_containers AS kept
JOIN moonyard.jobs AS job ON job.id = kept.job_id
JOIN moonyard.runners AS runner ON runner.id = kept.runner_id
WHERE kept.expires_at > now()
ORDER BY kept.expires_at;
COMMENT ON VIEW inspect.kept IS 'Failed attempts whose containers are kept: where, and until when. `moonyard shell JOB` opens a terminal there.';
