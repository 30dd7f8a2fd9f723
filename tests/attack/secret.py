"""Getting at secrets: as a runner or an attempt that is not to have them, and by ways around the redaction of a log."""

from __future__ import annotations

import json
from uuid import uuid4

from schema.definition import PipelineDefinition, StageDefinition
from tests.attack.attempts import Attempt, judged, through
from tests.attack.jobs import PYTHON, Runner
from tests.orchestrator.installation import Attempt as HeldAttempt
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.test_secrets import PIPELINE, Held, begin, grant, store

VALUE = "v8Kq/3+Zt=9 \"x'<&>\\Pw2"
LINES = "-----BEGIN A KEY-----\nq8fJ2kkd92ks2kd8fq8fJ2kkd92ks2kd8f\nzz9fJ2kkd92ks2kd8fq8fJ2k\n-----END A KEY-----"
HEX = "".join(f"{byte:02x}" for byte in VALUE.encode())


async def attempts(url: str, runner: Runner) -> list[Attempt]:
    """Try all."""
    async with opened(url) as installation:
        return [*await _deliveries(installation), *await _logs(runner)]


async def _deliveries(installation: Installation) -> list[Attempt]:
    held = await begin(installation)
    other = await begin(installation, PipelineDefinition(name="other", stages=[StageDefinition(name="greet")]))
    for name in ("TOKEN", "STAGED", "BRANCHED", "BOUND"):
        await store(installation, name)
    await installation.runner("deployer")
    await grant(installation, "TOKEN")
    await grant(installation, "STAGED", stages=["deploy"])
    await grant(installation, "BRANCHED", inputs={"ref": ["release/*"]})
    await grant(installation, "BOUND", runners=["deployer"])
    for name, readable in (("THEIRS", True), ("HIDDEN", False)):
        await store(installation, name, readable=readable)
    await grant(installation, "THEIRS", "other")
    await grant(installation, "HIDDEN")
    assert await held.code() == "delivered", "what is granted is delivered"
    assert await other.code("THEIRS") == "delivered"
    stranger = Held(await installation.runner("stranger"), held.attempt)
    tried = {
        "that is another pipeline's": await held.code("THEIRS"),
        "that there is not": await held.code("NONE"),
        "granted for another stage": await held.code("STAGED"),
        "granted for another stage, named by a pattern": await held.code("STAGED", stage="deploy*"),
        "granted for another branch": await held.code("BRANCHED"),
        "granted for another runner": await held.code("BOUND"),
        "for environments alone, in Lua": await held.code("HIDDEN", use="lua"),
        "by a name with a pipeline before it": await held.code("other/THEIRS"),
        "by a name that is a pattern": await held.code("TOK%"),
        "by a name with SQL in it": await held.code("x' OR '1'='1"),
        "for an attempt that another runner holds": await stranger.code(),
    }
    newer = await begin(installation, PipelineDefinition(name="hello", stages=PIPELINE.stages[:1]))
    tried["for a version that nobody confirmed"] = await newer.code()
    for name, job, attempt in (
        ("for a job that there is not", str(uuid4()), 1),
        ("for an attempt to come", held.attempt.assignment.job, 2),
        ("for another's job", other.attempt.assignment.job, 1),
    ):
        forged = Held(stranger.runner, held.attempt)
        forged.path = f"/v1/runner/jobs/{job}/{attempt}/secrets"
        tried[name] = await forged.code()
    await installation.let_leases_run_out()
    [assignment, *_] = await held.runner.claim(slots=1)
    fresh = Held(held.runner, HeldAttempt(assignment))
    tried["for an attempt whose lease ran out"] = await held.code()
    await fresh.runner.send(fresh.attempt, fresh.attempt.state("running"), fresh.attempt.state("succeeded"))
    tried["for an attempt that has ended"] = await fresh.code()
    return [
        judged(f"ask for a secret {name}", code if code == "delivered" else None, code) for name, code in tried.items()
    ]


EVASIONS = {
    "echo it": 'printf "%s\\n" "$S"',
    "echo it to stderr": 'printf "%s\\n" "$S" >&2',
    "write it in two pieces": 'printf %s "$S" | head -c 9; sleep 0.3; printf %s "$S" | tail -c +10; echo',
    "write it byte by byte": "python3 -u -c 'import os,sys\nfor c in os.environ[\"S\"]: sys.stdout.write(c)'; echo",
    "write it in the middle of a long line": "head -c 70000 /dev/zero | tr '\\0' x; printf %s \"$S\"; echo y",
    "write it without a line's end": 'printf %s "$S"',
    "encode it as base64": 'printf %s "$S" | base64',
    "encode it as base64, one byte on": 'printf "x%s" "$S" | base64',
    "encode it as base64, two bytes on": 'printf "xy%s" "$S" | base64',
    "encode it as base64 of URLs": "python3 -c 'import os, base64\n"
    'print(base64.urlsafe_b64encode(os.environ["S"].encode()).decode())\'',
    "encode it as hexadecimal": "printf %s \"$S\" | od -An -tx1 -v | tr -d ' \\n'; echo",
    "encode it for URLs": 'python3 -c \'import os,urllib.parse; print(urllib.parse.quote(os.environ["S"], safe=""))\'',
    "encode it as JSON": "python3 -c 'import os,json; print(json.dumps(os.environ[\"S\"]))'",
    "encode it as HTML": "python3 -c 'import os,html; print(html.escape(os.environ[\"S\"]))'",
    "quote it for a shell": "python3 -c 'import os,shlex; print(shlex.quote(os.environ[\"S\"]))'",
    "trace the shell": 'set -x; : "$S"',
    "print the environment": "env",
    "show one line of a key": 'printf "%s\\n" "$K" | sed -n 2p',
    "indent a key": 'printf "%s\\n" "$K" | sed "s/^/    /"',
    "encode a key": 'printf "%s\\n" "$K" | base64',
}
"""What redaction promises to find; a program that wants to tell a secret in a cipher of its own always can."""
IN_LUA = """
  local token, key = secret.get("TOKEN"), secret.get("KEY")
  local value = token:reveal()
  log.info(value) log.info(value:sub(1, 9) .. value:sub(10)) print("x" .. value .. "y")
  log.info("a field", { field = value }) log.group("g " .. value, function() log.warn("in it") end)
  log.info(json.encode({ value })) log.info(base64.encode(value)) log.info(key:reveal())
  pcall(process.run, { command = "echo", args = { value } })
  pcall(process.run, { command = value }) pcall(fs.read, value) pcall(http.get, "http://127.0.0.1:1/" .. value)
  pcall(container.run, "registry.example.org/" .. value, function() end)
  fs.write("kept", "x") pcall(artifact.save, "kept", { name = "kept " .. base64.encode(value):sub(1, 20) })
  job.output("it", value)
  error("failed with " .. value .. " and " .. json.encode(value))
"""


async def _logs(runner: Runner) -> list[Attempt]:
    commands = "\n".join(
        f"process.run({{ command = 'sh', args = {{ '-c', {_lua(script)} }}, check = false, "
        'secrets = { S = "TOKEN", K = "KEY" } })'
        for script in EVASIONS.values()
    )
    source = (
        f'return {{ name = "leaks", stages = {{ {{ name = "s", container = "{PYTHON}", script = function(job)\n'
        f"{commands}\n{IN_LUA}\nend }} }} }}"
    )
    job = await runner.run(source, secrets={"TOKEN": VALUE.encode(), "KEY": LINES.encode()})
    if job.final.state != "failed" or not any("failed with" in error.message for error in job.errors):
        return [through("tell a secret in a log", f"not all was tried: {job.outcome}")]
    # What stands there as it is, however it is written; in base64 and hexadecimal also in part.
    forms = _forms(VALUE) | _forms(LINES.splitlines()[1]) | _forms(LINES.splitlines()[2])
    told = job.raw.decode()
    # A JSON text in a JSON line is escaped once more.
    plain = told + json.dumps(told) + told.replace("\\\\", "\\").replace('\\"', '"')
    found = [form for form in forms if form in plain]
    shown = told.count("[secret TOKEN]") + told.count("[secret KEY]")
    names = [f"tell a secret in a log: {name}" for name in EVASIONS]
    names += ["tell a secret in a log, from Lua", "tell a secret in an error, an output, a name or a command line"]
    got = f"{found}" if found else None
    return [judged(name, got, f"[secret NAME] stands in {shown} places, and no form of a value") for name in names]


def _forms(value: str) -> set[str]:
    import base64
    import html
    import urllib.parse

    forms = {
        value,
        json.dumps(value)[1:-1],
        urllib.parse.quote(value, safe=""),
        html.escape(value),
        value.encode().hex(),
    }
    for before in ("", "x", "xy"):
        encoded = base64.b64encode((before + value).encode()).decode().rstrip("=")
        forms |= {encoded[4:-4], encoded[4:-4].translate(str.maketrans("+/", "-_"))}
    return forms


def _lua(text: str) -> str:
    return "[====[" + text + "]====]"
