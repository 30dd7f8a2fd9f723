"""Images that were pulled with a job's credentials: here for all jobs, and used only by those that may have them."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import msgspec
import pytest
from aiohttp import web

from runner.engine.container import Container, ContainerSpec
from runner.engine.credentials import Login
from runner.engine.engine import Engine
from runner.engine.errors import EngineError, ImageAccessDenied, ImageNotFound
from runner.engine.settings import EngineSettings
from tests.engine.conftest import Said, run
from tests.engine.registry import Proxy, Registry
from tests.engine.test_images import opened, proxy, registry

__all__ = ["proxy", "registry"]

PASSWORD = "kJ8s2Kd9-sLq4x=zQ7"
OTHERS = "another one's 7Hx2"
USERS = {"robot": PASSWORD, "friend": OTHERS}


class Given:
    """The credentials of some job, which counts how often they are asked for."""

    def __init__(self, username: str = "robot", password: str = PASSWORD) -> None:
        self.login = Login(username=username, password=password, secret="REGISTRY_TOKEN")
        self.asked: list[str] = []

    async def find(self, image: str) -> Login | None:
        self.asked.append(image)
        await anyio.lowlevel.checkpoint()
        return self.login


class Guard:
    """Lets a registry answer only those whom it knows."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.hears: Callable[[web.Request], object] = str
        self.is_open = False
        proxy.answer = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        self.hears(request)
        known = {"Basic " + base64.b64encode(f"{user}:{word}".encode()).decode() for user, word in USERS.items()}
        if self.is_open or request.headers.get("Authorization") in known:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="here"'})


@pytest.fixture
async def guard(proxy: Proxy) -> AsyncGenerator[Guard]:
    yield Guard(proxy)
    for volume in await marks(proxy.address):
        await anyio.run_process(["podman", "volume", "rm", volume])


async def marks(address: str) -> list[str]:
    """List the marks that runners left in the engine about repositories of a registry."""
    written = '{{.Name}} {{index .Labels "moonyard.private"}}'
    listing = ["podman", "volume", "ls", "--filter", "label=moonyard.private", "--format", written]
    lines = [line.split() for line in (await anyio.run_process(listing)).stdout.decode().splitlines()]
    return [name for name, repository in lines if repository.startswith(f"{address}/")]


@pytest.fixture
def image(registry: Registry, guard: Guard) -> str:
    """One that nobody here has."""
    return guard.proxy.named(registry.publish_new("team/private:1"))


@pytest.fixture
def settings(engine_settings: EngineSettings, guard: Guard, tmp_path: Path) -> EngineSettings:
    """Settings with a state folder of the test's own, and an engine that knows the registry."""
    del guard
    return msgspec.structs.replace(engine_settings, state_folder=tmp_path / "state")


@pytest.fixture
async def engine(settings: EngineSettings) -> AsyncGenerator[Engine]:
    async with opened(settings) as engine:
        yield engine


async def take(engine: Engine, spec: ContainerSpec, image: str, job: Given | None, **more: object) -> Container:
    """Have a container that runs, as a job would."""
    wanted = msgspec.structs.replace(spec, image=image, logins=job, **more)
    container = await engine.create_container(wanted, Said())
    assert (await run(container, "busybox", "echo", "runs")).stdout == b"runs\n"
    await container.remove()
    return container


async def refused(engine: Engine, spec: ContainerSpec, image: str, job: Given | None = None, **more: object) -> str:
    """See that a job does not get an image; give why."""
    wanted = msgspec.structs.replace(spec, image=image, logins=job, **more)
    with pytest.raises(ImageAccessDenied) as raised:
        await engine.create_container(wanted, Said())
    assert PASSWORD not in f"{raised.value.message} {raised.value.hint} {raised.value.__cause__!r}"
    return raised.value.message


def records(settings: EngineSettings) -> list[Path]:
    return [*(settings.state_folder / "private-images").glob("*.json")]


async def test_an_image_that_a_job_pulled_with_its_credentials_is_not_for_jobs_without_them(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    assert f"image `{image}` is not given to this runner by {guard.proxy.address}" in await refused(engine, spec, image)
    await take(engine, spec, image, Given())
    assert await engine.has_image(image)
    assert f"image `{image}` is not given to this runner by {guard.proxy.address}" in await refused(engine, spec, image)
    said = Said()
    service = msgspec.structs.replace(spec, image=image, kind="service", command=["true"])
    with pytest.raises(ImageAccessDenied):
        await engine.create_service(service, said)
    assert said.lines == [f"pulling image `{image}` from {guard.proxy.address}"]


async def test_those_with_the_same_credentials_use_it_without_asking_its_registry(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    first, second = Given(), Given()
    await take(engine, spec, image, first)
    asked = len(guard.proxy.asked)
    await take(engine, spec, image, second)
    assert len(guard.proxy.asked) == asked
    assert first.asked == second.asked == [image]


async def test_those_with_other_credentials_have_to_show_them_once(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    await take(engine, spec, image, Given())
    asked = len(guard.proxy.asked)
    await take(engine, spec, image, Given("friend", OTHERS))
    seen = len(guard.proxy.asked)
    assert seen > asked
    await take(engine, spec, image, Given("friend", OTHERS))
    assert len(guard.proxy.asked) == seen


@pytest.mark.parametrize("is_here", [False, True])
async def test_a_wrong_password_is_told_with_whom_it_is_for_and_where_it_is_kept(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str, *, is_here: bool
) -> None:
    if is_here:
        await take(engine, spec, image, Given())
    wrong = msgspec.structs.replace(spec, image=image, logins=Given(password="no password of its"))
    with pytest.raises(ImageAccessDenied) as raised:
        await engine.create_container(wrong, Said())
    assert f"image `{image}` is not given to `robot` by {guard.proxy.address}: " in raised.value.message
    assert "secret `REGISTRY_TOKEN`" in str(raised.value.hint)
    assert "no password of its" not in f"{raised.value} {raised.value.hint}"


async def test_a_runner_that_starts_anew_knows_whose_they_are(
    settings: EngineSettings, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    async with opened(settings) as engine:
        await take(engine, spec, image, Given())
    async with opened(settings) as engine:
        await refused(engine, spec, image)
        asked = len(guard.proxy.asked)
        await take(engine, spec, image, Given())
        assert len(guard.proxy.asked) == asked
    [record] = records(settings)
    assert record.stat().st_mode & 0o777 == 0o600
    for file in record.parent.iterdir():
        assert PASSWORD.encode() not in file.read_bytes()


async def test_a_runner_with_another_state_folder_on_the_same_engine_holds_to_it(
    settings: EngineSettings, registry: Registry, guard: Guard, spec: ContainerSpec, image: str, tmp_path: Path
) -> None:
    before = guard.proxy.named(registry.publish_new("team/private:0"))
    await anyio.run_process(["podman", "pull", "--quiet", "--tls-verify=false", f"--creds=robot:{PASSWORD}", before])
    elsewhere = msgspec.structs.replace(settings, state_folder=tmp_path / "elsewhere")
    async with opened(elsewhere) as other:
        await take(other, spec, before, None)
        async with opened(settings) as engine:
            await take(engine, spec, image, Given())
        await refused(other, spec, image)
        await take(other, spec, before, None)
        asked = len(guard.proxy.asked)
        await take(other, spec, image, Given())
        assert len(guard.proxy.asked) > asked, "whose it is there says a hash that is of no use here"
        await refused(other, spec, image)
    # One that lost all that it knew.
    async with opened(msgspec.structs.replace(settings, state_folder=tmp_path / "new")) as new:
        await refused(new, spec, image)
        await take(new, spec, before, None)
        guard.is_open = True
        await take(new, spec, image, None)


async def test_without_the_mark_in_the_engine_a_runner_knows_by_itself_and_makes_it_anew(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    await take(engine, spec, image, Given())
    [mark] = await marks(guard.proxy.address)
    await anyio.run_process(["podman", "volume", "rm", mark])
    await refused(engine, spec, image)
    await take(engine, spec, image, Given(), pull="always")
    assert await marks(guard.proxy.address) == [mark]


@pytest.mark.parametrize("spoilt", ["record", "key"])
async def test_where_the_note_of_it_is_spoilt_everybody_has_to_ask_the_registry(
    spoilt: str, settings: EngineSettings, engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    await take(engine, spec, image, Given())
    [record] = records(settings)
    (record if spoilt == "record" else record.parent / "key").write_bytes(b"no JSON")
    await refused(engine, spec, image)
    asked = len(guard.proxy.asked)
    await take(engine, spec, image, Given())
    assert len(guard.proxy.asked) > asked
    await refused(engine, spec, image)


async def test_what_a_pull_left_that_the_runner_did_not_live_to_see_is_nobodys(
    settings: EngineSettings, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    pulling = anyio.Event()

    async def hang(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" in request.path:
            pulling.set()
            await anyio.sleep_forever()
        return await guard.answer(request)

    guard.proxy.answer = hang
    async with opened(settings) as engine, anyio.create_task_group() as tasks:
        wanted = msgspec.structs.replace(spec, image=image, logins=Given())
        tasks.start_soon(engine.create_container, wanted, Said())
        await pulling.wait()
        tasks.cancel_scope.cancel()
    guard.proxy.answer = guard.answer
    # The engine had it in the end, just after its runner was gone.
    by_hand = ["podman", "pull", "--quiet", "--tls-verify=false", f"--creds=robot:{PASSWORD}", image]
    await anyio.run_process(by_hand)
    async with opened(settings) as engine:
        await refused(engine, spec, image)
        await take(engine, spec, image, Given())


async def test_by_its_digest_it_is_not_had_under_another_name(
    engine: Engine, registry: Registry, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    digest = (await take(engine, spec, image, Given())).digest
    address = guard.proxy.address
    await refused(engine, spec, f"{address}/team/private@{digest}")
    await refused(engine, spec, f"{address}/somebody/elses@{digest}")
    for name in (f"{registry.address}/no/such@{digest}", f"localhost/none@{digest}"):
        with pytest.raises(ImageNotFound, match="does not exist"):
            await engine.create_container(msgspec.structs.replace(spec, image=name), Said())
    for name in (f"{address}/somebody/elses@{digest}", f"localhost/none@{digest}"):
        with pytest.raises(EngineError, match=r"it is not to be pulled|does not exist on this machine"):
            await engine.create_container(msgspec.structs.replace(spec, image=name, pull="never"), Said())
    await take(engine, spec, f"{address}/team/private@{digest}", Given())


async def test_what_is_not_to_be_pulled_is_withheld_from_those_who_would_have_to_ask(
    engine: Engine, spec: ContainerSpec, image: str
) -> None:
    await take(engine, spec, image, Given())
    told = await refused(engine, spec, image, pull="never")
    assert f"image `{image}` is on this machine, but not for this job: it came with credentials" in told
    await take(engine, spec, image, Given(), pull="never")


async def test_an_image_that_was_here_before_stays_everybodys_and_nobody_is_asked_for_credentials(
    engine: Engine, registry: Registry, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    by_hand = ["podman", "pull", "--quiet", "--tls-verify=false", f"--creds=robot:{PASSWORD}", image]
    await anyio.run_process(by_hand)
    job = Given()
    await take(engine, spec, image, job)
    assert job.asked == []
    other = guard.proxy.named(registry.publish_new("team/private:2"))
    await take(engine, spec, other, job)
    assert job.asked == [other]
    await take(engine, spec, image, None)
    await refused(engine, spec, other)


async def test_what_the_registry_gives_to_anybody_is_anybodys_once_it_said_so(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    await take(engine, spec, image, Given())
    guard.is_open = True
    asked = len(guard.proxy.asked)
    await take(engine, spec, image, None)
    seen = len(guard.proxy.asked)
    assert seen > asked
    await take(engine, spec, image, None)
    await take(engine, spec, image, Given("stranger", "whatever it is"))
    assert len(guard.proxy.asked) == seen


async def test_who_has_no_credentials_gets_nothing_of_a_pull_that_is_under_way(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    pulling, go_on = anyio.Event(), anyio.Event()

    async def wait(request: web.Request) -> web.StreamResponse | None:
        answer = await guard.answer(request)
        if answer is None and "/blobs/" in request.path:
            pulling.set()
            await go_on.wait()
        return answer

    guard.proxy.answer = wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, engine, spec, image, Given())
        await pulling.wait()
        await refused(engine, spec, image)
        go_on.set()
    await refused(engine, spec, image)


async def test_its_containers_that_were_made_ahead_are_for_the_same_credentials_alone(
    settings: EngineSettings, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    (settings.state_folder / "owners" / "ahead").mkdir(parents=True)
    async with Engine.open(msgspec.structs.replace(settings, warm_containers=3), "ahead") as engine:
        ahead = engine._warm._ready
        await take(engine, spec, image, Given(), network="bridge")
        await take(engine, spec, image, Given(), network="bridge")
        with anyio.fail_after(60):
            while not any(shape.image == image for shape in ahead):
                await anyio.lowlevel.checkpoint()
        [shape] = [shape for shape in ahead if shape.image == image]
        assert shape.key
        ready = {container.id for container in ahead[shape]}
        await refused(engine, spec, image, network="bridge")
        assert {container.id for container in ahead[shape]} >= ready
        asked = len(guard.proxy.asked)
        assert (await take(engine, spec, image, Given(), network="bridge")).id in ready
        assert len(guard.proxy.asked) == asked


async def test_the_password_is_in_no_processs_arguments_or_environment_while_it_is_used(
    engine: Engine, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    seen: list[bytes] = []

    def look(_request: web.Request) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    seen.append((process / name).read_bytes())
                except OSError:
                    continue  # it has ended, or is a thread of the kernel

    guard.hears = look
    await take(engine, spec, image, Given())
    assert len(seen) > 10
    forms = [PASSWORD, base64.b64encode(f"robot:{PASSWORD}".encode()).decode()]
    assert not [text for text in seen for form in forms if form.encode() in text]
    assert PASSWORD not in repr(Given().login)


async def test_a_repository_of_which_nothing_is_here_any_more_is_forgotten_a_day_after(
    settings: EngineSettings, engine: Engine, guard: Guard, registry: Registry, spec: ContainerSpec, image: str
) -> None:
    old = guard.proxy.named(registry.publish_new("team/old:1"))
    for name in (image, old):
        await take(engine, spec, name, Given())
    assert len(records(settings)) == 2
    private = engine._images.private
    await private.prune()
    assert len(records(settings)) == 2
    await anyio.run_process(["podman", "rmi", old])
    await private.prune()
    assert len(records(settings)) == 2, "an image of it may be on its way"
    for record in records(settings):
        await anyio.run_process(["touch", "--date", "2 days ago", str(record)])
    await private.prune()
    assert not private.knows(old)
    assert private.knows(image)
    assert len(await marks(guard.proxy.address)) == 1
    await refused(engine, spec, image)


async def test_many_with_the_same_credentials_wait_for_one_pull(
    engine: Engine, registry: Registry, guard: Guard, spec: ContainerSpec, image: str
) -> None:
    alone = guard.proxy.named(registry.publish_new("team/alone:1"))
    await take(engine, spec, alone, Given())
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(take, engine, spec, image, Given())
    assert registry.questions(image) == registry.questions(alone) > 0
