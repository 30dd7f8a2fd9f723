"""Finds out what this machine's Podman needs to be told before it can run a container.

Most machines need nothing. Those where Podman is not at home (no systemd, a low limit of open files that may not be
raised, a mixed cgroup mount) fail at the first container, each with words of its own. So one tiny container is run,
from a folder instead of an image; what it fails with leads to a line for ``containers.conf``, and it is tried again.
The outcome is kept, for as long as Podman, the kernel and the limits stay what they were.

The file that is written is the only one that the private engine reads then (`CONTAINERS_CONF`): Podman before 4.6 has
no way to lay a few lines over the machine's own. A machine with settings of its own there can add these lines itself,
and none will be needed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from runner.engine import helper
from runner.engine.errors import EngineUnavailable, first_line, keeping

PROBE_SECONDS: Final = 60.0
PID_MAX: Final = Path("/proc/sys/kernel/pid_max")
LIMIT_MAXIMUM: Final = 1024 * 1024
"""More than any container needs, and what Podman itself takes where it may."""
_SYSTEM_FOLDERS: Final = ("usr", "bin", "lib", "lib64", "lib32", "nix", "gnu")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What Podman has to be told: lines of ``containers.conf`` by their section, none on most machines."""

    lines: dict[str, dict[str, str]] = {}

    @property
    def text(self) -> str:
        sections = (
            f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())
            for section, lines in self.lines.items()
        )
        return (
            "# Written by Moonyard for its private engine: without these lines, a container failed to start here.\n"
            + ("\n".join(sections))
        )


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """A known failure, and the lines that cure it."""

    words: tuple[tuple[str, ...], ...]
    """The failure's message has all the words of one of these."""
    section: str
    name: str
    value: Callable[[], str | None]
    """None where it cannot help on this machine."""


def limits() -> dict[str, int]:
    """Read the hard limits of this process, which a container of its engine cannot pass."""
    highest = {
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "nproc": resource.getrlimit(resource.RLIMIT_NPROC)[1],
    }
    # Podman lowers its own limit of processes to the number of process ids (seen with 4.3).
    highest["nproc"] = min(_finite(highest["nproc"]), int(PID_MAX.read_text(encoding="utf-8")))
    return {name: _finite(value) for name, value in highest.items()}


def _finite(limit: int) -> int:
    return LIMIT_MAXIMUM if limit == resource.RLIM_INFINITY else min(limit, LIMIT_MAXIMUM)


def _own_limits() -> str:
    return msgspec.json.encode([f"{name}={value}:{value}" for name, value in limits().items()]).decode()


def _runc() -> str | None:
    return '"runc"' if _find("runc") else None


REMEDIES: Final = (
    Remedy(
        words=(("rlimit",),),
        section="containers",
        name="default_ulimits",
        value=_own_limits,
    ),
    Remedy(
        words=(("crun", "cgroup"), ("crun", "not found"), ("crun", "no such file"), ("default oci runtime",)),
        section="engine",
        name="runtime",
        value=_runc,
    ),
    Remedy(
        words=(("systemd",), ("dbus",), ("sd-bus",)),
        section="engine",
        name="cgroup_manager",
        value=lambda: '"cgroupfs"',
    ),
    Remedy(
        words=(("journal",), ("event",)),
        section="engine",
        name="events_logger",
        value=lambda: '"file"',
    ),
)


async def outcome(podman: str, state_folder: Path) -> tuple[Outcome, Path | None]:
    """Give what Podman has to be told, and the ``containers.conf`` that says it; ask only what is not known yet.

    :raises EngineUnavailable: when no container runs, whatever Podman is told.
    :raises StateFolderUnusable: when the disk does not take the answer.
    """
    folder = state_folder / "engine"
    with keeping(f"folder {folder}"):
        await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True, exist_ok=True, mode=0o700))
    name = _key(podman)
    known, conf = folder / f"probe-{name}.json", folder / f"containers-{name}.conf"
    try:
        found = msgspec.json.decode(known.read_bytes(), type=Outcome)
    except (FileNotFoundError, msgspec.DecodeError):
        found = await find_out(podman)
        with keeping(f"folder {folder}"):
            _write(conf, found.text.encode())
            _write(known, msgspec.json.encode(found))
    return found, conf if found.lines else None


async def find_out(podman: str) -> Outcome:
    """Run a tiny container until it succeeds, adding a remedy for each failure.

    :raises EngineUnavailable: when a failure has no remedy.
    """
    with tempfile.TemporaryDirectory(prefix="moonyard-probe-") as name:
        folder = Path(name)
        command = tiny_container(podman, folder)
        lines: dict[str, dict[str, str]] = {}
        while True:
            failure = await _try(command, Outcome(lines=lines), folder / "containers.conf")
            if failure is None:
                return Outcome(lines=lines)
            remedy = remedy_for(failure, lines)
            if remedy is None:
                raise EngineUnavailable(
                    f"Podman ({podman}) cannot run a container on this machine: {first_line(_error_of(failure))}",
                    hint="The same without Moonyard: " + " ".join(command),
                )
            section, line, value = remedy
            lines = lines | {section: lines.get(section, {}) | {line: value}}


def tiny_container(podman: str, folder: Path) -> list[str]:
    """Lay out a root folder with one program in it, and give the command that runs it as a container."""
    root = folder / "root"
    root.mkdir()
    command = [podman, "run", "--rm", "--network=none", "--log-driver=none", "--cap-drop=ALL"]
    if (program := helper.find()) is not None:
        shutil.copy(program, root / "init")
        return [*command, "--rootfs", str(root), "/init", "-V"]
    # Without a static program, the host's own folders make one of its programs run.
    for name in _SYSTEM_FOLDERS:
        path = Path("/") / name
        if path.is_symlink():
            (root / name).symlink_to(path.readlink())
        elif path.is_dir():
            command.append(f"--volume=/{name}:/{name}:ro")
    return [*command, "--rootfs", str(root), shutil.which("true") or "/bin/true"]


def remedy_for(failure: str, tried: dict[str, dict[str, str]]) -> tuple[str, str, str] | None:
    """Choose the first remedy that fits a failure and was not tried: section, name and value of a line."""
    said = _error_of(failure).lower()
    for remedy in REMEDIES:
        if remedy.name in tried.get(remedy.section, {}):
            continue
        if any(all(word in said for word in words) for words in remedy.words):
            value = remedy.value()
            if value is not None:
                return remedy.section, remedy.name, value
    return None


def _error_of(output: str) -> str:
    """Leave out the warnings that Podman says before it fails."""
    lines = [line for line in output.splitlines() if "level=warning" not in line]
    return "\n".join(lines) or output


async def _try(command: list[str], said: Outcome, conf: Path) -> str | None:
    environment = dict(os.environ)
    if said.lines:
        await anyio.to_thread.run_sync(_write, conf, said.text.encode())
        environment["CONTAINERS_CONF"] = str(conf)
    try:
        with anyio.fail_after(PROBE_SECONDS):
            done = await anyio.run_process(command, env=environment, check=False)
    except TimeoutError:
        return f"it did not end within {PROBE_SECONDS:.0f} s"
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.decode("utf-8", errors="replace") or "no reason given"


def _key(podman: str) -> str:
    """Name what the outcome depends on."""
    facts: list[object] = [platform.release(), os.geteuid(), limits(), os.environ.get("CONTAINERS_CONF"), "1"]
    for program in (podman, _find("runc"), _find("crun"), _find("conmon")):
        if program is not None:
            about = Path(program).stat()
            facts.append((program, about.st_size, about.st_mtime_ns))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")


def _write(path: Path, data: bytes) -> None:
    nascent = path.with_name(f".{path.name}.{os.getpid()}")
    nascent.write_bytes(data)
    nascent.rename(path)
