"""Takes what is delivered to hooks: verifies, reads, decides; submits the job in the transaction that remembers it."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Mapping
from typing import Final
from uuid import UUID

import anyio
import msgspec

from orchestrator.database import Database, Row
from orchestrator.hooks import forges, keys, rules, samples, signatures
from orchestrator.hooks.forges import Delivery, DeliveryInvalid
from orchestrator.hooks.signatures import DeliveryExpired
from orchestrator.hooks.throttle import Throttle
from orchestrator.master_keys import MasterKeys, SecretsUnavailable
from orchestrator.metrics import Metrics
from orchestrator.notifications import Notifications
from orchestrator.problems import Refusal, TooLarge, TooMany
from orchestrator.sealing import SecretDamaged
from orchestrator.sql import hooks as sql
from orchestrator.submissions import Submissions, Wanted
from schema.definition import InputsInvalid, InputValue
from schema.errors import ErrorInfo
from schema.hooks import DeliveryResult, HookAnswer, HookRules, HookTest, HookTested
from schema.ids import uuid7
from schema.sizes import size_text
from schema.wire import JobSubmit, Trigger

log: Final = logging.getLogger(__name__)

BODY_SECONDS: Final = 30.0
REASON_LENGTH_MAXIMUM: Final = 300


class HookUnverified(Refusal):
    """No such hook, or a request to one that is not signed with a secret of its."""

    code = "hook_unverified"
    status = 401
    is_of_rights = True


class RefusedTooOften(TooMany):
    """An address that sent too much that was not signed."""

    code = "hook_refused_too_often"


class BodyLate(Refusal):
    """A body that did not come in time."""

    code = "body_late"
    status = 408


class HookUnavailable(Refusal):
    """This replica cannot read the secrets of hooks. A later try may come to another one, or to this one mended."""

    code = "hook_unavailable"
    status = 503


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """A hook, as a delivery finds it."""

    row: Row
    secrets: list[str]

    @property
    def id(self) -> UUID:
        return self.row["id"]

    @property
    def name(self) -> str:
        return self.row["name"]


class Deliveries:
    """Takes what is delivered to this replica."""

    def __init__(
        self,
        database: Database,
        submissions: Submissions,
        notifications: Notifications,
        metrics: Metrics,
        *,
        master_keys: MasterKeys,
        body_bytes_maximum: int,
    ) -> None:
        self._database = database
        self._submissions = submissions
        self._notifications = notifications
        self._metrics = metrics
        self._master_keys = master_keys
        self._body_bytes_maximum = body_bytes_maximum
        self._throttle = Throttle()

    async def receive(
        self, hook: str, headers: Mapping[str, str], pieces: AsyncIterator[bytes], address: str
    ) -> HookAnswer:
        """Take a request that says it is a delivery.

        :param hook: the id in its path, whatever that is.
        :param headers: by their names in lower case.
        :param pieces: of its body.
        :raises Refusal: when it is not signed, or nothing that a hook can take.
        """
        wait = self._throttle.wait(hook, address)
        if wait:
            raise RefusedTooOften(
                f"{address} sent too much to this hook that was not signed: the next may come in {math.ceil(wait)} s",
                seconds=wait,
            )
        body = await self._body(pieces)
        # What there is no hook for is looked at in the same way, with no secret to be right by.
        known = await self._find(hook)
        wrong = "no such hook"
        if known is not None:
            row = known.row
            try:
                wrong = signatures.wrong(row["kind"], known.secrets, headers, body, row["now"])
            except DeliveryExpired:
                self._note_refused(hook, address)
                raise
        if known is None or wrong is not None:
            self._note_refused(hook, address)
            if known is not None:
                log.warning("hook `%s`: refused a request from %s: %s", known.name, address, wrong)
                await self._database.rows(sql.REFUSED, known.id, wrong)
            raise HookUnverified(
                "there is no such hook, or this is not signed with its secret",
                hint="`moonyard hook show` tells those who may see the hook what was wrong.",
            )
        return await self._verified(known, headers, body)

    def _note_refused(self, hook: str, address: str) -> None:
        self._throttle.note(hook, address)
        self._metrics.note_delivery("refused")

    async def test(self, name: str, hook: UUID, message: HookTest) -> HookTested:
        """Have a delivery come to a hook, signed as its sender would sign it.

        :raises Refusal: as for one that came.
        """
        known = await self._find(str(hook))
        assert known is not None, f"hook {name} was there a moment ago"
        row = known.row
        body = (message.payload or samples.payload(row["kind"], message.event, message.branch)).encode()
        if len(body) > self._body_bytes_maximum:
            raise self._too_large()
        # Each is one of its own: the same payload may be tried again and again.
        event, delivery = message.event, f"test-{uuid7()}"
        headers = signatures.signed(
            row["kind"], known.secrets[0], body, delivery=delivery, event=event, now=row["now"]
        ) | {"content-type": "application/json"}
        wrong = signatures.wrong(row["kind"], known.secrets, headers, body, row["now"])
        assert wrong is None, wrong
        found = msgspec.structs.replace(forges.read(row["kind"], headers, body), key=delivery)
        facts: dict[str, InputValue] = {**found.facts.given()}
        skipped = "hook is paused" if row["paused_by"] else self._why_skipped(known, found)
        if skipped is not None:
            return HookTested(event=found.facts.event, facts=facts, skipped=skipped)
        wanted = await self._wanted(known, found)
        job = None
        if message.submit:
            job = (await self._submit(known, found, wanted)).job
        return HookTested(event=found.facts.event, facts=facts, inputs=wanted.inputs, job=job)

    async def _body(self, pieces: AsyncIterator[bytes]) -> bytes:
        found = bytearray()
        try:
            with anyio.fail_after(BODY_SECONDS):
                async for piece in pieces:
                    found += piece
                    if len(found) > self._body_bytes_maximum:
                        raise self._too_large()
        except TimeoutError:
            raise BodyLate(f"the delivery's body did not come within {BODY_SECONDS:.0f} s") from None
        return bytes(found)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the delivery has more than {size_text(self._body_bytes_maximum)}",
            hint="`hook_body_size` of the orchestrators says what is the most.",
        )

    async def _find(self, hook: str) -> _Known | None:
        try:
            identifier = UUID(hook)
        except ValueError:
            return None
        row = await self._database.row(sql.FIND, identifier)
        if row is None:
            return None
        held = await self._database.rows(sql.SECRETS_HELD, identifier)
        try:
            return _Known(row=row, secrets=keys.opened(self._master_keys, identifier, row["name"], held))
        except (SecretsUnavailable, SecretDamaged) as error:
            log.error("hook `%s`: its secret cannot be read: %s", row["name"], error.message)
            raise HookUnavailable("this orchestrator cannot check signatures now") from error

    async def _verified(self, known: _Known, headers: Mapping[str, str], body: bytes) -> HookAnswer:
        try:
            found = forges.read(known.row["kind"], headers, body)
        except DeliveryInvalid as invalid:
            self._metrics.note_delivery("failed")
            log.warning("hook `%s`: a delivery that was signed is none: %s", known.name, invalid.message)
            raise
        if found.is_ping:
            await self._note(known, found, "answered", reason="a ping")
            return HookAnswer(pong=True)
        again = await self._database.row(sql.DELIVERY_AGAIN, known.id, found.key)
        if again is not None:
            return self._again(known, found, again["id"], again["number"])
        skipped = "hook is paused" if known.row["paused_by"] else self._why_skipped(known, found)
        if skipped is not None:
            await self._note(known, found, "skipped", reason=skipped)
            return HookAnswer(skipped=skipped)
        try:
            return await self._submit(known, found, await self._wanted(known, found))
        except (Refusal, InputsInvalid) as refusal:
            await self._note(known, found, "failed", error=refusal.info)
            raise

    def _why_skipped(self, known: _Known, found: Delivery) -> str | None:
        why = rules.why_skipped(_rules(known), known.row["kind"], found.facts)
        return None if why is None else forges.line(why, REASON_LENGTH_MAXIMUM)

    async def _wanted(self, known: _Known, found: Delivery) -> Wanted:
        pipeline: str = known.row["pipeline"]
        definition = await self._submissions.definition(pipeline)
        message = JobSubmit(
            pipeline=pipeline,
            inputs=rules.inputs(_rules(known), found.facts, found.payload, definition),
            # Also when the delivery is remembered no longer, a job that is still there is not made again.
            idempotency_key=f"hook {known.id} {found.key}",
        )
        trigger = Trigger(
            kind="webhook", by=known.name, delivery=found.id, event=found.facts.event, sender=found.facts.sender
        )
        return await self._submissions.prepare(message, trigger=trigger, actor=f"hook {known.name}")

    async def _submit(self, known: _Known, found: Delivery, wanted: Wanted) -> HookAnswer:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                sql.DELIVERY_TAKE, known.id, found.key, found.id, found.facts.event, found.facts.sender
            )
            assert row is not None, "the statement gives the row, whether it was there or not"
            if row["submitted_at"] is not None:
                number = await connection.fetchval(sql.NUMBER_OF_JOB, row["job_id"])
                return self._again(known, found, row["job_id"], number)
            queued = await self._submissions.submit_within(connection, wanted)
            await connection.execute(sql.DELIVERY_SUBMITTED, known.id, row["id"], queued.id, found.id)
        if queued.fresh:
            self._notifications.queued(queued.place)
        self._metrics.note_delivery("submitted")
        log.info("hook `%s`: delivery %s submitted job %d", known.name, found.id, queued.number)
        return HookAnswer(job=queued.number, id=str(queued.id), again=not queued.fresh)

    def _again(self, known: _Known, found: Delivery, job: UUID | None, number: int | None) -> HookAnswer:
        self._metrics.note_delivery("again")
        log.info("hook `%s`: delivery %s came again", known.name, found.id)
        if job is None:
            return HookAnswer(skipped="this was delivered before, and its job is removed by now")
        return HookAnswer(job=number, id=str(job), again=True)

    async def _note(
        self,
        known: _Known,
        found: Delivery,
        result: DeliveryResult,
        *,
        reason: str | None = None,
        error: ErrorInfo | None = None,
    ) -> None:
        self._metrics.note_delivery(result)
        about = reason or (error.message if error is not None else "")
        log.info("hook `%s`: delivery %s was %s: %s", known.name, found.id, result, about)
        await self._database.rows(
            sql.DELIVERY_NOTE,
            known.id,
            found.key,
            found.id,
            found.facts.event,
            found.facts.sender,
            result,
            reason,
            None if error is None else msgspec.json.encode(_fit(error)).decode(),
        )


def _rules(known: _Known) -> HookRules:
    return msgspec.json.decode(known.row["rules"], type=HookRules)


def _fit(error: ErrorInfo) -> ErrorInfo:
    """Make an error fit to be kept: what it repeats of a payload may be long, or made for a terminal."""
    return ErrorInfo(code=error.code, message=forges.line(error.message, REASON_LENGTH_MAXIMUM), hint=error.hint)
