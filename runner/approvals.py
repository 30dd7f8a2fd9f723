"""Waits for somebody's yes before a stage begins that needs one. Who says it is the orchestrator's business."""

from __future__ import annotations

from typing import Final, Protocol

import anyio

from runner.delivery import PATIENCE_SECONDS, persistently
from runner.event_stream import EventStream
from schema.approvals import WAIT_SECONDS, Approval, ApprovalAnswered, ApprovalAsk
from schema.client import Client
from schema.definition import StageDefinition
from schema.errors import MoonyardError

_ANSWER_SECONDS: Final = WAIT_SECONDS + 30.0


class ApprovalRefused(MoonyardError):
    """Somebody said no."""

    code = "approval_refused"


class ApprovalTimeout(MoonyardError):
    """Nobody said yes in time."""

    code = "approval_timeout"


class Approvals(Protocol):
    """Where approvals come from."""

    async def wait(self, stage: StageDefinition, stream: EventStream) -> None:
        """Wait until a stage may begin.

        :raises MoonyardError: when it may not.
        """
        ...


class NoApprovals:
    """Those of a run without a server: whoever runs it is asked by nobody else."""

    async def wait(self, stage: StageDefinition, stream: EventStream) -> None:
        if stage.approval is not None:
            text = f"stage `{stage.name}` would wait for an approval; in a run without a server it does not"
            await stream.log(stage.name, "info", "system", text)


class OrchestratorApprovals:
    """Those of one attempt."""

    def __init__(self, client: Client, job: str, number: int, attempt: int, *, is_protected: bool) -> None:
        """Prepare.

        :param is_protected: stages may need an approval that the file says nothing of, so all are asked for.
        """
        self._client = client
        self._path = f"/v1/runner/jobs/{job}/{attempt}/approval"
        self._number = number
        self._is_protected = is_protected

    async def wait(self, stage: StageDefinition, stream: EventStream) -> None:
        """Wait until a stage may begin.

        :raises ApprovalRefused: when somebody said no.
        :raises ApprovalTimeout: when nobody said yes in time.
        """
        if stage.approval is None and not self._is_protected:
            return
        approval = await self._ask(stage.name, wait=0.0)
        if approval is None:
            return
        if not approval.is_over:
            message = f": {approval.message}" if approval.message else ""
            await stream.log(
                stage.name,
                "warn",
                "system",
                f"stage `{stage.name}` waits for {_counted(approval.needed)} until {approval.expires_at}{message} "
                f"(moonyard approve {self._number})",
            )
        while not approval.is_over:
            approval = await self._ask(stage.name, wait=WAIT_SECONDS) or approval
        given = ", ".join(
            f"{answer.who}{f' ({answer.comment})' if answer.comment else ''}" for answer in approval.answers
        )
        match approval.state:
            case "approved":
                await stream.log(stage.name, "info", "system", f"stage `{stage.name}` was approved by {given}")
            case "refused":
                said_no = [answer for answer in approval.answers if not answer.is_yes]
                by = " and ".join(answer.who for answer in said_no)
                comments = "; ".join(answer.comment for answer in said_no if answer.comment)
                why = f": {comments}" if comments else ""
                raise ApprovalRefused(f"stage `{stage.name}` was refused by {by}{why}")
            case "waiting":
                raise ApprovalTimeout(
                    f"stage `{stage.name}` waited for {_counted(approval.needed)} until {approval.expires_at}, and "
                    f"{len(approval.answers)} came",
                    hint=f"`moonyard retry {self._number}` asks again.",
                )

    async def _ask(self, stage: str, *, wait: float) -> Approval | None:
        answers: list[ApprovalAnswered] = []

        async def ask() -> None:
            message = ApprovalAsk(stage=stage, wait=wait)
            answers.append(await self._client.post(self._path, ApprovalAnswered, message, seconds=_ANSWER_SECONDS))

        await persistently(f"asking for the approval of stage `{stage}`", ask, patience=PATIENCE_SECONDS)
        if answers[-1].approval is not None and not answers[-1].approval.is_over:
            # A replica that drains answers at once: whoever asks again need not ask all of them in a loop.
            await anyio.sleep(0.05)
        return answers[-1].approval


def _counted(needed: int) -> str:
    return "an approval" if needed == 1 else f"{needed} approvals"
