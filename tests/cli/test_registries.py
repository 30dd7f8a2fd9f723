"""Images of a private registry, pulled with the credentials that a pipeline names, by the real command."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.cli.command import Printed, moonyard
from tests.cli.conftest import Runner
from tests.engine.registry import Registry
from tests.engine.test_images import proxy, registry
from tests.engine.test_private_images import PASSWORD, Guard, guard

__all__ = ["guard", "proxy", "registry"]

REGISTRIES = 'registries = { ["ADDRESS"] = { username = "robot", password_secret = "REGISTRY_TOKEN" } },'
ALL_KINDS = """
    return { name = "NAME", REGISTRIES
      services = { db = { image = "ADDRESS/team/service:1", command = { "sleep", "1000" } } },
      stages = {
        { name = "default", script = function() process.run({ command = "echo", args = { "default" } }) end },
        { name = "stage", container = "ADDRESS/team/stage:1",
          services = { other = { image = "ADDRESS/team/service:1", command = { "sleep", "1000" } } },
          script = function() process.run({ command = "echo", args = { "stage" } }) end },
        { name = "block", script = function()
          container.run("ADDRESS/team/block:1", function() process.run({ command = "echo", args = { "block" } }) end)
        end },
      } }
"""


class Tried:
    """Runs pipelines whose images are in a registry that asks who it is."""

    def __init__(self, run: Runner, registry: Registry, guard: Guard) -> None:
        self.guard = guard
        self.address = guard.proxy.address
        self._run = run
        self._registry = registry

    def publish(self, name: str) -> str:
        return self.guard.proxy.named(self._registry.publish(name))

    async def __call__(self, source: str, *options: str, password: str | None = PASSWORD, **more: str) -> Printed:
        """Run a pipeline; see that the password is in nothing that is printed."""
        source = source.replace("REGISTRIES", REGISTRIES).replace("ADDRESS", self.address)
        given = {} if password is None else {"REGISTRY_TOKEN": password}
        secret = [] if password is None else ["--secret", "REGISTRY_TOKEN"]
        printed = await moonyard(*self._run.arguments(source), *secret, *options, cwd=self._run.folder, **given, **more)
        for text in (printed.stdout, printed.stderr):
            assert PASSWORD not in text
            assert base64.b64encode(f"robot:{PASSWORD}".encode()).decode()[:24] not in text
        return printed

    async def one(self, image: str, *options: str, password: str | None = PASSWORD, named: bool = True) -> Printed:
        """Run a pipeline with one stage in an image."""
        registries = "REGISTRIES" if named else ""
        source = f"""return {{ name = "one", {registries} stages = {{
          {{ name = "s", container = "{image}", script = function()
            process.run({{ command = "echo", args = {{ "runs" }} }}) end }} }} }}"""
        return await self(source, *options, password=password)


@pytest.fixture
def tried(run: Runner, registry: Registry, guard: Guard) -> Tried:
    return Tried(run, registry, guard)


async def test_all_containers_of_a_job_are_made_of_images_that_its_credentials_give(tried: Tried) -> None:
    for kind in ("service", "default", "stage", "block"):
        tried.publish(f"team/{kind}:1")
    options = ("--default-image", f"{tried.address}/team/default:1")
    printed = await tried(ALL_KINDS.replace("NAME", "granted"), *options)
    assert printed.job["state"] == "succeeded", printed.stdout
    assert printed.texts(source="stdout") == ["default", "stage", "block"]
    pulled = [text for text in printed.texts(source="system") if text.startswith("pulling image")]
    assert sorted(pulled) == sorted(
        f"pulling image `{tried.address}/team/{kind}:1` from {tried.address} as `robot`"
        for kind in ("service", "default", "stage", "block")
    )
    refused = await tried(ALL_KINDS.replace("REGISTRIES", ""), *options, password=None)
    assert refused.code == 1
    assert "`ADDRESS/team/service:1` is not given to this runner by ADDRESS".replace("ADDRESS", tried.address) in (
        refused.errors[-1].message
    )
    echo = 'process.run({ command = "echo", args = { "runs" } })'
    for kind, stage in (
        ("default", f"script = function() {echo} end"),
        ("stage", f'container = "ADDRESS/team/stage:1", script = function() {echo} end'),
        ("block", f'script = function() container.run("ADDRESS/team/block:1", function() {echo} end) end'),
    ):
        source = f'return {{ name = "another", stages = {{ {{ name = "s", {stage} }} }} }}'
        refused = await tried(source, *options, password=None)
        assert refused.errors[-1].code == "image_access_denied", refused.stdout
        assert f"`{tried.address}/team/{kind}:1` is not given" in refused.errors[-1].message
        assert "`registries` in the pipeline" in str(refused.errors[-1].hint)


async def test_without_the_secret_nothing_is_asked_of_the_registry_and_it_is_named(tried: Tried) -> None:
    image = tried.publish("team/app:1")
    printed = await tried.one(image, password=None)
    assert printed.code == 1
    assert printed.errors[-1].code == "secret_not_granted"
    assert "`REGISTRY_TOKEN`" in printed.errors[-1].message
    assert tried.guard.proxy.asked == []


async def test_a_wrong_password_is_told_and_not_shown(tried: Tried) -> None:
    image = tried.publish("team/app:1")
    wrong = "wrong-horse-battery-7"
    printed = await tried.one(image, password=wrong)
    last = printed.errors[-1]
    assert last.code == "image_access_denied"
    assert f"image `{image}` is not given to `robot` by {tried.address}: " in last.message
    assert "Is the password right that secret `REGISTRY_TOKEN` holds" in str(last.hint)
    assert wrong not in printed.stdout + printed.stderr
    assert (await tried.one(image)).job["state"] == "succeeded"
    # Though it is here now.
    assert (await tried.one(image, password=wrong)).errors[-1].code == "image_access_denied"


@pytest.mark.parametrize(
    ("password", "why"),
    [
        (b"\xff\xfe\xfd", "it is empty, or no text"),
        (b"two\nlines", "it is more than one line, or has other unprintable characters"),
    ],
)
async def test_what_can_be_no_password_is_told(tried: Tried, tmp_path: Path, password: bytes, why: str) -> None:
    image = tried.publish("team/app:1")
    file = tmp_path / "token"
    file.write_bytes(password)
    file.chmod(0o600)
    printed = await tried.one(image, "--secret", f"REGISTRY_TOKEN=@{file}", password=None)
    assert printed.errors[-1].code == "credentials_unusable", printed.stdout + printed.stderr
    assert printed.errors[-1].message == (
        f"secret `REGISTRY_TOKEN` cannot be the password of `robot` at {tried.address}: {why}"
    )


async def test_a_password_from_a_file_may_end_in_a_line(tried: Tried, tmp_path: Path) -> None:
    image = tried.publish("team/app:1")
    file = tmp_path / "token"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    printed = await tried.one(image, "--secret", f"REGISTRY_TOKEN=@{file}", password=None)
    assert printed.job["state"] == "succeeded", printed.stdout


async def test_images_of_other_registries_and_those_that_are_here_need_no_secret(tried: Tried) -> None:
    printed = await tried.one("docker.io/library/alpine:latest", password=None)
    assert printed.job["state"] == "succeeded", printed.stdout


async def test_the_most_specific_login_counts(tried: Tried) -> None:
    image = tried.publish("team/app:1")
    registries = json.dumps(tried.address + "/team")
    source = f"""return {{ name = "parts", registries = {{
        ["{tried.address}"] = {{ username = "nobody", password_secret = "NOT_THERE" }},
        [{registries}] = {{ username = "robot", password_secret = "REGISTRY_TOKEN" }} }},
      stages = {{ {{ name = "s", container = "{image}", script = function()
        process.run({{ command = "true" }}) end }} }} }}"""
    printed = await tried(source)
    assert printed.job["state"] == "succeeded", printed.stdout


async def test_a_mapped_image_is_had_with_the_credentials_for_where_it_really_is(
    tried: Tried, run: Runner, image_map: dict[str, str]
) -> None:
    image = tried.publish("team/app:1")
    settings = run.folder / "moonyard.toml"
    mapped = {**image_map, "registry.example.org/team/app:1": image}
    settings.write_text("[image_map]\n" + "".join(f"{json.dumps(a)} = {json.dumps(b)}\n" for a, b in mapped.items()))
    # What is for the one is not sent to the other.
    source = """return { name = "mapped", registries = {
        ["registry.example.org"] = { username = "robot", password_secret = "REGISTRY_TOKEN" } },
      stages = { { name = "s", container = "registry.example.org/team/app:1", script = function()
        process.run({ command = "true" }) end } } }"""
    printed = await tried(source)
    assert printed.errors[-1].code == "image_access_denied"
    assert "is not given to this runner" in printed.errors[-1].message
    printed = await tried(source.replace('["registry.example.org"]', f'["{tried.address}"]'))
    assert printed.job["state"] == "succeeded", printed.stdout
