"""Speaks as runners do whose attempts have ended: with their token, and with the very event that is next."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from schema.client import Client, OrchestratorRefused
from schema.events import LogEvent, encode_line
from schema.wire import Artifact, ArtifactSave, EventsAccepted, Heartbeat, HeartbeatAnswer, Holding
from tests.chaos.figures import Figures
from tests.chaos.questions import Row, rows

TRIED_MAXIMUM = 60
REFUSED = frozenset({"attempt_gone", "attempt_unknown"})
"""The second where the job was removed meanwhile, by its age."""

ENDED = """
SELECT job_id, number, next_seq, runner_id FROM moonyard.attempts
ORDER BY state <> 'lost', job_id, number
LIMIT $1
"""
ALL_OF_IT = """
SELECT id, md5(string_agg(line, '' ORDER BY line)) AS hash FROM (
    SELECT id, job::text FROM moonyard.jobs AS job
    UNION ALL SELECT job_id, attempt::text FROM moonyard.attempts AS attempt
    UNION ALL SELECT job_id, stage::text FROM moonyard.stages AS stage
    UNION ALL SELECT job_id, artifact::text FROM moonyard.artifacts AS artifact
    UNION ALL SELECT job_id, batch.attempt || ':' || batch.next_seq || ':' || md5(batch.lines)
        FROM moonyard.event_batches AS batch
) AS part (id, line)
GROUP BY id
"""


async def try_stale(url: str, address: str, tokens: Mapping[UUID, str], figures: Figures) -> None:
    """Speak for attempts that have ended, those that were lost first, and see that nothing comes of it.

    :param tokens: of runners, by their ids.
    """
    before = await _hashes(url)
    for row in await rows(url, ENDED, TRIED_MAXIMUM):
        async with Client.open([address], tokens[row["runner_id"]]) as client:
            for what, is_accepted in (("event", _send), ("artifact", _name), ("heartbeat", _renew)):
                figures.stale_tried += 1
                if await is_accepted(client, row):
                    figures.wrong("stale_accepted", f"a stale {what} of job {row['job_id']} attempt {row['number']}")
    after = await _hashes(url)
    for job in before.keys() & after.keys():
        if before[job] != after[job]:
            figures.wrong("stale_accepted", f"what stale attempts sent has changed job {job}")


async def _hashes(url: str) -> dict[UUID, str]:
    return {row["id"]: row["hash"] for row in await rows(url, ALL_OF_IT)}


async def _send(client: Client, row: Row) -> bool:
    line = LogEvent(
        at="2026-01-01T00:00:00.000Z",
        job=str(row["job_id"]),
        attempt=row["number"],
        seq=row["next_seq"],
        stage="s",
        level="info",
        source="lua",
        text="stale",
    )
    try:
        await client.post_lines(
            f"/v1/runner/jobs/{row['job_id']}/{row['number']}/events",
            EventsAccepted,
            encode_line(line),
            query={"first_seq": row["next_seq"]},
        )
    except OrchestratorRefused as refused:
        return refused.code not in REFUSED
    return True


async def _name(client: Client, row: Row) -> bool:
    message = ArtifactSave(name="stale", sha256="0" * 64, size_bytes=1)
    try:
        await client.post(f"/v1/runner/jobs/{row['job_id']}/{row['number']}/artifacts", Artifact, message)
    except OrchestratorRefused as refused:
        return refused.code not in REFUSED
    return True


async def _renew(client: Client, row: Row) -> bool:
    message = Heartbeat(holding=[Holding(job=str(row["job_id"]), attempt=row["number"])])
    answer = await client.post("/v1/runner/heartbeat", HeartbeatAnswer, message)
    return answer.gone != [str(row["job_id"])]
