DROP FUNCTION
    control.rotate_runner, control.revoke_runner, control.remove_runner, control.bind_runner, control.reserve,
    control.unreserve;
DROP VIEW inspect.bindings, inspect.runner_tokens;

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

CREATE OR REPLACE VIEW inspect.runners AS
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

DROP TRIGGER runner_reaches ON moonyard.runners;
DROP TRIGGER job_classed ON moonyard.jobs;
DROP TRIGGER version_classed ON moonyard.pipeline_versions;
DROP TRIGGER pipeline_reached ON moonyard.pipelines;
DROP TRIGGER pipeline_classed ON moonyard.pipelines;
DELETE FROM moonyard.runner_bindings;
DELETE FROM moonyard.reservations;
SELECT count(*) FROM moonyard.classes_settle();
DROP FUNCTION
    moonyard.reserve, moonyard.runner_bind, moonyard.pattern_check, moonyard.runner_reaches, moonyard.job_classed,
    moonyard.version_classed, moonyard.pipeline_reached, moonyard.pipeline_classed, moonyard.classes_settle,
    moonyard.reaches_settle, moonyard.rules_with_class, moonyard.reach_of, moonyard.class_of;
-- Jobs that ended while their pipeline had a class are not queued by it again.
UPDATE moonyard.jobs AS job SET tag_set = (version.rules ->> 'tag_set')::integer
FROM moonyard.pipeline_versions AS version, moonyard.tag_sets AS known
WHERE version.id = job.version_id AND known.id = job.tag_set AND known.has_class;
DELETE FROM moonyard.tag_sets WHERE has_class;
ALTER TABLE moonyard.tag_sets
    DROP COLUMN has_class, DROP CONSTRAINT tag_set_has_tags,
    ADD CONSTRAINT tag_set_has_tags CHECK (cardinality(tags) BETWEEN 1 AND 20);
DROP INDEX moonyard.pipelines_of_class;
ALTER TABLE moonyard.pipelines DROP COLUMN class;
ALTER TABLE moonyard.runners DROP COLUMN reach;
DROP TABLE moonyard.runner_bindings, moonyard.reservations;
DROP FUNCTION moonyard.http_permits_take;
DROP TABLE moonyard.http_shares, moonyard.blob_senders;
DROP FUNCTION
    moonyard.runner_revoke, moonyard.revoked_error, moonyard.attempt_lose, moonyard.runner_rotate,
    moonyard.runner_token_reused, moonyard.runner_token_use, moonyard.runner_token_make, moonyard.runners_of;
DELETE FROM moonyard.tokens WHERE replaced_at IS NOT NULL;
DROP INDEX moonyard.tokens_of_runner, moonyard.runners_revoked;
ALTER TABLE moonyard.tokens
    DROP CONSTRAINT only_runner_tokens_are_replaced, DROP COLUMN first_used_at, DROP COLUMN replaced_at;
ALTER TABLE moonyard.runners
    DROP COLUMN revoked_at, DROP COLUMN revoked_by, DROP COLUMN removed_at, DROP COLUMN rotation_wanted_at,
    DROP COLUMN reused_at;
