"""Logins by an identity provider: OpenID Connect's authorization code flow, with PKCE, state and nonce.

    browser ── /login/oidc ──> provider ── /login/oidc/callback?code&state ──> code for an ID token ──> account

Who somebody is there are issuer and subject, which never change; the first login binds them to the account that a claim
names, `email` by default, which the provider has to have verified. Whether it makes accounts that are not there yet is
a setting; one that is made holds no role. What is signed, joserfc verifies; the rest of the flow is a link and a form.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote_plus, urlencode
from uuid import UUID

import aiohttp
import anyio
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from orchestrator import accounts, logins
from orchestrator.database import Database
from orchestrator.problems import Forbidden, StoreUnavailable, Unauthenticated
from orchestrator.settings import OidcSettings
from orchestrator.sql import accounts as sql
from schema.accounts import Session
from schema.ids import uuid7

log: Final = logging.getLogger(__name__)

SECONDS: Final = 15.0
"""For all that is asked of the provider, for one login."""
DISCOVERY_SECONDS: Final = 3600.0
LEEWAY_SECONDS: Final = 60
SCOPE: Final = "openid email profile"
ALGORITHMS: Final = ["RS256", "ES256", "PS256", "EdDSA"]
"""Not those whose key is the client's secret, and not `none`."""
ANSWER_BYTES_MAXIMUM: Final = 1024 * 1024


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    cookie: str
    """What the browser keeps until it is back."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a browser keeps while it is at the provider: it is its own login alone that this can spoil."""

    state: str
    nonce: str
    verifier: str
    next_path: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider says of somebody."""

    issuer: str
    subject: str
    account: str
    next_path: str


class ProviderUnavailable(StoreUnavailable):
    """The identity provider does not answer, or not as one does."""

    code = "oidc_unavailable"


class Provider:
    """An identity provider, as its discovery document describes it."""

    def __init__(self, settings: OidcSettings) -> None:
        self.settings = settings
        self._metadata: dict[str, Any] = {}
        self._looked_at = 0.0

    async def begin(self, callback: str, next_path: str) -> Begun:
        """Say where to send a browser to, and what it is to keep meanwhile.

        :raises ProviderUnavailable: when the provider does not say where that is.
        """
        async with self._asking() as client:
            endpoint = str((await self._discovered(client))["authorization_endpoint"])
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": callback,
            "scope": SCOPE,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"
        kept = Kept(state=state, nonce=nonce, verifier=verifier, next_path=next_path)
        return Begun(url=url, cookie=base64.urlsafe_b64encode(msgspec.json.encode(kept)).decode().rstrip("="))

    async def end(
        self,
        callback: str,
        cookie: str | None,
        code: str | None,
        state: str | None,
        iss: str | None,
        error: str | None = None,
        error_description: str | None = None,
    ) -> Said:
        """Exchange what a browser came back with for what the provider says of its user.

        :param error: what came instead of a code, where the provider or its user said no.
        :raises Unauthenticated: when it did not begin here, or is not what the provider signed.
        :raises ProviderUnavailable: when the provider does not answer.
        """
        kept = _kept(cookie)
        if (
            kept is None
            or state is None
            or (code is None and error is None)
            or not hmac.compare_digest(kept.state.encode(), state.encode())
        ):
            raise Unauthenticated(
                "this login did not begin in this browser, or too long ago",
                code="oidc_state_wrong",
                hint="Begin again.",
            )
        if iss is not None and iss != self.settings.issuer:  # RFC 9207: an answer of another provider
            raise Unauthenticated("the answer is of another identity provider", code="oidc_state_wrong")
        if error is not None or code is None:
            raise refused_there(error or "no code", error_description)
        async with self._asking() as client:
            metadata = await self._discovered(client)
            form = {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": callback,
                "code_verifier": kept.verifier,
            }
            # RFC 6749, section 2.3.1: both are encoded as in a form before they are put into the header.
            identity = aiohttp.encode_basic_auth(
                quote_plus(self.settings.client_id), quote_plus(self.settings.client_secret)
            )
            async with client.post(
                str(metadata["token_endpoint"]),
                data=form,
                headers={"Authorization": identity},
                allow_redirects=False,
            ) as response:
                token = await _read(response)
            if "error" in token:
                raise refused_there(str(token["error"]), str(token.get("error_description") or ""))
            claims = await self._claims(client, metadata, str(token.get("id_token", "")), kept.nonce)
        return Said(
            issuer=self.settings.issuer,
            subject=str(claims["sub"]),
            account=_account(claims, self.settings.claim),
            next_path=kept.next_path,
        )

    async def log_in(self, database: Database, said: Said, session_seconds: float) -> Session:
        """Log the account in that the provider's user is bound to; the first time, bind it.

        :raises Forbidden: when there is no account of that name, or it is bound to somebody else there.
        """
        account: UUID | None = await database.value(sql.IDENTITY_FIND, said.issuer, said.subject)
        if account is None:
            account = await _bind(database, self.settings, said)
        client = f"a browser, by {self.settings.name}"
        return await logins.session(database, account, client, session_seconds)

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[aiohttp.ClientSession]:
        """Ask the provider: what it does wrong is an error of ours, and all of it has a deadline."""
        settings = self.settings
        try:
            with anyio.fail_after(SECONDS):
                async with aiohttp.ClientSession() as client:
                    yield client
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, msgspec.ValidationError, KeyError) as error:
            raise ProviderUnavailable(
                f"{settings.name} ({settings.issuer}) does not answer as it should ({type(error).__name__}: {error})"
            ) from error
        except (JoseError, ValueError) as error:
            raise Unauthenticated(
                f"the answer of {settings.name} is not what it signed for this login", code="oidc_answer_wrong"
            ) from error

    async def _discovered(self, client: aiohttp.ClientSession) -> dict[str, Any]:
        if not self._metadata or time.monotonic() > self._looked_at + DISCOVERY_SECONDS:
            address = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = await _get(client, address)
            if found.get("issuer") != self.settings.issuer:
                raise ProviderUnavailable(f"{address} describes the issuer {str(found.get('issuer'))[:200]!r}")
            self._metadata, self._looked_at = found, time.monotonic()
        return self._metadata

    async def _claims(
        self, client: aiohttp.ClientSession, metadata: dict[str, Any], id_token: str, nonce: str
    ) -> dict[str, Any]:
        keys = KeySet.import_key_set(await _get(client, metadata["jwks_uri"]))  # pyright: ignore[reportArgumentType]
        decoded = jwt.decode(id_token, keys, algorithms=ALGORITHMS)
        jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self.settings.issuer},
            sub={"essential": True, "allow_blank": False},
            exp={"essential": True},
            nonce={"essential": True, "value": nonce},
        ).validate(decoded.claims)
        audiences = decoded.claims.get("aud")
        told = [audiences] if isinstance(audiences, str) else list(audiences or [])
        party = decoded.claims.get("azp", self.settings.client_id)
        if self.settings.client_id not in told or party != self.settings.client_id:
            raise Unauthenticated("the identity provider's answer is for another client", code="oidc_answer_wrong")
        return dict(decoded.claims)


async def _bind(database: Database, settings: OidcSettings, said: Said) -> UUID:
    accounts.check_account_name(said.account)
    actor = f"identity provider {said.issuer}"
    async with database.transaction() as connection:
        if settings.creates:
            await connection.execute(sql.ACCOUNT_CREATE, uuid7(), said.account, None, actor)
        row = await connection.fetchrow(sql.ACCOUNT_BY_NAME, said.account)
        if row is None:
            raise Forbidden(
                f"there is no account `{said.account}` here",
                code="account_unknown",
                hint="Those who manage accounts make one: `moonyard account create`.",
            )
        bound = await connection.fetchval(sql.IDENTITY_BIND, said.issuer, said.subject, row["id"], actor)
        if bound is None:
            raise Forbidden(
                f"account `{said.account}` belongs to somebody else at the identity provider",
                code="oidc_account_taken",
                hint="Was the address given to another person there? Those who manage accounts have to look.",
            )
    account: UUID = row["id"]
    return account


def refused_there(error: str, description: str | None) -> Unauthenticated:
    """Say that the provider, or its user, said no."""
    words = f"{error}: {description}" if description else error
    shown = "".join(letter for letter in words[:200] if letter.isprintable())
    return Unauthenticated(f"the identity provider refused the login ({shown})", code="oidc_refused")


def _account(claims: dict[str, Any], claim: str) -> str:
    value = claims.get(claim)
    # Letters that others become by being written small are no way into another's account (KELVIN SIGN for `k`).
    if not isinstance(value, str) or not value or not value.isascii():
        raise Unauthenticated(f"the identity provider does not say `{claim}` of you", code="oidc_answer_wrong")
    if claim == "email" and claims.get("email_verified") is not True:
        raise Unauthenticated("the identity provider has not verified your e-mail address", code="oidc_answer_wrong")
    return value.lower()


def _kept(cookie: str | None) -> Kept | None:
    if not cookie:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)), type=Kept)
    except (ValueError, msgspec.DecodeError):
        return None


async def _get(client: aiohttp.ClientSession, address: str) -> dict[str, Any]:
    async with client.get(address, allow_redirects=False, raise_for_status=True) as response:
        return await _read(response)


async def _read(response: aiohttp.ClientResponse) -> dict[str, Any]:
    said = await response.content.read(ANSWER_BYTES_MAXIMUM + 1)
    while len(said) <= ANSWER_BYTES_MAXIMUM and (more := await response.content.read(ANSWER_BYTES_MAXIMUM)):
        said += more
    if len(said) > ANSWER_BYTES_MAXIMUM:
        raise ProviderUnavailable(f"{response.url.host} answers more than {ANSWER_BYTES_MAXIMUM:,} bytes")
    return msgspec.json.decode(said, type=dict[str, Any])
