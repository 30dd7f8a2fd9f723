"""Fetches plugins from where a pipeline says they are: a folder beside its file, or a commit of a git repository.

That is done where the pipeline's author is: by ``moonyard run``, and by ``moonyard pipeline push``, which sends along
what it found. So an orchestrator connects to nothing because a pipeline says so, needs no git, and holds no credentials
of repositories; what the author may read is read as the author.

Of a repository, the objects of one commit are fetched and read as they are: nothing is checked out, so no hook, filter,
link or submodule in it does anything.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from plugins import folders
from plugins.fetched import FetchedPlugins
from plugins.folders import Plugin
from plugins.resolution import Catalogue, Installed, Place, Shipped
from schema.plugins import (
    BYTES_MAXIMUM,
    FILES_MAXIMUM,
    PluginInvalid,
    PluginNotFetched,
    PluginReference,
    PluginUnknown,
)

FETCH_SECONDS: Final = 120.0
GIT_SECONDS: Final = 30.0
FETCH_BYTES_MAXIMUM: Final = 256 * 1024 * 1024
"""Of the file that the fetched objects come in."""
PROTOCOLS: Final = "https:ssh:git:file"
LISTING_BYTES_MAXIMUM: Final = 1024 * 1024
"""Of the names in a commit: a few objects can name the same tree a million times."""
_BLOCK_BYTES: Final = 512
"""What `ulimit -f` counts in (POSIX)."""
_LIMITED: Final = f'ulimit -f {FETCH_BYTES_MAXIMUM // _BLOCK_BYTES}; exec "$@"'
_PLAIN_FILES: Final = frozenset({"100644", "100755"})


class LocalSources:
    """Gives plugins from this machine and from git repositories.

    :param base: the folder that pipelines' `folder` is relative to: that of the pipeline's file.
    :param within: where folders may be, for who reads a pipeline that may be somebody else's: no git is asked then.
    :param fetched: where what is fetched from repositories is kept.
    :param fetches: whether repositories are asked; where not, what was kept before serves.
    """

    def __init__(
        self,
        base: Path,
        within: Sequence[Path] | None = None,
        *,
        fetched: FetchedPlugins | None = None,
        fetches: bool = True,
    ) -> None:
        self._base = base
        self._within = within
        self._fetched = fetched
        self._fetches = fetches

    async def load(self, reference: PluginReference) -> Plugin:
        if reference.git is not None:
            assert reference.commit is not None, "a reference to a repository has its commit"
            if self._within is not None:
                raise PluginUnknown(
                    f"plugin `{reference.name}` is in a git repository, and nothing is fetched from one here",
                    hint="A copy of it in a folder can be named by `folder`.",
                )
            files = await self._files(reference, reference.git, reference.commit)
            return folders.from_files(files, f"plugin `{reference.name}` in {reference.git}")
        assert reference.folder is not None, "a reference with a source has a folder or a repository"
        folder = self._base / reference.folder
        if self._within is not None and not any(
            folder.resolve().is_relative_to(place.resolve()) for place in self._within
        ):
            raise PluginUnknown(f"plugin `{reference.name}` is to be in folder `{folder}`, which is out of reach here")
        if not await anyio.Path(folder).is_dir():
            raise PluginUnknown(
                f"plugin `{reference.name}` is to be in folder `{folder}`, which does not exist",
                hint="`folder` is relative to the pipeline's file.",
            )
        return await anyio.to_thread.run_sync(folders.read, folder)

    async def _files(self, reference: PluginReference, url: str, commit: str) -> dict[str, str]:
        if not self._fetches:
            kept = None if self._fetched is None else await anyio.to_thread.run_sync(self._fetched.read, reference)
            if kept is None:
                raise PluginNotFetched(
                    f"plugin `{reference.name}` is in {url}, which is not asked here, and commit {commit[:12]} was not "
                    "fetched before",
                    hint="`moonyard check --fetch` fetches it; so do `moonyard run` and `moonyard pipeline push`.",
                )
            return kept
        files = await fetch(url, commit, reference.folder)
        if self._fetched is not None:
            await anyio.to_thread.run_sync(self._fetched.keep, reference, files)
        return files


class SentSources:
    """Gives plugins that were sent along with a pipeline, by their names."""

    def __init__(self, sent: Mapping[str, Mapping[str, str]]) -> None:
        self._sent = sent

    async def load(self, reference: PluginReference) -> Plugin:
        files = self._sent.get(reference.name)
        if files is None:
            raise PluginUnknown(
                f"plugin `{reference.name}` was not sent along with the pipeline that says where it is",
                hint="`moonyard pipeline push` sends such plugins with the pipeline.",
            )
        return folders.from_files(files, f"plugin `{reference.name}`")


def here(
    plugin_folder: Path | None,
    base: Path,
    within: Sequence[Path] | None = None,
    *,
    fetched: FetchedPlugins | None = None,
    fetches: bool = True,
) -> Catalogue:
    """Say where this machine has plugins.

    :param plugin_folder: the setting's.
    :param base: what `folder` in a pipeline is relative to; the others are as ``LocalSources`` has them.
    """
    installed: list[Place] = [] if plugin_folder is None else [Installed(plugin_folder)]
    return Catalogue([Shipped(), *installed], LocalSources(base, within, fetched=fetched, fetches=fetches))


async def fetch(url: str, commit: str, folder: str | None) -> dict[str, str]:
    """Fetch the files of a folder of a commit, by default of all of it.

    :raises PluginUnknown: when they cannot be had; git's own words say why.
    :raises PluginInvalid: when they are more than a plugin is, or no plain text files.
    """
    if shutil.which("git") is None:
        raise PluginUnknown(
            f"a plugin cannot be fetched from {url}: there is no git on this machine", hint="Install git."
        )
    with tempfile.TemporaryDirectory(prefix="moonyard-plugin-") as scratch:
        await _git(scratch, "init", "--quiet", "--bare", ".", what=url)
        await _git(scratch, "fetch", "--quiet", "--depth=1", "--no-tags", "--", url, commit, what=url, is_fetch=True)
        return await _read(scratch, url, commit, folder)


async def _read(scratch: str, url: str, commit: str, folder: str | None) -> dict[str, str]:
    tree = f"{commit}^{{commit}}:{'' if folder is None else folder.strip('/')}"
    listed = await _git(
        scratch, "ls-tree", "-r", "-l", "-z", "--full-tree", tree, what=url, output_maximum=LISTING_BYTES_MAXIMUM
    )
    if len(listed) > LISTING_BYTES_MAXIMUM:
        raise _too_much(url, commit, "")
    names: dict[str, str] = {}
    size = 0
    for entry in filter(None, listed.split(b"\0")):
        facts, _, raw = entry.partition(b"\t")
        mode, kind, name, length = facts.decode().split()
        path = raw.decode(errors="replace")
        if any(part.startswith(".") for part in path.split("/")):
            continue
        size += int(length) if length.isdigit() else 0
        if mode not in _PLAIN_FILES or kind != "blob" or size > BYTES_MAXIMUM or len(names) >= FILES_MAXIMUM:
            raise _too_much(url, commit, f": at `{path}`")
        names[path] = name
    content = await _git(
        scratch, "cat-file", "--batch", stdin="".join(f"{name}\n" for name in names.values()).encode(), what=url
    )
    files: dict[str, str] = {}
    at = 0
    for path in names:
        end = content.index(b"\n", at)
        length = int(content[at:end].split()[2])
        try:
            files[path] = content[end + 1 : end + 1 + length].decode()
        except UnicodeDecodeError as error:
            raise PluginInvalid(f"`{path}` in {url} is not UTF-8 text", hint="A plugin is of text files.") from error
        at = end + 1 + length + 1
    return files


def _too_much(url: str, commit: str, where: str) -> PluginInvalid:
    return PluginInvalid(
        f"{url} at commit {commit[:12]} holds more than a plugin{where}",
        hint=(
            f"A plugin has at most {FILES_MAXIMUM} plain files, of {BYTES_MAXIMUM // 1024} KiB in all, no links and "
            "no submodules. `folder` names one in the repository."
        ),
    )


async def _git(
    scratch: str,
    *arguments: str,
    what: str,
    stdin: bytes = b"",
    is_fetch: bool = False,
    output_maximum: int = FETCH_BYTES_MAXIMUM,
) -> bytes:
    """Run git; of a longer output than it may have, give the beginning, which is longer than that by then."""
    environment = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_DIR": scratch,
        "LC_ALL": "C",
    }
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", *arguments]
    with anyio.move_on_after(FETCH_SECONDS if is_fetch else GIT_SECONDS):
        with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as errors:
            asked.write(stdin)
            asked.seek(0)
            process = await anyio.open_process(
                ["sh", "-c", _LIMITED, "sh", *command],
                stdin=asked,
                cwd=scratch,
                env=environment,
                stderr=errors,
                start_new_session=True,
            )
            output = bytearray()
            async with process:
                assert process.stdout is not None, "it is a pipe"
                async for block in process.stdout:
                    output += block
                    if len(output) > output_maximum:
                        process.kill()
                        return bytes(output)
                await process.wait()
            if process.returncode == 0:
                return bytes(output)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
        raise PluginUnknown(
            f"a plugin cannot be fetched from {what}" + (f": {said[-1][:300]}" if said else ""),
            hint="It is fetched by your own git, with your credentials: does `git fetch` there work?",
        )
    raise PluginUnknown(f"a plugin cannot be fetched from {what}: git did not end in time")
