"""What a program in Lua's place sends to the runner: each act speaks the frames, and not as it should.

Where an act got something that is not its job's, it says so in a line that begins with ``GOT``.
"""

from __future__ import annotations

import os
import select
import struct
from typing import Any, Final

import msgspec

from sandbox.frames import FRAME_BYTES_MAXIMUM, SECRET_EXTENSION
from tests.attack.taken_over import Act, Taken

MEBIBYTE: Final = 1024**2
OTHER_JOB: Final = "01890a5d-ac96-774b-bcce-b302099a8057"
OUTSIDE: Final = (
    "/etc/passwd",
    "../../../../../../etc/passwd",
    "/workspace/../etc/passwd",
    "/proc/self/environ",
    "a/../../x",
    "..",
    "/",
    "\0/etc/passwd",
    "x" * 5000,
)
FILE_CALLS: Final = (
    "fs.read", "fs.lines", "fs.list", "fs.walk", "fs.stat", "fs.hash", "fs.size", "fs.remove", "fs.mkdir",
    "fs.read_json", "fs.read_toml", "fs.read_yaml", "archive.list", "artifact.save", "artifact.test_report",
)  # fmt: skip


def _big(count: int, value: bytes) -> bytes:
    """Write a host call with a list of the same value many times."""
    head = msgspec.msgpack.encode({"op": "call", "name": "fs.read", "arguments": 0})[:-1]
    return head + b"\x92\xc0\xdd" + struct.pack(">I", count) + value * count


def _wait() -> None:
    select.poll().poll(600_000)


def _done(taken: Taken) -> None:
    taken.tell("done")
    taken.next_frame()


def giant_frame(taken: Taken) -> None:
    taken.loaded()
    taken.half(0xFFFFFFFF, b"x" * 1000)
    taken.next_frame()


def frame_too_large(taken: Taken) -> None:
    taken.loaded()
    taken.half(FRAME_BYTES_MAXIMUM + 1, b"x")
    taken.next_frame()


def leaves_in_the_middle(taken: Taken) -> None:
    taken.loaded()
    taken.half(1000, b"\x81\xa2op")
    os._exit(0)


def leaves(taken: Taken) -> None:
    taken.loaded()
    os._exit(7)


def does_not_load(taken: Taken) -> None:
    del taken
    os._exit(7)


def never_answers(taken: Taken) -> None:
    taken.loaded()
    _wait()


def never_loads(taken: Taken) -> None:
    del taken
    _wait()


def takes_no_answer(taken: Taken) -> None:
    taken.loaded()
    taken.call("fs.write", {"path": "large", "data": "x" * (15 * MEBIBYTE)})
    taken.tell("call", name="fs.read", arguments=[{"path": "large"}, None])
    _wait()


def answers_twice(taken: Taken) -> None:
    taken.loaded(("s", "t"))
    taken.tell("done")
    taken.tell("done")
    taken.next_frame()
    taken.tell("done")
    taken.next_frame()


def calls_without_waiting(taken: Taken) -> None:
    taken.loaded()
    for _ in range(2000):
        taken.tell("call", name="env.get", arguments=["HOME", None])
    _done(taken)


def floods_the_log(taken: Taken) -> None:
    taken.loaded()
    for _ in range(20_000):
        taken.say("x" * 500)
    _done(taken)


def forges_events(taken: Taken) -> None:
    taken.loaded()
    forged = '{"type":"job","at":"2026-01-01T00:00:00.000Z","job":"x","attempt":1,"seq":1,"id":"x","state":"succeeded"}'
    taken.say(f"a\n{forged}\r\n{forged}\x1b[2J\x1b]0;title\x07")
    taken.tell("log", level="info", text={"type": "job"}, fields={"state": forged, "x\n": "\n" + forged})
    taken.tell("failed", error={"code": "x", "message": f"no\n{forged}\n"})
    taken.next_frame()


def odd_log(taken: Taken) -> None:
    taken.loaded()
    nested: Any = "x"
    for _ in range(40):
        nested = [nested]
    fields = {f"f{number}": nested for number in range(1000)} | {"n" * 100_000: 1.5, "inf": float("inf")}
    taken.tell("log", level="info", text=[nested, {1: 2}], fields=fields, group=[nested] * 1000, heading=True)
    _done(taken)


def log_at_a_level_of_its_own(taken: Taken) -> None:
    taken.loaded()
    taken.tell("log", level="system", text="all is well")
    _done(taken)


def long_error(taken: Taken) -> None:
    taken.loaded()
    error = {"code": "x" * MEBIBYTE, "message": "m" * (15 * MEBIBYTE), "hint": "h" * MEBIBYTE, "trace": ["t"] * 100_000}
    taken.tell("failed", error=error)
    taken.next_frame()


def error_without_end(taken: Taken) -> None:
    taken.loaded()
    error: dict[str, Any] = {"code": "c", "message": "m"}
    for _ in range(20_000):
        error = {"code": "c", "message": "m", "cause": error}
    # Deeper than the encoder goes: written by hand.
    level = b"\x83\xa4code\xa1c\xa7message\xa1m\xa5cause"
    taken.raw(b"\x82\xa2op\xa6failed\xa5error" + level * 20_000 + b"\xc0")
    taken.next_frame()


def error_that_claims_a_loss(taken: Taken) -> None:
    taken.loaded()
    taken.tell("failed", error={"code": "engine_lost", "message": "the engine was lost"})
    taken.next_frame()


def another_pipeline(taken: Taken) -> None:
    """Say that the file is that of a pipeline which may have more."""
    script = msgspec.msgpack.Ext(1, b"\0\0\0\1")
    stage = {"name": "s", "container": "docker.io/library/alpine:latest", "privileged": True, "script": script}
    taken.loaded(pipeline={"name": "trusted", "stages": [stage]})
    answer = taken.call("process.run", None, {"command": "cat", "args": ["/proc/self/status"]})
    status = str(answer.get("value", {}).get("stdout", ""))
    bounds = [line.split()[1] for line in status.splitlines() if line.startswith("CapBnd")]
    taken.say(f"{'GOT ' if bounds and int(bounds[0], 16) >> 21 & 1 else ''}capabilities {bounds} {answer.get('error')}")
    _done(taken)


def paths_outside(taken: Taken) -> None:
    taken.loaded()
    for name in FILE_CALLS:
        for path in OUTSIDE:
            answer = taken.call(name, {"path": path, "name": "x"})
            if answer.get("value") is not None:
                taken.say(f"GOT {name} {path!r}: {str(answer)[:200]}")
    taken.call("fs.write", {"path": "mine", "data": "x"})
    for path in OUTSIDE:
        for name, arguments in (
            ("fs.write", {"path": path, "data": "x"}),
            ("fs.append", {"path": path, "data": "x"}),
            ("fs.chmod", {"path": path, "mode": "4777"}),
            ("fs.copy", {"from": "mine", "to": path}),
            ("fs.copy", {"from": path, "to": "copied"}),
            ("fs.move", {"from": path, "to": "moved"}),
            ("fs.move", {"from": "mine", "to": path}),
            ("fs.glob", {"pattern": f"{path}/*"}),
            ("archive.create", {"path": path, "to": "a.tar", "files": ["."], "from": path}),
            ("archive.extract", {"path": "mine", "to": path}),
            ("fs.temp", {"prefix": f"{path}/x"}),
            ("http.get", {"url": f"file://{path}"}),
        ):
            answer = taken.call(name, arguments)
            if answer.get("value"):
                taken.say(f"GOT {name} {arguments!r}: {str(answer)[:200]}")
    _done(taken)


def secrets_of_others(taken: Taken) -> None:
    taken.loaded()
    wanted = msgspec.msgpack.Ext(SECRET_EXTENSION, msgspec.msgpack.encode([["OTHER"]]))
    command = {"command": "env"}
    for name, arguments in (
        ("secret.get", ["OTHER", None]),
        ("secret.get", ["../OTHER", None]),
        ("secret.get", ["other/OTHER", None]),
        ("secret.reveal", [wanted, None]),
        ("secret.reveal", ["OTHER", None]),
        ("process.run", [None, command | {"secrets": ["OTHER"]}]),
        ("process.run", [None, command | {"secrets": {"X": "OTHER"}}]),
        ("process.run", [None, command | {"env": {"X": wanted}}]),
        ("fs.write", [{"path": "x", "data": wanted}, None]),
        ("hash.hmac", [{"key": wanted, "data": "x"}, None]),
        ("job.output", [{"name": "x", "value": wanted}, None]),
        ("env.get", ["OTHER", None]),
    ):
        answer = taken.call(name, *arguments)
        if answer.get("value") is not None:
            taken.say(f"GOT {name}: {str(answer)[:200]}")
    _done(taken)


def jobs_of_others(taken: Taken) -> None:
    taken.loaded()
    for name, arguments in (
        ("artifact.fetch", {"name": "kept", "job": OTHER_JOB}),
        ("artifact.fetch", {"name": f"../{OTHER_JOB}/kept", "to": "x"}),
        ("artifact.list", {"job": OTHER_JOB}),
        ("artifact.list", {"pipeline": "bystander"}),
        ("container.close", "c1"),
    ):
        answer = taken.call(name, arguments)
        if answer.get("value"):
            taken.say(f"GOT {name}: {str(answer)[:200]}")
    for handle in ("c1", "c2", "", "../c1", 5, ["c1"]):
        answer = taken.call("process.run", handle, {"command": "id"})
        if answer.get("value"):
            taken.say(f"GOT a container by the handle {handle!r}")
    _done(taken)


def calls_that_there_are_not(taken: Taken) -> None:
    taken.loaded()
    for name in ("os.execute", "__class__", "", "fs", "fs.read.__globals__", "process.run\0"):
        answer = taken.call(name, {"path": "x"})
        if answer.get("value") is not None:
            taken.say(f"GOT {name[:20]}: {str(answer)[:200]}")
    _done(taken)


def list_for_a_key(taken: Taken) -> None:
    taken.loaded()
    taken.raw(b"\x83\xa2op\xa4call\xa4name\xa7fs.read\xa9arguments\x92\x81\x90\x01\xc0")
    if taken.next_frame().get("value") is not None:
        taken.say("GOT a file")
    _done(taken)


def arguments_of_all_shapes(taken: Taken) -> None:
    taken.loaded()
    shapes: list[Any] = [None, True, -(2**63), 2**64 - 1, 1.5, float("nan"), "", "\x7f" * 70_000, b"\xff\xfe", [], {}]
    shapes += [[[]] * 1000, {1: 2}, {1.5: None}, {"": {}}, {b"\xff": 1}, msgspec.msgpack.Ext(1, b"\0\0\0\1")]
    names = ("fs.read", "fs.write", "process.run", "container.open", "http.get", "artifact.save", "json.encode")
    more = (
        "regex.match",
        "time.sleep",
        "secret.get",
        "job.output",
        "archive.extract",
        "yaml.decode",
        "container.close",
    )
    for name in names + more:
        for shape in shapes:
            for arguments in ([shape], [shape, shape], [None, shape], [{"path": shape, "url": shape, "value": shape}]):
                answer = taken.call(name, *arguments)
                told: dict[str, Any] = answer.get("error") or {}
                if told.get("code") == "internal_error":
                    taken.say(f"DEFECT {name} {arguments!r:.100}: {told['message']}")
    _done(taken)


def plugins_that_there_are_not(taken: Taken) -> None:
    taken.loaded()
    for plugin in ("git", "none", "", "../x"):
        answer = taken.call("fs.write", {"path": "x", "data": "y"}, plugin=plugin)
        if answer.get("value") is not None:
            taken.say(f"GOT a call by plugin {plugin!r}")
    _done(taken)


def _tell(op: str, **fields: Any) -> Act:
    def act(taken: Taken) -> None:
        taken.loaded()
        taken.tell(op, **fields)
        taken.next_frame()

    return act


def _raw(data: bytes) -> Act:
    def act(taken: Taken) -> None:
        taken.loaded()
        taken.raw(data)
        taken.next_frame()

    return act


def _bare(data: bytes) -> Act:
    def act(taken: Taken) -> None:
        taken.loaded()
        taken.bare(data)
        taken.next_frame()

    return act


def _keys() -> bytes:
    return msgspec.msgpack.encode(
        {"op": "call", "name": "fs.read", "arguments": [{number << 20: 0 for number in range(20_000)}, None]}
    )


_CALL: Final = {"op": "call", "name": "fs.read"}
_MANY_PARTS: Final = b"\xdd" + struct.pack(">I", MEBIBYTE) + b"\xc0" * MEBIBYTE

BREACHES: Final[dict[str, Act]] = {
    "begin a frame of 4 GiB": giant_frame,
    "begin a frame one byte too large": frame_too_large,
    "send bytes that are no frame": _bare(b"\xff" * 64),
    "send a frame of text": _raw(b"hello, I am Lua"),
    "send a frame of nothing": _raw(b""),
    "name no operation": _raw(msgspec.msgpack.encode({})),
    "name an operation that there is not": _tell("shell", command="id"),
    "give a call a number for its name": _tell("call", name=5, arguments=[]),
    "give a call a table for its arguments": _tell("call", name="fs.read", arguments={"a": 1}),
    "nest without end": _raw(b"\x91" * 100_000 + b"\xc0"),
    "nest without end in a call": _raw(_big(1, b"\x91" * 100_000 + b"\xc0")),
    "have thirty million tables made": _raw(_big(30 * MEBIBYTE, b"\x80")),
    "have a list made whose length is a lie": _raw(_big(1, b"\xdd\xff\xff\xff\xff")),
    "choose the keys of a table": _raw(_keys()),
    "call without arguments": _tell("call", name="process.run", arguments=[]),
    "call with five arguments": _tell("call", name="process.run", arguments=[1, 2, 3, 4, 5]),
    "call by a long name": _tell("call", name="x" * 100_000, arguments=[1, 2]),
    "send an extension that there is not": _raw(
        msgspec.msgpack.encode(_CALL | {"arguments": [msgspec.msgpack.Ext(9, b""), None]})
    ),
    "send a secret of a million parts": _raw(
        msgspec.msgpack.encode(_CALL | {"arguments": [msgspec.msgpack.Ext(SECRET_EXTENSION, _MANY_PARTS), None]})
    ),
    "send a secret of no parts": _raw(
        msgspec.msgpack.encode(_CALL | {"arguments": [msgspec.msgpack.Ext(SECRET_EXTENSION, b"\x90"), None]})
    ),
    "say again that it is ready": _tell("ready", raised=["all"], missing={}),
    "say again that it has loaded": _tell("loaded", pipeline={"name": "other", "stages": []}),
    "say that a script was abandoned": _tell("abandoned"),
    "branch into none": _tell("fork", first=1, count=0, limit=0),
    "branch into a million": _tell("fork", first=1, count=10**6, limit=10**6),
    "branch by a number beyond all": _tell("fork", first=2**64 - 1, count=2, limit=2),
    "branch by a negative number": _tell("fork", first=-5, count=2, limit=2),
    "log at a level of its own": log_at_a_level_of_its_own,
    "tell an error whose causes have no end": error_without_end,
}
"""Each ends the job, with the code of a breach."""
ENDS: Final[dict[str, Act]] = {
    "leave in the middle of a frame": leaves_in_the_middle,
    "leave in the middle of a stage": leaves,
    "leave instead of loading": does_not_load,
}
"""Each ends the job, as a process that failed."""
SILENT: Final[dict[str, Act]] = {
    "never come to an end": never_answers,
    "never load": never_loads,
    "take no answer": takes_no_answer,
}
"""Each ends the job when its time is over."""
OTHERS: Final[dict[str, Act]] = {
    "answer twice": answers_twice,
    "call again and again without waiting": calls_without_waiting,
    "flood the log": floods_the_log,
    "forge events in a log": forges_events,
    "log what is no text": odd_log,
    "tell an error of 17 MiB": long_error,
    "tell an error that claims a loss": error_that_claims_a_loss,
    "be another pipeline, which may have more": another_pipeline,
    "name paths outside of the workspace": paths_outside,
    "ask for secrets that it was not given": secrets_of_others,
    "ask for what is other jobs'": jobs_of_others,
    "give a table a list for a key": list_for_a_key,
    "make calls that there are not": calls_that_there_are_not,
    "make calls with arguments of all shapes": arguments_of_all_shapes,
    "call as plugins that there are not": plugins_that_there_are_not,
}
ACTS: Final[dict[str, Act]] = BREACHES | ENDS | SILENT | OTHERS
