"""The walls around a Lua process, from what the kernel of this machine offers.

The interpreter is assumed to have memory bugs: the process is what holds. Each layer is tried; one that the host lacks
is told as missing, and the others stay. In the order in which they are raised:

    by the warm parent, once:   own namespaces (network, IPC, host name, mounts), an empty root folder
    by each child:              no descriptor but its socket, a user of its own, no capabilities, no new privileges,
                                resource limits, Landlock, a system call filter

Nothing may be imported or opened after the first of them. Numbers and structures are those of the kernel's headers
(linux/sched.h, mount.h, prctl.h, landlock.h, filter.h); Python 3.11 has no calls for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import tempfile
from pathlib import Path
from typing import Final

import msgspec

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
MS_RDONLY: Final = 1
MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
MS_REC_PRIVATE: Final = 0x4000 | 0x40000
MNT_DETACH: Final = 2
PROT_EXEC: Final = 4
CAPABILITIES_VERSION: Final = 0x20080522
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_MODE_FILTER: Final = 2
SYS_LANDLOCK_CREATE_RULESET: Final = 444
SYS_LANDLOCK_RESTRICT_SELF: Final = 446
LANDLOCK_CREATE_RULESET_VERSION: Final = 1
BPF_INSTRUCTION_BYTES: Final = 8

USER_BASE: Final = 1_000_000_000
"""Children run as the user ``USER_BASE + pid``: no two share one, and nobody else has it."""

ALLOWED_CALLS: Final = (
    "read", "write", "recvfrom", "sendto", "poll", "ppoll",
    "munmap", "mremap", "madvise", "brk", "futex",
    "clock_gettime", "clock_getres", "gettimeofday", "time", "getrandom", "getpid", "gettid",
    "rt_sigreturn", "rt_sigaction", "rt_sigprocmask", "restart_syscall", "sched_yield",
    "close", "exit", "exit_group",
)  # fmt: skip
"""Not among them is what hands descriptors from one process to another (sendmsg)."""
MAPPING_CALLS: Final = ("mmap", "mprotect")
"""Allowed for memory that cannot be executed: all code is there, and what an attacker writes does not become any."""
DEADLY_CALLS: Final = (
    "execve", "execveat", "fork", "vfork", "ptrace", "socket", "kill", "tkill", "process_vm_readv",
    "process_vm_writev", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "mount", "unshare", "setns", "chroot", "bpf",
    "io_uring_setup", "perf_event_open", "keyctl", "add_key", "init_module", "finit_module",
)  # fmt: skip
"""No accident leads to these: whoever makes one is ended at once."""
OWN_PROCESS: Final = 0x0B5E55ED
"""Stands in the filter, which all children share, where each puts its own number: abort() signals its own process, and
without a user of its own a child could signal the runner by the same call. It could also end as if somebody else had
killed it, and its job would be taken for lost."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one Lua process may use."""

    lua_bytes: int = 256 * 1024 * 1024
    """For the Lua state: its tables and strings."""
    process_bytes: int = 512 * 1024 * 1024
    """For the whole process, on top of what it shares with its parent: the Lua state, and frames in both directions."""
    cpu_seconds: int = 600
    load_cpu_seconds: int = 2


LAYERS: Final = ("namespaces", "empty root", "own user", "limits", "landlock", "seccomp")
"""All that there are."""


class Layers(msgspec.Struct, frozen=True, kw_only=True):
    """Which walls stand, and which the host could not give, with the reason."""

    raised: list[str]
    missing: dict[str, str]

    def note(self, layer: str, problem: OSError | None) -> None:
        if problem is None:
            self.raised.append(layer)
        else:
            self.missing[layer] = problem.strerror or str(problem)


def no_layers() -> Layers:
    return Layers(raised=[], missing={})


def mapped_bytes() -> int:
    """Tell how much address space this process has: its children start with the same, and their limit counts it."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def separate(layers: Layers) -> None:
    """Leave the machine's network, IPC, host name and files: the warm parent does, and its children share that."""
    flags = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS
    if os.geteuid() != 0:
        flags |= CLONE_NEWUSER
    problem = _failure(lambda: _check(_libc.unshare(flags), "unshare"))
    layers.note("namespaces", problem)
    layers.note("empty root", problem or _failure(_enter_empty_root))


def _enter_empty_root() -> None:
    _mount(None, b"/", None, MS_REC_PRIVATE, None)
    # Any folder will do: the mount is seen in this namespace alone.
    folder = os.fsencode(tempfile.gettempdir())
    _mount(b"none", folder, b"tmpfs", MS_RDONLY | MS_NOSUID_NODEV_NOEXEC, b"size=4k,mode=0555")
    os.chdir(folder)
    # With both at one place the old root lies over the new one, and can be taken away (pivot_root(2)).
    if _libc.pivot_root(b".", b".") == 0:
        _check(_libc.umount2(b".", MNT_DETACH), "umount2")
    else:
        os.chroot(".")  # the first file system of a machine cannot be changed for another
    os.chdir("/")


def leave_descriptors(connection: int, nothing: int) -> None:
    """Keep one descriptor: what is written elsewhere, to the runner's log for one, would be nobody's word.

    :param nothing: one of /dev/null, which takes the place of the first three.
    """
    for standard in range(3):
        os.dup2(nothing, standard)
    os.closerange(3, connection)
    os.closerange(connection + 1, os.sysconf("SC_OPEN_MAX"))


def confine(layers: Layers, limits: Limits, shared_bytes: int, call_filter: bytes | None) -> None:
    """Give up, for good, everything but the descriptors that are open: for a child, before a pipeline's code is in it.

    :param shared_bytes: the address space that was there before the fork.
    :param call_filter: what ``build_call_filter`` gave, or None where the library for it is missing.
    """
    if os.geteuid() == 0:
        layers.note("own user", _failure(_become_nobody))
    else:
        layers.missing["own user"] = "the runner is not root"
    _drop_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)
    limit = resource.setrlimit
    # The soft limit of processor time kills (SIGXCPU); the hard one a second later is for a handler that is not there.
    limit(resource.RLIMIT_CPU, (limits.cpu_seconds + 5, limits.cpu_seconds + 6))
    limit(resource.RLIMIT_AS, (shared_bytes + limits.process_bytes, shared_bytes + limits.process_bytes))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK):
        limit(kind, (0, 0))
    limit(resource.RLIMIT_NOFILE, (8, 8))
    layers.raised.append("limits")
    layers.note("landlock", _failure(_restrict_files_and_network))
    if call_filter is None:
        layers.missing["seccomp"] = "libseccomp is not installed"
    else:
        layers.note("seccomp", _failure(lambda: _filter_calls(call_filter)))


def _become_nobody() -> None:
    user = USER_BASE + os.getpid()
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _drop_capabilities() -> None:
    """Give up what a process that is not root is all the same in the user namespace that its parent made."""
    header = struct.pack("=Ii", CAPABILITIES_VERSION, 0)
    _check(_libc.capset(header, struct.pack("=6I", *(0,) * 6)), "capset")


def _restrict_files_and_network() -> None:
    version = _check(
        _libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION),
        "landlock",
    )
    # One bit a right: 13 on files in the first version; renaming, truncating, device ioctls came later.
    files = (1 << 13) - 1
    for since, right in ((2, 13), (3, 14), (5, 15)):
        if version >= since:
            files |= 1 << right
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    fields = struct.pack("=QQQ", files, network, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _check(
        _libc.syscall(SYS_LANDLOCK_CREATE_RULESET, fields, ctypes.c_size_t(len(fields)), 0), "landlock_create_ruleset"
    )
    try:
        _check(_libc.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def build_call_filter() -> bytes | None:
    """Build the system call filter as the kernel takes it; None where libseccomp is missing."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return None
    import errno

    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in ALLOWED_CALLS:
        # A name that this machine's kind of processor does not have (time, poll on some) needs no rule.
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            rules.add_rule(pyseccomp.ALLOW, name)
    for name in MAPPING_CALLS:
        rules.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(2, pyseccomp.MASKED_EQ, PROT_EXEC, 0))
    aborted = pyseccomp.Arg(0, pyseccomp.EQ, OWN_PROCESS), pyseccomp.Arg(2, pyseccomp.EQ, signal.SIGABRT)
    rules.add_rule(pyseccomp.ALLOW, "tgkill", *aborted)
    for name in DEADLY_CALLS:
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            rules.add_rule(pyseccomp.KILL_PROCESS, name)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        program = file.read()
    assert program.count(_word(OWN_PROCESS)) == 1, "a child finds the place of its number"
    return program


def _word(number: int) -> bytes:
    return struct.pack("=I", number)


def _filter_calls(program: bytes) -> None:
    program = program.replace(_word(OWN_PROCESS), _word(os.getpid()))
    instructions = ctypes.create_string_buffer(program, len(program))
    pointer = ctypes.cast(instructions, ctypes.c_void_p).value
    assert pointer is not None, "a buffer has an address"
    header = struct.pack("HxxxxxxP", len(program) // BPF_INSTRUCTION_BYTES, pointer)
    _check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options), "mount")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl({option})")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _failure(action: object) -> OSError | None:
    assert callable(action), "a layer is a function"
    try:
        action()
    except OSError as problem:
        return problem
    return None
