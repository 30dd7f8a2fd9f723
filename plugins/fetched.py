"""Keeps plugins that were fetched from git repositories, for who is to know them without asking a network.

    <folder>/<sha256>.json    the files of one: a repository, a commit and a folder in it, by the hash of the three

A commit never changes, so what is kept is never old. What cannot be read, or is not what was written, is as good as not
there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from plugins import folders
from schema.plugins import BYTES_MAXIMUM, PluginReference

KEPT_MAXIMUM: Final = 200
"""How many are kept: those that were used last."""
_SIZE_MAXIMUM: Final = 8 * BYTES_MAXIMUM
"""Of a file: text as JSON may be six times as long."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    """Of the files."""
    files: dict[str, str]


class FetchedPlugins:
    """Those of one user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, reference: PluginReference) -> dict[str, str] | None:
        """Give the files of one; None where they are not kept."""
        path = self._path(reference)
        try:
            if path.stat().st_size > _SIZE_MAXIMUM:
                return None
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        if folders.tree_hash(kept.files) != kept.sha256:
            return None
        with suppress(OSError):
            os.utime(path)
        return kept.files

    def keep(self, reference: PluginReference, files: Mapping[str, str]) -> None:
        """Keep the files of one. Where that does not work, it is fetched again the next time."""
        nascent = self._folder / f".new-{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            nascent.write_bytes(msgspec.json.encode(_Kept(sha256=folders.tree_hash(files), files=dict(files))))
            nascent.rename(self._path(reference))
            found = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in found[KEPT_MAXIMUM:]:
                path.unlink(missing_ok=True)
        except OSError:
            with suppress(OSError):
                nascent.unlink(missing_ok=True)

    def _path(self, reference: PluginReference) -> Path:
        named = msgspec.json.encode([reference.git, reference.commit, reference.folder])
        return self._folder / f"{hashlib.sha256(named).hexdigest()}.json"
