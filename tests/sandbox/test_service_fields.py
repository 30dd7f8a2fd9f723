"""What a pipeline file says about services: read whole, and refused with its line."""

from __future__ import annotations

import pytest

from sandbox.parent import WarmParent
from schema.definition import PipelineDefinition, PipelineInvalid, Readiness, Rights, ServiceDefinition


async def load(services: str, of_stage: str = "nil") -> PipelineDefinition:
    source = (
        f'return {{\nname = "p",\nservices = {{\n{services}\n}},\n'
        f'stages = {{ {{ name = "s", services = {of_stage}, script = function() end }} }} }}'
    )
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        return await sandbox.load("p.lua", source, {})


async def test_all_fields_of_services_are_read():
    definition = await load(
        """db = { image = "postgres:16", env = { USER = "me", PORT = 5432 }, command = { "postgres", "-c", 7 },
          ready = { port = 5432, timeout = "2m" } }, plain = { image = "redis" }""",
        '{ ["web-1"] = { image = "nginx", ready = { command = { "curl", "localhost" } } } }',
    )
    assert definition.services == {
        "db": ServiceDefinition(
            image="postgres:16",
            env={"USER": "me", "PORT": "5432"},
            command=["postgres", "-c", "7"],
            ready=Readiness(port=5432, timeout=120.0),
        ),
        "plain": ServiceDefinition(image="redis"),
    }
    ready = Readiness(command=["curl", "localhost"], timeout=60.0)
    assert definition.stages[0].services == {"web-1": ServiceDefinition(image="nginx", ready=ready)}


async def test_a_service_asks_for_more_as_a_stage_does():
    definition = await load(
        'db = { image = "x", mounts = { "/data" }, capabilities = { "IPC_LOCK" } }, plain = { image = "x" }',
        '{ dind = { image = "docker", privileged = true, devices = { "/dev/fuse" } } }',
    )
    assert definition.services["db"].rights == Rights(mounts=["/data"], capabilities=["IPC_LOCK"])
    assert definition.services["plain"].rights is None
    assert definition.stages[0].services["dind"].rights == Rights(privileged=True, devices=["/dev/fuse"])


@pytest.mark.parametrize(
    ("services", "said"),
    [
        ("db = 5", "service `db` of the pipeline must be a table, got a number"),
        ('"postgres"', "`services` of the pipeline must be a table of services by name, got a list"),
        ("db = {}", "service `db` has no `image`"),
        ("db = { image = 5 }", "`image` of service `db` must be an image's name, got a number"),
        ('db = { image = "a b" }', "`image` of service `db` is no image's name"),
        ('Db = { image = "x" }', "`Db` cannot be a service's name"),
        ('localhost = { image = "x" }', "`localhost` cannot be a service's name"),
        ('["a.b"] = { image = "x" }', "`a.b` cannot be a service's name"),
        ('db = { image = "x", comand = { "y" } }', "`comand` is no field of a service; did you mean `command`?"),
        ('db = { image = "x", command = "y" }', "`command` of service `db` must be a list of the program"),
        ('db = { image = "x", command = {} }', "`command` of service `db` must be a list of the program"),
        ('db = { image = "x", command = { "y", true } }', "`command` of service `db` must be a list of the program"),
        ('db = { image = "x", env = { "y" } }', "`env` of service `db` must be a table of texts by name, got a list"),
        ('db = { image = "x", env = { Y = true } }', "`Y` in `env` of service `db` must be a string or a number"),
        ('db = { image = "x", env = { ["A=B"] = 1 } }', "`A=B` cannot be a variable's name in `env` of service `db`"),
        ('db = { image = "x", ready = 5432 }', "`ready` of service `db` must be a table, got a number"),
        ('db = { image = "x", ready = {} }', "`ready` of service `db` must name a `port` or a `command`"),
        ('db = { image = "x", ready = { port = 1, command = { "y" } } }', "and has both"),
        ('db = { image = "x", ready = { port = 65536 } }', "must be a whole number from 1 to 65535, got `65536`"),
        ('db = { image = "x", ready = { port = "http" } }', "must be a whole number from 1 to 65535, got `http`"),
        ('db = { image = "x", ready = { port = 1, timeout = 0 } }', "`timeout` is no duration"),
        ('db = { image = "x", ready = { prt = 1 } }', "did you mean `port`?"),
        ('db = { image = "x", privileged = 1 }', "`privileged` of service `db` must be true or false, got `1`"),
        ('db = { image = "x", mounts = { "/etc:/etc" } }', "`mounts` of service `db` is a list of places"),
    ],
)
async def test_what_is_wrong_is_told_with_its_line(services: str, said: str):
    with pytest.raises(PipelineInvalid) as refused:
        await load(services)
    assert any(said in problem.message for problem in refused.value.problems), refused.value.problems
    assert refused.value.problems[0].where in {"p.lua:4", "p.lua:3"}


async def test_problems_of_all_services_are_told_at_once():
    with pytest.raises(PipelineInvalid) as refused:
        await load("a = {},\nb = { image = 1 },", "{ c = 7 }")
    assert [problem.where for problem in refused.value.problems] == ["p.lua:4", "p.lua:5", "p.lua:7"]


async def test_there_are_not_too_many_services():
    with pytest.raises(PipelineInvalid, match="the pipeline has at most 20 services, got 21"):
        await load(",".join(f's{number} = {{ image = "x" }}' for number in range(21)))
