"""``moonyard doctor`` on orchestrators: real sockets answer it, with the version, clock and certificate of the case."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.checkups import orchestrators
from schema import database
from schema.findings import Finding
from tests import certificates
from tests.cli.command import moonyard

VERSION = importlib.metadata.version("moonyard")
HEALTHY = {"status": "ok", "version": VERSION, "schema_version": database.head()}


@contextmanager
def answering(
    body: object = HEALTHY, *, status: int = 200, seconds_off: float = 0.0, tls: ssl.SSLContext | None = None
) -> Generator[str]:
    """Have something answer as an orchestrator would, by a clock that is so many seconds off; give its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def date_time_string(self, timestamp: float | None = None) -> str:
            now = dt.datetime.now(dt.UTC).timestamp() if timestamp is None else timestamp
            return super().date_time_string(now + seconds_off)  # pyright: ignore[reportArgumentType]  # it takes floats

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's own word
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"{'http' if tls is None else 'https'}://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()


async def look(address: str, tls_ca: Path | None = None) -> dict[str, Finding]:
    """Look at an orchestrator; give the findings by what each is of."""
    found = await orchestrators.examine(address, tls_ca)
    for finding in found:
        assert finding.part == "orchestrators"
        assert finding.state == "ok" or (finding.why and finding.hint), finding
    return {finding.check.partition(" ")[0]: finding for finding in found}


async def test_one_that_answers_is_fine() -> None:
    with answering() as address:
        found = await look(address)
    assert {finding.state for finding in found.values()} == {"ok"}
    assert set(found) == {"orchestrator", "way", "clock"}


async def test_one_that_is_not_there_is_broken(tmp_path: Path, unused_port: int) -> None:
    address = f"http://127.0.0.1:{unused_port}"
    done = await moonyard("doctor", "--json", "--only=orchestrators", "--orchestrator", address, cwd=tmp_path)
    assert done.code == 1
    assert done.lines[0]["check"] == f"orchestrator {address}"
    assert done.lines[0]["text"] == "it is not reached (connection refused)"


@pytest.mark.parametrize(
    ("body", "status", "state", "text"),
    [
        (HEALTHY | {"version": "0.0.1"}, 200, "weak", f"it is version 0.0.1, and this is {VERSION}"),
        (HEALTHY | {"schema_version": "0001"}, 200, "weak", "its database has schema version 0001"),
        (HEALTHY | {"status": "draining"}, 200, "weak", "it drains"),
        ({}, 503, "broken", "it answers, with status 503"),
        ({"hello": "world"}, 200, "broken", "what answers is no orchestrator"),
    ],
)
async def test_one_that_is_not_as_it_should_be(body: object, status: int, state: str, text: str) -> None:
    with answering(body, status=status) as address:
        found = await look(address)
    assert found["orchestrator"].state == state
    assert text in found["orchestrator"].text


@pytest.mark.parametrize(("seconds", "state"), [(-90.0, "weak"), (90.0, "weak"), (2.0, "ok")])
async def test_a_clock_that_is_off(seconds: float, state: str) -> None:
    with answering(seconds_off=seconds) as address:
        found = await look(address)
    assert found["clock"].state == state
    if state == "weak":
        apart = int(found["clock"].text.split()[2])
        assert abs(apart - 90) <= 5


async def test_plain_http_over_a_network_is_weak() -> None:
    with answering() as address:
        # It leads here, and by its looks it may lead anywhere.
        found = await look(f"http://0.0.0.0:{address.rpartition(':')[2]}")
    assert found["way"].state == "weak"
    assert found["way"].text == "plain HTTP, over a network"
    assert "tls_certificate" in str(found["way"].hint)


def certified(authority: certificates.Authority, folder: Path) -> ssl.SSLContext:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    authority.certify(certificate, key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls


@pytest.mark.parametrize(
    ("days", "state", "text"), [(90, "ok", "TLS, by a certificate that"), (3, "weak", "that runs out in 3 days")]
)
async def test_a_certificate_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, state: str, text: str
) -> None:
    monkeypatch.setattr(certificates, "VALIDITY", dt.timedelta(days=days))
    authority = certificates.Authority(tmp_path)
    with answering(tls=certified(authority, tmp_path)) as address:
        found = await look(address, authority.path)
    assert found["orchestrator"].state == "ok"
    assert found["way"].state == state
    assert text in found["way"].text


async def test_a_certificate_that_nobody_here_trusts_is_broken(tmp_path: Path) -> None:
    tls = certified(certificates.Authority(tmp_path), tmp_path)
    other = certificates.Authority(tmp_path, "somebody else")
    with answering(tls=tls) as address:
        found = await look(address, other.path)
    assert list(found) == ["orchestrator"]
    assert found["orchestrator"].state == "broken"
    assert "its certificate is not one that this machine trusts" in found["orchestrator"].text


async def test_an_orchestrator_that_is_named_is_looked_at(tmp_path: Path) -> None:
    with answering() as address:
        done = await moonyard("doctor", "--json", "--only=orchestrators", "--orchestrator", address, cwd=tmp_path)
    assert done.code == 0, done.stdout + done.stderr
    assert [line["state"] for line in done.lines] == ["ok", "ok", "ok"]
