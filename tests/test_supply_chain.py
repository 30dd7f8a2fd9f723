"""What Moonyard is made of is locked by hash, complete, told in a bill of materials, and can be audited."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import lock_file, sbom
from scripts.lock_file import DEVELOPMENT, RUNTIME
from tests import wheels
from tests.test_layout import PACKAGES

CHECKOUT = lock_file.CHECKOUT
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
HERE = {key: str(value) for key, value in default_environment().items()}
PYTHONS = ("3.11", "3.12", "3.13")


def of_group(name: str) -> list[str]:
    """Give the requirements of a group, with those of the groups that it includes."""
    found: list[str] = []
    for entry in PROJECT["dependency-groups"][name]:
        found += [entry] if isinstance(entry, str) else of_group(entry["include-group"])
    return found


STATED = {
    RUNTIME: [*PROJECT["project"]["dependencies"], *of_group("build")],
    DEVELOPMENT: [*PROJECT["project"]["dependencies"], *of_group("dev")],
}


def needed(stated: list[str]) -> dict[str, set[str]]:
    """Follow requirements through what is installed, for Linux and each Python; give who asks for each package."""
    found: dict[str, set[str]] = {}
    waiting = [("pyproject.toml", text, frozenset[str]()) for text in stated]
    seen: set[tuple[str, str, frozenset[str]]] = set()
    while waiting:
        asking, text, extras = waiting.pop()
        requirement = Requirement(text)
        environments = [
            HERE | {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
            for python in PYTHONS
            for extra in extras or {""}
        ]
        if requirement.marker is not None and not any(requirement.marker.evaluate(one) for one in environments):
            continue
        name = canonicalize_name(requirement.name)
        found.setdefault(name, set()).add(f"{asking} asks for {requirement}")
        key = (name, "", frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            try:
                texts = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # of another Python alone
                continue
            waiting += [(name, text, frozenset(requirement.extras)) for text in texts]
    return found


@pytest.mark.parametrize("path", [RUNTIME, DEVELOPMENT], ids=lambda path: path.name)
def test_every_locked_package_is_held_to_one_version_and_to_hashes(path: Path) -> None:
    locked = lock_file.read(path)
    assert len({package.name for package in locked}) == len(locked) > len(STATED[path])
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for package in locked for digest in package.sha256)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("a==1", "`a==1` has no SHA-256"),
        ("a==1 --hash=sha256:00 --hash=md5:00", "`a==1` has no SHA-256, or other hashes"),
        ("a>=1 --hash=sha256:00", "not held to one version"),
        ("a==1.* --hash=sha256:00", "not held to one version"),
        ("-e ../a", "is no requirement"),
    ],
)
def test_a_line_that_locks_nothing_is_refused(line: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text(line + "\n")
    with pytest.raises(lock_file.LockInvalid, match=re.escape(wrong)):
        lock_file.read(tmp_path / "some.lock")


@pytest.mark.parametrize("path", [RUNTIME, DEVELOPMENT], ids=lambda path: path.name)
def test_a_lock_file_has_what_the_project_and_its_packages_ask_for(path: Path) -> None:
    locked = {package.name: package.version for package in lock_file.read(path)}
    wrong = [
        f"{asked}: {locked.get(name, 'it is not locked')}"
        for name, asking in needed(STATED[path]).items()
        for asked in asking
        if name not in locked
        or not Requirement(asked.rpartition(" asks for ")[2]).specifier.contains(locked[name], prereleases=True)
    ]
    assert wrong == [], "`make lock` writes the lock files anew"


def test_what_runs_has_nothing_locked_that_only_tests_or_checks_need() -> None:
    asked = needed(STATED[RUNTIME])
    # What is not for Linux is somebody's need elsewhere, which is not followed here.
    unasked = [package.name for package in lock_file.read(RUNTIME) if package.is_for_here and package.name not in asked]
    assert unasked == []


def imported(package: str) -> Iterator[tuple[str, str]]:
    """Give the modules that a package of ours imports from elsewhere, each with the file."""
    for source in sorted((CHECKOUT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            match node:
                case ast.Import():
                    names = [alias.name for alias in node.names]
                case ast.ImportFrom(module=str(module), level=0):
                    names = [module]
                case _:
                    continue
            for name in {name.partition(".")[0] for name in names} - PACKAGES - sys.stdlib_module_names:
                yield name, str(source.relative_to(CHECKOUT))


def test_what_the_packages_import_is_locked_for_what_runs() -> None:
    locked = {package.name for package in lock_file.read(RUNTIME)}
    optional = set(needed(PROJECT["project"]["optional-dependencies"]["tracing"]))
    offering = metadata.packages_distributions()
    wrong = [
        f"{file} imports {module}"
        for package in PACKAGES - {"bench"}
        for module, file in imported(package)
        if not {canonicalize_name(name) for name in offering.get(module, [])} & (locked | optional)
    ]
    assert wrong == []


def test_development_uses_what_runs_in_the_very_same_versions() -> None:
    development = {package.name: package for package in lock_file.read(DEVELOPMENT)}
    for package in lock_file.read(RUNTIME):
        assert development[package.name].version == package.version, package.name
        assert development[package.name].sha256 == package.sha256, package.name


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    return json.loads(sbom.document())


def test_the_bill_of_materials_fits_its_schema() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.document()) is None


def test_the_bill_of_materials_is_the_same_each_time(tmp_path: Path) -> None:
    for name, seed in (("one", "1"), ("other", "2")):
        argv = [sys.executable, "-m", "scripts.sbom", str(tmp_path / name)]
        subprocess.run(argv, cwd=CHECKOUT, env={"PYTHONHASHSEED": seed}, check=True, capture_output=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_the_bill_of_materials_has_each_locked_package_with_its_hashes_and_no_others(bill: dict[str, Any]) -> None:
    listed = {part["name"]: part for part in bill["components"] if part["purl"].startswith("pkg:pypi/")}
    locked = {package.name: package for package in lock_file.read(RUNTIME)}
    assert set(listed) == set(locked)
    for name, package in locked.items():
        assert listed[name]["version"] == package.version
        [files] = listed[name]["externalReferences"]
        assert {digest["content"] for digest in files["hashes"]} == set(package.sha256)
    unlicensed = [name for name, part in listed.items() if locked[name].is_for_here and not part.get("licenses")]
    assert unlicensed == []
    assert listed["setuptools"]["scope"] == "excluded", "it builds, and does not run"


def test_the_bill_of_materials_says_who_needs_whom(bill: dict[str, Any]) -> None:
    needs = {entry["ref"].partition("@")[0]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert any(ref.startswith("pkg:pypi/litestar@") for ref in needs["moonyard"])
    assert any(ref.startswith("pkg:pypi/psycopg-binary@") for ref in needs["pkg:pypi/psycopg"]), "by an extra"
    needed_by_somebody = {ref.partition("@")[0] for refs in needs.values() for ref in refs}
    lone = {part["name"] for part in bill["components"] if part["purl"].partition("@")[0] not in needed_by_somebody}
    assert lone <= {"colorama", "setuptools", "tzdata"}, "of other systems, and what only builds"


def test_the_bill_of_materials_names_debian_packages_and_images(bill: dict[str, Any]) -> None:
    listed = {part["purl"] for part in bill["components"]}
    assert {f"pkg:deb/debian/{name}" for name in ("podman", "netavark", "libseccomp2", "catatonit")} <= listed
    assert {"pkg:docker/library/postgres@17", "pkg:docker/library/alpine@latest"} <= listed


def test_a_package_that_is_not_installed_as_it_is_locked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RUNTIME.read_text(encoding="utf-8").replace("attrs==", "attrs==9")
    (tmp_path / "other.lock").write_text(text, encoding="utf-8")
    monkeypatch.setattr(lock_file, "RUNTIME", tmp_path / "other.lock")
    assert sbom.main([str(tmp_path / "bill")]) == 1
    assert "`attrs` is locked as 9" in capsys.readouterr().err
    assert not (tmp_path / "bill").exists()


class Index:
    """A package index of one's own, and advisories (OSV) of what is in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lock = folder / "some.lock"
        self.lock.write_text("")

    def add(self, name: str, *, mark: str = "") -> None:
        wheel = wheels.made(name, "1.0", "", self._folder)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        page = self._folder / "simple" / name
        page.mkdir(parents=True)
        (page / "index.html").write_text(
            f'<!DOCTYPE html><a href="{wheel.as_uri()}#sha256={digest}" {mark}>{wheel.name}</a>'
        )
        with self.lock.open("a") as lock:
            lock.write(f"{name}==1.0 --hash=sha256:{digest}\n")

    def audit(self, advisories: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._folder),
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": (self._folder / "simple").as_uri(),
            "PIP_AUDIT_VULNERABILITY_SERVICE": "osv",
            "PIP_AUDIT_OSV_URL": advisories,
        }
        argv = [sys.executable, "-m", "scripts.audit", str(self.lock)]
        return subprocess.run(argv, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


@contextmanager
def advising(name: str, *, status: int = 200) -> Generator[str]:
    """Serve one advisory, of a package; give the address."""
    advisory = {
        "id": "TEST-2026-1",
        "modified": "2026-01-01T00:00:00Z",
        "published": "2026-01-01T00:00:00Z",
        "details": "It is unsafe.",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": name},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
                "versions": ["1.0"],
            }
        ],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": [advisory]} if asked["package"]["name"] == name else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's own word
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


def test_an_audit_tells_of_an_advisory_and_of_what_was_taken_back(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.add("harmless")
    index.add("unsafe")
    index.add("yanked", mark='data-yanked="it was broken"')
    with advising("unsafe") as address:
        done = index.audit(address)
    assert done.stdout.splitlines() == [
        "unsafe: taken back: yanked 1.0",
        "unsafe: unsafe 1.0: TEST-2026-1, fixed by 1.1",
    ], done.stderr
    assert done.returncode == 1


def test_an_audit_without_findings_ends_well(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.add("harmless")
    with advising("unsafe") as address:
        done = index.audit(address)
    assert (done.returncode, done.stdout) == (0, "nothing is known against any of them\n"), done.stderr


def test_an_audit_that_could_not_ask_does_not_call_anything_safe(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.add("harmless")
    with advising("unsafe", status=503) as address:
        done = index.audit(address)
    assert done.returncode == 2
    assert done.stdout.startswith("unknown: some.lock: ")
    assert "nothing is known" not in done.stdout
