"""``python -m tests.compose``: builds Moonyard's image, starts all of compose.yaml, and runs jobs through it.

The file is run as it stands, but for what belongs to a machine: images of registries become stand-ins, ports and
folders are its own, and so is the engine. Everything is removed at the end.
"""

from __future__ import annotations

import copy
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from runner.engine import probe
from runner.engine.service import PrivateService, find_podman
from schema.errors import single_error
from tests.compose import stand_ins

ROOT: Final = stand_ins.ROOT
MOONYARD_IMAGE: Final = "localhost/moonyard-compose:latest"
READY_SECONDS: Final = 120.0
COMMAND_SECONDS: Final = 300.0
PIPELINE: Final = """
return { name = "try", stages = { { name = "s", container = "localhost/moonyard/alpine:latest", script = function()
  local script = "echo hello > f; sleep 1000 & echo started $WORD"
  process.run({ command = "sh", args = { "-c", script }, secrets = { "WORD" } })
  container.run("localhost/moonyard/python:3.11", function()
    process.run({ command = "python3", args = { "-c", "print(open('f').read())" } })
  end)
end } } }
"""


def main() -> int:
    if os.geteuid() != 0 or not stand_ins.packages_are_there():
        sys.stderr.write("this needs root, podman, podman-compose and mmdebstrap\n")
        return 1
    stand_ins.build()
    try:
        with single_error():
            anyio.run(_main)
    except Broken as broken:
        sys.stderr.write(f"compose: {broken}\n")
        return 1
    return 0


async def _main() -> None:
    podman = find_podman()
    assert podman is not None, "it was looked for"
    with tempfile.TemporaryDirectory(prefix="moonyard-compose-") as folder:
        state = Path(folder)
        _, conf = await probe.outcome(podman, state)
        if conf is not None:
            os.environ["CONTAINERS_CONF"] = str(conf)
        async with PrivateService.open(podman, state, "compose") as service:
            await anyio.to_thread.run_sync(_check, state, service.socket)


def _check(state: Path, engine_socket: Path) -> None:
    say("building the image")
    options = ("--quiet", "--network=none", "--from", stand_ins.image("python"), "--tag", MOONYARD_IMAGE)
    run("podman", "build", *options, "--file", "containers/Containerfile", ".")
    with socket.create_server(("127.0.0.1", 0)) as probe_socket:
        port = int(probe_socket.getsockname()[1])
    with _installation(state, engine_socket, port) as compose:
        address = f"http://127.0.0.1:{port}"
        say("starting Postgres, orchestrators and the balancer")
        compose.up("postgres", "upgrade", "orchestrator-1", "orchestrator-2", "orchestrator-3", "balancer")
        wait_for("an orchestrator behind the balancer", lambda: _answers(address))
        say("giving the orchestrators a master key of secrets")
        compose.replace("orchestrator-1", "orchestrator-2", "orchestrator-3", keys=_master_key(state))
        wait_for("an orchestrator with a master key", lambda: _answers(address))
        token = compose.command("orchestrator-1", "moonyard", "token", "create", "--name", "me")
        cli = Cli(address, _secret(token, "admin"), state)
        say("starting the runners")
        registration = cli("token", "create", "--kind", "registration", "--name", "compose", "--uses", "2")
        compose.up("runner-1", "runner-2", token=_secret(registration, "registration"))
        wait_for("two runners", lambda: cli("runner", "list").count("online") == 2)
        (state / "try.lua").write_text(PIPELINE, encoding="utf-8")
        cli("pipeline", "push", str(state / "try.lua"))
        cli("secret", "set", "WORD", stdin="a-word-that-nobody-sees")
        cli("grant", "add", "WORD", "try")
        say(cli("submit", "try", "--follow"))
        say("killing one orchestrator and stopping another; the job goes by the third")
        compose.podman("kill", "orchestrator-1")
        compose.podman("stop", "orchestrator-2")
        shown = cli("submit", "try", "--follow")
        for expected in ("started [secret WORD]", "hello", "succeeded"):
            if expected not in shown:
                raise Broken(f"`{expected}` is missing in:\n{shown}")
        say("all of it works")


class Broken(Exception):
    """Something of it does not work."""


class Cli:
    """The command line before the balancer."""

    def __init__(self, address: str, token: str, state: Path) -> None:
        self._environment = os.environ | {"MOONYARD_ORCHESTRATOR": address, "MOONYARD_TOKEN": token}
        self._state = state

    def __call__(self, *words: str, stdin: str = "") -> str:
        environment = self._environment | {"PYTHONPATH": str(ROOT)}
        return run(sys.executable, "-m", "cli.main", *words, env=environment, cwd=self._state, stdin=stdin)


class Compose:
    """One project of podman-compose's."""

    def __init__(self, project: str, file: Path) -> None:
        self._project = project
        self._file = file
        # What .env would hold: first without master keys, as for whoever has no secrets.
        self._given = {"POSTGRES_PASSWORD": secrets.token_hex(8), "REPLICA_PASSWORD": secrets.token_hex(8)}

    def up(self, *services: str, token: str = "") -> None:
        environment = os.environ | self._given | {"MOONYARD_REGISTRATION_TOKEN": token}
        # It goes on to the next service where one does not start: what is missing is missed soon.
        words = ("podman-compose", "-p", self._project, "-f", str(self._file), "up", "-d")
        run(*words, *services, env=environment)

    def replace(self, *services: str, keys: str) -> None:
        """Have these made anew, with master keys."""
        self._given["MOONYARD_SECRET_KEYS"] = keys
        for service in services:
            self.podman("stop", service)
            self.podman("rm", service)
        self.up("--no-deps", *services)

    def command(self, service: str, *argv: str) -> str:
        return run("podman", "exec", self._container(service), *argv)

    def podman(self, command: str, service: str) -> None:
        run("podman", command, self._container(service))

    def logs(self) -> str:
        return "".join(f"--- {name}\n{_last_words(name)}" for name in self._containers())

    def down(self) -> None:
        for name in self._containers():
            run("podman", "rm", "--force", "--time", "10", name)
        run("podman", "volume", "rm", "--force", f"{self._project}_postgres")
        run("podman", "network", "rm", "--force", f"{self._project}_default")

    def _container(self, service: str) -> str:
        return f"{self._project}_{service}_1"

    def _containers(self) -> list[str]:
        label = f"label=io.podman.compose.project={self._project}"
        # Those that were made last go first: the others have nobody then who needs them.
        return run("podman", "ps", "--all", "--filter", label, "--format", "{{.Names}}").split()[::-1]


@contextmanager
def _installation(state: Path, engine_socket: Path, port: int) -> Generator[Compose]:
    file = state / "compose.yaml"
    file.write_bytes(msgspec.yaml.encode(_own(state, engine_socket, port)))
    compose = Compose(f"moonyard{secrets.token_hex(3)}", file)
    try:
        yield compose
    except BaseException:
        sys.stderr.write(compose.logs())
        raise
    finally:
        compose.down()


def _own(state: Path, engine_socket: Path, port: int) -> dict[str, Any]:
    """Give compose.yaml with what belongs to a machine replaced."""
    stated = msgspec.yaml.decode((ROOT / "compose.yaml").read_bytes(), type=dict[str, Any])
    services: dict[str, dict[str, Any]] = copy.deepcopy(stated["services"])
    replaced = {
        "127.0.0.1:8400:8400": f"127.0.0.1:{port}:8400",
        "/run/podman/podman.sock": str(engine_socket),
        "/var/lib/moonyard": str(state),
        "./containers/": f"{ROOT}/containers/",
        "docker.io/library/postgres:17": stand_ins.image("postgres"),
        "docker.io/library/haproxy:2.8": stand_ins.image("haproxy"),
        "localhost/moonyard:latest": MOONYARD_IMAGE,
    }
    text = msgspec.json.encode(services).decode()
    for theirs, ours in replaced.items():
        assert theirs in text, f"compose.yaml names no `{theirs}` any more"
        text = text.replace(theirs, ours)
    services = msgspec.json.decode(text)
    for name, service in services.items():
        service.pop("build", None)
        if name.startswith("runner-"):
            (state / name).mkdir()
    return {"services": services, "volumes": stated["volumes"]}


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/v1/health", timeout=2):  # noqa: S310  # of our own
            return True
    except OSError:
        return False


def _master_key(state: Path) -> str:
    file = state / "secret.keys"
    run(sys.executable, "-m", "cli.main", "secret", "key", "generate", str(file))
    return file.read_text(encoding="utf-8").splitlines()[-1]


def _last_words(container: str) -> str:
    done = subprocess.run(["podman", "logs", container], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")[-2000:]


def _secret(told: str, kind: str) -> str:
    found = re.search(rf"moonyard_{kind}_\w+", told)
    assert found is not None, f"no {kind} token was told"
    return found[0]


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not there within {READY_SECONDS:.0f} s")
        time.sleep(0.2)


def run(*argv: str, env: dict[str, str] | None = None, cwd: Path = ROOT, stdin: str = "") -> str:
    done = subprocess.run(
        argv, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if done.returncode != 0:
        words = " ".join(argv[:4])
        raise Broken(
            f"`{words} ...` failed with exit code {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def say(text: str) -> None:
    sys.stderr.write(f"compose: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
