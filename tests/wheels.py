"""Wheels for containers that reach no index: of what this Python has installed, and of a project made up."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path


def repacked(name: str, folder: Path) -> Path:
    """Make a wheel of an installed distribution of pure Python, of the very files that were installed."""
    found = metadata.distribution(name)
    wheel = folder / f"{name.replace('-', '_')}-{found.version}-py3-none-any.whl"
    assert found.files is not None
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in found.files:
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in {"INSTALLER", "REQUESTED"}:
                packed.write(found.locate_file(file), str(file))  # pyright: ignore[reportArgumentType]
    return wheel


def made(name: str, version: str, code: str, folder: Path) -> Path:
    """Make a wheel of one module."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr(f"{name}.py", code)
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return wheel
