-- What people read in psql: short columns, the newest first, fit for a terminal of 120 columns.

CREATE SCHEMA inspect;
COMMENT ON SCHEMA inspect IS 'Views and functions for people. Start with: TABLE inspect.queue; SELECT * FROM inspect.jobs LIMIT 10;';

CREATE FUNCTION inspect.duration(length interval) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN length IS NULL THEN NULL
    WHEN length < interval '1 second' THEN greatest(0, round(extract(epoch FROM length) * 1000)) || ' ms'
    WHEN length < interval '1 minute' THEN round(extract(epoch FROM length), 1) || ' s'
    WHEN length < interval '1 hour' THEN
        floor(extract(epoch FROM length) / 60) || ' m ' || floor(extract(epoch FROM length))::bigint % 60 || ' s'
    WHEN length < interval '1 day' THEN
        floor(extract(epoch FROM length) / 3600) || ' h ' || floor(extract(epoch FROM length) / 60)::bigint % 60 || ' m'
    ELSE floor(extract(epoch FROM length) / 86400) || ' d ' || floor(extract(epoch FROM length) / 3600)::bigint % 24 || ' h'
END;
COMMENT ON FUNCTION inspect.duration IS 'Writes an interval as people say it: 850 ms, 12.3 s, 4 m 10 s, 2 h 5 m, 3 d 4 h.';

CREATE FUNCTION inspect.shortened(value text, length integer) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN length(translate(value, E'\n\r\t', '   ')) <= length THEN translate(value, E'\n\r\t', '   ')
    ELSE left(translate(value, E'\n\r\t', '   '), length - 1) || '…'
END;
COMMENT ON FUNCTION inspect.shortened IS 'Cuts text to a length, on one line.';

CREATE VIEW inspect.queue AS
SELECT
    job.number AS job,
    inspect.shortened(pipeline.name, 24) AS pipeline,
    inspect.duration(now() - job.created_at) AS waiting,
    job.attempt + 1 AS next_attempt,
    inspect.shortened(job.inputs::text, 50) AS inputs
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
WHERE job.state = 'queued'
ORDER BY job.number;
COMMENT ON VIEW inspect.queue IS 'Jobs that wait for a runner, the next one first.';

CREATE VIEW inspect.jobs AS
SELECT
    job.number AS job,
    inspect.shortened(pipeline.name, 16) AS pipeline,
    CASE
        WHEN job.finished_at IS NULL AND job.cancel_requested_at IS NOT NULL THEN 'cancelling' ELSE job.state
    END AS state,
    job.attempt,
    inspect.shortened(runner.name, 12) AS runner,
    to_char(job.created_at, 'MM-DD HH24:MI:SS') AS created,
    inspect.duration(coalesce(job.finished_at, now()) - job.started_at) AS took,
    inspect.shortened(job.error ->> 'message', 24) AS error
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
ORDER BY job.number DESC;
COMMENT ON VIEW inspect.jobs IS 'All jobs, the newest first. inspect.job(number) tells all of one.';

CREATE VIEW inspect.stages AS
SELECT
    job.number AS job,
    stage.attempt,
    inspect.shortened(stage.name, 20) AS stage,
    stage.state,
    inspect.shortened(replace(stage.container, 'docker.io/library/', ''), 26) AS container,
    inspect.duration(coalesce(stage.finished_at, now()) - stage.started_at) AS took,
    inspect.shortened(stage.error ->> 'message', 24) AS error
FROM moonyard.stages AS stage
JOIN moonyard.jobs AS job ON job.id = stage.job_id
ORDER BY job.number DESC, stage.attempt DESC, stage.first_seq;
COMMENT ON VIEW inspect.stages IS 'Stages of all jobs'' attempts, the newest job first, in the order in which they ran.';

CREATE VIEW inspect.commands AS
SELECT
    job.number AS job,
    command.attempt,
    inspect.shortened(command.stage, 14) AS stage,
    inspect.shortened(array_to_string(command.argv, ' '), 36) AS command,
    command.code,
    inspect.duration(make_interval(secs => command.duration_seconds)) AS took,
    inspect.shortened(replace(command.container, 'docker.io/library/', ''), 26) AS container
FROM moonyard.commands AS command
JOIN moonyard.jobs AS job ON job.id = command.job_id
ORDER BY job.number DESC, command.attempt DESC, command.seq;
COMMENT ON VIEW inspect.commands IS 'Commands that ended, the newest job first, in the order in which they ended. No code: killed, or never started.';

CREATE VIEW inspect.runners AS
SELECT
    inspect.shortened(runner.name, 32) AS runner,
    CASE
        WHEN runner.seen_at IS NULL OR runner.seen_at < now() - interval '30 seconds' THEN 'offline'
        WHEN runner.draining THEN 'draining'
        ELSE 'online'
    END AS state,
    (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running') AS running,
    runner.capacity,
    runner.version,
    inspect.duration(now() - runner.seen_at) AS seen_ago,
    runner.registered_at::timestamptz(0) AS registered
FROM moonyard.runners AS runner
ORDER BY runner.name, runner.registered_at;
COMMENT ON VIEW inspect.runners IS 'Runners; one that said nothing for 30 s is offline.';

CREATE FUNCTION inspect.job(id text) RETURNS TABLE (name text, value text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found uuid := moonyard.job_of(id);
BEGIN
    RETURN QUERY
    SELECT fact.name, fact.value
    FROM moonyard.jobs AS job
    JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
    JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
    LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
    LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
    CROSS JOIN LATERAL (VALUES
        ('job', job.number::text),
        ('id', job.id::text),
        ('pipeline', pipeline.name || ' (' || version.filename || ', version ' || left(version.sha256, 12) || ')'),
        ('state', job.state),
        ('inputs', nullif(job.inputs::text, '{}')),
        ('attempt', job.attempt::text),
        ('losses', nullif(job.losses, 0)::text),
        ('runner', runner.name),
        ('created', job.created_at::timestamptz(3)::text),
        ('started', job.started_at::timestamptz(3)::text),
        ('finished', job.finished_at::timestamptz(3)::text),
        ('took', inspect.duration(coalesce(job.finished_at, now()) - job.started_at)),
        ('cancel asked', job.cancel_requested_at::timestamptz(3)::text)
    ) AS fact (name, value)
    WHERE job.id = found AND fact.value IS NOT NULL;

    RETURN QUERY
    SELECT
        'stage ' || stage.name,
        stage.state
            || coalesce(', ' || inspect.duration(coalesce(stage.finished_at, now()) - stage.started_at), '')
            || coalesce(', in ' || stage.container, '')
    FROM moonyard.stages AS stage
    JOIN moonyard.jobs AS job ON job.id = stage.job_id AND job.attempt = stage.attempt
    WHERE job.id = found
    ORDER BY stage.first_seq;

    RETURN QUERY
    SELECT 'artifact ' || artifact.name, blob.size_bytes || ' bytes, SHA-256 ' || blob.sha256
    FROM moonyard.artifacts AS artifact
    JOIN moonyard.blobs AS blob ON blob.id = artifact.blob_id
    WHERE artifact.job_id = found
    ORDER BY artifact.name;

    -- An error and what it arose from, outermost first.
    RETURN QUERY
    WITH RECURSIVE link (depth, error) AS (
        SELECT 0, job.error FROM moonyard.jobs AS job WHERE job.id = found AND job.error IS NOT NULL
        UNION ALL
        SELECT link.depth + 1, link.error -> 'cause' FROM link
        WHERE jsonb_typeof(link.error -> 'cause') = 'object' AND link.depth < 50
    )
    SELECT
        CASE link.depth WHEN 0 THEN 'error' ELSE 'caused by' END,
        '[' || (link.error ->> 'code') || '] ' || coalesce((link.error ->> 'where') || ': ', '')
            || (link.error ->> 'message') || coalesce(' (hint: ' || (link.error ->> 'hint') || ')', '')
    FROM link
    ORDER BY link.depth;
END $$;
COMMENT ON FUNCTION inspect.job IS 'All of one job, by its number or id: SELECT * FROM inspect.job(''17'');';

CREATE FUNCTION inspect.log(id text)
RETURNS TABLE (at timestamptz(3), stage text, level text, source text, "text" text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    found uuid := moonyard.job_of(id);
BEGIN
    RETURN QUERY
    SELECT
        (event.line ->> 'at')::timestamptz(3), event.line ->> 'stage', event.line ->> 'level', event.line ->> 'source',
        coalesce(said.text, '')
    FROM moonyard.event_batches AS batch
    CROSS JOIN LATERAL (
        SELECT split.line::jsonb, split.place
        FROM string_to_table(rtrim(batch.lines, E'\n'), E'\n') WITH ORDINALITY AS split (line, place)
    ) AS event (line, place)
    -- Where a command wrote fast, an event holds many lines.
    LEFT JOIN LATERAL string_to_table(event.line ->> 'text', E'\n') WITH ORDINALITY AS said (text, place) ON true
    WHERE batch.job_id = found AND event.line ->> 'type' = 'log'
    ORDER BY batch.attempt, batch.next_seq, event.place, said.place;
END $$;
COMMENT ON FUNCTION inspect.log IS 'The log of one job over all its attempts, by its number or id: SELECT * FROM inspect.log(''17'');';

-- A role for people who may look and nothing else. Roles belong to the whole cluster: another database may have made it
-- already, and the user who migrates may not be allowed to.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        CREATE ROLE moonyard_reader NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    NULL;
END $$;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT USAGE ON SCHEMA inspect TO moonyard_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA inspect TO moonyard_reader;
    END IF;
END $$;
