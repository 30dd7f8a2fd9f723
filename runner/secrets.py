"""The secrets of one attempt: asked for when they are wanted, kept in memory until it ends, and looked for in its log.

    a call wants TOKEN ── was it delivered for this stage and use? ── no ──> ask ──> redaction ──┐
                                     └─ yes ─────────────────────────────────────────────────────┴──> value

Nobody gets a value before all that the attempt writes is looked through for it. Each delivery is written down where the
secrets are kept, so there is one for each stage and use, and not one for each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import anyio

from runner.event_stream import EventStream
from schema.errors import MoonyardError
from schema.secrets import NAME_PATTERN, SecretDelivery, SecretUse, looked_for, weakness


class SecretNotGranted(MoonyardError):
    """A run without a server was not given a secret that its pipeline wants: there, giving is granting."""

    code = "secret_not_granted"


class SecretNotReadable(MoonyardError):
    """A secret for commands' environments alone is wanted elsewhere."""

    code = "secret_not_readable"


class SecretNameInvalid(MoonyardError):
    """No secret can have such a name."""

    code = "secret_name_invalid"


class SecretStore(Protocol):
    """Where an attempt's secrets come from."""

    async def ask(self, name: str, stage: str, use: SecretUse) -> SecretDelivery:
        """Get a secret's value.

        :raises MoonyardError: when the attempt is not to have it there, or nobody answers.
        """
        ...


class GivenSecrets:
    """The secrets that a run without a server was given."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self._values = dict(values)

    async def ask(self, name: str, stage: str, use: SecretUse) -> SecretDelivery:
        """Give a value.

        :raises SecretNotGranted: when there is none of that name.
        """
        del stage, use
        await anyio.lowlevel.checkpoint()
        if name not in self._values:
            raise SecretNotGranted(
                f"this run was not given the secret `{name}`",
                hint=f"Put it into the environment variable {name} and add `--secret {name}`, or into a file that only "
                f"you can read and add `--secret {name}=@FILE`.",
            )
        return SecretDelivery(name=name, version=1, value=self._values[name], readable=True)


_Key = tuple[str, str, SecretUse]


class JobSecrets:
    """Those of one attempt."""

    def __init__(self, store: SecretStore, stream: EventStream) -> None:
        self._store = store
        self._stream = stream
        self._delivered: dict[_Key, SecretDelivery] = {}
        self._asking: dict[_Key, anyio.Lock] = {}
        self._warned: set[str] = set()

    async def get(self, name: str, stage: str, use: SecretUse = "environment") -> SecretDelivery:
        """Get a secret for a stage. From then on it is taken out of all that the attempt writes.

        :raises SecretNameInvalid: for what is no name.
        :raises MoonyardError: when the attempt is not to have it there.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise SecretNameInvalid(
                f"{name[:120]!r} is no secret's name",
                hint="A name has letters, digits and `_`, at most 100, and no digit first.",
            )
        key: _Key = (name, stage, use)
        async with self._asking.setdefault(key, anyio.Lock()):
            if key not in self._delivered:
                delivery = await self._store.ask(name, stage, use)
                await self._stream.redaction.add(name, delivery.value)
                await self._warn(delivery, stage)
                self._delivered[key] = delivery
            return self._delivered[key]

    def was_read(self, name: str, stage: str) -> bool:
        """Tell whether a stage's script has read it before."""
        return (name, stage, "lua") in self._delivered

    async def _warn(self, delivery: SecretDelivery, stage: str) -> None:
        weak = weakness(delivery.value)
        if weak is not None and delivery.name not in self._warned:
            self._warned.add(delivery.name)
            await self._stream.log(
                stage,
                "info" if looked_for(delivery.value) else "warn",
                "system",
                f"secret `{delivery.name}`: {weak}",
            )


NO_SECRETS: Final = GivenSecrets({})
