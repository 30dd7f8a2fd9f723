"""The plugin ``notify`` against a real SMTP server and a real web server."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from aiohttp import web

from tests.cli.command import Printed, moonyard
from tests.cli.conftest import Runner
from tests.smtp_server import HOST, PASSWORD, USER, smtp_server

KEY = "a-key-that-both-ends-have-9371"
LUA = """
local function try(f, ...)
  local ok, problem = pcall(f, ...)
  return ok and "ok" or problem.code .. ": " .. problem.message
end
return {{ name = "p", plugins = {{ "notify@1" }}, stages = {{ {{ name = "s", script = function(job)
{body}
end }} }} }}
"""


async def told(run: Runner, body: str, **secrets: str) -> Printed:
    options = [*run.arguments(LUA.format(body=body)), "--http-allowed", "127.0.0.1", "-v"]
    for name in secrets:
        options += ["--secret", name]
    printed = await moonyard(*options, cwd=run.folder, **secrets)
    assert printed.code == 0, printed.stdout[-3000:] + printed.stderr
    for value in secrets.values():
        assert value not in printed.stdout + printed.stderr
    return printed


async def test_an_email_comes_as_it_was_written_by_starttls_and_a_login(
    run: Runner, tmp_path: Path, unused_port: int
) -> None:
    with smtp_server(tmp_path, unused_port, tls="starttls") as mailbox:
        certificate = (tmp_path / "smtp-certificate.pem").read_text(encoding="utf-8")
        printed = await told(
            run,
            f"""
fs.write("ca.pem", [[{certificate}]])
fs.write("report.json", '{{"passed": 812}}')
fs.write("blob", "\\0\\1\\255")
local made = notify.email({{
  host = "{HOST}", port = {unused_port}, ca = "ca.pem", user = "{USER}", password = secret.get("SMTP_PASSWORD"),
  from = "Moonyard CI <ci@example.org>", to = {{ "Zoë <zoe@example.org>", "nobody@example.org" }},
  cc = "team@example.org", bcc = "boss@example.org", reply_to = "dev@example.org",
  subject = "Gebaut: größer", text = "It worked.\\n.\\nAll of it: é\\n", html = "<p>It <b>worked</b>.</p>",
  attachments = {{ "report.json", {{ path = "blob", name = "a b.bin" }} }},
}})
log.info(made.sent, made.id, table.concat(made.refused, "|"))
""",
            SMTP_PASSWORD=PASSWORD,
        )
    [(recipients, message)] = mailbox.taken
    assert recipients == ["zoe@example.org", "team@example.org", "boss@example.org"]
    assert mailbox.logins == [USER.encode()]
    assert message["From"] == "Moonyard CI <ci@example.org>"
    assert message["To"] == "Zoë <zoe@example.org>, nobody@example.org"
    assert (message["Subject"], message["Cc"], message["Bcc"]) == ("Gebaut: größer", "team@example.org", None)
    assert message["Reply-To"] == "dev@example.org"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content() == "It worked.\n.\nAll of it: é\n"
    assert html.get_content() == "<p>It <b>worked</b>.</p>\n"
    attached = {part.get_filename(): part.get_content() for part in message.iter_attachments()}
    assert attached["a b.bin"] == b"\0\1\xff"
    assert json.loads(attached["report.json"]) == {"passed": 812}
    warned, said = printed.texts(source="lua")
    assert warned == "notify.email: not sent to nobody@example.org: 550 there is no nobody here"
    assert said == f"3\t{message['Message-ID']}\tnobody@example.org: 550 there is no nobody here".replace("\t", " ")
    [command] = printed.commands()
    assert PASSWORD not in json.dumps(command)


async def test_a_server_that_is_not_trusted_or_refuses_gets_nothing(
    run: Runner, tmp_path: Path, unused_port: int
) -> None:
    with smtp_server(tmp_path, unused_port, tls="starttls") as mailbox:
        printed = await told(
            run,
            f"""
local function send(more)
  local given = {{
    host = "{HOST}", port = {unused_port}, from = "ci@example.org", to = "a@example.org", subject = "s", text = "t",
  }}
  for name, value in pairs(more) do given[name] = value end
  log.info(try(notify.email, given))
end
local password = secret.get("SMTP_PASSWORD")
send({{ user = "{USER}", password = password }})
send({{ user = "{USER}", password = "wrong" .. password, verify = false }})
send({{ verify = false }})
send({{ tls = "none" }})
send({{ tls = "implicit", verify = false }})
send({{ port = 1 }})
send({{ user = "{USER}", password = password, verify = false, to = "nobody@example.org" }})
""",
            SMTP_PASSWORD=PASSWORD,
        )
    assert not mailbox.taken
    untrusted, login, anonymous, plain, implicit, closed, nobody = (
        text for text in printed.texts(source="lua", level="info")
    )
    place = f"notify.email: {HOST}:{unused_port}"
    assert untrusted == f"notify_unreachable: {place}: TLS: self-signed certificate"
    assert login.startswith(f"notify_login_refused: {place}: 535 ")
    assert anonymous.startswith(f"notify_refused: {place}: 530 ")
    assert plain.startswith(f"notify_refused: {place}: 530 Must issue a STARTTLS")
    assert implicit.startswith(f"notify_unreachable: {place}: TLS: ")
    assert closed.startswith(f"notify_unreachable: notify.email: {HOST}:1: ")
    assert nobody == f"notify_refused: {place} took no recipient: nobody@example.org: 550 there is no nobody here"
    assert set(mailbox.logins) == {USER.encode()}


@pytest.mark.parametrize("tls", ["implicit", "none"])
async def test_an_email_goes_by_tls_from_the_beginning_and_without_any(
    run: Runner, tmp_path: Path, unused_port: int, tls: str
) -> None:
    with smtp_server(tmp_path, unused_port, tls=tls) as mailbox:
        await told(
            run,
            f"""
notify.email({{ host = "{HOST}", port = {unused_port}, tls = "{tls}", verify = {str(tls == "none").lower()},
  from = "ci@example.org", to = "a@example.org", subject = "s", html = "<p>t</p>" }})
""",
        )
    [(recipients, message)] = mailbox.taken
    assert (recipients, message.get_content_type()) == (["a@example.org"], "text/html")


async def test_a_webhook_is_signed_tried_again_and_its_refusals_are_told(run: Runner) -> None:
    asked: list[tuple[str, bytes, dict[str, str]]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(
            (request.path, await request.read(), {name.lower(): value for name, value in request.headers.items()})
        )
        if request.path == "/gone":
            return web.Response(status=410, text="nobody is here")
        if len(asked) == 1:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return web.json_response({"taken": True})

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        printed = await told(
            run,
            f"""
local url = "{url}"
local key = secret.get("HOOK_KEY")
local done = notify.webhook(url .. "/hook", {{ state = "succeeded", text = "grün" }}, {{ secret = key }})
log.info(done.status, done.body)
log.info(try(notify.webhook, url .. "/gone", {{ token = key }}, {{ headers = {{ ["X-Team"] = "a" }} }}))
log.info(try(notify.webhook, secret.get("HOOK_URL"), {{ 1 }}))
log.info(try(notify.webhook, "http://127.0.0.1:1/", {{ 1 }}, {{ retries = 0 }}))
log.info(try(notify.webhook, "ftp://127.0.0.1/", {{ 1 }}))
""",
            HOOK_KEY=KEY,
            HOOK_URL=f"{url}/gone?of=nobody-else",
        )
    finally:
        await runner.cleanup()
    first, second, gone, private = asked
    assert first[0] == "/hook"
    assert json.loads(first[1]) == {"state": "succeeded", "text": "grün"}
    assert first[2]["x-hub-signature-256"] == "sha256=" + hmac.new(KEY.encode(), first[1], hashlib.sha256).hexdigest()
    assert first[2]["idempotency-key"] == second[2]["idempotency-key"] != gone[2]["idempotency-key"]
    assert (json.loads(gone[1]), gone[2]["x-team"], "x-hub-signature-256" in gone[2]) == ({"token": KEY}, "a", False)
    assert json.loads(private[1]) == [1]
    said = printed.texts(source="lua")
    assert said[0] == '200 {"taken": true}'
    assert said[1] == f"notify_refused: notify.webhook: {url}/gone answered with status 410: nobody is here"
    assert said[2] == "notify_refused: notify.webhook: *** answered with status 410: nobody is here"
    assert said[3].startswith("notify_unreachable: notify.webhook: ")
    assert said[4].startswith("argument_invalid: notify.webhook: `url` must begin with http:// or https://")
    assert not [text for text in printed.texts(source="system") if "reveal" in text]
