"""Statements about tests of reports."""

from __future__ import annotations

from typing import Final

# $1 job, $2 attempt, $3 stage, $4 report: what was told of it before, by a try of the stage that failed, for instance.
TESTS_FORGET: Final = "DELETE FROM moonyard.tests WHERE job_id = $1 AND attempt = $2 AND stage = $3 AND report = $4"

# $1 job, $2 attempt
TESTS_COUNT: Final = "SELECT count(*) FROM moonyard.tests WHERE job_id = $1 AND attempt = $2"

# $1 job, $2 attempt, $3 stage, $4 report, $5 position of the first, $6 suites, $7 names, $8 states, $9 seconds,
# $10 messages. What came twice is stored once.
TESTS_ADD: Final = """
INSERT INTO moonyard.tests (job_id, attempt, stage, report, position, suite, name, state, duration_seconds, message)
SELECT $1, $2, $3, $4, $5 + test.place::integer - 1, test.suite, test.name, test.state, test.seconds, test.message
FROM unnest($6::text[], $7::text[], $8::text[], $9::double precision[], $10::text[])
    WITH ORDINALITY AS test (suite, name, state, seconds, message, place)
ON CONFLICT DO NOTHING
"""

# $1 job
TESTS_SUMMARY: Final = """
SELECT
    count(*) AS all,
    count(*) FILTER (WHERE test.state = 'passed') AS passed,
    count(*) FILTER (WHERE test.state = 'failed') AS failed,
    count(*) FILTER (WHERE test.state = 'error') AS errors,
    count(*) FILTER (WHERE test.state = 'skipped') AS skipped,
    coalesce(sum(test.duration_seconds), 0) AS seconds
FROM moonyard.jobs AS job JOIN moonyard.tests AS test ON test.job_id = job.id AND test.attempt = job.attempt
WHERE job.id = $1
"""

# $1 job, $2 states, $3 how many
TESTS_LIST: Final = """
SELECT test.attempt, test.stage, test.report, test.suite, test.name, test.state, test.duration_seconds, test.message
FROM moonyard.jobs AS job JOIN moonyard.tests AS test ON test.job_id = job.id AND test.attempt = job.attempt
WHERE job.id = $1 AND test.state = ANY ($2::text[])
ORDER BY test.stage, test.report, test.position
LIMIT $3
"""
