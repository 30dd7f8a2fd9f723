"""What a container has of its machine, seen from inside: containers are made for it, and removed; nothing is pulled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Literal

import anyio
import anyio.lowlevel
import msgspec

from runner import owner as owners
from runner.engine import limits
from runner.engine.container import CAPABILITIES, Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import NotIsolated
from runner.engine.exec import NOT_FOUND, Command
from schema.errors import MoonyardError
from schema.findings import Finding, failed, listed
from schema.sizes import size_text

WARM_SECONDS: Final = 30.0
TRIED_MEMORY_BYTES: Final = 32 * 1024**2
TAKE_MEMORY: Final = [
    *("sh", "-c"),
    "echo 1000 >/proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=100000000 count=1",
]
"""Fill a buffer of 100 MB; of all that is in the container, the kernel is to end this."""
_CAPABILITY_NUMBERS: Final = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "NET_BIND_SERVICE": 10, "SYS_CHROOT": 18, "SETFCAP": 31,
}  # fmt: skip
"""linux/capability.h"""


class _Said:
    """Keeps what a command says."""

    def __init__(self) -> None:
        self.text = ""

    async def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stdout":
            self.text += data.decode(errors="replace")


async def examine(engine: Engine, owner: owners.Owner) -> list[Finding]:
    """Look out of containers of the default image, if that is there."""
    if not await engine.has_image(engine.settings.default_image):
        return []  # that is told; a checkup pulls nothing
    async with owners.workspace(owner, "checkup", 1) as workspace:
        spec = ContainerSpec(
            image=engine.settings.default_image, job="checkup", attempt=1, workspace=workspace, network="none"
        )
        # The one that is ready has the shape that is asked for by default, until others are asked for.
        warm = [await _warm(engine, spec)] if engine.keeps_warm else []
        held = [await _held_memory(engine, spec)] if (await engine.facts()).limits_memory else []
        return [await _isolation(engine, spec), *held, await _network(engine, spec), *warm]


@asynccontextmanager
async def _container(engine: Engine, spec: ContainerSpec) -> AsyncGenerator[Container]:
    async def progress(_text: str) -> None:
        await anyio.lowlevel.checkpoint()

    container = await engine.create_container(spec, progress)
    try:
        yield container
    finally:
        engine.discard(container)


async def _isolation(engine: Engine, spec: ContainerSpec) -> Finding:
    check = "isolation"
    try:
        async with _container(engine, spec) as container:
            said = _Said()
            await container.run(Command(argv=["cat", "/proc/self/status"]), said)
            limit = container.memory_limit
    except MoonyardError as error:
        return _no_container(check, error)
    status = {"CapBnd": "-1"} | dict(line.split(":\t", 1) for line in said.text.splitlines() if ":\t" in line)
    allowed = sum(1 << _CAPABILITY_NUMBERS[name] for name in CAPABILITIES)
    faults = [
        fault
        for fault, holds in (
            ("it has more capabilities than it should", int(status["CapBnd"], 16) & ~allowed == 0),
            ("its programs can gain rights (no_new_privs is not set)", status.get("NoNewPrivs", "").strip() == "1"),
            ("no system calls are filtered (seccomp)", status.get("Seccomp", "").strip() == "2"),
            ("its memory has no limit", limit is not None and limit <= (limits.machine_memory() or limit)),
        )
        if not holds
    ]
    if faults:
        return Finding(
            check=check,
            state="weak",
            text=f"of a container: {listed(faults)}",
            why="These are what keeps a command of a job in its container, and from taking the whole machine.",
            hint="Does a `containers.conf` here loosen it? Seccomp has to be in the kernel and in the engine.",
        )
    assert limit is not None, "it holds"
    return Finding(
        check=check,
        state="ok",
        text="a container has few capabilities and no way to more, its system calls are filtered, and its memory ends "
        f"at {size_text(limit)}",
    )


async def _held_memory(engine: Engine, spec: ContainerSpec) -> Finding:
    """See that a command that takes more memory than its container may is ended, and not only told that it would be."""
    check = "memory limit"
    try:
        async with _container(engine, msgspec.structs.replace(spec, memory=TRIED_MEMORY_BYTES)) as container:
            result = await container.run(Command(argv=TAKE_MEMORY, timeout=WARM_SECONDS), _Said())
    except MoonyardError as error:
        return _no_container(check, error)
    if result.oom:
        return Finding(check=check, state="ok", text="a command that took more than its container may was ended")
    taken = f"a command took more than {size_text(TRIED_MEMORY_BYTES)} in a container that was to have no more"
    untried = "it could not be tried: the default image has no `sh` and `dd`"
    return Finding(
        check=check,
        state="weak",
        text=untried if result.code == NOT_FOUND else taken,
        why="One job can take all memory of the machine, and the runner and all other jobs with it.",
        hint="The engine has to manage cgroups: `podman info` says which manager and version it uses.",
    )


async def _network(engine: Engine, spec: ContainerSpec) -> Finding:
    try:
        async with _container(engine, msgspec.structs.replace(spec, network="bridge")):
            return Finding(check="network", state="ok", text="containers get one, on which none reaches another")
    except NotIsolated:
        return Finding(
            check="network",
            state="weak",
            text="each job gets one of its own, made when it needs it, and the engine alone keeps them from each other",
            why="It takes longer, and there is one wall less.",
            hint="A runner that is root where its containers run sees to that itself.",
        )
    except MoonyardError as error:
        return _no_container("network", error)


async def _warm(engine: Engine, spec: ContainerSpec) -> Finding:
    check = "warm containers"
    with anyio.move_on_after(WARM_SECONDS):
        await engine.until_warm()
    started = anyio.current_time()
    try:
        async with _container(engine, msgspec.structs.replace(spec, network="bridge")):
            took = anyio.current_time() - started
    except MoonyardError as error:
        return _no_container(check, error)
    if engine.keeps_warm:
        return Finding(check=check, state="ok", text=f"one was handed out in {took * 1000:.0f} ms")
    return Finding(
        check=check,
        state="weak",
        text="a workspace cannot be mounted into a container that runs: each is made when it is needed",
        why="Each container takes its time, about a tenth of a second or more, when a job needs it.",
        hint="It takes Linux 5.12, and the right to enter other mount namespaces.",
    )


def _no_container(check: str, error: MoonyardError) -> Finding:
    return failed(
        check,
        error,
        why="A job's container is made in the same way.",
        hint="`podman run --rm IMAGE true` shows whether Podman makes containers here at all.",
    )
