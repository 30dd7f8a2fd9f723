"""The one shape of a benchmark's result: figures, notes on them, and where and how they came about."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

Report = dict[str, Any]
"""As it is printed as JSON: figures by name beside ``name``, ``quick``, ``cpus``, ``versions``, ``how``, ``notes``."""

_FACTS: Final = ("name", "quick", "cpus", "versions", "how", "notes")


def report(
    name: str,
    figures: Mapping[str, float | int | None],
    *,
    quick: bool,
    how: str,
    notes: Mapping[str, str],
    versions: Mapping[str, str | None] | None = None,
) -> Report:
    """Put a result together.

    :param how: what was run how often, in a sentence or two.
    :param notes: by figure, why it is missing or what to know of it.
    """
    unexplained = [figure for figure, value in figures.items() if value is None and figure not in notes]
    assert not unexplained, f"a missing figure has a reason: {unexplained}"
    return {
        "name": name,
        **{figure: None if value is None else _rounded(value) for figure, value in figures.items()},
        "quick": quick,
        "cpus": len(os.sched_getaffinity(0)),
        "versions": {
            "moonyard": importlib.metadata.version("moonyard"),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "podman": podman_version(),
            **(versions or {}),
        },
        "how": how,
        "notes": dict(notes),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the smallest value that ``percent`` of all values do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def podman_version() -> str | None:
    try:
        done = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.split()[-1] if done.returncode == 0 else None


def table(result: Report) -> str:
    """Write a result for people."""
    figures = {name: value for name, value in result.items() if name not in _FACTS}
    width = max(len(name) for name in figures)
    lines = [f"{result['name']}{' (quick)' if result['quick'] else ''}, {result['cpus']} cpus"]
    for name, value in figures.items():
        note = result["notes"].get(name)
        shown = "-" if value is None else f"{value:g}"
        lines.append(f"  {name:<{width}}  {shown:>10}" + (f"  {note}" if note else ""))
    lines.append("how: " + result["how"])
    lines.append("versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    return "\n".join(lines) + "\n"


def _rounded(value: float) -> float | int:
    """Keep four digits that say something."""
    return value if isinstance(value, int) or not value else float(f"{value:.4g}")
