"""The processes of a container, as the host sees them, and how those of one command are ended.

The engine can end a command's first process at best. What that process started lives on, also when it changed its
session or was handed to the container's first process. So the runner looks itself, in ``/proc``: all that shares the
container's PID namespace is the container's. Of these, a process belongs to a command when

- its environment has the command's ``MOONYARD_COMMAND``, which processes inherit; or
- one that belongs to it is its parent; or
- it shows no command at all, started after the command did, and no other command runs in the container now.

Processes are signalled by PID handles, which cannot come to mean another process.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec

from runner.engine.freezer import Freezer

MARK: Final = "MOONYARD_COMMAND"
SERVER_MARK: Final = "server"
"""That of a shell that runs commands: it is none of theirs."""
END_SECONDS: Final = 5.0
_PROC: Final = Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Process(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    parent: int
    started: float
    """Seconds since the machine started."""
    mark: str | None
    """The command in whose environment it runs."""
    zombie: bool


class Namespace:
    """A container's PID namespace, known by its first process."""

    def __init__(self, pid: int, handle: int, container: str, link: str) -> None:
        self.first = pid
        """The first process."""
        self.handle = handle
        """Of the first process; it is closed with the namespace."""
        self._link = link
        self._ending = anyio.Lock()
        self._freezer = Freezer.of(pid, container)

    @classmethod
    def of(cls, pid: int, container: str) -> Namespace | None:
        """Give the namespace of a container's first process, or None if the engine does not run on this machine."""
        try:
            if not _belongs(pid, container):
                return None
            link = _namespace(str(pid))
            handle = _handle(pid, link)
            return None if handle is None else cls(pid, handle, container, link)
        except OSError:
            return None

    @property
    def is_over(self) -> bool:
        """Whether the first process has ended, and with it all others."""
        if self.handle < 0:
            return True
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of the first process."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    async def end(self) -> bool:
        """Kill the first process, and so, for the kernel sees to that, all others; tell whether they are gone."""
        async with self._ending:  # only one task can wait for a handle
            if self.handle < 0:
                return True
            _send(self.handle, signal.SIGKILL)
            with anyio.move_on_after(END_SECONDS) as scope:
                await anyio.wait_readable(self.handle)
            return not scope.cancelled_caught

    def processes(self) -> list[Process]:
        """List the namespace's processes but the first."""
        found: list[Process] = []
        for name in os.listdir(_PROC):  # noqa: PTH208  # a thousand paths would be made to read a thousand names
            if not name.isdecimal() or int(name) == self.first:
                continue
            with suppress(OSError):  # it ended while it was looked at
                if _namespace(name) == self._link:
                    found.append(_read(name))
        return found

    def kill(self, mark: str, started: float, *, alone: bool) -> int:
        """Kill the processes of a command, and give how many were found alive.

        They are held still meanwhile, so that none can start another: a fork bomb is ended in one look.

        :param started: when the command started, in seconds since the machine did.
        :param alone: whether no other command runs in the container now.
        """
        found = 0
        with self._freezer.held() if self._freezer is not None else nullcontext():
            for process in self._of_command(mark, started, alone=alone):
                found += self._signal(process, signal.SIGKILL)
        return found

    def ask(self, mark: str, started: float, asked: dict[int, bytes], *, alone: bool) -> int:
        """Send SIGTERM to the processes of a command that were not asked yet; give how many of it are alive.

        What one that was asked starts on its way out is its own to end, for as long as it lives. One that became
        another program since it was asked did not hear: a shell's child has the shell's traps until then.

        :param asked: the command lines of those that were asked before, by process; those that are now are added.
        """
        with self._freezer.held() if self._freezer is not None else nullcontext():
            alive = list(self._of_command(mark, started, alone=alone))
            answerable = _with_descendants(alive, {process.pid for process in alive if process.pid in asked})
            for process in alive:
                line = _command_line(process.pid)
                heard = asked[process.pid] == line if process.pid in asked else process.pid in answerable
                if not heard and self._signal(process, signal.SIGTERM):
                    asked[process.pid] = line
        return len(alive)

    def _signal(self, process: Process, number: signal.Signals) -> bool:
        handle = _handle(process.pid, self._link)
        if handle is None:
            return False
        _send(handle, number)
        os.close(handle)
        return True

    def _of_command(self, mark: str, started: float, *, alone: bool) -> Iterator[Process]:
        listed = [process for process in self.processes() if not process.zombie]
        belonging = {process.pid for process in listed if process.mark == mark}
        if alone:
            belonging |= {process.pid for process in listed if process.mark is None and process.started >= started}
        belonging = _with_descendants(listed, belonging)
        return (process for process in listed if process.pid in belonging)


def _with_descendants(listed: Sequence[Process], chosen: set[int]) -> set[int]:
    size = -1
    while size != len(chosen):
        size = len(chosen)
        chosen = chosen | {process.pid for process in listed if process.parent in chosen}
    return chosen


def _belongs(pid: int, container: str) -> bool:
    """Tell whether a process is a container's, by its cgroup or by Podman's monitor, its parent.

    An engine elsewhere, in a virtual machine say, gives ids that mean other processes here.
    """
    if container in (_PROC / str(pid) / "cgroup").read_text(encoding="utf-8"):
        return True
    fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    return container.encode() in (_PROC / fields[1].decode() / "cmdline").read_bytes().split(b"\0")


def _namespace(name: str) -> str:
    return os.readlink(f"/proc/{name}/ns/pid")  # noqa: PTH115  # called for each process of the machine


def _read(name: str) -> Process:
    with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123  # called for each process of the machine
        # A program may have parentheses and blanks in its name, so what follows is found from the end.
        fields = file.read().rpartition(b")")[2].split()
    with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123  # the same
        environment = file.read()
    mark = None
    for variable in environment.split(b"\0"):
        if variable.startswith(MARK.encode() + b"="):
            mark = variable.partition(b"=")[2].decode(errors="replace")
    return Process(
        pid=int(name),
        parent=int(fields[1]),
        started=int(fields[19]) / _TICKS_PER_SECOND,
        mark=mark,
        zombie=fields[0] == b"Z",
    )


def _command_line(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _handle(pid: int, link: str) -> int | None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        # The id may have passed to another process before the handle held it.
        if _namespace(str(pid)) == link:
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _send(handle: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """A process of Podman's (``conmon``) that watches a container, or a command in one."""

    pid: int
    words: frozenset[str]
    """Of its command line: among them the container's id and the name that it was made with."""


def monitors() -> list[Monitor]:
    """List Podman's monitors on this machine."""
    found: list[Monitor] = []
    for name in os.listdir(_PROC):  # noqa: PTH208  # a thousand paths would be made to read a thousand names
        if not name.isdecimal():
            continue
        with suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as file:  # noqa: PTH123  # called for each process of the machine
                words = file.read().split(b"\0")
            if words[0].rpartition(b"/")[2] == b"conmon":
                found.append(Monitor(pid=int(name), words=frozenset(word.decode(errors="replace") for word in words)))
    return found


def end_monitors(container: str) -> None:
    """End the monitors that Podman left behind for the commands of a container that is removed.

    Podman's ``conmon`` stays for five minutes after each exec to forget the exec's record, which went with the
    container (Podman 4.3: `exit_command_delay`). A long job would leave hundreds.
    """
    for monitor in monitors():
        if container in monitor.words:
            end_monitor(monitor)


def end_monitor(monitor: Monitor) -> None:
    with suppress(ProcessLookupError):
        os.kill(monitor.pid, signal.SIGKILL)
