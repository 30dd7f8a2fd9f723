"""The messages about secrets and grants, and what of a value is looked for in what a job writes.

A runner asks for a secret just when a job wants it: `POST /v1/runner/jobs/{job}/{attempt}/secrets` with a ``SecretAsk``
is answered by a ``SecretDelivery``, or refused with one of these codes:

    attempt_gone             the attempt is not this runner's, or no longer: as for events
    secret_not_granted       no such secret, or no grant of it that fits this pipeline, stage, inputs and runner: the
                             answer is the same for both, so nobody finds out by asking which secrets there are
    secret_not_confirmed     granted, but nobody with that right has confirmed the grant for this version of the
                             pipeline
    secret_not_readable      granted for commands' environments alone, and asked for by Lua
    secret_asked_too_often   the attempt has asked DELIVERIES_MAXIMUM times
    secrets_unavailable      the orchestrator has no master key
    secret_key_unknown       it has some, and not the one that the value was stored under
    secret_damaged           what is stored is not what was stored under this name and version

Each delivery is a row in the audit, and each refusal of one that is not granted. So a runner keeps what it got for as
long as the attempt lasts, and asks again only for another stage, another use or another name.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from schema.wire import Answer, Message

NAME_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
"""A secret's name is the name of the variable by which a command finds it.

People name one as ``TOKEN``, or as ``build/TOKEN`` where it is pipeline `build`'s alone. A runner asks for `TOKEN`, and
gets the pipeline's own where there is one, or else the one for any."""
VALUE_BYTES_MAXIMUM: Final = 64 * 1024
"""A variable of an environment can hold twice as much."""
DELIVERIES_MAXIMUM: Final = 1000
"""How often one attempt may ask."""
PLAIN_BYTES_MINIMUM: Final = 6
"""A value that is shorter is not looked for: a log without each `1` or `no` is none, and such a value is no secret."""
LINE_BYTES_MINIMUM: Final = 8
"""The same for a line of a value that has several: a file of JSON has lines that are a bracket."""
DISTINCT_BYTES_MINIMUM: Final = 4
"""What has fewer different bytes is not looked for: logs have lines of `=`, and `000000`."""
COMMON: Final = frozenset(
    b"admin administrator changeme default disabled docker enabled example false github gitlab guest localhost "
    b"master moonyard nobody password postgres production public secret staging testing undefined username".split()
)
"""Values that are words of any log: they are not looked for either."""

SecretUse = Literal["environment", "lua", "registry"]
"""Put into a command's environment by the runner, out of Lua's sight; handed to the script; or shown to a registry of
images by the runner, out of the job's sight."""


class SecretAsk(Message, frozen=True, kw_only=True):
    """Asks for a secret's newest value, for one use in one stage of an attempt that the runner holds."""

    name: str
    stage: str
    """As the definition names it: a combination of a matrix by its own name. Empty for what is the whole job's."""
    use: SecretUse


class SecretDelivery(Answer, frozen=True, kw_only=True):
    name: str
    version: int
    value: bytes
    """In JSON as base64. Any bytes but NUL."""
    readable: bool
    """A script may read it; otherwise it is for environments alone."""


def looked_for(value: bytes) -> list[bytes]:
    """Give what is looked for of a value in what a job writes: the value, and its lines where it has several.

    Runner and orchestrator go by the same rule. Short and common ones are left out, and so are lines that open or close
    a PEM block: they are the same in all keys. The longest come first: what holds another is found before it.
    """
    whole = value.strip()
    lines = [line.strip() for line in whole.splitlines()]
    parts = {line for line in lines if len(line) >= LINE_BYTES_MINIMUM} if len(lines) > 1 else set[bytes]()
    if len(whole) >= PLAIN_BYTES_MINIMUM:
        parts.add(whole)
    return sorted(
        (
            part
            for part in parts
            if part.lower() not in COMMON
            and len(set(part)) >= DISTINCT_BYTES_MINIMUM
            and (part == whole or not part.startswith(b"-----"))
        ),
        key=lambda part: (-len(part), part),
    )


def weakness(value: bytes) -> str | None:
    """Say what of a value is not looked for, to whoever stores it; None where it is kept out of logs as it is."""
    whole = value.strip()
    if len(whole) < PLAIN_BYTES_MINIMUM:
        return f"it is shorter than {PLAIN_BYTES_MINIMUM} bytes: it is not taken out of logs"
    if len(set(whole)) < DISTINCT_BYTES_MINIMUM:
        return f"it has less than {DISTINCT_BYTES_MINIMUM} different bytes: it is not taken out of logs"
    if whole.lower() in COMMON:
        return "it is a word that many logs have: it is not taken out of them"
    if any(0 < len(line.strip()) < LINE_BYTES_MINIMUM for line in whole.splitlines()) and b"\n" in whole:
        return f"lines of it that are shorter than {LINE_BYTES_MINIMUM} bytes are not taken out of logs by themselves"
    return None


# --- what people say


class SecretSet(Message, frozen=True, kw_only=True):
    """Stores a value as a secret's newest version."""

    secret: str
    """``TOKEN``, or ``build/TOKEN``."""
    value: bytes
    readable: bool | None = None
    """Whether scripts may read it. By default as its version before, and for a new secret yes."""


class SecretVersion(Answer, frozen=True, kw_only=True):
    number: int
    readable: bool
    key: str
    """The id of the master key that it was stored under."""
    created_at: str
    created_by: str


class Secret(Answer, frozen=True, kw_only=True):
    secret: str
    name: str
    scope: str
    """The pipeline that it is for alone; empty where any may be granted it."""
    version: int
    readable: bool
    key: str
    created_at: str
    changed_at: str
    changed_by: str
    grants: int
    warning: str | None = None
    """Only in the answer to a set: what of the value cannot be kept out of logs."""
    versions: list[SecretVersion] | None = None
    """The newest first; only where one secret is asked for."""


class SecretList(Answer, frozen=True, kw_only=True):
    secrets: list[Secret]


class SecretRemoved(Answer, frozen=True, kw_only=True):
    versions: int
    """How many versions went: all, or the one that was asked for."""
    grants: int


class SecretsRewrapped(Answer, frozen=True, kw_only=True):
    key: str
    """The master key that is in use."""
    rewrapped: int
    left: int
    """How many versions are under keys that this orchestrator does not have."""


class GrantCreate(Message, frozen=True, kw_only=True):
    """Lets jobs have a secret. In names and values, `*` stands for any text."""

    secret: str
    pipeline: str
    stages: list[str] = []
    """None for any."""
    inputs: dict[str, list[str]] = {}
    """What the job's inputs have to be: one of the values of each."""
    runners: list[str] = []
    """By name or id, as they are registered now; none for any."""
    follows: bool | None = None
    """Whether it holds for versions that are pushed later; by default as the orchestrator's `grant_versions` says."""


class Grant(Answer, frozen=True, kw_only=True):
    id: str
    secret: str
    pipeline: str
    stages: list[str]
    inputs: dict[str, list[str]]
    runners: list[str]
    """Their names."""
    follows: bool
    created_at: str
    created_by: str
    waits_for: list[str]
    """The pipelines whose newest version nobody has confirmed for it."""


class GrantList(Answer, frozen=True, kw_only=True):
    grants: list[Grant]


class GrantsConfirm(Message, frozen=True, kw_only=True):
    """Says that a version of a pipeline may have what the pipeline was granted."""

    pipeline: str
    version: str | None = None
    """By default the newest."""
    grant: str | None = None
    """Only this one, by its id."""


class GrantsConfirmed(Answer, frozen=True, kw_only=True):
    pipeline: str
    version: str
    secrets: list[str]
    """Those that were waiting for it."""
