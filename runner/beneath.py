"""Finds what a path names below a folder, and never what stands outside of it, whoever changes the folder meanwhile.

The kernel does it in one call where it can: ``openat2`` with ``RESOLVE_BENEATH`` (Linux 5.6), which no link, rename or
`..` leads out of. Elsewhere the path is walked one name at a time by handles of folders that were opened without
following anything: links are read and walked in the same way, and `..` goes back to a handle that the walk came by.

Both give a handle (``O_PATH``) that names a thing without opening it: what it is can be looked at first, so that a pipe
or a device is never opened. ``reopened`` then opens that very thing, and no other that took its name in between.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
from collections.abc import Callable
from typing import Final

LINKS_MAXIMUM: Final = 40
"""On one path, as the kernel has it."""
RACES_MAXIMUM: Final = 1000
_OPENAT2: Final = 437
"""The call's number, which is the same on every architecture but alpha."""
_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_HANDLE_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


Resolver = Callable[[int, str, bool, bool], int]


def handle(root: int, path: str, *, follow: bool = True, links: bool = True) -> int:
    """Give a handle of what a path names below a folder.

    :param follow: whether a link at the path's end is followed, or is itself what is meant.
    :param links: whether a link on the way to the end is followed; one that leads out never is.
    :raises OSError: ``EXDEV`` when the path leads out, ``ELOOP`` for a link that is not to be followed.
    """
    return (by_kernel if kernel_can() else by_walk)(root, path, follow, links)


def reopened(handle: int, flags: int) -> int:
    """Open what a handle names."""
    return os.open(f"/proc/self/fd/{handle}", flags | os.O_CLOEXEC | os.O_NOCTTY)


@functools.cache
def kernel_can() -> bool:
    """Tell whether the kernel has the call, and nothing on this machine forbids it."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(by_kernel(root, ".", True, True))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


def by_kernel(root: int, path: str, follow: bool, links: bool) -> int:
    """Resolve by ``openat2``."""
    how = _OpenHow(
        flags=os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW),
        mode=0,
        resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV | (0 if links else _RESOLVE_NO_SYMLINKS),
    )
    name = os.fsencode(path)
    problem = 0
    for _ in range(RACES_MAXIMUM):
        found = _syscall()(_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return found
        # A rename somewhere on the machine was under way while a `..` was resolved, and the kernel could not be sure.
        if (problem := ctypes.get_errno()) not in {errno.EAGAIN, errno.EINTR}:
            break
    raise OSError(problem, os.strerror(problem), path)


@functools.cache
def _syscall() -> Callable[..., int]:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call


def by_walk(root: int, path: str, follow: bool, links: bool) -> int:
    """Resolve name by name: for kernels without the call."""
    folders = [os.dup(root)]
    device = os.fstat(root).st_dev
    names = _names(path)[::-1]
    links_left = LINKS_MAXIMUM
    try:
        while names:
            name = names.pop()
            if name == "..":
                os.close(folders.pop())
                if not folders:
                    raise _refusal(errno.EXDEV, path)
                continue
            found = os.open(name, _HANDLE_FLAGS, dir_fd=folders[-1])
            folders.append(found)  # so that it is closed, whatever comes
            facts = os.fstat(found)
            # Of a file, an overlay may tell the device of a layer.
            if stat.S_ISDIR(facts.st_mode) and facts.st_dev != device:
                raise _refusal(errno.EXDEV, path)
            if stat.S_ISLNK(facts.st_mode):
                if not names and not follow:
                    break
                links_left -= 1
                if not links or links_left < 0:
                    raise _refusal(errno.ELOOP, path)
                target = os.readlink("", dir_fd=found)
                if target.startswith("/"):
                    raise _refusal(errno.EXDEV, path)
                os.close(folders.pop())
                names += _names(target)[::-1]
            elif names and not stat.S_ISDIR(facts.st_mode):
                raise _refusal(errno.ENOTDIR, path)
        return folders.pop()
    finally:
        for folder in folders:
            os.close(folder)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def _refusal(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
