"""``job``, ``env``, ``parallel``, ``retry``, ``artifact`` and the rest in real pipelines, beside real containers."""

from __future__ import annotations

import tarfile
from pathlib import Path

from backports import zstd

from tests.cli.command import moonyard, started
from tests.cli.conftest import Runner
from tests.cli.job_lines import SHELL, succeeded
from tests.cli.test_files import example

SECTIONS = ("job and env", "parallel, retry and sleep", "regex", "semver", "template", "log", "artifact", "time")
REPORT = """<testsuite name="unit"><testcase name="good" time="0.5"/>
<testcase name="bad"><failure message="1 is not 2"/></testcase></testsuite>"""


async def test_the_examples_of_the_reference_run(run: Runner) -> None:
    stages = ", ".join(
        f'{{ name = "s{number}", script = function(job)\n{example(section)}\nend }}'
        for number, section in enumerate(SECTIONS)
    )
    succeeded(await run(f'return {{ name = "try", stages = {{ {stages} }} }}'))


async def test_outputs_reach_later_stages_and_the_events(run: Runner) -> None:
    printed = succeeded(
        await run("""
    return { name = "try", env = { LEVEL = 3 }, stages = {
      { name = "a", retries = 1, script = function(job)
          tries = (tries or 0) + 1
          job.output("try", tries)
          if tries == 1 then job.output("gone", true) error("again") end
          job.output("list", { 1, { x = "ü" } })
        end },
      { name = "b", when = function(job) return job.outputs.try == 2 end, script = function(job)
          log.info(job.outputs.try, job.outputs.gone, job.outputs.list[2].x, job.stages.a, job.stage, job.trigger.kind)
          log.info(select(2, pcall(job.output, "try", 1)).code, #job.version)
          local said = process.run({ command = "sh", args = { "-c", "echo $LEVEL $MOONYARD_PIPELINE" } }).stdout
          log.info(said, env.get("LEVEL"))
        end },
    } }""")
    )
    assert printed.texts(source="lua") == ["2 nil ü succeeded b run", "output_refused 64", "3 try", " 3"]
    ends = [line for line in printed.lines if line["type"] == "stage" and line["state"] in {"failed", "succeeded"}]
    assert [line.get("outputs") for line in ends] == [
        {"try": 1, "gone": True},
        {"try": 2, "list": [1, {"x": "ü"}]},
        None,
    ]


async def test_what_a_group_says_stands_below_its_name(run: Runner, tmp_path: Path) -> None:
    source = """return { name = "try", stages = { { name = "s", script = function()
      log.group("compile", function()
        process.run({ command = "echo", args = { "from the command" } })
        log.info("done", { files = 3, note = "two words" })
      end)
      log.info("outside")
    end } } }"""
    printed = succeeded(await run(source))
    logs = {line["text"]: line for line in printed.lines if line["type"] == "log" and line["source"] != "system"}
    assert logs["compile"]["heading"] is True
    assert logs["from the command"]["group"] == logs["done"]["group"] == ["compile"]
    assert logs["done"]["fields"] == {"files": 3, "note": "two words"}
    assert not {"group", "fields", "heading"} & logs["outside"].keys()
    assert printed.commands()[0]["group"] == ["compile"]
    shown = await moonyard("run", "try.lua", "--state-folder", str(run.state_folder), cwd=tmp_path)
    lines = [
        line[15:].rstrip() for line in shown.stdout.splitlines() if "▾" in line or "│" in line or "outside" in line
    ]
    assert lines[0].endswith("▾ compile")
    assert lines[-1].endswith("outside")
    assert any("│ from the command" in line for line in lines)
    assert any('│ done  files=3  note="two words"' in line for line in lines)


async def test_commands_of_functions_at_once_run_at_once_and_end_with_the_first_failure(run: Runner) -> None:
    printed = succeeded(
        await run.script(
            SHELL
            + """
    sh("mkfifo a b")
    parallel({
      function() sh("echo x > a; cat b") end,
      function() sh("cat a; echo y > b") end,
    })
    local ok, problem = pcall(parallel, {
      function() sh("trap 'echo stopped; exit 3' TERM; echo started > a; while :; do sleep 0.05; done") end,
      function() sh("cat a; exit 7", { check = true }) end,
    })
    log.info(ok, problem.code)
    log.info(process.run({ command = "echo", args = { "after" } }).ok)
"""
        )
    )
    assert printed.texts(source="lua") == ["false command_failed", "true"]
    # The one that was ended is in the record as stopped, and nothing of it is left to write after that.
    assert [line["error"]["code"] for line in printed.commands() if line["error"]] == ["command_stopped"]
    assert printed.commands()[-1]["argv"] == ["echo", "after"]


async def test_artifacts_are_kept_packed_fetched_and_listed(run: Runner, tmp_path: Path) -> None:
    printed = succeeded(
        await run.script(
            SHELL
            + """
    sh("mkdir -p dist/bin && echo one > dist/a.txt && echo two > dist/b.txt")
    sh("echo tool > dist/bin/tool && chmod 755 dist/bin/tool")
    sh("ln -s a.txt dist/link; touch dist/skip.tmp")
    local folder = artifact.save("dist", { exclude = { "**/*.tmp" } })
    local again = artifact.save("dist", { exclude = { "**/*.tmp" }, name = "again.tar.zst" })
    log.info(folder.name, folder.sha256 == again.sha256)
    for _, kept in ipairs(artifact.save({ glob = "dist/*.txt" })) do log.info(kept.name, kept.size) end
    log.info(artifact.save({ glob = "dist/**/*.txt", name = "texts.zip", retention = "90d" }).name)
    for _, one in ipairs(artifact.list()) do log.info(one.name, one.content_type, one.stage) end
    local fetched = artifact.fetch("dist.tar.zst", { to = "back", extract = true })
    log.info(fetched.files, fs.read("back/link"), fs.stat("back/bin/tool").mode)
    log.info(artifact.fetch("dist/a.txt", { to = "x/y/z.txt" }).to, fs.read("x/y/z.txt"))
    local function code(...) return select(2, pcall(...)).code end
    log.info(code(artifact.fetch, "nothing"), code(artifact.fetch, "a", { job = 1 }))
    log.info(code(artifact.fetch, "dist/a.txt", { to = "../out" }))
    log.info(code(artifact.save, { glob = "no/*.such" }), code(artifact.save, {}))
"""
        )
    )
    assert printed.texts(source="lua") == [
        "dist.tar.zst true",
        "dist/a.txt 4",
        "dist/b.txt 4",
        "texts.zip",
        "again.tar.zst application/zstd s",
        "dist.tar.zst application/zstd s",
        "dist/a.txt text/plain s",
        "dist/b.txt text/plain s",
        "texts.zip application/zip s",
        "3 one",
        " 0777",
        "x/y/z.txt one",
        "",
        "artifact_unknown artifact_unknown",
        "path_refused",
        "argument_invalid argument_invalid",
    ]
    [packed] = (tmp_path / ".moonyard" / "artifacts").rglob("dist.tar.zst")
    with zstd.open(packed, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        assert [entry.name for entry in tar] == ["a.txt", "b.txt", "bin", "bin/tool", "link"]


async def test_a_test_report_is_counted(run: Runner) -> None:
    printed = succeeded(
        await run.script(f"""
    fs.mkdir("reports")
    fs.write("reports/unit.xml", [[{REPORT}]])
    local result = artifact.test_report("reports/*.xml")
    log.info(result.tests, result.passed, result.failed, result.errors, result.skipped, result.duration, result.ok)
    fs.write("broken.xml", "<testsuite>")
    log.info(select(2, pcall(artifact.test_report, "broken.xml")).code)
    log.info(select(2, pcall(artifact.test_report, "none.xml")).code)
""")
    )
    assert printed.texts(source="lua") == ["2 1 1 0 0 0.5 false", "report_invalid", "argument_invalid"]
    assert "test report reports/unit.xml: 1 passed, 1 failed" in printed.texts(source="system", level="warn")


async def test_a_condition_may_compute_and_do_nothing(run: Runner) -> None:
    printed = await run("""
    return { name = "try", stages = {
      { name = "yes", script = function() log.info("ran") end, when = function(job)
          return regex.match("v1.2", "v[0-9]") and semver.satisfies("1.2.3", "^1")
            and template.render("{{a}}", { a = 1 }) == "1"
            and time.format(0) == "1970-01-01T00:00:00.000Z" and env.get("CI") == "true"
        end },
      { name = "no", script = function() end, when = function() job.output("a", 1) end },
    } }""")
    assert printed.texts(source="lua") == ["ran"]
    assert printed.errors[-1].code == "call_in_condition"


async def test_an_artifact_that_somebody_changed_is_not_fetched(run: Runner, tmp_path: Path) -> None:
    async with started(
        *run.arguments("""return { name = "try", stages = { { name = "s", script = function()
      fs.write("a", "content")
      artifact.save("a")
      log.info("kept")
      local ok, problem = pcall(function()
        for _ = 1, 500 do artifact.fetch("a", { to = "b" }) sleep("20ms") end
      end)
      log.info(ok, ok or problem.code)
    end } } }"""),
        cwd=tmp_path,
    ) as running:
        await running.until(type="log", text="kept")
        [kept] = (tmp_path / ".moonyard" / "artifacts").rglob("a")
        kept.write_text("something else", encoding="utf-8")
        assert await running.rest() == 0
    assert [line["text"] for line in running.lines if line.get("source") == "lua"] == ["kept", "false artifact_damaged"]
