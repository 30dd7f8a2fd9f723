"""``python -m bench NAME [--quick] [--json]``: measures, and prints one table, or exactly one JSON object."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from typing import Final

from bench.report import Report, table

BENCHMARKS: Final = {
    "process": "commands in containers, beside podman's own command line",
    "crowd": "many jobs at once on one runner, each with its own container, and what is left of them",
    "pipeline": "jobs from submit to done through a whole installation, beside gitlab-ci-local and Buildbot",
    "queue": "claims and completions through a replica's own code, beside pgqueuer and procrastinate",
    "submit": "submits over HTTP, one a request and many a request",
    "idle": "runners that wait at one replica: what they cost, and how one is woken",
    "logs": "a command's output through an installation into Postgres, beside the engine's own stream",
    "modules": "calls of modules' functions, and files and archives beside Python's own",
    "redact": "taking secrets and credentials out of bytes, and what a command's output costs with it and without",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures Moonyard on this machine; bench/README.md says what each figure does and does not show.",
        epilog="benchmarks:\n" + "\n".join(f"  {name:<10} {what}" for name, what in BENCHMARKS.items()),
    )
    parser.add_argument("name", choices=list(BENCHMARKS), metavar="NAME", help="which benchmark")
    parser.add_argument("--quick", action="store_true", help="few rounds and few peers")
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    arguments = parser.parse_args()
    logging.basicConfig(format="bench: %(message)s", stream=sys.stderr)
    logging.getLogger("bench").setLevel(logging.INFO)  # what is measured says its warnings alone
    report: Report = importlib.import_module(f"bench.{arguments.name}").measure(quick=arguments.quick)
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
