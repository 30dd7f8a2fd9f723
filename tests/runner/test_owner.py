"""Owners: each holds its folder while it lives; what the dead left is cleared up, whatever stands in it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import owner as owners
from runner.engine.engine import Engine
from runner.engine.errors import EngineLost
from runner.owner import remove_tree
from schema.errors import MoonyardError
from tests.cli.command import ROOT

TAKES = """
import sys, time
from pathlib import Path
from runner import owner
with owner.take(Path(sys.argv[1])) as taken:
    (taken.workspaces / "left").mkdir()
    (taken.workspaces / "left" / "file").write_text("x")
    print(taken.name, flush=True)
    sys.stdin.read()
"""


def taker(state_folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKES, str(state_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return (await anyio.to_thread.run_sync(process.stdout.readline)).decode().strip()


async def test_what_the_dead_left_is_cleared_up_and_the_living_are_left_alone(tmp_path: Path, engine: Engine) -> None:
    with taker(tmp_path) as dead, taker(tmp_path) as living:
        dead_name, living_name = await first_line(dead), await first_line(living)
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        (tmp_path / "owners" / ".nascent").mkdir()
        with owners.take(tmp_path) as mine:
            assert await owners.clear_leftovers(tmp_path, mine, engine) == 1
            names = {folder.name for folder in (tmp_path / "owners").iterdir()}
            assert dead_name not in names
            assert names == {living_name, mine.name, ".nascent"}
            assert await owners.clear_leftovers(tmp_path, mine, engine) == 0
        living.communicate(timeout=30)
    assert {folder.name for folder in (tmp_path / "owners").iterdir()} == {".nascent"}


class DiesOnce:
    """An engine that is lost the first time it is asked, as a private one is that somebody kills just then."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.asked = 0

    async def remove_containers(self, owner: str) -> int:
        self.asked += 1
        if self.asked == 1:
            raise EngineLost("the private container engine was lost while removing a network")
        return await self._engine.remove_containers(owner)


async def test_an_engine_that_dies_while_it_clears_up_is_asked_again(tmp_path: Path, engine: Engine) -> None:
    with taker(tmp_path) as dead:
        dead_name = await first_line(dead)
        dead.kill()
        dead.wait()
    dying = DiesOnce(engine)
    with owners.take(tmp_path) as mine:
        assert await owners.clear_leftovers(tmp_path, mine, dying) == 1
        assert dying.asked == 2
        assert not (tmp_path / "owners" / dead_name).exists()


async def test_a_workspace_is_open_to_any_user_inside_a_folder_that_is_not(tmp_path: Path) -> None:
    with owners.take(tmp_path) as mine:
        async with owners.workspace(mine, "job", 1) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o777
            assert stat.S_IMODE(mine.folder.stat().st_mode) == 0o700
            (folder / "file").write_text("x")
        assert not folder.exists()
        with pytest.raises(RuntimeError):
            async with owners.workspace(mine, "job", 2) as folder:
                raise RuntimeError
        assert not folder.exists()
    assert not mine.folder.exists()


def test_a_state_folder_that_cannot_be_used_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MoonyardError, match="Not a directory") as caught, owners.take(tmp_path / "file" / "state"):
        pass
    assert caught.value.code == "state_folder_unusable"
    assert str(tmp_path / "file" / "state") in caught.value.message


def test_links_in_a_tree_are_removed_and_what_they_lead_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "link").symlink_to(tmp_path / "outside")
    (tree / "a" / "link").symlink_to(tmp_path / "outside")
    (tree / "a" / "self").symlink_to("self")
    os.mkfifo(tree / "a" / "fifo")
    os.link(tmp_path / "outside" / "file", tree / "a" / "hard")
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "outside" / "file").read_text() == "x"
    remove_tree(tree)
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="link"):
        remove_tree(tmp_path / "link")
    assert (tmp_path / "outside" / "file").exists()


def test_a_tree_deeper_than_paths_recursion_and_handles_allow_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    handle = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 50, dir_fd=handle)
        inner = os.open("d" * 50, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    remove_tree(tree)
    assert not tree.exists()


names = st.sampled_from(["0", "1", "2", "a", "new\nline", "\udcff", " "])
trees = st.recursive(st.sampled_from(["file", "link", "fifo"]), lambda inner: st.dictionaries(names, inner, max_size=4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(trees, st.lists(st.sampled_from([0o000, 0o100, 0o500, 0o700]), min_size=1, max_size=4))
def test_any_tree_is_removed_whatever_its_modes(tmp_path: Path, tree: object, modes: list[int]) -> None:
    made = 0

    def make(path: Path, node: object) -> None:
        nonlocal made
        match node:
            case dict():
                inner: dict[str, object] = node  # pyright: ignore[reportUnknownVariableType]  # drawn by `trees`
                path.mkdir()
                for name, child in inner.items():
                    make(path / name, child)
                path.chmod(modes[made % len(modes)])
                made += 1
            case "link":
                path.symlink_to("/")
            case "fifo":
                os.mkfifo(path)
            case _:
                path.touch()

    folder = tmp_path / "tree"
    make(folder, {"0": tree})
    remove_tree(folder)
    assert not folder.exists()


def test_closed_folders_are_removed_also_by_one_who_is_not_root(tmp_path: Path) -> None:
    tree = tmp_path / "state" / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "file").touch()
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    for path in (tree / "a" / "b" / "c", tree / "a" / "b", tree / "a", tree, tree.parent):
        os.chown(path, user, -1)
        if path != tree.parent:
            path.chmod(0)
    # The parents of a test's folder are closed to others: what does the work is opened before it is another user.
    program = (
        "import os, sys; from pathlib import Path; from runner.owner import remove_tree; os.chdir(sys.argv[1]);"
        "os.geteuid() == int(sys.argv[2]) or os.setresuid(*[int(sys.argv[2])] * 3); remove_tree(Path('tree'))"
    )
    subprocess.run([sys.executable, "-c", program, str(tree.parent), str(user)], check=True, cwd=ROOT, timeout=60)
    assert not tree.exists()
