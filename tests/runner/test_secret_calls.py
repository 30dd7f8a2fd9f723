"""An attempt's secrets: asked for once a stage and use, looked for before anybody has them, and by names alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import anyio
import pytest

from runner.event_stream import EventStream
from runner.job_context import Call, JobContext
from runner.modules import secret
from runner.modules.arguments import ArgumentInvalid
from runner.plugin_rights import _secrets
from runner.secrets import GivenSecrets, JobSecrets
from sandbox.frames import Secret, SecretName, Value
from schema.errors import MoonyardError
from schema.secrets import SecretDelivery, SecretUse

VALUE = b"correct horse battery staple"


class Nowhere:
    gathering_seconds = 0.0

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        del first_seq, lines


class Asked:
    """A store that writes down what it is asked, and may be away."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, SecretUse]] = []
        self.is_away = False
        self.go_on = anyio.Event()

    async def ask(self, name: str, stage: str, use: SecretUse) -> SecretDelivery:
        self.asked.append((name, stage, use))
        await self.go_on.wait()
        if self.is_away:
            raise MoonyardError("nobody answers", code="orchestrator_unreachable")
        return SecretDelivery(name=name, version=1, value=VALUE, readable=True)


def stream() -> EventStream:
    return EventStream(job="a-job", number=1, attempt=1, sink=Nowhere())


async def test_a_secret_is_asked_for_once_for_each_stage_and_use() -> None:
    store, told = Asked(), stream()
    secrets = JobSecrets(store, told)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(secrets.get, "TOKEN", "build")
        await anyio.wait_all_tasks_blocked()
        store.go_on.set()
    await secrets.get("TOKEN", "build", "lua")
    await secrets.get("TOKEN", "deploy")
    await secrets.get("TOKEN", "build")
    assert store.asked == [
        ("TOKEN", "build", "environment"),
        ("TOKEN", "build", "lua"),
        ("TOKEN", "deploy", "environment"),
    ]
    assert told.redaction.data(b"so: " + VALUE) == b"so: [secret TOKEN]"


async def test_one_that_could_not_be_had_is_asked_for_again() -> None:
    store = Asked()
    store.go_on.set()
    store.is_away = True
    secrets = JobSecrets(store, stream())
    with pytest.raises(MoonyardError, match="nobody answers"):
        await secrets.get("TOKEN", "build")
    store.is_away = False
    assert (await secrets.get("TOKEN", "build")).value == VALUE


class Job:
    """What a call needs of its job here."""

    def __init__(self, secrets: JobSecrets) -> None:
        self.secrets = secrets


@pytest.mark.parametrize("count", [1, 2000])
async def test_secrets_of_a_call_have_a_size_together(count: int) -> None:
    store = Asked()
    store.go_on.set()
    job = cast("JobContext", Job(JobSecrets(store, stream())))
    parts = secret.OPENED_BYTES_MAXIMUM // len(VALUE) // count + 1
    json = [Secret((SecretName("TOKEN"),) * parts) for _ in range(count)]
    call = Call(
        stage="build", arguments=["http.post", {"url": "https://example.org", "json": cast("Value", json)}], plugin=None
    )
    with pytest.raises(ArgumentInvalid, match="are larger than 4194304 bytes together"):
        await secret.opened(job, "http.request", call)


@pytest.mark.parametrize("name", ["", "a b", "1A", "A" * 101, "build/TOKEN", "../TOKEN", "T\x00"])
async def test_what_is_no_name_is_asked_for_nowhere(name: str) -> None:
    store = Asked()
    with pytest.raises(MoonyardError) as caught:
        await JobSecrets(store, stream()).get(name, "build")
    assert caught.value.code == "secret_name_invalid"
    assert store.asked == []


async def test_a_run_without_a_server_has_what_it_was_given() -> None:
    secrets = JobSecrets(GivenSecrets({"TOKEN": VALUE}), stream())
    assert (await secrets.get("TOKEN", "any")).value == VALUE
    with pytest.raises(MoonyardError) as caught:
        await secrets.get("OTHER", "any")
    assert caught.value.code == "secret_not_granted"


@pytest.mark.parametrize(
    ("call", "arguments", "names"),
    [
        ("secret.get", ["A"], ["A"]),
        ("process.run", [None, {"secrets": ["A", "B"]}], ["A", "B"]),
        ("process.run", [None, {"secrets": {"X": "A"}}], ["A"]),
        ("process.run", [None, {"command": "a"}], []),
    ],
)
def test_a_plugin_is_held_to_the_names_that_it_asks_for_in_any_form(
    call: str, arguments: list[Value], names: list[str]
) -> None:
    assert _secrets(call, arguments) == names
