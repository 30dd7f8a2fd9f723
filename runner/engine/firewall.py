"""Keeps networks of ours from each other: no packet is forwarded from one of their bridges to another.

The engine is told the same (`isolate`), but does not hold to it: netavark 1.4 takes the one rule that makes its rules
of isolation count away with any network that ends, for all others too, until the next container starts. So there is a
rule of our own, in a table where nobody's "accept" comes before it. It names bridges by how their names begin, stays
where it is for all runners of the machine, and has no effect on anything else.

Where clouds tell a machine its credentials (`169.254.169.254` and the like), no container gets to by TCP, whichever way
the address leads: a rule for each drops such packets before they are routed.

Between the ports of one bridge no packet is forwarded, unless the kernel was told to let iptables see those as well
(`br_netfilter`): then the rule leaves them out. Elsewhere it has no such condition, for to name it turns that on.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path
from typing import Final

log: Final = logging.getLogger(__name__)

DEVICE_PREFIX: Final = "moonyard"
SECONDS: Final = 20.0
_SEES_BRIDGED: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_BETWEEN_OURS: Final = ("-i", f"{DEVICE_PREFIX}+", "-o", f"{DEVICE_PREFIX}+")
_NOT_BRIDGED: Final = ("-m", "physdev", "!", "--physdev-is-bridged")
_TELLS_CREDENTIALS: Final = ("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")
_BUT_NAMES: Final = ("-p", "tcp", "!", "--dport", "53")
"""Some clouds have their name servers at the same addresses."""
_FOLDERS: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"


def separate() -> bool:
    """See that nothing is forwarded from one network of ours to another; tell whether there is a rule for it.

    :raises OSError: when the rule cannot be made.
    """
    program = shutil.which("iptables") or shutil.which("iptables", path=_FOLDERS)
    if program is None:
        return False  # an engine that has no use for it is one whose own rules are others
    plain, careful = _rule(), _rule(*_NOT_BRIDGED)
    wanted, unwanted = (careful, plain) if _sees_bridged() else (plain, careful)
    if not _does(program, "-C", wanted):
        _run(program, "-I", wanted)
    if wanted is careful:
        while _does(program, "-D", unwanted):
            pass
    for network in _TELLS_CREDENTIALS:
        wanted = ("PREROUTING", "-i", f"{DEVICE_PREFIX}+", "-d", network, *_BUT_NAMES, "-j", "DROP")
        if not _does(program, "-C", wanted):
            _run(program, "-I", wanted)
    return True


def _rule(*condition: str) -> tuple[str, ...]:
    return ("FORWARD", *_BETWEEN_OURS, *condition, "-j", "DROP")


def _sees_bridged() -> bool:
    try:
        return _SEES_BRIDGED.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _does(program: str, action: str, rule: tuple[str, ...]) -> bool:
    try:
        _run(program, action, rule)
    except OSError:
        return False
    return True


def _run(program: str, action: str, rule: tuple[str, ...]) -> None:
    words = [program, "--wait", str(int(SECONDS / 2)), "--table", "mangle", action, *rule]
    try:
        subprocess.run(words, capture_output=True, check=True, timeout=SECONDS)
    except subprocess.CalledProcessError as error:
        raise OSError(f"`{' '.join(words)}` failed: {error.stderr.decode(errors='replace').strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"`{' '.join(words)}` did not end within {SECONDS:g} s") from error
