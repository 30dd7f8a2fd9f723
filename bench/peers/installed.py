"""Installs peers, once, into a folder of the checkout; what is missing for that is a reason, not a failure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = CHECKOUT / ".moonyard" / "bench"
INSTALL_SECONDS_MAXIMUM: Final = 600.0


class PeerMissing(Exception):
    """A peer cannot be had on this machine; the message says why."""


def npm(package: str, version: str, program: str) -> Path:
    """Install a package from npm and give its program.

    :raises PeerMissing: when there is no npm, or the package cannot be fetched.
    """
    path = FOLDER / "node_modules" / ".bin" / program
    if not path.exists():
        if shutil.which("npm") is None:
            raise PeerMissing(f"{package} is an npm package, and there is no npm on this machine")
        FOLDER.mkdir(parents=True, exist_ok=True)
        _install(
            package, ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), f"{package}@{version}"]
        )
    return path


def debian(program: str, package: str) -> None:
    """Install a Debian package if its program is missing.

    :raises PeerMissing: when it cannot be installed.
    """
    if shutil.which(program) is None:
        _install(package, [str(CHECKOUT / "scripts" / "debian-packages"), f"{program}={package}"])


def pip(packages: dict[str, str], program: str) -> Path:
    """Install packages into a virtual environment of their own and give a program of theirs.

    :raises PeerMissing: when they cannot be fetched.
    """
    name = next(iter(packages))
    environment = FOLDER / name
    path = environment / "bin" / program
    if not path.exists():
        shutil.rmtree(environment, ignore_errors=True)
        _install(name, [sys.executable, "-m", "venv", str(environment)])
        wanted = [f"{package}=={version}" for package, version in packages.items()]
        _install(name, [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted])
    return path


def _install(package: str, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAXIMUM, cwd=CHECKOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(f"{package} could not be installed: {error}") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise PeerMissing(f"{package} could not be installed: {said[-1] if said else command[0]}")
