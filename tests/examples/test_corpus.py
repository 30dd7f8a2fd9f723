"""Every example runs, on one installation with a real runner: what each shows is what comes of it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from aiohttp import web

from orchestrator import master_keys
from schema.client import Client
from schema.definition import InputValue
from schema.events import LogEvent, decode_line
from schema.secrets import Grant, GrantCreate, Secret, SecretSet
from schema.states import JobState
from schema.wire import ArtifactList, Job, JobSubmit, PipelinePush, PipelineVersion
from tests.cli.command import ROOT
from tests.cli.test_cache import LEASE_SECONDS, Site
from tests.cli.test_git import sh
from tests.git_server import git_over_http
from tests.orchestrator.installation import installation as opened
from tests.postgres import Cluster
from tests.runner.test_web import server
from tests.slack_server import Slack, slack_server

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.lua"))
SECONDS = 240.0
"""For all jobs together on a machine that is busy with others."""
TOKEN = b"a-long-value-that-nobody-guesses"
GRANTS = {
    "DEPLOY_TOKEN": "secrets",
    "SIGNING_KEY": "release",
    "SLACK_WEBHOOK": "release",
}
MARKDOWN = """
git init -q -b main work; cd work
mkdir -p tests/test_syntax/blocks tests/test_syntax/inline tests/test_syntax/extensions
for folder in tests tests/test_syntax tests/test_syntax/*; do touch $folder/__init__.py; done
for test in tests/test_legacy tests/test_extensions tests/test_meta tests/test_syntax/blocks/test_a \
    tests/test_syntax/inline/test_b tests/test_syntax/extensions/test_c; do
  printf 'import unittest\\nclass T(unittest.TestCase):\\n    def test_it(self): pass\\n' > $test.py
done
git add .; git commit -qm one; cd ..
git clone -q --bare work public/markdown.git
"""
"""A repository in the form of the project that `make demo` fetches."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A job of an example."""

    example: str
    inputs: dict[str, InputValue] = {}
    state: JobState = "succeeded"
    says: tuple[str, ...] = ()
    """What its log has."""
    is_silent_of: tuple[str, ...] = ()


# The places of servers stand for what is filled in: {api}, {git}.
CASES = {
    "artifacts": Case(example="artifacts", says=("dist/app: OK", "dist/doc/index.html: OK", "app.tar.gz")),
    "cache": Case(example="cache", says=("fetching packages", "cache saved `packages-", "release 12")),
    "canary": Case(
        example="canary",
        inputs={"url": "{api}", "pause": "10ms"},
        says=("5 % of", "25 % of", "100 % of the requests go to 1.5.0"),
    ),
    "canary, of a bad version": Case(
        example="canary",
        inputs={"url": "{api}", "pause": "10ms", "version": "1.5.1"},
        state="failed",
        says=("at 25 % there were errors", "0 % of the requests go to 1.5.1"),
        is_silent_of=("100 %",),
    ),
    "cleanup": Case(
        example="cleanup", inputs={"seconds": 1}, says=("the stages succeeded, and this runs all the same",)
    ),
    "commands": Case(
        example="commands",
        says=("two  spaces\n$HOME\nit's", "user 1000 in /workspace/src is fine", "it ended with 7 and said 5"),
    ),
    "conditions": Case(
        example="conditions",
        inputs={"ref": "release/2.0"},
        says=("published release/2.0", "test succeeded, publish succeeded"),
        is_silent_of=("the tests failed",),
    ),
    "conditions, of a branch": Case(
        example="conditions", says=("test succeeded, publish skipped",), is_silent_of=("published",)
    ),
    "conditions, of a failure": Case(
        example="conditions",
        inputs={"broken": True},
        state="failed",
        says=("the tests failed: look at", "test failed, publish skipped"),
    ),
    "config": Case(example="config", inputs={"environment": "production"}, says=("1.5.0", "replicas 3")),
    "containers": Case(example="containers", says=("kept in the workspace", "a block's container is")),
    "database": Case(example="database", says=("[(2,)]", "nothing is here but what this stage brings")),
    "deploy": Case(example="deploy", says=("staging is at 1.5.0",), is_silent_of=("1.4.2",)),
    "deploy, of what is not well": Case(
        example="deploy",
        inputs={"place": "production", "healthy": False},
        state="failed",
        says=("production is at 1.5.0", "production is at 1.4.2"),
    ),
    "errors": Case(example="errors", says=("grep ended with", "caught: ", "three lines are too long", "nobody has to")),
    "failing": Case(example="failing", state="failed", says=("1 of 12 failed",), is_silent_of=("never reached",)),
    "files": Case(example="files", says=("the greeting is: hello from 0.1.0",)),
    "git": Case(example="git", says=("since v1.0.0, commits: 1", "now at v1.0.1")),
    "hello": Case(example="hello", inputs={"name": "you"}, says=("Hello, you, from a container!",)),
    "http": Case(
        example="http",
        inputs={"url": "{api}"},
        says=("trying again", "the API is up", "made release 17", "downloaded 2000 bytes"),
    ),
    "inputs": Case(example="inputs", inputs={"who": "you", "copies": 2, "loud": True}, says=("HELLO, YOU!",)),
    "junit": Case(example="junit", says=("tests",)),
    "limits": Case(
        example="limits",
        says=("user 1000, interfaces: lo\n", "the image can be written to: false", "what it left: its result"),
    ),
    "logs": Case(example="logs", says=("cc -O2 main.c", "unused variable", "50%", "version 1.4.2")),
    "markdown": Case(
        example="markdown", inputs={"url": "{git}/public/markdown.git"}, says=("legacy: 3 tests passed", ": 6 tests")
    ),
    "matrix": Case(example="matrix", says=("at level 2: version 1.2.3", "published", "publish succeeded")),
    "monorepo": Case(
        example="monorepo",
        says=("changed: services/web/code.txt", "building web"),
        is_silent_of=("building api",),
    ),
    "nightly": Case(example="nightly", says=("asked for by hand",)),
    "outputs": Case(
        example="outputs",
        says=(
            "deploying registry.example.org/app:1.4.2",
            "built at level release, as told: release",
            "since the build",
        ),
    ),
    "parallel": Case(example="parallel", says=("sources.txt ", "app.txt ", "docs.txt ")),
    "release": Case(example="release", says=("fetching", "release is out, ", "cache saved `packages-")),
    "resume": Case(example="resume", state="failed", says=("deploying 1.4.2, built in attempt 1",)),
    "retries": Case(example="retries", says=("try 3", "the answer is: there"), is_silent_of=("try 4",)),
    "secrets": Case(
        example="secrets",
        says=(f"with a token of {len(TOKEN)} characters", "token: [secret DEPLOY_TOKEN]", "the file has mode 0600"),
        is_silent_of=(TOKEN.decode(),),
    ),
    "services": Case(example="services", says=("it said: hello from beside",)),
    "timeouts": Case(example="timeouts", says=("asked to end, and cleaning up", "that took too long")),
    "webhook": Case(
        example="webhook",
        inputs={"branch": "topic", "message": 'say "$(touch /workspace/run)" `id`; exit 3'},
        says=('say "$(touch /workspace/run)" `id`; exit 3 on topic',),
    ),
    "version": Case(example="version", says=("v1.4.2 becomes 1.5.0",)),
}


class Api:
    """A web API that is busy now and then, and a router whose version 1.5.1 gets worse with what it gets."""

    def __init__(self) -> None:
        self.busy = 2
        self.share: dict[str, int] = {}

    async def answer(self, request: web.Request) -> web.Response:
        match request.method, request.path:
            case "GET", "/state":
                if self.busy:
                    self.busy -= 1
                    return web.Response(status=503, headers={"Retry-After": "0"})
                return web.json_response({"state": "up"})
            case "POST", "/releases":
                assert await request.json() == {"tag": "v1.4.2", "draft": False}
                return web.json_response({"id": 17}, status=201)
            case "GET", "/releases/17/download":
                return web.Response(body=b"moon" * 500)
            case "PUT", "/share":
                given = await request.json()
                self.share[given["version"]] = given["percent"]
                return web.Response(status=204)
            case "GET", "/health":
                version = request.query["version"]
                return web.json_response({"errors": self.share[version] // 10 if version == "1.5.1" else 0})
            case _:
                return web.Response(status=404)


class Corpus:
    """The installation, and a job for each case that is to be looked at."""

    def __init__(self, site: Site, slack: Slack, places: dict[str, str]) -> None:
        self.site = site
        self.slack = slack
        self.jobs: dict[str, Job] = {}
        self._places = places

    @property
    def client(self) -> Client:
        return self.site.admin

    async def submit(self, case: Case) -> Job:
        filled = {
            name: value.format_map(self._places) if isinstance(value, str) else value
            for name, value in case.inputs.items()
        }
        return await self.client.post("/v1/jobs", Job, JobSubmit(pipeline=case.example, inputs=filled))

    async def log(self, job: Job) -> str:
        """Wait for the end of a job; give all that its log has."""
        texts: list[str] = []
        with anyio.fail_after(SECONDS):
            async with self.client.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
                async for line in stream.lines():
                    event = decode_line(line)
                    if isinstance(event, LogEvent):
                        texts.append(event.text + "".join(f" {name}={value}" for name, value in _fields(event)))
        return "\n".join(texts) + "\n"

    async def shown(self, job: Job) -> Job:
        return await self.client.get(f"/v1/jobs/{job.id}", Job)

    async def kept(self, job: Job) -> set[str]:
        found = await self.client.get(f"/v1/jobs/{job.id}/artifacts", ArtifactList)
        return {artifact.name for artifact in found.artifacts}

    async def see(self, case: Case, job: Job) -> str:
        """See that a job ended as it should, and said what it should; give its log."""
        log = await self.log(job)
        shown = await self.shown(job)
        assert shown.state == case.state, (shown.error, log[-3000:])
        for words in case.says:
            assert words in log, log[-3000:]
        for words in case.is_silent_of:
            assert words not in log
        return log


def _fields(event: LogEvent) -> list[tuple[str, Any]]:
    return sorted((event.fields or {}).items())


@pytest.fixture(scope="module")
async def corpus(
    request: pytest.FixtureRequest,
    postgres_cluster: Cluster,
    image_map: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[Corpus]:
    """All of it, with the jobs of those tests that run: they share one runner, which runs four at once."""
    assert image_map, "images are there"
    folder = tmp_path_factory.mktemp("corpus")
    served = folder / "served"
    (served / "public").mkdir(parents=True)
    await anyio.to_thread.run_sync(sh, served, MARKDOWN)
    (folder / "moonyard.toml").write_text('http_allowed = ["127.0.0.1"]\n', encoding="utf-8")
    api = Api()
    url = postgres_cluster.create_migrated()
    keys = master_keys.parse(master_keys.generate(), "a test")
    async with (
        opened(url) as installation,
        server(api.answer) as api_url,
        slack_server() as slack,
        git_over_http(served, user="me", password="not asked for") as git,
    ):
        await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=keys)
        site = Site(installation, folder, await installation.client())
        for example in EXAMPLES:
            source = (ROOT / "examples" / f"{example}.lua").read_text(encoding="utf-8")
            push = PipelinePush(filename=f"{example}.lua", source=source)
            await site.admin.post("/v1/pipelines", PipelineVersion, push)
        for name, pipeline in GRANTS.items():
            value = slack.webhook.encode() if name == "SLACK_WEBHOOK" else TOKEN
            await site.admin.post("/v1/secrets", Secret, SecretSet(secret=name, value=value))
            await site.admin.post("/v1/grants", Grant, GrantCreate(secret=name, pipeline=pipeline))
        made = Corpus(site, slack, {"api": str(api_url).rstrip("/"), "git": git.url()})
        runner = await site.register("runner")
        async with site.runner(runner):
            for name in _wanted(request):
                made.jobs[name] = await made.submit(CASES[name])
            yield made
    postgres_cluster.drop(url)


def _wanted(request: pytest.FixtureRequest) -> list[str]:
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    return [name for name in CASES if name in wanted]


def test_there_are_thirty_examples_and_each_has_a_case_and_stands_in_the_documentation() -> None:
    assert len(EXAMPLES) >= 30
    assert {case.example for case in CASES.values()} == set(EXAMPLES)
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\.\./examples/\1\.lua\) \| \S", page, re.MULTILINE), "a row for each"
    documented = re.findall(r"\(\.\./examples/(\w+)\.lua\)", page)
    assert sorted(documented) == EXAMPLES


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
async def test_an_example_does_what_it_shows(name: str, corpus: Corpus) -> None:
    case, job = CASES[name], corpus.jobs[name]
    log = await corpus.see(case, job)
    match name:
        case "artifacts":
            assert await corpus.kept(job) == {"SHA256SUMS", "app.tar.gz"}
        case "cache":
            again = await corpus.see(
                Case(example="cache", says=("the packages are here already",)), await corpus.submit(case)
            )
            assert "cache hit `packages-" in again
        case "database":
            assert log.count("[(0,)]") == 1
        case "inputs":
            assert log.count("HELLO, YOU! colour=blue size=18") == 2
        case "junit":
            tests = (await corpus.shown(job)).tests
            assert tests is not None
            assert (tests.passed, tests.failed, tests.skipped) == (2, 0, 1)
            assert "tests failed=0 passed=2 skipped=1" in log
        case "nightly":
            [kept] = await corpus.kept(job)
            assert re.fullmatch(r"backup-\d{4}-\d\d-\d\d\.tar\.zst", kept)
        case "outputs":
            outputs = (await corpus.shown(job)).outputs or []
            assert {one.name: one.value for one in outputs}["image"] == "registry.example.org/app:1.4.2"
        case "release":
            assert await corpus.kept(job) == {"app-1.5.0.tar.gz", "app-1.5.0.tar.gz.sig"}
            [message] = corpus.slack.by_webhook
            assert message["text"].startswith("Release 1.5.0 is out, ")
            tests = (await corpus.shown(job)).tests
            assert tests is not None
            assert tests.passed == 2
        case "resume":
            await corpus.client.post(f"/v1/jobs/{job.id}/retry?from=deploy", Job)
            log = await corpus.see(msgspec.structs.replace(case, state="succeeded"), job)
            assert log.count("this takes an hour, once") == 1
            assert log.count("deploying 1.4.2, built in attempt 1") == 2
        case "version":
            assert await corpus.kept(job) == {"NOTES.md"}
        case _:
            pass
