"""Who may use an image that was fetched with credentials of a job: the engine's images are there for all jobs alike.

    pull for a job with credentials ──> its repository is noted ──> fetched ──> the image and who fetched it are noted
    container made, and not started ──> is its image's repository noted? ── no ──> started
                                            └─ yes ── may these credentials have this image? ── yes ──> started
                                                           └─ no ──> removed; pulled as its job would: the registry says

A repository is an image's name without tag and digest. Of each one of which something was ever fetched with a job's
credentials there is a file in the state folder, written before the fetch begins: so nothing of it is used by others at
any moment, whatever dies when, and a runner that starts anew knows it too. For runners with other state folders, and
for one that lost its own, there is a mark in the engine besides, where the images are: an empty volume, whose labels
name the repository and the images of it that are anyone's.

The file says of each image, by its id, whose it is: anyone's (it was there before, or the registry gave it to the
runner itself), or that of the credentials whose keyed hashes it lists. Others have to fetch it themselves, of which the
registry's answer is what counts: what is here already is not sent again. Kubernetes keeps the same kinds of records
(KEP-2535).

What was fetched with the runner's own credentials is for all jobs: that is its owner's decision.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import msgspec
from aiodocker.exceptions import DockerError
from aiodocker.volumes import DockerVolume

from runner.engine import names
from runner.engine.connection import Connection
from runner.engine.credentials import Login, Logins
from runner.engine.errors import EngineError, first_line, keeping

log: Final = logging.getLogger(__name__)

ANYONE: Final = ""
"""In the place of a hash: no credentials of a job are needed."""
KEYS_MAXIMUM: Final = 100
"""Of one image; the hashes noted last are kept."""
KEY_BYTES: Final = 32
EVERYBODYS_MAXIMUM: Final = 10_000
"""How many images are remembered of which nothing has to be asked any more."""
REPOSITORY_LABEL: Final = "moonyard.private"
ANYONES_LABEL: Final = "moonyard.private.anyones"
FORGOTTEN_SECONDS: Final = 24 * 3600.0
"""After which a repository of which nothing is here any more is forgotten: no pull takes that long."""
_WHAT: Final = "the note of an image that is pulled with a job's credentials"


class _Private(msgspec.Struct, kw_only=True):
    """A repository of which something was fetched with a job's credentials."""

    repository: str
    allowed: dict[str, list[str]] = {}
    """Of each image, by its id, whose it is."""


class Wanted:
    """An image that a container is to be made of, and what its job shows to the registry: asked for when needed."""

    def __init__(self, name: str, logins: Logins | None, private: PrivateImages, key: str | None = None) -> None:
        """Say what is wanted.

        :param name: in full, after the image map.
        :param key: the hash of the credentials that it is wanted for, where nobody is there to show them.
        """
        self.name = name
        self._logins = logins
        self._private = private
        self._login: Login | None = None
        self._key = key

    async def login(self) -> Login | None:
        """Give the job's credentials for the image's registry, if it has any.

        :raises MoonyardError: when it is not to have the secret that they are in.
        """
        await self.key()
        return self._login

    async def key(self) -> str:
        """Give a keyed hash of them, or ``ANYONE``.

        :raises MoonyardError: as ``login``.
        """
        if self._key is None:
            if self._logins is not None:
                self._login = await self._logins.find(self.name)
            self._key = await self._private.key(self.name, self._login)
        return self._key


class PrivateImages:
    """The records. Several processes may share the folder."""

    def __init__(self, state_folder: Path, connection: Connection) -> None:
        self._folder = state_folder / "private-images"
        self._connection = connection
        self._everybodys: set[tuple[str, str]] = set()
        """Images, by repository and id, that were found to be anyone's: that they stay."""

    async def key(self, image: str, login: Login | None) -> str:
        """Give the keyed hash of credentials for an image's registry; ``ANYONE`` for none.

        :raises StateFolderUnusable: when the key of the hashes cannot be kept.
        """
        return ANYONE if login is None else await anyio.to_thread.run_sync(self._hash, names.registry(image), login)

    def knows(self, image: str) -> bool:
        """Tell whether it is known here that something of an image's repository is private."""
        return self._path(names.repository(image)).exists()

    async def allows(self, wanted: Wanted, image_id: str) -> bool:
        """Tell whether an image may be used by whoever wants it.

        :param image_id: what its name means here.
        :raises MoonyardError: when the job is not to have the secret that would say so.
        """
        image = names.repository(wanted.name), _bare(image_id)
        if image in self._everybodys:
            return True
        await self.learn(wanted.name)
        record = await anyio.to_thread.run_sync(self._read, image[0])
        # One that is here while nothing is noted was here before anything will be.
        allowed = [ANYONE] if record is None else record.allowed.get(image[1], [])
        if ANYONE in allowed:
            if len(self._everybodys) >= EVERYBODYS_MAXIMUM:
                self._everybodys.clear()
            self._everybodys.add(image)
            return True
        return bool(allowed) and await wanted.key() in allowed

    async def learn(self, image: str) -> None:
        """Take over what another runner marked in the engine about an image's repository, if nothing is noted here.

        :raises StateFolderUnusable: when that cannot be noted.
        :raises EngineError: when the engine does not tell.
        """
        repository = names.repository(image)
        if not self.knows(image) and (marked := await self._mark_of(repository)) is not None:
            await anyio.to_thread.run_sync(self._begin, marked)

    async def begin(self, image: str) -> None:
        """Note that an image is now fetched with a job's credentials. What is here of its repository stays anyone's.

        :raises StateFolderUnusable: when that cannot be noted.
        :raises EngineError: when the engine does not say what is here, or does not take the mark.
        """
        repository = names.repository(image)
        record = await anyio.to_thread.run_sync(self._read, repository)
        if record is None:
            # Before it is marked that there is something private, nothing of it that is here can be.
            here = (await self._here()).get(repository, set())
            record = _Private(repository=repository, allowed={found: [ANYONE] for found in here})
        await anyio.to_thread.run_sync(self._begin, await self._mark(record))

    async def note(self, image: str, image_id: str, key: str) -> None:
        """Note that a registry gave an image to those whose credentials have this hash.

        :raises StateFolderUnusable: when that cannot be noted.
        :raises EngineError: when the engine does not take the mark.
        """
        if self.knows(image):
            record = await anyio.to_thread.run_sync(self._note, names.repository(image), _bare(image_id), key)
            if key != ANYONE:
                await self._mark(record)  # another runner may have forgotten the repository meanwhile

    async def prune(self) -> None:
        """Forget the images that are not here any more, a day after."""
        try:
            if any(self._folder.glob("*.json")):
                here = await self._here()
                for repository in await anyio.to_thread.run_sync(self._prune, here, time.time() - FORGOTTEN_SECONDS):
                    await self._unmark(repository)
        except (EngineError, OSError) as error:
            log.warning("what is noted of private images could not be looked through: %s", error)

    def _hash(self, registry: str, login: Login) -> str:
        shown = msgspec.json.encode([registry, login.username, login.password])
        with keeping(_WHAT), self._locked():
            return hmac.digest(self._key(), shown, "sha256").hex()

    def _key(self) -> bytes:
        path = self._folder / "key"
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = b""
        if len(key) != KEY_BYTES:
            key = secrets.token_bytes(KEY_BYTES)
            _write(path, key)
        return key

    def _begin(self, record: _Private) -> None:
        with keeping(_WHAT), self._locked():
            path = self._path(record.repository)
            if path.exists():
                os.utime(path)
            else:
                _write(path, msgspec.json.encode(record))

    def _note(self, repository: str, image_id: str, key: str) -> _Private:
        with keeping(_WHAT), self._locked():
            record = self._read(repository) or _Private(repository=repository)
            keys = record.allowed.get(image_id, [])
            if key not in keys:
                record.allowed[image_id] = [ANYONE] if ANYONE in {key, *keys} else [*keys, key][-KEYS_MAXIMUM:]
                _write(self._path(repository), msgspec.json.encode(record))
        return record

    def _prune(self, here: Mapping[str, Collection[str]], before: float) -> list[str]:
        """Leave out what is not here any more; give the repositories of which nothing is."""
        forgotten: list[str] = []
        with self._locked():
            for path in self._folder.glob("*.json"):
                if path.stat().st_mtime > before:
                    continue
                record = _decoded(path)
                left = {
                    image: keys for image, keys in record.allowed.items() if image in here.get(record.repository, ())
                }
                if record.repository and not here.get(record.repository):
                    path.unlink()
                    forgotten.append(record.repository)
                elif len(left) < len(record.allowed):
                    _write(path, msgspec.json.encode(_Private(repository=record.repository, allowed=left)))

        return forgotten

    def _read(self, repository: str) -> _Private | None:
        try:
            return _decoded(self._path(repository), repository)
        except FileNotFoundError:
            return None

    async def _here(self) -> dict[str, set[str]]:
        """List the ids of the images that the engine has, by their repositories."""
        try:
            async with self._connection.reaching("listing the images"):
                # The engine's own JSON.
                images: list[dict[str, Any]] = await self._connection.docker.images.list()  # pyright: ignore[reportUnknownMemberType]
        except DockerError as error:
            raise EngineError(f"the images could not be listed: {first_line(error.message)}") from error
        here: defaultdict[str, set[str]] = defaultdict(set)
        for image in images:
            for repository in repositories(image):
                here[repository].add(_bare(str(image["Id"])))
        return here

    async def _mark(self, record: _Private) -> _Private:
        """Mark a repository in the engine; give what the mark says, which may be another runner's."""
        anyones = ",".join(image for image, keys in record.allowed.items() if ANYONE in keys)
        labels = {REPOSITORY_LABEL: record.repository, ANYONES_LABEL: anyones}
        volume = {"Name": _volume(record.repository), "Labels": labels}
        try:
            async with self._connection.reaching("marking images as private"):
                told = await self._connection.docker._query_json(  # noqa: SLF001  # its own way drops the labels
                    "volumes/create", "POST", data=volume
                )
        except DockerError as error:
            raise EngineError(f"{_WHAT} could not be made in the engine: {first_line(error.message)}") from error
        return _marked(record.repository, told)

    async def _mark_of(self, repository: str) -> _Private | None:
        try:
            async with self._connection.reaching("looking for the mark of private images"):
                told = await self._connection.docker._query_json(f"volumes/{_volume(repository)}")  # noqa: SLF001
        except DockerError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise EngineError(f"{_WHAT} could not be looked for: {first_line(error.message)}") from error
        return _marked(repository, told)

    async def _unmark(self, repository: str) -> None:
        try:
            async with self._connection.reaching("forgetting private images"):
                await DockerVolume(self._connection.docker, _volume(repository)).delete()
        except DockerError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise EngineError(f"{_WHAT} could not be removed: {first_line(error.message)}") from error

    @contextmanager
    def _locked(self) -> Generator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, repository: str) -> Path:
        return self._folder / f"{_name(repository)}.json"


def repositories(facts: Mapping[str, Any]) -> set[str]:  # the engine's own JSON
    """Name the repositories that an image is in, as the engine describes it."""
    tags: list[str] = facts.get("RepoTags") or []
    digests: list[str] = facts.get("RepoDigests") or []
    return {names.repository(names.with_registry(name)) for name in (*tags, *digests)}  # Docker tells short names


def _volume(repository: str) -> str:
    return f"moonyard-private-{_name(repository)}"


def _name(repository: str) -> str:
    return hashlib.sha256(repository.encode()).hexdigest()[:32]


def _marked(repository: str, volume: Mapping[str, Any]) -> _Private:  # the engine's own JSON
    labels: dict[str, str] = volume.get("Labels") or {}
    anyones = filter(None, labels.get(ANYONES_LABEL, "").split(","))
    return _Private(repository=repository, allowed={image: [ANYONE] for image in anyones})


def _bare(image_id: str) -> str:
    return image_id.removeprefix("sha256:")


def _decoded(path: Path, repository: str = "") -> _Private:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Private)
    except FileNotFoundError:
        raise
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read (%s): each job has to fetch the images of its repository", path, error)
        return _Private(repository=repository)


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there whole, and stays, or not at all."""
    nascent = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(nascent, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    nascent.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
