"""Routes for logins, and for what an account does about itself."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from litestar.response import Response

from orchestrator import logins, parts, tokens
from orchestrator.access import INVITATION, PEOPLE, PUBLIC, SETUP
from orchestrator.addresses import client_address
from schema.accounts import (
    DeviceLogin,
    DeviceLoginAsk,
    DeviceLoginBegun,
    FirstAccount,
    InvitationAccepted,
    LoggedOut,
    Login,
    PasswordChange,
    PasswordChanged,
    Session,
    SessionPending,
    WhoAmI,
)

AnyRequest = Request[Any, Any, Any]
UNKEPT: Final = {"Cache-Control": "no-store"}


@post("/v1/login", opt=PUBLIC, tags=["accounts"], status_code=200)
async def login(request: AnyRequest, data: JSONBody[Login]) -> Response[Session]:
    """Log an account in by its password: the answer holds a token that stands for it."""
    here = parts.of(request)
    session = await logins.by_password(here.database, data, client_address(request), here.settings.session_seconds)
    return Response(session, headers=UNKEPT)


@post("/v1/login/device", opt=PUBLIC, tags=["accounts"], status_code=200)
async def device_begin(request: AnyRequest, data: JSONBody[DeviceLogin]) -> Response[DeviceLoginBegun]:
    """Begin a login that somebody answers in a browser, where the user code is asked for."""
    begun = await logins.device_begin(parts.of(request).database, data, client_address(request))
    return Response(begun, headers=UNKEPT)


@post("/v1/login/device/token", opt=PUBLIC, tags=["accounts"], status_code=200)
async def device_take(request: AnyRequest, data: JSONBody[DeviceLoginAsk]) -> Response[Session | SessionPending]:
    """Ask whether a login was answered: the session, once it was."""
    here = parts.of(request)
    session = await logins.device_take(here.database, data.device_code, here.settings.session_seconds)
    return Response(session or SessionPending(interval=logins.DEVICE_INTERVAL_SECONDS), headers=UNKEPT)


@post("/v1/setup", opt=SETUP, tags=["accounts"], status_code=201)
async def setup(request: AnyRequest, data: JSONBody[FirstAccount]) -> Response[Session]:
    """Make the first administrator's account, by a setup token, and log it in."""
    here = parts.of(request)
    session = await logins.first_account(here.database, parts.identity(request), data, here.settings.session_seconds)
    here.authentication.forget()
    return Response(session, headers=UNKEPT)


@post("/v1/invitation/accept", opt=INVITATION, tags=["accounts"], status_code=200)
async def invitation_accept(request: AnyRequest, data: JSONBody[InvitationAccepted]) -> Response[Session]:
    """Set the password of the account that an invitation is for, and log it in."""
    here = parts.of(request)
    session = await logins.accept(here.database, parts.identity(request), data, here.settings.session_seconds)
    here.authentication.forget()
    return Response(session, headers=UNKEPT)


@get("/v1/whoami", opt=PEOPLE, tags=["accounts"])
async def who_am_i(request: AnyRequest) -> WhoAmI:
    """Say whom the token stands for, and what that one may do."""
    return await logins.who_am_i(parts.of(request).database, parts.identity(request))


@post("/v1/password", opt=PEOPLE, tags=["accounts"], status_code=200)
async def password_change(request: AnyRequest, data: JSONBody[PasswordChange]) -> PasswordChanged:
    """Set another password of the own account; its other sessions end."""
    here, identity = parts.of(request), parts.identity(request)
    await logins.change_password(here.database, identity, data, client_address(request))
    here.authentication.forget()
    return PasswordChanged(account=identity.account_name or "")


@post("/v1/logout", opt=PEOPLE, tags=["accounts"], status_code=200)
async def logout(request: AnyRequest) -> LoggedOut:
    """End the session whose token was sent."""
    here, identity = parts.of(request), parts.identity(request)
    if identity.kind == "session":
        await tokens.revoke(here.database, identity.token, identity)
        here.authentication.forget()
    return LoggedOut(ended=identity.kind == "session")


HANDLERS: Final[list[HTTPRouteHandler]] = [
    login,
    device_begin,
    device_take,
    setup,
    invitation_accept,
    who_am_i,
    password_change,
    logout,
]
