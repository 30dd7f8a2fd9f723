-- Back to what the version before knows. Jobs that wait for a time, a slot or the end of a pause wait no more, schedules
-- and the audit are gone. The role moonyard_operator stays: it belongs to the whole cluster.
DROP SCHEMA control CASCADE;
DROP VIEW inspect.http_limits;
DROP FUNCTION moonyard.http_limit_set, moonyard.http_limit_remove, moonyard.http_limit_host;
DROP TABLE moonyard.http_limits;
DROP VIEW inspect.secrets, inspect.grants, inspect.secret_deliveries;
DROP FUNCTION
    moonyard.grants_fitting, moonyard.grants_confirm, moonyard.grant_remove, moonyard.grant_add,
    moonyard.grant_check, moonyard.secret_remove,
    moonyard.secret_of, moonyard.secret_reference, moonyard.pattern_fits;
ALTER TABLE moonyard.attempts DROP COLUMN secret_versions, DROP COLUMN secret_requests;
DROP TABLE moonyard.grant_confirmations, moonyard.grants, moonyard.secret_versions, moonyard.secrets;
DROP VIEW inspect.artifacts, inspect.outputs, inspect.tests;
CREATE OR REPLACE FUNCTION moonyard.job_remnants() RETURNS trigger
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
DROP TABLE moonyard.tests;
DROP INDEX moonyard.jobs_succeeded;
ALTER TABLE moonyard.artifacts DROP COLUMN stage, DROP COLUMN expires_at;
DROP TRIGGER blob_remnants ON moonyard.blobs;
DROP FUNCTION moonyard.blob_remnants;
DROP TABLE moonyard.blob_remnants;
-- What is in an object store is out of that version's reach.
DELETE FROM moonyard.artifacts WHERE blob_id IN (SELECT id FROM moonyard.blobs WHERE store <> 'postgres');
DROP INDEX moonyard.one_upload_a_runner_and_content;
ALTER TABLE moonyard.stages DROP COLUMN outputs;
ALTER TABLE moonyard.jobs DROP COLUMN trigger;
DROP VIEW inspect.plugins;
DROP TABLE moonyard.plugins, moonyard.plugin_contents;
ALTER TABLE moonyard.pipeline_versions DROP COLUMN plugins;
DROP VIEW inspect.caches;
DROP FUNCTION moonyard.caches_forget;
DROP TABLE moonyard.caches;
DROP FUNCTION moonyard.paths_hash;
DROP VIEW inspect.shells, inspect.kept;
DROP FUNCTION moonyard.containers_release;
DROP TABLE moonyard.shell_chunks, moonyard.shell_streams, moonyard.shells, moonyard.kept_containers;
ALTER TABLE moonyard.jobs DROP COLUMN keep_on_failure_seconds;
DROP VIEW inspect.throughput, inspect.locks, inspect.health, inspect.schedules, inspect.audit, inspect.queue, inspect.runners,
    inspect.commands;
DROP FUNCTION inspect.pipeline;
DROP VIEW moonyard.waits;
DROP TRIGGER slot_release ON moonyard.jobs;
DROP FUNCTION
    moonyard.refuse, moonyard.note, moonyard.tell, moonyard.tell_queued, moonyard.queue_rules, moonyard.group_name,
    moonyard.job_record,
    moonyard.job_end_queued, moonyard.group_promote, moonyard.slot_release, moonyard.job_cancel,
    moonyard.jobs_cancel_queued, moonyard.job_retry, moonyard.attempt_retry, moonyard.group_supersede,
    moonyard.jobs_submit, moonyard.jobs_release, moonyard.jobs_time_out, moonyard.pipeline_of, moonyard.pause,
    moonyard.resume, moonyard.drain, moonyard.uuid7, moonyard.input_value, moonyard.resolve_inputs;
DROP FUNCTION moonyard.job_resume;
DROP TABLE moonyard.kept_workspaces;
DELETE FROM moonyard.blobs WHERE store <> 'postgres';
ALTER TABLE moonyard.blobs
    DROP COLUMN store, DROP COLUMN chunk_bytes, DROP COLUMN upload_sha256, DROP COLUMN upload_runner_id,
    DROP COLUMN upload_writer, DROP COLUMN upload_chunks;
DROP TABLE moonyard.schedules, moonyard.audit, moonyard.pauses, moonyard.concurrency_slots;
DROP INDEX moonyard.jobs_finished, moonyard.jobs_queued_listed, moonyard.jobs_queued_in_order;
CREATE INDEX jobs_queued ON moonyard.jobs (number) WHERE state = 'queued';
ALTER TABLE moonyard.jobs
    DROP COLUMN priority, DROP COLUMN turn, DROP COLUMN parked, DROP COLUMN not_before, DROP COLUMN queue_timeout_seconds,
    DROP COLUMN queue_deadline, DROP COLUMN tag_set, DROP COLUMN concurrency_group, DROP COLUMN concurrency_limit,
    DROP COLUMN retry, DROP COLUMN failures, DROP COLUMN request_hash, DROP COLUMN cancel_forced, DROP COLUMN resume, DROP COLUMN traceparent;
DROP SEQUENCE moonyard.turns;
ALTER TABLE moonyard.pipeline_versions DROP COLUMN rules;
ALTER TABLE moonyard.commands
    DROP COLUMN digest, DROP COLUMN cpu_seconds, DROP COLUMN memory_peak_bytes, DROP COLUMN output_bytes;
ALTER TABLE moonyard.runners DROP COLUMN tags, DROP COLUMN drained_at, DROP COLUMN drained_by;
DROP TABLE moonyard.tag_sets;

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

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON ALL TABLES IN SCHEMA inspect TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA inspect FROM moonyard_operator;
        REVOKE ALL ON SCHEMA inspect FROM moonyard_operator;
    END IF;
END $$;
