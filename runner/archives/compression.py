"""The formats of archives, and what reads and writes their compression.

A reader never holds more than what it was asked for and a little: `tarfile` and `zipfile` read as much as an archive
says that a header has, so what is asked for has a limit too.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import IO, Final, Literal, Protocol, cast

from backports import zstd

from runner.archives.contents import Admission, ArchiveDamaged, quoted
from runner.trees import Check

Format = Literal["tar", "tar.gz", "tar.xz", "tar.zst", "zip"]
FORMATS: Final[tuple[Format, ...]] = ("tar", "tar.gz", "tar.xz", "tar.zst", "zip")
SUFFIXES: Final[dict[str, Format]] = {
    ".tar": "tar",
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.xz": "tar.xz",
    ".txz": "tar.xz",
    ".tar.zst": "tar.zst",
    ".tzst": "tar.zst",
    ".zip": "zip",
}
CHUNK_BYTES: Final = 256 * 1024
HEADERS_BYTES_MAXIMUM: Final = 1024 * 1024
"""Of all that stands before one file in a tar file."""
LIST_BYTES_MAXIMUM: Final = 16 * 1024 * 1024
"""Of a zip file's list of entries, which is read at once."""
XZ_MEMORY_BYTES: Final = 256 * 1024 * 1024
"""What `xz -9` needs is 65 MiB."""
GZIP_LEVEL: Final = 6
XZ_PRESET: Final = 3
ZSTD_LEVEL: Final = 3
ZSTD_WINDOW_LOG: Final = 27
"""The largest window that is read, 128 MiB: what `zstd` itself takes without being asked to take more."""
DAMAGES: Final = (EOFError, OSError, lzma.LZMAError, zlib.error, zstd.ZstdError)
"""What the decompressors raise."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Decompressed(io.RawIOBase):
    """What streams that follow each other unpack to."""

    def __init__(self, file: IO[bytes], kind: Literal["xz", "bz2", "zst"]) -> None:
        super().__init__()
        self._file = file
        self._kind: Literal["xz", "bz2", "zst"] = kind
        self._stream = self._next_stream()
        self._input = b""

    def _next_stream(self) -> _Decompressor:
        if self._kind == "bz2":
            return bz2.BZ2Decompressor()
        if self._kind == "zst":
            return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        while True:
            if self._stream.eof:
                # Between streams there may be zeros, to fill up.
                rest = (self._stream.unused_data or self._file.read(CHUNK_BYTES)).lstrip(b"\0")
                if not rest and not (rest := self._file.read(CHUNK_BYTES).lstrip(b"\0")):
                    return 0
                self._stream, self._input = self._next_stream(), rest
            elif self._stream.needs_input and not self._input:
                self._input = self._file.read(CHUNK_BYTES)
                if not self._input:
                    raise EOFError("the compressed data ends in the middle")
            data, self._input = self._stream.decompress(self._input, len(view)), b""
            if data:
                view[: len(data)] = data
                return len(data)


class Watched:
    """A stream that is read forwards, as `tarfile` does, and not beyond what it may unpack to."""

    def __init__(self, stream: IO[bytes], check: Check, admission: Admission) -> None:
        self._stream = stream
        self._check = check
        self._admission = admission
        self._at = 0
        self.name = ""
        """The entry that was met last, for messages."""
        self.last = b""
        """What was read last."""
        self.headers_left: int | None = HEADERS_BYTES_MAXIMUM
        """How many bytes may be read until the next file is met; None while its content is read."""

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._at:
            raise ArchiveDamaged(f"after `{quoted(self.name)}` it has a header that leads backwards")
        while self._at < offset and self._read(min(CHUNK_BYTES, offset - self._at)):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        if self.headers_left is not None:
            self.headers_left -= size
            if size < 0 or self.headers_left < 0:
                raise ArchiveDamaged(
                    f"after `{quoted(self.name)}` it has headers of more than {HEADERS_BYTES_MAXIMUM} bytes"
                )
        data = self._read(size)
        while len(data) < size and (more := self._read(size - len(data))):
            data += more
        self.last = data
        return data

    def _read(self, size: int) -> bytes:
        self._check()
        data = self._stream.read(size)
        self._at += len(data)
        self._admission.check_bytes(self.name or "its beginning", self._at)
        return data


def format_of(name: str) -> Format | None:
    """Tell an archive's format by its name."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return SUFFIXES[suffix]
    return None


def is_zip(beginning: bytes) -> bool:
    return beginning.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def unpacked(file: IO[bytes], beginning: bytes) -> IO[bytes]:
    """Give what a tar file's compression, known by how it begins, unpacks to."""
    if beginning.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file, mode="rb")  # pyright: ignore[reportReturnType]  # it is one, but for `mode`
    if beginning.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(_Decompressed(file, "xz"), CHUNK_BYTES)
    if beginning.startswith(b"BZh"):
        return io.BufferedReader(_Decompressed(file, "bz2"), CHUNK_BYTES)
    if beginning.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_Decompressed(file, "zst"), CHUNK_BYTES)
    return file


def packed(file: IO[bytes], kind: Format) -> IO[bytes]:
    """Give what compresses a tar file, the same bytes for the same content."""
    match kind:
        case "tar.gz":
            compressed = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, mtime=0)
            return cast("IO[bytes]", compressed)
        case "tar.xz":
            return lzma.LZMAFile(file, "wb", format=lzma.FORMAT_XZ, preset=XZ_PRESET)
        case "tar.zst":
            options: dict[int, int] = {
                zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
                zstd.CompressionParameter.checksum_flag: 1,
            }
            return cast("IO[bytes]", zstd.ZstdFile(file, "wb", options=options))  # pyright: ignore[reportCallIssue, reportArgumentType]  # it only writes
        case _:
            return file
