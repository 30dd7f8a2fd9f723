"""The jail: files of a workspace can be read, nothing else, whatever stands in the workspace."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import beneath, jail
from runner.jail import JailError, open_file


@pytest.fixture(params=["by the kernel", "name by name"], autouse=True)
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to find what a path names: by the call that newer kernels have, and without it."""
    if request.param == "name by name":
        monkeypatch.setattr(beneath, "kernel_can", lambda: False)
    else:
        assert beneath.kernel_can()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


def read(workspace: Path, path: str) -> bytes:
    with open_file(workspace, path) as file:
        return file.read()


def refusal(workspace: Path, path: str) -> str:
    with pytest.raises(JailError) as caught:
        read(workspace, path)
    assert caught.value.message.isprintable()
    return caught.value.code


@pytest.mark.parametrize("path", ["a/b/file", "/workspace/a/b/file", "./a//b/./file", "/workspace//a/b/file"])
def test_a_file_of_the_workspace_is_read_by_either_of_its_names(workspace: Path, path: str) -> None:
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "a" / "b" / "file").write_bytes(b"\0content")
    assert read(workspace, path) == b"\0content"


@pytest.mark.parametrize("name", ["new\nline", " ", "-rf", "ü", "\udcff\udcfe", "a" * 255])
def test_a_file_may_have_any_name(workspace: Path, name: str) -> None:
    (workspace / name).write_bytes(b"x")
    assert read(workspace, name) == b"x"


@pytest.mark.parametrize(
    "path",
    ["..", "../outside/secret", "a/../../outside/secret", "/etc/passwd", "/", "", ".", "/workspace", "/workspacex/a",
     "/workspace/../etc/passwd", "a\0b", "x" * 5000, "x/" * 3000],
)  # fmt: skip
def test_a_path_that_leads_out_or_names_nothing_is_refused(workspace: Path, secret: Path, path: str) -> None:
    assert (secret / "secret").exists()
    assert refusal(workspace, path) in {"path_refused", "path_not_found"}


def test_links_are_never_followed_wherever_they_stand_and_lead(workspace: Path, secret: Path) -> None:
    (workspace / "file").write_text("x")
    (workspace / "folder").mkdir()
    (workspace / "link").symlink_to(secret / "secret")
    (workspace / "folder link").symlink_to(secret)
    (workspace / "inner").symlink_to("file")
    (workspace / "self").symlink_to("self")
    (workspace / "folder" / "up").symlink_to("..")
    (workspace / "descriptor").symlink_to("/proc/self/fd")
    for path in ("link", "folder link/secret", "inner", "self", "folder/up/file", "descriptor/0"):
        assert refusal(workspace, path) == "path_refused"


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(workspace: Path) -> None:
    os.mkfifo(workspace / "fifo")
    (workspace / "folder").mkdir()
    (workspace / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(workspace, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/socket")  # a path that fits into an address
        os.close(here)
        assert refusal(workspace, "socket") == "path_refused"
    assert refusal(workspace, "fifo") == "path_refused"
    assert refusal(workspace, "folder") == "path_is_folder"
    assert refusal(workspace, "file/x") == "path_refused"
    assert refusal(workspace, "missing") == "path_not_found"
    assert refusal(workspace, "missing/x") == "path_not_found"


def test_no_handle_is_left_open_by_what_was_read_or_refused(workspace: Path) -> None:
    (workspace / "folder").mkdir()
    (workspace / "folder" / "file").write_text("x")
    os.mkfifo(workspace / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    read(workspace, "folder/file")
    for path in ("folder", "fifo", "missing", "folder/file/x", "../x"):
        refusal(workspace, path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "", "a", "link", "secret", "outside", "/", "/workspace", "~"]), max_size=6))
def test_no_path_of_any_parts_reads_what_stands_outside(workspace: Path, secret: Path, parts: list[str]) -> None:
    (workspace / "a").mkdir(exist_ok=True)
    if not (workspace / "link").is_symlink():
        (workspace / "link").symlink_to(secret)
    with pytest.raises(JailError):
        read(workspace, "/".join(parts))


def target(workspace: Path, path: str, *, follow: bool = True) -> tuple[int, int]:
    with jail.handle(workspace, path, follow=follow) as handle:
        facts = os.fstat(handle)
        return facts.st_dev, facts.st_ino


def identity(path: Path) -> tuple[int, int]:
    facts = path.lstat()
    return facts.st_dev, facts.st_ino


def test_links_that_stay_in_the_workspace_are_followed_where_that_is_wanted(workspace: Path) -> None:
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "a" / "b" / "file").write_text("x")
    (workspace / "to a").symlink_to("./a/")
    (workspace / "a" / "b" / "up").symlink_to("../../a/b/../b/file")
    (workspace / "a" / "again").symlink_to("../to a/b")
    (workspace / "here").symlink_to(".")
    for path in ("to a/b/file", "a/b/up", "a/again/up", "to a/again/file", "here/here/to a/b/file"):
        assert target(workspace, path) == identity(workspace / "a" / "b" / "file")
    assert target(workspace, "a/b/up", follow=False) == identity(workspace / "a" / "b" / "up")
    assert target(workspace, "here") == target(workspace, ".") == identity(workspace)


def test_links_that_lead_out_are_refused_whether_there_is_something_or_not(workspace: Path, secret: Path) -> None:
    (workspace / "a").mkdir()
    links = {
        "absolute": str(secret / "secret"),
        "itself": str(workspace / "a"),
        "missing": "/nowhere/at/all",
        "up": "../outside/secret",
        "above": "..",
        "a/far": "../../outside",
        "in and out": "a/../../outside/secret",
        "to up": "up",
        "process": "/proc/self/root/etc/passwd",
    }
    for name, where in links.items():
        (workspace / name).symlink_to(where)
    for path in [*links, "above/outside/secret", "a/far/secret", "above/workspace/a"]:
        with pytest.raises(JailError) as caught:
            target(workspace, path)
        assert (caught.value.code, "leads out" in caught.value.message) == ("path_refused", True), path


def test_links_in_a_circle_end(workspace: Path) -> None:
    (workspace / "one").symlink_to("two")
    (workspace / "two").symlink_to("one")
    (workspace / "chain0").write_text("x")
    for number in range(50):
        (workspace / f"chain{number + 1}").symlink_to(f"chain{number}")
    assert target(workspace, "chain40") == identity(workspace / "chain0")
    for path in ("one", "two/x", "chain41"):
        with pytest.raises(JailError) as caught:
            target(workspace, path)
        assert caught.value.code == "path_refused"


LINKS = st.dictionaries(
    st.sampled_from(["a/l", "a/b/l", "l", "m"]),
    st.lists(st.sampled_from(["..", ".", "", "a", "b", "l", "m", "outside", "secret", "/"]), min_size=1, max_size=6),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(LINKS, st.lists(st.sampled_from(["a", "b", "l", "m", "secret"]), min_size=1, max_size=5), st.booleans())
def test_both_ways_find_the_same_and_never_what_stands_outside(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, list[str]], parts: list[str], follow: bool
) -> None:
    base = tmp_path_factory.mktemp("jail")
    workspace = base / "workspace"
    (workspace / "a" / "b").mkdir(parents=True)
    (base / "outside").mkdir()
    (base / "outside" / "secret").write_text("secret")
    for name, where in links.items():
        (workspace / name).symlink_to("/".join(where) or ".")
    root = os.open(workspace, os.O_PATH)
    try:
        found = [looked_up(resolve, root, "/".join(parts), follow) for resolve in (beneath.by_kernel, beneath.by_walk)]
    finally:
        os.close(root)
    assert found[0] == found[1]
    if isinstance(found[0], Path):
        assert found[0].is_relative_to(workspace)


def looked_up(resolve: beneath.Resolver, root: int, path: str, follow: bool) -> Path | int | None:
    try:
        handle = resolve(root, path, follow, True)
    except OSError as error:
        return error.errno
    try:
        return Path(f"/proc/self/fd/{handle}").readlink()
    finally:
        os.close(handle)


@pytest.mark.parametrize("path", ["a/" * 201 + "b", "x" * 5000, "a/" * 100_000, "ä" * 2049])
def test_a_path_that_is_too_long_or_too_deep_is_refused_before_anything_is_made(workspace: Path, path: str) -> None:
    for is_new in (False, True):
        with pytest.raises(JailError) as raised, jail.place(workspace, path, is_new=is_new):
            pass
    assert len(raised.value.message) < 400
    assert list(workspace.iterdir()) == []
