"""The plugin ``docker`` with a real buildah and a real registry that asks for a password."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest

from tests.cli.command import Printed, moonyard
from tests.cli.conftest import Runner
from tests.engine.registry import listening

HOST = "host.containers.internal"
USER = "ci"
PASSWORD = "Rq5-registry-password-88"
CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}
http: {{addr: "0.0.0.0:{port}"}}
auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}
"""
LUA = """
local function try(f, ...)
  local ok, problem = pcall(f, ...)
  return ok and "ok" or problem.code .. ": " .. problem.message
end
local place = "{place}"
return {{ name = "p", plugins = {{ "docker@1" }}, stages = {{ {{ name = "s", script = function(job)
local password = secret.get("REGISTRY_PASSWORD")
local logins = {{ {{ registry = place, user = "{user}", password = password }} }}
{body}
end }} }} }}
"""


class Registry(msgspec.Struct, frozen=True):
    port: int

    async def ask(self, path: str, accept: str = "*/*") -> tuple[bytes, str]:
        """Give what it answers, and the digest in the headers."""
        headers = {"Accept": accept, "Authorization": aiohttp.encode_basic_auth(USER, PASSWORD)}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"http://127.0.0.1:{self.port}/v2/{path}") as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.read(), answer.headers.get("Docker-Content-Digest", "")

    async def image(self, name: str) -> tuple[str, dict[str, Any], set[str]]:
        """Give an image's digest, its configuration, and the files of its layers."""
        manifest, digest = await self.ask(
            f"{name.replace(':', '/manifests/')}", "application/vnd.oci.image.manifest.v1+json"
        )
        told = json.loads(manifest)
        repository = name.partition(":")[0]
        config = json.loads((await self.ask(f"{repository}/blobs/{told['config']['digest']}"))[0])
        files: set[str] = set()
        for layer in told["layers"]:
            packed = gzip.decompress((await self.ask(f"{repository}/blobs/{layer['digest']}"))[0])
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
                files |= set(tar.getnames())
        return digest, config, files


@pytest.fixture
async def registry(tmp_path: Path, unused_port: int) -> AsyncGenerator[Registry]:
    hashing = ["perl", "-e", "print crypt($ARGV[0], q($2y$05$abcdefghijklmnopqrstuu))", PASSWORD]
    hashed = (await anyio.run_process(hashing)).stdout.decode()
    (tmp_path / "htpasswd").write_text(f"{USER}:{hashed}\n", encoding="utf-8")
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(folder=tmp_path, port=unused_port), encoding="utf-8")
    server = await anyio.open_process(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=None)
    try:
        await listening(unused_port)
        yield Registry(unused_port)
    finally:
        server.terminate()
        await server.wait()


async def told(run: Runner, registry: Registry, body: str) -> Printed:
    source = LUA.format(place=f"{HOST}:{registry.port}", user=USER, body=body)
    options = [*run.arguments(source), "--secret", "REGISTRY_PASSWORD", "-v"]
    printed = await moonyard(*options, cwd=run.folder, REGISTRY_PASSWORD=PASSWORD)
    assert printed.code == 0, printed.stdout[-4000:] + printed.stderr
    assert PASSWORD not in printed.stdout + printed.stderr
    return printed


def publish(registry: Registry, source: str) -> None:
    """Put a base image there."""
    command = ["podman", "push", "--quiet", "--tls-verify=false", f"--creds={USER}:{PASSWORD}", source]
    subprocess.run([*command, f"docker://127.0.0.1:{registry.port}/base:1"], check=True, capture_output=True)


async def test_an_image_is_built_on_a_private_base_run_in_and_pushed(
    run: Runner, registry: Registry, image_map: dict[str, str]
) -> None:
    publish(registry, image_map["docker.io/library/alpine:latest"])
    printed = await told(
        run,
        registry,
        r"""
fs.mkdir("app")
fs.write("app/hello", "hello\n")
fs.write("app/Containerfile", "FROM " .. place .. [[/base:1 AS base
ARG LEVEL=none
COPY hello /srv/hello
RUN mkdir /made && echo "$LEVEL" > "/made/$LEVEL" && test "$(cat /srv/hello)" = hello
CMD ["cat", "/srv/hello"]
FROM base AS later
RUN false
]])
local made = docker.build({
  context = "app", target = "base", args = { LEVEL = "high" }, labels = { team = "a=b", build = 7 },
  archive = "app.tar",
  push = { place .. "/app:1.4.2", place .. "/app:latest" }, logins = logins, tls_verify = false,
})
log.info(made.digest, #made.id)
log.info(docker.push("app.tar", { push = { place .. "/again:1" }, logins = logins, tls_verify = false }).digest)
""",
    )
    said = [text for text in printed.texts(source="lua", level="info") if not text.startswith("docker.")]
    digest, config, files = await registry.image("app:1.4.2")
    assert said == [f"{digest} 64", digest]
    assert (await registry.image("app:latest"))[0] == (await registry.image("again:1"))[0] == digest
    assert {name: config["config"]["Labels"][name] for name in ("team", "build")} == {"team": "a=b", "build": "7"}
    assert config["config"]["Cmd"] == ["cat", "/srv/hello"]
    assert {"srv/hello", "made/high", "bin/busybox"} <= files
    assert not any("/app" in name or "registries.json" in name for name in files)


async def test_what_a_build_or_a_registry_refuses_is_told_and_nothing_is_pushed(
    run: Runner, registry: Registry, image_map: dict[str, str]
) -> None:
    printed = await told(
        run,
        registry,
        r"""
fs.write("Containerfile", "FROM scratch\nCOPY hello /hello\n")
fs.write("hello", "hello")
fs.write("broken", "FROM scratch\nCOPY nothing /\n")
local push = { place .. "/app:1" }
local stranger = { { registry = place, user = "me", password = password } }
log.info(try(docker.build, { push = push, logins = stranger, tls_verify = false }))
log.info(try(docker.build, { push = push, tls_verify = false }))
log.info(try(docker.build, { push = push, logins = logins }))
log.info(try(docker.build, { file = "broken", archive = "a.tar" }))
log.info(try(docker.build, { archive = "../a.tar" }))
log.info(try(docker.build, {}))
log.info(try(docker.build, { push = { "app:1" } }))
log.info(try(docker.push, "hello", { push = push }))
log.info(try(docker.build, { push = push, logins = { { registry = place, user = "ci", password = "plain" } } }))
""",
    )
    said = printed.texts(source="lua", level="info")
    for line, words in zip(
        said,
        (
            "docker_login_refused: docker.build: ",
            "docker_push_refused: docker.build: ",
            "docker_login_refused: docker.build: ",
            "docker_build_failed: docker.build: ",
            "argument_invalid: docker.build: `archive` must be a path below the workspace",
            "argument_invalid: docker.build: say what becomes of the image",
            "argument_invalid: docker.build: `app:1` does not say which registry",
            "docker_archive_invalid: docker.push: ",
            "argument_invalid: docker.build: `logins[1].password` must be a secret, got a string",
        ),
        strict=True,
    ):
        assert line.startswith(words), line
    assert json.loads((await registry.ask("_catalog"))[0]) == {"repositories": []}


async def test_layers_are_taken_from_a_repository_that_keeps_them(
    run: Runner, registry: Registry, image_map: dict[str, str]
) -> None:
    publish(registry, image_map["docker.io/library/alpine:latest"])
    printed = await told(
        run,
        registry,
        r"""
fs.mkdir("app")
fs.write("app/hello", "one")
fs.write("app/Containerfile", "FROM " .. place .. [[/base:1
RUN cat /proc/sys/kernel/random/uuid > /first
COPY hello /hello
RUN cat /proc/sys/kernel/random/uuid > /second
]])
local function build(more)
  local given = { context = "app", archive = "app.tar", logins = logins, tls_verify = false }
  for name, value in pairs(more) do given[name] = value end
  return docker.build(given).id
end
local cache = place .. "/app-cache"
local first = build({ cache = cache })
local again = build({ cache = cache, cache_write = false, push = { place .. "/app:1" } })
fs.write("app/hello", "two")
build({ cache = cache, cache_write = false, push = { place .. "/app:2" } })
build({ cache = cache, cache_write = false, push = { place .. "/app:3" } })
build({ push = { place .. "/app:4" } })
log.info(first == again and "the same" or first .. " and " .. again)
log.info(try(docker.build, { archive = "a", cache = cache .. ":tag" }))
log.info(try(docker.build, { archive = "a", cache = "app-cache" }))
""",
    )
    one, two, three, four = [(await registry.image(f"app:{number}"))[1]["rootfs"]["diff_ids"] for number in range(1, 5)]
    base, first, _, _ = one  # and all of it was made by the first build
    # The steps below what changed are those of the first build; what was not to be written is built each time.
    assert two[:2] == three[:2] == [base, first]
    assert len({one[3], two[3], three[3]}) == 3
    assert first not in four
    assert "the same" in printed.texts(source="lua", level="info")
    tagged, bare = [text for text in printed.texts(source="lua", level="info") if "argument_invalid" in text]
    assert "`cache` names a repository, and" in tagged
    assert "`app-cache` does not say which registry" in bare
