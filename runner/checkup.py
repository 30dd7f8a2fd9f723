"""What a runner needs of its machine, and what is weaker on this one than it could be.

``look`` asks what costs nothing, and is what a runner tells of when it starts. ``examine`` also makes containers and
looks out of them, which is what ``moonyard doctor`` shows. Neither raises: what cannot be found out is a finding too.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

import aiohttp
import anyio
import anyio.to_thread
import msgspec

from runner import default_acl
from runner import owner as owners
from runner.engine import limits
from runner.engine.allowances import Allowance
from runner.engine.container import CAPABILITIES, Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import EngineError, NotIsolated, reason
from runner.engine.exec import Command
from runner.engine.facts import EngineFacts
from runner.engine.settings import EngineSettings
from sandbox.parent import WarmParent
from schema.errors import MoonyardError, single_error
from schema.sizes import size_text

State = Literal["ok", "weak", "fail"]

WARM_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 10.0
ROOM_BYTES: Final = 256 * 1024**2
"""With less, hardly a job can be run."""
ROOM_BYTES_COMFORTABLE: Final = 5 * 1024**3
CLOCK_SECONDS: Final = 5.0
_CAPABILITY_NUMBERS: Final = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "NET_BIND_SERVICE": 10, "SYS_CHROOT": 18, "SETFCAP": 31,
}  # fmt: skip
"""linux/capability.h"""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    check: str
    state: State
    text: str
    hint: str | None = None


def failed(check: str, error: MoonyardError) -> Finding:
    return Finding(check=check, state="fail", text=error.message, hint=error.hint)


async def look(engine: Engine, parent: WarmParent) -> list[Finding]:
    """Look at what can be seen without making a container."""
    folder = engine.settings.state_folder
    found = [await _sandbox(parent), await anyio.to_thread.run_sync(_workspaces, folder)]
    found += await _allowances(engine.settings.allow)
    try:
        facts = await engine.facts()
        found += [
            _engine(facts),
            _users(facts),
            _limits(facts),
            *_rooms(facts, folder),
            _warm_setting(engine, facts),
        ]
        found.append(await _default_image(engine))
    except MoonyardError as error:
        found.append(failed("engine", error))
    return found


async def examine(settings: EngineSettings, orchestrators: Sequence[str]) -> list[Finding]:
    """Look at everything.

    :param orchestrators: those that the runner is registered with.
    """
    found: list[Finding] = []
    try:
        with single_error(), owners.take(settings.state_folder) as owner:
            async with WarmParent.start() as parent:
                try:
                    async with Engine.open(settings, owner.name) as engine:
                        looked, tried = await look(engine, parent), await _containers(engine, owner)
                        found += [one for one in looked if one.check not in {other.check for other in tried}] + tried
                except EngineError as error:
                    found += [failed("engine", error), await _sandbox(parent)]
    except MoonyardError as error:
        found.append(failed("state folder", error))
    for address in orchestrators:
        found += await _orchestrator(address)
    return found


async def _sandbox(parent: WarmParent) -> Finding:
    try:
        async with parent.fork():
            layers = parent.layers
    except MoonyardError as error:
        return failed("sandbox", error)
    assert layers is not None, "a process that is there has said which walls it has"
    if not layers.missing:
        return Finding(check="sandbox", state="ok", text=f"Lua is held in by {_list(layers.raised)}")
    missing = "; ".join(f"{layer} ({why})" for layer, why in layers.missing.items())
    return Finding(
        check="sandbox",
        state="weak",
        text=f"Lua is held in by {_list(layers.raised)}; missing is {missing}",
        hint="A runner that is root on a kernel since 5.13, with libseccomp installed, has all of them.",
    )


def _engine(facts: EngineFacts) -> Finding:
    how = "rootless" if facts.is_rootless else "as root"
    return Finding(check="engine", state="ok", text=f"{facts.version} ({how}): {facts.name}")


def _users(facts: EngineFacts) -> Finding:
    if facts.is_rootless:
        return Finding(check="users", state="ok", text="root in a container is an ordinary user of this machine")
    return Finding(
        check="users",
        state="weak",
        text=f"root in a container is this machine's, less all but {len(CAPABILITIES)} capabilities",
        hint="A rootless Podman, run by a user of its own, keeps even a container that breaks out from being root.",
    )


def _limits(facts: EngineFacts) -> Finding:
    missing = [name for name, there in (("memory", facts.limits_memory), ("processes", facts.limits_pids)) if not there]
    text = f"cgroup version {facts.cgroup_version}"
    if not missing:
        return Finding(check="limits", state="ok", text=f"{text}; memory and processes of a container can be limited")
    return Finding(
        check="limits",
        state="weak",
        text=f"{text}; there is no limit to a container's {_list(missing)}",
        hint="Without root it takes cgroup version 2, and systemd that hands over the controllers: "
        "`Delegate=memory pids cpu` for user@.service.",
    )


async def _allowances(allowed: Sequence[Allowance]) -> list[Finding]:
    """Say for each rule of the owner's what it gives away, and what of it is not there."""
    found: list[Finding] = []
    for rule in allowed:
        things = [*(mount.source for mount in rule.written_mounts), *rule.devices]
        missing = [thing for thing in things if not await anyio.Path(thing).exists()]
        found.append(
            Finding(
                check="allowed",
                state="weak",
                text=f"{rule.whom} may have {rule.what}"
                + (f"; there is no {_list([f'`{thing}`' for thing in missing])}" if missing else ""),
                hint="Whoever may push such a pipeline, or such an image, has that on this machine.",
            )
        )
    return found


def _rooms(facts: EngineFacts, state_folder: Path) -> list[Finding]:
    folders = {"disk": state_folder}
    if facts.is_local and facts.storage and Path(facts.storage).is_dir():
        folders["disk of images"] = Path(facts.storage)
    return [_room(check, folder) for check, folder in folders.items()]


def _room(check: str, folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(check=check, state="fail", text=f"{folder} cannot be looked at ({error.strerror})")
    state: State = "fail" if free < ROOM_BYTES else "weak" if free < ROOM_BYTES_COMFORTABLE else "ok"
    return Finding(
        check=check,
        state=state,
        text=f"{size_text(free)} are free in {folder}",
        hint=None if state == "ok" else "Workspaces and images need room; the setting `image_budget` bounds images.",
    )


def _workspaces(state_folder: Path) -> Finding:
    try:
        with tempfile.TemporaryDirectory(dir=state_folder, prefix="checkup-") as folder:
            default_acl.set_on(Path(folder))
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
            return Finding(
                check="workspace",
                state="weak",
                text=f"the file system of {state_folder} has no access lists: what one container's user makes in the "
                "workspace, another's may be unable to change",
                hint="Put the state folder on ext4, XFS or Btrfs.",
            )
        return Finding(check="workspace", state="fail", text=f"{state_folder} cannot be written to ({error.strerror})")
    return Finding(check="workspace", state="ok", text="all users of all containers can change what is in it")


def _warm_setting(engine: Engine, facts: EngineFacts) -> Finding:
    check = "warm containers"
    if engine.keeps_warm:
        return Finding(check=check, state="ok", text=f"up to {engine.settings.warm_containers} are made ahead of need")
    if not engine.settings.warm_containers:
        return Finding(check=check, state="ok", text="none are asked for (`warm_containers` is 0)")
    if engine.settings.pull_policy == "always":
        why = "images are pulled for each container (`pull_policy`)"
    else:
        why = "the runner is not root" if facts.is_local else "the engine is on another machine"
    return Finding(check=check, state="weak", text=f"none can be made ahead: {why}; each takes its time when needed")


async def _default_image(engine: Engine) -> Finding:
    image, policy = engine.settings.default_image, engine.settings.pull_policy
    if await engine.has_image(image):
        return Finding(check="image", state="ok", text=f"the default image `{image}` is there")
    return Finding(
        check="image",
        state="fail" if policy == "never" else "weak",
        text=f"the default image `{image}` is not there"
        + (" and is not to be pulled" if policy == "never" else ": the first job waits for its pull"),
        hint=f"`podman pull {image}` brings it; the setting `default_image` names another.",
    )


class _Said:
    """Keeps what a command says."""

    def __init__(self) -> None:
        self.text = ""

    async def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stdout":
            self.text += data.decode(errors="replace")


async def _containers(engine: Engine, owner: owners.Owner) -> list[Finding]:
    if not await engine.has_image(engine.settings.default_image):
        return []  # that is told; a checkup pulls nothing
    async with owners.workspace(owner, "checkup", 1) as workspace:
        spec = ContainerSpec(
            image=engine.settings.default_image, job="checkup", attempt=1, workspace=workspace, network="none"
        )
        # The one that is ready has the shape that is asked for by default, until others are asked for.
        warm = [await _warm(engine, spec)] if engine.keeps_warm else []
        return [await _isolation(engine, spec), await _network(engine, spec), *warm]


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
        return failed(check, error)
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
        return Finding(check=check, state="weak", text=f"of a container: {_list(faults)}")
    assert limit is not None, "it holds"
    return Finding(
        check=check,
        state="ok",
        text="a container has few capabilities and no way to more, its system calls are filtered, and its memory ends "
        f"at {size_text(limit)}",
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
            hint="A runner that is root where its containers run sees to that itself.",
        )
    except MoonyardError as error:
        return failed("network", error)


async def _warm(engine: Engine, spec: ContainerSpec) -> Finding:
    check = "warm containers"
    with anyio.move_on_after(WARM_SECONDS):
        await engine.until_warm()
    started = anyio.current_time()
    try:
        async with _container(engine, msgspec.structs.replace(spec, network="bridge")):
            took = anyio.current_time() - started
    except MoonyardError as error:
        return failed(check, error)
    if engine.keeps_warm:
        return Finding(check=check, state="ok", text=f"one was handed out in {took * 1000:.0f} ms")
    return Finding(
        check=check,
        state="weak",
        text="a workspace cannot be mounted into a container that runs: each is made when it is needed",
        hint="It takes Linux 5.12, and the right to enter other mount namespaces.",
    )


async def _orchestrator(address: str) -> list[Finding]:
    check = f"orchestrator {address}"
    try:
        with anyio.fail_after(ANSWER_SECONDS):
            async with aiohttp.ClientSession() as session, session.get(f"{address.rstrip('/')}/v1/health") as response:
                status, date, now = response.status, response.headers.get("Date"), datetime.now(UTC)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        hint = "Does an orchestrator run there, and does the way to it lead through a firewall?"
        return [Finding(check=check, state="fail", text=f"it is not reached ({reason(error)})", hint=hint)]
    if status != HTTPStatus.OK:
        return [Finding(check=check, state="fail", text=f"it answers, with status {status}")]
    found = [Finding(check=check, state="ok", text="it answers")]
    if date is not None:
        apart = abs((parsedate_to_datetime(date) - now).total_seconds())
        found.append(
            Finding(check="clock", state="ok", text="it agrees with the orchestrator's")
            if apart <= CLOCK_SECONDS
            else Finding(
                check="clock",
                state="weak",
                text=f"it is {apart:.0f} s apart from that of {address}: times in the log will not fit",
                hint="Let both keep their time by NTP.",
            )
        )
    return found


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "nothing"
