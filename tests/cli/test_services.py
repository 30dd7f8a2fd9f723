"""Services: started and ready before what needs them, reachable by name, in the log, and gone at the end."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio

from tests.cli.command import ROOT, Printed, started
from tests.cli.conftest import Runner
from tests.cli.job_lines import nothing_is_left, shape, succeeded

PYTHON = "docker.io/library/python:3.11"
SAYS = """
local function server(word, port, ready)
  return {
    image = "docker.io/library/python:3.11",
    env = { WORD = word },
    command = { "python3", "-uc", [[
import http.server, os
class Says(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ["WORD"].encode())
print("listening", flush=True)
http.server.HTTPServer(("0.0.0.0", ]] .. port .. [[), Says).serve_forever()
]] },
    ready = ready or { port = port },
  }
end
local function ask(...)
  local r = process.run({ command = "python3", args = { "-c", [[
import sys, urllib.request
for url in sys.argv[1:]:
    try: print(urllib.request.urlopen("http://" + url, timeout=3).read().decode())
    except OSError as error: print("no:", getattr(error, "reason", error))
]], ... }, stdout = "off" })
  return (r.stdout:gsub("\\n", ";"))
end
"""


async def networks_of(job: str) -> list[str]:
    command = ["podman", "network", "ls", "--quiet", "--filter", f"label=moonyard.job={job}"]
    return (await anyio.run_process(command)).stdout.decode().split()


async def gone(printed: Printed, state_folder: Path) -> None:
    shape(printed.lines)
    await nothing_is_left(printed.job["job"], state_folder)
    assert await networks_of(printed.job["job"]) == []


async def test_the_example_asks_a_server_beside_the_job(run: Runner) -> None:
    example = await anyio.Path(ROOT / "examples" / "services.lua").read_text(encoding="utf-8")
    assert succeeded(await run(example)).texts(source="lua") == ["it said: hello from beside"]


async def test_services_of_job_and_stage_are_reached_by_name_and_each_stage_has_its_own(run: Runner) -> None:
    printed = await run(
        SAYS
        + f"""
return {{ name = "p",
  services = {{ web = server("the job's", 8000) }},
  stages = {{
    {{ name = "default", script = function()
      local hosts = process.run({{ command = "cat", args = {{ "/etc/hosts" }}, stdout = "off" }}).stdout
      log.info("default: " .. (hosts:match("%d+%.%d+%.%d+%.%d+%s+web") and "has web" or hosts))
      container.run("{PYTHON}", function() log.info("block: " .. ask("web:8000", "db:1")) end)
      container.run("{PYTHON}", {{ network = "none" }}, function() log.info("none: " .. ask("web:8000")) end)
    end }},
    {{ name = "left", container = "{PYTHON}", needs = {{ "default" }}, services = {{ db = server("left's", 7000) }},
      script = function() log.info("left: " .. ask("web:8000", "db:7000")) end }},
    {{ name = "right", container = "{PYTHON}", needs = {{ "default" }},
      services = {{ db = server("right's", 7000), web = server("not the job's", 8000) }},
      script = function() log.info("right: " .. ask("web:8000", "db:7000")) end }},
  }},
}}"""
    )
    succeeded(printed)
    said = {text.partition(":")[0]: text.partition(": ")[2].split(";")[:-1] for text in printed.texts(source="lua")}
    assert printed.texts(source="lua")[0] == "default: has web"
    assert said["block"][0] == "the job's"
    assert said["block"][1].startswith("no:")
    assert said["none"][0].startswith("no:")
    assert said["left"] == ["the job's", "left's"]
    assert said["right"] == ["not the job's", "right's"]
    services = [line for line in printed.lines if line["type"] == "log" and line["source"] == "service"]
    assert {(line["stage"], line["service"]) for line in services if line["text"] == "listening"} == {
        (None, "web"),
        ("left", "db"),
        ("right", "db"),
        ("right", "web"),
    }
    assert all("service" not in line for line in printed.lines if line not in services)
    await gone(printed, run.state_folder)


async def test_jobs_do_not_reach_each_others_services(run: Runner) -> None:
    source = (
        SAYS
        + f"""
return {{ name = "p", services = {{ web = server("mine", 8000) }},
  stages = {{ {{ name = "s", container = "{PYTHON}", script = function()
    local hosts = process.run({{ command = "cat", args = {{ "/etc/hosts" }}, stdout = "off" }}).stdout
    log.info("address " .. hosts:match("(%d+%.%d+%.%d+%.%d+)%s+web"))
    process.run({{ command = "sleep", args = {{ "1000" }} }})
  end }} }} }}"""
    )
    strange = (
        SAYS
        + f"""
local function try(job) log.info(ask(job.inputs.address .. ":8000")) end
return {{ name = "p", inputs = {{ address = {{ type = "string" }} }}, stages = {{
  {{ name = "without", container = "{PYTHON}", script = try }},
  {{ name = "with", container = "{PYTHON}", services = {{ own = server("own", 8000) }}, script = try }},
}} }}"""
    )
    async with started(*run.arguments(source), cwd=run.folder) as other:
        address = ""
        while not address.startswith("address "):
            address = str((await other.next_line()).get("text", ""))
        printed = await run(strange, "--input", f"address={address.removeprefix('address ')}")
        assert [text[:3] for text in succeeded(printed).texts(source="lua")] == ["no:", "no:"]
        other.process.send_signal(signal.SIGINT)
        await other.rest()
    job = other.lines[-1]
    assert job["state"] == "cancelled"
    await nothing_is_left(job["job"], run.state_folder)
    assert await networks_of(job["job"]) == []


async def test_a_service_that_ends_before_it_is_ready_fails_the_job_with_its_last_words(run: Runner) -> None:
    printed = await run(
        """
return { name = "p",
  services = { db = { image = "docker.io/library/alpine:latest", ready = { port = 5432 },
    command = { "sh", "-c", "for i in 1 2 3 4 5 6 7; do echo line $i; done; echo 'no password' >&2; exit 3" } } },
  stages = { { name = "s", script = function() log.info("never") end } },
  finally = { { name = "after", script = function() log.info("afterwards") end } },
}"""
    )
    assert printed.code == 1
    assert [error.code for error in printed.errors] == ["service_failed"]
    message = printed.errors[0].message
    assert (
        "service `db` (image `docker.io/library/alpine:latest`) ended with exit code 3 before it was ready" in message
    )
    assert message.endswith("line 4 | line 5 | line 6 | line 7 | no password")
    assert printed.texts(source="lua") == ["afterwards"]
    assert len(printed.texts(source="service")) == 8
    await gone(printed, run.state_folder)


async def test_a_stage_tries_again_with_services_made_anew(run: Runner) -> None:
    printed = await run(
        """
local tries = 0
return { name = "p", stages = { { name = "s", retries = 2,
  services = { db = { image = "docker.io/library/alpine:latest", command = { "sh", "-c", "echo up; sleep 1000" },
    ready = { command = { "true" } } } },
  script = function()
    tries = tries + 1
    if tries < 3 then error("once more", 0) end
  end } } }"""
    )
    assert succeeded(printed).texts(source="service") == ["up", "up", "up"]
    await gone(printed, run.state_folder)


async def test_why_a_service_is_not_ready_in_time_is_told(run: Runner) -> None:
    printed = await run(
        """
local function waiting(ready)
  return { image = "docker.io/library/alpine:latest", command = { "sleep", "1000" }, ready = ready }
end
local lonely = waiting({ port = 8000, timeout = 3 })
lonely.command = { "httpd", "-f", "-p", "127.0.0.1:8000" }
local function stage(name, service)
  return { name = name, needs = {}, allow_failure = true, services = { svc = service },
    script = function() error("was not to run") end }
end
return { name = "p", stages = {
  stage("nothing", waiting({ port = 1, timeout = 0.1 })),
  stage("loopback", lonely),
  stage("command", waiting({ command = { "sh", "-c", "echo not yet; exit 4" }, timeout = 3 })),
  stage("unknown", waiting({ command = { "no-such-program" } })),
  stage("image", { image = "No/Such:Image" }),
  stage("program", { image = "docker.io/library/alpine:latest", command = { "/no/such/program" } }),
} }"""
    )
    succeeded(printed)
    failed = {line["stage"]: line["error"] for line in printed.lines if line.get("state") == "failed"}
    told = {stage: (error["cause"]["code"], error["cause"]["message"]) for stage, error in failed.items()}
    start = "service `svc` (image `docker.io/library/alpine:latest`) was not ready within"
    assert told["nothing"] == ("service_not_ready", f"{start} 0.1 s: nothing listens at port 1; it said nothing")
    assert "was not ready within 3 s: it listens at port 8000 of a loopback address" in told["loopback"][1]
    assert told["command"][1] == f"{start} 3 s: `sh` exited with code 4 (not yet); it said nothing"
    assert told["unknown"][0] == "service_failed"
    assert "service `svc` cannot be asked whether it is ready: command `no-such-program`" in told["unknown"][1]
    assert told["image"][0] == "service_failed"
    assert failed["image"]["cause"]["cause"]["code"] == "image_not_found"
    assert "service `svc` could not be started: " in told["program"][1]
    await gone(printed, run.state_folder)


async def test_a_service_that_ends_while_it_is_used_is_told_in_the_log(run: Runner) -> None:
    async with started(
        *run.arguments(
            """
return { name = "p",
  services = { db = { image = "docker.io/library/alpine:latest", command = { "sh", "-c", "sleep 1; exit 9" } } },
  stages = { { name = "s", script = function() process.run({ command = "sleep", args = { "1000" } }) end } } }"""
        ),
        cwd=run.folder,
    ) as running:
        line = await running.until(type="log", level="warn", text="service `db` ended with exit code 9")
        assert line["source"] == "system"
        running.process.send_signal(signal.SIGINT)
        await running.rest()
    await nothing_is_left(running.lines[-1]["job"], run.state_folder)
