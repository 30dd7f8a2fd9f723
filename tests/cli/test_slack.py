"""The plugin ``slack`` against a server of Slack's documented form."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.cli.command import Printed, moonyard
from tests.cli.conftest import Runner
from tests.slack_server import TOKEN, Slack, slack_server

LUA = """
local api = "{api}"
local function try(f, ...)
  local ok, problem = pcall(f, ...)
  return ok and "ok" or problem.code .. ": " .. problem.message
end
return {{ name = "p", plugins = {{ "slack@1" }}, stages = {{ {{ name = "s", script = function(job)
local token, webhook = secret.get("SLACK_TOKEN"), secret.get("SLACK_WEBHOOK")
{body}
end }} }} }}
"""


@pytest.fixture
async def slack() -> AsyncGenerator[Slack]:
    async with slack_server() as serving:
        yield serving


async def told(run: Runner, slack: Slack, body: str, *, webhook: str | None = None) -> Printed:
    options = [
        *run.arguments(LUA.format(api=slack.api, body=body)),
        *("--secret", "SLACK_TOKEN", "--secret", "SLACK_WEBHOOK", "--http-allowed", "127.0.0.1", "-v"),
    ]
    webhook = slack.webhook if webhook is None else webhook
    printed = await moonyard(*options, cwd=run.folder, SLACK_TOKEN=TOKEN, SLACK_WEBHOOK=webhook)
    for private in (TOKEN, webhook):
        assert private not in printed.stdout + printed.stderr
    return printed


async def test_a_webhook_gets_messages_and_no_mention_that_nobody_meant(run: Runner, slack: Slack) -> None:
    printed = await told(
        run,
        slack,
        """
slack.post("<!channel> 1 & 2", { webhook = webhook, username = "ci", icon = ":rocket:" })
slack.post({ blocks = { { type = "divider" } }, webhook = webhook, unfurl = false })
""",
    )
    assert printed.code == 0, printed.stdout[-3000:]
    assert slack.by_webhook == [
        {"text": "&lt;!channel&gt; 1 &amp; 2", "username": "ci", "icon_emoji": ":rocket:"},
        {"blocks": [{"type": "divider"}], "unfurl_links": False, "unfurl_media": False},
    ]


async def test_a_token_posts_threads_changes_and_files(run: Runner, slack: Slack) -> None:
    printed = await told(
        run,
        slack,
        """
local made = slack.post("Deploying", { channel = "#builds", token = token, api = api })
local answer = slack.post("step 1", { channel = made.channel, thread = made.ts, token = token, api = api })
slack.update(made.ts, { channel = made.channel, text = "Deployed", token = token, api = api })
fs.write("build.log", ("a line of it\\n"):rep(100000))
local file = slack.upload("build.log", { channel = made.channel, text = "its <log>", token = token, api = api })
local long = slack.post(("0123456789\\n"):rep(1000), { channel = "#builds", token = token, api = api, long = "split" })
log.info(made.ts, answer.ts, file.id, long.ts, long.parts)
""",
    )
    assert printed.code == 0, printed.stdout[-3000:]
    [line] = printed.texts(source="lua")
    first, answer, file, long, parts = line.split()
    assert (slack.messages[first]["text"], slack.messages[answer]["thread_ts"]) == ("Deployed", first)
    assert slack.files[file] == {
        "name": "build.log",
        "title": "build.log",
        "length": 1_300_000,
        "data": b"a line of it\n" * 100_000,
        "channel_id": "C00000001",
        "initial_comment": "its &lt;log&gt;",
    }
    of_it = [message for ts, message in slack.messages.items() if long in {ts, message.get("thread_ts")}]
    assert len(of_it) == int(parts) > 1
    assert "".join(message["text"] for message in of_it) == "0123456789\n" * 1000


async def test_what_slack_refuses_is_told_in_its_words(run: Runner, slack: Slack) -> None:
    printed = await told(
        run,
        slack,
        """
local function post(channel, more)
  local given = { text = "x", channel = channel, token = token, api = api }
  for name, value in pairs(more or {}) do given[name] = value end
  return try(slack.post, given)
end
log.info(post("#nowhere"))
log.info(post("#builds", { thread = "1.1" }))
log.info(post("#builds", { token = webhook }))
log.info(post("#builds", { api = api .. "/of/something/else" }))
log.info(try(slack.update, "1.1", { channel = "C00000001", text = "x", token = token, api = api }))
log.info(try(slack.post, "x", { webhook = webhook .. "1" }))
log.info(try(slack.post, "x", { webhook = "http://127.0.0.1/plain" }))
log.info(post("#builds", { api = "http://127.0.0.1:1" }))
""",
    )
    assert printed.code == 0, printed.stdout[-3000:]
    said = printed.texts(source="lua")
    for line, words in zip(
        said,
        (
            "slack_refused: slack.post: Slack refused it: channel_not_found (there is no such channel",
            "slack_refused: slack.post: Slack refused it: thread_not_found",
            "slack_refused: slack.post: Slack refused it: invalid_auth (the token is not one of Slack's",
            "answered with status 404, and not as Slack does",
            "slack_refused: slack.update: Slack refused it: message_not_found",
            "slack_refused: slack.post: Slack refused it: invalid_token (the webhook's URL is wrong",
            "argument_invalid: slack.post: `webhook` must be a secret",
            "slack_unreachable: slack.post: ",
        ),
        strict=True,
    ):
        assert words in line
    assert not slack.messages
    assert not slack.by_webhook


async def test_a_pause_that_slack_asks_for_is_kept_and_told(run: Runner, slack: Slack) -> None:
    slack.busy = 2
    printed = await told(run, slack, 'slack.post("x", { webhook = webhook })')
    assert printed.code == 0, printed.stdout[-3000:]
    assert (len(slack.by_webhook), slack.requests) == (1, 3)
    assert printed.texts(source="lua") == ["slack.post: Slack takes no more for now, next try in 1 s"] * 2


async def test_a_pause_that_is_too_long_and_a_lost_answer_are_errors_and_nothing_comes_twice(
    run: Runner, slack: Slack
) -> None:
    slack.busy, slack.retry_after, slack.broken = 1, 3600, 1
    printed = await told(
        run,
        slack,
        """
log.info(try(slack.post, "x", { webhook = webhook }))
log.info(try(slack.post, "x", { webhook = webhook }))
""",
    )
    assert printed.code == 0, printed.stdout[-3000:]
    long, lost = printed.texts(source="lua")
    assert "slack_rate_limited: slack.post: Slack asks to wait for another 3600 s" in long
    assert lost.startswith("slack_unreachable: slack.post: ")
    assert "/services/" not in lost
    assert (len(slack.by_webhook), slack.requests) == (1, 2)
