"""Pulls from a real registry on this machine, and pulls that fail."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from aiohttp import web

from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import (
    CredentialsUnusable,
    EngineError,
    ImageAccessDenied,
    ImageDigestMismatch,
    ImageNotFound,
    ImagePlatformMismatch,
    ImagePullFailed,
    ImageRefused,
)
from runner.engine.settings import EngineSettings
from tests.engine.conftest import ALPINE, ImageMaker, Said, run
from tests.engine.registry import NEW_IMAGE_BYTES, Proxy, Registry, serve_proxy, serve_registry


@pytest.fixture
async def registry(
    tmp_path: Path, unused_port: int, image_map: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Registry]:
    trust(tmp_path, f"127.0.0.1:{unused_port}", monkeypatch)
    async with serve_registry(tmp_path, unused_port, image_map[ALPINE]) as serving:
        yield serving


@pytest.fixture
async def proxy(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Proxy]:
    async with serve_proxy(registry) as serving:
        trust(tmp_path, serving.address, monkeypatch)
        yield serving


def trust(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have private engines that start from now on speak to a registry without TLS."""
    trusting = folder / "registries.conf"
    with trusting.open("a") as file:
        file.write(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    # A private engine takes this over.
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(trusting))


@pytest.fixture
async def fresh_engine(registry: Registry, engine_settings: EngineSettings) -> AsyncGenerator[Engine]:
    """An engine that knows the registry."""
    async with opened(engine_settings) as engine:
        yield engine


@asynccontextmanager
async def opened(settings: EngineSettings, **changes: object) -> AsyncGenerator[Engine]:
    """Open an engine with settings of the test's own, which tries again at once."""
    async with Engine.open(msgspec.structs.replace(settings, pull_pauses=(0.0, 0.0), **changes), "pulling") as engine:
        try:
            yield engine
        finally:
            await engine.remove_containers("pulling")


def refusing(
    status: int, text: str, *, times: int = 1000, only: str = "/manifests/", **headers: str
) -> Callable[[web.Request], Awaitable[web.Response | None]]:
    """Answer so often with an error, and leave the rest to the registry."""
    left = [times]

    async def answer(request: web.Request) -> web.Response | None:
        if only not in request.path or not left[0]:
            return None
        left[0] -= 1
        return web.Response(status=status, text=text, headers=headers, content_type="application/json")

    return answer


async def test_a_missing_image_is_pulled_and_that_is_told(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = registry.publish("team/app:1")
    said = Said()
    container = await fresh_engine.create_container(msgspec.structs.replace(spec, image=image), said)
    assert (await run(container, "echo", "runs")).stdout == b"runs\n"
    assert said.lines[0] == f"pulling image `{image}` from {registry.address}"
    assert said.lines[-1].startswith(f"pulled image `{image}` in ")
    again = Said()
    await fresh_engine.create_container(msgspec.structs.replace(spec, image=image), again)
    assert again.lines == []


async def test_an_image_that_many_ask_for_is_pulled_once(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    alone, together = registry.publish("alone:1"), registry.publish("together:1")
    await fresh_engine.create_container(msgspec.structs.replace(spec, image=alone), Said())
    said = [Said() for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        for listener in said:
            tasks.start_soon(fresh_engine.create_container, msgspec.structs.replace(spec, image=together), listener)
    assert registry.questions(together) == registry.questions(alone) > 0
    assert all(listener.lines[-1].startswith("pulled image") for listener in said)


async def test_one_who_stops_waiting_does_not_stop_the_pull_for_others(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = registry.publish("shared:1")
    wanted = msgspec.structs.replace(spec, image=image)
    other = Said()
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as impatient:

            async def give_up(_text: str) -> None:
                tasks.start_soon(fresh_engine.create_container, wanted, other)
                impatient.cancel()

            await fresh_engine.create_container(wanted, give_up)
    assert other.lines[-1].startswith("pulled image")


async def test_an_image_that_its_registry_does_not_have_is_named(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = f"{registry.address}/no/such:1"
    with pytest.raises(ImageNotFound, match=f"image `{image}` does not exist in {registry.address}: ") as raised:
        await fresh_engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    assert raised.value.hint == "Check the name and the tag."


async def test_a_registry_that_is_not_there_is_named_with_the_reason(
    engine_settings: EngineSettings, spec: ContainerSpec, unused_port: int
) -> None:
    image = f"127.0.0.1:{unused_port}/app:1"
    # Podman itself has tried it several times then.
    async with Engine.open(msgspec.structs.replace(engine_settings, pull_pauses=()), "pulling") as engine:
        with pytest.raises(
            ImagePullFailed, match=f"image `{image}` could not be pulled from 127.0.0.1:{unused_port}: .*refused"
        ):
            await engine.create_container(msgspec.structs.replace(spec, image=image), Said())


async def test_a_mapped_image_that_is_missing_is_told_by_both_names(
    engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    settings = msgspec.structs.replace(engine_settings, image_map={"rust": "localhost/no/rust"})
    async with Engine.open(settings, "mapped") as engine:
        with pytest.raises(
            ImageNotFound, match=r"image `rust` \(mapped to `localhost/no/rust:latest`\) does not exist"
        ):
            await engine.create_container(msgspec.structs.replace(spec, image="rust"), Said())


async def test_a_container_knows_the_digest_of_its_image(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = registry.publish_new("known:1")  # to remove one by its digest takes all of its names away
    container = await fresh_engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    assert container.digest == registry.digest(image)
    by_digest = f"{image.rpartition(':')[0]}@{container.digest}"
    registry.pulled.append(by_digest)
    again = await fresh_engine.create_container(msgspec.structs.replace(spec, image=by_digest), Said())
    assert again.digest == container.digest


async def test_with_the_policy_always_each_container_has_the_newest_image(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = registry.publish("changing:1")
    wanted = msgspec.structs.replace(spec, image=image, pull="always")
    first = await fresh_engine.create_container(wanted, Said())
    registry.publish_new("changing:1")
    assert (await fresh_engine.create_container(msgspec.structs.replace(wanted, pull=None), Said())).digest == (
        first.digest
    )
    said = Said()
    newer = await fresh_engine.create_container(wanted, said)
    assert newer.digest == registry.digest(image) != first.digest
    assert said.lines[-1].startswith("pulled image")


async def test_with_the_policy_always_an_image_of_no_registry_is_used_as_it_is(
    fresh_engine: Engine, spec: ContainerSpec
) -> None:
    container = await fresh_engine.create_container(msgspec.structs.replace(spec, pull="always"), Said())
    assert (await run(container, "echo", "runs")).stdout == b"runs\n"


@pytest.mark.parametrize(("owner", "asked"), [("missing", "never"), ("never", None), ("never", "always")])
async def test_with_the_policy_never_nothing_is_pulled_whatever_a_pipeline_asks_for(
    owner: str, asked: str | None, registry: Registry, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    image = registry.publish("absent:1")
    async with opened(engine_settings, pull_policy=owner) as engine:
        with pytest.raises(ImageNotFound, match=r"by its pull policy \(`never`\) it is not to be pulled"):
            await engine.create_container(msgspec.structs.replace(spec, image=image, pull=asked), Said())
    assert registry.questions(image) == 0


async def test_what_a_registry_fails_at_for_a_moment_is_tried_again(
    registry: Registry, proxy: Proxy, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    image = proxy.named(registry.publish("shaky:1"))
    proxy.answer = refusing(500, "no JSON", times=2)
    said = Said()
    async with opened(engine_settings) as engine:
        await engine.create_container(msgspec.structs.replace(spec, image=image), said)
    tried = [line for line in said.lines if "trying again" in line]
    assert len(tried) == 2
    assert tried[0].startswith(f"pulling `{image}` failed (")
    assert "500" in tried[0]
    assert said.lines[-1].startswith("pulled image")


async def test_a_registry_that_asks_for_patience_gets_it(
    registry: Registry, proxy: Proxy, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    image = proxy.named(registry.publish("busy:1"))
    limit = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]})
    proxy.answer = refusing(429, limit, times=1, **{"Retry-After": "1"})
    async with opened(engine_settings) as engine:
        container = await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    assert container.digest == registry.digest(image)


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (401, "UNAUTHORIZED", ImageAccessDenied, "is not given to this runner by {registry}: .*unauthorized: no"),
        (403, "DENIED", ImageAccessDenied, "is not given to this runner by {registry}: .*denied: no"),
        (404, "MANIFEST_UNKNOWN", ImageNotFound, "does not exist in {registry}: .*manifest unknown: no"),
        (503, "", ImagePullFailed, "could not be pulled from {registry}: .*503"),
    ],
)
async def test_each_refusal_of_a_registry_has_an_error_of_its_own(
    status: int,
    code: str,
    error: type[EngineError],
    words: str,
    registry: Registry,
    proxy: Proxy,
    engine_settings: EngineSettings,
    spec: ContainerSpec,
) -> None:
    image = proxy.named(registry.publish("refused/denied:404"))
    text = json.dumps({"errors": [{"code": code, "message": "no"}]}) if code else "no JSON"
    proxy.answer = refusing(status, text)
    async with opened(engine_settings) as engine:
        with pytest.raises(error, match=f"image `{image}` " + words.format(registry=proxy.address)) as raised:
            await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
        assert raised.value.hint
        # It was an error of that one alone.
        proxy.answer = refusing(500, "", times=0)
        await engine.create_container(msgspec.structs.replace(spec, image=image), Said())


async def test_what_is_not_what_its_digest_says_is_refused(
    registry: Registry, proxy: Proxy, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    image = proxy.named(registry.publish_new("lying:1"))
    by_digest = f"{image.rpartition(':')[0]}@{registry.digest(registry.pulled[0])}"

    async def changed_blobs(request: web.Request) -> web.Response | None:
        return await proxy.forward(request, lambda body: body[:-1] + b"!") if "/blobs/" in request.path else None

    async def changed_manifests(request: web.Request) -> web.Response | None:
        return await proxy.forward(request, lambda body: body + b" ") if "/manifests/" in request.path else None

    async with opened(engine_settings) as engine:
        for name, answer in ((image, changed_blobs), (by_digest, changed_manifests)):
            proxy.answer = answer
            with pytest.raises(ImageDigestMismatch, match=f"`{name}` as {proxy.address} gave it is not what"):
                await engine.create_container(msgspec.structs.replace(spec, image=name), Said())


async def test_a_registry_that_hangs_is_waited_for_no_longer_than_the_silence_that_is_allowed(
    registry: Registry, proxy: Proxy, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    image = proxy.named(registry.publish("hanging:1"))
    asked = anyio.Event()

    async def hang(_request: web.Request) -> web.Response:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    proxy.answer = hang
    async with opened(engine_settings, pull_silence=0.5) as engine:
        with pytest.raises(ImagePullFailed, match=r"nothing was heard of the pull for 0\.5 s"):
            await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    assert asked.is_set()


async def test_an_image_that_is_not_published_for_this_machine_is_told_as_such(
    registry: Registry, proxy: Proxy, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    image = proxy.named(registry.publish("elsewhere:1"))
    kind = "application/vnd.oci.image.index.v1+json"
    other = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": registry.digest(registry.pulled[0]),
        "size": 500,
        "platform": {"architecture": "s390x", "os": "linux"},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [other]})

    async def only_other(request: web.Request) -> web.Response | None:
        return web.Response(text=index, content_type=kind) if "/manifests/" in request.path else None

    proxy.answer = only_other
    async with opened(engine_settings) as engine:
        with pytest.raises(ImagePlatformMismatch, match=f"`{image}` has no variant in {proxy.address}"):
            await engine.create_container(msgspec.structs.replace(spec, image=image), Said())


async def test_an_image_for_other_processors_whose_programs_do_not_run_is_told_as_such(
    engine: Engine, spec: ContainerSpec, make_image: ImageMaker, static_program: Path, tmp_path: Path
) -> None:
    image = make_image({"bin/sh": foreign_program(static_program, tmp_path)}, architecture="s390x")
    with pytest.raises(ImagePlatformMismatch, match=f"image `{image}` is for s390x processors, and this machine's are"):
        await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    assert await engine.remove_containers(engine._owner) == 0


def foreign_program(program: Path, folder: Path) -> Path:
    """Write a program that says of itself that it is for other processors than any that this runs on."""
    changed = bytearray(program.read_bytes())
    struct.pack_into("<H", changed, 18, 22)  # e_machine: IBM S/390
    path = folder / "foreign"
    path.write_bytes(changed)
    return path


@pytest.mark.parametrize("scope", ["", "/private"])
async def test_a_private_image_is_pulled_with_the_credentials_of_the_auth_file(
    scope: str, registry: Registry, proxy: Proxy, engine_settings: EngineSettings, spec: ContainerSpec, tmp_path: Path
) -> None:
    image = proxy.named(registry.publish("private/app:1"))
    login = base64.b64encode(b"user:pass:word").decode()

    async def ask(request: web.Request) -> web.Response | None:
        is_known = request.headers.get("Authorization") == f"Basic {login}"
        return None if is_known else web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    proxy.answer = ask
    auth_file = tmp_path / "auth.json"
    others = {proxy.address: {"auth": base64.b64encode(b"other:one").decode()}} if scope else {}
    auth_file.write_text(json.dumps({"auths": others | {f"{proxy.address}{scope}": {"auth": login}}}))
    async with opened(engine_settings) as engine:
        with pytest.raises(ImageAccessDenied) as raised:
            await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
        assert f"podman login {proxy.address}" in str(raised.value.hint)
    async with opened(engine_settings, auth_file=auth_file) as engine:
        container = await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
        assert (await run(container, "echo", "runs")).stdout == b"runs\n"


@pytest.mark.parametrize(
    "text", [None, "no JSON", '{"auths": {"HERE": {"auth": "?"}}}', '{"auths": {"HERE": {"auth": "YQ=="}}}']
)
async def test_an_auth_file_that_cannot_be_read_is_named(
    text: str | None, registry: Registry, engine_settings: EngineSettings, spec: ContainerSpec, tmp_path: Path
) -> None:
    auth_file = tmp_path / "auth.json"
    if text is not None:
        auth_file.write_text(text.replace("HERE", registry.address))
    async with opened(engine_settings, auth_file=auth_file) as engine:
        with pytest.raises(CredentialsUnusable, match=f"the registries' credentials in {auth_file} cannot be read: "):
            await engine.create_container(msgspec.structs.replace(spec, image=registry.publish("any:1")), Said())


async def test_an_image_that_the_owner_does_not_allow_is_refused_before_anything_is_asked(
    registry: Registry, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    image = registry.publish("forbidden/app:1")
    async with opened(engine_settings, images_denied=[f"{registry.address}/forbidden/*"]) as engine:
        with pytest.raises(ImageRefused, match=r"it fits `.*/forbidden/\*` in its `images_denied`"):
            await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
        await engine.create_container(spec, Said())
    assert registry.questions(image) == 0


async def test_the_owners_default_image_needs_no_permission(
    engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    async with opened(engine_settings, images_allowed=["quay.io/*"], default_image=ALPINE) as engine:
        await engine.create_container(spec, Said())


async def test_images_beyond_the_budget_go_the_one_used_least_lately_first_and_none_that_is_in_use(
    registry: Registry, engine_settings: EngineSettings, spec: ContainerSpec, tmp_path: Path
) -> None:
    used, older, newest = (registry.publish_new(f"{name}:1") for name in ("used", "older", "newest"))
    state = tmp_path / "state"
    async with opened(engine_settings, state_folder=state, image_budget=2 * NEW_IMAGE_BYTES + 500_000) as engine:
        holder = await engine.create_container(msgspec.structs.replace(spec, image=used), Said())
        for image in (older, newest):
            container = await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
            await container.remove()
        await engine._images.budget.trim()
        there = {image for image in (used, older, newest) if await engine._images.id_of(image)}
        assert there == {used, newest}
        await holder.remove()


async def test_an_image_that_was_not_pulled_here_is_never_removed(
    engine_settings: EngineSettings, spec: ContainerSpec, image_map: dict[str, str], tmp_path: Path
) -> None:
    async with opened(engine_settings, state_folder=tmp_path / "state", image_budget=1) as engine:
        await (await engine.create_container(spec, Said())).remove()
        await engine._images.budget.trim()
        assert await engine._images.id_of(image_map[ALPINE]) is not None
