"""Routes of pages for browsers: ``orchestrator.pages`` says which there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, QueryParameter
from litestar.response import Response

from orchestrator import logins, parts, refused_requests, tokens
from orchestrator.access import PUBLIC
from orchestrator.addresses import client_address, is_secure
from orchestrator.pages import browser
from orchestrator.pages.rendering import page
from orchestrator.problems import NotFound, Refusal
from orchestrator.sql import accounts as sql
from schema.accounts import Login, Session

if TYPE_CHECKING:
    from orchestrator.oidc import Provider

AnyRequest = Request[Any, Any, Any]
Page = Response[str]
CLIENT: Final = "a browser"
OIDC_COOKIE: Final = "moonyard_oidc"
OIDC_SECONDS: Final = 600.0


@get("/", opt=PUBLIC, tags=["pages"], include_in_schema=False)
async def home(request: AnyRequest) -> Page:
    """Say who is logged in here."""
    identity = await browser.session(request)
    if identity is None:
        return _redirect("/login")
    return page("home", account=identity.account_name, form_token=browser.form_token(request))


@get("/login", opt=PUBLIC, tags=["pages"], include_in_schema=False)
async def login_page(request: AnyRequest, next_path: FromQuery[str | None] = None) -> Page:
    """Ask for name and password."""
    return _login_page(request, browser.safe_next(next_path))


@post("/login", opt=PUBLIC, tags=["pages"], status_code=200, include_in_schema=False)
async def login_by_form(request: AnyRequest) -> Page:
    """Log in by name and password."""
    fields = await browser.form(request)
    here, name = parts.of(request), fields.get("name", "").strip()
    after = browser.safe_next(fields.get("next"))
    message = Login(name=name, password=fields.get("password", ""), client=CLIENT)
    try:
        session = await logins.by_password(
            here.database, message, client_address(request), here.settings.session_seconds
        )
    except Refusal as refusal:
        return _login_page(request, after, account=name, problem=refusal)
    return _logged_in(request, session, after)


@post("/logout", opt=PUBLIC, tags=["pages"], status_code=200, include_in_schema=False)
async def logout_by_form(request: AnyRequest) -> Page:
    """End the browser's session."""
    await browser.form_of_session(request)
    here, identity = parts.of(request), await browser.session(request)
    if identity is not None:
        await tokens.revoke(here.database, identity.token, identity)
        here.authentication.forget()
    return _redirect("/login", browser.session_cookie(request, "", seconds=None))


@get("/login/device", opt=PUBLIC, tags=["pages"], include_in_schema=False)
async def device_page(request: AnyRequest) -> Page:
    """Ask for the code that a command line shows."""
    identity = await browser.session(request)
    if identity is None:
        return _redirect(f"/login?next_path={logins.DEVICE_PATH}")
    return page("device", account=identity.account_name, form_token=browser.form_token(request), code="")


@post("/login/device", opt=PUBLIC, tags=["pages"], status_code=200, include_in_schema=False)
async def device_answer(request: AnyRequest) -> Page:
    """Show which command line asks, and take the answer."""
    identity = await browser.session(request)
    if identity is None or identity.account is None:
        return _redirect(f"/login?next_path={logins.DEVICE_PATH}")
    fields = await browser.form_of_session(request)
    here, answer = parts.of(request).database, fields.get("answer")
    code = _code(fields.get("code", ""))
    shown: dict[str, Any] = {
        "account": identity.account_name,
        "form_token": browser.form_token(request),
        "code": code,
    }
    try:
        await logins.count_guess(here, client_address(request))
    except Refusal as refusal:
        return page("device", **shown, problem=refusal.message, status=refusal.status)
    row = await here.row(sql.DEVICE_FIND, code)
    if row is None:
        return _no_device(shown)
    await logins.guess_was_right(here, client_address(request))
    if answer not in {"yes", "no"}:
        return page("device_answer", **shown, client=row["client"], address=row["address"] or "an unknown address")
    if not await logins.device_answer(here, code, identity, is_yes=answer == "yes"):
        return _no_device(shown)
    done = "The command line is logged in." if answer == "yes" else "The command line was refused."
    return page("message", heading="Done", words="You may close this page.", done=done, link="/", link_words="Go on")


def _no_device(shown: dict[str, Any]) -> Page:
    return page("device", **shown, problem="No command line waits with this code, or no longer.", status=404)


@get("/login/oidc", opt=PUBLIC, tags=["pages"], include_in_schema=False)
async def oidc_begin(request: AnyRequest, next_path: FromQuery[str | None] = None) -> Page:
    """Send the browser to the identity provider."""
    provider = _provider(request)
    begun = await provider.begin(_callback(request), browser.safe_next(next_path))
    return _redirect(begun.url, browser.cookie(request, OIDC_COOKIE, begun.cookie, seconds=OIDC_SECONDS))


@get("/login/oidc/callback", opt=PUBLIC, tags=["pages"], include_in_schema=False)
async def oidc_end(
    request: AnyRequest,
    code: FromQuery[str | None] = None,
    own_state: Annotated[str | None, QueryParameter(name="state")] = None,
    error: FromQuery[str | None] = None,
    error_description: FromQuery[str | None] = None,
    session_state: FromQuery[str | None] = None,
    iss: FromQuery[str | None] = None,
    given_scope: Annotated[str | None, QueryParameter(name="scope")] = None,
) -> Page:
    """Take what the identity provider says of who came back, and log that one in."""
    del session_state, given_scope  # providers add them
    here, provider = parts.of(request), _provider(request)
    try:
        cookie = browser.given(request, OIDC_COOKIE)
        said = await provider.end(_callback(request), cookie, code, own_state, iss, error, error_description)
        session = await provider.log_in(here.database, said, here.settings.session_seconds)
    except Refusal as refusal:
        return _login_page(request, "/", problem=refusal)
    return _logged_in(request, session, browser.safe_next(said.next_path))  # it was in a cookie, which could be planted


def _provider(request: AnyRequest) -> Provider:
    provider = parts.of(request).oidc
    if provider is None:
        raise NotFound("no identity provider is set up here", code="oidc_missing")
    return provider


def _callback(request: AnyRequest) -> str:
    scheme = "https" if is_secure(request) else "http"
    return f"{scheme}://{request.headers.get('host', '')}/login/oidc/callback"


def _login_page(request: AnyRequest, after: str, *, account: str = "", problem: Refusal | None = None) -> Page:
    provider = parts.of(request).oidc
    if problem is not None:
        refused_requests.note(request, problem)
    return page(
        "login",
        next=after,
        account=account,
        provider=None if provider is None else provider.settings.name,
        problem=None if problem is None else f"{problem.message[:1].upper()}{problem.message[1:]}.",
        status=200 if problem is None else problem.status,
    )


def _logged_in(request: AnyRequest, session: Session, after: str) -> Page:
    seconds = parts.of(request).settings.session_seconds
    return _redirect(after, browser.session_cookie(request, session.token, seconds=seconds))


def _redirect(path: str, cookie: str | None = None) -> Page:
    headers = {"Location": path, "Cache-Control": "no-store"}
    if cookie is not None:
        headers["Set-Cookie"] = cookie
    return Response("", status_code=303, media_type="text/plain", headers=headers)


def _code(text: str) -> str:
    letters = re.sub(r"[^A-Z]", "", text.upper())[: logins.CODE_LENGTH]
    return f"{letters[:4]}-{letters[4:]}"


HANDLERS: Final[list[HTTPRouteHandler]] = [
    home,
    login_page,
    login_by_form,
    logout_by_form,
    device_page,
    device_answer,
    oidc_begin,
    oidc_end,
]
