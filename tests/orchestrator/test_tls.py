"""A replica that speaks TLS, and clients that look whom they speak to."""

from __future__ import annotations

import os
import signal
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import msgspec
import pytest
from anyio.streams.text import TextReceiveStream
from cryptography import x509

from orchestrator import exposure, server
from orchestrator.addresses import network
from orchestrator.certificates import Certificate, CertificateUnusable
from orchestrator.settings import EdgeSettings
from schema.client import AddressInvalid, Client, OrchestratorUnreachable
from schema.wire import Health
from tests.certificates import Authority
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation
from tests.orchestrator.raw_http import connected

HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"


class Files(msgspec.Struct, frozen=True):
    authority: Authority
    certificate: Path
    key: Path

    @property
    def edge(self) -> EdgeSettings:
        return EdgeSettings(tls_certificate=self.certificate, tls_key=self.key)

    def renew(self) -> int:
        """Write a new certificate in place of the one there; give its serial number."""
        return self.authority.certify(self.certificate, self.key)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(Authority(tmp_path), tmp_path / "certificate.pem", tmp_path / "key.pem")
    made.renew()
    return made


def trusting(files: Files, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.authority.path)
    if newest is not None:
        context.maximum_version = newest
    return context


async def serial_number(address: str, files: Files, newest: ssl.TLSVersion | None = None) -> int:
    async with connected(address, trusting(files, newest)) as connection:
        shown: ssl.SSLObject = connection.writer.get_extra_info("ssl_object")
        certificate = shown.getpeercert(binary_form=True)
        assert certificate is not None
        connection.send(HEALTH)
        answered = await connection.answer()
        assert answered.status == 200
        assert answered.headers["strict-transport-security"] == ["max-age=31536000"]
    return x509.load_der_x509_certificate(certificate).serial_number


async def test_a_client_that_knows_the_authority_speaks_to_a_replica_by_tls(installation: Installation, files: Files):
    replica = await installation.replica(edge=files.edge)
    assert replica.address.startswith("https://127.0.0.1:")
    async with Client.open([replica.address], None, tls_ca=files.authority.path) as client:
        assert (await client.get("/v1/health", Health)).status == "ok"


async def test_a_client_that_does_not_know_the_authority_says_so_and_sends_nothing(
    installation: Installation, files: Files, tmp_path: Path
):
    replica = await installation.replica(edge=files.edge)
    other = Authority(tmp_path, "somebody else")
    for known in (None, other.path):
        async with Client.open([replica.address], "a secret", tls_ca=known) as client:
            with pytest.raises(OrchestratorUnreachable) as raised:
                await client.get("/v1/health", Health)
        assert "its certificate was not accepted" in raised.value.message
        assert raised.value.hint is not None
        assert "tls_ca" in raised.value.hint


async def test_an_authority_that_is_none_is_refused(tmp_path: Path):
    for path in (tmp_path / "nothing.pem", Path(__file__)):
        with pytest.raises(AddressInvalid) as raised:
            async with Client.open(["https://127.0.0.1:1"], None, tls_ca=path):
                pass
        assert str(path) in raised.value.message


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_modern_tls_is_spoken(installation: Installation, files: Files, version: ssl.TLSVersion):
    replica = await installation.replica(edge=files.edge)
    await serial_number(replica.address, files, version)


async def test_old_ciphers_are_not_spoken(installation: Installation, files: Files):
    replica = await installation.replica(edge=files.edge)
    context = trusting(files, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with connected(replica.address, context):
            pass


async def test_plain_http_to_a_replica_with_tls_is_not_answered(installation: Installation, files: Files):
    replica = await installation.replica(edge=files.edge)
    async with connected(replica.address) as connection:
        connection.send(HEALTH)
        assert b"HTTP/1.1 200" not in await connection.rest()


async def test_who_begins_no_handshake_is_given_up(
    installation: Installation, files: Files, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.5)
    replica = await installation.replica(edge=files.edge)
    async with connected(replica.address) as connection:
        assert await connection.rest() == b""


async def test_a_new_certificate_is_shown_after_a_signal_and_open_connections_go_on(
    installation: Installation, files: Files
):
    before = files.renew()
    async with process(installation.url, files) as (replica, address):
        assert await serial_number(address, files) == before
        async with connected(address, trusting(files)) as held:
            held.send(HEALTH)
            assert (await held.answer()).status == 200
            after = files.renew()
            replica.send_signal(signal.SIGHUP)
            with anyio.fail_after(DEADLINE_SECONDS):
                # The signal is on its way; each of these is a whole connection.
                while await serial_number(address, files) != after:
                    pass
            held.send(HEALTH)
            assert (await held.answer()).status == 200


async def test_changed_files_are_taken_once_and_unusable_ones_change_nothing(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    certificate = Certificate(files.certificate, files.key)
    assert not certificate.renew()
    files.renew()
    assert certificate.renew()
    assert not certificate.renew()
    files.key.write_text("nonsense", encoding="ascii")
    assert not certificate.renew()
    assert not certificate.renew()
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "the certificate of before stays in use" in told
    files.certificate.unlink()
    assert not certificate.renew()
    files.renew()
    assert certificate.renew()


async def test_files_that_cannot_be_used_are_told_with_the_reason(files: Files, tmp_path: Path):
    other_certificate, other_key, locked = tmp_path / "other.pem", tmp_path / "other.key", tmp_path / "locked.key"
    files.authority.certify(other_certificate, other_key)
    files.authority.certify(tmp_path / "of-locked.pem", locked, password=b"hush")
    for key, why in {
        other_key: "the key is not that of the certificate",
        locked: "they are no PEM files, or the key has a password",
        tmp_path / "nothing": "no such file or directory",
    }.items():
        certificate = tmp_path / "of-locked.pem" if key == locked else files.certificate
        with pytest.raises(CertificateUnusable) as raised:
            Certificate(certificate, key)
        assert why in raised.value.message
        assert str(key) in raised.value.message


@pytest.mark.parametrize(
    ("listens_at", "edge", "is_weak"),
    [
        ("0.0.0.0", EdgeSettings(), True),  # noqa: S104  # nobody listens there
        ("::", EdgeSettings(), True),
        ("192.0.2.7", EdgeSettings(), True),
        ("127.0.0.1", EdgeSettings(), False),
        ("127.1.2.3", EdgeSettings(), False),
        ("::1", EdgeSettings(), False),
        ("192.0.2.7", EdgeSettings(trusted_proxies=(network("192.0.2.1"),)), False),
        ("192.0.2.7", EdgeSettings(tls_certificate=Path("certificate.pem")), False),
    ],
)
def test_listening_to_others_without_tls_is_weak(listens_at: str, edge: EdgeSettings, *, is_weak: bool):
    found = exposure.examine(listens_at, edge)
    assert (found is not None) == is_weak
    if found is not None:
        assert listens_at in found.text
        assert "tls_certificate" in found.hint


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104  # that is what it warns of
async def test_a_replica_warns_when_it_listens_to_others_without_tls(
    installation: Installation, host: str, caplog: pytest.LogCaptureFixture
):
    await installation.replica(host=host)
    told = [record.getMessage() for record in caplog.records if "without TLS" in record.getMessage()]
    assert bool(told) == (host == "0.0.0.0")  # noqa: S104  # as above


PROGRAM = """
import sys, anyio
from pathlib import Path
from orchestrator import serve
from orchestrator.settings import EdgeSettings, OrchestratorSettings
edge = EdgeSettings(tls_certificate=Path(sys.argv[2]), tls_key=Path(sys.argv[3]))
settings = OrchestratorSettings(database_url=sys.argv[1], port=0, edge=edge)
started = lambda address: print(address, flush=True)
anyio.run(lambda: serve.serve(settings, started=started), backend_options={"use_uvloop": True})
"""


@asynccontextmanager
async def process(url: str, files: Files) -> AsyncGenerator[tuple[anyio.abc.Process, str]]:
    """Run a replica as a process of its own; give it and its address."""
    argv = [sys.executable, "-c", PROGRAM, url, str(files.certificate), str(files.key)]
    async with await anyio.open_process(argv, stderr=None, env=os.environ) as started:
        assert started.stdout is not None
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                address = (await anext(TextReceiveStream(started.stdout))).strip()
            assert address.startswith("https://"), address
            yield started, address
        finally:
            if started.returncode is None:
                started.kill()
