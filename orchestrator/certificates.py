"""The certificate that a replica shows: that of the files as they are, also after they changed.

New files are used for connections that begin after; those that are open go on. Files that cannot be used change
nothing: the log says what is wrong with them, and the certificate of before stays.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final, cast

import anyio
import anyio.to_thread

from orchestrator.settings import EdgeSettings
from schema.errors import MoonyardError

log: Final = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: with forward secrecy and authenticated encryption. Those of TLS 1.3 all have both."""

State = tuple[tuple[int, int, int], ...]


class CertificateUnusable(MoonyardError):
    """Files of a certificate and its key that TLS cannot be spoken with."""

    code = "certificate_unusable"


def of(settings: EdgeSettings) -> Certificate | None:
    """Read the certificate that a replica is to show; None where it is to speak without TLS.

    :raises CertificateUnusable: when the files cannot be used.
    """
    return None if settings.tls_certificate is None else Certificate(settings.tls_certificate, settings.tls_key)


class Certificate:
    """The certificate of a replica."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """Read the files.

        :raises CertificateUnusable: when they cannot be used.
        """
        self._certificate = certificate
        self._key = key
        self._state = self._look()
        self._current = self._load()
        self.context = self._load()
        """What connections begin with; each goes on with what is current then."""
        self.context.sni_callback = self._choose

    def renew(self, *, always: bool = False) -> bool:
        """Take the files that are there, if they changed, and say whether they are used from now on."""
        try:
            state = self._look()
            if state == self._state and not always:
                return False
            self._state = state  # files that cannot be used are told of once
            self._current = self._load()
        except CertificateUnusable as error:
            log.error("%s; the certificate of before stays in use", error.message)
            return False
        log.info("the certificate in %s was read anew", self._certificate)
        return True

    async def renew_for_ever(self) -> None:
        """Look now and then whether the files changed."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            await anyio.to_thread.run_sync(self.renew)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _look(self) -> State:
        try:
            found = [path.stat() for path in (self._certificate, self._key) if path is not None]
        except OSError as error:
            raise self._unusable(error) from error
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        try:
            # With no password at all, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except OSError as error:  # ssl.SSLError is one
            raise self._unusable(error) from error
        return context

    def _unusable(self, error: OSError) -> CertificateUnusable:
        files = f"{self._certificate}" + ("" if self._key is None else f" with the key {self._key}")
        return CertificateUnusable(
            f"the certificate {files} cannot be used: {_why(error)}",
            hint="`tls_certificate` is a PEM file with the certificate first, then those between it and its root; "
            "`tls_key` one with its key, without a password.",
        )


def _why(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return (error.strerror or str(error)).lower()
    # OpenSSL has none for what it cannot read at all, which the stubs do not know.
    reason = cast("str | None", error.reason)
    if reason is None:
        return "they are no PEM files, or the key has a password"
    if reason in {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
        return "the key is not that of the certificate"
    return reason.replace("_", " ").lower()
