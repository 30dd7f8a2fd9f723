"""A real SMTP server on all addresses of this machine, where containers reach it."""

from __future__ import annotations

import email
import email.policy
import ssl
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

HOST = "host.containers.internal"
USER = "ci"
PASSWORD = "Zw7-mail-password-41"


class Mailbox:
    """What came in, and where the server is."""

    def __init__(self) -> None:
        self.port = 0
        self.taken: list[tuple[list[str], EmailMessage]] = []
        """Recipients of the envelope, and the message."""
        self.logins: list[bytes] = []

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name and arguments
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 there is no nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content.replace(b"\r\n", b"\n"), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.taken.append(([str(address) for address in envelope.rcpt_tos], message))
        return "250 taken"

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        is_right = data == LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=is_right, handled=False)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate of the host's name; give their files."""
    key, made = folder / "smtp-key.pem", folder / "smtp-certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(made), "-days", "2", "-subj", f"/CN={HOST}"),
            *("-addext", f"subjectAltName=DNS:{HOST}"),
        ],
        check=True,
        capture_output=True,
    )
    return key, made


@contextmanager
def smtp_server(folder: Path, port: int, *, tls: str) -> Generator[Mailbox]:
    """Serve for the span of a block.

    :param tls: ``starttls``, where nothing goes without it and without a login, or ``implicit``, or ``none``.
    """
    mailbox = Mailbox()
    mailbox.port = port
    context = None
    if tls != "none":
        key, made = certificate(folder)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(made, key)
    more: dict[str, Any] = {}
    if tls == "starttls":
        more = {
            "tls_context": context,
            "require_starttls": True,
            "authenticator": mailbox.authenticate,
            "auth_required": True,
        }
    controller = Controller(
        mailbox,
        hostname="0.0.0.0",  # noqa: S104  # containers reach it there
        port=port,
        ssl_context=context if tls == "implicit" else None,
        **more,
    )
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()
