"""A runner without root, on a Podman without root: the same jobs, and it says what is weaker."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.command import ROOT, Printed

ALPINE = "docker.io/library/alpine:latest"
TUN = Path("/dev/net/tun")
SECONDS = 120
PROGRAMS = ("useradd", "userdel", "newuidmap", "newgidmap", "slirp4netns")
GREETING = b"only for this machine\n"


class User:
    """One who may nothing on this machine, with a Podman and a folder of its own."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self._facts = pwd.getpwnam(name)
        self.home = Path(self._facts.pw_dir)
        self._python = python

    def run(self, *argv: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command as the user, with nothing of our environment."""
        environment = {
            "HOME": str(self.home),
            "USER": self.name,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }
        return subprocess.run(
            argv,
            user=self._facts.pw_uid,
            group=self._facts.pw_gid,
            extra_groups=[],
            input=data,
            capture_output=True,
            env=environment,
            cwd=self.home,
            timeout=SECONDS,
            check=False,
        )

    def moonyard(self, *arguments: str) -> Printed:
        done = self.run(self._python, "-m", "cli.main", *arguments)
        return Printed(done.returncode, done.stdout.decode(), done.stderr.decode())

    def pipeline(self, source: str) -> Printed:
        (self.home / "try.lua").write_text(source, encoding="utf-8")
        return self.moonyard("run", "try.lua", "--json")

    def script(self, body: str, **fields: str) -> Printed:
        more = "".join(f", {name} = {value}" for name, value in fields.items())
        return self.pipeline(
            f'return {{ name = "try", stages = {{ {{ name = "s"{more}, script = function()\n{body}\nend }} }} }}'
        )

    def end_all(self) -> None:
        """Kill what the user still runs: Podman leaves a process that holds its user namespace."""
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if folder.stat().st_uid == self._facts.pw_uid:
                    os.kill(int(folder.name), signal.SIGKILL)


@contextmanager
def open_to_all(device: Path) -> Generator[None]:
    """Let everybody use a device, as udev does where it runs."""
    mode = stat.S_IMODE(device.stat().st_mode)
    device.chmod(mode | 0o666)
    try:
        yield
    finally:
        device.chmod(mode)


def interpreter_for(user: User, folder: Path) -> str:
    """Give an interpreter that the user can start, with all packages that this one has."""
    with suppress(PermissionError):
        if user.run(sys.executable, "-c", "import lupa").returncode == 0:
            return sys.executable
    version = sysconfig.get_python_version()
    other = shutil.which(f"python{version}", path="/usr/bin:/usr/local/bin")
    if other is None:
        pytest.skip(f"{sys.executable} is out of reach of other users, and there is no other Python {version}")
    made = user.run(other, "-m", "venv", "--without-pip", str(folder))
    assert made.returncode == 0, made.stderr
    packages = Path(folder, "lib", f"python{version}", "site-packages")
    (packages / "shared.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def user(image_map: dict[str, str]) -> Generator[User]:
    """A user made for these tests, who has the images that they need."""
    if os.geteuid() != 0:
        pytest.skip("to make an unprivileged user takes root")
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"a Podman without root cannot be set up here without {', '.join(missing)}")
    if not TUN.exists():
        pytest.skip(f"a Podman without root has no network here without {TUN}")
    name = f"moonyard-test-{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    user = User(name, sys.executable)
    try:
        if not any(line.startswith(f"{name}:") for line in Path("/etc/subuid").read_text().splitlines()):
            ranges = ["--add-subuids", "2000000-2065535", "--add-subgids", "2000000-2065535"]
            subprocess.run(["usermod", *ranges, name], check=True)
        run_folder = user.home / "run"
        run_folder.mkdir(mode=0o700)
        os.chown(run_folder, user.home.stat().st_uid, user.home.stat().st_gid)
        user._python = interpreter_for(user, user.home / "python")
        (user.home / "moonyard.toml").write_text(f'[image_map]\n"{ALPINE}" = "{image_map[ALPINE]}"\n')
        with open_to_all(TUN):
            packed = subprocess.run(["podman", "save", image_map[ALPINE]], capture_output=True, check=True).stdout
            loaded = user.run("podman", "load", data=packed)
            if loaded.returncode != 0:
                pytest.skip(f"Podman without root does not work here: {loaded.stderr.decode()[-300:]}")
            yield user
    finally:
        user.end_all()
        # What its containers' users own is not its own: it is removed by root.
        subprocess.run(["userdel", name], check=True)
        shutil.rmtree(user.home)


def left_of(user: User) -> list[str]:
    owners = user.home / ".local" / "state" / "moonyard" / "owners"
    return [
        *map(str, owners.glob("*/workspaces/*")),
        *user.run("podman", "ps", "--all", "--quiet").stdout.decode().split(),
        *user.run("podman", "network", "ls", "--quiet", "--filter", "label=moonyard.job").stdout.decode().split(),
    ]


def succeeded(printed: Printed) -> Printed:
    assert (printed.code, printed.job["state"]) == (0, "succeeded"), printed.stdout[-3000:] + printed.stderr
    return printed


def test_an_example_runs_and_leaves_nothing(user: User) -> None:
    printed = succeeded(user.pipeline((ROOT / "examples" / "hello.lua").read_text()))
    assert printed.texts(source="stdout") == ["Hello, world, from a container!"]
    assert left_of(user) == []


def test_root_in_a_container_is_the_user_outside_with_few_rights(user: User) -> None:
    printed = succeeded(
        user.script(
            'process.run({ command = "sh", args = { "-c", "cat /proc/self/status; echo; cat /proc/self/uid_map" } })'
        )
    )
    said = printed.texts(source="stdout")
    status = dict(line.split(":\t", 1) for line in said if ":\t" in line)
    assert int(status["CapBnd"], 16).bit_count() == 10
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    inside, outside, count = said[said.index("") + 1].split()
    assert (inside, int(outside), count) == ("0", pwd.getpwnam(user.name).pw_uid, "1")


def test_what_any_user_of_a_container_leaves_is_removed(user: User) -> None:
    body = """
    process.run({ command = "sh", args = { "-c", "touch mine; mkdir -p a/b" } })
    process.run({ command = "sh", user = "1234", args = { "-c",
      "echo more >> mine; echo x > a/b/theirs; mkdir closed; touch closed/file; chmod 000 closed" } })
    log.info((fs.read("a/b/theirs"):gsub("%s", "")))
    process.run({ command = "rm", args = { "-r", "a" } })
    """
    assert succeeded(user.script(body)).texts(source="lua") == ["x"]
    assert left_of(user) == []


def test_a_timeout_ends_all_that_a_command_started(user: User) -> None:
    body = """
    local ok, problem = pcall(process.run, { command = "sh", timeout = 1,
      args = { "-c", "setsid sleep 1003 & sleep 1003" } })
    log.info(ok, problem.code)
    log.info(process.run({ command = "pidof", args = { "sleep" }, check = false }).code)
    """
    assert succeeded(user.script(body)).texts(source="lua") == ["false command_timeout", "1"]


def test_services_are_reached_by_name(user: User) -> None:
    serve = "echo hello > /tmp/index.html; exec httpd -f -p 8000 -h /tmp"
    services = f'{{ web = {{ image = "{ALPINE}", command = {{ "sh", "-c", "{serve}" }}, ready = {{ port = 8000 }} }} }}'
    body = """
    local said = process.run({ command = "wget", args = { "-qO-", "http://web:8000/" }, stdout = "off" }).stdout
    log.info((said:gsub("%s", "")))
    local alone = process.run({ command = "wget", args = { "-qO-", "-T", "2", "http://web:9000/" }, check = false })
    log.info(alone.ok)
    """
    printed = succeeded(user.script(body, services=services))
    assert printed.texts(source="lua") == ["hello", "false"]
    assert left_of(user) == []


@pytest.fixture
def host_service() -> Generator[int]:
    """A service that listens for this machine alone; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    accepted, _ = listener.accept()
                    with accepted:
                        accepted.sendall(GREETING)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_services_that_the_host_has_for_itself_are_not_reached(user: User, host_service: int) -> None:
    with socket.create_connection(("127.0.0.1", host_service)) as own:
        assert own.recv(100) == GREETING
    body = f"""
    local route = "ip route | grep default | cut -d' ' -f3"
    local gateway = process.run({{ command = "sh", args = {{ "-c", route }} }}).stdout:gsub("%s", "")
    for _, address in ipairs({{ "127.0.0.1", "10.0.2.2", gateway, "host.containers.internal" }}) do
      local r = process.run({{ command = "nc", args = {{ "-w", "2", address, "{host_service}" }}, check = false }})
      if r.stdout ~= "" then log.info(address .. " answered") end
    end
    """
    printed = succeeded(user.script(body))
    assert printed.texts(source="lua") == []


def test_a_limit_that_cannot_be_held_is_told_where_it_is_asked_for(user: User) -> None:
    doctor = user.moonyard("doctor", "--json")
    assert doctor.code == 0, doctor.stdout + doctor.stderr
    found = {line["check"]: line for line in doctor.lines}
    assert "(rootless)" in found["engine"]["text"]
    assert found["users"]["state"] == "ok"
    for check in ("sandbox", "network", "warm containers"):
        assert found[check]["state"] == "weak", found[check]
    printed = succeeded(
        user.script(
            f'container.run("{ALPINE}", {{ memory = "64m" }}, function() process.run({{ command = "true" }}) end)'
        )
    )
    told = [text for text in printed.texts(source="system") if "have no effect" in text]
    assert bool(told) == (found["limits"]["state"] == "weak"), json.dumps(found["limits"])
