"""An engine without containers: all that runs in one is answered by the test."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, cast

import anyio
import msgspec
from aiodocker.stream import Stream

from runner.engine.allowances import Granted
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.exec import Command, CommandResult, OutputSink
from runner.engine.images import Progress
from runner.engine.settings import EngineSettings
from runner.engine.stopping import Stop
from runner.engine.usage import Usage
from runner.modules.arguments import data
from runner.testing import told
from runner.testing.mocks import Mocks
from sandbox.frames import Value
from schema.definition import Rights
from schema.errors import MoonyardError

SHOWN_MAXIMUM: Final = 200
RULE_WORDS: Final = 2
_PLAIN: Final = re.compile(r"[\w./:=@+-]{1,60}", re.ASCII)
"""What can be a word of a rule, and is worth being one."""

asking_stage: Final[ContextVar[str | None]] = ContextVar("asking_stage", default=None)
"""Which stage's call is being answered: a container does not know it."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was asked for."""

    stage: str | None
    image: str
    command: Command

    @property
    def text(self) -> str:
        line = shlex.join(self.command.argv).replace("\n", "\\n")
        return line if len(line) <= SHOWN_MAXIMUM else line[: SHOWN_MAXIMUM - 1] + "…"

    @property
    def told(self) -> dict[str, Value]:
        """What a test sees of it."""
        command = self.command
        return told.table(
            told.Command(
                stage=self.stage,
                container=self.image,
                command=command.argv[0],
                argv=list(command.argv),
                text=" ".join(command.argv),
                env=dict(command.env | command.secret_env),
                cwd=command.cwd,
                stdin=command.stdin or None,
                user=command.user,
                timeout=command.timeout,
            )
        )


class MockedContainer(Container):
    """A container in which nothing runs."""

    def __init__(self, number: int, spec: ContainerSpec, mocks: Mocks, ran: Callable[[Ran], None]) -> None:
        # None of what a real one is made of is there.
        self.id = f"{number:064x}"
        self.image = spec.image
        self.image_id = ""
        self.digest = None
        self.addresses = dict.fromkeys(spec.networks, "127.0.0.1")
        self._mocks = mocks
        self._ran = ran
        self._ended = anyio.Event()

    @property
    def first_process(self) -> int | None:
        return None

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    @property
    def is_alive(self) -> bool:
        return not self._ended.is_set()

    @contextmanager
    def measuring(self) -> Generator[Usage]:
        yield Usage()

    async def run(self, command: Command, output: OutputSink, stop: Stop | None = None) -> CommandResult:
        del stop
        ran = Ran(stage=asking_stage.get(), image=self.image, command=command)
        self._ran(ran)
        words = " ".join(itertools.takewhile(_PLAIN.fullmatch, command.argv[:RULE_WORDS])) or "*"
        answer = await self._mocks.process(ran.told, ran.text, words)
        if answer.error is not None:
            raise MoonyardError(answer.error.message, code=answer.error.code)
        for stream, text in (("stdout", answer.stdout), ("stderr", answer.stderr)):
            if text:
                await output.write("stdout" if stream == "stdout" else "stderr", data(text))
        return CommandResult(code=answer.code, duration=answer.duration, signal=answer.signal)

    async def end(self) -> bool:
        self._ended.set()
        await anyio.lowlevel.checkpoint()
        return True

    async def remove(self) -> None:
        await self.end()

    def close(self) -> None:
        self._ended.set()

    async def exit_code(self) -> int | None:
        await anyio.lowlevel.checkpoint()
        return 0 if self._ended.is_set() else None

    def attach(self) -> Stream:
        return cast("Stream", _Silent(self._ended))


class _Silent:
    """What a service says that does nothing."""

    def __init__(self, ended: anyio.Event) -> None:
        self._ended = ended

    async def read_out(self) -> None:
        await self._ended.wait()

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()


class MockedEngine(Engine):
    """Gives containers in which nothing runs."""

    def __init__(self, state_folder: Path, mocks: Mocks) -> None:
        # None of what a real one is made of is there.
        self.settings = EngineSettings(state_folder=state_folder)
        self.ran: list[Ran] = []
        self._mocks = mocks
        self._numbers = itertools.count(1)

    @property
    def isolates(self) -> bool:
        return True

    def full_name(self, image: str) -> str:
        return image

    def check_rights(self, image: str, pipeline: str, rights: Rights) -> Granted:
        del image, pipeline, rights  # which runner, with which owner's rules, will have the job is not known
        return Granted()

    async def create_container(self, spec: ContainerSpec, progress: Progress) -> Container:
        del progress
        await anyio.lowlevel.checkpoint()
        return MockedContainer(next(self._numbers), spec, self._mocks, self.ran.append)

    async def create_service(self, spec: ContainerSpec, progress: Progress) -> tuple[Container, Stream]:
        container = await self.create_container(spec, progress)
        return container, container.attach()

    async def create_network(self, job: str, attempt: int) -> str:
        del job, attempt
        await anyio.lowlevel.checkpoint()
        return f"network-{next(self._numbers)}"

    def discard(self, container: Container) -> None:
        container.close()

    def discard_network(self, name: str) -> None:
        """Forget it: there is none."""
