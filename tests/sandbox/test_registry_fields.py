"""What a pipeline file says about registries: read whole, and refused with its line."""

from __future__ import annotations

import pytest

from sandbox.parent import WarmParent
from schema.definition import PipelineDefinition, PipelineInvalid, RegistryLogin


async def load(registries: str) -> PipelineDefinition:
    source = (
        f'return {{\nname = "p",\nregistries = {{\n{registries}\n}},\n'
        'stages = { { name = "s", script = function() end } } }'
    )
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        return await sandbox.load("p.lua", source, {})


async def test_registries_and_parts_of_them_are_read():
    definition = await load(
        """["registry.example.org"] = { username = "robot$ci", password_secret = "TOKEN" },
        ["docker.io/team"] = { username = "me@example.org", password_secret = "_HUB" },
        ["localhost:5000"] = { username = "a", password_secret = "B" },
        ["[fd00::1]:5000/a/b-c"] = { username = "a", password_secret = "B" }"""
    )
    assert definition.registries == {
        "registry.example.org": RegistryLogin(username="robot$ci", password_secret="TOKEN"),
        "docker.io/team": RegistryLogin(username="me@example.org", password_secret="_HUB"),
        "localhost:5000": RegistryLogin(username="a", password_secret="B"),
        "[fd00::1]:5000/a/b-c": RegistryLogin(username="a", password_secret="B"),
    }
    assert (await load("")).registries == {}


@pytest.mark.parametrize(
    ("registries", "said"),
    [
        ('"docker.io"', "`registries` must be a table of logins by registry, got a list"),
        ('["docker.io"] = "TOKEN"', "registry `docker.io` must be a table, got a string"),
        ('["docker.io"] = {}', "registry `docker.io` has no `username`"),
        ('["docker.io"] = { username = "a" }', "registry `docker.io` has no `password_secret`"),
        ('["docker.io"] = { username = 5, password_secret = "A" }', "`username` of registry `docker.io` must be a str"),
        (
            '["docker.io"] = { username = "", password_secret = "A" }',
            "`username` of registry `docker.io` must be up to",
        ),
        ('["docker.io"] = { username = "a:b", password_secret = "A" }', "printable characters without a colon"),
        ('["docker.io"] = { username = "a\\nb", password_secret = "A" }', "printable characters without a colon"),
        ('["docker.io"] = { username = "a", password_secret = "no name" }', "must be a secret's name"),
        ('["docker.io"] = { username = "a", password_secret = true }', "must be a string, got a boolean"),
        ('["docker.io"] = { username = "a", password = "x" }', "`password` is no field of a registry; did you mean"),
        (
            '["index.docker.io"] = { username = "a", password_secret = "A" }',
            "`index.docker.io` in `registries` is writt",
        ),
        ('alpine = { username = "a", password_secret = "A" }', "`alpine` in `registries` is no registry's name"),
        ('localhost = { username = "a", password_secret = "A" }', "`localhost` in `registries` is no registry's name"),
        ('["https://docker.io"] = { username = "a", password_secret = "A" }', "is no registry's name"),
        ('["Docker.io"] = { username = "a", password_secret = "A" }', "is no registry's name"),
        ('["docker.io/app:1"] = { username = "a", password_secret = "A" }', "is no registry's name"),
        ('["docker.io/"] = { username = "a", password_secret = "A" }', "is no registry's name"),
        ('["docker.io/../x"] = { username = "a", password_secret = "A" }', "is no registry's name"),
        ('["-a.b"] = { username = "a", password_secret = "A" }', "is no registry's name"),
        ('[5] = { username = "a", password_secret = "A" }', "`5` in `registries` is no registry's name"),
    ],
)
async def test_what_is_wrong_with_a_registry_is_told_with_its_line(registries: str, said: str):
    with pytest.raises(PipelineInvalid) as raised:
        await load(registries)
    problem = raised.value.problems[0]
    assert said in problem.message
    assert problem.where in {"p.lua:3", "p.lua:4"}


async def test_a_password_in_the_place_of_a_secrets_name_is_not_shown():
    with pytest.raises(PipelineInvalid) as raised:
        await load('["docker.io"] = { username = "a", password_secret = "hunter2 is it" }')
    assert "hunter2" not in str(raised.value)


async def test_a_pipeline_has_only_so_many_registries():
    login = '{ username = "a", password_secret = "A" }'
    many = ", ".join(f'["r{number}.example"] = {login}' for number in range(21))
    with pytest.raises(PipelineInvalid, match="a pipeline has at most 20 registries, got 21"):
        await load(many)
