"""Checks the ``cache`` of a pipeline or stage: what of the workspace is kept for jobs to come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar, get_args

from sandbox.frames import lua_type
from sandbox.locations import Path, Telling
from schema.caches import PLACEHOLDER
from schema.definition import CacheDefinition, CachePolicy, CacheWhen

CACHE_FIELDS: Final = ("key", "files", "paths", "restore_keys", "policy", "when", "scope")
CACHES_MAXIMUM: Final = 10
ENTRIES_MAXIMUM: Final = 50
TEXT_LENGTH_MAXIMUM: Final = 200
EXAMPLE: Final = 'Write `cache = { key = "cargo", files = { "Cargo.lock" }, paths = { "target" } }`.'

Word = TypeVar("Word", CachePolicy, CacheWhen)


class CacheChecker:
    """Makes definitions of what a file says of caches.

    :param unknown_fields: tells of fields that a table may not have.
    """

    def __init__(
        self,
        *,
        problem: Telling,
        unknown_fields: Callable[[Path, Mapping[Any, object], tuple[str, ...], str], None],
    ) -> None:
        self._problem = problem
        self._unknown_fields = unknown_fields

    def caches(
        self, path: Path, of: str, value: object, *, inputs: Collection[str], axes: Collection[str] = ()
    ) -> list[CacheDefinition]:
        """Check the caches of a part of the pipeline, which ``of`` names: a table, or a list of them.

        :param inputs: the names of the pipeline's inputs.
        :param axes: those of the stage's matrix.
        """
        if value is None or value == {}:
            return []
        if isinstance(value, dict):
            table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at there
            one = self._cache(path, of, table, inputs, axes)
            return [] if one is None else [one]
        if not isinstance(value, list):
            self._problem(path, f"`cache` of {of} must be a table, or a list of them, got {lua_type(value)}", EXAMPLE)
            return []
        entries: list[object] = value  # pyright: ignore[reportUnknownVariableType]  # looked at one by one
        if len(entries) > CACHES_MAXIMUM:
            self._problem(path, f"{of} has at most {CACHES_MAXIMUM} caches, got {len(entries)}")
            return []
        found: list[CacheDefinition] = []
        for index, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                self._problem(
                    (*path, index), f"`cache[{index}]` of {of} must be a table, got {lua_type(entry)}", EXAMPLE
                )
                continue
            fields: dict[str, Any] = entry  # pyright: ignore[reportUnknownVariableType]  # the same
            if (cache := self._cache((*path, index), of, fields, inputs, axes)) is not None:
                found.append(cache)
        return found

    def _cache(
        self, path: Path, of: str, table: Mapping[str, object], inputs: Collection[str], axes: Collection[str]
    ) -> CacheDefinition | None:
        self._unknown_fields(path, table, CACHE_FIELDS, "cache")
        label = f"the cache of {of}"
        for name in ("key", "paths"):
            if table.get(name) is None:
                self._problem(path, f"{label} has no `{name}`", EXAMPLE)
        key = self._text((*path, "key"), label, table.get("key"), {*inputs, *axes})
        files = self._entries((*path, "files"), label, table.get("files"))
        paths = self._entries((*path, "paths"), label, table.get("paths"))
        given = self._list((*path, "restore_keys"), label, table.get("restore_keys"))
        others = [
            self._text((*path, "restore_keys", index), label, entry, {*inputs, *axes})
            for index, entry in enumerate(given, 1)
        ]
        policy = self._word((*path, "policy"), label, table.get("policy"), get_args(CachePolicy))
        when = self._word((*path, "when"), label, table.get("when"), get_args(CacheWhen))
        scope = self._text((*path, "scope"), label, table.get("scope"), inputs)
        if table.get("paths") == {}:
            self._problem((*path, "paths"), f"`paths` of {label} names nothing", EXAMPLE)
        for outer in paths:
            for inner in paths:
                if inner.startswith(f"{outer}/"):
                    self._problem((*path, "paths"), f"`paths` of {label}: `{inner}` is inside `{outer}` already")
        if key is None or not paths:
            return None
        return CacheDefinition(
            key=key,
            files=files,
            paths=sorted(set(paths)),
            restore_keys=[text for text in others if text is not None],
            policy=policy,
            when=when,
            scope=scope,
        )

    def _text(self, path: Path, label: str, value: object, names: Collection[str]) -> str | None:
        if value is None:
            return None
        field = next(part for part in reversed(path) if isinstance(part, str))
        if not isinstance(value, str) or not 0 < len(value) <= TEXT_LENGTH_MAXIMUM or not value.isprintable():
            self._problem(
                path,
                f"`{field}` of {label} must be text of up to {TEXT_LENGTH_MAXIMUM} printable characters, got "
                f"{lua_type(value)}",
            )
            return None
        for placeholder in PLACEHOLDER.finditer(value):
            if placeholder[1] not in names:
                known = ", ".join(f"`{name}`" for name in sorted(names)) or "none"
                self._problem(
                    path,
                    f"`{field}` of {label} holds `{placeholder[0]}`, and there is no value of that name (there are: "
                    f"{known})",
                    "`${name}` stands for the value of an input, and but for `scope` also of the stage's matrix.",
                )
        return value

    def _list(self, path: Path, label: str, value: object) -> list[object]:
        if value is None or value == {}:
            return []
        told = lua_type(value)
        if isinstance(value, list):
            entries: list[object] = value  # pyright: ignore[reportUnknownVariableType]  # looked at one by one
            if len(entries) <= ENTRIES_MAXIMUM:
                return entries
            told = str(len(entries))
        self._problem(path, f"`{path[-1]}` of {label} must be a list of up to {ENTRIES_MAXIMUM} texts, got {told}")
        return []

    def _entries(self, path: Path, label: str, value: object) -> list[str]:
        found: list[str] = []
        for index, entry in enumerate(self._list(path, label, value), 1):
            inside = _inside(entry)
            if inside is None:
                shown = f"`{entry}`" if isinstance(entry, str) else lua_type(entry)
                self._problem(
                    (*path, index),
                    f"`{path[-1]}` of {label} holds {shown}, which names nothing inside the workspace",
                    "A path is relative to the workspace, or begins with /workspace/, and has no `..` in it.",
                )
            else:
                found.append(inside)
        return found

    def _word(self, path: Path, label: str, value: object, known: tuple[Word, ...]) -> Word:
        for word in known:
            if value == word:
                return word
        if value is not None:
            words = ", ".join(f'"{word}"' for word in known)
            shown = f"`{value}`" if isinstance(value, str | int | float) else lua_type(value)
            self._problem(path, f"`{path[-1]}` of {label} must be one of {words}, got {shown}")
        return known[0]


def _inside(value: object) -> str | None:
    """Write a path of the workspace in the one way that it is compared in; None for what is none."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > TEXT_LENGTH_MAXIMUM:
        return None
    path = PurePosixPath(value)
    if path.is_absolute():
        if not path.is_relative_to("/workspace"):
            return None
        path = path.relative_to("/workspace")
    return None if not path.parts or ".." in path.parts else str(path)
