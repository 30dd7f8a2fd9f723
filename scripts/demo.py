"""`make demo`: everything on this machine, a real project's tests in containers, and a look at it as an operator.

It does what a newcomer would type, shows each command before it runs it, and stops all that it started: at its end, on
Ctrl-C, and when something fails. What it fetched and its database stay in .moonyard/demo/, so a second run is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

from scripts.git_server import GitServer

CHECKOUT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = CHECKOUT / ".moonyard" / "demo"
STATE: Final = FOLDER / "state"
PROGRAMS: Final = Path(sys.executable).parent

PROJECT: Final = "markdown"
PROJECT_VERSION: Final = "3.11.3"
PROJECT_SHA256: Final = "81eb91631dc97ad1efbc76019ef0f80fe90ca49ddf81546752d79989c3bfff3e"

PORT_FIRST: Final = 8400
PORTS_TRIED: Final = 50
REPLICAS: Final = 2
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 60.0
BRIDGE_POLL_SECONDS: Final = 0.1


class DemoFailed(Exception):
    """Something did not go as it should; the message says what."""


class Screen:
    """Writes for people: headings, commands, results; in colour where a terminal reads it."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._step = 0

    def _styled(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text

    @contextlib.contextmanager
    def step(self, title: str) -> Generator[None]:
        self._step += 1
        line = f"── {self._step}. {title} "
        self.write("\n" + self._styled("1;36", line + "─" * max(0, 100 - len(line))))
        started = time.monotonic()
        yield
        self.write(self._styled("2", f"({time.monotonic() - started:.1f} s)"))

    def command(self, argv: Sequence[str]) -> None:
        self.write("\n" + self._styled("1", f"$ {' '.join(_quoted(argument) for argument in argv)}"))

    def good(self, text: str) -> None:
        self.write(f"{self._styled('32', '✓')} {text}")

    def bad(self, text: str) -> None:
        self.write(f"\n{self._styled('1;31', '✗')} {text}")

    def dim(self, text: str) -> None:
        self.write(self._styled("2", text))

    def write(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class Demo:
    """The tour."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        # The demo is an installation of its own: settings of another one, in the environment or the user's files, are
        # not for it.
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MOONYARD_")},
            "MOONYARD_STATE_FOLDER": str(STATE),
            "XDG_CONFIG_HOME": str(FOLDER / "config"),
            "PSQL_PAGER": "cat",
        }

    def run(self, *, keep: bool) -> None:
        """Give the tour.

        :raises DemoFailed: when something does not go as it should.
        """
        screen = self._screen
        started = time.monotonic()
        _check_machine()
        FOLDER.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            with screen.step(f"A real project: {PROJECT} {PROJECT_VERSION}, in a git repository of its own"):
                repositories = self._repository()
            with screen.step("`moonyard up`: Postgres, two orchestrators, a runner"):
                stack.enter_context(self._up())
                server = stack.enter_context(GitServer(repositories, _bridge_address()))
                url = f"{server.url}/{PROJECT}.git"
                screen.good(f"a git daemon serves the project at {url}, to containers of this machine alone")
            with screen.step("Push pipelines, and run the smallest one"):
                self._moonyard("pipeline", "push", *(f"examples/{name}.lua" for name in _EXAMPLES))
                self._moonyard("submit", "hello", "--input", "name=newcomer", "--follow")
            with screen.step("Clone, test and pack the project"):
                self._moonyard("submit", PROJECT, "--input", f"url={url}", "--follow")
            with screen.step("What the job kept"):
                number = self._last_job(PROJECT)
                self._artifact(number)
            with screen.step("A pipeline that fails, to see how that is told"):
                screen.dim("The failure is what this example is for.")
                self._moonyard("submit", "failing", "--follow", expected=1)
                screen.good("exit code 1: the job failed")
            with screen.step("The same, as an operator sees it with psql"):
                for query in _queries(number):
                    self._moonyard("db", "psql", "-c", query)
            self._what_next(time.monotonic() - started, keep=keep)
            if keep:
                _wait_for_interrupt()

    def _repository(self) -> Path:
        """Fetch the project's source, once, and put it into a bare repository; give the folder that it stands in."""
        archive = FOLDER / "source" / f"{PROJECT}-{PROJECT_VERSION}.tar.gz"
        if not (archive.exists() and _sha256(archive) == PROJECT_SHA256):
            self._screen.write(f"fetching its source from the package index, pinned to SHA-256 {PROJECT_SHA256[:12]}…")
            _fetch(archive)
        repositories = FOLDER / "git"
        bare = repositories / f"{PROJECT}.git"
        if not bare.exists():
            _make_repository(archive, bare)
        commit = _output(["git", "--git-dir", str(bare), "rev-parse", "main"])
        self._screen.good(f"{PROJECT} {PROJECT_VERSION} is commit {commit[:12]} of branch main")
        return repositories

    @contextlib.contextmanager
    def _up(self) -> Generator[None]:
        port = _free_ports()
        command = ["moonyard", "up", *(["--port", str(port)] if port != PORT_FIRST else [])]
        self._screen.command(command)
        log = FOLDER / "up.log"
        log.unlink(missing_ok=True)
        # Its output goes to a file, which nobody has to read for it to go on. The file holds the first token.
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as output:
            process = subprocess.Popen(
                # Of a session of its own, so that Ctrl-C reaches it through us alone, and in order.
                [*_ending_with_us(), str(PROGRAMS / command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=CHECKOUT,
                env=self._environment,
                start_new_session=True,
            )
        try:
            self._wait_until_up(process, log)
            yield
        finally:
            self._screen.dim("\nstopping what was started ...")
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
                self._screen.good("all that was started is stopped")
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self._screen.bad(f"`moonyard up` did not stop within {STOP_SECONDS:.0f} s and was killed; see {log}")

    def _wait_until_up(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        with log.open(encoding="utf-8", errors="replace") as file:
            rest, up = "", False
            while True:
                ended = process.poll() is not None
                *lines, rest = (rest + file.read()).split("\n")
                for line in lines:
                    self._screen.write(f"  {line}")
                    up = up or "Moonyard is up" in line
                # The welcome ends with how to stop it.
                if up and any("stop " in line for line in lines):
                    return
                if ended or time.monotonic() > deadline:
                    how = "ended" if ended else f"was not up within {START_SECONDS:.0f} s"
                    raise DemoFailed(f"`moonyard up` {how}; what it said stands above, and in {log}")
                time.sleep(0.05)

    def _moonyard(self, *arguments: str, expected: int = 0) -> None:
        command = ["moonyard", *arguments]
        self._screen.command(command)
        code = subprocess.run(
            [str(PROGRAMS / "moonyard"), *arguments], cwd=CHECKOUT, env=self._environment, check=False
        ).returncode
        if code != expected:
            raise DemoFailed(f"`{shlex.join(command)}` ended with exit code {code}, and {expected} was expected")

    def _rows(self, *arguments: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [str(PROGRAMS / "moonyard"), *arguments, "--json"],
            cwd=CHECKOUT,
            env=self._environment,
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            raise DemoFailed(f"`moonyard {shlex.join(arguments)}` ended with exit code {done.returncode}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def _last_job(self, pipeline: str) -> str:
        return str(self._rows("jobs", "--pipeline", pipeline, "--limit", "1")[0]["number"])

    def _artifact(self, number: str) -> None:
        name = f"{PROJECT}.tar.gz"
        target = FOLDER / name
        self._moonyard("artifact", "list", number)
        self._moonyard("artifact", "get", number, name, "--output", str(target.relative_to(CHECKOUT)))
        promised = self._rows("artifact", "list", number)[0]["sha256"]
        got = _sha256(target)
        if got != promised:
            raise DemoFailed(f"{target} has SHA-256 {got}, and the job reported {promised}")
        self._screen.good(f"its SHA-256 is the one that the job reported: {got}")
        with tarfile.open(target) as tar:
            names = tar.getnames()
        wanted = {f"{PROJECT}/pyproject.toml", f"{PROJECT}/{PROJECT}/__init__.py"}
        if not wanted <= set(names):
            raise DemoFailed(f"{target} lacks {', '.join(sorted(wanted - set(names)))}")
        self._screen.good(f"it holds the project: {len(names)} files and folders")

    def _what_next(self, seconds: float, *, keep: bool) -> None:
        state = STATE.relative_to(CHECKOUT)
        staying = (
            "Moonyard stays up until Ctrl-C. In another terminal, in this folder:"
            if keep
            else "To keep it running: make demo DEMO=--keep, and then in another terminal, in this folder:"
        )
        self._screen.write(
            f"\nThat took {seconds:.0f} s. What next:\n\n"
            "  .venv/bin/moonyard run examples/hello.lua        a pipeline here and now, without any server\n"
            "  README.md                                        your own first pipeline\n"
            "  docs/pipelines.md                                all that a pipeline can do\n\n"
            f"  {staying}\n"
            f"    export MOONYARD_STATE_FOLDER={state} PATH=$PWD/.venv/bin:$PATH\n"
            "    moonyard jobs; moonyard submit hello --follow; moonyard db psql"
        )


_EXAMPLES: Final = ("hello", "containers", PROJECT, "failing")


def _queries(number: str) -> list[str]:
    return [
        "SELECT * FROM inspect.jobs LIMIT 5",
        f"SELECT * FROM inspect.job('{number}')",  # noqa: S608  # the number is an orchestrator's answer
        f"SELECT * FROM inspect.commands WHERE job = {number}",  # noqa: S608
        f"SELECT at::time(3), stage, level, text FROM inspect.log('{number}') WHERE level <> 'debug'",  # noqa: S608
    ]


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise DemoFailed(
            "the demo serves a repository on the bridge of root's Podman: run it as root; "
            "`.venv/bin/moonyard run examples/hello.lua` works for any user"
        )
    for program in ("podman", "git"):
        if shutil.which(program) is None:
            raise DemoFailed(f"`{program}` is missing: `make demo` installs it")
    if not (CHECKOUT / ".moonyard" / "images.toml").exists():
        raise DemoFailed("the stand-in images are not built: `make demo` builds them, or `make images`")


def _bridge_address() -> str:
    """Find the address at which the runner's containers reach this machine: that of the network it made for them.

    :raises DemoFailed: when the runner makes none.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for owner in (STATE / "runner" / "owners").glob("[0-9a-f]*"):
            names = _output(
                ["podman", "network", "ls", "--quiet", "--filter", f"label=moonyard.owner={owner.name}"]
            ).split()
            if names:
                return _output(["podman", "network", "inspect", names[0], "--format", "{{(index .Subnets 0).Gateway}}"])
        time.sleep(BRIDGE_POLL_SECONDS)
    raise DemoFailed(f"the runner made no network for its containers within {START_SECONDS:.0f} s; see {FOLDER}/up.log")


def _free_ports() -> int:
    """Find ports for the orchestrators, next to each other: the usual ones, if nobody has them."""
    for port in range(PORT_FIRST, PORT_FIRST + PORTS_TRIED, REPLICAS):
        with contextlib.ExitStack() as stack:
            try:
                for offset in range(REPLICAS):
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    raise DemoFailed(f"no free ports between {PORT_FIRST} and {PORT_FIRST + PORTS_TRIED}")


def _fetch(archive: Path) -> None:
    """Fetch the project's source through pip, from whichever index the user's pip asks."""
    archive.parent.mkdir(exist_ok=True)
    pinned = archive.with_name("pinned.txt")
    pinned.write_text(f"{PROJECT}=={PROJECT_VERSION} --hash=sha256:{PROJECT_SHA256}\n", encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", "download"),
            *("--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--require-hashes"),
            *("--requirement", str(pinned), "--dest", str(archive.parent)),
        ],
        check=False,
    )
    if done.returncode != 0 or not archive.exists():
        raise DemoFailed(f"pip could not fetch {PROJECT} {PROJECT_VERSION}; what it said stands above")


def _make_repository(archive: Path, bare: Path) -> None:
    """Commit an archive's content; the same content is the same commit, wherever and whenever it is made."""
    work = bare.with_name(f".{PROJECT}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _output(["tar", "--no-same-owner", "-xzf", str(archive), "-C", str(work)])
    tree = work / f"{PROJECT}-{PROJECT_VERSION}"
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_NAME": "Moonyard demo" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "demo@localhost" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_DATE": "2026-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")},
    }
    nascent = work / "bare"
    for arguments in (
        ["-C", str(tree), "init", "--quiet", "--initial-branch=main"],
        ["-C", str(tree), "add", "--all", "--force"],
        ["-C", str(tree), "commit", "--quiet", "--message", f"{PROJECT} {PROJECT_VERSION}"],
        ["clone", "--quiet", "--bare", str(tree), str(nascent)],
    ):
        _output(["git", *arguments], environment)
    nascent.rename(bare)
    shutil.rmtree(work)


def _output(argv: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"`{shlex.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ending_with_us() -> list[str]:
    """Have the kernel stop a child when we end in a way that lets us stop nothing ourselves."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def _wait_for_interrupt() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def _quoted(argument: str) -> str:
    """Quote for a shell as a person would: by double quotes where the text has single ones."""
    return f'"{argument}"' if "'" in argument and not set(argument) & set('"$`\\!') else shlex.quote(argument)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description="A tour of Moonyard on this machine.")
    parser.add_argument("--keep", action="store_true", help="after the tour, leave everything up until Ctrl-C")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    try:
        Demo(screen).run(keep=arguments.keep)
    except DemoFailed as failure:
        screen.bad(str(failure))
        return 1
    except KeyboardInterrupt:
        screen.bad("stopped, and all that was started with it")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
