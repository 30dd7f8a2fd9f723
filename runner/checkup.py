"""What a runner needs of its machine, and what is weaker on this one than it could be.

``look`` asks what costs nothing, and is what a runner tells of when it starts. ``examine`` also makes containers and
looks out of them (``runner.container_checks``), for ``moonyard doctor``. Neither raises: what cannot be found out is a
finding too.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from runner import container_checks, default_acl
from runner import owner as owners
from runner.engine import firewall
from runner.engine.allowances import Allowance
from runner.engine.container import CAPABILITIES
from runner.engine.engine import Engine
from runner.engine.errors import EngineError
from runner.engine.facts import EngineFacts
from runner.engine.settings import EngineSettings
from sandbox.parent import WarmParent
from schema.errors import MoonyardError, single_error
from schema.findings import Finding, State, failed, listed
from schema.sizes import size_text

ROOM_BYTES: Final = 256 * 1024**2
"""With less, hardly a job can be run."""
ROOM_BYTES_COMFORTABLE: Final = 5 * 1024**3
INODES: Final = 20_000
"""A checkout of one project may have as many files; with less, hardly a job can be run."""
INODES_COMFORTABLE: Final = 200_000


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
            await anyio.to_thread.run_sync(_firewall, facts),
            _warm_setting(engine, facts),
        ]
        found.append(await _default_image(engine))
    except MoonyardError as error:
        found.append(_no_engine(error))
    return found


async def examine(settings: EngineSettings) -> list[Finding]:
    """Look at everything."""
    try:
        with single_error(), owners.take(settings.state_folder) as owner:
            async with WarmParent.start() as parent:
                try:
                    async with Engine.open(settings, owner.name) as engine:
                        looked, tried = await look(engine, parent), await container_checks.examine(engine, owner)
                        return [one for one in looked if one.check not in {other.check for other in tried}] + tried
                except EngineError as error:
                    return [_no_engine(error), await _sandbox(parent)]
    except MoonyardError as error:
        why = "Workspaces, and what leads to them after a crash, are there."
        return [failed("state folder", error, why=why, hint="Name another one with the setting `state_folder`.")]


def _no_engine(error: MoonyardError) -> Finding:
    return failed(
        "engine",
        error,
        why="Every command of a job runs in a container: without an engine this machine runs none.",
        hint="`podman info` shows whether Podman works here.",
    )


async def _sandbox(parent: WarmParent) -> Finding:
    try:
        async with parent.fork():
            layers = parent.layers
    except MoonyardError as error:
        return failed(
            "sandbox",
            error,
            why="The Lua of every job runs in it.",
            hint="What the error above says is missing has to be there.",
        )
    assert layers is not None, "a process that is there has said which walls it has"
    if not layers.missing:
        return Finding(check="sandbox", state="ok", text=f"Lua is held in by {listed(layers.raised)}")
    missing = "; ".join(f"{layer} ({why})" for layer, why in layers.missing.items())
    return Finding(
        check="sandbox",
        state="weak",
        text=f"Lua is held in by {listed(layers.raised)}; missing is {missing}",
        why="If a defect of the interpreter lets a pipeline out of Lua, these are what would stop it.",
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
        why="A container that breaks out through a defect of the kernel or of the engine is root here.",
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
        text=f"{text}; there is no limit to a container's {listed(missing)}",
        why="One job can take all that the machine has, and the runner and all other jobs with it.",
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
                + (f"; there is no {listed([f'`{thing}`' for thing in missing])}" if missing else ""),
                why="It is a way out of the container, for whoever uses it.",
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
    why = "A job whose disk is full fails, and so may all that are on it at that time."
    try:
        free, files = shutil.disk_usage(folder).free, os.statvfs(folder)
    except OSError as error:
        return Finding(
            check=check,
            state="broken",
            text=f"{folder} cannot be looked at ({error.strerror})",
            why=why,
            hint="The folder has to be there, on a disk that can be read.",
        )
    state: State = "broken" if free < ROOM_BYTES else "weak" if free < ROOM_BYTES_COMFORTABLE else "ok"
    text = f"{size_text(free)} are free in {folder}"
    if files.f_files and files.f_favail < INODES_COMFORTABLE:  # Btrfs and its kind count none
        state = "broken" if files.f_favail < INODES else "weak" if state == "ok" else state
        text += f", and room for {files.f_favail} files (inodes)"
    if state == "ok":
        return Finding(check=check, state=state, text=text)
    hint = "Workspaces and images need room: the setting `image_budget` bounds images, `cache_budget` caches."
    return Finding(check=check, state=state, text=text, why=why, hint=hint)


def _firewall(facts: EngineFacts) -> Finding:
    """See that networks of jobs are kept from each other by a rule of our own, which only root can make."""
    check, why = "firewall", "Containers of different jobs may reach each other, and so each other's services."
    if not facts.is_local or os.geteuid() != 0:
        text = "networks of jobs are kept from each other by the engine, in its user's own network namespace"
        return Finding(check=check, state="ok", text=text)
    try:
        is_there = firewall.separate()
    except OSError as error:
        return Finding(
            check=check,
            state="broken",
            text=f"networks cannot be kept from each other: {error}",
            why=why,
            hint="`iptables --table mangle --list` has to work: the kernel needs nf_tables or ip_tables.",
        )
    if is_there:
        return Finding(check=check, state="ok", text="no packet goes from one network of Moonyard's to another")
    return Finding(
        check=check,
        state="weak",
        text="there is no `iptables`: networks of jobs are kept from each other by the engine alone",
        why=why,
        hint="Install iptables (Debian: apt-get install iptables). It works on nftables, too.",
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
                why="A stage whose image has another user cannot write to what a stage before it made.",
                hint="Put the state folder on ext4, XFS or Btrfs.",
            )
        return Finding(
            check="workspace",
            state="broken",
            text=f"{state_folder} cannot be written to ({error.strerror})",
            why="Each job's workspace is there.",
            hint="The user who runs the runner has to own it.",
        )
    return Finding(check="workspace", state="ok", text="all users of all containers can change what is in it")


def _warm_setting(engine: Engine, facts: EngineFacts) -> Finding:
    check = "warm containers"
    if engine.keeps_warm:
        return Finding(check=check, state="ok", text=f"up to {engine.settings.warm_containers} are made ahead of need")
    if not engine.settings.warm_containers:
        return Finding(check=check, state="ok", text="none are asked for (`warm_containers` is 0)")
    if engine.settings.pull_policy == "always":
        reason = "images are pulled for each container (`pull_policy`)"
    else:
        reason = "the runner is not root" if facts.is_local else "the engine is on another machine"
    return Finding(
        check=check,
        state="weak",
        text=f"none can be made ahead: {reason}",
        why="Each container takes its time, about a tenth of a second or more, when a job needs it.",
        hint="With `warm_containers` 0 none are asked for. It takes root, on the machine where the containers run.",
    )


async def _default_image(engine: Engine) -> Finding:
    image, policy = engine.settings.default_image, engine.settings.pull_policy
    if await engine.has_image(image):
        return Finding(check="image", state="ok", text=f"the default image `{image}` is there")
    return Finding(
        check="image",
        state="broken" if policy == "never" else "weak",
        text=f"the default image `{image}` is not there" + (" and is not to be pulled" if policy == "never" else ""),
        why="Stages that name no image cannot run." if policy == "never" else "The first job waits for its pull.",
        hint=f"`podman pull {image}` brings it; the setting `default_image` names another.",
    )
