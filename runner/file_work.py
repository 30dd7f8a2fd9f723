"""Does what a host call asks of files in a thread, so that a slow disk holds up no event loop.

At most so many threads do such work for all jobs of a runner. The work asks time and again whether to go on: when the
job is cancelled, or the work takes longer than it may, it stops at the next such question, and is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import RunVar

from runner import jail
from runner.archives.contents import ArchiveDamaged, ArchiveRefused
from runner.formats.plain import DataInvalid
from runner.jail import JailError
from runner.trees import Check
from schema.errors import MoonyardError

Answer = TypeVar("Answer")

THREADS: Final = 16
SECONDS: Final = 30 * 60.0
_limiter: Final = RunVar[anyio.CapacityLimiter]("file work")


class FileWorkTimeout(MoonyardError):
    """Work on files took longer than it may."""

    code = "files_timeout"


async def run(call: str, work: Callable[[Check], Answer]) -> Answer:
    """Give what ``work`` gives; it gets the function to ask whether to go on.

    :param call: whose work it is, for messages.
    :raises JailError: with the call's name before what is told of a path.
    :raises FileWorkTimeout: when it took too long.
    """
    try:
        with anyio.fail_after(SECONDS):
            return await anyio.to_thread.run_sync(work, anyio.from_thread.check_cancelled, limiter=_threads())
    except JailError as error:
        raise JailError(f"{call}: {error.message}", code=error.code, hint=error.hint) from error.__cause__
    except (ArchiveRefused, ArchiveDamaged, DataInvalid) as error:
        raise type(error)(f"{call}: {error.message}", code=error.code, hint=error.hint) from error.__cause__
    except TimeoutError as error:
        raise FileWorkTimeout(
            f"{call} took longer than {SECONDS / 60:.0f} minutes",
            hint="Work of that size belongs in a container: process.run.",
        ) from error
    except OSError as error:
        refused = jail.refusal(str(error.filename or "a file of the workspace"), error)
        raise JailError(f"{call}: {refused.message}", code=refused.code, hint=refused.hint) from error


def _threads() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
        return limiter
