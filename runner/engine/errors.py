"""What goes wrong with containers.

EngineError
├── EngineUnavailable        no engine answers, or Podman cannot run containers on this machine
├── EngineLost               the engine went away, or fell silent, in the middle
├── ImageNotFound            the image is not there and the registry does not have it
├── ImagePullFailed          the image could not be fetched
├── ImageAccessDenied        its registry does not give it to this runner
├── ImageDigestMismatch      what its registry gave is not what was asked for
├── ImagePlatformMismatch    there is none for this machine's kind of processor
├── ImageRefused             the runner's owner does not allow it
├── RightsRefused            the runner's owner does not allow a container what it asks for
├── CredentialsUnusable      the file with the registries' credentials cannot be read
├── ContainerStartFailed     the engine would not make or start the container
│   └── MachineExhausted     the machine has nothing left to make one of
├── NetworkUnavailable       the engine cannot give a container its network
│   └── NotIsolated          it cannot keep containers of one network from each other: each job needs its own
├── StateFolderUnusable      what the runner keeps beside a container cannot be written, for its disk is full
├── ContainerGone            the container stopped
│   └── ContainerTaken       somebody outside it killed or removed it
├── CommandNotFound          the container has no such program
├── CommandNotExecutable     it has the file, but not as a program it can run
├── CommandStartFailed       the engine could not start a command for another reason
├── CommandLost              what ran a command was killed, and with it the word of how it ended
├── CommandTimeout           a command ran longer than it may, and was ended
├── CommandStopped           a command was ended with the stage or job it belongs to
├── WorkingFolderNotFound    a command's folder does not exist
└── UserNotFound             the container knows no such user
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import aiohttp
import anyio
from aiodocker.exceptions import DockerError

from schema.errors import MoonyardError

CONNECTION_FAILED: Final = 900
"""The status that aiodocker gives to an error of its own: nobody answered."""


class EngineError(MoonyardError):
    """The container engine could not do what was asked."""

    code = "engine_error"


class EngineUnavailable(EngineError):
    code = "engine_unavailable"


class EngineLost(EngineError):
    code = "engine_lost"


class ImageNotFound(EngineError):
    code = "image_not_found"


class ImagePullFailed(EngineError):
    code = "image_pull_failed"


class ImageAccessDenied(EngineError):
    code = "image_access_denied"


class ImageDigestMismatch(EngineError):
    code = "image_digest_mismatch"


class ImagePlatformMismatch(EngineError):
    code = "image_platform_mismatch"


class ImageRefused(EngineError):
    code = "image_refused"


class RightsRefused(EngineError):
    code = "rights_refused"


class CredentialsUnusable(EngineError):
    code = "credentials_unusable"


class ContainerStartFailed(EngineError):
    code = "container_start_failed"


class MachineExhausted(ContainerStartFailed):
    """No fault of the container's: the machine lacks room on its disk, or files, or processes."""


class NetworkUnavailable(EngineError):
    code = "network_unavailable"


class NotIsolated(NetworkUnavailable):
    """The network that an owner's containers share would let them reach each other."""


class ContainerGone(EngineError):
    code = "container_gone"


class ContainerTaken(ContainerGone):
    """Nothing in a container can have done that, nor has this runner."""


class StateFolderUnusable(EngineError):
    code = "state_folder_unusable"


class CommandNotFound(EngineError):
    code = "command_not_found"


class CommandNotExecutable(EngineError):
    code = "command_not_executable"


class CommandStartFailed(EngineError):
    code = "command_start_failed"


class CommandLost(EngineError):
    code = "command_lost"


class CommandTimeout(EngineError):
    code = "command_timeout"


class CommandStopped(EngineError):
    code = "command_stopped"


class WorkingFolderNotFound(EngineError):
    code = "cwd_not_found"


class UserNotFound(EngineError):
    code = "user_not_found"


@contextmanager
def keeping(what: str) -> Generator[None]:
    """Tell what a disk does not take.

    :raises StateFolderUnusable: for any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise StateFolderUnusable(
            f"{what} cannot be written ({(error.strerror or type(error).__name__).lower()})",
            hint="Is there room on the disk of the runner's state folder?",
        ) from error


def first_line(message: str) -> str:
    """Shorten what the engine said to one line without its ornaments."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[0].removeprefix("Error: ")[:500] if lines else "no reason given"


@asynccontextmanager
async def reaching(engine: str, doing: str, seconds: float) -> AsyncGenerator[None]:
    """Hold calls to the engine to a deadline, and tell a lost connection as ``EngineLost``.

    What the engine answers, a ``DockerError``, passes through: only the caller knows what it means.

    :param engine: names the engine, with its address.
    :param doing: what is lost when the engine is, such as "starting container abc".
    :raises EngineLost: when the connection fails or the deadline passes.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise EngineLost(
            f"{engine} did not answer within {seconds:g} s while {doing}",
            hint="`podman ps` shows whether Podman still answers on this machine.",
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise _lost(engine, doing, str(error) or type(error).__name__) from error
    except DockerError as error:
        if error.status != CONNECTION_FAILED:
            raise
        raise _lost(engine, doing, connection_reason(error.message)) from error


def reason(error: BaseException) -> str:
    """Say why an engine was not reached, in the system's own words where it has some."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, TimeoutError):
            return "no answer in time"
        if isinstance(link, aiohttp.ClientConnectorDNSError):
            return f"host name `{link.host}` is not known"
        if isinstance(link, OSError) and link.errno:
            return os.strerror(link.errno).lower()
        link = link.__cause__ or link.__context__
    return first_line(str(error))


def connection_reason(message: str) -> str:
    """Take from aiodocker's message the innermost brackets, where the system's own words are."""
    return message.replace("]", "").rpartition("[")[2].strip() or message


def _lost(engine: str, doing: str, reason: str) -> EngineLost:
    return EngineLost(
        f"{engine} was lost while {doing} ({reason})",
        hint="A private engine is started again for the next container; look at a shared one with `podman info`.",
    )
