"""Secrets of `moonyard run`, in real containers: they arrive where they are taken, and show nowhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from schema.errors import ErrorInfo
from tests.cli.command import ROOT, Printed, moonyard, started
from tests.cli.conftest import Runner

TOKEN = "kJ8s-2Kd9/sLq+4x=z\"Q'7"
SHA = hashlib.sha256(TOKEN.encode()).hexdigest()


async def run_with(run: Runner, body: str, *options: str, secret: str = TOKEN, **more: str) -> Printed:
    """Run a script with the secret TOKEN; see that its value is in nothing that is printed."""
    source = f'return {{ name = "try", stages = {{ {{ name = "s", script = function(job)\n{body}\nend }} }} }}'
    printed = await moonyard(
        *run.arguments(source), "--secret", "TOKEN", *options, cwd=run.folder, TOKEN=secret, **more
    )
    unseen(printed, secret)
    return printed


def unseen(printed: Printed, secret: str) -> None:
    for text in (printed.stdout, printed.stderr):
        assert secret not in text
        assert json.dumps(secret)[1:-1] not in text
        assert base64.b64encode(secret.encode()).decode()[:20] not in text
        assert secret.encode().hex() not in text
    for line in printed.lines:
        assert secret not in repr(line)
        assert secret not in str(line.get("text"))


async def test_a_command_gets_it_in_its_environment_and_what_it_prints_of_it_is_taken_out(run: Runner) -> None:
    printed = await run_with(
        run,
        """
        local function sh(script)
          return process.run({ command = "sh", args = { "-c", script }, secrets = { "TOKEN" } })
        end
        sh('printf %s "$TOKEN" | sha256sum')
        sh('echo $TOKEN | base64')
        sh('printf "user:%s" "$TOKEN" | base64')
        sh('printf %s "$TOKEN" | od -An -tx1 | tr -d " \\\\n"; echo')
        sh('env')
        sh('set -x; : "$TOKEN"; export -p')
        sh('echo "in one line: $TOKEN." >&2')
        """,
    )
    assert printed.job["state"] == "succeeded", printed.stdout
    out = printed.texts(source="stdout")
    assert out[0].startswith(SHA)
    assert out[1].startswith("[secret TOKEN]")
    assert "[secret TOKEN]" in out[2]
    assert out[3].startswith("[secret TOKEN]")
    assert "TOKEN=[secret TOKEN]" in out
    assert any("[secret TOKEN]" in text for text in printed.texts(source="stderr") if text.startswith("+"))
    assert "in one line: [secret TOKEN]." in printed.texts(source="stderr")


async def test_the_ways_that_it_is_accepted(run: Runner) -> None:
    printed = await run_with(
        run,
        f"""
        local t = secret.get("TOKEN")
        local function sum(options)
          options.command, options.args = "sh", {{ "-c", options.script }}
          options.script = nil
          return process.run(options).stdout:match("^%x+")
        end
        assert(sum({{ script = 'printf %s "$A" | sha256sum', env = {{ A = t }} }}) == "{SHA}")
        assert(sum({{ script = 'printf %s "$A" | sha256sum', secrets = {{ A = "TOKEN" }} }}) == "{SHA}")
        assert(sum({{ script = "sha256sum", stdin = t }}) == "{SHA}")
        assert(sum({{ script = 'printf %s "${{A#Bearer }}" | sha256sum', env = {{ A = "Bearer " .. t }} }}) == "{SHA}")
        assert(sum({{ script = 'printf %s "$A" | sha256sum', secrets = {{ A = "TOKEN" }}, user = "0" }}) == "{SHA}")
        sum({{ script = 'test -z "$TOKEN"', secrets = {{ A = "TOKEN" }} }})
        fs.write("token", t)
        assert(fs.stat("token").mode == "0600" and fs.hash("token") == "{SHA}")
        fs.write("open", t, {{ mode = "0640" }})
        assert(fs.stat("open").mode == "0640")
        assert(hash.sha256(t:reveal()) == "{SHA}")
        log.info(t, "and", "Bearer " .. t, {{ field = t }})
        """,
    )
    assert printed.job["state"] == "succeeded", printed.stdout
    assert "*** and Bearer ***" in printed.texts(source="lua")
    assert printed.texts(source="system").count("the script reads secret `TOKEN` in plain (`reveal`)") == 1


async def test_the_next_command_of_the_container_has_it_no_more(run: Runner) -> None:
    printed = await run_with(
        run,
        """
        process.run({ command = "sh", args = { "-c", "test -n \\"$TOKEN\\"" }, secrets = { "TOKEN" } })
        process.run({ command = "sh", args = { "-c", "test -z \\"$TOKEN\\"; ! env | grep -q TOKEN" } })
        local seen = process.run({ command = "sh", args = { "-c", "cat /.moonyard/*/request /proc/1/environ" } })
        assert(not seen.stdout:find(secret.get("TOKEN"):reveal(), 1, true))
        """,
    )
    assert printed.job["state"] == "succeeded", printed.stdout


async def test_the_value_stands_in_no_file_of_the_runner_while_the_command_runs(run: Runner) -> None:
    source = """return { name = "try", stages = { { name = "s", script = function()
      local wait = "echo ready; while [ ! -e go ]; do sleep 0.05; done"
      process.run({ command = "sh", args = { "-c", wait }, secrets = { "TOKEN" } })
    end } } }"""
    async with started(*run.arguments(source), "--secret", "TOKEN", cwd=run.folder, TOKEN=TOKEN) as running:
        line = await running.until(type="log", text="ready")
        assert files_with(run.state_folder, TOKEN.encode()) == []
        assert command_lines_with(TOKEN.encode()) == []
        workspaces = [path for path in run.state_folder.glob("owners/*/workspaces/*") if line["job"] in path.name]
        (workspaces[0] / "go").touch()
        assert await running.rest() == 0


def files_with(folder: Path, value: bytes) -> list[Path]:
    """List the small files in which a value stands."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "request" for path in files), "the command server's is among them"
    return [path for path in files if path.stat().st_size < 1 << 20 and value in path.read_bytes()]


def command_lines_with(value: bytes) -> list[str]:
    """List the processes of this machine in whose command lines a value stands."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended since
                if value in (process / "cmdline").read_bytes():
                    found.append(process.name)
    return found


async def test_errors_command_lines_and_outputs_do_not_show_it(run: Runner) -> None:
    printed = await run_with(
        run,
        """
        local plain = secret.get("TOKEN"):reveal()
        job.output("told", { "x" .. plain })
        log.info("in parts", { [ "field" ] = plain })
        log.group("group " .. plain, function() log.warn(plain) end)
        fs.write("file-" .. hash.md5("x"), plain)
        local ok, problem = pcall(process.run, { command = "sh", args = { "-c", "echo $0 >&2; exit 3", plain } })
        assert(not ok)
        pcall(process.run, { command = plain })
        fs.write("a", "b")
        local kept = artifact.save({ path = "a", name = "release of " .. secret.get("WORD"):reveal() })
        assert(kept.name == "release of [secret WORD]")
        error("it failed with " .. plain)
        """,
        "--secret",
        "WORD",
        WORD="a-word-of-its-own",
    )
    assert printed.job["state"] == "failed"
    assert "it failed with [secret TOKEN]" in printed.errors[-1].message
    assert any("[secret TOKEN]" in word for command in printed.commands() for word in command["argv"])
    assert any("[secret TOKEN]" in str(line.get("outputs")) for line in printed.lines)
    assert any("[secret TOKEN]" in str(line.get("fields")) for line in printed.lines)
    assert any("[secret TOKEN]" in str(line.get("group")) for line in printed.lines)
    assert "a-word-of-its-own" not in printed.stdout
    [kept] = (run.folder / ".moonyard" / "artifacts" / printed.job["id"]).iterdir()
    assert kept.name == "release of [secret WORD]"


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ('process.run({ command = "x", args = { "a", t } })', "args"),
        ("process.run({ command = t })", "command"),
        ('process.run({ command = "x", cwd = t })', "cwd"),
        ('http.request("http://x/", { method = t })', "method"),
        ('http.get("http://x/", { to = t })', "to"),
        ('fs.append("a", t)', "data"),
        ('fs.write(t, "a")', "path"),
        ('fs.write_json("a", { t })', "value"),
        ("json.encode({ a = t })", "value"),
        ("yaml.encode({ a = t })", "value"),
        ("base64.encode(t)", "data"),
        ("hash.sha256({ data = t })", "data"),
        ('hash.hmac("key", t)', "data"),
        ('job.output("a", t)', "value"),
        ('artifact.save({ path = "a", name = t })', "name"),
        ('container.run("docker.io/library/alpine:latest", { env = { A = t } }, function() end)', "env"),
    ],
)
async def test_anywhere_else_it_is_refused_by_the_arguments_name(run: Runner, call: str, argument: str) -> None:
    printed = await run_with(run, f'local t = secret.get("TOKEN")\n{call}')
    error = printed.errors[-1]
    assert error.code == "secret_not_accepted", printed.stdout
    assert f"`{argument}` is a secret" in error.message
    assert error.where == "try.lua:3"


async def test_one_that_was_not_given_says_how_to(run: Runner) -> None:
    printed = await run.script('process.run({ command = "env", secrets = { "DEPLOY_KEY" } })')
    error = printed.errors[-1]
    assert error.code == "secret_not_granted"
    assert "--secret DEPLOY_KEY" in str(error.hint)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('secrets = { "not a name" }', "is no secret's name"),
        ('secrets = { "TOKEN" }, env = { TOKEN = "x" }', "in `env` and in `secrets`"),
        ('secrets = { ["A=B"] = "TOKEN" }', "a name that no variable can have"),
        ("secrets = { 1 }", "must be a string"),
    ],
)
async def test_what_is_wrong_with_secrets_is_told(run: Runner, arguments: str, words: str) -> None:
    printed = await run_with(run, f'process.run({{ command = "env", {arguments} }})')
    assert words in printed.errors[-1].message


async def test_a_value_that_is_no_text_goes_where_bytes_may_and_nowhere_else(run: Runner) -> None:
    file = run.folder / "blob"
    value = b"\xff\xfe\x01blob-of-bytes\x80"
    file.write_bytes(value)
    file.chmod(0o600)
    digest = hashlib.sha256(value).hexdigest()
    printed = await run_with(
        run,
        f"""
        local b = secret.get("BLOB")
        assert(process.run({{ command = "sha256sum", stdin = b }}).stdout:match("^%x+") == "{digest}")
        fs.write("b", b)
        assert(fs.hash("b") == "{digest}" and hash.sha256(b:reveal()) == "{digest}")
        process.run({{ command = "cat", stdin = b }})
        process.run({{ command = "env", env = {{ B = b }} }})
        """,
        "--secret",
        f"BLOB=@{file}",
    )
    error = printed.errors[-1]
    assert error.code == "secret_not_text", printed.stdout
    assert "blob-of" not in printed.stdout


# --- how it is given


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
async def test_a_file_that_others_can_read_is_refused(run: Runner, mode: int) -> None:
    file = run.folder / "token"
    file.write_text(TOKEN)
    file.chmod(mode)
    for options in (["--secret", f"A=@{file}"], ["--secrets-file", str(file)]):
        printed = await moonyard(*run.arguments("return {}"), *options, cwd=run.folder)
        assert printed.code == 2
        assert "secret_file_open" in printed.stderr
        assert f"chmod 600 {file}" in printed.stderr
        assert TOKEN not in printed.stderr + printed.stdout


async def test_a_file_of_secrets_is_read_and_what_is_named_wins(run: Runner) -> None:
    file = run.folder / "secrets.env"
    file.write_text("# for a try\nexport ONE=\"first one: $HOME\"\nTOKEN=from-the-file\nTWO='line 1\nline 2'\n")
    file.chmod(0o600)
    printed = await run_with(
        run,
        f"""
        assert(secret.get("ONE"):reveal() == "first one: $HOME")
        assert(secret.get("TWO"):reveal() == "line 1\\nline 2")
        assert(hash.sha256(secret.get("TOKEN"):reveal()) == "{SHA}")
        """,
        "--secrets-file",
        str(file),
    )
    assert printed.job["state"] == "succeeded", printed.stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--secret", "A=the-value-itself"], "usage", "everybody on this machine can read a command line"),
        (["--secret", "NOT_THERE"], "secret_unusable", "there is no environment variable NOT_THERE"),
        (["--secret", "A=@/no/such/file"], "secret_unusable", "cannot be read"),
        (["--secret", "a-b"], "usage", "no secret's name"),
        (["--secret", "TOKEN", "--secret", "TOKEN"], "usage", "given twice"),
        (["--secret", "EMPTY"], "secret_unusable", "is empty"),
    ],
)
async def test_what_cannot_be_given_is_told_and_never_shown(
    run: Runner, options: list[str], code: str, words: str
) -> None:
    printed = await moonyard(*run.arguments("return {}"), *options, cwd=run.folder, TOKEN=TOKEN, EMPTY="")
    assert printed.code == 2
    error = printed.job["error"]
    assert isinstance(error, dict)
    assert (error["code"], words in error["message"]) == (code, True), error
    assert "the-value-itself" not in printed.stdout + printed.stderr


async def test_a_short_value_is_warned_about(run: Runner) -> None:
    printed = await moonyard(
        *run.arguments(
            'return { name = "try", stages = { { name = "s", script = function() secret.get("PIN") end } } }'
        ),
        "--secret",
        "PIN",
        cwd=run.folder,
        PIN="1234",
    )
    assert printed.job["state"] == "succeeded"
    assert any("secret `PIN`: it is shorter" in text for text in printed.texts(level="warn", source="system"))


async def test_own_patterns_of_the_settings_file_count(run: Runner) -> None:
    (run.folder / "moonyard.toml").write_text('[redact]\npatterns = { internal = "itk_[a-z]{12}" }\n')
    printed = await run.script(
        'log.info("itk_abcdefghijkl"); process.run({ command = "echo", args = { "itk_abcdefghijkl" } })'
    )
    assert printed.job["state"] == "succeeded", printed.stdout
    assert "itk_a" not in printed.stdout
    (run.folder / "moonyard.toml").write_text('[redact]\noff = ["no-such-kind"]\n')
    printed = await run.script("")
    assert printed.code == 2
    assert "no-such-kind" in printed.stderr
    assert "settings_invalid" in printed.stderr


# --- http


class Recorded:
    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []


async def served(recorded: Recorded, other: str | None = None) -> web.AppRunner:
    async def answer(request: web.Request) -> web.StreamResponse:
        recorded.seen.append((request.path, dict(request.headers), await request.read()))
        if request.path == "/away":
            raise web.HTTPTemporaryRedirect(f"{other}/landed")
        if request.path.startswith("/hidden"):
            return web.Response(status=404, text=f"Cannot {request.method} {request.raw_path} on {request.host}")
        if request.path == "/refuse":
            return web.Response(status=401, text=f"bad token {request.headers.get('X-Key')}")
        return web.json_response({"ok": True})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


def address(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


async def test_http_takes_it_in_headers_auth_and_bodies_and_sends_it_nowhere_else(run: Runner) -> None:
    there, here = Recorded(), Recorded()
    other = await served(there)
    server = await served(here, address(other))
    try:
        url = address(server)
        printed = await run_with(
            run,
            f"""
            local t = secret.get("TOKEN")
            http.get("{url}/header", {{ headers = {{ ["X-Key"] = t, Authorization = "Bearer " .. t }} }})
            http.get("{url}/auth", {{ auth = {{ bearer = t }} }})
            http.post("{url}/json", {{ json = {{ a = {{ {{ b = t }} }} }} }})
            http.post("{url}/form", {{ form = {{ a = t }} }})
            http.post("{url}/body", {{ body = "x" .. t }})
            http.get("{url}/away", {{ headers = {{ ["X-Key"] = t, ["X-Other"] = "y" }} }})
            local ok, problem = pcall(http.post, "{url}/away", {{ body = t }})
            assert(not ok and problem.message:find("the body holds a secret"), tostring(problem))
            http.get("{url}/refuse", {{ headers = {{ ["X-Key"] = t }} }})
            """,
            "--http-allowed",
            "127.0.0.1",
        )
    finally:
        await server.cleanup()
        await other.cleanup()
    assert printed.errors[-1].code == "http_status", printed.stdout
    assert "bad token [secret TOKEN]" in printed.errors[-1].message
    by_path: dict[str, Any] = {path: (headers, body) for path, headers, body in here.seen}
    assert by_path["/header"][0]["X-Key"] == TOKEN
    assert by_path["/header"][0]["Authorization"] == f"Bearer {TOKEN}"
    assert by_path["/auth"][0]["Authorization"] == f"Bearer {TOKEN}"
    assert json.loads(by_path["/json"][1]) == {"a": [{"b": TOKEN}]}
    assert by_path["/body"][1] == b"x" + TOKEN.encode()
    assert [path for path, _, _ in there.seen] == ["/landed"]
    assert "X-Key" not in there.seen[0][1]
    assert there.seen[0][1]["X-Other"] == "y"
    assert any("unencrypted" in text for text in printed.texts(level="warn", source="system"))


HIDDEN = "/hidden/T00000001/B00000001/wW7pZk3q-Xy2"


async def test_a_url_that_is_a_secret_is_asked_and_shown_nowhere(run: Runner) -> None:
    there, here = Recorded(), Recorded()
    other = await served(there)
    server = await served(here, address(other))
    url = address(server)
    hook = url.replace("127.0.0.1", "localhost") + HIDDEN
    try:
        printed = await run_with(
            run,
            f"""
            local t, hook = secret.get("TOKEN"), secret.get("HOOK")
            local function told(f, ...)
              local ok, problem = pcall(f, ...)
              log.info(ok and problem.status .. " " .. problem.url or problem.code .. ": " .. problem.message)
            end
            told(http.post, hook, {{ json = {{ text = "x" }} }})
            told(http.post, hook .. "?wait=" .. t, {{ body = "x", check = false }})
            local bot = "{url}/bot" .. secret.get("WORD")
            told(http.get, bot .. "/send", {{ query = {{ key = t, list = {{ t, "b" }} }} }})
            told(http.get, "{url}/hidden", {{ query = {{ key = t }} }})
            told(http.client({{ base_url = hook }}).get, "/more", {{ retries = 0 }})
            told(http.get, secret.get("CLOSED"), {{ retries = 1 }})
            told(http.get, secret.get("LOCAL"))
            told(http.get, secret.get("NOWHERE"), {{ retries = 0 }})
            told(http.get, t)
            told(http.get, hook .. "\\n")
            told(http.get, "{url}/away", {{ query = {{ key = t }} }})
            log.info(http.post(hook, {{ body = "x", check = false }}).body)
            """,
            *(part for name in ("HOOK", "WORD", "CLOSED", "LOCAL", "NOWHERE") for part in ("--secret", name)),
            *("--http-allowed", "localhost", "--http-allowed", f"127.0.0.1:{server.addresses[0][1]}"),
            *("--http-allowed", f"127.0.0.1:{other.addresses[0][1]}"),
            HOOK=hook,
            WORD="wW7pZk3q+Xy2/9",
            CLOSED="http://localhost:1/services/closed-and-private",
            LOCAL="http://127.0.0.3:8123/services/local-and-private",
            NOWHERE="http://private-host.invalid/services/nowhere",
        )
    finally:
        await server.cleanup()
        await other.cleanup()
    assert printed.job["state"] == "succeeded", printed.stdout
    for private in (
        *("T00000001", "B00000001", "wW7pZk3q", "closed-and-private", "local-and-private", "127.0.0.3"),
        *("private-host", 'nowhere"'),
    ):
        assert private not in printed.stdout, private
    paths = [path for path, _, _ in here.seen]
    assert paths == [HIDDEN, HIDDEN, "/botwW7pZk3q+Xy2/9/send", "/hidden", f"{HIDDEN}/more", "/away", HIDDEN]
    assert [path for path, _, _ in there.seen] == ["/landed"]
    said = printed.texts(source="lua")
    assert not [text for text in said[:11] if "localhost" in text]
    refused = "http_status: http.post: POST *** answered 404 Not Found: Cannot POST [secret HOOK] on ***"
    assert said[0].startswith(refused)
    assert said[1] == "404 ***"
    assert said[2] == f"200 {url}/bot***/send"
    assert said[3].startswith(f"http_status: http.get: GET {url}/hidden answered 404 Not Found: Cannot GET ***")
    assert said[4].startswith("http_status: http.get: GET ***/more answered 404 Not Found: Cannot GET [secret HOOK]/")
    assert said[5] == "http_failed: http.get: *** cannot be reached: connection refused"
    assert said[6].startswith("http_refused: jobs may not connect to `***`")
    assert said[7] == "http_failed: http.get: *** cannot be reached: there is no such host"
    assert said[8].startswith("argument_invalid: http.get: `url` must begin with http:// or https://")
    assert said[8].endswith("got '***'")
    assert said[9] == "argument_invalid: http.get: `url` has a line break, or another control character, in it"
    assert said[10] == f"200 the place that {url}/away redirects to"
    assert said[11].startswith("Cannot POST [secret HOOK] on ")
    assert "http.post: a secret is sent to *** unencrypted (`http://`)" in printed.texts(source="system")


async def test_a_signature_is_made_with_a_key_that_the_script_never_has(run: Runner) -> None:
    printed = await run_with(
        run,
        """
        local t = secret.get("TOKEN")
        log.info(hash.hmac(t, "body"))
        log.info(hash.hmac({ key = "AWS4" .. t, data = "20261127", encoding = "base64", algorithm = "sha512" }))
        local derived = hash.hmac("AWS4" .. t, "20261127", { encoding = "bytes" })
        log.info(hash.hmac(derived, "region", { algorithm = "sha1" }))
        log.info(pcall(hash.hmac, t, "body", { algorithm = "md5" }))
        log.info(pcall(hash.hmac, t))
        """,
    )
    assert printed.job["state"] == "succeeded", printed.stdout
    key, derived = TOKEN.encode(), f"AWS4{TOKEN}".encode()
    first, second, third, unknown, missing = printed.texts(source="lua")
    assert first == hmac.new(key, b"body", "sha256").hexdigest()
    assert second == base64.b64encode(hmac.digest(derived, b"20261127", "sha512")).decode()
    assert third == hmac.new(hmac.digest(derived, b"20261127", "sha256"), b"region", "sha1").hexdigest()
    assert 'hash.hmac: `algorithm` must be one of "sha256", "sha512", "sha1", got "md5"' in unknown
    assert "hash.hmac: `data` is required" in missing
    assert not [text for text in printed.texts(source="system") if "reveal" in text]


# --- the example


async def test_the_example_runs(run: Runner) -> None:
    example = ROOT / "examples" / "secrets.lua"
    printed = await moonyard(
        "run", str(example), "--json", "--state-folder", str(run.state_folder), "--secret", "DEPLOY_TOKEN",
        cwd=run.folder, DEPLOY_TOKEN=TOKEN,
    )  # fmt: skip
    assert printed.job["state"] == "succeeded", printed.stdout
    unseen(printed, TOKEN)
    assert "[secret DEPLOY_TOKEN]" in printed.stdout
    assert os.environ.get("DEPLOY_TOKEN") is None
    assert isinstance(printed.job["error"], type(None) | ErrorInfo)
