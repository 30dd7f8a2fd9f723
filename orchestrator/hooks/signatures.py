"""Whether a delivery is signed with a secret of its hook, in the way of its kind.

    github     X-Hub-Signature-256: sha256=<hex of HMAC-SHA256 of the body>
    gitea      X-Gitea-Signature, or X-Forgejo-Signature: <hex of the same>
    generic    webhook-signature: v1,<base64 of HMAC-SHA256 of `ID.TIMESTAMP.BODY`>, with webhook-id and
               webhook-timestamp: https://www.standardwebhooks.com
    gitlab     the same, of one that has a `signing token`; or X-Gitlab-Token: <the secret>

A secret is `whsec_` and the base64 of 32 random bytes, as Standard Webhooks has it. There the key is those bytes;
forges take the text as it is. So one text serves all of them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.problems import Refusal
from schema.hooks import HookKind

PREFIX: Final = "whsec_"
KEY_BYTES: Final = 32
SECONDS_MAXIMUM: Final = 300
"""How far a delivery's time may be from now, before or after."""
SIGNATURES_MAXIMUM: Final = 10
"""In one header: a sender that rotates its secret signs with two."""
_STANDARD_SIGNATURE: Final = "webhook-signature"
_STANDARD_ID: Final = "webhook-id"
_STANDARD_TIMESTAMP: Final = "webhook-timestamp"


class DeliveryExpired(Refusal):
    """A delivery that is rightly signed, at another time than now."""

    code = "hook_delivery_expired"
    status = 401


def new_secret() -> str:
    """Make a secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def wrong(kind: HookKind, known: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> str | None:
    """Say what is wrong with a delivery's signature, for those who may see the hook; None if it is right.

    :param known: the hook's secrets.
    :param headers: by their names in lower case.
    :param now: seconds since 1970.
    :raises DeliveryExpired: when the signature is right, and its time is not.
    """
    match kind:
        case "github":
            return _hexadecimal("X-Hub-Signature-256", "sha256=", known, headers, body)
        case "gitea":
            name = "X-Gitea-Signature" if "x-gitea-signature" in headers else "X-Forgejo-Signature"
            return _hexadecimal(name, "", known, headers, body)
        case "gitlab" if _STANDARD_SIGNATURE not in headers:
            return _token("X-Gitlab-Token", known, headers)
        case "gitlab" | "generic":
            return _standard(known, headers, body, now)


def signed(kind: HookKind, secret: str, body: bytes, *, delivery: str, event: str, now: float) -> dict[str, str]:
    """Give the headers, by their names in lower case, with which a delivery of a kind comes."""
    text = secret.encode()
    standard = {
        _STANDARD_ID: delivery,
        _STANDARD_TIMESTAMP: str(int(now)),
        _STANDARD_SIGNATURE: f"v1,{_standard_signature(secret, delivery, str(int(now)), body)}",
    }
    match kind:
        case "github":
            digest = f"sha256={_hex(text, body)}"
            return {"x-hub-signature-256": digest, "x-github-event": event, "x-github-delivery": delivery}
        case "gitea":
            return {"x-gitea-signature": _hex(text, body), "x-gitea-event": event, "x-gitea-delivery": delivery}
        case "gitlab":
            return standard | {"x-gitlab-event": event, "idempotency-key": delivery}
        case "generic":
            return standard


def signed_id(kind: HookKind, headers: Mapping[str, str]) -> str | None:
    """Give a delivery's id, where its signature covers it."""
    return headers.get(_STANDARD_ID) if kind in {"gitlab", "generic"} and _STANDARD_SIGNATURE in headers else None


def _hexadecimal(name: str, prefix: str, known: Sequence[str], headers: Mapping[str, str], body: bytes) -> str | None:
    given = headers.get(name.lower())
    if given is None:
        return f"no header {name}"
    if not any(_same(given, prefix + _hex(secret.encode(), body)) for secret in known):
        return f"header {name} is not that of this body under a secret of the hook"
    return None


def _token(name: str, known: Sequence[str], headers: Mapping[str, str]) -> str | None:
    given = headers.get(name.lower())
    if given is None:
        return f"neither a header webhook-signature nor {name}"
    return None if any(_same(given, secret) for secret in known) else f"header {name} is no secret of the hook"


def _standard(known: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> str | None:
    for name in (_STANDARD_ID, _STANDARD_TIMESTAMP, _STANDARD_SIGNATURE):
        if name not in headers:
            return f"no header {name}"
    delivery, timestamp = headers[_STANDARD_ID], headers[_STANDARD_TIMESTAMP]
    given = [entry[3:] for entry in headers[_STANDARD_SIGNATURE].split()[:SIGNATURES_MAXIMUM] if entry[:3] == "v1,"]
    expected = [_standard_signature(secret, delivery, timestamp, body) for secret in known]
    if not any(_same(one, right) for one in given for right in expected):
        return f"header {_STANDARD_SIGNATURE} is not that of this id, time and body under a secret of the hook"
    seconds = int(timestamp) if timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12 else None
    if seconds is None or abs(now - seconds) > SECONDS_MAXIMUM:
        told = "no time in seconds since 1970" if seconds is None else f"{now - seconds:.0f} s ago"
        raise DeliveryExpired(
            f"the delivery was signed at another time than now: webhook-timestamp is {told}, and may be "
            f"{SECONDS_MAXIMUM} s off",
            hint="Is the sender's clock right, and is each try signed anew?",
        )
    return None


def _standard_signature(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    message = f"{delivery}.{timestamp}.".encode("latin-1", errors="replace") + body
    return base64.b64encode(hmac.digest(_standard_key(secret), message, "sha256")).decode()


def _standard_key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise AssertionError("the secrets of hooks are made here") from error


def _hex(key: bytes, body: bytes) -> str:
    return hmac.digest(key, body, "sha256").hex()


def _same(given: str, right: str) -> bool:
    """Compare in a time that does not depend on how much is the same."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())
