"""Secrets and grants: who gets which value, what is written down, and what a database shows to whom."""

from __future__ import annotations

import base64
import subprocess
from typing import Any
from uuid import uuid4

import anyio
import pytest

from orchestrator import master_keys
from orchestrator.events import GONE
from schema.client import OrchestratorRefused
from schema.definition import InputDefinition, PipelineDefinition, StageDefinition
from schema.secrets import (
    DELIVERIES_MAXIMUM,
    Grant,
    GrantCreate,
    GrantList,
    GrantsConfirm,
    GrantsConfirmed,
    Secret,
    SecretAsk,
    SecretDelivery,
    SecretList,
    SecretRemoved,
    SecretSet,
    SecretsRewrapped,
    SecretUse,
)
from tests.orchestrator.installation import Attempt, Installation, SpokenRunner
from tests.postgres import program, psql

FIRST, SECOND = master_keys.generate(), master_keys.generate()
KEYS = master_keys.parse(FIRST, "a test")
VALUE = b"correct horse battery staple"
LEASE_SECONDS = 3600.0
"""Nobody renews it here."""
PIPELINE = PipelineDefinition(
    name="hello",
    inputs={
        "ref": InputDefinition(type="string", default="main"),
        "dry": InputDefinition(type="boolean", default=False),
    },
    stages=[
        StageDefinition(name="greet"),
        StageDefinition(name="deploy (eu)", of="deploy", matrix={"region": "eu"}),
    ],
    finally_=[StageDefinition(name="tidy")],
)


async def begin(
    installation: Installation,
    pipeline: PipelineDefinition = PIPELINE,
    runner: SpokenRunner | None = None,
    **inputs: Any,
) -> Held:
    """Have a runner that holds an attempt of a new job."""
    if not installation.replicas:
        await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS)
    await installation.push(pipeline, f"-- {pipeline}")
    await installation.submit(pipeline=pipeline.name, inputs=inputs)
    runner = runner or await installation.runner()
    [assignment] = await runner.claim()
    return Held(runner, Attempt(assignment))


class Held:
    """An attempt, and the runner that holds it."""

    def __init__(self, runner: SpokenRunner, attempt: Attempt) -> None:
        self.runner = runner
        self.attempt = attempt
        self.path = f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/secrets"

    async def get(self, name: str = "TOKEN", stage: str = "greet", use: SecretUse = "environment") -> SecretDelivery:
        return await self.runner.client.post(self.path, SecretDelivery, SecretAsk(name=name, stage=stage, use=use))

    async def code(self, name: str = "TOKEN", stage: str = "greet", use: SecretUse = "environment") -> str:
        """Say how it is refused, or that it is not."""
        try:
            await self.get(name, stage, use)
        except OrchestratorRefused as refused:
            return refused.code
        return "delivered"


async def store(installation: Installation, name: str = "TOKEN", value: bytes = VALUE, **fields: Any) -> Secret:
    client = await installation.client()
    return await client.post("/v1/secrets", Secret, SecretSet(secret=name, value=value, **fields))


async def grant(installation: Installation, name: str = "TOKEN", pipeline: str = "hello", **fields: Any) -> Grant:
    client = await installation.client()
    message = GrantCreate(secret=name, pipeline=pipeline, **fields)
    return await client.post("/v1/grants", Grant, message)


async def audit(installation: Installation, *actions: str) -> list[tuple[str, str, str]]:
    rows = await installation.fetch(
        "SELECT actor, action, subject FROM moonyard.audit WHERE action = ANY ($1) ORDER BY id", list(actions)
    )
    return [(row["actor"], row["action"], row["subject"]) for row in rows]


async def test_a_granted_secret_is_delivered_and_written_down(installation: Installation):
    held = await begin(installation)
    await store(installation)
    assert await held.code() == "secret_not_granted"
    made = await grant(installation)
    assert (made.follows, made.waits_for, made.stages, made.inputs, made.runners) == (False, [], [], {}, [])
    delivery = await held.get()
    assert (delivery.name, delivery.version, delivery.value, delivery.readable) == ("TOKEN", 1, VALUE, True)
    assert (await held.get("TOKEN", "tidy", "lua")).value == VALUE
    assert await audit(installation, "set secret", "grant", "deliver secret", "refuse secret") == [
        ("token test", "set secret", "secret TOKEN"),
        ("runner runner", "refuse secret", "secret TOKEN"),
        ("token test", "grant", "secret TOKEN"),
        ("runner runner", "deliver secret", "secret TOKEN"),
        ("runner runner", "deliver secret", "secret TOKEN"),
    ]
    columns = "result, secret, version, job, attempt, stage, use, runner"
    shown = psql(installation.url, f"SELECT {columns} FROM inspect.secret_deliveries", "-At").splitlines()  # noqa: S608
    assert shown == [
        "delivered|TOKEN|1|1|1|tidy|lua|runner",
        "delivered|TOKEN|1|1|1|greet|env|runner",
        "not granted|TOKEN||1|1|greet|env|runner",
    ]
    dumped = psql(installation.url, "TABLE moonyard.audit", "-At")
    assert VALUE.decode() not in dumped


async def test_any_bytes_but_nul_arrive_as_they_were_set(installation: Installation):
    held = await begin(installation)
    value = bytes(range(1, 256)) * 100
    await store(installation, value=value)
    await grant(installation)
    assert (await held.get()).value == value


async def test_unknown_and_not_granted_are_refused_in_the_same_words(installation: Installation):
    held = await begin(installation)
    await store(installation, "KNOWN1")
    told: list[tuple[int, str, str | None]] = []
    for name in ("KNOWN1", "KNOWN2"):
        with pytest.raises(OrchestratorRefused) as refused:
            await held.get(name)
        told.append((refused.value.status, refused.value.message.replace(name, "X"), refused.value.hint))
    assert told[0] == told[1]
    assert told[0][0] == 403
    for name in ("no name", "", "x" * 200, "hello/KNOWN1", "a\0b"):
        assert await held.code(name) == "secret_not_granted"


async def test_the_newest_version_is_delivered_and_one_can_be_taken_back(installation: Installation):
    held = await begin(installation)
    await store(installation)
    await grant(installation)
    assert (await held.get()).version == 1
    assert (await store(installation, value=b"other value")).version == 2
    assert (await held.get()).value == b"other value"
    client = await installation.client()
    shown = await client.get("/v1/secrets/TOKEN", Secret)
    assert [version.number for version in shown.versions or []] == [2, 1]
    removed = await client.delete("/v1/secrets/TOKEN?version=2", SecretRemoved)
    assert (removed.versions, removed.grants) == (1, 0)
    assert (await held.get()).value == VALUE
    assert (await store(installation, value=b"third value")).version == 3
    for number, code in ((2, "secret_version_unknown"), (9, "secret_version_unknown")):
        with pytest.raises(OrchestratorRefused) as refused:
            await client.delete(f"/v1/secrets/TOKEN?version={number}", SecretRemoved)
        assert (refused.value.status, refused.value.code) == (404, code)
    await client.delete("/v1/secrets/TOKEN?version=1", SecretRemoved)
    with pytest.raises(OrchestratorRefused) as refused:
        await client.delete("/v1/secrets/TOKEN?version=3", SecretRemoved)
    assert (refused.value.status, refused.value.code) == (409, "secret_version_last")


async def test_an_environment_only_secret_is_not_given_to_lua(installation: Installation):
    held = await begin(installation)
    await store(installation, readable=False)
    await grant(installation)
    assert await held.code(use="lua") == "secret_not_readable"
    assert (await held.get()).readable is False
    assert (await store(installation)).readable is False  # it stays what it was
    assert await held.code(use="lua") == "secret_not_readable"
    assert (await store(installation, readable=True)).readable is True
    assert await held.code(use="lua") == "delivered"


async def test_a_pipelines_own_secret_is_its_alone_and_comes_first(installation: Installation):
    held = await begin(installation)
    other = await begin(installation, PipelineDefinition(name="other", stages=[StageDefinition(name="greet")]))
    await store(installation, value=b"for all")
    await grant(installation)
    await grant(installation, pipeline="other")
    assert (await held.get()).value == b"for all"
    own = await store(installation, "hello/TOKEN", b"of hello alone")
    assert (own.secret, own.scope, own.name) == ("hello/TOKEN", "hello", "TOKEN")
    assert await held.code() == "secret_not_granted"  # it is that one that the pipeline means now
    with pytest.raises(OrchestratorRefused) as refused:
        await grant(installation, "hello/TOKEN", "other")
    assert refused.value.code == "grant_invalid"
    await grant(installation, "hello/TOKEN")
    assert (await held.get()).value == b"of hello alone"
    assert (await other.get()).value == b"for all"
    with pytest.raises(OrchestratorRefused) as refused:
        await store(installation, "nothing/TOKEN")
    assert refused.value.code == "pipeline_unknown"


async def test_a_grant_for_some_stages_fits_those(installation: Installation):
    held = await begin(installation)
    await store(installation)
    await grant(installation, stages=["deploy", "ti*"])
    assert await held.code(stage="greet") == "secret_not_granted"
    assert await held.code(stage="deploy (eu)") == "delivered"
    assert await held.code(stage="tidy") == "delivered"
    assert await held.code(stage="deploy") == "request_invalid"
    assert await held.code(stage="nowhere") == "request_invalid"


async def test_what_a_plugin_sets_up_has_what_is_granted_for_all_stages(installation: Installation):
    stages = [StageDefinition(name="greet")]
    with_plugin = PipelineDefinition(name="plugged", plugins=["git"], stages=stages)
    held = await begin(installation, with_plugin)
    await store(installation)
    await grant(installation, pipeline="plugged", stages=["greet"])
    assert await held.code(stage="plugin:git") == "secret_not_granted"
    await grant(installation, pipeline="plugged")
    assert await held.code(stage="plugin:git") == "delivered"
    assert await held.code(stage="plugin: git") == "request_invalid"
    without = await begin(installation, PipelineDefinition(name="plain", stages=stages))
    await grant(installation, pipeline="plain")
    assert await without.code(stage="plugin:git") == "request_invalid"


@pytest.mark.parametrize(
    ("inputs", "given", "code"),
    [
        ({"ref": ["main"]}, {}, "delivered"),
        ({"ref": ["main"]}, {"ref": "main2"}, "secret_not_granted"),
        ({"ref": ["main"]}, {"ref": "feature"}, "secret_not_granted"),
        ({"ref": ["main", "release/*"]}, {"ref": "release/1.2"}, "delivered"),
        ({"ref": ["release/*"]}, {"ref": "x/release/1"}, "secret_not_granted"),
        ({"ref": ["release_1%"]}, {"ref": "releasex1y"}, "secret_not_granted"),
        ({"ref": ["a\\*"]}, {"ref": "a\\b"}, "delivered"),
        ({"ref": ["main"], "dry": ["false"]}, {"dry": False}, "delivered"),
        ({"ref": ["main"], "dry": ["false"]}, {"dry": True}, "secret_not_granted"),
    ],
)
async def test_a_grant_for_some_inputs_fits_jobs_that_have_them(
    installation: Installation, inputs: dict[str, list[str]], given: dict[str, Any], code: str
):
    held = await begin(installation, **given)
    await store(installation)
    await grant(installation, inputs=inputs)
    assert await held.code() == code


async def test_a_grant_for_a_runner_is_not_for_another_that_takes_its_name(installation: Installation):
    held = await begin(installation)
    await store(installation)
    deployer = await installation.runner("deployer")
    made = await grant(installation, runners=["deployer"])
    assert made.runners == ["deployer"]
    assert await held.code() == "secret_not_granted"
    assert await (await begin(installation, runner=deployer)).code() == "delivered"
    impostor = await begin(installation, runner=await installation.runner("deployer"))
    assert await impostor.code() == "secret_not_granted"
    with pytest.raises(OrchestratorRefused) as refused:
        await grant(installation, runners=["nobody"])
    assert (refused.value.status, refused.value.code) == (404, "runner_unknown")


async def test_an_input_that_the_job_does_not_have_fits_nothing(installation: Installation):
    held = await begin(installation)
    await store(installation)
    await grant(installation, pipeline="hell*", inputs={"none": ["*"]})
    assert await held.code() == "secret_not_granted"
    with pytest.raises(OrchestratorRefused, match="has no input `none`") as refused:
        await grant(installation, inputs={"none": ["*"]})
    assert refused.value.hint == "Its inputs are: dry, ref."
    with pytest.raises(OrchestratorRefused, match="has no stage `depoly`") as refused:
        await grant(installation, stages=["depoly"])
    assert refused.value.hint == "Its stages are: deploy, greet, tidy."
    await grant(installation, stages=["deploy (eu)"])


async def test_a_pattern_of_pipelines_fits_those_that_it_says(installation: Installation):
    names = ["release-eu", "release", "prerelease-eu"]
    held = [
        await begin(installation, PipelineDefinition(name=name, stages=[StageDefinition(name="greet")]))
        for name in names
    ]
    await store(installation)
    await grant(installation, pipeline="release*")
    assert [await one.code() for one in held] == ["delivered", "delivered", "secret_not_granted"]
    # One that comes later was seen by nobody.
    late = await begin(installation, PipelineDefinition(name="release-us", stages=[StageDefinition(name="greet")]))
    assert await late.code() == "secret_not_confirmed"


async def test_a_version_that_is_pushed_later_waits_to_be_confirmed(installation: Installation):
    old = await begin(installation)
    await store(installation)
    made = await grant(installation)
    new = await begin(installation, PipelineDefinition(name="hello", stages=PIPELINE.stages))
    assert await new.code() == "secret_not_confirmed"
    assert await old.code() == "delivered"
    client = await installation.client()
    assert (await client.get("/v1/grants", GrantList)).grants[0].waits_for == ["hello"]
    done = await client.post("/v1/grants/confirm", GrantsConfirmed, GrantsConfirm(pipeline="hello"))
    assert done.secrets == ["TOKEN"]
    assert done.version == new.attempt.assignment.version
    assert await new.code() == "delivered"
    assert await old.code() == "delivered"
    again = await client.post("/v1/grants/confirm", GrantsConfirmed, GrantsConfirm(pipeline="hello", grant=made.id))
    assert again.secrets == []
    rows = await audit(installation, "confirm grants")
    assert rows == [("token test", "confirm grants", "pipeline hello")]
    for message, code in (
        (GrantsConfirm(pipeline="nothing"), "pipeline_unknown"),
        (GrantsConfirm(pipeline="hello", version=64 * "a"), "version_unknown"),
        (GrantsConfirm(pipeline="hello", grant=str(uuid4())), "grant_unknown"),
        (GrantsConfirm(pipeline="hello", grant="none"), "grant_unknown"),
    ):
        with pytest.raises(OrchestratorRefused) as refused:
            await client.post("/v1/grants/confirm", GrantsConfirmed, message)
        assert (refused.value.status, refused.value.code) == (404, code)


async def test_a_grant_that_follows_needs_no_confirmation(installation: Installation):
    await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS, grant_versions="follow")
    await begin(installation)
    await store(installation)
    await store(installation, "STRICT")
    assert (await grant(installation)).follows
    assert not (await grant(installation, "STRICT", follows=False)).follows
    new = await begin(installation, PipelineDefinition(name="hello", stages=PIPELINE.stages))
    assert await new.code() == "delivered"
    assert await new.code("STRICT") == "secret_not_confirmed"


async def test_the_widest_grant_that_fits_counts(installation: Installation):
    held = await begin(installation)
    await store(installation)
    await grant(installation, stages=["tidy"])
    await grant(installation, inputs={"ref": ["nothing"]})
    assert await held.code() == "secret_not_granted"
    made = await grant(installation)
    assert await held.code() == "delivered"
    client = await installation.client()
    await client.delete(f"/v1/grants/{made.id}", Grant)
    assert await held.code() == "secret_not_granted"
    with pytest.raises(OrchestratorRefused) as refused:
        await client.delete(f"/v1/grants/{made.id}", Grant)
    assert (refused.value.status, refused.value.code) == (404, "grant_unknown")
    assert len((await client.get("/v1/grants", GrantList, query={"secret": "TOKEN"})).grants) == 2
    assert (await client.get("/v1/grants", GrantList, query={"pipeline": "other"})).grants == []


async def test_a_stale_attempt_and_anothers_attempt_get_nothing(installation: Installation):
    stale = await begin(installation)
    await store(installation)
    await grant(installation)
    await installation.let_leases_run_out()
    [assignment] = await stale.runner.claim()
    fresh = Held(stale.runner, Attempt(assignment))
    assert await fresh.code() == "delivered"
    stranger = Held(await installation.runner("stranger"), fresh.attempt)
    assert [await stale.code(), await stranger.code()] == [GONE, GONE]
    await fresh.runner.send(fresh.attempt, fresh.attempt.state("running"), fresh.attempt.state("succeeded"))
    assert await fresh.code() == GONE
    for path in (f"/v1/runner/jobs/{uuid4()}/1/secrets", fresh.path.replace("/2/", "/3/")):
        fresh.path = path
        assert await fresh.code() == GONE
    fresh.path = "/v1/runner/jobs/none/1/secrets"
    assert await fresh.code() == "job_unknown"
    assert len(await audit(installation, "deliver secret")) == 1


async def test_one_attempt_asks_only_so_often(installation: Installation):
    held = await begin(installation)
    await store(installation)
    await grant(installation)
    await installation.fetch("UPDATE moonyard.attempts SET secret_requests = $1", DELIVERIES_MAXIMUM - 2)
    codes = [await held.code(), await held.code("OTHER"), await held.code(), await held.code("OTHER")]
    assert codes == ["delivered", "secret_not_granted", "secret_asked_too_often", "secret_asked_too_often"]


async def test_a_row_in_anothers_place_is_refused_and_written_down(installation: Installation):
    held = await begin(installation)
    for name in ("TOKEN", "OTHER"):
        await store(installation, name, value=name.encode())
    await grant(installation)
    columns = "nonce, ciphertext, key_id, wrapped_nonce, wrapped_key"
    swap = f"""
    UPDATE moonyard.secret_versions AS version SET ({columns}) = (
        SELECT {columns} FROM moonyard.secret_versions AS other WHERE other.secret_id <> version.secret_id
    )
    """  # noqa: S608
    await installation.fetch(swap)
    assert await held.code() == "secret_damaged"
    await installation.fetch(swap)
    assert await held.code() == "delivered"
    await installation.fetch("UPDATE moonyard.secret_versions SET readable = NOT readable")
    assert await held.code() == "secret_damaged"
    await installation.fetch("UPDATE moonyard.secret_versions SET readable = NOT readable")
    await installation.fetch("UPDATE moonyard.secret_versions SET number = 7")
    assert await held.code() == "secret_damaged"
    assert len(await audit(installation, "refuse secret")) == 3


async def test_a_dump_holds_no_value_in_any_form(installation: Installation):
    held = await begin(installation)
    await store(installation)
    await grant(installation)
    assert await held.code() == "delivered"
    dump = (await anyio.run_process([program("pg_dump"), installation.url])).stdout
    assert b"TOKEN" in dump
    secret_half = FIRST.removeprefix("moonyard_key_")[:64]
    forms = {
        VALUE,
        VALUE.hex().encode(),
        VALUE[::-1],
        secret_half.encode(),
        base64.b64encode(bytes.fromhex(secret_half)),
    }
    # In all three alignments, without the ends that depend on what is around.
    forms |= {base64.b64encode(bytes(shift) + VALUE)[4:-4] for shift in range(3)}
    assert [form for form in forms if form in dump] == []


async def test_without_a_master_key_all_but_values_works(installation: Installation):
    await installation.replica(lease_seconds=LEASE_SECONDS)
    held = await begin(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await store(installation)
    assert (refused.value.status, refused.value.code) == (409, "secrets_unavailable")
    assert "moonyard secret key generate" in (refused.value.hint or "")
    client = await installation.client()
    assert (await client.get("/v1/secrets", SecretList)).secrets == []
    assert await held.code() == "secret_not_granted"
    assert await audit(installation, "set secret") == []
    await held.runner.send(held.attempt, held.attempt.state("running"), held.attempt.state("succeeded"))


async def test_replicas_with_other_keys_say_so_and_rotation_mends_it(installation: Installation):
    both = master_keys.parse(f"{SECOND}\n{FIRST}", "a test")
    old = await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS)
    new = await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=both)
    held = await begin(installation)
    for number in range(250):
        await store(installation, f"TOKEN{number}")
    await grant(installation, "TOKEN0")
    await grant(installation, "TOKEN1")
    by_new = await installation.client(held.runner.registered.token, new.address)
    ask = SecretAsk(name="TOKEN0", stage="greet", use="environment")
    # Deliveries go on while all comes under the new key.
    stop = anyio.Event()
    delivered: list[bytes] = []
    client = await installation.client(address=new.address)

    async def go_on() -> None:
        while not stop.is_set():
            delivered.append((await by_new.post(held.path, SecretDelivery, ask)).value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go_on)
        done = await client.post("/v1/secret-keys/rewrap", SecretsRewrapped)
        assert (done.key, done.rewrapped, done.left) == (both.current.id, 250, 0)
        stop.set()
    assert set(delivered) == {VALUE}
    assert (await client.post("/v1/secret-keys/rewrap", SecretsRewrapped)).rewrapped == 0
    assert {secret.key for secret in (await client.get("/v1/secrets", SecretList)).secrets} == {both.current.id}
    # The one that was left behind says what it lacks, and does not call it damage.
    assert old.address == installation.replicas[0].address
    assert await held.code("TOKEN1") == "secret_key_unknown"
    behind = await installation.client(address=old.address)
    done = await behind.post("/v1/secret-keys/rewrap", SecretsRewrapped)
    assert (done.rewrapped, done.left) == (0, 250)
    # The old key can go.
    alone = await installation.replica(secret_keys=master_keys.parse(SECOND, "a test"))
    by_alone = await installation.client(held.runner.registered.token, alone.address)
    assert (await by_alone.post(held.path, SecretDelivery, ask)).value == VALUE


async def test_removing_a_secret_removes_versions_and_grants(installation: Installation):
    held = await begin(installation)
    await store(installation)
    await store(installation)
    await grant(installation)
    assert await held.code() == "delivered"
    client = await installation.client()
    removed = await client.delete("/v1/secrets/TOKEN", SecretRemoved)
    assert (removed.versions, removed.grants) == (2, 1)
    assert await held.code() == "secret_not_granted"
    tables = ("secrets", "secret_versions", "grants", "grant_confirmations")
    assert [await installation.fetch(f"SELECT FROM moonyard.{table}") for table in tables] == 4 * [[]]
    # One that is set anew is another: nobody was granted it.
    await store(installation)
    assert await held.code() == "secret_not_granted"
    for path in ("/v1/secrets/NONE", "/v1/secrets/hello/TOKEN"):
        with pytest.raises(OrchestratorRefused) as refused:
            await client.delete(path, SecretRemoved)
        assert (refused.value.status, refused.value.code) == (404, "secret_unknown")
        with pytest.raises(OrchestratorRefused) as refused:
            await client.get(path, Secret)
        assert (refused.value.status, refused.value.code) == (404, "secret_unknown")


@pytest.mark.parametrize(
    ("secret", "value", "code"),
    [
        ("1TOKEN", VALUE, "secret_name_invalid"),
        ("TO-KEN", VALUE, "secret_name_invalid"),
        ("", VALUE, "secret_name_invalid"),
        ("a/b/TOKEN", VALUE, "secret_name_invalid"),
        ("/TOKEN", VALUE, "secret_name_invalid"),
        ("TOKEN\n", VALUE, "secret_name_invalid"),
        ("T\0", VALUE, "secret_name_invalid"),
        (101 * "T", VALUE, "secret_name_invalid"),
        ("TOKEN", b"", "secret_value_invalid"),
        ("TOKEN", b"hush\0hush", "secret_value_invalid"),
        ("TOKEN", 65537 * b"x", "secret_too_large"),
    ],
)
async def test_what_cannot_be_a_secret_is_refused_whole(
    installation: Installation, secret: str, value: bytes, code: str
):
    await installation.replica(secret_keys=KEYS)
    with pytest.raises(OrchestratorRefused) as refused:
        await store(installation, secret, value)
    assert refused.value.code == code
    assert "hush" not in str(refused.value.info)
    assert await installation.fetch("SELECT FROM moonyard.secrets") == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "NONE"}, "secret_unknown"),
        ({"name": "not a name"}, "secret_name_invalid"),
        ({"pipeline": "nothing"}, "pipeline_unknown"),
        ({"pipeline": ""}, "grant_invalid"),
        ({"pipeline": "a b"}, "grant_invalid"),
        ({"pipeline": 101 * "a"}, "grant_invalid"),
        ({"pipeline": "a\0*"}, "grant_invalid"),
        ({"stages": [""]}, "grant_invalid"),
        ({"stages": 101 * ["a"]}, "grant_invalid"),
        ({"inputs": {"ref": []}}, "grant_invalid"),
        ({"inputs": {"ref": ["a\0"]}}, "grant_invalid"),
        ({"inputs": {"ref": 1001 * ["a"]}}, "grant_invalid"),
        ({"inputs": {"reff": ["main"]}}, "grant_invalid"),
        ({"stages": ["greet", "depoly"]}, "grant_invalid"),
        ({"runners": ["x"]}, "runner_unknown"),
    ],
    ids=str,
)
async def test_what_cannot_be_a_grant_is_refused_whole(installation: Installation, fields: dict[str, Any], code: str):
    await installation.replica(secret_keys=KEYS)
    await installation.push(PIPELINE)
    await store(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await grant(installation, **fields)
    assert refused.value.code == code
    assert await installation.fetch("SELECT FROM moonyard.grants") == []


async def test_two_who_set_a_secret_at_once_make_two_versions(installation: Installation):
    await installation.replica(secret_keys=KEYS)
    versions: list[int] = []

    async def go(number: int) -> None:
        versions.append((await store(installation, value=b"value %d" % number)).version)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(go, number)
    assert sorted(versions) == list(range(1, 9))


async def test_in_psql_grants_are_made_and_ended_by_the_same_rules(installation: Installation):
    held = await begin(installation)
    await store(installation)
    url = installation.url
    made = psql(url, """SELECT control.grant('TOKEN', 'hello', '{greet}', '{"ref": ["main"]}')""", "-qAt").strip()
    assert await held.code() == "delivered"
    assert await held.code(stage="tidy") == "secret_not_granted"
    shown = psql(url, 'SELECT "grant", secret, pipeline, narrowed_to, versions FROM inspect.grants', "-At").strip()
    assert shown == f"{made}|TOKEN|hello|stage greet, ref=main|confirmed"
    assert psql(url, "SELECT secret, version, kind, grants FROM inspect.secrets", "-At").strip() == "TOKEN|1|readable|1"
    new = await begin(installation, PipelineDefinition(name="hello", inputs=PIPELINE.inputs, stages=PIPELINE.stages))
    assert psql(url, "SELECT versions FROM inspect.grants", "-At").strip() == "to confirm"
    assert await new.code() == "secret_not_confirmed"
    assert psql(url, "SELECT control.confirm_grants('hello')", "-qAt").strip() == "{TOKEN}"
    assert await new.code() == "delivered"
    psql(url, f"SELECT control.revoke('{made}')", role="moonyard_operator")
    assert await held.code() == "secret_not_granted"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        psql(url, f"SELECT control.revoke('{made}')", "-v", "VERBOSITY=verbose")
    assert "grant_unknown" in refused.value.stderr
    assert psql(url, "SELECT control.remove_secret('TOKEN')", "-qAt").strip() == "1"
    assert await audit(installation, "grant", "confirm grants", "revoke", "remove secret") == [
        ("postgres", "grant", "secret TOKEN"),
        ("postgres", "confirm grants", "pipeline hello"),
        ("postgres", "revoke", "secret TOKEN"),
        ("postgres", "remove secret", "secret TOKEN"),
    ]


async def test_readers_and_operators_see_no_ciphertext_and_grant_nothing(installation: Installation):
    await installation.replica(secret_keys=KEYS)
    await installation.push(PIPELINE)
    await store(installation)
    await grant(installation)
    for role in ("moonyard_reader", "moonyard_operator"):
        for view in ("secrets", "grants", "secret_deliveries"):
            psql(installation.url, f"TABLE inspect.{view}", role=role)
        for statement in (
            "TABLE moonyard.secret_versions",
            "SELECT ciphertext FROM moonyard.secret_versions",
            "TABLE moonyard.grants",
            "SELECT control.grant('TOKEN', 'hello')",
            "SELECT control.confirm_grants('hello')",
            "SELECT control.remove_secret('TOKEN')",
            "SELECT moonyard.grant_add('TOKEN', 'hello', NULL, NULL, NULL, true, 'me')",
        ):
            with pytest.raises(subprocess.CalledProcessError) as refused:
                psql(installation.url, statement, role=role)
            assert "permission denied" in refused.value.stderr
    columns = psql(
        installation.url,
        "SELECT string_agg(DISTINCT column_name, ' ') FROM information_schema.columns WHERE table_schema = 'inspect'",
        "-At",
    ).split()
    assert {"ciphertext", "nonce", "wrapped_key", "wrapped_nonce"}.isdisjoint(columns)


async def test_the_views_fit_a_terminal(installation: Installation):
    long = PipelineDefinition(name=100 * "p", stages=[StageDefinition(name=200 * "s")])
    held = await begin(installation, long)
    reference = f"{100 * 'p'}/{100 * 'T'}"
    await store(installation, reference)
    await grant(installation, reference, 100 * "p", stages=[200 * "s"], runners=["runner"])
    await grant(installation, reference, 100 * "p")
    assert await held.code(100 * "T", 200 * "s") == "delivered"
    await installation.fetch("UPDATE moonyard.runners SET name = repeat('r', 200)")
    await installation.fetch("UPDATE moonyard.secret_versions SET created_by = repeat('b', 200)")
    for view in ("secrets", "grants", "secret_deliveries"):
        assert max(map(len, psql(installation.url, f"TABLE inspect.{view}").splitlines())) <= 120, view


async def test_many_who_ask_at_once_share_few_connections(installation: Installation):
    held = [await begin(installation) for _ in range(12)]
    await store(installation)
    await grant(installation)
    fresh = await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS)  # it has read no version yet
    for one in held:
        one.runner.client = await installation.client(one.runner.registered.token, fresh.address)
    codes: list[str] = []

    async def ask(one: Held) -> None:
        codes.append(await one.code())

    async with anyio.create_task_group() as tasks:
        for one in held:
            tasks.start_soon(ask, one)
    assert codes == 12 * ["delivered"]
