"""Plugin folders: reads one whole, checks its manifest, and hashes it.

    plugin.toml     the manifest
    init.lua        declares the operations
    other.lua       what `require("./other")` gives, also in folders of the folder
    tests/          its tests, which no job loads
    README.md

A plugin's hash is over the sorted paths and the contents of all its files, so whoever has the hash has the plugin.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from plugins.versions import is_version
from schema.plugins import BYTES_MAXIMUM, FILES_MAXIMUM, Manifest, PluginInvalid, is_name

MANIFEST: Final = "plugin.toml"
INIT: Final = "init.lua"
README: Final = "README.md"
TESTS: Final = "tests/"
PATH_LENGTH_MAXIMUM: Final = 100
_PATH: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*")
_HASH_FORMAT: Final = b"moonyard plugin 1\n"
_PASSED_OVER: Final = frozenset({"__pycache__", "node_modules"})


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin with all its files, as it is hashed, stored, and handed to a sandbox."""

    manifest: Manifest
    files: Mapping[str, str]
    """The text of each, by its path in the folder with slashes."""
    sha256: str

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def code(self) -> dict[str, str]:
        """The Lua files that a job loads."""
        return {path: text for path, text in self.files.items() if path.endswith(".lua") and not path.startswith(TESTS)}


def tree_hash(files: Mapping[str, str]) -> str:
    """Hash files: of each, in the order of the paths' bytes, path and content, each with its length before it."""
    digest = hashlib.sha256(_HASH_FORMAT)
    for path, text in sorted(files.items(), key=lambda item: item[0].encode()):
        for part in (path.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


def read(folder: Path) -> Plugin:
    """Read a plugin's folder.

    :raises PluginInvalid: when it is none; it says what is wrong.
    """
    return from_files(_read_files(folder), f"plugin folder `{folder}`")


def from_files(files: Mapping[str, str], what: str = "the plugin") -> Plugin:
    """Make a plugin of its files, which may come from anywhere.

    :param what: how errors name it before its name is known.
    :raises PluginInvalid: when they are none.
    """
    check_files(files, what)
    if MANIFEST not in files:
        raise PluginInvalid(
            f"{what} has no `{MANIFEST}`", hint="`moonyard plugin new NAME` makes a folder that can be begun with."
        )
    manifest = read_manifest(files[MANIFEST], what)
    if INIT not in files:
        raise PluginInvalid(
            f"plugin `{manifest.name}` has no `{INIT}`", hint="It is the file that declares the plugin's operations."
        )
    return Plugin(manifest=manifest, files=dict(files), sha256=tree_hash(files))


def check_files(files: Mapping[str, str], what: str) -> None:
    """See that files are few, small, and named plainly.

    :raises PluginInvalid: when they are not.
    """
    if len(files) > FILES_MAXIMUM:
        raise PluginInvalid(f"{what} has {len(files)} files, and a plugin has at most {FILES_MAXIMUM}")
    for path in files:
        if len(path) > PATH_LENGTH_MAXIMUM or not _PATH.fullmatch(path):
            raise PluginInvalid(
                f"{what} has a file `{path[:200]}`, which no plugin's file can be named",
                hint=(
                    f"Paths are of letters, digits, `.`, `_`, `-` and `/`, up to {PATH_LENGTH_MAXIMUM} characters; no "
                    "part begins with a `.`."
                ),
            )
    size = sum(len(text.encode(errors="surrogatepass")) for text in files.values())
    if size > BYTES_MAXIMUM:
        raise PluginInvalid(f"{what} has {size} bytes of files, and a plugin has at most {BYTES_MAXIMUM}")
    for path, text in files.items():
        if "\0" in text or not _is_text(text):
            raise PluginInvalid(f"`{path}` of {what} is not text", hint="A plugin is of text files in UTF-8.")


def read_manifest(text: str, what: str = "the plugin") -> Manifest:
    """Read a ``plugin.toml``.

    :raises PluginInvalid: with the field that is wrong.
    """
    try:
        manifest = msgspec.convert(tomllib.loads(text), Manifest)
    except tomllib.TOMLDecodeError as error:
        raise PluginInvalid(f"`{MANIFEST}` of {what} is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise PluginInvalid(
            f"`{MANIFEST}` of {what} is wrong: {_in_words(str(error))}",
            hint=f"It has the fields {', '.join(Manifest.__struct_fields__)}.",
        ) from error
    except RecursionError as error:
        raise PluginInvalid(f"`{MANIFEST}` of {what} is nested too deeply") from error
    if not is_name(manifest.name):
        raise PluginInvalid(
            f"`{MANIFEST}` of {what}: `{manifest.name[:60]}` cannot be a plugin's name",
            hint="A name is of up to 50 small letters, digits and `_`, a letter first, and no word of Lua's own.",
        )
    if not is_version(manifest.version):
        raise PluginInvalid(
            f"`{MANIFEST}` of plugin `{manifest.name}`: `version` is `{manifest.version[:60]}`, which is no version",
            hint='A version is as semver.org has it, without a build: version = "1.0.0".',
        )
    if not manifest.description.strip():
        raise PluginInvalid(
            f"`{MANIFEST}` of plugin `{manifest.name}` has an empty `description`",
            hint="Say in a sentence what the plugin does.",
        )
    for field in ("modules", "images", "secrets", "hosts", "plugins"):
        entries: list[str] = getattr(manifest, field)
        for entry in entries:
            if not entry or not entry.isprintable() or len(entry) > 300 or entry != entry.strip():
                raise PluginInvalid(f"`{field}` of plugin `{manifest.name}` holds `{entry[:60]}`, which names nothing")
        if len(set(entries)) != len(entries):
            raise PluginInvalid(f"`{field}` of plugin `{manifest.name}` names something twice")
    return manifest


def installed(folder: Path) -> dict[str, Path]:
    """Find the plugin folders in a folder, by the name that each folder has."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise PluginInvalid(
            f"plugin folder {folder} cannot be read: {(error.strerror or type(error).__name__).lower()}",
            hint="The setting `plugin_folder` names a folder with a plugin's folder in it for each.",
        ) from error
    return {entry.name: entry for entry in entries if (entry / MANIFEST).is_file()}


def around(path: Path) -> dict[str, Plugin]:
    """Find the plugin in whose folder a file is, if it is in one's, by its name.

    :raises PluginInvalid: when it is in one's that cannot be used.
    """
    for folder in path.resolve().parents:
        if (folder / MANIFEST).is_file():
            found = read(folder)
            return {found.name: found}
    return {}


def _read_files(folder: Path) -> dict[str, str]:
    """Read the files of a folder but for hidden ones; a link is no file of it."""
    files: dict[str, str] = {}
    size = 0
    try:
        for base, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED_OVER)
            for name in [*folders, *names]:
                if (Path(base) / name).is_symlink():
                    raise PluginInvalid(
                        f"plugin folder `{folder}` has a link `{(Path(base) / name).relative_to(folder)}`",
                        hint="A plugin is of files alone: put the file itself there.",
                    )
            for name in sorted(names):
                if name.startswith("."):
                    continue
                path = Path(base) / name
                facts = path.stat(follow_symlinks=False)
                size += facts.st_size
                if not stat.S_ISREG(facts.st_mode) or size > BYTES_MAXIMUM or len(files) > FILES_MAXIMUM:
                    raise PluginInvalid(
                        f"plugin folder `{folder}` is more than a plugin: at `{path.relative_to(folder)}`",
                        hint=f"It has at most {FILES_MAXIMUM} plain files, of {BYTES_MAXIMUM // 1024} KiB in all.",
                    )
                files[path.relative_to(folder).as_posix()] = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PluginInvalid(
            f"plugin folder `{folder}` has a file that is not UTF-8 text", hint="A plugin is of text files."
        ) from error
    except OSError as error:
        raise PluginInvalid(
            f"plugin folder `{folder}` cannot be read: {(error.strerror or type(error).__name__).lower()}"
        ) from error
    return files


def _raise(error: OSError) -> None:
    raise error


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_words(message: str) -> str:
    return (
        message.replace("Object contains unknown field", "there is no field")
        .replace("Object missing required field", "it lacks the field")
        .replace("at `$.", "at `")
        .replace("`array`", "a list")
        .replace("`str`", "text")
    )


@functools.cache
def shipped() -> Mapping[str, Plugin]:
    """Read the plugins that come with Moonyard, by name."""
    found = [read(path) for path in installed(Path(__file__).parent).values()]
    return {plugin.name: plugin for plugin in found}
