"""A workspace is packed and comes back as it was; nothing in it or in a pack leads out of it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from runner import packing


@pytest.fixture
def emptied(tmp_path: Path) -> Path:
    """The workspace of a later attempt."""
    folder = tmp_path / "later"
    folder.mkdir()
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def described(folder: Path) -> dict[str, tuple[int, int, str | bytes | None]]:
    found: dict[str, tuple[int, int, str | bytes | None]] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (facts.st_mode, facts.st_uid, content)
    return found


async def test_files_folders_and_links_come_back_with_their_modes_and_owners(workspace: Path, emptied: Path) -> None:
    (workspace / "deep" / "er").mkdir(parents=True)
    (workspace / "deep" / "er" / "program").write_bytes(b"#!/bin/sh\n")
    (workspace / "deep" / "er" / "program").chmod(0o751)
    (workspace / "large").write_bytes(os.urandom(5 * 1024 * 1024))
    (workspace / "large").chmod(0o600)
    (workspace / "näme\udcff with\nodd characters").write_bytes(b"")
    (workspace / "to-a-file").symlink_to("deep/er/program")
    (workspace / "to-nothing").symlink_to("/nowhere/at/all")
    (workspace / "deep" / "link").symlink_to("/etc")
    (workspace / "closed").mkdir()
    (workspace / "closed" / "inside").write_bytes(b"inside")
    (workspace / "closed").chmod(0o500)
    if os.geteuid() == 0:
        os.chown(workspace / "large", 1234, 5678)
    before = described(workspace)
    with io.BytesIO() as file:
        assert await packing.pack(workspace, file) == 4
        file.seek(0)
        assert await packing.unpack(file, emptied) == 4
    assert described(emptied) == before


async def test_a_link_is_kept_and_what_it_points_to_is_not(workspace: Path) -> None:
    (workspace / "secret").symlink_to("/etc/passwd")
    (workspace / "folder").symlink_to("/etc")
    with io.BytesIO() as file:
        assert await packing.pack(workspace, file) == 0
        assert b"root:" not in file.getvalue()
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            assert {entry.name: entry.linkname for entry in tar} == {"secret": "/etc/passwd", "folder": "/etc"}


async def test_what_is_no_file_folder_or_link_is_left_out(workspace: Path) -> None:
    os.mkfifo(workspace / "pipe")
    (workspace / "file").touch()
    with io.BytesIO() as file:
        with anyio.fail_after(10):
            assert await packing.pack(workspace, file) == 1


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def packed(*entries: tarfile.TarInfo) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for made in entries:
            tar.addfile(made)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "make",
    [
        lambda: packed(entry("../out")),
        lambda: packed(entry("/out")),
        lambda: packed(entry("a", tarfile.SYMTYPE, "OUTSIDE"), entry("a/out")),
        lambda: packed(entry("a", tarfile.SYMTYPE, "OUTSIDE"), entry("a/out", tarfile.SYMTYPE, "x")),
        lambda: packed(entry("a", tarfile.SYMTYPE, "OUTSIDE"), entry("a", tarfile.DIRTYPE), entry("a/out")),
        lambda: packed(entry("out", tarfile.LNKTYPE, "/etc/passwd")),
        lambda: packed(entry("out", tarfile.CHRTYPE)),
        lambda: io.BytesIO(b"no pack at all"),
        lambda: io.BytesIO(packed(entry("whole")).getvalue()[:-40]),
    ],
    ids=["above", "absolute", "behind a link", "link behind a link", "link and folder", "hard link", "device", "none",
         "torn"],
)  # fmt: skip
async def test_a_pack_that_leads_out_or_is_none_is_refused(
    emptied: Path, tmp_path: Path, make: Callable[[], io.BytesIO]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    file = make()
    if b"OUTSIDE" in file.getvalue():
        file = io.BytesIO(file.getvalue().replace(b"OUTSIDE", str(outside).encode()))
    with pytest.raises(packing.PackDamaged) as raised:
        await packing.unpack(file, emptied)
    assert raised.value.code == "workspace_damaged"
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "out").exists()


async def test_packing_ends_when_nobody_waits_for_it_any_more(workspace: Path) -> None:
    with (workspace / "endless").open("wb") as file:
        file.truncate(1 << 40)  # it takes no room, and an hour to read
    with io.BytesIO() as packed_file, anyio.move_on_after(0.2) as scope:
        await packing.pack(workspace, packed_file)
    assert scope.cancelled_caught
