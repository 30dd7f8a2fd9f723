"""What the words of a declared cache mean for a job: its key and its scopes.

Runner and orchestrator both read them here. The runner says only what the hash of the files is; key and scope
otherwise follow from the pipeline's version and the job's inputs, which the orchestrator knows by itself.

    scope = "${ref}", and `ref` has the default `main`

    job with ref = main:      reads main                writes main
    job with ref = feature:   reads feature, then main  writes feature

So the scope that the inputs' defaults give is the one that all read. A job with other inputs never writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from schema.definition import CacheDefinition, InputValue, MatrixValue, PipelineDefinition

KEY_LENGTH_MAXIMUM: Final = 250
SCOPE_LENGTH_MAXIMUM: Final = 200
SHARED: Final = ""
"""The scope of a cache that names none: no name that is made of inputs is empty."""
HASH_LENGTH: Final = 32
"""Of the files' hash in a key, in hexadecimal digits."""
PLACEHOLDER: Final = re.compile(r"\$\{([^}]*)\}")
_ABRIDGED: Final = re.compile(r".*~[0-9a-f]{32}", re.DOTALL)
_FILES_HASH: Final = re.compile(rf"-[0-9a-f]{{{HASH_LENGTH}}}")


class Declared(NamedTuple):
    """A cache, and the values that its stage's matrix has."""

    cache: CacheDefinition
    matrix: Mapping[str, MatrixValue]


def declared(definition: PipelineDefinition, stage: str | None, place: int) -> Declared | None:
    """Find a cache: of a stage by its name, or of the job; None where the pipeline declares none there."""
    caches: Sequence[CacheDefinition] = definition.cache
    matrix: Mapping[str, MatrixValue] = {}
    if stage is not None:
        found = next((one for one in definition.stages if one.name == stage), None)
        caches, matrix = ([], {}) if found is None else (found.cache, found.matrix or {})
    return Declared(caches[place], matrix) if 0 <= place < len(caches) else None


def key(wanted: Declared, inputs: Mapping[str, InputValue], files_hash: str | None = None) -> str:
    """Give the key under which a cache is saved.

    :param files_hash: of its ``files``, where it has some.
    """
    text = _filled(wanted.cache.key, {**inputs, **wanted.matrix})
    suffix = "" if files_hash is None else f"-{files_hash}"
    return _bounded(text, KEY_LENGTH_MAXIMUM - len(suffix)) + suffix


def is_key(text: str, wanted: Declared, inputs: Mapping[str, InputValue]) -> bool:
    """Whether a key is one that the declared cache can have for a job with these inputs."""
    if not wanted.cache.files:
        return text == key(wanted, inputs)
    found = _FILES_HASH.fullmatch(text[-HASH_LENGTH - 1 :])
    return found is not None and text == key(wanted, inputs, found[0][1:])


def restore_keys(wanted: Declared, inputs: Mapping[str, InputValue]) -> list[str]:
    """Give how other keys begin that do as well, the best first."""
    values = {**inputs, **wanted.matrix}
    return [_printable(_filled(text, values)[:KEY_LENGTH_MAXIMUM]) for text in wanted.cache.restore_keys]


def scopes(cache: CacheDefinition, definition: PipelineDefinition, inputs: Mapping[str, InputValue]) -> list[str]:
    """Give the scopes that a job reads, in this order. The first is its own: it writes there, and nowhere else."""
    if cache.scope is None:
        return [SHARED]
    own = _scope(cache.scope, inputs)
    named = {placeholder[1] for placeholder in PLACEHOLDER.finditer(cache.scope)}
    defaults = {name: definition.inputs[name].default for name in named}
    known = {name: value for name, value in defaults.items() if value is not None}
    if len(known) < len(defaults):
        return [own]
    base = _scope(cache.scope, known)
    return [own] if base == own else [own, base]


def _scope(pattern: str, inputs: Mapping[str, InputValue]) -> str:
    """Name a scope: different inputs give different names, whatever they hold."""
    text = _filled(pattern, inputs)
    # `a/b` and `c`, or `a` and `b/c`: where it cannot be seen in `${x}/${y}` which it was, the name tells it by a hash.
    _, *inner, _ = PLACEHOLDER.split(pattern) if PLACEHOLDER.search(pattern) else ("", "")
    names, separators = inner[::2], inner[1::2]
    values = [_text(inputs[name]) for name in names]
    unclear = any(not between or any(one in value for one in between for value in values) for between in separators)
    return _bounded(text, SCOPE_LENGTH_MAXIMUM, parts=values if unclear else None)


def _filled(pattern: str, values: Mapping[str, InputValue]) -> str:
    return PLACEHOLDER.sub(lambda placeholder: _text(values[placeholder[1]]), pattern)


def _text(value: InputValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bounded(text: str, maximum: int, parts: Sequence[str] | None = None) -> str:
    """Make a name of a text that may be empty, long or hold anything: different texts get different names.

    :param parts: what it is made of, where the text does not tell.
    """
    if parts is None and 0 < len(text) <= maximum and text.isprintable() and not _ABRIDGED.fullmatch(text):
        return text
    digest = hashlib.sha256(json.dumps([text, parts]).encode()).hexdigest()[:32]
    return f"{_printable(text[: maximum - 33])}~{digest}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
