"""Statements about shells and kept containers."""

from __future__ import annotations

from typing import Final

# $1 job: the newest attempt, and whether it has containers.
SHELL_TARGET: Final = """
SELECT
    job.number, job.state, job.attempt, attempt.runner_id, runner.name AS runner,
    attempt.state = 'running' AS is_running,
    kept.expires_at > now() AND kept.released_at IS NULL AS is_kept
FROM moonyard.jobs AS job
LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
LEFT JOIN moonyard.kept_containers AS kept ON kept.job_id = job.id AND kept.attempt = job.attempt
WHERE job.id = $1
"""

# $1 id, $2 job, $3 attempt, $4 runner, $5 who, $6 stage, $7 image, $8 command, $9 terminal, $10 lines, $11 columns,
# $12 how many a runner may have, $13 the token that it is for
SHELL_OPEN: Final = """
WITH made AS (
    INSERT INTO moonyard.shells (
        id, job_id, attempt, runner_id, actor, stage, container, command, terminal, lines, columns, token_id
    )
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $13
    WHERE (SELECT count(*) FROM moonyard.shells WHERE runner_id = $4 AND state <> 'ended') < $12
    RETURNING id, job_id, actor
),
streams AS (
    INSERT INTO moonyard.shell_streams (shell_id, is_output)
    SELECT made.id, way.is_output FROM made CROSS JOIN (VALUES (false), (true)) AS way (is_output)
)
SELECT made.id, moonyard.note(made.actor, 'shell', 'job ' || job.number)
FROM made JOIN moonyard.jobs AS job ON job.id = made.job_id
"""

SHELL_GET: Final = """
SELECT
    shell.id, shell.job_id, job.number, shell.attempt, shell.state, shell.runner_id, runner.name AS runner, shell.actor,
    shell.image, shell.exit_code, shell.error, shell.lines, shell.columns, shell.token_id
FROM moonyard.shells AS shell
JOIN moonyard.jobs AS job ON job.id = shell.job_id
JOIN moonyard.runners AS runner ON runner.id = shell.runner_id
WHERE shell.id = $1
"""

# $1 runner: what it is to open, which it may be told more than once.
SHELLS_WANTED: Final = """
SELECT id, job_id, attempt, stage, container, command, terminal, lines, columns
FROM moonyard.shells WHERE runner_id = $1 AND state = 'wanted'
ORDER BY created_at
LIMIT 100
"""

# $1 shell, $2 runner, $3 image. Only the first to say so has opened it. What is to run may hold what is nobody's to
# know: it is there for as long as it is needed.
SHELL_OPENED: Final = """
UPDATE moonyard.shells SET state = 'open', opened_at = now(), image = $3, command = NULL
WHERE id = $1 AND runner_id = $2 AND state = 'wanted'
RETURNING id
"""

# $1 shell, $2 lines, $3 columns
SHELL_RESIZE: Final = """
UPDATE moonyard.shells SET lines = $2, columns = $3 WHERE id = $1 AND state <> 'ended' RETURNING id
"""

# $1 shell, $2 exit code, $3 error; what its user has not read stays for a while.
SHELL_END: Final = """
WITH ended AS (
    UPDATE moonyard.shells SET state = 'ended', ended_at = now(), exit_code = $2, error = $3, command = NULL
    WHERE id = $1 AND state <> 'ended'
    RETURNING id
),
over AS (
    UPDATE moonyard.shell_streams AS stream SET is_over = true FROM ended WHERE stream.shell_id = ended.id
)
SELECT id FROM ended
"""

# $1 shell, $2 way, $3 position, $4 bytes, $5 whether of stderr, $6 whether nothing follows, $7 how much may be on its
# way. One statement, so that what is stored and how far it goes are never at odds.
STREAM_WRITE: Final = """
WITH moved AS (
    UPDATE moonyard.shell_streams AS stream
    SET written = written + length($4::bytea), is_over = $6, written_at = now()
    WHERE shell_id = $1 AND is_output = $2 AND written = $3 AND NOT is_over
        AND (written - taken < $7 OR length($4::bytea) = 0)
    RETURNING shell_id, is_output, written
),
put AS (
    INSERT INTO moonyard.shell_chunks (shell_id, is_output, position, is_stderr, data)
    SELECT shell_id, is_output, $3, $5, $4::bytea FROM moved WHERE length($4::bytea) > 0
)
SELECT written FROM moved
"""

STREAM_POSITION: Final = """
SELECT written, is_over FROM moonyard.shell_streams WHERE shell_id = $1 AND is_output = $2
"""

# $1 shell, $2 way, $3 position: what is below it was taken, and is forgotten.
STREAM_TAKE: Final = """
WITH before AS MATERIALIZED (
    SELECT shell_id, is_output, taken, written FROM moonyard.shell_streams
    WHERE shell_id = $1 AND is_output = $2
    FOR UPDATE
),
moved AS (
    UPDATE moonyard.shell_streams AS stream
    SET taken = least(greatest(stream.taken, $3), stream.written), read_at = now()
    FROM before WHERE stream.shell_id = before.shell_id AND stream.is_output = before.is_output
),
forgotten AS (
    DELETE FROM moonyard.shell_chunks WHERE shell_id = $1 AND is_output = $2 AND position < $3
)
SELECT taken, written FROM before
"""

# $1 shell, $2 way, $3 position, $4 how many
STREAM_READ: Final = """
SELECT position, is_stderr, data FROM moonyard.shell_chunks
WHERE shell_id = $1 AND is_output = $2 AND position >= $3
ORDER BY position
LIMIT $4
"""

# $1 seconds for the runner to open it, $2 to hear of its user or runner, $3 without a byte, $4 in all, $5 for the
# runner to tell how it ended. What a shell has to end for, if it has to.
SHELLS_OVERDUE: Final = """
SELECT found.id, found.number, found.runner, found.why FROM (
    SELECT
        shell.id, job.number, runner.name AS runner,
        CASE
            WHEN stream.shell_id IS NULL THEN 'database_restarted'
            WHEN attempt.state = 'lost' THEN 'attempt_lost'
            WHEN kept.released_at IS NULL AND kept.expires_at > now() THEN NULL
            WHEN attempt.finished_at < now() - make_interval(secs => $5) THEN 'job_ended'
        END AS gone,
        CASE
            WHEN stream.read_at < now() - make_interval(secs => $2) THEN 'user_gone'
            WHEN shell.state = 'wanted' AND shell.created_at < now() - make_interval(secs => $1) THEN 'not_opened'
            WHEN shell.state = 'open' AND input.read_at < now() - make_interval(secs => $2) THEN 'runner_gone'
            WHEN greatest(stream.written_at, input.written_at) < now() - make_interval(secs => $3) THEN 'idle'
            WHEN shell.created_at < now() - make_interval(secs => $4) THEN 'too_long'
        END AS late
    FROM moonyard.shells AS shell
    JOIN moonyard.jobs AS job ON job.id = shell.job_id
    JOIN moonyard.runners AS runner ON runner.id = shell.runner_id
    LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = shell.job_id AND attempt.number = shell.attempt
    LEFT JOIN moonyard.kept_containers AS kept ON kept.job_id = shell.job_id AND kept.attempt = shell.attempt
    LEFT JOIN moonyard.shell_streams AS stream ON stream.shell_id = shell.id AND stream.is_output
    LEFT JOIN moonyard.shell_streams AS input ON input.shell_id = shell.id AND NOT input.is_output
    WHERE shell.state <> 'ended'
) AS overdue
CROSS JOIN LATERAL (
    SELECT overdue.id, overdue.number, overdue.runner, coalesce(overdue.gone, overdue.late) AS why
) AS found
WHERE found.why IS NOT NULL
"""

# $1 seconds that somebody had to read what is left.
STREAMS_REMOVE_ENDED: Final = """
DELETE FROM moonyard.shell_streams AS stream USING moonyard.shells AS shell
WHERE shell.id = stream.shell_id AND shell.ended_at < now() - make_interval(secs => $1)
"""

# $1 job, $2 attempt, $3 runner, $4 seconds, $5 images: fenced as all that a runner sends.
CONTAINERS_KEEP: Final = """
INSERT INTO moonyard.kept_containers (job_id, attempt, runner_id, images, expires_at)
SELECT held.job_id, held.number, held.runner_id, $5, now() + make_interval(secs => $4)
FROM moonyard.attempts AS held
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.finished_at IS NULL
ON CONFLICT (job_id, attempt) DO UPDATE SET images = excluded.images, expires_at = excluded.expires_at
RETURNING expires_at
"""

# $1 runner, $2 jobs and $3 attempts that it keeps, $4 seconds. What it says nothing of is gone, if it has had time to.
CONTAINERS_RENEW: Final = """
WITH listed AS MATERIALIZED (
    SELECT kept.job_id, kept.attempt, given.job_id IS NOT NULL AS is_there, kept.released_at, kept.kept_at
    FROM moonyard.kept_containers AS kept
    LEFT JOIN unnest($2::uuid[], $3::integer[]) AS given (job_id, attempt)
        ON given.job_id = kept.job_id AND given.attempt = kept.attempt
    WHERE kept.runner_id = $1
),
gone AS (
    DELETE FROM moonyard.kept_containers AS kept USING listed
    WHERE kept.job_id = listed.job_id AND kept.attempt = listed.attempt
        AND NOT listed.is_there AND listed.kept_at < now() - make_interval(secs => $4)
)
SELECT given.job_id, given.attempt
FROM unnest($2::uuid[], $3::integer[]) AS given (job_id, attempt)
LEFT JOIN listed ON listed.job_id = given.job_id AND listed.attempt = given.attempt
WHERE listed.job_id IS NULL OR listed.released_at IS NOT NULL
"""

# $1 job, $2 attempt, $3 runner
CONTAINERS_FORGET: Final = """
DELETE FROM moonyard.kept_containers WHERE job_id = $1 AND attempt = $2 AND runner_id = $3
"""

# $1 job, $2 who
CONTAINERS_RELEASE: Final = "SELECT moonyard.containers_release($1, $2) AS runner_id"

CONTAINERS_OF_JOB: Final = """
SELECT attempt, expires_at FROM moonyard.kept_containers
WHERE job_id = $1 AND expires_at > now() AND released_at IS NULL
ORDER BY attempt DESC
LIMIT 1
"""

# What a runner that died kept is gone, whether it said so or not.
CONTAINERS_REMOVE_EXPIRED: Final = """
DELETE FROM moonyard.kept_containers WHERE expires_at < now() - interval '1 minute'
"""
