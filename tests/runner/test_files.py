"""Files of a workspace are read, written, copied, moved and removed, whatever stands in their place."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import file_work, files, jail, trees
from runner.jail import JailError
from schema.errors import MoonyardError


def go_on() -> None:
    """Let work go on."""


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(MoonyardError) as caught:
        work()
    assert caught.value.message.isprintable()
    return caught.value.code


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- reading and writing


def test_a_new_file_is_for_every_user_and_an_old_one_stays_what_it_is(workspace: Path) -> None:
    files.write(workspace, "new", b"text", go_on)
    assert (mode_of(workspace / "new"), (workspace / "new").read_bytes()) == (0o666, b"text")
    (workspace / "new").chmod(0o640)
    other = workspace / "other name"
    other.hardlink_to(workspace / "new")
    files.write(workspace, "new", b"more", go_on)
    files.write(workspace, "/workspace/new", b" and more", go_on, append=True)
    assert (mode_of(other), other.read_bytes()) == (0o640, b"more and more")
    files.write(workspace, "new", b"", go_on, mode=0o600)
    assert (mode_of(other), other.read_bytes()) == (0o600, b"")


def test_a_file_with_a_mode_has_it_before_anything_is_in_it(workspace: Path) -> None:
    with files.writing(workspace, "key", mode=0o600):
        assert mode_of(workspace / "key") == 0o600


def test_a_link_within_the_workspace_is_written_through_and_one_to_nothing_is_not(workspace: Path) -> None:
    (workspace / "file").write_bytes(b"old")
    (workspace / "link").symlink_to("file")
    (workspace / "dangling").symlink_to("missing")
    files.write(workspace, "link", b"new", go_on)
    assert (workspace / "file").read_bytes() == b"new"
    assert code_of(lambda: files.write(workspace, "dangling", b"", go_on)) == "path_not_found"
    assert not (workspace / "missing").exists()


def test_what_is_no_regular_file_is_neither_read_nor_written_nor_waited_for(workspace: Path) -> None:
    (workspace / "folder").mkdir()
    os.mkfifo(workspace / "pipe")
    here = os.open(workspace, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    for path, code in (("folder", "path_is_folder"), ("pipe", "path_refused"), ("socket", "path_refused")):
        for work in (
            lambda path=path: files.read(workspace, path),
            lambda path=path: files.write(workspace, path, b"x", go_on),
            lambda path=path: files.write(workspace, path, b"x", go_on, append=True),
            lambda path=path: files.lines(workspace, path, 0, None),
            lambda path=path: files.digest(workspace, path, "sha256", go_on),
        ):
            assert code_of(work) == code
    for path in ("pipe", "socket"):
        assert code_of(lambda path=path: files.copy(workspace, path, "copy", go_on)) == "path_refused"
        assert code_of(lambda path=path: files.size(workspace, path, go_on)) == "path_refused"
        assert code_of(lambda path=path: files.set_mode(workspace, path, 0o600, go_on, recursive=False)) == (
            "path_refused"
        )
    assert files.remove(workspace, "pipe", go_on, recursive=False)


def test_a_file_that_is_too_large_for_lua_is_read_in_pieces(workspace: Path) -> None:
    with (workspace / "large").open("wb") as file:
        file.truncate(files.READ_BYTES_MAXIMUM + 1)
        file.seek(files.READ_BYTES_MAXIMUM)
        file.write(b"!")
    with pytest.raises(files.FileTooLarge, match="16 MiB") as caught:
        files.read(workspace, "large")
    assert caught.value.hint is not None
    assert "fs.lines" in caught.value.hint
    assert files.read(workspace, "large", offset=files.READ_BYTES_MAXIMUM - 1) == b"\0!"
    assert files.read(workspace, "large", offset=files.READ_BYTES_MAXIMUM, size=100) == b"!"
    assert files.read(workspace, "large", offset=files.READ_BYTES_MAXIMUM + 100) == b""
    assert code_of(lambda: files.lines(workspace, "large", 0, None)) == "file_too_large"


def all_lines(workspace: Path, path: str) -> list[bytes]:
    found, offset, identity, ended = files.lines(workspace, path, 0, None)
    while not ended:
        more, offset, identity, ended = files.lines(workspace, path, offset, identity)
        found += more
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=20), st.booleans())
def test_lines_are_those_of_the_file(workspace: Path, lines: list[bytes], ends: bool) -> None:
    (workspace / "file").write_bytes(b"\n".join(lines) + (b"\n" if ends and lines else b""))
    expected = lines if ends or (lines and lines[-1]) else lines[:-1]
    assert all_lines(workspace, "file") == expected


def test_lines_of_a_large_file_come_in_portions_and_from_one_file(workspace: Path) -> None:
    lines = [b"%d " % number + b"x" * (number % 5000) for number in range(1000)]
    (workspace / "file").write_bytes(b"\n".join(lines))
    assert all_lines(workspace, "file") == lines
    _, offset, identity, ended = files.lines(workspace, "file", 0, None)
    assert not ended
    (workspace / "new").write_bytes(b"other\n" * 200_000)
    (workspace / "new").rename(workspace / "file")
    with pytest.raises(JailError, match="replaced"):
        files.lines(workspace, "file", offset, identity)


# --- trees


def make_tree(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "program").write_bytes(b"#!/bin/sh\n")
    (folder / "deep" / "er" / "program").chmod(0o755)
    (folder / "empty").mkdir(mode=0o700)
    (folder / "link").symlink_to("/nowhere")
    (folder / "large").write_bytes(os.urandom(3 * 1024 * 1024))
    (folder / "key").write_bytes(b"key")
    (folder / "key").chmod(0o600)
    os.mkfifo(folder / "pipe")


def described(folder: Path) -> dict[str, tuple[str, int, str | bytes | None]]:
    found: dict[str, tuple[str, int, str | bytes | None]] = {}
    for path in sorted(folder.rglob("*")):
        kind = jail.kind(path.lstat().st_mode)
        content = str(path.readlink()) if kind == "link" else path.read_bytes() if kind == "file" else None
        found[str(path.relative_to(folder))] = (kind, mode_of(path), content)
    return found


def test_a_folder_is_copied_with_its_modes_and_links_and_without_what_is_special(workspace: Path) -> None:
    (workspace / "from").mkdir()
    make_tree(workspace / "from")
    assert files.copy(workspace, "from", "to", go_on) == 3
    expected = described(workspace / "from")
    del expected["pipe"]
    assert described(workspace / "to") == expected
    assert files.size(workspace, "to", go_on) == 3 * 1024 * 1024 + 3 + 10
    assert code_of(lambda: files.copy(workspace, "from", "to", go_on)) == "path_exists"


def test_a_folder_copied_into_itself_does_not_go_on_for_ever(workspace: Path) -> None:
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "a" / "file").write_bytes(b"x")
    assert files.copy(workspace, "a", "a/b/copy", go_on) == 1
    assert sorted(described(workspace / "a")) == ["b", "b/copy", "b/copy/b", "b/copy/file", "file"]


def test_a_file_is_copied_over_another_with_its_mode_and_never_over_itself(workspace: Path) -> None:
    (workspace / "from").write_bytes(b"from")
    (workspace / "from").chmod(0o755)
    (workspace / "to").write_bytes(b"what was there")
    (workspace / "link").symlink_to("from")
    assert files.copy(workspace, "from", "to", go_on) == 1
    assert ((workspace / "to").read_bytes(), mode_of(workspace / "to")) == (b"from", 0o755)
    for target in ("from", "link"):
        assert code_of(lambda target=target: files.copy(workspace, "from", target, go_on)) == "path_exists"
    assert (workspace / "from").read_bytes() == b"from"


def test_moving_replaces_files_and_empty_folders_only(workspace: Path) -> None:
    for name in ("a", "b", "c"):
        (workspace / name).write_bytes(name.encode())
    (workspace / "full" / "in").mkdir(parents=True)
    (workspace / "empty").mkdir()
    files.move(workspace, "a", "b")
    assert ((workspace / "b").read_bytes(), (workspace / "a").exists()) == (b"a", False)
    files.move(workspace, "full/in", "empty")
    files.move(workspace, "b", "full/b")
    for source, target, code in (
        ("missing", "x", "path_not_found"),
        ("c", "nowhere/c", "path_not_found"),
        ("c", "full", "path_is_folder"),
        ("empty", "full", "path_exists"),
        ("empty", "c", "path_refused"),
        ("full", "full/inside", "path_refused"),
        (".", "x", "path_refused"),
        ("c", "../c", "path_refused"),
    ):
        assert code_of(lambda source=source, target=target: files.move(workspace, source, target)) == code
    assert (workspace / "c").read_bytes() == b"c"


def test_removing_takes_what_is_named_and_not_what_a_link_leads_to(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"")
    (workspace / "folder").mkdir()
    make_tree(workspace / "folder")
    (workspace / "folder" / "out").symlink_to(tmp_path / "outside")
    (workspace / "out").symlink_to(tmp_path / "outside")
    assert code_of(lambda: files.remove(workspace, "folder", go_on, recursive=False)) == "path_not_empty"
    assert files.remove(workspace, "folder", go_on, recursive=True)
    assert files.remove(workspace, "out", go_on, recursive=True)
    assert not files.remove(workspace, "out", go_on, recursive=True)
    assert not files.remove(workspace, "nowhere/at/all", go_on, recursive=True)
    assert code_of(lambda: files.remove(workspace, ".", go_on, recursive=True)) == "path_refused"
    assert list(workspace.iterdir()) == []
    assert (tmp_path / "outside" / "file").exists()


def test_a_tree_of_any_depth_is_removed_and_one_that_is_too_deep_is_not_walked(workspace: Path) -> None:
    here = os.open(workspace, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("x", dir_fd=here)
        inner = os.open("x", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for work in (
        lambda: files.size(workspace, "x", go_on),
        lambda: files.copy(workspace, "x", "y", go_on),
        lambda: files.set_mode(workspace, ".", 0o600, go_on, recursive=True),
    ):
        assert code_of(work) == "too_many_files"
    assert files.remove(workspace, "x", go_on, recursive=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert files.remove(workspace, "y", go_on, recursive=True)


def test_more_files_than_are_looked_at_are_told_instead(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "LOOKED_AT_MAXIMUM", 20)
    for number in range(21):
        (workspace / str(number)).mkdir()
    assert code_of(lambda: files.size(workspace, ".", go_on)) == "too_many_files"
    (workspace / "0").rmdir()
    assert files.size(workspace, ".", go_on) == 0


def test_folders_are_made_with_those_above_and_for_every_user(workspace: Path) -> None:
    (workspace / "file").write_bytes(b"")
    (workspace / "real").mkdir()
    (workspace / "link").symlink_to("real")
    assert jail.make_folders(workspace, "a/b/c")
    assert not jail.make_folders(workspace, "/workspace/a/b/c")
    assert {mode_of(path) for path in (workspace / "a").rglob("*")} == {0o777}
    assert jail.make_folders(workspace, "link/d")
    assert (workspace / "real" / "d").is_dir()
    assert code_of(lambda: jail.make_folders(workspace, "file")) == "path_exists"
    assert code_of(lambda: jail.make_folders(workspace, "file/x")) == "path_exists"


def test_temporary_files_and_folders_have_names_of_their_own(workspace: Path) -> None:
    made = {files.temporary(workspace, "t-", ".x", folder=folder) for folder in (True, False, True, False)}
    assert len(made) == 4
    assert {(workspace / name).is_dir() for name in made} == {True, False}


# --- threads


async def test_work_stops_when_its_job_is_cancelled() -> None:
    started, stopped = threading.Event(), threading.Event()

    def work(check: trees.Check) -> None:
        started.set()
        try:
            while True:
                check()
        finally:
            stopped.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(file_work.run, "fs.try", work)
        with anyio.fail_after(60):
            await anyio.to_thread.run_sync(started.wait)
        tasks.cancel_scope.cancel()
    assert stopped.is_set()


async def test_work_that_takes_too_long_is_stopped_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(check: trees.Check) -> None:
        while True:
            check()

    monkeypatch.setattr(file_work, "SECONDS", 0.01)
    with pytest.raises(file_work.FileWorkTimeout, match=r"fs\.try"):
        await file_work.run("fs.try", work)


async def test_a_full_disk_is_told_as_one() -> None:
    def work(_: trees.Check) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(JailError, match=r"fs\.try: .*no space left") as caught:
        await file_work.run("fs.try", work)
    assert caught.value.code == "disk_full"


PATHS = st.lists(st.sampled_from(["a", "b", "l", "m", ".", "", "..", "/", "ü", "\udcff"]), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    st.dictionaries(st.sampled_from(["l", "a/l", "a/m"]), PATHS, max_size=3),
    st.lists(st.tuples(st.integers(0, 6), PATHS, PATHS), min_size=1, max_size=8),
)
def test_no_run_of_calls_changes_anything_outside(
    tmp_path_factory: pytest.TempPathFactory,
    links: dict[str, list[str]],
    calls: list[tuple[int, list[str], list[str]]],
) -> None:
    base = tmp_path_factory.mktemp("jailed")
    workspace = base / "workspace"
    (workspace / "a").mkdir(parents=True)
    (base / "a" / "b").mkdir(parents=True)
    (base / "b").write_bytes(b"outside")
    for name, target in links.items():
        (workspace / name).symlink_to("/".join(target) or ".")
    before = described(base / "a"), (base / "b").stat()
    for number, parts, others in calls:
        path, other = "/".join(parts), "/".join(others)
        works: list[Callable[[], object]] = [
            lambda path=path: files.write(workspace, path, b"x", go_on),
            lambda path=path: jail.make_folders(workspace, path),
            lambda path=path, other=other: files.copy(workspace, path, other, go_on),
            lambda path=path, other=other: files.move(workspace, path, other),
            lambda path=path: files.remove(workspace, path, go_on, recursive=True),
            lambda path=path: files.set_mode(workspace, path, 0o700, go_on, recursive=True),
            lambda path=path: files.read(workspace, path),
        ]
        with suppress(JailError):
            assert works[number]() != b"outside"
    assert (described(base / "a"), (base / "b").stat()) == before
    assert sorted(path.name for path in base.iterdir()) == ["a", "b", "workspace"]
