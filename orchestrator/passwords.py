"""Passwords: what one has to be like, and their hashes (argon2id, RFC 9106's second recommended parameters).

A hash takes 64 MiB and some fifty milliseconds of a core, on a thread. Only two are made at a time, whoever asks; the
throttle of ``orchestrator.logins`` comes before.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.to_thread
from argon2 import PasswordHasher, profiles
from argon2.exceptions import VerificationError

from orchestrator.problems import RequestInvalid, TooMany
from schema.accounts import PASSWORD_LENGTH_MAXIMUM, PASSWORD_LENGTH_MINIMUM

_HASHER: Final = PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY)
AT_ONCE: Final = 2
WAIT_SECONDS: Final = 20.0
DISTINCT_MINIMUM: Final = 5
"""Different characters of a password."""
NAME_LENGTH_LOOKED_FOR: Final = 4
"""Of an account: shorter ones are in many a word."""
_NONE: Final = "$argon2id$v=19$m=65536,t=3,p=4$GJDspw51B+Lc945XOWZCMA$cmcc6akn9vp+7JwvKmMobU/VQSOq05iv+/tBnUr7wIA"
"""Of no password: what a login of an account without one is compared with, so that it takes as long."""


_TURNS: Final = anyio.CapacityLimiter(AT_ONCE)


async def hashed(password: str) -> str:
    """Give what is stored of a password.

    :raises TooMany: when too many others are before it.
    """
    with _in_turn():
        return await anyio.to_thread.run_sync(_HASHER.hash, password, limiter=_TURNS)


async def are_same(stored: str | None, password: str) -> bool:
    """Compare a password with its hash; where there is none, it takes as long and is never the same.

    :raises TooMany: when too many others are before it.
    """
    if len(password) > PASSWORD_LENGTH_MAXIMUM:
        return False
    with _in_turn():
        is_same = await anyio.to_thread.run_sync(_verify, stored or _NONE, password, limiter=_TURNS)
    return is_same and stored is not None


def is_outdated(stored: str) -> bool:
    """Whether a hash was made with other parameters than those of today."""
    return _HASHER.check_needs_rehash(stored)


def check(password: str, account: str) -> None:
    """Refuse what is no password.

    :raises RequestInvalid: saying what one is; never the password.
    """
    if not PASSWORD_LENGTH_MINIMUM <= len(password) <= PASSWORD_LENGTH_MAXIMUM:
        why = f"it has {len(password)} characters"
    elif (len(account) >= NAME_LENGTH_LOOKED_FOR and account in password.lower()) or len(
        set(password)
    ) < DISTINCT_MINIMUM:
        why = "it is guessed at once: it holds the account's name, or the same few characters"
    else:
        return
    raise RequestInvalid(
        f"this cannot be a password: {why}",
        code="password_invalid",
        hint=f"A password has {PASSWORD_LENGTH_MINIMUM} to {PASSWORD_LENGTH_MAXIMUM:,} characters of any kind: a few "
        "words that do not belong together are good.",
    )


@contextmanager
def _in_turn() -> Generator[None]:
    try:
        with anyio.fail_after(WAIT_SECONDS):
            yield
    except TimeoutError as error:
        raise TooMany(
            "too many passwords are looked at: this one had no turn in time",
            code="login_throttled",
            seconds=WAIT_SECONDS,
        ) from error


def _verify(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except VerificationError:
        return False
