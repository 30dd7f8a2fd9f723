"""Which of a job's stages may begin, and which are skipped: by what they wait for, and how that ended.

A stage's turn comes when all that it waits for is settled: the stages that it names in ``needs``, or else all before
it. Then its ``when`` decides, by whether something that it waits for went wrong:

    on_success    nothing did
    on_failure    something did
    always        whatever became of them
    a function    nothing did, and the function says so too

A stage goes wrong by failing, where that is not allowed, by being stopped, and by being skipped for what went wrong
before it. One that was skipped by its own condition went as it was meant to, and so did one that was allowed to fail.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final, Literal

from schema.definition import StageDefinition
from schema.states import StageState

Outcome = Literal["succeeded", "allowed_to_fail", "passed_over", "failed", "cancelled", "blocked"]
"""How a stage ended: ``passed_over`` is skipped by its own condition, ``blocked`` for what went wrong before it."""
WRONG: Final[frozenset[Outcome]] = frozenset({"failed", "cancelled", "blocked"})
STATES: Final[dict[Outcome, StageState]] = {
    "succeeded": "succeeded",
    "allowed_to_fail": "failed",
    "passed_over": "skipped",
    "failed": "failed",
    "cancelled": "cancelled",
    "blocked": "skipped",
}


class Graph:
    """The stages of one attempt. ``take`` what may begin, and ``settle`` it when it ended, until nothing is left."""

    def __init__(self, stages: Sequence[StageDefinition], *, fail_fast: bool) -> None:
        """Prepare.

        :param stages: in an order in which each comes after those it needs.
        """
        self._stages = stages
        self._fail_fast = fail_fast
        self._halted = False
        self._outcomes: dict[str, Outcome] = {}
        self._places = {stage.name: place for place, stage in enumerate(stages)}
        self._dependents: list[list[int]] = [[] for _ in stages]
        self._unsettled = [0] * len(stages)
        self._has_wrong_before = [False] * len(stages)
        self._taken: set[int] = set()
        for place, stage in enumerate(stages):
            for before in self._before(place, stage):
                self._dependents[before].append(place)
                self._unsettled[place] += 1
        self._ready = [place for place, count in enumerate(self._unsettled) if not count]

    def _before(self, place: int, stage: StageDefinition) -> set[int]:
        if stage.needs is not None:
            return {
                other for other, before in enumerate(self._stages[:place]) if {before.name, before.of} & {*stage.needs}
            }
        # Combinations of one stage do not wait for each other.
        return {other for other, before in enumerate(self._stages[:place]) if before.name_in_file != stage.name_in_file}

    @property
    def waiting(self) -> list[StageDefinition]:
        """The stages that were not taken, in their order."""
        return [
            stage
            for place, stage in enumerate(self._stages)
            if place not in self._taken and stage.name not in self._outcomes
        ]

    @property
    def states(self) -> dict[str, StageState]:
        """How those ended that did."""
        return {name: STATES[outcome] for name, outcome in self._outcomes.items()}

    @property
    def failed(self) -> bool:
        return "failed" in self._outcomes.values()

    def halt(self) -> None:
        """Let no stage begin any more, whatever its ``when`` says."""
        self._halted = True

    def take(self) -> tuple[StageDefinition, Outcome | None] | None:
        """Give a stage whose turn has come, with its outcome where it is not to run; None where there is none."""
        while self._ready:
            place = heapq.heappop(self._ready)
            stage = self._stages[place]
            if stage.name not in self._outcomes:
                self._taken.add(place)
                return stage, self._verdict(place, stage)
        return None

    def settle(self, name: str, outcome: Outcome) -> None:
        """Say how a stage ended."""
        self._outcomes[name] = outcome
        for dependent in self._dependents[self._places[name]]:
            self._unsettled[dependent] -= 1
            self._has_wrong_before[dependent] |= outcome in WRONG
            if not self._unsettled[dependent]:
                heapq.heappush(self._ready, dependent)

    def _verdict(self, place: int, stage: StageDefinition) -> Outcome | None:
        if self._halted:
            return "blocked"
        match stage.when:
            case "always":
                return None
            case "on_failure":
                return None if self._has_wrong_before[place] else "passed_over"
            case "on_success" | "function":
                is_late = self._fail_fast and self.failed
                return "blocked" if is_late or self._has_wrong_before[place] else None


def ends_with_the_first_failure(stage: StageDefinition) -> bool:
    """Whether a stage that runs is stopped where another fails: not one that runs for failures, too."""
    return stage.when in {"on_success", "function"}
