"""What a container is made of, and that it goes away."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import msgspec
import pytest

from runner import owner as owners
from runner.engine.container import CAPABILITIES, Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import ContainerGone, ContainerStartFailed
from runner.engine.exec import Command
from runner.engine.settings import EngineSettings
from tests.engine.conftest import Calling, ImageMaker, Said, run


def containers_of(label: str) -> list[str]:
    listing = ["podman", "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}"]
    return subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()


async def test_root_in_a_container_has_few_rights_and_gets_no_more(container: Container) -> None:
    status = (await run(container, "cat", "/proc/self/status")).stdout.decode()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(facts["CapEff"], 16).bit_count() == len(CAPABILITIES)
    assert facts["CapEff"] == facts["CapBnd"]
    assert facts["NoNewPrivs"] == "1"


async def test_its_labels_say_whose_it_is(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(
        msgspec.structs.replace(spec, job="j-17", attempt=3, kind="stage"), Said()
    )
    for label in ("moonyard.job=j-17", "moonyard.attempt=3", "moonyard.kind=stage"):
        assert container.id in containers_of(label)


async def test_limits_are_those_of_the_spec(engine: Engine, spec: ContainerSpec) -> None:
    limited = msgspec.structs.replace(spec, memory=64 * 1024 * 1024, cpus=0.5)
    container = await engine.create_container(limited, Said())
    limits = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}"
    facts = await anyio.run_process(["podman", "inspect", "--format", limits, container.id])
    assert facts.stdout.split() == [b"67108864", b"500000000", b"256"]


async def test_without_a_network_there_is_only_loopback(container: Container) -> None:
    listed = (await run(container, "ls", "/sys/class/net")).stdout.decode().split()
    assert listed == ["lo"]


async def test_by_default_a_container_reaches_servers_of_its_host(engine: Engine, spec: ContainerSpec) -> None:
    class Greeting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello from the host")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's own name
            """Say nothing."""

    server = ThreadingHTTPServer(("0.0.0.0", 0), Greeting)  # noqa: S104  # the bridge's address comes with the container
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        container = await engine.create_container(msgspec.structs.replace(spec, network="bridge"), Said())
        address = f"http://host.containers.internal:{server.server_address[1]}/"
        assert (await run(container, "wget", "-q", "-O", "-", address)).stdout == b"hello from the host"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_commands_of_a_container_with_an_entrypoint_are_its_arguments(
    engine: Engine, spec: ContainerSpec
) -> None:
    container = await engine.create_container(msgspec.structs.replace(spec, entrypoint=["env", "-i", "A=b"]), Said())
    assert (await run(container, "/usr/bin/env")).stdout == b"A=b\n"


async def test_commands_start_in_the_containers_workdir(engine: Engine, spec: ContainerSpec, workspace: Path) -> None:
    (workspace / "app" / "web").mkdir(parents=True)
    container = await engine.create_container(msgspec.structs.replace(spec, workdir="app"), Said())
    assert (await run(container, "pwd")).stdout == b"/workspace/app\n"
    assert (await run(container, "pwd", cwd="web")).stdout == b"/workspace/app/web\n"


async def test_an_image_without_a_shell_runs_its_programs(
    engine: Engine, spec: ContainerSpec, make_image: ImageMaker, static_program: Path
) -> None:
    image = make_image({"only": static_program})
    container = await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    ran = await run(container, "/only", "-V")
    assert ran.result.code == 0
    assert ran.stdout
    await container.remove()


async def test_an_images_entrypoint_is_not_run_and_its_user_is_kept(
    engine: Engine, spec: ContainerSpec, make_image: ImageMaker, workspace: Path
) -> None:
    busybox = Path("/bin/busybox")
    image = make_image({"bin/busybox": busybox}, 'ENTRYPOINT ["/no/such"]', "USER 1234")
    container = await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    script = "/bin/busybox id -u; /bin/busybox touch made"
    assert (await run(container, "/bin/busybox", "sh", "-c", script)).stdout == b"1234\n"
    assert (workspace / "made").stat().st_uid == 1234
    await container.remove()


async def test_the_stand_in_for_git_runs_git_although_that_is_its_entrypoint(
    engine: Engine, spec: ContainerSpec
) -> None:
    container = await engine.create_container(msgspec.structs.replace(spec, image="alpine/git"), Said())
    assert (await run(container, "git", "--version")).stdout.startswith(b"git version")


async def test_an_unknown_user_of_a_container_is_told(engine: Engine, spec: ContainerSpec) -> None:
    job = secrets.token_hex(8)
    with pytest.raises(ContainerStartFailed, match="knows no user `fred`"):
        await engine.create_container(msgspec.structs.replace(spec, job=job, user="fred"), Said())
    assert containers_of(f"moonyard.job={job}") == []


async def test_removal_ends_all_that_runs_and_may_be_repeated(container: Container, spec: ContainerSpec) -> None:
    await run(container, "sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
    await container.remove()
    await container.remove()
    assert container.id not in containers_of(f"moonyard.job={spec.job}")
    with anyio.fail_after(10):
        # The engine's monitor of it ends a moment after it is gone.
        while container.id.encode() in words_of_all_processes():
            await anyio.lowlevel.checkpoint()


async def test_a_container_that_somebody_stops_is_told_as_gone(container: Container) -> None:
    async def stop(_data: bytes) -> None:
        await anyio.run_process(["podman", "kill", container.id])

    with pytest.raises(ContainerGone, match=f"container {container.id[:12]} of image .* is gone"):
        await container.run(Command(argv=["sh", "-c", "echo go; sleep 1007"]), Calling(stop))


async def test_a_cancelled_creation_leaves_no_container(engine: Engine, spec: ContainerSpec) -> None:
    cancelled = msgspec.structs.replace(spec, job=secrets.token_hex(8))
    for seconds in (0.0, 0.01, 0.03, 0.06):
        with anyio.move_on_after(seconds):
            container = await engine.create_container(cancelled, Said())
            await container.remove()
    assert containers_of(f"moonyard.job={cancelled.job}") == []


CRASHING = """
import sys, anyio
from pathlib import Path
from runner import owner as owners
from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings

settings = EngineSettings(state_folder=Path(sys.argv[1]), default_image=sys.argv[2])

async def progress(text): ...

async def main():
    with owners.take(settings.state_folder) as owner:
        async with Engine.open(settings, owner.name) as engine, owners.workspace(owner, "crashed", 1) as workspace:
            spec = ContainerSpec(image=settings.default_image, job="crashed", attempt=1, workspace=workspace)
            await engine.create_container(spec, progress)
            print(owner.name, flush=True)
            await anyio.sleep_forever()

anyio.run(main)
"""


async def test_what_a_killed_process_left_is_cleared_by_the_next_start(
    engine_settings: EngineSettings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(engine_settings, state_folder=tmp_path)
    words = [sys.executable, "-c", CRASHING, str(tmp_path), settings.image_map[settings.default_image]]
    async with await anyio.open_process(words, stderr=None) as crashing:
        assert crashing.stdout is not None
        name = (await crashing.stdout.receive()).decode().strip()
        assert len(containers_of(f"moonyard.owner={name}")) == 1
        crashing.kill()
    with owners.take(settings.state_folder) as owner:
        async with Engine.open(settings, owner.name) as engine:
            assert await owners.clear_leftovers(settings.state_folder, owner, engine) == 1
    assert containers_of(f"moonyard.owner={name}") == []
    assert list((tmp_path / "owners").iterdir()) == []


def words_of_all_processes() -> set[bytes]:
    words: set[bytes] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            words.update(path.read_bytes().split(b"\0"))
    return words


async def test_what_an_image_says_about_its_health_and_its_volumes_leaves_nothing(
    engine: Engine, spec: ContainerSpec, image_map: dict[str, str], tmp_path: Path
) -> None:
    image = f"localhost/moonyard-test/{secrets.token_hex(6)}:latest"
    (tmp_path / "Containerfile").write_text(
        f"FROM {image_map[spec.image]}\nHEALTHCHECK --interval=1s CMD touch /healthy\nVOLUME /data\n"
    )
    await anyio.run_process(["podman", "build", "--quiet", "--format", "docker", "--tag", image, str(tmp_path)])
    try:
        container = await engine.create_container(msgspec.structs.replace(spec, image=image), Said())
        volumes = '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}'
        inspected = await anyio.run_process(["podman", "inspect", "--format", volumes, container.id])
        [volume] = inspected.stdout.decode().split()
        asked = await anyio.run_process(["podman", "healthcheck", "run", container.id], check=False)
        assert b"has no defined healthcheck" in asked.stderr
        await container.remove()
        listed = await anyio.run_process(["podman", "volume", "ls", "--quiet"])
        assert volume not in listed.stdout.decode().split()
    finally:
        await anyio.run_process(["podman", "rmi", "--force", image])
