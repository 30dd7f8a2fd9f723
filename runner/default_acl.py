"""Lets every user of every container read and write what any of them made in a workspace.

One stage's container runs as root, the next as somebody else: what the first left with the usual mask (022) the second
could not change. A default access list (acl(5)) on the workspace's folder takes the mask's place for all that is made
below it, in whatever container: files come out as 0666 and folders as 0777, unless their maker asked for less. The
owner's folder above the workspaces keeps everybody else on the machine out.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

_ATTRIBUTE: Final = "system.posix_acl_default"
_VERSION: Final = 2
_ALL: Final = 7
_TAGS: Final = (0x01, 0x04, 0x20)  # the owner, the owner's group, all others (linux/posix_acl.h)
_NO_ID: Final = 0xFFFFFFFF


def set_on(folder: Path) -> None:
    """Give a folder the access list.

    :raises OSError: where its file system has none.
    """
    entries = b"".join(struct.pack("<HHI", tag, _ALL, _NO_ID) for tag in _TAGS)
    os.setxattr(folder, _ATTRIBUTE, struct.pack("<I", _VERSION) + entries)
