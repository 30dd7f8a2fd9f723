"""``moonyard plugin``, and plugins in jobs of ``moonyard run``: with real commands and containers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from tests.cli.command import moonyard, started
from tests.cli.conftest import Runner
from tests.plugins.made import files, operation, write

ALPINE = "docker.io/library/alpine:latest"


def use(names: str, body: str, more: str = "") -> str:
    stage = f'{{ name = "s", script = function()\n{body}\nend }}'
    return f'return {{ name = "p", plugins = {{ {names} }}, stages = {{ {stage} }}{more} }}'


async def test_a_new_plugin_passes_its_own_tests_and_is_shown_and_run(run: Runner, tmp_path: Path):
    made = await moonyard("plugin", "new", "hello", cwd=tmp_path)
    assert (made.code, made.stdout) == (0, "plugin hello is in hello/: `moonyard plugin test hello` runs its tests\n")
    tested = await moonyard("plugin", "test", "hello", "--json", cwd=tmp_path)
    assert tested.code == 0, tested.stdout + tested.stderr
    assert tested.lines[-1]["passed"] == 3
    shown = await moonyard("plugin", "show", "hello", cwd=tmp_path)
    assert shown.code == 0
    assert "hello.greet(who)" in shown.stdout
    assert "times  integer, default 1  how often" in shown.stdout
    assert "raises hello_speechless: the container has no `echo`" in shown.stdout
    told = await moonyard("plugin", "show", "hello", "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["description"]["operations"]["greet"]["positional"] == ["who"]
    printed = await run(use('{ name = "hello", folder = "hello" }', 'log.info(hello.greet("you").text)'))
    assert printed.code == 0, printed.stdout
    assert "hello, you" in printed.texts(source="stdout")
    again = await moonyard("plugin", "new", "hello", cwd=tmp_path)
    assert (again.code, "is there already" in again.stderr) == (2, True)
    for name in ("Hello", "end", "git"):
        assert (await moonyard("plugin", "new", name, cwd=tmp_path)).code == 2


async def test_plugins_of_this_machine_are_listed(tmp_path: Path):
    write(tmp_path / "plugins" / "mine", files(init=operation("return nil")))
    listed = await moonyard("plugin", "list", "--local", "--json", "--plugin-folder", "plugins", cwd=tmp_path)
    assert {(row["name"], row["origin"]) for row in listed.lines} >= {("git", "shipped"), ("mine", "folder")}
    shown = await moonyard("plugin", "show", "mine", cwd=tmp_path, MOONYARD_PLUGIN_FOLDER="plugins")
    assert shown.stdout.startswith("mine 1.0.0  (folder, ")


async def test_a_job_has_plugins_of_the_folder_of_the_pipeline_and_of_git(run: Runner, tmp_path: Path):
    gives = 'gives = { who = { type = "string" } }'
    write(tmp_path / "all" / "one", files("one", operation("return { who = 'one' }", gives)))
    write(tmp_path / "beside" / "two", files("two", operation("return { who = 'two' }", gives)))
    write(tmp_path / "repository", files("three", operation("return { who = 'three' }", gives)))
    script = "git init -q . && git add -A && git -c user.name=A -c user.email=a@b commit -q -m 1 && git rev-parse HEAD"
    done = await anyio.run_process(["sh", "-c", script], cwd=tmp_path / "repository")
    names = (
        '"one@1", { name = "two", folder = "beside/two" }, '
        f'{{ name = "three", git = "file://{tmp_path}/repository", commit = "{done.stdout.decode().strip()}" }}'
    )
    body = "log.info(one.run().who .. two.run().who .. three.run().who)"
    printed = await run(use(names, body), "--plugin-folder", str(tmp_path / "all"))
    assert printed.code == 0, printed.stdout
    assert printed.texts(source="lua") == ["onetwothree"]


async def test_setup_and_teardown_run_around_all_stages_whatever_becomes_of_them(run: Runner, tmp_path: Path):
    init = f"""
    plugin.setup(function()
      container.run("{ALPINE}", function() process.run({{ command = "touch", args = {{ "made" }} }}) end)
    end)
    plugin.teardown(function()
      log.info("down: " .. process.run({{ command = "ls", stdout = "off" }}).stdout)
      error("teardown broke")
    end)
    """
    write(tmp_path / "mine", files(init=init, modules=["container", "log", "process"], images=[ALPINE]))
    use_mine = use(
        '{ name = "mine", folder = "mine" }',
        'assert(process.run({ command = "ls", stdout = "off" }).stdout == "made\\n") error("stage broke")',
        ', finally = { { name = "f", script = function() log.info("finally") end } }',
    )
    printed = await run(use_mine)
    assert printed.code == 1
    assert "stage broke" in printed.job["error"]["message"]
    assert printed.texts(source="lua") == ["finally", "down: made", ""]
    [told] = printed.texts(source="system", level="warn")
    assert "the teardown of plugin `mine` failed: " in told
    assert {line["stage"] for line in printed.lines if line["type"] == "command"} == {"plugin:mine", "s"}


async def test_a_setup_that_fails_fails_the_job_and_what_was_set_up_is_torn_down(run: Runner, tmp_path: Path):
    first = 'plugin.setup(function() log.info("first up") end) plugin.teardown(function() log.info("first down") end)'
    second = 'plugin.setup(function() error("no") end) plugin.teardown(function() log.info("second down") end)'
    write(tmp_path / "first", files("first", first, modules=["log"]))
    write(tmp_path / "second", files("second", second, modules=["log"], plugins=["first"]))
    names = '{ name = "second", folder = "second" }, { name = "first", folder = "first" }'
    printed = await run(use(names, 'log.info("never")'))
    assert printed.code == 1
    assert printed.job["error"]["code"] == "plugin_setup_failed"
    assert printed.texts(source="lua") == ["first up", "second down", "first down"]
    assert [line["state"] for line in printed.lines if line["type"] == "stage"] == ["skipped"]


async def test_a_cancel_ends_a_setup_and_what_was_set_up_is_torn_down(run: Runner, tmp_path: Path):
    init = """
    plugin.setup(function()
      process.run({ command = "sh", args = { "-c", "echo begun; while :; do sleep 0.05; done" } })
    end)
    plugin.teardown(function() log.info("down") end)
    """
    write(tmp_path / "mine", files(init=init, modules=["log", "process"]))
    arguments = run.arguments(use('{ name = "mine", folder = "mine" }', 'log.info("never")'))
    async with started(*arguments, cwd=tmp_path) as running:
        await running.until(type="log", text="begun")
        running.process.send_signal(signal.SIGINT)
        assert await running.rest() == 1
        assert running.lines[-1]["state"] == "cancelled"
        assert [line["text"] for line in running.lines if line.get("source") == "lua"] == ["down"]
        assert [line["state"] for line in running.lines if line["type"] == "stage"] == ["skipped"]


@pytest.mark.parametrize(
    ("init", "manifest", "words"),
    [
        (operation(f'container.run("{ALPINE}", function() end)'), {"modules": ["container"]},
         f"uses the image `{ALPINE}` and does not declare it"),
        (operation('http.get("http://127.0.0.1:1/")'), {"modules": ["http"], "hosts": ["example.org", "127.0.0.1:2"]},
         "uses the host `127.0.0.1` and does not declare it"),
        (operation('secret.get("TOKEN")'), {"modules": ["secret"], "secrets": ["OTHER"]},
         "uses the secret `TOKEN` and does not declare it"),
        (operation('fs.exists("x")'), {}, "uses the module `fs` and does not declare it"),
    ],
)  # fmt: skip
async def test_what_a_manifest_does_not_say_is_refused(
    run: Runner, tmp_path: Path, init: str, manifest: dict[str, list[str]], words: str
):
    write(tmp_path / "mine", files("mine", init, "1.0.0", None, **manifest))
    printed = await run(use('{ name = "mine", folder = "mine" }', "mine.run()"))
    assert printed.code == 1
    codes = [error.code for error in printed.errors]
    assert codes[-1] == "plugin_undeclared", printed.errors
    assert words in printed.errors[-1].message
    assert printed.errors[-1].hint is not None


async def test_a_plugin_asks_the_hosts_that_it_declares_and_follows_no_redirect_to_others(run: Runner, tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/away":
            raise web.HTTPFound(f"http://127.0.0.1:{request.url.port}/")
        return web.Response(text="here")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    serving = web.AppRunner(application)
    await serving.setup()
    try:
        await web.TCPSite(serving, "127.0.0.1", 0).start()
        port = serving.addresses[0][1]
        init = """
        plugin.operation("ask", {
          description = "Asks.", positional = { "url" }, arguments = { url = { type = "string" } },
          gives = { text = { type = "string" } },
        }, function(arguments)
          local ok, problem = pcall(http.get, arguments.url)
          return { text = ok and problem.body or problem.code }
        end)
        """
        write(tmp_path / "mine", files(init=init, modules=["http"], hosts=[f"LOCALHOST:{port}"]))
        body = "\n".join(f'log.info(mine.ask("http://{place}").text)' for place in (
            f"localhost:{port}/", f"localhost:{port}/away", f"127.0.0.1:{port}/", f"localhost:{port + 1}/"
        ))  # fmt: skip
        named = use('{ name = "mine", folder = "mine" }', body)
        printed = await run(named, "--http-allowed", "127.0.0.1")
        assert printed.code == 0, printed.stdout
        assert printed.texts(source="lua") == ["here", *["plugin_undeclared"] * 3]
        # What a manifest says gives no right that there was not.
        refused = await run(use('{ name = "mine", folder = "mine" }', body.splitlines()[0]))
        assert refused.texts(source="lua") == ["http_refused"]
    finally:
        await serving.cleanup()
