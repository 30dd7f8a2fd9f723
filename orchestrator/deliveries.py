"""Delivers secrets to attempts: to the runner that holds one, for what its pipeline was granted, and on the record.

All of it is one transaction on the attempt's row, which stays locked: the fence, the grant, the row in the audit, and
the note at the attempt that its events have to be looked through for this value from now on (``orchestrator.leaks``).
A value leaves only after that is committed.

A runner says itself for which stage it asks. It has all of the attempt, so whether it lies makes no difference to what
it could get; what a grant for some stages holds back is the pipeline's own code in others.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final
from uuid import UUID

from orchestrator import events
from orchestrator.authentication import Identity
from orchestrator.database import Connection, Row
from orchestrator.parts import Parts
from orchestrator.problems import Conflict, Forbidden, Refusal, RequestInvalid
from orchestrator.sealing import SecretDamaged, open_sealed
from orchestrator.secrets import as_json, sealed, subject
from orchestrator.sql import approvals as approvals_sql
from orchestrator.sql import secrets as sql
from schema import secrets
from schema.definition import PipelineDefinition
from schema.secrets import DELIVERIES_MAXIMUM, SecretAsk, SecretDelivery

log: Final = logging.getLogger(__name__)

_PLUGIN_STAGE: Final = re.compile(r"plugin:[a-z][a-z0-9_]{0,59}")


async def deliver(
    here: Parts, identity: Identity, job: UUID, attempt: int, asked: SecretAsk, address: str
) -> SecretDelivery:
    """Give a secret to an attempt.

    :param address: of the runner, for the audit.

    :raises Conflict: when the attempt is not the runner's, or no longer.
    :raises Forbidden: when it is not granted, or not in this way.
    :raises SecretsUnavailable: when this replica lacks the master key.
    :raises SecretDamaged: when it is not what was stored.
    """
    assert identity.runner is not None, "a runner's token has its runner: a constraint says so"
    if not secrets.NAME_PATTERN.fullmatch(asked.name):
        raise _not_granted(asked)
    version: UUID | None = await here.database.value(sql.ATTEMPT_VERSION, job, attempt, identity.runner)
    if version is None:
        raise events.gone(job, attempt)
    # Before the transaction: in it, whoever waits for a second connection may wait for others that do the same.
    names = stage_names((await here.versions.get(version)).definition, asked.stage)
    async with here.database.transaction() as connection:
        held = await connection.fetchrow(sql.ATTEMPT_ASKING, job, attempt, identity.runner)
        if held is None:
            raise events.gone(job, attempt)
        if held["requests"] >= DELIVERIES_MAXIMUM:
            raise Conflict(
                f"attempt {attempt} of job {held['number']} has asked for secrets {DELIVERIES_MAXIMUM} times",
                code="secret_asked_too_often",
                hint="Read a secret once, and keep it in a variable.",
            )
        found = await connection.fetchrow(sql.NEWEST_FIND, asked.name, held["pipeline"])
        refusal = await _refusal(connection, asked, found, job, names, identity.runner, held)
        detail: dict[str, Any] = {
            "job": held["number"],
            "attempt": attempt,
            "pipeline": held["pipeline"],
            "stage": asked.stage,
            "use": asked.use,
        }
        value = b""
        if refusal is None:
            assert found is not None, "what is not there is refused"
            detail["version"] = found["number"]
            try:
                value = open_sealed(subject(found), sealed(found), here.settings.secret_keys)
            except SecretDamaged as error:
                refusal = error
        if refusal is not None:
            detail["why"] = refusal.code
        action = "deliver secret" if refusal is None else "refuse secret"
        delivered = None if refusal is not None or found is None else found["id"]
        reference = asked.name if found is None else subject(found).reference
        await connection.execute(sql.ATTEMPT_NOTE_ASKED, job, attempt, delivered)
        result = "done" if refusal is None else "refused"
        actor = f"runner {identity.name}"
        await connection.execute(sql.NOTE_ASKED, actor, action, f"secret {reference}", as_json(detail), address, result)
    if refusal is not None:
        log.warning("secret `%s` was refused to job %d: %s", asked.name, held["number"], refusal.code)
        refusal.is_of_rights = False  # its row is written
        raise refusal
    assert found is not None, "what is not there is refused"
    return SecretDelivery(name=asked.name, version=found["number"], value=value, readable=found["readable"])


async def _refusal(
    connection: Connection, asked: SecretAsk, found: Row | None, job: UUID, stages: list[str], runner: UUID, held: Row
) -> Refusal | None:
    """Say why a secret is not delivered; None where it is."""
    if found is None:
        return _not_granted(asked)
    grant = await connection.fetchrow(sql.GRANT_FITTING, found["secret_id"], job, stages, runner)
    if grant is None:
        return _not_granted(asked)
    if not grant["is_confirmed"]:
        return Forbidden(
            f"pipeline `{held['pipeline']}` was granted secret `{asked.name}`, and nobody has confirmed that this "
            "version of the pipeline may have it",
            code="secret_not_confirmed",
            hint="Whoever may grant secrets looks at what changed, and runs: "
            f"moonyard grant confirm {held['pipeline']}",
        )
    if asked.stage and await connection.fetchval(approvals_sql.IS_MISSING, job, stages, asked.stage, held["attempt"]):
        return Forbidden(
            f"secret `{asked.name}` is granted to stage `{asked.stage[:100]}`, which waits for an approval that nobody "
            "has given",
            code="approval_missing",
            hint="`moonyard approvals` lists what waits.",
        )
    if asked.use == "lua" and not found["readable"]:
        return Forbidden(
            f"secret `{asked.name}` may be put into a command's environment, and not be read by a script",
            code="secret_not_readable",
            hint=f'Give it to the command that needs it: process.run({{ ..., secrets = {{ "{asked.name}" }} }}).',
        )
    return None


def _not_granted(asked: SecretAsk) -> Forbidden:
    """Refuse alike what there is not and what was not granted: who asks does not learn which secrets there are."""
    where = f"in stage `{asked.stage[:100]}`" if asked.stage else "as a whole"
    return Forbidden(
        f"no secret `{asked.name[:100]}` is granted to this job {where}",
        code="secret_not_granted",
        hint="`moonyard secret list` and `moonyard grant list` show those who may grant it what there is: the secret's "
        "name, and the pipeline, stages, inputs and runners that its grants are for.",
    )


def stage_names(definition: PipelineDefinition, stage: str) -> list[str]:
    """Give the names that a stage goes by: its own, and where it is one combination of a matrix, the file's.

    :raises RequestInvalid: when the pipeline has no such stage.
    """
    for known in (*definition.stages, *definition.on_cancel, *definition.finally_):
        if known.name == stage:
            return sorted({known.name, known.name_in_file})
    if not stage:
        return [stage]  # the job's services
    if definition.plugins and _PLUGIN_STAGE.fullmatch(stage):
        return [stage]  # its setup, or its teardown
    raise RequestInvalid(f"pipeline `{definition.name}` has no stage {stage[:100]!r}")
