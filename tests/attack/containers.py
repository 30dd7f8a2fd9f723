"""A pipeline that tries to get out of its container, or into another job's, through the real engine.

The attempts are in ``inside.py``, which runs in a container of a job. A neighbour's job runs meanwhile: with a word in
its files and its variables, and with a listener that greets with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio

from tests.attack import network
from tests.attack.attempts import Attempt, judged, not_tried, through
from tests.attack.jobs import JOB_SECONDS, PYTHON, Attacked, Runner

INSIDE = Path(__file__).with_name("inside.py")
KEY_ADD, KEYCTL, KEYCTL_UNLINK, USERS_KEYS = 248, 250, 9, -4
ATTEMPTS_AT_LEAST = 100
NEIGHBOUR = """
return { name = "neighbour", stages = { { name = "s", container = "IMAGE", script = function()
  fs.write("mine", "WORD") fs.write("listen.py", [==[
import socket, sys
listener = socket.create_server(("0.0.0.0", 7777))
print("at " + socket.gethostbyname(socket.gethostname()), flush=True)
listener.settimeout(0.1)
import os
while not os.path.exists("go"):
    try:
        accepted, _ = listener.accept()
        accepted.sendall(b"WORD")
        accepted.close()
    except OSError:
        pass
  ]==])
  process.run({ command = "python3", args = { "listen.py" }, env = { MINE = "WORD" } })
end } } }
"""
ATTACK = """
return { name = "inside", stages = {
  { name = "s", container = "IMAGE", script = function()
    fs.write("inside.py", [==[INSIDE]==])
    process.run({ command = "python3", args = { "inside.py", WORDS } })
  end },
} }
"""
BOMB = """
return { name = "bomb", stages = { { name = "s", container = { IMAGE }, script = function()
  process.run({ command = "sh", args = { "-c", "f() { f | f & }; f; sleep 1" }, check = false, timeout = "3s" })
end } } }
"""
GREEDY = """
return { name = "greedy", stages = { { name = "s", container = "IMAGE", script = function()
  local function try(name, command)
    local ok, ran = pcall(process.run, { command = "sh", args = { "-c", command }, check = false, timeout = "20s" })
    log.info("TRIED " .. name .. ": " .. (ok and ran.code or tostring(ran)))
  end
  try("memory", "python3 -c 'x = bytearray(2 * 1024**3)'")
  try("disk of /tmp", "head -c 20000000000 /dev/zero > /tmp/x")
  try("disk of /dev/shm", "head -c 20000000000 /dev/zero > /dev/shm/x")
  try("processes", "i=0; while [ $i -lt 3000 ]; do sleep 60 & i=$((i+1)); done")
end } } }
"""


async def attempts(runner: Runner) -> list[Attempt]:
    """Try all."""
    word = secrets.token_hex(8)
    made: list[Attempt] = []
    neighbour = await runner.start(NEIGHBOUR.replace("IMAGE", PYTHON).replace("WORD", word))
    await neighbour.until_said('"text":"at ')
    address = next(text.removeprefix("at ") for text in neighbour.texts if text.startswith("at "))
    with ExitStack() as stack:
        loopback = stack.enter_context(network.greeting("127.0.0.1", word))
        missing = stack.enter_context(network.metadata(word))
        no_key = stack.enter_context(_key(word))
        assert network.is_greeted("127.0.0.1", loopback, word), "the machine itself is greeted"
        targets = {
            "the machine's loopback": f"127.0.0.1:{loopback}",
            "the machine's loopback by its bridge": f"GATEWAY:{loopback}",
            "the machine's loopback by its name": f"host.containers.internal:{loopback}",
            "another job's listener": f"{address}:7777",
        }
        if missing is None:
            targets |= {
                "a cloud's metadata service": f"{network.METADATA}:{network.PORT}",
                "what it may": f"{network.ASKED}:{network.PORT}",
            }
        words = [word[::-1], *(f"{name}={where}" for name, where in targets.items())]
        source = ATTACK.replace("IMAGE", PYTHON).replace("INSIDE", INSIDE.read_text(encoding="utf-8"))
        source = source.replace("WORDS", ", ".join(json.dumps(one) for one in words))
        attack = await runner.run(source)
        made += _read(attack, no_key)
        made += await _by_http(runner, loopback, word, missing)
    made += await _exhausting(runner)
    if missing is not None:
        made.append(not_tried("connect to a cloud's metadata service", missing))
    [workspace] = runner.owner.workspaces.glob(f"{neighbour.order.id}-*")
    (workspace / "go").touch()
    with anyio.fail_after(JOB_SECONDS):
        await neighbour.ended.wait()
    got = None if neighbour.final.state == "succeeded" else neighbour.outcome
    made.append(judged("harm the job beside it", got, "it came to its end"))
    return made


def _read(job: Attacked, no_key: str | None) -> list[Attempt]:
    """Read what the program in the container said."""
    made: list[Attempt] = []
    for text in job.texts:
        said: dict[str, Any] = json.loads(text)
        name = said["name"]
        if name == "connect to what it may":
            # That it is reached shows that the metadata service would be.
            if said["got"] is None:
                made.append(not_tried("tell why a metadata service is not reached", said["how"]))
        elif "not_tried" in said or (no_key is not None and "keys of the machine" in name):
            made.append(not_tried(name, said.get("not_tried") or no_key or ""))
        else:
            made.append(judged(name, said["got"], said["how"]))
    if job.final.state != "succeeded" or len(made) < ATTEMPTS_AT_LEAST:
        made.append(through("come to the end of all attempts", f"{len(made)} were made: {job.outcome}"))
    return made


async def _by_http(runner: Runner, port: int, word: str, missing: str | None) -> list[Attempt]:
    """Ask by ``http``, which stands where the runner does."""
    hosts = ["127.0.0.1", "localhost", "127.1", "0", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "[::]"]
    urls = [f"http://{host}:{port}/" for host in hosts]
    urls += [f"http://{host}/" for host in (network.METADATA, "[::ffff:a9fe:a9fe]", "0xa9fea9fe", "100.100.100.200")]
    urls += ["file:///etc/passwd", "gopher://127.0.0.1/", "unix:///run/podman/podman.sock"]
    lines = "\n".join(
        f'local ok, answer = pcall(http.get, {json.dumps(url)}, {{ timeout = "3s" }}) '
        f"log.info({json.dumps(url)}, ok, ok and answer.body or answer.code or tostring(answer))".replace("local ", "")
        for url in urls
    )
    source = 'return { name = "asks", stages = { { name = "s", script = function() local ok, answer\n' + lines
    job = await runner.run(source + "\nend } } }")
    made: list[Attempt] = []
    for url, text in zip(urls, job.texts, strict=False):
        name = f"ask {url.replace(str(port), 'PORT')} by http"
        got = text if word in text or " true " in text else None
        made.append(judged(name, got, text))
    if len(made) < len(urls):
        made.append(through("ask by http", f"only {len(made)} were made: {job.outcome}"))
    del missing  # what refuses the address does so before anything is connected
    return made


async def _exhausting(runner: Runner) -> list[Attempt]:
    bomb, greedy = BOMB.replace("{ IMAGE }", f'"{PYTHON}"'), GREEDY.replace("IMAGE", PYTHON)
    bombed, took = await runner.run(bomb), await runner.run(greedy)
    made = [
        judged(
            "bomb the machine with forks",
            None if bombed.final.state in {"succeeded", "failed"} else bombed.outcome,
            f"its processes are counted: {bombed.outcome}",
        )
    ]
    tries = [text.removeprefix("TRIED ") for text in took.texts if text.startswith("TRIED ")]
    for tried in tries:
        name, _, outcome = tried.partition(": ")
        got = "it could" if outcome == "0" else None
        made.append(judged(f"take all of the machine's {name}", got, outcome))
    if not tries:
        made.append(through("take what the machine has", took.outcome))
    return made


@contextmanager
def _key(word: str) -> Generator[str | None]:
    """Keep a key in the kernel for this machine's user; gives why there is none, if so."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = libc.syscall(KEY_ADD, b"user", b"moonyard-attack", word.encode(), len(word), USERS_KEYS)
    yield None if key > 0 else f"no key can be kept here: {os.strerror(ctypes.get_errno())}"
    if key > 0:
        libc.syscall(KEYCTL, KEYCTL_UNLINK, key, USERS_KEYS)
