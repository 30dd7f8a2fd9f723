"""What native code in a Lua process tries: each act makes its attempt, and tells what came of it.

An attempt that is answered by an error is told with it; one that kills the process is told by its end. What gets
something says so in a line that begins with ``GOT``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from tests.attack.taken_over import Act, Taken

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
CALLS: Final = {
    "open": 2, "mprotect": 10, "shmget": 29, "ptrace": 101, "mknod": 133, "prctl": 157, "chroot": 161, "mount": 165,
    "reboot": 169, "init_module": 175, "tkill": 200, "io_setup": 206, "tgkill": 234, "mq_open": 240, "add_key": 248,
    "keyctl": 250, "inotify_init": 253, "unshare": 272, "perf_event_open": 298, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "finit_module": 313, "memfd_create": 319,
    "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "openat2": 437,
    "pidfd_getfd": 438, "landlock_restrict_self": 446,
}  # fmt: skip
"""Of x86-64: an attack by number is tried on no other processor."""

REFUSALS: Final = {errno.EPERM, errno.EACCES}


def call(name: str, *arguments: Any) -> int:
    """Make a system call by its number.

    :raises OSError: when the kernel refuses it.
    """
    result = _libc.syscall(CALLS[name], *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def inherited(taken: Taken) -> None:
    """Look for a descriptor that somebody left open, besides the three of /dev/null and its own socket."""
    taken.loaded()
    found: list[int] = []
    for descriptor in set(range(3, 1024)) - {taken.descriptor}:
        try:
            os.write(descriptor, b"")
        except OSError as error:
            if error.errno == errno.EBADF:
                continue
        found.append(descriptor)
    taken.say(f"GOT {found}" if found else "there is none")
    taken.tell("done")
    taken.next_frame()


def _hand_over_descriptor() -> object:
    ours = socket.socket(fileno=os.dup(0))
    return socket.send_fds(ours, [b"x"], [0])


def _lock_memory() -> None:
    if _libc.mlockall(3) < 0:
        raise OSError(ctypes.get_errno(), "mlockall")


def _jump_into_data() -> object:
    # `ret`, in memory that was made to be written to.
    memory = mmap.mmap(-1, 4096)
    memory.write(b"\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(None)(address)()


def _parents_memory() -> object:
    local, remote = ctypes.create_string_buffer(16), struct.pack("PN", 0x400000, 16)
    target = struct.pack("PN", ctypes.addressof(local), 16)
    return call("process_vm_readv", os.getppid(), target, 1, remote, 1, 0)


ATTEMPTS: Final[dict[str, Callable[[], object]]] = {
    "read a file of the machine": lambda: open("/etc/passwd", "rb"),  # noqa: SIM115, PTH123
    "read its environment": lambda: open("/proc/self/environ", "rb"),  # noqa: SIM115, PTH123
    "list the root folder": lambda: os.listdir("/"),  # noqa: PTH208
    "write a file": lambda: open("/tmp/x", "wb"),  # noqa: S108, SIM115, PTH123
    "look whether a file is there": lambda: os.stat("/etc/passwd"),  # noqa: PTH116
    "open a file by openat2": lambda: call("openat2", -100, b"/etc/passwd", b"\0" * 24, 24),
    "open a file by its handle": lambda: call("open_by_handle_at", -100, b"\0" * 64, 0),
    "climb out of its root folder": lambda: call("chroot", b"."),
    "make a device": lambda: call("mknod", b"/disk", 0o60666, 0x800),
    "mount a file system": lambda: call("mount", b"none", b"/", b"tmpfs", 0, None),
    "make namespaces": lambda: call("unshare", 0x10000000),
    "enter another namespace": lambda: call("setns", 0, 0),
    "connect by TCP": lambda: socket.socket().connect(("127.0.0.1", 5432)),
    "connect to the engine's socket": lambda: socket.socket(socket.AF_UNIX).connect("/run/podman/podman.sock"),
    "open a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "speak with the kernel by netlink": lambda: socket.socket(socket.AF_NETLINK),
    "make a pair of sockets": socket.socketpair,
    "hand a descriptor to the runner": _hand_over_descriptor,
    "start a program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
    "fork": os.fork,
    "clone": lambda: call("clone3", b"\0" * 88, 88),
    "start a thread": lambda: __import__("_thread").start_new_thread(print, ()),
    "kill its parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill its parent by a thread's number": lambda: call("tgkill", os.getppid(), os.getppid(), signal.SIGKILL),
    "kill its parent by an old call": lambda: call("tkill", os.getppid(), signal.SIGKILL),
    "end as if somebody had killed it": lambda: call("tgkill", os.getpid(), os.getpid(), signal.SIGKILL),
    "kill all that it can": lambda: os.kill(-1, signal.SIGKILL),
    "get hold of its parent": lambda: call("pidfd_open", os.getppid(), 0),
    "take a descriptor of its parent's": lambda: call("pidfd_getfd", 0, 0, 0),
    "trace its parent": lambda: call("ptrace", 16, os.getppid(), 0, 0),
    "read its parent's memory": _parents_memory,
    "become root": lambda: os.setresuid(0, 0, 0),
    "become another user": lambda: os.setresuid(1000, 1000, 1000),
    "raise its limit of processor time": lambda: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)),
    "raise its limit of memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "take two gigabytes": lambda: bytearray(2 * 1024**3),
    "lock memory": _lock_memory,
    "make memory that can be executed": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "make its memory executable": lambda: call("mprotect", 0x10000000, 4096, 7),
    "jump into its data": _jump_into_data,
    "make a file in memory": lambda: call("memfd_create", b"x", 0),
    "share memory": lambda: call("shmget", 0, 4096, 0o1600),
    "open a queue of messages": lambda: call("mq_open", b"x", 0o102, 0o600, None),
    "be seen by debuggers again": lambda: call("prctl", 4, 1, 0, 0, 0),
    "load a program into the kernel": lambda: call("bpf", 0, b"\0" * 72, 72),
    "load a module": lambda: call("init_module", b"", 0, b""),
    "load a module from a file": lambda: call("finit_module", 0, b"", 0),
    "use io_uring": lambda: call("io_uring_setup", 1, b"\0" * 120),
    "use the kernel's asynchronous files": lambda: call("io_setup", 1, b"\0" * 8),
    "watch the processor": lambda: call("perf_event_open", b"\0" * 128, 0, -1, -1, 0),
    "stop the kernel at page faults": lambda: call("userfaultfd", 0),
    "watch files": lambda: call("inotify_init"),
    "read the kernel's keys": lambda: call("keyctl", 0, -4, 0),
    "add a key": lambda: call("add_key", b"user", b"x", b"x", 1, -3),
    "restart the machine": lambda: call("reboot", 0xFEE1DEAD, 672274793, 0, None),
}


def _act(attempt: Callable[[], object]) -> Act:
    def act(taken: Taken) -> None:
        taken.loaded()
        try:
            got = attempt()
        except OSError as error:
            # Anything else would be our own mistake, and no wall.
            taken.say(f"{'' if error.errno in REFUSALS else 'GOT '}{type(error).__name__}: {error}")
        except (MemoryError, ValueError, RuntimeError) as error:
            taken.say(f"{type(error).__name__}: {error}")
        except BaseException as error:  # noqa: BLE001  # the same
            taken.say(f"GOT {type(error).__name__}: {error}")
        else:
            taken.say(f"GOT {got!r}")
        taken.tell("done")
        taken.next_frame()

    return act


ACTS: Final[dict[str, Act]] = {name: _act(attempt) for name, attempt in ATTEMPTS.items()} | {
    "use a descriptor that was left open": inherited
}
