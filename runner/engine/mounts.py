"""Mounts a folder of this machine into a container that runs already.

A container made ahead does not know whose workspace it will see. The folder is cloned as a mount of its own, which
belongs to no place yet, and put into place inside the container's mount namespace: open_tree(2), move_mount(2), Linux
5.2; mount_setattr(2), Linux 5.12. It takes a runner that is root on the machine where the containers run.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Final

# The numbers are the same on all architectures: these calls are younger than the agreement on that.
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_NOSUID: Final = 2
_MOUNT_ATTR_NODEV: Final = 4
_MS_PRIVATE: Final = 1 << 18
_CLONE_FS: Final = 0x200
_CLONE_NEWNS: Final = 0x20000


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def bind_into(process: int, source: Path, target: str) -> None:
    """Mount ``source`` at ``target`` as a process sees it.

    :param process: a PID handle: it cannot come to mean another process.
    :raises OSError: when the kernel refuses.
    """
    failed: list[OSError] = []

    def work() -> None:
        try:
            _bind_into(process, source, target)
        except OSError as error:
            failed.append(error)

    # The namespace is entered by a thread of its own, which ends there: no other code ever runs in it.
    thread = threading.Thread(target=work, name="mount")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _bind_into(process: int, source: Path, target: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # A thread that shares its root and working folder with others may not change its mount namespace.
    _check(libc.unshare(_CLONE_FS), "unshare")
    tree = _check(
        libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC), "open_tree"
    )
    try:
        attributes = _Attributes(_MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV, 0, _MS_PRIVATE, 0)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        _check(libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size), "mount_setattr")
        _check(libc.setns(process, _CLONE_NEWNS), "setns")
        place = os.fsencode(target)
        _check(libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, place, _MOVE_MOUNT_F_EMPTY_PATH), "move_mount")
    finally:
        os.close(tree)


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result
