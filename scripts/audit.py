"""Asks whether a locked package is known to be unsafe, or was taken back by who published it: ``make audit``.

It needs a package index that serves advisories, and one that is a mirror may not. What nothing could be learned of is
told as that, and never as safe. Exit code 0: all were looked at, and nothing is known. 1: something is. 2: not all
could be looked at.

A site that has advisories elsewhere names them by pip-audit's own variables: ``PIP_AUDIT_VULNERABILITY_SERVICE=osv``
and ``PIP_AUDIT_OSV_URL``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from scripts import lock_file
from scripts.lock_file import CHECKOUT

EXIT_FOUND: Final = 1
EXIT_UNKNOWN: Final = 2
SECONDS: Final = 900.0
NAMED: Final = 5
"""How many packages a line names of those that nothing is known of."""
_YANKED: Final = re.compile(r"yanked version: '([^']+)' candidate \(version (\S+) ")


class Unanswered(Exception):
    """A program that could not tell."""


def main(arguments: list[str]) -> int:
    """Audit lock files: those that are named, or that of development, which holds all."""
    found: list[str] = []
    unknown: list[str] = []
    for path in [Path(argument) for argument in arguments] or [lock_file.DEVELOPMENT]:
        for ask in (_taken_back, _advised_against):
            try:
                told, untold = ask(path)
            except Unanswered as error:
                unknown.append(f"{path.name}: {error}")
            else:
                found += told
                unknown += untold
    for line in found:
        sys.stdout.write(f"unsafe: {line}\n")
    for line in unknown:
        sys.stdout.write(f"unknown: {line}\n")
    if not found and not unknown:
        sys.stdout.write("nothing is known against any of them\n")
    return EXIT_FOUND if found else EXIT_UNKNOWN if unknown else 0


def _taken_back(path: Path) -> tuple[list[str], list[str]]:
    """List the packages whose locked version the index marks as yanked, which pip warns of. Nothing is installed."""
    options = ("--dry-run", "--ignore-installed", "--no-deps", "--require-hashes", "--quiet")
    _, warnings = _run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, "-r", str(path)]
    )
    return [f"taken back: {name} {version}" for name, version in _YANKED.findall(warnings)], []


def _advised_against(path: Path) -> tuple[list[str], list[str]]:
    """List the packages that there are advisories of, and what there is no answer about."""
    options = ("--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json")
    # With findings, it exits with 1.
    told, _ = _run([sys.executable, "-m", "pip_audit", *options, "-r", str(path)], may_fail=True)
    report: dict[str, Any] = json.loads(told)
    found: list[str] = []
    unanswered: list[str] = []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unanswered.append(package["name"])
        for advisory in package.get("vulns", []):
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            found.append(f"{package['name']} {package['version']}: {advisory['id']}, fixed by {fixed}")
    if not unanswered:
        return found, []
    names = ", ".join(unanswered[:NAMED]) + (", ..." if len(unanswered) > NAMED else "")
    return found, [f"{path.name}: the index serves no advisories of {len(unanswered)} packages ({names})"]


def _run(argv: list[str], *, may_fail: bool = False) -> tuple[str, str]:
    try:
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"`{' '.join(argv[1:4])} ...` did not end within {SECONDS:g} s") from error
    if done.returncode and not (may_fail and done.stdout.startswith("{")):
        raise Unanswered(f"`{' '.join(argv[1:4])} ...` failed: {(done.stderr.strip() or 'it said nothing')[-500:]}")
    return done.stdout, done.stderr


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
