"""``python -m tests.attack --json``: tries every attack, and says of each class what was tried and what was stopped.

Exit code 1 says that something got through. What cannot be tried on this machine is told with the reason, and counts as
neither.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import msgspec

from tests import postgres
from tests.attack import access, attempts, containers, frames, lua, native, secret, workspace
from tests.attack.attempts import Attempt, ClassFound, Found
from tests.attack.jobs import Runner, runner
from tests.postgres import Cluster

Trying = Callable[[str, Runner], Awaitable[list[Attempt]]]
"""Gets the URL of a database of its own."""
CLASSES: Final[dict[str, Trying]] = {
    "lua": lambda _, here: lua.attempts(here),
    "native": lambda _, __: native.attempts(),
    "frames": lambda _, here: frames.attempts(here),
    "container": lambda _, here: containers.attempts(here),
    "workspace": lambda _, here: workspace.attempts(here),
    "secret": secret.attempts,
    "access": lambda url, _: access.attempts(url),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument(
        "--class", dest="only", action="append", choices=list(CLASSES), help="only this one; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--verbose", action="store_true", help="tell of each attempt on stderr")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.CRITICAL, stream=sys.stderr)
    names: list[str] = options.only or list(CLASSES)
    with postgres.cluster() as cluster:
        made, found = anyio.run(_try, cluster, names)
    if options.verbose:
        for name, attempt in ((name, attempt) for name, tried in made.items() for attempt in tried):
            sys.stderr.write(f"{attempt.result:<12} {name}: {attempt.name}: {attempt.how}\n")
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n" if options.json else _table(found))
    return 1 if found.got_through else 0


async def _try(cluster: Cluster, names: Sequence[str]) -> tuple[dict[str, list[Attempt]], Found]:
    """Try classes of attacks, all at the same time: each is one more neighbour for the others."""
    started = time.monotonic()
    made: dict[str, list[Attempt]] = {}
    found: dict[str, ClassFound] = {}

    async def go(name: str, url: str, here: Runner) -> None:
        begun = time.monotonic()
        made[name] = await CLASSES[name](url, here)
        found[name] = attempts.of_class(made[name], time.monotonic() - begun)

    async with runner() as here, anyio.create_task_group() as tasks:
        for name in names:
            # Those that speak for runners have a queue each: what one begins, the other is not to claim.
            tasks.start_soon(go, name, cluster.create_migrated(), here)
    classes = {name: found[name] for name in names}
    return made, attempts.in_all(classes, time.monotonic() - started)


def _table(found: Found) -> str:
    lines = [f"{'class':<12}{'tried':>6}{'stopped':>9}{'not tried':>11}{'got through':>13}{'seconds':>9}"]
    for name, one in found.classes.items():
        not_tried, got_through = len(one.not_tried), len(one.got_through)
        lines.append(f"{name:<12}{one.tried:>6}{one.stopped:>9}{not_tried:>11}{got_through:>13}{one.seconds:>9}")
    lines += [
        f"{name}: not tried: {what}: {why}"
        for name, one in found.classes.items()
        for what, why in one.not_tried.items()
    ]
    lines += [f"GOT THROUGH: {got}" for got in found.got_through]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
