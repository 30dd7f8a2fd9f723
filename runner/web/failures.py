"""What aiohttp and the system say of a request that went wrong, in words."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import aiohttp

from runner.web.errors import RequestFailed, RequestTimeout

CONNECT_SECONDS: Final = 15.0


@contextmanager
def told(call: str, place: str) -> Generator[None]:
    """Tell what goes wrong within the block.

    :param place: what is asked, as messages name it.
    :raises RequestFailed: for whatever the network does.
    """
    try:
        yield
    except TimeoutError as error:
        raise RequestTimeout(
            f"{call}: {place} cannot be reached: no connection within {CONNECT_SECONDS:g} s"
        ) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise RequestFailed(f"{call}: {place} {_reason(error)}", hint=_hint(error)) from error


def _reason(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"has a certificate that is not trusted: {error.certificate_error}"
        case aiohttp.ClientConnectorSSLError():
            return f"cannot be spoken to over TLS: {error}"
        case aiohttp.ClientConnectorDNSError():
            return "cannot be reached: there is no such host"
        case aiohttp.ClientConnectorError():
            return f"cannot be reached: {_words(error.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "broke off in the middle of its answer"
        case aiohttp.ClientResponseError():
            return f"gave an answer that is no HTTP: {error.message}"
        case OSError():
            return f"broke off: {_words(error)}"
        case _:
            return f"cannot be asked: {error}"


def _words(error: OSError) -> str:
    # The event loop puts the address before the system's words.
    words = os.strerror(error.errno) if error.errno else error.strerror or str(error)
    return words[:1].lower() + words[1:]


def _hint(error: BaseException) -> str | None:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return '`verify = "ca.pem"` names a certificate of the workspace to trust.'
    return None
