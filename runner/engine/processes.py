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
import signal
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

import msgspec

from runner.engine.freezer import Freezer

MARK: Final = "MOONYARD_COMMAND"
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

    def __init__(self, pid: int, container: str, link: str) -> None:
        self._first = pid
        self._link = link
        self._freezer = Freezer.of(pid, container)

    @classmethod
    def of(cls, pid: int, container: str) -> Namespace | None:
        """Give the namespace of a container's first process, or None if the engine does not run on this machine."""
        try:
            return cls(pid, container, _namespace(str(pid))) if _belongs(pid, container) else None
        except OSError:
            return None

    def processes(self) -> list[Process]:
        """List the namespace's processes but the first."""
        found: list[Process] = []
        for name in os.listdir(_PROC):  # noqa: PTH208  # a thousand paths would be made to read a thousand names
            if not name.isdecimal() or int(name) == self._first:
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
                if (handle := _handle(process.pid, self._link)) is not None:
                    found += 1
                    _send(handle, signal.SIGKILL)
                    os.close(handle)
        return found

    def _of_command(self, mark: str, started: float, *, alone: bool) -> Iterator[Process]:
        listed = [process for process in self.processes() if not process.zombie]
        belonging = {process.pid for process in listed if process.mark == mark}
        if alone:
            belonging |= {process.pid for process in listed if process.mark is None and process.started >= started}
        size = -1
        while size != len(belonging):
            size = len(belonging)
            belonging |= {process.pid for process in listed if process.parent in belonging}
        return (process for process in listed if process.pid in belonging)


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


def end_monitors(container: str) -> None:
    """End the monitors that Podman left behind for the commands of a container that is removed.

    Podman's ``conmon`` stays for five minutes after each exec to forget the exec's record, which went with the
    container (Podman 4.3: `exit_command_delay`). A long job would leave hundreds.
    """
    for name in os.listdir(_PROC):  # noqa: PTH208  # a thousand paths would be made to read a thousand names
        if not name.isdecimal():
            continue
        with suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as file:  # noqa: PTH123  # called for each process of the machine
                words = file.read().split(b"\0")
            if words[0].rpartition(b"/")[2] == b"conmon" and container.encode() in words:
                os.kill(int(name), signal.SIGKILL)
