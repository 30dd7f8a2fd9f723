"""What the stages of an attempt tell by ``job.output``: small values by name, for the stages after them and for people.

A name is its stage's: a stage may tell it anew, and no other may. What a try of a stage told is forgotten where the
stage is tried again. The outputs go out with the event of the stage's end, and so are stored with it, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from schema.errors import MoonyardError

NAME_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
VALUE_BYTES_MAXIMUM: Final = 64 * 1024
JOB_BYTES_MAXIMUM: Final = 256 * 1024
COUNT_MAXIMUM: Final = 200


class OutputRefused(MoonyardError):
    """An output that cannot be taken."""

    code = "output_refused"


class JobOutputs:
    """The outputs of one attempt."""

    def __init__(self) -> None:
        self._of_stages: dict[str, dict[str, Any]] = {}
        self._sizes: dict[tuple[str, str], int] = {}

    @property
    def values(self) -> dict[str, Any]:
        """All of them, by name."""
        return {name: value for told in self._of_stages.values() for name, value in told.items()}

    def of(self, stage: str) -> Mapping[str, Any]:
        """Those of a stage."""
        return self._of_stages.get(stage, {})

    def begin(self, stage: str) -> None:
        """Forget what a try of the stage before told."""
        for name in self._of_stages.pop(stage, {}):
            del self._sizes[stage, name]

    def take_over(self, earlier: Mapping[str, Mapping[str, Any]], stages: Iterable[str]) -> None:
        """Take what stages told in earlier attempts, for they are not run again."""
        for stage in stages:
            if told := dict(earlier.get(stage, {})):
                self._of_stages[stage] = told
                for name, value in told.items():
                    self._sizes[stage, name] = len(msgspec.json.encode(value))

    def tell(self, stage: str, name: str, value: Any) -> None:
        """Take an output.

        :param value: plain data, all text and no NUL in it.
        :raises OutputRefused: when another stage told it, or it is too much.
        """
        for other, told in self._of_stages.items():
            if other != stage and name in told:
                raise OutputRefused(
                    f"stage `{other}` told `{name}` already, and a name is its stage's",
                    hint="Put something of the stage's own into the name, such as a value of its matrix.",
                )
        size = len(msgspec.json.encode(value))
        if size > VALUE_BYTES_MAXIMUM:
            raise OutputRefused(
                f"the value of `{name}` has {size} bytes as JSON, and at most {VALUE_BYTES_MAXIMUM} are taken",
                hint="Large results are artifacts: artifact.save.",
            )
        others = sum(kept for key, kept in self._sizes.items() if key != (stage, name))
        if others + size > JOB_BYTES_MAXIMUM:
            raise OutputRefused(
                f"with `{name}` the job's outputs would have more than {JOB_BYTES_MAXIMUM} bytes as JSON",
                hint="Large results are artifacts: artifact.save.",
            )
        if (stage, name) not in self._sizes and len(self._sizes) >= COUNT_MAXIMUM:
            raise OutputRefused(f"`{name}` would be more than the {COUNT_MAXIMUM} outputs that a job may have")
        self._of_stages.setdefault(stage, {})[name] = value
        self._sizes[stage, name] = size
