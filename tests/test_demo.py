"""What `make demo` brings of its own: a project in a repository, and a git daemon on an address that comes and goes."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from scripts import demo
from scripts.git_server import GitServer


def archive(path: Path) -> Path:
    """Pack a project as the package index does: owned by somebody of another machine."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {"README.md": "read me\n", "src/code.py": "print(1)\n"}.items():
            entry = tarfile.TarInfo(f"{demo.PROJECT}-{demo.PROJECT_VERSION}/{name}")
            entry.size, entry.uid, entry.gid = len(text), 12345, 12345
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


def commit_of(repository: Path) -> str:
    done = subprocess.run(
        ["git", "--git-dir", repository, "rev-parse", "main"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_same_source_is_the_same_commit_wherever_it_is_made(tmp_path: Path):
    packed = archive(tmp_path / "a.tar.gz")
    for name in ("one", "two"):
        demo._make_repository(packed, tmp_path / name / "project.git")
    assert commit_of(tmp_path / "one" / "project.git") == commit_of(tmp_path / "two" / "project.git")


def test_a_repository_is_cloned_from_the_git_daemon(tmp_path: Path):
    demo._make_repository(archive(tmp_path / "a.tar.gz"), tmp_path / "served" / "project.git")
    with GitServer(tmp_path / "served", "127.0.0.1") as server:
        subprocess.run(
            ["git", "clone", "--quiet", f"{server.url}/project.git", tmp_path / "clone"], check=True, timeout=30
        )
    assert (tmp_path / "clone" / "src" / "code.py").read_text() == "print(1)\n"


def test_the_git_daemon_tells_that_a_repository_is_not_there(tmp_path: Path):
    with GitServer(tmp_path, "127.0.0.1") as server:
        done = subprocess.run(
            ["git", "clone", f"{server.url}/none.git", tmp_path / "clone"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode != 0
    assert "no such repository" in done.stderr


def test_the_git_daemon_listens_on_an_address_that_no_interface_has(tmp_path: Path):
    with GitServer(tmp_path, "192.0.2.1") as server:
        assert server.url.startswith("git://192.0.2.1:")


def test_the_demo_fetches_what_it_pinned_and_nothing_else():
    assert len(demo.PROJECT_SHA256) == hashlib.sha256().digest_size * 2
    assert (demo.CHECKOUT / "examples" / f"{demo.PROJECT}.lua").is_file()


def test_what_is_shown_can_be_typed_as_it_stands():
    assert demo._quoted("plain") == "plain"
    assert demo._quoted("SELECT * FROM inspect.job('4')") == "\"SELECT * FROM inspect.job('4')\""
    assert demo._quoted("it's $HOME") == "'it'\"'\"'s $HOME'"


def test_debian_packages_says_nothing_where_nothing_is_missing():
    done = subprocess.run(
        [demo.CHECKOUT / "scripts" / "debian-packages", "sh=dash", "none,/bin/sh=dash"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_setup_refuses_a_python_that_does_not_fit(tmp_path: Path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\ncase $1 in --version) echo Python 3.9.1 ;; *) exit 1 ;; esac\n")
    old.chmod(0o755)
    done = subprocess.run(
        [demo.CHECKOUT / "scripts" / "setup", old, tmp_path / "venv", "requirements.lock"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_demo_explains_its_option():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--help"], cwd=demo.CHECKOUT, capture_output=True, text=True, check=True
    )
    assert "--keep" in done.stdout


def test_the_tour_goes_through_and_leaves_nothing_running():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo"], cwd=demo.CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "extensions: 498 tests passed" in done.stdout
    assert done.stdout.rstrip().endswith("all that was started is stopped")
    state = str(demo.STATE)
    assert [words for words in map(_words, Path("/proc").glob("[0-9]*/cmdline")) if state in words] == []


def _words(cmdline: Path) -> str:
    try:
        return cmdline.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has ended
        return ""
