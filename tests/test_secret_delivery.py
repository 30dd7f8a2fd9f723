"""A secret's whole way: stored and granted by people, delivered to a runner, used in containers, and shown nowhere."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from orchestrator import master_keys
from runner.engine.settings import EngineSettings
from schema.errors import chain
from schema.secrets import Grant, GrantCreate, Secret, SecretSet
from schema.wire import Job, PipelinePush, PipelineVersion
from tests.orchestrator.installation import installation as opened
from tests.postgres import Cluster
from tests.shells.conftest import LEASE_SECONDS, Debugged

VALUE = "kJ8s2Kd9/sLq+4x=zQ7-\"mN'p"
HIDDEN = "correct horse battery staple"
LINES = [
    "-----BEGIN SOME KEY-----",
    "q8fJ2kkd92ks2kd8fq8fJ2kkd92ks2kd8f",
    "zz9fJ2kkd92ks2kd8fq8fJ2k",
    "-----END SOME KEY-----",
]
KEY = "\n".join(LINES)


def source(body: str, again: str) -> str:
    return (
        'return { name = "try", stages = {'
        f' {{ name = "use", script = function(job)\n{body}\nend }},'
        f' {{ name = "again", script = function(job)\n{again}\nend }} }} }}'
    )


class Guarded(Debugged):
    """An installation with master keys, and a runner."""

    async def start(self) -> None:
        keys = master_keys.parse(master_keys.generate(), "a test")
        for _ in range(2):
            await self.installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=keys)
        self.admin = await self.installation.client()
        pushed = PipelinePush(filename="try.lua", source=source("", ""))
        await self.admin.post("/v1/pipelines", PipelineVersion, pushed)
        for name, value, readable in (("TOKEN", VALUE, True), ("HIDDEN", HIDDEN, False), ("KEY", KEY, True)):
            message = SecretSet(secret=name, value=value.encode(), readable=readable)
            await self.admin.post("/v1/secrets", Secret, message)
            grant = GrantCreate(secret=name, pipeline="try", stages=["use", "again"], follows=True)
            await self.admin.post("/v1/grants", Grant, grant)

    async def run(self, body: str, again: str = "") -> Job:
        """Run a script as the stage `use`, and another as the stage `again`, to the job's end."""
        job = await self.submit(source(body, again))
        await self.ended(job)
        return await self.admin.get(f"/v1/jobs/{job.id}", Job)

    async def stored(self, job: Job) -> str:
        """Give all that the database has of a job's events."""
        rows = await self.installation.fetch(
            "SELECT lines FROM moonyard.event_batches WHERE job_id = $1 ORDER BY attempt, next_seq", job.id
        )
        text = "".join(row["lines"] for row in rows)
        assert '"state":"running"' in text
        return text

    async def deliveries(self, job: Job) -> list[tuple[str, str, str]]:
        rows = await self.installation.fetch(
            "SELECT stage, secret, use FROM inspect.secret_deliveries WHERE job = $1 ORDER BY 1, 2, 3", job.number
        )
        return [(row["stage"], row["secret"], row["use"]) for row in rows]


@pytest.fixture(scope="module")
async def guarded(
    postgres_cluster: Cluster, engine_settings: EngineSettings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Guarded]:
    url = postgres_cluster.create_migrated()
    async with opened(url) as installation:
        made = Guarded(installation, engine_settings, tmp_path_factory.mktemp("guarded"))
        await made.start()
        async with made.runner():
            yield made
    postgres_cluster.drop(url)


def unseen(text: str) -> None:
    for value in (VALUE, HIDDEN, *LINES[1:3]):
        for form in (value, json.dumps(value)[1:-1], value.encode().hex()):
            assert form not in text
        for before in ("", "x", "xy"):
            encoded = base64.b64encode((before + value).encode()).decode().rstrip("=")
            assert encoded[4:-4] not in text


async def test_a_granted_secret_is_used_in_all_ways_and_stored_in_none(guarded: Guarded) -> None:
    job = await guarded.run(
        """
        process.run({ command = "sh", args = { "-c", 'echo $TOKEN; echo $TOKEN | base64; env; set -x; : $HIDDEN' },
          secrets = { "TOKEN", "HIDDEN" } })
        local show = 'echo "$KEY"; echo "$KEY" | base64; echo "$KEY" | od -An -tx1 -v | tr -d " "'
        process.run({ command = "sh", args = { "-c", show }, secrets = { "KEY" } })
        local token = secret.get("TOKEN")
        log.info(token, token:reveal())
        job.output("it", token:reveal())
        """,
        'error("no: " .. secret.get("TOKEN"):reveal() .. secret.get("KEY"):reveal())',
    )
    text = await guarded.stored(job)
    unseen(text)
    unseen(msgspec.json.encode(job).decode())
    assert job.error is not None
    assert "no: [secret TOKEN]" in chain(job.error)[-1].message
    for name in ("TOKEN", "HIDDEN", "KEY"):
        assert f"[secret {name}]" in text
    assert await guarded.deliveries(job) == [
        ("again", "KEY", "env"),
        ("again", "KEY", "lua"),
        ("again", "TOKEN", "env"),
        ("again", "TOKEN", "lua"),
        ("use", "HIDDEN", "env"),
        ("use", "KEY", "env"),
        ("use", "TOKEN", "env"),
        ("use", "TOKEN", "lua"),
    ]
    leaked = await guarded.installation.fetch("SELECT FROM moonyard.audit WHERE action = 'send secret in plain'")
    assert leaked == [], "the runner took it out before"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('secret.get("HIDDEN"):reveal()', "secret_not_readable"),
        ('http.get("http://127.0.0.1:1/", { headers = { A = secret.get("HIDDEN") } })', "secret_not_readable"),
        ('fs.write("a", secret.get("HIDDEN"))', "secret_not_readable"),
        ('process.run({ command = "cat", stdin = secret.get("HIDDEN") })', "secret_not_readable"),
        ('secret.get("NOT_THERE")', "secret_not_granted"),
        ('process.run({ command = "env", secrets = { "NOT_THERE" } })', "secret_not_granted"),
        ('process.run({ command = "env", args = { secret.get("HIDDEN") } })', "secret_not_accepted"),
    ],
)
async def test_what_it_may_not_be_used_for_is_refused(guarded: Guarded, body: str, code: str) -> None:
    job = await guarded.run(body)
    assert job.error is not None
    assert chain(job.error)[-1].code == code
    unseen(await guarded.stored(job))


async def test_one_for_environments_alone_goes_there_by_both_ways(guarded: Guarded) -> None:
    job = await guarded.run(
        """
        local function length(options)
          options.command, options.args = "sh", { "-c", 'printf %s "${#V}"' }
          return process.run(options).stdout
        end
        assert(length({ env = { V = secret.get("HIDDEN") } }) == "28")
        assert(length({ secrets = { V = "HIDDEN" } }) == "28")
        """
    )
    assert job.state == "succeeded", job.error


async def test_a_stage_without_a_grant_does_not_get_what_another_got(guarded: Guarded, tmp_path: Path) -> None:
    del tmp_path
    job = await guarded.submit(
        """
        local token
        return { name = "try", stages = {
          { name = "use", script = function() token = secret.get("TOKEN") end },
          { name = "other", script = function() process.run({ command = "env", env = { T = token } }) end },
        } }
        """
    )
    final = await guarded.ended(job)
    assert final.error is not None
    assert chain(final.error)[-1].code == "secret_not_granted"
