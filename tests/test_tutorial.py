"""The tutorial, typed as it stands there: each person in a home of their own, the machines as real processes."""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.cli.command import SECONDS, argv, environment
from tests.postgres import Cluster

PAGE: Final = Path(__file__).parents[1] / "docs" / "tutorial.md"
PASSWORD: Final = "correct horse battery staple"
SECRET: Final = "kJ8s2Kd9sLq4xzQ7mNp"
PROMPT: Final = re.compile(r"(setup token|new password|invitation|value|registration token): …")


class Step:
    """A command, what is typed into it, and the lines that it is to print, in which ``…`` stands for anything."""

    def __init__(self, who: str, command: str) -> None:
        self.who = who
        self.is_service = command.endswith(" &")
        self.words = shlex.split(command.removesuffix(" &"))
        self.prompts: list[str] = []
        self.lines: list[str] = []

    def check(self, said: str) -> None:
        """See that the lines are there, in their order."""
        lines, position = said.splitlines(), 0
        for wanted in self.lines:
            pattern = re.compile(r"\s*" + ".*".join(re.escape(part.strip()) for part in wanted.split("…")) + r".*")
            if not wanted.endswith("…"):
                pattern = re.compile(pattern.pattern.removesuffix(".*") + r"\s*")
            found = next((at for at, line in enumerate(lines[position:], position) if pattern.fullmatch(line)), None)
            assert found is not None, f"{self.words}: no line {wanted!r} in:\n{said}"
            position = found if wanted == "…" else found + 1


def steps() -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if match := re.match(r"(\w+)\$ (.*)$", line):
                found.append(Step(match[1], match[2]))
            elif match := PROMPT.fullmatch(line):
                found[-1].prompts.append(match[1])
            else:
                found[-1].lines.append(line)
    return found


class Team:
    """Those who type, and what runs meanwhile."""

    def __init__(self, folder: Path, database_url: str, port: int, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.database_url = database_url
        self.port = port
        self._stack = stack
        self._given: dict[str, str] = {"new password": PASSWORD, "value": SECRET}
        self.said = ""

    def environment(self, who: str) -> dict[str, str]:
        home = self.folder / who
        home.mkdir(exist_ok=True)
        shared = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "MOONYARD_STATE_FOLDER": str(home / "state")}
        shared |= {"MOONYARD_ORCHESTRATOR": f"http://127.0.0.1:{self.port}"}
        if who == "ops":
            shared |= {"MOONYARD_DATABASE_URL": self.database_url, "MOONYARD_PORT": str(self.port)}
        return environment(**shared)

    async def do(self, step: Step) -> None:
        is_refused = any(line.startswith("error[") for line in step.lines)
        typed = "".join(f"{self._given[prompt]}\n" for prompt in step.prompts)
        chosen = self.environment(step.who)
        if step.prompts == ["registration token"]:
            chosen["MOONYARD_REGISTRATION_TOKEN"] = self._given["registration token"]
        words = argv(*(word.replace("$MOONYARD_DATABASE_URL", self.database_url) for word in step.words[1:]))
        assert step.words[0] == "moonyard"
        if step.is_service:
            await self._start(step, words, chosen)
            return
        with anyio.fail_after(SECONDS):
            done = await anyio.run_process(words, input=typed.encode(), cwd=self.folder, env=chosen, check=False)
        said = done.stdout.decode() + done.stderr.decode()
        self.said += said
        step.check(said)
        assert (done.returncode != 0) == is_refused, said
        for kind in ("setup token", "invitation", "registration token"):
            if found := re.search(rf"moonyard_{kind.removesuffix(' token')}_[0-9a-f]+", done.stdout.decode()):
                self._given[kind] = found[0]

    async def _start(self, step: Step, words: list[str], chosen: dict[str, str]) -> None:
        process = await anyio.open_process(words, cwd=self.folder, env=chosen, stderr=None)
        self._stack.push_async_callback(_end, process)
        if step.lines:
            assert process.stdout is not None
            with anyio.fail_after(SECONDS):
                line = (await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 4096)).decode()
            step.lines = [line.replace(":8400", f":{self.port}") for line in step.lines]
            step.check(line)


async def _end(process: anyio.abc.Process) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(30):
        if process.returncode is None:
            process.terminate()
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()


@pytest.fixture
async def team(
    postgres_cluster: Cluster, tmp_path: Path, unused_port: int, image_map: dict[str, str]
) -> AsyncGenerator[Team]:
    assert image_map, "images are there"
    url = postgres_cluster.create()
    async with AsyncExitStack() as stack:
        yield Team(tmp_path, url, unused_port, stack)
    postgres_cluster.drop(url)


async def test_the_tutorial_does_what_it_says(team: Team) -> None:
    [pipeline] = re.findall(r"```lua\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (team.folder / "deploy.lua").write_text(pipeline, encoding="utf-8")
    all_steps = steps()
    assert len(all_steps) > 20
    for step in all_steps:
        if step.words[:2] == ["moonyard", "approvals"]:
            await team_waits(team, step)
        await team.do(step)
    assert SECRET not in team.said
    assert PASSWORD not in team.said
    assert stat.S_IMODE((team.folder / "secret.keys").stat().st_mode) == 0o600


async def team_waits(team: Team, step: Step) -> None:
    """Wait as a person would who reads the log: until the job says that it waits."""
    with anyio.fail_after(SECONDS):
        async with await anyio.open_process(
            argv("logs", "--follow", "1"), cwd=team.folder, env=team.environment(step.who)
        ) as process:
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            while b" waits for an approval" not in await lines.receive_until(b"\n", 65536):
                pass
            process.terminate()
