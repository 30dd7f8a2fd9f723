-- What people read of the queue: why each job waits, how much goes through, who waits for whom, what to worry about.

DROP VIEW inspect.queue;
CREATE VIEW inspect.queue AS
SELECT
    wait.number AS job,
    -- No join: with the first rows alone asked for, the others are not looked at.
    inspect.shortened((SELECT name FROM moonyard.pipelines WHERE id = wait.pipeline_id), 16) AS pipeline,
    wait.priority,
    inspect.duration(now() - wait.created_at) AS waiting,
    inspect.shortened(wait.why, 64) AS why
FROM moonyard.waits AS wait
WHERE wait.number > 0  -- says that it is a list, for its index
ORDER BY wait.parked IS NOT NULL, wait.place, wait.number;
COMMENT ON VIEW inspect.queue IS 'Jobs that wait for a runner, the next one first, and why each waits; last, those that wait for something else.';

DROP VIEW inspect.runners;
CREATE VIEW inspect.runners AS
SELECT
    inspect.shortened(runner.name, 28) AS runner,
    CASE
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
ORDER BY runner.name, runner.registered_at;
COMMENT ON VIEW inspect.runners IS 'Runners; one that said nothing for 30 s is offline. drained_by: who wants no more jobs to go there.';

CREATE OR REPLACE VIEW inspect.commands AS
SELECT
    job.number AS job,
    command.attempt,
    inspect.shortened(command.stage, 12) AS stage,
    inspect.shortened(array_to_string(command.argv, ' '), 24) AS command,
    command.code,
    inspect.duration(make_interval(secs => command.duration_seconds)) AS took,
    inspect.shortened(replace(command.container, 'docker.io/library/', ''), 18) AS container,
    substr(command.digest, 8, 12) AS digest,
    round(command.cpu_seconds::numeric, 3) AS cpu_s,
    pg_size_pretty(command.memory_peak_bytes) AS memory,
    pg_size_pretty(command.output_bytes) AS output
FROM moonyard.commands AS command
JOIN moonyard.jobs AS job ON job.id = command.job_id
ORDER BY job.number DESC, command.attempt DESC, command.seq;
COMMENT ON VIEW inspect.commands IS 'Commands that ended, the newest job first, in the order in which they ended. No code: killed, or never started. memory: the most that its container had meanwhile. No cpu_s and memory: it did not run alone in its container.';

CREATE VIEW inspect.throughput AS
SELECT
    span.name AS last,
    (SELECT count(*) FROM moonyard.jobs WHERE number > coalesce((
        -- Numbers are given in the order of time, so the first of the span is found from the newest end.
        SELECT older.number FROM moonyard.jobs AS older WHERE older.created_at < now() - span.length
        ORDER BY older.number DESC LIMIT 1
    ), 0)) AS submitted,
    done.succeeded, done.failed, done.cancelled, done.lost,
    inspect.duration(make_interval(secs => done.waited)) AS waited_p50,
    inspect.duration(make_interval(secs => done.took[1])) AS took_p50,
    inspect.duration(make_interval(secs => done.took[2])) AS took_p95
FROM (VALUES ('minute', interval '1 minute'), ('hour', interval '1 hour'), ('day', interval '1 day')) AS span (name, length)
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE job.state = 'succeeded') AS succeeded,
        count(*) FILTER (WHERE job.state = 'failed') AS failed,
        count(*) FILTER (WHERE job.state = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE job.state = 'lost') AS lost,
        percentile_cont(0.5) WITHIN GROUP (
            ORDER BY extract(epoch FROM job.started_at - greatest(job.created_at, job.not_before))::double precision
        ) AS waited,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
            ORDER BY extract(epoch FROM job.finished_at - job.started_at)::double precision
        ) AS took
    FROM moonyard.jobs AS job WHERE job.finished_at >= now() - span.length
) AS done;
COMMENT ON VIEW inspect.throughput IS 'Jobs of the last minute, hour and day: how many, how long they waited to start, how long they took.';

CREATE VIEW inspect.locks AS
SELECT
    waiting.pid,
    inspect.shortened(waiting.application_name, 24) AS waiting,
    inspect.duration(clock_timestamp() - waiting.state_change) AS since,
    holding.pid AS blocked_by,
    inspect.shortened(holding.application_name, 24) AS holding,
    holding.state,
    inspect.shortened(regexp_replace(holding.query, '\s+', ' ', 'g'), 28) AS query
FROM pg_stat_activity AS waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocker (pid)
JOIN pg_stat_activity AS holding ON holding.pid = blocker.pid
WHERE waiting.datname = current_database()
ORDER BY waiting.state_change;
COMMENT ON VIEW inspect.locks IS 'Sessions that wait for a lock, and who holds it. Empty is good.';

CREATE VIEW inspect.health AS
WITH fleet AS (
    SELECT count(*) FILTER (WHERE seen_at >= now() - interval '30 seconds') AS online, count(*) AS known
    FROM moonyard.runners
),
waiting AS (
    SELECT count(*) AS jobs, min(created_at) AS oldest FROM moonyard.jobs
    WHERE state = 'queued' AND parked IS NULL
),
replicas AS (
    SELECT count(*) AS listening FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'moonyard orchestrator, listening'
),
oldest AS (
    SELECT pid, application_name, now() - xact_start AS age FROM pg_stat_activity
    WHERE xact_start IS NOT NULL AND datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    ORDER BY xact_start LIMIT 1
),
hot AS (
    SELECT relname, n_live_tup, n_dead_tup, last_autovacuum FROM pg_stat_user_tables
    WHERE schemaname = 'moonyard' AND relname IN ('jobs', 'attempts')
)
SELECT 'orchestrators' AS subject, CASE WHEN listening > 0 THEN 'ok' ELSE 'worry' END AS state,
    listening || ' connected' || CASE WHEN listening = 0 THEN ': nobody hands out jobs' ELSE '' END AS detail
FROM replicas
UNION ALL
SELECT 'runners', CASE WHEN online > 0 THEN 'ok' ELSE 'worry' END, online || ' of ' || known || ' are connected'
FROM fleet
UNION ALL
SELECT 'queue', CASE WHEN oldest < now() - interval '10 minutes' THEN 'worry' ELSE 'ok' END,
    jobs || ' jobs wait for a runner' || coalesce(', the oldest for ' || inspect.duration(now() - oldest), '')
FROM waiting
UNION ALL
SELECT 'pauses', CASE WHEN count(*) > 0 THEN 'worry' ELSE 'ok' END,
    coalesce(
        string_agg(coalesce(pipeline.name, 'everything') || ' is paused by ' || pause.paused_by, '; ' ORDER BY pause.paused_at),
        'nothing is paused'
    )
FROM moonyard.pauses AS pause LEFT JOIN moonyard.pipelines AS pipeline ON pipeline.id = pause.pipeline_id
UNION ALL
SELECT 'leases', CASE WHEN count(*) > 0 THEN 'worry' ELSE 'ok' END,
    count(*) || ' ran out more than 15 s ago and were not taken back'
FROM moonyard.attempts WHERE state = 'running' AND lease_expires_at < now() - interval '15 seconds'
UNION ALL
SELECT 'schedules', CASE WHEN count(*) > 0 THEN 'worry' ELSE 'ok' END,
    coalesce(string_agg(name || ' failed: ' || (error ->> 'message'), '; ' ORDER BY name), 'none failed the last time')
FROM moonyard.schedules WHERE error IS NOT NULL
UNION ALL
SELECT 'secrets', CASE WHEN count(*) > 0 THEN 'worry' ELSE 'ok' END,
    count(*) || ' were sent in plain by a runner in the last day' || CASE WHEN count(*) > 0 THEN ': inspect.audit' ELSE '' END
FROM moonyard.audit WHERE action = 'send secret in plain' AND at > now() - interval '1 day'
UNION ALL
SELECT 'transactions', CASE WHEN age > interval '1 minute' THEN 'worry' ELSE 'ok' END,
    CASE WHEN age IS NULL THEN 'none is open'
        ELSE 'the oldest is open for ' || inspect.duration(age) || ' (pid ' || pid || ', ' || application_name || ')' END
FROM (SELECT) AS always LEFT JOIN oldest ON true
UNION ALL
SELECT 'locks', CASE WHEN count(*) > 0 THEN 'worry' ELSE 'ok' END, count(*) || ' sessions wait for a lock: inspect.locks'
FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
UNION ALL
SELECT 'table ' || relname, CASE WHEN n_dead_tup > 100000 AND n_dead_tup > n_live_tup / 5 THEN 'worry' ELSE 'ok' END,
    n_dead_tup || ' dead rows beside ' || n_live_tup || ', last vacuumed ' || coalesce(inspect.duration(now() - last_autovacuum) || ' ago', 'never')
FROM hot
UNION ALL
SELECT 'autovacuum', CASE WHEN current_setting('autovacuum') = 'on' THEN 'ok' ELSE 'worry' END,
    'is ' || current_setting('autovacuum');
COMMENT ON VIEW inspect.health IS 'What an operator should worry about: SELECT * FROM inspect.health WHERE state = ''worry'';';

CREATE VIEW inspect.schedules AS
SELECT
    inspect.shortened(schedule.name, 24) AS schedule,
    inspect.shortened(pipeline.name, 16) AS pipeline,
    inspect.shortened(schedule.cron, 16) AS cron,
    inspect.shortened(schedule.time_zone, 20) AS time_zone,
    CASE WHEN schedule.paused_at IS NULL THEN to_char(schedule.next_at AT TIME ZONE schedule.time_zone, 'MM-DD HH24:MI')
        ELSE 'paused' END AS next,
    job.number AS last_job,
    inspect.shortened(schedule.error ->> 'message', 20) AS error
FROM moonyard.schedules AS schedule
JOIN moonyard.pipelines AS pipeline ON pipeline.id = schedule.pipeline_id
LEFT JOIN moonyard.jobs AS job ON job.id = schedule.last_job_id
ORDER BY schedule.name;
COMMENT ON VIEW inspect.schedules IS 'Jobs to come by the clock; the next time is in the schedule''s own time zone.';

CREATE VIEW inspect.audit AS
SELECT at::timestamptz(0) AS at, inspect.shortened(actor, 28) AS actor, action, inspect.shortened(subject, 40) AS subject
FROM moonyard.audit
ORDER BY id DESC;
COMMENT ON VIEW inspect.audit IS 'What operators did through the API or in schema control, the newest first.';

CREATE FUNCTION inspect.pipeline(name text) RETURNS TABLE (input text, type text, "default" text, choices text, description text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT declared.key, declared.value ->> 'type', declared.value ->> 'default',
        (SELECT string_agg(choice, ', ') FROM json_array_elements_text(
            CASE json_typeof(declared.value -> 'choices') WHEN 'array' THEN declared.value -> 'choices' ELSE '[]' END
        ) AS choice),
        declared.value ->> 'description'
    FROM moonyard.pipelines AS pipeline
    JOIN moonyard.pipeline_versions AS version ON version.id = pipeline.version_id
    CROSS JOIN LATERAL json_each(version.definition -> 'inputs') AS declared
    WHERE pipeline.id = moonyard.pipeline_of($1);
END $$;
COMMENT ON FUNCTION inspect.pipeline IS 'What a submit of a pipeline''s newest version may give: SELECT * FROM inspect.pipeline(''build'');';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON ALL TABLES IN SCHEMA inspect TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON ALL TABLES IN SCHEMA inspect TO moonyard_operator;
    END IF;
END $$;
