"""Looks for tokens where none has any business: in the database's dump and in logs, plain and in usual encodings."""

from __future__ import annotations

import base64
import os
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

from schema.database import libpq_environment
from tests.postgres import program

DUMP_SECONDS = 120.0


def places(url: str, logs: Mapping[str, Path], secrets: Mapping[str, str]) -> Iterator[str]:
    """Say where secrets stand.

    :param secrets: by what they are called.
    """
    dumped = subprocess.run(
        [program("pg_dump"), "--schema=moonyard"],
        env={**os.environ, **libpq_environment(url)},
        check=True,
        capture_output=True,
        timeout=DUMP_SECONDS,
    ).stdout
    for place, text in {"the database": dumped, **{name: path.read_bytes() for name, path in logs.items()}}.items():
        for name, value in secrets.items():
            for encoding, form in _forms(value.encode()):
                if form in text:
                    yield f"{name} stands in {place}, {encoding}"


def _forms(value: bytes) -> Iterator[tuple[str, bytes]]:
    yield "plain", value
    yield "in hexadecimal", value.hex().encode()
    quoted = urllib.parse.quote(value, safe="").encode()
    if quoted != value:
        yield "quoted for an address", quoted
    for before in range(3):
        # Of a longer text's base64, the middle is the same for each of three positions.
        encoded = base64.b64encode(b"x" * before + value)
        yield "in base64", encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4]
