"""The jail while a container does all it can to lead out of it: it swaps files, folders, links and pipes in a loop."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import pytest

from runner import beneath, file_work, files, jail, trees
from runner.archives import extraction, writing
from runner.archives.contents import ArchiveDamaged, ArchiveRefused, Limits
from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.globs import Selection
from runner.jail import JailError
from runner.trees import Check
from tests.engine.conftest import ALPINE, Said, run

SECONDS: Final = 5.0
MET_MINIMUM: Final = 20
SECRET: Final = b"what no job may see"
PATHS: Final = ("d/secret", "f", "d/sub/file", "d/folder/secret", "names/a/b/back/b/c")
FOLDERS: Final = ("d", "names/a", "d/folder")
SWAPS: Final = r"""
swap_folder() {
  while [ ! -e stop ]; do
    rm -rf d; ln -s "$1" d; rm -f d; ln -s ../outside d; rm -f d; ln -s inner/../../outside d; rm -f d
    mkdir -p inner d; echo inside > d/secret; ln -s "$1" d/folder; mkdir d/sub; echo x > d/sub/file
  done
}
swap_file() {
  while [ ! -e stop ]; do
    echo inside > f.new; mv -f f.new f; ln -s "$1/secret" f.link; mv -f f.link f
    rm -f f; mkfifo f; rm -f f; ln -s ../outside/secret f; rm -f f
  done
}
swap_names() {
  while [ ! -e stop ]; do
    mkdir -p names/a/b/c; ln -s ../../../names/a names/a/b/back; mv names/a names/z; rm -rf names/z
  done
}
swap_target() {
  while [ ! -e stop ]; do rm -rf out/kept; ln -s "$1" out/kept; rm -f out/kept; mkdir -p out/kept; done
}
mkdir -p out
swap_folder "$1" & swap_file "$1" & swap_names "$1" & swap_target "$1" & wait
"""


@pytest.fixture(params=["by the kernel", "name by name"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "name by name":
        monkeypatch.setattr(beneath, "kernel_can", lambda: False)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    for file in (folder / "secret", folder / "sub" / "file"):
        file.write_bytes(SECRET)
        file.chmod(0o600)
    return folder


def described(folder: Path) -> list[object]:
    return [
        (path.name, facts.st_mode, facts.st_nlink, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        for path in (folder, *sorted(folder.rglob("*")))
        for facts in [path.lstat()]
    ]


Attempt = Callable[[Check], object]


def attempts(workspace: Path) -> list[Attempt]:
    """Give everything that a script could have done to a path of the workspace."""
    return [
        *(attempt for path in PATHS for attempt in on_path(workspace, path)),
        *(attempt for folder in FOLDERS for attempt in on_folder(workspace, folder)),
        lambda check: files.remove(workspace, "copied folder", check, recursive=True),
        lambda check: extraction.extract(workspace, "seed.tar", "out", Selection(), Limits(), check),
        lambda check: extraction.extract(workspace, "made.tar", "out", Selection(), Limits(), check),
    ]


def on_path(workspace: Path, path: str) -> list[Attempt]:
    return [
        lambda _: files.read(workspace, path),
        lambda check: files.write(workspace, path, b"written", check),
        lambda check: files.write(workspace, path, b"added", check, append=True, mode=0o666),
        lambda check: files.set_mode(workspace, path, 0o666, check, recursive=True),
        lambda check: files.digest(workspace, path, "sha256", check),
        lambda check: files.copy(workspace, path, "copied", check),
        lambda _: files.move(workspace, path, "moved"),
        lambda check: files.copy(workspace, "seed", path, check),
        lambda _: files.move(workspace, "copied", path),
        lambda check: files.remove(workspace, path, check, recursive=True),
        lambda check: extraction.extract(workspace, "seed.tar", path, Selection(), Limits(), check),
    ]


def on_folder(workspace: Path, folder: str) -> list[Attempt]:
    return [
        lambda check: list_all(workspace, folder, check),
        lambda _: jail.make_folders(workspace, f"{folder}/made/in"),
        lambda check: files.copy(workspace, folder, "copied folder", check),
        lambda check: files.remove(workspace, f"{folder}/sub", check, recursive=True),
        lambda check: writing.create(workspace, "made.tar", folder, "tar", Selection(), check),
    ]


def list_all(workspace: Path, path: str, check: Check) -> list[str]:
    with jail.handle(workspace, path) as folder:
        return [entry.path for entry in trees.walk(folder, check)]


def secrets_in(folder: Path) -> list[Path]:
    kept = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in kept if SECRET in path.read_bytes()]


def pack_seed(workspace: Path) -> None:
    (workspace / "seed").write_bytes(b"seed")
    with tarfile.open(workspace / "seed.tar", "w") as tar:
        for name in ("kept/secret", "kept/sub/file"):
            tar.add(workspace / "seed", name)


class Race:
    """Tries all that could be tried, until time is up and enough of it was met both in the workspace and out of it."""

    def __init__(self, workspace: Path) -> None:
        self._attempts = attempts(workspace)
        self._met: set[tuple[int, str]] = set()
        self._end = anyio.current_time() + SECONDS

    @property
    def met_both(self) -> int:
        return sum({(number, "done"), (number, "path_refused")} <= self._met for number in range(len(self._attempts)))

    async def run(self, number: int) -> None:
        while anyio.current_time() < self._end or self.met_both < MET_MINIMUM:
            number = (number + 1) % len(self._attempts)
            try:
                given = await file_work.run("try", self._attempts[number])
            except (JailError, ArchiveRefused, ArchiveDamaged) as error:
                self._met.add((number, error.code))
            else:
                self._met.add((number, "done"))
                assert given != SECRET


async def test_no_link_that_a_container_swaps_leads_out_of_the_workspace(
    engine: Engine, workspace: Path, outside: Path, resolver: None
) -> None:
    pack_seed(workspace)
    before = described(outside)
    spec = ContainerSpec(image=ALPINE, job="a-job", attempt=1, workspace=workspace, network="none")
    container = await engine.create_container(spec, Said())

    async def attack() -> None:
        ran = await run(container, "sh", "-c", SWAPS, "sh", str(outside))
        assert ran.result.code == 0, ran

    with anyio.fail_after(60):
        async with anyio.create_task_group() as attacking:
            attacking.start_soon(attack)
            race = Race(workspace)
            async with anyio.create_task_group() as trying:
                for number in (0, 20, 40):
                    trying.start_soon(race.run, number)
            (workspace / "stop").write_bytes(b"")
    assert described(outside) == before
    assert secrets_in(workspace) == []
