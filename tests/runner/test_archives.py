"""Archives hold what they were made of, and none that is hostile writes a byte where it should not."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.archives import extraction, reading, writing
from runner.archives.compression import FORMATS, Format
from runner.archives.contents import ArchiveDamaged, ArchiveRefused, ArchiveTooLarge, Limits
from runner.globs import Selection
from runner.jail import JailError
from schema.errors import MoonyardError

ALL = Selection()


def go_on() -> None:
    """Let work go on."""


def create(workspace: Path, path: str, source: str, kind: Format = "tar", selection: Selection = ALL) -> bytes:
    writing.create(workspace, path, source, kind, selection, go_on)
    return (workspace / path).read_bytes()


def extract(workspace: Path, path: str, to: str = "out", limits: Limits | None = None, strip: int = 0) -> int:
    limits = limits or Limits()
    return extraction.extract(workspace, path, to, ALL, limits, go_on, strip=strip).files


def described(folder: Path) -> dict[str, tuple[int, str | bytes | None]]:
    found: dict[str, tuple[int, str | bytes | None]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = str(path.readlink()) if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else None
        found[str(path.relative_to(folder))] = (mode, content)
    return found


def make_tree(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    for path in (folder / "deep", folder / "deep" / "er"):
        path.chmod(0o777)
    (folder / "deep" / "er" / "program").write_bytes(b"#!/bin/sh\n")
    (folder / "deep" / "er" / "program").chmod(0o777)
    (folder / "deep" / "link").symlink_to("er/program")
    (folder / "up").mkdir(mode=0o700)
    (folder / "up" / "link").symlink_to("../deep/er")
    (folder / ("long " * 40)).write_bytes(b"long")
    (folder / ("long " * 40)).chmod(0o666)
    (folder / "ünï-コ").write_bytes(b"")
    (folder / "ünï-コ").chmod(0o444)
    (folder / "large").write_bytes(hashlib.shake_128(b"large").digest(300_000) + bytes(700_000))
    (folder / "large").chmod(0o600)


# --- what comes and goes


@pytest.mark.parametrize("kind", FORMATS)
def test_files_folders_and_links_come_back_with_their_modes(workspace: Path, kind: Format) -> None:
    (workspace / "from").mkdir()
    make_tree(workspace / "from")
    os.mkfifo(workspace / "from" / "pipe")
    create(workspace, "archive", "from", kind)
    (workspace / "from" / "pipe").unlink()
    assert extract(workspace, "archive") == 4
    assert described(workspace / "out") == described(workspace / "from")
    assert extract(workspace, "archive") == 4, "what is there is replaced"
    assert described(workspace / "out") == described(workspace / "from")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_files_give_the_same_bytes_wherever_and_whenever_they_were_made(workspace: Path, kind: Format) -> None:
    for name in ("one", "two"):
        (workspace / name).mkdir()
        make_tree(workspace / name)
    for path in (workspace / "two").rglob("*"):
        os.utime(path, (12345, 12345), follow_symlinks=False)
        if os.geteuid() == 0:
            os.lchown(path, 1234, 5678)
    assert create(workspace, "1", "one", kind) == create(workspace, "2", "two", kind)


def test_an_archive_is_no_part_of_itself(workspace: Path) -> None:
    make_tree(workspace)
    first = create(workspace, "all.tar.gz", ".", "tar.gz")
    assert create(workspace, "all.tar.gz", ".", "tar.gz") == first
    with tarfile.open(workspace / "all.tar.gz") as tar:
        assert not [name for name in tar.getnames() if "all.tar" in name or "partial" in name]


def test_one_file_is_an_archive_too(workspace: Path) -> None:
    (workspace / "folder").mkdir()
    (workspace / "folder" / "file").write_bytes(b"x")
    create(workspace, "a.zip", "folder/file", "zip")
    assert zipfile.ZipFile(workspace / "a.zip").namelist() == ["file"]


def test_patterns_say_what_goes_in_and_what_comes_out(workspace: Path) -> None:
    for path in ("src/a.c", "src/a.o", "src/in/b.c", "build/c.c", "d.c"):
        (workspace / "from" / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / "from" / path).write_bytes(b"")
    selection = Selection(include=["**/*.c"], exclude=["build"])
    create(workspace, "a.tar", "from", "tar", selection)
    with tarfile.open(workspace / "a.tar") as tar:
        assert tar.getnames() == ["d.c", "src/a.c", "src/in/b.c"]
    some = Selection(include=["src/**"], exclude=["**/b.c"])
    extraction.extract(workspace, "a.tar", "out", some, Limits(), go_on)
    assert sorted(described(workspace / "out")) == ["src", "src/a.c"]


def test_folders_at_the_beginning_of_paths_are_left_out(workspace: Path) -> None:
    (workspace / "from" / "project-1.0" / "src").mkdir(parents=True)
    (workspace / "from" / "project-1.0" / "src" / "file").write_bytes(b"x")
    (workspace / "from" / "project-1.0" / "link").symlink_to("src/file")
    (workspace / "from" / "top").write_bytes(b"not taken")
    create(workspace, "a.tar", "from")
    assert extract(workspace, "a.tar", strip=1) == 1
    assert sorted(described(workspace / "out")) == ["link", "src", "src/file"]


def test_what_other_programs_packed_is_read(workspace: Path) -> None:
    (workspace / "from").mkdir()
    make_tree(workspace / "from")
    (workspace / "from" / "hard").hardlink_to(workspace / "from" / "large")
    expected = described(workspace / "from")
    for option, name in (("", "gnu.tar"), ("z", "gnu.tgz"), ("J", "gnu.tar.xz"), ("j", "gnu.tar.bz2")):
        subprocess.run(["tar", f"c{option}f", name, "-C", "from", "."], cwd=workspace, check=True)
        assert extract(workspace, name, name + ".out") == 5
        assert described(workspace / f"{name}.out") == expected
        assert (workspace / f"{name}.out" / "hard").stat().st_nlink == 2


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_packed_here_is_read_by_other_programs(workspace: Path, kind: Format) -> None:
    (workspace / "from").mkdir()
    make_tree(workspace / "from")
    create(workspace, "archive", "from", kind)
    (workspace / "out").mkdir()
    if kind == "zip":
        with zipfile.ZipFile(workspace / "archive") as archive:
            assert archive.testzip() is None
            assert len(archive.namelist()) == len(described(workspace / "from"))
        return
    subprocess.run(["tar", "xpf", "archive", "-C", "out"], cwd=workspace, check=True)
    assert described(workspace / "out") == described(workspace / "from")


def test_whoever_may_read_a_file_of_an_archive_may_change_it_and_nobody_gains_more(workspace: Path) -> None:
    modes = {0o644: 0o666, 0o755: 0o777, 0o600: 0o600, 0o640: 0o660, 0o444: 0o444, 0o4755: 0o777, 0o000: 0o000}
    with tarfile.open(workspace / "a.tar", "w") as tar:
        for mode in modes:
            entry = tarfile.TarInfo(f"{mode:o}")
            entry.mode = mode
            tar.addfile(entry)
    extract(workspace, "a.tar")
    assert {mode: (workspace / "out" / f"{mode:o}").stat().st_mode & 0o7777 for mode in modes} == modes


@pytest.mark.parametrize("time", ["nan", "inf", "-1", "1e30", "99999999999999"])
def test_a_file_of_no_time_that_could_be_is_extracted_all_the_same(workspace: Path, time: str) -> None:
    made = entry("file")
    made.pax_headers = {"mtime": time}
    (workspace / "a.tar").write_bytes(tar_of((made, b"x")))
    assert extract(workspace, "a.tar") == 1
    assert 0 <= (workspace / "out" / "file").stat().st_mtime <= extraction.MODIFIED_MAXIMUM


def test_an_archive_that_could_not_be_finished_leaves_what_was_there(workspace: Path) -> None:
    (workspace / "from").mkdir()
    (workspace / "from" / "\udcff").write_bytes(b"")
    (workspace / "a.tar").write_bytes(b"before")
    with pytest.raises(JailError, match="not UTF-8"):
        create(workspace, "a.tar", "from")
    assert sorted(path.name for path in workspace.iterdir()) == ["a.tar", "from"]
    assert (workspace / "a.tar").read_bytes() == b"before"


# --- what is hostile


def tar_of(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for given in entries:
                entry, content = given if isinstance(given, tuple) else (given, b"")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return file.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def link(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, target)


def zip_of(*entries: tuple[str, bytes, int]) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content, mode in entries:
                made = zipfile.ZipInfo(name)
                made.filename = name  # as it is: the library would tidy it up
                made.create_system, made.external_attr = 3, mode << 16
                made.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(made, content)
        return file.getvalue()


GOOD = (entry("good"), b"good")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "an absolute path": (tar_of(GOOD, entry("/etc/evil")), "/etc/evil"),
    "a path up": (tar_of(GOOD, entry("../evil")), "../evil"),
    "a path up in its middle": (tar_of(GOOD, entry("a/../../evil")), "a/../../evil"),
    "a drive": (tar_of(GOOD, entry("C:/evil")), "C:/evil"),
    "a backslash": (tar_of(GOOD, entry("..\\evil")), "..\\evil"),
    "a name that is no text": (tar_of(GOOD, entry("e\udcffvil")), "e\\udcffvil"),
    "a name that is too long": (tar_of(GOOD, entry("e" * 256)), "e" * 100),
    "a path that is too long": (tar_of(GOOD, entry("evil/" * 1000)), "evil/" * 20),
    "a path that is too deep": (tar_of(GOOD, entry("e/" * 201 + "e")), "e/" * 50),
    "an absolute link": (tar_of(GOOD, link("evil", "/etc/passwd")), "evil"),
    "a link up": (tar_of(GOOD, link("evil", "..")), "evil"),
    "a link up from a folder": (tar_of(GOOD, link("a/evil", "../../x")), "a/evil"),
    "a link through a link": (tar_of(GOOD, link("a", "."), link("evil", "a/../x")), "evil"),
    "a link to nothing": (tar_of(GOOD, link("evil", "")), "evil"),
    "a file behind a link": (tar_of(GOOD, link("a", "b"), entry("a/evil")), "a/evil"),
    "a link over a file": (tar_of(GOOD, entry("evil"), link("evil", "good")), "evil"),
    "a file over a link": (tar_of(GOOD, link("evil", "good"), entry("evil")), "evil"),
    "a name twice": (tar_of(GOOD, entry("a/evil"), entry("./a//evil")), "./a//evil"),
    "a file that is a folder": (tar_of(GOOD, entry("a/b"), entry("a")), "a"),
    "a hard link out": (tar_of(GOOD, entry("evil", tarfile.LNKTYPE, "/etc/passwd")), "/etc/passwd"),
    "a hard link up": (tar_of(GOOD, entry("evil", tarfile.LNKTYPE, "../x")), "../x"),
    "a hard link to a link": (tar_of(GOOD, link("a", "good"), entry("evil", tarfile.LNKTYPE, "a")), "evil"),
    "a hard link to what comes later": (tar_of(entry("evil", tarfile.LNKTYPE, "good"), GOOD), "evil"),
    "a device": (tar_of(GOOD, entry("evil", tarfile.CHRTYPE)), "evil"),
    "a disk": (tar_of(GOOD, entry("evil", tarfile.BLKTYPE)), "evil"),
    "a pipe": (tar_of(GOOD, entry("evil", tarfile.FIFOTYPE)), "evil"),
    "a kind that nobody knows": (tar_of(GOOD, entry("evil", b"Z")), "evil"),
    "a zip's path up": (zip_of(("good", b"", 0o644), ("../evil", b"", 0o644)), "../evil"),
    "a zip's absolute path": (zip_of(("good", b"", 0o644), ("/evil", b"", 0o644)), "/evil"),
    "a zip's backslash": (zip_of(("good", b"", 0o644), ("..\\evil", b"", 0o644)), "..\\evil"),
    "a zip's name with NUL": (zip_of(("good", b"", 0o644), ("ev\0il", b"", 0o644)), "ev\\x00il"),
    "a zip's link out": (zip_of(("good", b"", 0o644), ("evil", b"/etc/passwd", stat.S_IFLNK | 0o777)), "evil"),
    "a zip's link that is a book": (zip_of(("good", b"", 0o644), ("evil", b"x" * 9999, stat.S_IFLNK)), "evil"),
    "a zip's device": (zip_of(("good", b"", 0o644), ("evil", b"", stat.S_IFCHR | 0o666)), "evil"),
    "a zip's name twice": (zip_of(("good", b"", 0o644), ("a/", b"", 0o755), ("a", b"", 0o644)), "a"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_made_and_its_entry_named(
    workspace: Path, tmp_path: Path, name: str
) -> None:
    content, named = HOSTILE[name]
    (workspace / "a").write_bytes(content)
    with pytest.raises(ArchiveRefused) as caught:
        extract(workspace, "a")
    assert f"`{named}" in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint == "Nothing was extracted."
    assert [path.name for path in workspace.iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["workspace"]
    with pytest.raises(ArchiveRefused), reading.opened(workspace, "a") as archive:
        list(archive.entries(go_on))


def test_what_stands_in_the_way_is_not_followed(workspace: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"outside")
    (workspace / "a.tar").write_bytes(tar_of((entry("file"), b"new"), (entry("in/file"), b"new")))
    (workspace / "out").mkdir()
    (workspace / "out" / "file").symlink_to(outside / "file")
    (workspace / "out" / "in").symlink_to(outside)
    with pytest.raises(JailError, match=r"out/in|`in`") as caught:
        extract(workspace, "a.tar")
    assert caught.value.code in {"path_refused", "path_exists"}
    assert (workspace / "out" / "file").read_bytes() == b"new"
    (workspace / "out" / "in").unlink()
    (workspace / "out" / "in").symlink_to(".")
    with pytest.raises(JailError):
        extract(workspace, "a.tar")
    assert described(outside) == {"file": (stat.S_IFREG | 0o644, b"outside")}
    (workspace / "link").symlink_to(outside)
    with pytest.raises(JailError, match="leads out"):
        extract(workspace, "a.tar", "link")


def test_a_folder_in_a_files_place_is_left_there(workspace: Path) -> None:
    (workspace / "a.tar").write_bytes(tar_of(GOOD))
    (workspace / "out" / "good").mkdir(parents=True)
    with pytest.raises(JailError, match="folder already"):
        extract(workspace, "a.tar")


# --- bombs


def zeros(size: int) -> bytes:
    return tar_of((entry("zeros"), bytes(size)))


BOMBS: dict[str, tuple[Callable[[], bytes], Limits]] = {
    "gzip": (lambda: gzip.compress(zeros(40_000_000)), Limits()),
    "xz": (lambda: lzma.compress(zeros(40_000_000)), Limits()),
    "bzip2": (lambda: bz2.compress(zeros(40_000_000)), Limits()),
    "zstd": (lambda: zstd.compress(zeros(40_000_000)), Limits()),
    "zip": (lambda: zip_of(("zeros", bytes(40_000_000), 0o644)), Limits()),
    "more than may be": (lambda: zeros(2_000_000), Limits(size_bytes=1_000_000)),
    "more files than may be": (lambda: tar_of(*[entry(str(number)) for number in range(101)]), Limits(entries=100)),
    "more folders than may be": (lambda: tar_of(entry("/".join("x" * 101))), Limits(entries=100)),
    "more zipped files than may be": (
        lambda: zip_of(*[(str(number), b"", 0o644) for number in range(101)]),
        Limits(entries=100),
    ),
    "after the end": (lambda: gzip.compress(tar_of(GOOD)[:1024] + sparse(2**40)), Limits()),
}


def sparse(size: int) -> bytes:
    """A file of a size that a header only says it has."""
    made = entry("sparse")
    made.size = size
    return made.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(workspace: Path, name: str) -> None:
    made, limits = BOMBS[name]
    (workspace / "a").write_bytes(made())
    with pytest.raises(ArchiveTooLarge) as caught:
        extract(workspace, "a", limits=limits)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Give a larger `max_")
    assert [path.name for path in workspace.iterdir()] == ["a"]


def test_limits_can_be_raised(workspace: Path) -> None:
    (workspace / "a").write_bytes(BOMBS["gzip"][0]())
    assert extract(workspace, "a", limits=Limits(ratio=10_000)) == 1
    assert (workspace / "out" / "zeros").stat().st_size == 40_000_000


# --- what is damaged


def long_name(size: int) -> bytes:
    """A header that says that a name of so many bytes follows."""
    made = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    made.size = size
    return made.tobuf(tarfile.GNU_FORMAT)


def zstd_with_window(window_log: int, content: bytes = b"") -> bytes:
    """Compress so that whoever reads needs a window of so many bits."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return compressor.compress(content or zeros(1000), zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.flush()


DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "text": b"this is no archive\n" * 100,
    "half a tar": zeros(100_000)[:50_000],
    "half a gzip": gzip.compress(tar_of((entry("x"), os.urandom(100_000))))[:50_000],
    "half an xz": lzma.compress(tar_of((entry("x"), os.urandom(100_000))))[:50_000],
    "a gzip of text": gzip.compress(b"no tar"),
    "a wrong checksum": tar_of(GOOD, (entry("x"), b"")).replace(b"good", b"evil"),
    "a wrong header later": tar_of(GOOD)[:1024] + b"x" * 512 + bytes(1024),
    "no zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
    "half a zstd": zstd.compress(tar_of((entry("x"), os.urandom(100_000))))[:50_000],
    "a zstd that needs much memory": zstd_with_window(28),
    "half a zip": zip_of(("x", os.urandom(10_000), 0o644))[:5000],
    "a name of a terabyte": tar_of(GOOD)[:1024] + long_name(2**40),
    "a name of a gigabyte": tar_of(GOOD)[:1024] + long_name(2**30),
    "names of names": b"".join(long_name(512) + b"x" * 512 for _ in range(2000)),
    "an xz that needs gigabytes": lzma.compress(zeros(1000), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]),
}


def test_zstd_of_several_frames_and_of_its_own_program_is_read(workspace: Path) -> None:
    content = tar_of((entry("x"), os.urandom(300_000)))
    (workspace / "frames").write_bytes(zstd.compress(content[:100_000]) + zstd.compress(content[100_000:], level=19))
    (workspace / "window").write_bytes(zstd_with_window(27, content))
    for name in ("frames", "window"):
        assert extract(workspace, name, to=name + ".d") == 1


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_whole_archive_is_told_and_nothing_made(workspace: Path, name: str) -> None:
    (workspace / "a").write_bytes(DAMAGED[name])
    with pytest.raises(ArchiveDamaged, match="`a`") as caught:
        extract(workspace, "a")
    assert caught.value.message.isprintable()
    assert [path.name for path in workspace.iterdir()] == ["a"]


def test_a_zip_whose_content_is_damaged_is_told(workspace: Path) -> None:
    content = bytearray(zip_of(("x", os.urandom(10_000), 0o644)))
    content[5000] ^= 0xFF
    (workspace / "a").write_bytes(content)
    with pytest.raises(ArchiveDamaged):
        extract(workspace, "a")


def test_an_encrypted_zip_and_an_odd_method_are_refused(workspace: Path) -> None:
    for offset, value in ((8, 1), (10, 12)):
        content = bytearray(zip_of(("evil", b"x", 0o644)))
        at = content.index(b"PK\x01\x02") + offset
        content[at : at + 2] = struct.pack("<H", value)
        (workspace / "a").write_bytes(content)
        with pytest.raises(ArchiveRefused, match="`evil`"):
            extract(workspace, "a")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255))))
def test_no_damage_does_more_than_to_be_told(
    tmp_path_factory: pytest.TempPathFactory, kind: Format, changes: list[tuple[float, int]]
) -> None:
    base = tmp_path_factory.mktemp("damage")
    workspace = base / "workspace"
    (workspace / "from" / "in").mkdir(parents=True)
    (workspace / "from" / "in" / "file").write_bytes(b"content" * 100)
    (workspace / "from" / "link").symlink_to("in/file")
    content = bytearray(create(workspace, "a", "from", kind))
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    (workspace / "a").write_bytes(content)
    with suppress(MoonyardError):
        extract(workspace, "a")
    assert [path.name for path in base.iterdir()] == ["workspace"]
    assert {path.name for path in workspace.iterdir()} <= {"a", "from", "out"}


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "l"]), min_size=1, max_size=4).map("/".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["file", "link", "hard", "folder"]), NAMES, NAMES), max_size=6))
def test_no_run_of_entries_makes_anything_outside(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, str]]
) -> None:
    base = tmp_path_factory.mktemp("entries")
    workspace = base / "workspace"
    workspace.mkdir()
    for folder in (base, workspace):
        for name in ("a", "b", "l"):
            (folder / name).write_bytes(b"to be met by a link that leads out")
    kinds = {
        "file": tarfile.REGTYPE,
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "folder": tarfile.DIRTYPE,
    }
    made = [entry(name or "x", kinds[kind], target) for kind, name, target in entries]
    (workspace / "a").write_bytes(tar_of(*made))
    refused = False
    try:
        extract(workspace, "a")
    except (ArchiveRefused, ArchiveDamaged):
        refused = True
    assert sorted(path.name for path in workspace.iterdir()) == ["a", "b", "l"] + ["out"] * (not refused)
    out = workspace / "out"
    for path in out.rglob("*"):
        if path.is_symlink():
            with suppress(FileNotFoundError, RuntimeError, NotADirectoryError):  # it leads nowhere, or in a circle
                assert path.resolve(strict=True).is_relative_to(out)
