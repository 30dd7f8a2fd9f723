"""The tree is the architecture: what stands at the top, and which way imports point."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = {"schema", "sandbox", "orchestrator", "runner", "plugins", "cli", "bench"}
MAY_IMPORT: dict[str, set[str]] = {
    "schema": set(),
    "plugins": {"schema"},
    "sandbox": {"schema", "plugins"},
    "orchestrator": {"schema", "plugins", "sandbox"},
    "runner": {"schema", "plugins", "sandbox"},
    "cli": {"schema", "plugins", "sandbox", "orchestrator", "runner"},
    "bench": {"schema", "plugins", "sandbox", "orchestrator", "runner", "cli"},
}


def imported_packages(source: Path) -> Iterator[tuple[int, str]]:
    """Give the packages of ours that a file imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module), level=0):
                names = [module]
            case _:
                continue
        for name in names:
            package = name.partition(".")[0]
            if package in PACKAGES:
                yield node.lineno, package


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_only_what_stands_below_it(package: str):
    wrong = [
        f"{source.relative_to(CHECKOUT)}:{line} imports {imported}"
        for source in sorted((CHECKOUT / package).rglob("*.py"))
        for line, imported in imported_packages(source)
        if imported != package and imported not in MAY_IMPORT[package]
    ]
    assert wrong == []


def test_the_layers_that_lint_checks_hold():
    # import-linter follows chains of imports as well, which reading one file at a time does not.
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_layers_that_lint_checks_are_all_packages():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    linter = project["tool"]["importlinter"]
    assert set(linter["root_packages"]) == PACKAGES
    named = {name for layer in linter["contracts"][0]["layers"] for name in re.split(r"\s*\|\s*", layer)}
    assert named == PACKAGES


def test_the_tests_and_scripts_are_imported_by_no_package():
    wrong = [
        f"{source.relative_to(CHECKOUT)}: {line.strip()}"
        for package in PACKAGES
        for source in (CHECKOUT / package).rglob("*.py")
        for line in source.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) (tests|scripts)\b", line)
    ]
    assert wrong == []


def test_what_stands_at_the_top_is_what_the_architecture_names():
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    folders = {line.partition("/")[0] for line in listed.splitlines() if "/" in line}
    assert folders - {".ci"} <= PACKAGES | {"tests", "docs", "examples", "scripts", "containers"}


def test_every_package_says_what_it_is_for():
    silent = [
        str(init.relative_to(CHECKOUT))
        for package in PACKAGES
        for init in (CHECKOUT / package).rglob("__init__.py")
        if ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) is None
    ]
    assert silent == []


def test_no_module_is_named_for_nothing():
    names = {"utils", "common", "helpers", "core", "manager"}
    found = [
        str(source.relative_to(CHECKOUT))
        for package in PACKAGES
        for source in (CHECKOUT / package).rglob("*.py")
        if source.stem in names
    ]
    assert found == []
