"""What it costs that nothing secret is in a log: bytes through the redaction alone, and a command's output with it.

    scan   a block of log lines, again and again ── Stream ── thrown away
    log    command ── pipe ── runner ── [Stream] ── HTTP ── orchestrator ── Postgres, with and without the redaction

Both with 100 secrets and all kinds of credentials that are looked for by default, of which the lines hold none, as
nearly all lines do. For the log there are two installations, one of which looks for nothing; they take turns.
"""

from __future__ import annotations

import base64
import logging
import random
import statistics
import time
from datetime import datetime
from typing import Final

import anyio
import msgspec

from bench import installation
from bench.installation import Installation
from bench.logs import BLOCK_BYTES, MAKE_BLOCK, WRITE, run_job
from bench.report import Report, report
from runner.redaction.credentials import KINDS
from runner.redaction.redactor import Redaction
from schema.client import Client
from schema.secrets import Grant, GrantCreate, Secret, SecretSet
from schema.wire import PipelinePush, PipelineVersion

log: Final = logging.getLogger(__name__)

NAME: Final = "bench-redact"
SECRETS: Final = 100
KEY_EVERY: Final = 20
"""One secret of so many is a key of several lines."""
CHUNK_BYTES: Final = 256 * 1024
"""As much as is read from a command's pipe at once."""
LINES_BYTES: Final = 4 * 1024 * 1024
CAPACITY: Final = 1
LOOKS_FOR_NOTHING: Final = f"[redact]\noff = {[kind.name for kind in KINDS if kind.is_on]}\n".replace("'", '"')

SOURCE: Final = f"""
local function sh(script, count, stdout)
  process.run({{ command = "/bin/sh", args = {{ "-c", script, "sh", count }}, stdout = stdout, capture = false }})
end

return {{
  name = "{NAME}",
  inputs = {{ blocks = {{ type = "integer" }}, secrets = {{ type = "integer" }} }},
  stages = {{
    {{ name = "make", script = function(job)
      for number = 1, job.inputs.secrets do secret.get("SECRET_" .. number) end
      sh("{MAKE_BLOCK}", 0, "off")
    end }},
    {{ name = "write", script = function(job) sh("{WRITE}", job.inputs.blocks, "info") end }},
  }},
}}
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    scan_bytes: int
    """A round."""
    blocks: int
    """A round: a job's log with a megabyte each, below its limit."""


FULL: Final = Plan(rounds=7, scan_bytes=2 * 1024**3, blocks=100)
QUICK: Final = Plan(rounds=3, scan_bytes=256 * 1024**2, blocks=25)


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    return measured(QUICK if quick else FULL, quick=quick)


def measured(plan: Plan, *, quick: bool) -> Report:
    """Measure as a plan says."""
    with installation.running(CAPACITY) as guarded, installation.running(CAPACITY, more=LOOKS_FOR_NOTHING) as plain:
        measurement = anyio.run(_measure, plan, guarded, plain, backend_options={"use_uvloop": True})
    return report(
        "redact",
        {
            "mb_per_s_100_secrets": statistics.median(measurement.scans),
            "mb_per_s_no_secret": statistics.median(measurement.plain_scans),
            "ratio_log_throughput": statistics.median(measurement.ratios),
        },
        quick=quick,
        how=(
            f"{plan.rounds} rounds, each: {plan.scan_bytes / 1e6:.0f} MB of log lines in chunks of "
            f"{CHUNK_BYTES // 1024} KiB by the redaction alone, with {SECRETS} secrets and with none; and a job on "
            f"each of two installations, whose command writes {plan.blocks} MB: on one it got {SECRETS} secrets, the "
            "other looks for nothing"
        ),
        notes={
            "mb_per_s_100_secrets": "of one core's time, with the credentials that are looked for by default",
            "mb_per_s_no_secret": "the same with those alone, as in a job that gets no secret",
            "ratio_log_throughput": "until all is stored, with 100 secrets over without any redaction: the median",
        },
    )


class _Measurement:
    def __init__(self) -> None:
        self.scans: list[float] = []
        self.plain_scans: list[float] = []
        self.ratios: list[float] = []


async def _measure(plan: Plan, guarded: Installation, plain: Installation) -> _Measurement:
    chance = random.Random(7)  # noqa: S311  # the same lines each time
    secrets = {f"SECRET_{number}": _secret(chance, number) for number in range(1, SECRETS + 1)}
    redaction = Redaction()
    for name, value in secrets.items():
        await redaction.add(name, value)
    lines = _lines(chance)
    made = _Measurement()
    async with (
        Client.open(guarded.addresses, guarded.token) as with_it,
        Client.open(plain.addresses, plain.token) as without,
    ):
        for client in (with_it, without):
            await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename=f"{NAME}.lua", source=SOURCE))
        for name, value in secrets.items():
            await with_it.post("/v1/secrets", Secret, SecretSet(secret=name, value=value))
            await with_it.post("/v1/grants", Grant, GrantCreate(secret=name, pipeline=NAME))
        await _written(with_it, 1, SECRETS)  # fills caches, for both
        await _written(without, 1, 0)
        for number in range(1, plan.rounds + 1):
            log.info("round %d of %d", number, plan.rounds)
            made.scans.append(_scan(redaction, lines, plan.scan_bytes))
            made.plain_scans.append(_scan(Redaction(), lines, plan.scan_bytes))
            made.ratios.append(await _written(with_it, plan.blocks, SECRETS) / await _written(without, plan.blocks, 0))
    return made


def _secret(chance: random.Random, number: int) -> bytes:
    """Make a secret of a usual kind: a token, or a key of several lines."""
    if number % KEY_EVERY == 0:
        return b"\n".join([b"-----BEGIN KEY-----", *(base64.b64encode(chance.randbytes(48)) for _ in range(25))])
    return base64.b64encode(chance.randbytes(chance.randrange(15, 48)))


def _lines(chance: random.Random) -> bytes:
    """Make log lines as builds write them: words, paths, times, hashes."""
    words = ["Compiling", "info", "warning:", "unused", "variable", "src/main.rs:17", "Downloaded", "in", "0.41s", "ok"]
    words += [
        "https://example.org/a/b?c=d",
        '{"level":"info",',
        '"msg":"done"}',
        "GET",
        "/v1/jobs",
        "200",
        "test",
        "...",
    ]
    made = bytearray()
    while len(made) < LINES_BYTES:
        line = " ".join(chance.choices(words, k=chance.randrange(3, 14)))
        if chance.random() < 0.2:
            line += f" {chance.getrandbits(256):064x}"
        if chance.random() < 0.1:
            line += " " + base64.b64encode(chance.randbytes(60)).decode()
        made += f"2026-11-27T09:00:00.123Z {line}\n".encode()
    return bytes(made)


def _scan(redaction: Redaction, lines: bytes, size: int) -> float:
    """Put bytes through; give megabytes per second of processor time: how busy the machine is does not matter."""
    stream = redaction.stream()
    chunks = [lines[start : start + CHUNK_BYTES] for start in range(0, len(lines), CHUNK_BYTES)]
    written = told = 0
    started = time.process_time()
    while written < size:
        for chunk in chunks:
            told += len(stream.feed(chunk))
        written += len(lines)
    seconds = time.process_time() - started
    told += len(stream.finish())
    assert told == written, "there is nothing to take out"
    return written / 1e6 / seconds


async def _written(client: Client, blocks: int, secrets: int) -> float:
    """Run a job that writes; give the megabytes per second until they are stored."""
    job = await run_job(client, NAME, {"blocks": blocks, "secrets": secrets})
    [started_at] = [stage.started_at for stage in job.stages or [] if stage.name == "write"]
    assert started_at is not None, "it ran"
    assert job.finished_at is not None, "it has ended"
    seconds = (datetime.fromisoformat(job.finished_at) - datetime.fromisoformat(started_at)).total_seconds()
    return blocks * BLOCK_BYTES / 1e6 / seconds
