"""The last line of defence: no event is stored in which a value stands in plain that its attempt was delivered.

Runners take values out of all that leaves them, in more forms than are looked for here. What gets past one, by a defect
of it, is taken out here in the same way, `[secret NAME]` in its place, and everything goes on: the job did nothing
wrong, and to refuse its events would lose them. Who operates the installation is told, in the log and in the audit.

    attempts.secret_versions   what was delivered; a delivery writes it under the attempt's lock
    a batch of events          is stored only if it was looked through for all of these: the statement that stores it
                               compares how many there are with how many were looked for
    not all of them            the replica reads which they are, decrypts them, looks again, and keeps them in memory
                               for the attempt's next batches

So it holds across replicas, and an attempt that was delivered nothing costs one comparison of a column that is NULL.
A value that cannot be read any more (removed, or its master key is not here) is not looked for, and the log says so.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast
from uuid import UUID

import anyio.to_thread
import msgspec

from orchestrator.database import Database
from orchestrator.events import Batch
from orchestrator.master_keys import MasterKeys, SecretsUnavailable
from orchestrator.sealing import SecretDamaged, open_sealed
from orchestrator.secrets import sealed, subject
from orchestrator.sql import secrets as sql
from schema import secrets
from schema.errors import ErrorInfo
from schema.events import AnyEvent, encode_line
from schema.scanning import Literals

log: Final = logging.getLogger(__name__)

KEPT_MAXIMUM: Final = 1000
"""Attempts whose values are kept in memory."""
TEXTS_MAXIMUM: Final = 100
"""How many texts are looked for in the events of an attempt, the longest first: each is a walk over them."""
SEQS_TOLD_MAXIMUM: Final = 20
OWN_WORDS: Final = frozenset(
    {"at", "job", "attempt", "seq", "stage", "state", "level", "source", "service", "id", "number"}
)
"""Fields of events that hold no text of the job's: names from its definition, states and the like."""


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """What was delivered to an attempt, as it is looked for."""

    count: int
    """Of the versions that these are all of."""
    texts: dict[str, str]
    """What is looked for, with what is written in its place; longer ones, which may hold others, come first."""
    marks: tuple[bytes, ...]
    """The same as it would stand in a line of JSON."""
    told: set[str]
    """In the place of which values something was written already: it is told once an attempt."""
    scan: Literals | None = None
    """Finds all marks in one walk."""

    def is_in(self, data: bytes) -> bool:
        """Tell whether some mark is in lines of JSON."""
        if self.scan is not None:
            return bool(self.scan.ends(data))
        return any(mark in data for mark in self.marks)


NOTHING: Final = Delivered(count=0, texts={}, marks=(), told=set())


class Leaks:
    """Looks through events for what was delivered to their attempts."""

    def __init__(self, database: Database, keys: MasterKeys) -> None:
        self._database = database
        self._keys = keys
        self._kept: OrderedDict[tuple[UUID, int], Delivered] = OrderedDict()

    def known(self, job: UUID, attempt: int) -> Delivered:
        """Give what this replica knows was delivered to an attempt: nothing, mostly."""
        return self._kept.get((job, attempt), NOTHING)

    def forget(self, job: UUID, attempt: int) -> None:
        """Forget an attempt that has ended."""
        self._kept.pop((job, attempt), None)

    async def learn(self, job: UUID, attempt: int, versions: Sequence[UUID]) -> Delivered:
        """Read what was delivered to an attempt."""
        rows = await self._database.rows(sql.VERSIONS_GET, list(versions))
        texts: dict[str, str] = {}
        for row in rows:
            try:
                value = open_sealed(subject(row), sealed(row), self._keys)
            except (SecretsUnavailable, SecretDamaged) as error:
                log.warning(
                    "events of job %s attempt %d are not looked through for secret `%s`: %s",
                    job,
                    attempt,
                    subject(row).reference,
                    error.message,
                )
                continue
            for part in secrets.looked_for(value):
                texts.setdefault(part.decode(errors="replace"), f"[secret {row['name']}]")
        if len(rows) < len(versions):
            log.warning(
                "events of job %s attempt %d are not looked through for secrets that were removed", job, attempt
            )
        chosen = sorted(texts, key=len, reverse=True)[:TEXTS_MAXIMUM]
        marks = tuple(dict.fromkeys(mark for text in chosen for mark in _marks(text)))
        delivered = Delivered(
            count=len(versions),
            texts={text: texts[text] for text in chosen},
            marks=marks,
            told=set(self.known(job, attempt).told),
            scan=await anyio.to_thread.run_sync(Literals, marks) if marks else None,
        )
        self._kept[job, attempt] = delivered
        self._kept.move_to_end((job, attempt))
        if len(self._kept) > KEPT_MAXIMUM:
            self._kept.popitem(last=False)
        return delivered

    async def of(self, job: UUID, attempt: int) -> Delivered:
        """Read what was delivered to an attempt by now, for what is not stored by the statement that compares."""
        versions = await self._database.value(sql.ATTEMPT_SECRETS, job, attempt)
        known = self.known(job, attempt)
        return known if len(versions or ()) == known.count else await self.learn(job, attempt, versions)

    async def without(self, batch: Batch, delivered: Delivered, *, job: UUID, attempt: int, runner: UUID) -> Batch:
        """Give a batch without the values; the same one where it holds none."""
        if not delivered.is_in(batch.data):
            return batch
        events = [_without(event, delivered.texts) for event in batch.events]
        changed = [new.seq for old, new in zip(batch.events, events, strict=True) if new is not old]
        if not changed:
            return batch  # it is a word of the lines themselves
        lines = batch.data.split(b"\n")
        for seq in changed:
            lines[seq - batch.first_seq] = encode_line(events[seq - batch.first_seq]).rstrip(b"\n")
        found = {place for text, place in delivered.texts.items() if any(_holds(one, text) for one in batch.events)}
        new = sorted(found - delivered.told)
        # Of another's attempt nothing is stored: whoever guesses at its secrets leaves no trace that would tell.
        if new and await self._database.value(sql.ATTEMPT_VERSION, job, attempt, runner) is not None:
            await self._tell(new, changed, job=job, attempt=attempt, runner=runner)
            delivered.told.update(found)
        return Batch(batch.first_seq, b"\n".join(lines), events)

    async def _tell(self, places: Iterable[str], seqs: Sequence[int], *, job: UUID, attempt: int, runner: UUID) -> None:
        for place in places:
            name = place.removeprefix("[secret ").removesuffix("]")
            log.error(
                "runner %s has a defect: it sent the value of secret `%s` in plain, in events %s of job %s attempt %d; "
                "it was taken out",
                runner,
                name,
                ", ".join(map(str, seqs[:SEQS_TOLD_MAXIMUM])),
                job,
                attempt,
            )
            await self._database.rows(sql.LEAK_NOTE, runner, name, job, attempt, list(seqs[:SEQS_TOLD_MAXIMUM]))


def _marks(text: str) -> tuple[bytes, ...]:
    """Write a text as it stands in JSON: as our encoder does, and as those that keep to ASCII do."""
    return msgspec.json.encode(text)[1:-1], json.dumps(text)[1:-1].encode()


def _holds(event: AnyEvent, text: str) -> bool:
    return _without(event, {text: ""}) is not event


def _without(event: AnyEvent, texts: dict[str, str]) -> AnyEvent:
    """Take texts out of all of an event that is not Moonyard's own word; the same event where there are none."""
    changes = {
        name: new
        for name in event.__struct_fields__
        if name not in OWN_WORDS and (new := _replaced(old := getattr(event, name), texts)) != old
    }
    return msgspec.structs.replace(event, **changes) if changes else event


def _replaced(value: Any, texts: dict[str, str]) -> Any:
    match value:
        case str():
            for text, place in texts.items():
                value = value.replace(text, place)
            return value
        case list():
            return [_replaced(one, texts) for one in cast("list[Any]", value)]
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return {_replaced(name, texts): _replaced(one, texts) for name, one in pairs}
        case ErrorInfo():
            return ErrorInfo(**{name: _replaced(getattr(value, name), texts) for name in value.__struct_fields__})
        case _:
            return value
