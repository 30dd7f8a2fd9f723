"""Whether a container listens at a port, without disturbing it by a connection of our own.

The kernel's tables of a process's network namespace are in ``/proc/<pid>/net``: they can be read without entering it,
also for a container of Podman without root, whose addresses this machine cannot reach. A connection to a port that is
in the table succeeds, for it is the kernel that answers it.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Final, Literal

Listening = Literal["no", "for itself", "yes"]
_LISTEN: Final = "0A"
"""TCP_LISTEN, as the kernel's tables write it."""


def listening(process: int, port: int) -> Listening:
    """Tell whether somebody listens at a TCP port in a process's network namespace, and whether others reach it."""
    found: Listening = "no"
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{process}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # the process is gone, or the machine has no IPv6
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state != _LISTEN or int(number, 16) != port:
                continue
            if not _address(address).is_loopback:
                return "yes"
            found = "for itself"
    return found


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    # Words of 32 bits, each in the machine's own byte order.
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
