"""An identity provider for tests, with the endpoints of OpenID Connect, that lies where it is told to."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID = "moonyard"
CLIENT_SECRET = "hush hush"


class OidcProvider:
    """Says of whoever comes that it is who ``claims`` say."""

    def __init__(self) -> None:
        self.issuer = ""
        self.key = RSAKey.generate_key(2048, parameters={"kid": "one"})
        self.signs_with = self.key
        self.claims: dict[str, Any] = {"sub": "user-1", "email": "Ada@example.org", "email_verified": True}
        self.changes: dict[str, Any] = {}
        """What it says otherwise than a good one would."""
        self._asked: dict[str, dict[str, str]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[OidcProvider]:
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", self._discovery)
        application.router.add_get("/keys", self._keys)
        application.router.add_get("/authorize", self._authorize)
        application.router.add_post("/token", self._token)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.issuer = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _discovery(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(
            {
                "issuer": self.changes.get("issuer", self.issuer),
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
        )

    async def _keys(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"keys": [self.key.as_dict(private=False)]})

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        if "error" in self.changes:
            answer = {"error": self.changes["error"], "state": asked["state"]}
        else:
            code = secrets.token_urlsafe(16)
            self._asked[code] = asked
            answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        raise web.HTTPFound(f"{asked['redirect_uri']}?{urlencode(answer)}")

    async def _token(self, request: web.Request) -> web.Response:
        expected = base64.b64encode(f"{CLIENT_ID}:hush+hush".encode()).decode()
        assert request.headers["Authorization"] == f"Basic {expected}"
        form = {name: values[0] for name, values in parse_qs((await request.read()).decode()).items()}
        asked = self._asked.pop(form["code"], None)
        if asked is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        assert asked["code_challenge"] == challenge.rstrip("=")
        assert asked["redirect_uri"] == form["redirect_uri"]
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims |= self.claims | self.changes.get("claims", {})
        header = {"alg": self.changes.get("alg", "RS256"), "kid": "one"}
        return web.json_response(
            {"access_token": "none", "token_type": "Bearer", "id_token": jwt.encode(header, claims, self.signs_with)}
        )
