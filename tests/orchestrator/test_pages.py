"""Pages for browsers: asked as a browser asks them, which keeps cookies and says where a form comes from."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from ipaddress import ip_network
from typing import Any

import aiohttp
import msgspec
import pytest
from joserfc.jwk import RSAKey

from orchestrator.settings import EdgeSettings, OidcSettings
from schema.accounts import Account, AccountCreate, DeviceLogin, DeviceLoginAsk, DeviceLoginBegun, Session
from schema.client import OrchestratorRefused
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider
from tests.orchestrator.installation import Installation
from tests.orchestrator.people import PASSWORD, session


class Page(msgspec.Struct, frozen=True):
    status: int
    text: str
    headers: dict[str, str]

    @property
    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="(\w+)"', self.text)
        assert found is not None, self.text
        return found[1]

    @property
    def problem(self) -> str:
        found = re.search(r'class="problem" role="alert">(.*?)</p>', self.text)
        assert found is not None, self.text
        return found[1]


class Browser:
    def __init__(self, address: str) -> None:
        self.address = address
        self.cookies: dict[str, str] = {}
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())

    async def ask(self, method: str, url: str, *, origin: str | None = "own", follow: bool = True, **form: str) -> Page:
        """Ask for a page, and for those that it sends to."""
        address = url if "://" in url else self.address + url
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if method == "POST" and origin is not None:
            headers["Origin"] = self.address if origin == "own" else origin
        data: Any = form or None if method == "POST" else None
        async with self.session.request(method, address, headers=headers, data=data, allow_redirects=False) as response:
            for name, morsel in response.cookies.items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
            page = Page(response.status, await response.text(), dict(response.headers))
        if follow and page.status in {302, 303}:
            return await self.ask("GET", page.headers["Location"])
        return page

    async def log_in(self, name: str = "ada", password: str = PASSWORD, after: str = "/") -> Page:
        return await self.ask("POST", "/login", name=name, password=password, next=after)


@pytest.fixture
async def browser(installation: Installation) -> AsyncGenerator[Browser]:
    await installation.replica()
    await session(installation, "ada")
    made = Browser(installation.replicas[0].address)
    yield made
    await made.session.close()


async def test_a_login_gives_a_cookie_that_no_script_and_no_other_site_has(browser: Browser):
    assert "Log in" in (await browser.ask("GET", "/")).text
    answer = await browser.ask("POST", "/login", follow=False, name="ada", password=PASSWORD, next="/")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("moonyard_session=moonyard_session_")
    assert {"Path=/", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    home = await browser.ask("GET", "/")
    assert "You are logged in as <strong>ada</strong>" in home.text
    policy = home.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'nonce-")
    assert "form-action 'self'; base-uri 'none'; frame-ancestors 'none'" in policy
    assert home.headers["Cache-Control"] == "no-store"
    left = await browser.ask("POST", "/logout", form_token=home.form_token)
    assert "Log in" in left.text
    assert browser.cookies == {}
    browser.cookies["moonyard_session"] = cookie.partition(";")[0].partition("=")[2]
    assert "Log in" in (await browser.ask("GET", "/")).text


async def test_behind_a_proxy_that_speaks_tls_the_cookie_is_for_tls_and_this_host(installation: Installation):
    await installation.replica(edge=EdgeSettings(trusted_proxies=(ip_network("127.0.0.1"),)))
    await session(installation, "ada")
    address = installation.replicas[0].address
    async with (
        aiohttp.ClientSession() as asking,
        asking.post(
            f"{address}/login",
            data={"name": "ada", "password": PASSWORD},
            headers={"X-Forwarded-Proto": "https", "Origin": address.replace("http://", "https://")},
            allow_redirects=False,
        ) as response,
    ):
        cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-moonyard_session=")
    assert "Secure" in cookie.split("; ")


async def test_a_wrong_password_is_told_and_not_shown_again(browser: Browser):
    page = await browser.log_in(password="not this one, no")
    assert page.status == 401
    assert page.problem == "There is no account with this name and password."
    assert "not this one" not in page.text
    assert 'value="ada"' in page.text
    hostile = await browser.log_in(name='"><script>alert(1)</script>')
    assert "<script>" not in hostile.text


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null", "http://[", "http://", ""])
async def test_a_form_of_another_site_is_refused(browser: Browser, origin: str | None):
    refused = await browser.ask("POST", "/login", origin=origin, name="ada", password=PASSWORD)
    assert refused.status == 403
    assert "form_foreign" in refused.text
    assert browser.cookies == {}


async def test_a_form_of_another_session_is_refused(browser: Browser):
    await browser.log_in()
    for token in ("", "0" * 64):
        refused = await browser.ask("POST", "/logout", form_token=token)
        assert refused.status == 403
    assert "logged in as" in (await browser.ask("GET", "/")).text


@pytest.mark.parametrize(
    "after", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "//[", "/\t/evil"]
)
async def test_a_login_leads_nowhere_else(browser: Browser, after: str):
    answer = await browser.ask("POST", "/login", follow=False, name="ada", password=PASSWORD, next=after)
    assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_a_cookie_of_a_neighbour_keeps_nobody_out(browser: Browser):
    await browser.log_in()
    own = browser.cookies["moonyard_session"]
    for foreign in ({"a/b": "1"}, {"odd[": "1"}, {"x": '"a b'}, {"path": "/x"}):
        browser.cookies = foreign | {"moonyard_session": own}
        assert "logged in as" in (await browser.ask("GET", "/")).text


async def test_where_tls_is_a_page_without_it_sends_no_form(installation: Installation):
    await installation.replica(edge=EdgeSettings(trusted_proxies=(ip_network("127.0.0.1"),)))
    await session(installation, "ada")
    address = installation.replicas[0].address
    form = {"name": "ada", "password": PASSWORD}
    host = address.removeprefix("http://")
    async with aiohttp.ClientSession() as asking:
        for origin, sent_host, status in (
            (f"http://{host}", host, 403),
            (f"https://{host}", host, 303),
            ("https://moonyard.example", "moonyard.example:443", 303),
            ("https://moonyard.example", "moonyard.example", 303),
            ("https://moonyard.example:8443", "moonyard.example", 403),
        ):
            headers = {"X-Forwarded-Proto": "https", "Origin": origin, "Host": sent_host}
            async with asking.post(f"{address}/login", data=form, headers=headers, allow_redirects=False) as response:
                assert response.status == status, origin


async def test_the_api_takes_no_cookies(browser: Browser):
    await browser.log_in()
    answer = await browser.ask("GET", "/v1/whoami")
    assert answer.status == 401


async def test_a_command_line_is_logged_in_by_its_code(browser: Browser, installation: Installation):
    nobody = await installation.client()
    begun = await nobody.post("/v1/login/device", DeviceLoginBegun, DeviceLogin(client="moonyard of eve on box"))
    asked = await browser.ask("GET", begun.verification_path)
    assert "Log in" in asked.text
    page = await browser.log_in(after=begun.verification_path)
    wrong = await browser.ask("POST", "/login/device", form_token=page.form_token, code="BBBB-BBBB", answer="yes")
    assert (wrong.status, wrong.problem) == (404, "No command line waits with this code, or no longer.")
    typed = begun.user_code.lower().replace("-", " ")
    shown = await browser.ask("POST", "/login/device", form_token=page.form_token, code=typed, answer="show")
    assert "moonyard of eve on box" in shown.text
    assert "127.0.0.1" in shown.text
    done = await browser.ask("POST", "/login/device", form_token=page.form_token, code=begun.user_code, answer="yes")
    assert "The command line is logged in." in done.text
    taken = await nobody.post("/v1/login/device/token", Session, DeviceLoginAsk(device_code=begun.device_code))
    assert taken.account == "ada"


async def test_a_command_line_is_refused_by_its_code(browser: Browser, installation: Installation):
    nobody = await installation.client()
    begun = await nobody.post("/v1/login/device", DeviceLoginBegun, DeviceLogin())
    await browser.log_in()
    page = await browser.ask("GET", begun.verification_path)
    done = await browser.ask("POST", "/login/device", form_token=page.form_token, code=begun.user_code, answer="no")
    assert "The command line was refused." in done.text
    with pytest.raises(OrchestratorRefused) as refused:
        await nobody.post("/v1/login/device/token", Session, DeviceLoginAsk(device_code=begun.device_code))
    assert refused.value.code == "login_refused"


async def test_codes_are_not_guessed(browser: Browser, installation: Installation):
    await browser.log_in()
    page = await browser.ask("GET", "/login/device")
    await installation.fetch(
        "INSERT INTO moonyard.login_failures (key, failures, last_at) VALUES ('address:127.0.0.1', 30, now()) "
        "ON CONFLICT (key) DO UPDATE SET failures = 30, last_at = now()"
    )
    refused = await browser.ask("POST", "/login/device", form_token=page.form_token, code="BBBB-BBBB", answer="yes")
    assert refused.status == 429


@pytest.fixture
async def provider() -> AsyncGenerator[OidcProvider]:
    async with OidcProvider().running() as running:
        yield running


@pytest.fixture
async def visitor(installation: Installation, provider: OidcProvider) -> AsyncGenerator[Browser]:
    """A browser before an installation with an identity provider."""
    settings = OidcSettings(issuer=provider.issuer, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, name="Example")
    await installation.replica(oidc=settings)
    made = Browser(installation.replicas[0].address)
    yield made
    await made.session.close()


async def test_an_identity_provider_says_who_somebody_is(visitor: Browser, installation: Installation):
    admin = await installation.client()
    assert "Log in by Example" in (await visitor.ask("GET", "/login")).text
    unknown = await visitor.ask("GET", "/login/oidc")
    assert unknown.problem == "There is no account `ada@example.org` here."
    await admin.post("/v1/accounts", Account, AccountCreate(name="ada@example.org"))
    home = await visitor.ask("GET", "/login/oidc?next_path=/login/device")
    assert "It shall act as <strong>ada@example.org</strong>" in home.text
    bound = await installation.fetch("SELECT issuer, subject FROM moonyard.account_identities")
    assert [row["subject"] for row in bound] == ["user-1"]


async def test_another_person_with_the_same_address_is_not_the_account(
    visitor: Browser, installation: Installation, provider: OidcProvider
):
    admin = await installation.client()
    await admin.post("/v1/accounts", Account, AccountCreate(name="ada@example.org"))
    await visitor.ask("GET", "/login/oidc")
    visitor.cookies.clear()
    provider.claims["sub"] = "user-2"
    page = await visitor.ask("GET", "/login/oidc")
    assert page.problem == "Account `ada@example.org` belongs to somebody else at the identity provider."
    provider.claims["sub"], provider.claims["email"] = "user-1", "new@example.org"
    assert "logged in as <strong>ada@example.org</strong>" in (await visitor.ask("GET", "/login/oidc")).text


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": {"aud": "another"}},
        {"claims": {"aud": [CLIENT_ID, "another"], "azp": "another"}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"exp": 1}},
        {"claims": {"nonce": "another"}},
        {"claims": {"sub": ""}},
        {"claims": {"email_verified": False}},
        {"claims": {"email_verified": "true"}},
        {"claims": {"email": None}},
        {"key": True},
        {"error": "access_denied"},
    ],
    ids=str,
)
async def test_what_a_provider_did_not_sign_for_this_login_is_refused(
    visitor: Browser, installation: Installation, provider: OidcProvider, changes: dict[str, Any]
):
    admin = await installation.client()
    await admin.post("/v1/accounts", Account, AccountCreate(name="ada@example.org"))
    if changes.get("key"):
        provider.signs_with = RSAKey.generate_key(2048, parameters={"kid": "one"})
    provider.changes = changes
    page = await visitor.ask("GET", "/login/oidc")
    assert page.status == 401
    assert page.problem
    assert "moonyard_session" not in visitor.cookies


async def test_an_answer_that_was_not_asked_for_in_this_browser_is_refused(visitor: Browser, provider: OidcProvider):
    assert (await visitor.ask("GET", "/login/oidc/callback?code=x&state=y")).status == 401
    begun = await visitor.ask("GET", "/login/oidc", follow=False)
    back = await visitor.ask("GET", begun.headers["Location"], follow=False)
    callback = back.headers["Location"]
    visitor.cookies.clear()
    assert (await visitor.ask("GET", callback)).status == 401
    assert provider.issuer in begun.headers["Location"]


async def test_a_letter_that_becomes_another_one_is_no_way_into_an_account(
    visitor: Browser, installation: Installation, provider: OidcProvider
):
    admin = await installation.client()
    await admin.post("/v1/accounts", Account, AccountCreate(name="kate@example.org"))
    provider.claims["email"] = "\N{KELVIN SIGN}ate@example.org"
    assert (await visitor.ask("GET", "/login/oidc")).status == 401


async def test_words_of_a_link_are_not_shown_as_those_of_the_provider(visitor: Browser):
    page = await visitor.ask("GET", "/login/oidc/callback?error=x&error_description=call+this+number&state=y")
    assert page.status == 401
    assert "call this number" not in page.text


async def test_a_planted_cookie_leads_nowhere_else(visitor: Browser, installation: Installation):
    admin = await installation.client()
    await admin.post("/v1/accounts", Account, AccountCreate(name="ada@example.org"))
    begun = await visitor.ask("GET", "/login/oidc", follow=False)
    kept = visitor.cookies["moonyard_oidc"]
    told = msgspec.json.decode(urlsafe_b64decode(kept + "=" * (-len(kept) % 4)))
    told["next_path"] = "https://evil.example/"
    visitor.cookies["moonyard_oidc"] = urlsafe_b64encode(msgspec.json.encode(told)).decode().rstrip("=")
    back = await visitor.ask("GET", begun.headers["Location"], follow=False)
    answer = await visitor.ask("GET", back.headers["Location"], follow=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_a_provider_that_does_not_answer_is_told_without_where_it_is(visitor: Browser, provider: OidcProvider):
    provider.changes = {"issuer": "https://evil.example"}
    page = await visitor.ask("GET", "/login/oidc")
    assert page.status == 503
    assert provider.issuer not in page.text


async def test_accounts_are_made_where_that_is_set(installation: Installation, provider: OidcProvider):
    settings = OidcSettings(issuer=provider.issuer, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, creates=True)
    await installation.replica(oidc=settings)
    visitor = Browser(installation.replicas[0].address)
    assert "logged in as <strong>ada@example.org</strong>" in (await visitor.ask("GET", "/login/oidc")).text
    await visitor.session.close()
    [row] = await installation.fetch("SELECT count(*) AS held FROM moonyard.role_bindings")
    assert row["held"] == 0
