"""Caches on the runner's side: what is hashed, packed, put back, kept and removed, and that nothing leads astray."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from runner import cache_folder, cache_paths, default_acl
from runner.cache_folder import CACHE_BYTES, CacheFolder
from runner.cache_stores import LocalCaches, OrchestratorCaches
from runner.caches import CacheStore, CacheUse, JobCaches
from runner.event_stream import EventStream
from schema.client import OrchestratorRefused, OrchestratorUnreachable
from schema.definition import CacheDefinition, InputDefinition, InputValue, PipelineDefinition, StageDefinition
from schema.events import LogEvent
from schema.wire import Health
from tests import postgres
from tests.cli.command import ROOT, SECONDS
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.test_caches import begin
from tests.runner.test_event_stream import Collected

BUILD = StageDefinition(name="build")


class Tried:
    """A job's caches over a workspace of its own, and what they said."""

    def __init__(
        self, caches: JobCaches, workspace: Path, scratch: Path, stream: EventStream, collected: Collected
    ) -> None:
        self.caches = caches
        self._stream = stream
        self.workspace = workspace
        self.scratch = scratch
        self._collected = collected
        self._begins = True

    @property
    def lines(self) -> list[str]:
        return [event.text for event in self._collected.events if isinstance(event, LogEvent)]

    async def restore(self, stage: StageDefinition = BUILD) -> str:
        """Restore, and give the last line that was said."""
        self._begins = False
        await self.caches.restore(stage)
        assert list(self.scratch.iterdir()) == []
        return await self._last()

    async def save(self, *, succeeded: bool = True) -> str:
        if self._begins:  # no stage ends that did not begin
            await self.restore()
        await self.caches.save(BUILD, succeeded=succeeded)
        await self.caches.save_job(succeeded=succeeded)
        return await self._last()

    async def _last(self) -> str:
        with anyio.fail_after(SECONDS):
            while self._collected.next_seq <= self._stream._seq:  # pyright: ignore[reportPrivateUsage]  # not delivered
                await anyio.lowlevel.checkpoint()
        return self.lines[-1] if self.lines else ""


class Machine:
    """A runner's state folder, and jobs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_folder = folder / "state"
        self.contents = self.state_folder / "caches" / "contents"
        self._count = 0

    def local(self, budget: int = CACHE_BYTES) -> LocalCaches:
        return LocalCaches(CacheFolder(self.state_folder, budget))

    @asynccontextmanager
    async def job(
        self,
        *caches: CacheDefinition,
        store: CacheStore | None = None,
        of_job: CacheDefinition | None = None,
        name: str = "hello",
        **inputs: InputValue,
    ) -> AsyncGenerator[Tried]:
        """Begin a job of a pipeline whose stage ``build`` declares these caches."""
        self._count += 1
        workspace = self.folder / f"workspace-{self._count}"
        scratch = self.folder / f"scratch-{self._count}"
        for made in (workspace, scratch):
            made.mkdir()
        definition = PipelineDefinition(
            name=name,
            inputs={"ref": InputDefinition(type="string", default="main")},
            cache=[] if of_job is None else [of_job],
            stages=[StageDefinition(name="checkout"), StageDefinition(name="build", cache=list(caches))],
        )
        collected = Collected()
        stream = EventStream(job="00000000-0000-7000-8000-000000000000", number=1, attempt=1, sink=collected)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.deliver_all)
            yield Tried(
                JobCaches(
                    definition,
                    {"ref": "main", **inputs},
                    store=store or self.local(),
                    workspace=workspace,
                    scratch=scratch,
                    stream=stream,
                ),
                workspace,
                scratch,
                stream,
                collected,
            )
            tasks.cancel_scope.cancel()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def cache(**fields: Any) -> CacheDefinition:
    told: dict[str, Any] = {"key": "deps", "paths": ["target"]} | fields
    return CacheDefinition(**told)


def make(folder: Path, text: str = "made") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text(text)


async def saved(machine: Machine, *caches: CacheDefinition, text: str = "made", **job: Any) -> None:
    async with machine.job(*caches, **job) as tried:
        make(tried.workspace / "target", text)
        assert "cache saved" in await tried.save()


# --- hit, miss, and what is under a key


async def test_what_was_saved_is_restored_with_its_modes_times_and_links(machine: Machine) -> None:
    paths = ["one-file", "target", "tools/deep/er"]
    async with machine.job(cache(paths=paths)) as tried:
        assert await tried.restore() == "cache miss `deps`"
        make(tried.workspace / "target")
        make(tried.workspace / "tools" / "deep" / "er", "deep")
        (tried.workspace / "tools" / "left out").touch()
        program = tried.workspace / "target" / "program"
        program.write_text("#!/bin/sh")
        program.chmod(0o750)
        os.utime(program, ns=(1, 1_600_000_000_123_456_789))
        (tried.workspace / "target" / "link").symlink_to("../../../etc/passwd")
        (tried.workspace / "one-file").write_text("one")
        assert (await tried.save()).startswith("cache saved `deps` (")
    async with machine.job(cache(paths=paths)) as tried:
        assert (await tried.restore()).startswith("cache hit `deps` (")
        assert "from this runner" in tried.lines[-1]
        restored = tried.workspace / "target" / "program"
        assert restored.stat().st_mode & 0o7777 == 0o750
        assert restored.stat().st_mtime_ns == 1_600_000_000_123_456_789
        assert str((tried.workspace / "target" / "link").readlink()) == "../../../etc/passwd"
        assert (tried.workspace / "one-file").read_text() == "one"
        assert (tried.workspace / "tools" / "deep" / "er" / "file").read_text() == "deep"
        assert sorted(path.name for path in (tried.workspace / "tools").iterdir()) == ["deep"]
        assert await tried.save() == tried.lines[0]  # nothing more was said at all: it does not change


async def test_any_containers_user_can_write_to_what_was_restored(machine: Machine) -> None:
    async with machine.job(cache(paths=["a/target"])) as tried:
        default_acl.set_on(tried.workspace)
        make(tried.workspace / "a" / "target")
        await tried.save()
    async with machine.job(cache(paths=["a/target"])) as tried:
        await tried.restore()
        for path in ("a", "a/target"):
            assert (tried.workspace / path).stat().st_mode & 0o777 == 0o777
        assert (tried.workspace / "a" / "target" / "file").stat().st_mode & 0o666 == 0o666
        make(tried.workspace / "a" / "target" / "made later")
        assert (tried.workspace / "a" / "target" / "made later").stat().st_mode & 0o777 == 0o777


async def test_a_changed_file_is_another_key_and_a_restore_key_finds_the_older_one(machine: Machine) -> None:
    declared = cache(files=["Lock"], restore_keys=["deps-"])

    async def job(lock: str) -> list[str]:
        async with machine.job(declared) as tried:
            (tried.workspace / "Lock").write_text(lock)
            await tried.restore()
            make(tried.workspace / "target", lock)
            await tried.save()
            return tried.lines

    first = await job("one")
    assert [line.split("`")[0] for line in first] == ["cache miss ", "cache saved "]
    assert (await job("one"))[0].startswith(f"cache hit `{first[0].split('`')[1]}` (")
    second = await job("two")
    assert second[0].startswith(f"cache hit `{first[0].split('`')[1]}`, in the place of `deps-")
    assert second[1].startswith("cache saved `deps-")
    assert second[1].split("`")[1] != first[0].split("`")[1]
    # The newest of those that fit is taken.
    assert (await job("three"))[0].split("`")[1] == second[1].split("`")[1]


async def test_a_key_that_is_there_is_not_saved_again(machine: Machine) -> None:
    await saved(machine, cache(), text="first")
    async with machine.job(cache(policy="save")) as tried:
        make(tried.workspace / "target", "second")
        assert await tried.save() == "cache `deps` not saved: it is there already, and does not change"
    async with machine.job(cache()) as tried:
        await tried.restore()
        assert (tried.workspace / "target" / "file").read_text() == "first"


async def test_other_pipelines_scopes_and_paths_are_apart_and_the_defaults_scope_is_read(machine: Machine) -> None:
    declared = cache(scope="${ref}")
    await saved(machine, declared, text="of main")
    async with machine.job(declared, name="other") as tried:
        assert await tried.restore() == "cache miss `deps`"
    async with machine.job(cache(scope="${ref}", paths=["target", "more"])) as tried:
        assert await tried.restore() == "cache miss `deps`"
    async with machine.job(declared, ref="feature") as tried:
        assert "scope `main`" in await tried.restore()
    async with machine.job(cache(scope="${ref}", policy="save"), ref="feature") as tried:
        make(tried.workspace / "target", "of feature")
        assert "cache saved" in await tried.save()
    for ref, text in (("main", "of main"), ("feature", "of feature"), ("new", "of main")):
        async with machine.job(declared, ref=ref) as tried:
            await tried.restore()
            assert (tried.workspace / "target" / "file").read_text() == text


async def test_policy_and_when_say_what_is_done(machine: Machine) -> None:
    async with machine.job(cache(policy="restore")) as tried:
        assert await tried.restore() == "cache miss `deps`"
        make(tried.workspace / "target")
        assert await tried.save() == "cache miss `deps`"
    async with machine.job(cache()) as tried:
        make(tried.workspace / "target")
        assert await tried.save(succeeded=False) == tried.lines[0]
    async with machine.job(cache(when="always")) as tried:
        await tried.restore()
        make(tried.workspace / "target")
        assert "cache saved" in await tried.save(succeeded=False)
    async with machine.job(cache(policy="save")) as tried:
        assert await tried.restore() == ""


async def test_nothing_is_saved_where_there_is_nothing(machine: Machine) -> None:
    async with machine.job(cache(paths=["missing/target", "target"])) as tried:
        await tried.restore()
        (tried.workspace / "target").mkdir()
        assert await tried.save() == "cache `deps` not saved: there is nothing at `missing/target`, `target`"


async def test_a_jobs_cache_waits_for_its_files_and_is_saved_at_the_end(machine: Machine) -> None:
    declared = cache(files=["Lock"])
    for expected in ("cache miss `deps-", "cache hit `deps-"):
        async with machine.job(of_job=declared) as tried:
            assert await tried.restore(StageDefinition(name="checkout")) == ""
            (tried.workspace / "Lock").write_text("locked")
            assert (await tried.restore()).startswith(expected)
            (tried.workspace / "Lock").write_text("changed by the build")  # the key is that of the beginning
            if "miss" in expected:
                make(tried.workspace / "target")
                assert (await tried.save()).startswith("cache saved `deps-")


async def test_a_stages_cache_whose_files_are_not_there_is_not_used(machine: Machine) -> None:
    async with machine.job(cache(files=["Lock", "*.toml"])) as tried:
        assert await tried.restore() == "cache `deps` is not used: no file fits `Lock`, `*.toml`"
        make(tried.workspace / "target")
        assert await tried.save() == tried.lines[0]


async def test_what_is_in_the_workspace_already_stays(machine: Machine) -> None:
    declared = cache(paths=["other", "target"])
    async with machine.job(declared) as tried:
        make(tried.workspace / "target", "old")
        make(tried.workspace / "other", "old")
        await tried.save()
    async with machine.job(declared) as tried:
        make(tried.workspace / "target", "new")
        (tried.workspace / "other").mkdir()  # an empty folder is nothing
        assert (await tried.restore()).endswith("; `target` was there already and stays")
        assert (tried.workspace / "target" / "file").read_text() == "new"
        assert (tried.workspace / "other" / "file").read_text() == "old"
    async with machine.job(declared) as tried:
        make(tried.workspace / "target", "new")
        make(tried.workspace / "other", "new")
        assert await tried.restore() == "cache `deps` is not restored: `other`, `target` is there already"


async def test_stages_at_once_wait_until_the_jobs_cache_is_there(machine: Machine) -> None:
    await saved(machine, of_job=cache())
    async with machine.job(of_job=cache()) as tried:
        seen: list[bool] = []

        async def begin_stage(name: str) -> None:
            await tried.caches.restore(StageDefinition(name=name))
            seen.append((tried.workspace / "target" / "file").exists())

        async with anyio.create_task_group() as tasks:
            for name in ("checkout", "build", "checkout"):
                tasks.start_soon(begin_stage, name)
        assert seen == [True, True, True]
        assert len([line for line in tried.lines if "cache hit" in line]) <= 1


# --- the hash of files


async def hashed(workspace: Path, *patterns: str, without: tuple[str, ...] = ()) -> str | None:
    return await cache_paths.hash_files(workspace, patterns, without)


async def test_a_hash_is_of_names_and_contents_and_nothing_else(workspace: Path) -> None:
    for name in ("a.lock", "deep/er/b.lock", "deep/c.txt"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(name)
    every = await hashed(workspace, "**/*.lock")
    assert every is not None
    assert await hashed(workspace, "deep/er/b.lock", "*.lock") == every
    assert await hashed(workspace, "*.lock") != every
    assert await hashed(workspace, "**/*.lock", without=("deep/er",)) == await hashed(workspace, "*.lock")
    os.utime(workspace / "a.lock", (5, 5))
    (workspace / "a.lock").chmod(0o600)
    assert await hashed(workspace, "**/*.lock") == every
    (workspace / "a.lock").rename(workspace / "z.lock")
    assert await hashed(workspace, "**/*.lock") not in {every, None}
    assert await hashed(workspace, "nothing", "deep") is None


async def test_a_link_is_never_hashed_or_followed(workspace: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Lock").write_text("a secret")
    (workspace / "Lock").symlink_to(outside / "Lock")
    (workspace / "folder").symlink_to(outside)
    os.mkfifo(workspace / "pipe")
    with anyio.fail_after(SECONDS):
        assert await hashed(workspace, "Lock", "folder/Lock", "**/Lock", "pipe") is None


# --- what is hostile


async def test_links_in_the_workspace_lead_nothing_out_of_it(machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    declared = cache(paths=["above/target", "target"])
    async with machine.job(declared) as tried:
        make(tried.workspace / "target")
        make(tried.workspace / "above" / "target")
        await tried.save()
    async with machine.job(declared) as tried:
        (tried.workspace / "target").symlink_to(outside)
        (tried.workspace / "above").symlink_to(outside)
        assert (await tried.restore()).startswith("cache `deps` could not be restored: `above/target` leads out")
        (tried.workspace / "above").unlink()
    async with machine.job(declared) as tried:
        (tried.workspace / "target").symlink_to(outside)
        assert (await tried.restore()).endswith("; `target` was there already and stays")
        assert (tried.workspace / "target").is_symlink()
    async with machine.job(cache(key="other", paths=["above/target"])) as tried:
        make(outside / "target", "not of this job")
        (tried.workspace / "above").symlink_to(outside)
        assert "not saved: `above/target` leads out of the workspace" in await tried.save()
    async with machine.job(cache(key="a link", paths=["target"])) as tried:
        (tried.workspace / "target").symlink_to(outside)
        await tried.save()
    async with machine.job(cache(key="a link", paths=["target"])) as tried:
        await tried.restore()
        assert (tried.workspace / "target").readlink() == outside
    assert sorted(path.name for path in outside.iterdir()) == ["target"]


def entry(name: str, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../escaped")],
        [entry("/escaped")],
        [entry("0", type=tarfile.SYMTYPE, linkname="/"), entry("0/escaped")],
        [entry("0", type=tarfile.DIRTYPE), entry("0/a", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        [entry("0", type=tarfile.CHRTYPE)],
        [entry("0", pax_headers={"mtime": "nonsense"})],
        [entry("0", pax_headers={"mtime": f"{10**30}.5"})],
    ],
    ids=["parent", "absolute", "through a link", "hard link", "device", "time", "late time"],
)
async def test_a_hostile_archive_puts_nothing_anywhere(machine: Machine, entries: list[tarfile.TarInfo]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for one in entries:
            tar.addfile(one)
    await forged(machine, file.getvalue())
    async with machine.job(cache()) as tried:
        assert (await tried.restore()).startswith("cache `deps` could not be restored: the cache cannot be unpacked")
        assert list(tried.workspace.iterdir()) == []
    assert escaped(machine) == []


def escaped(machine: Machine) -> list[Path]:
    return [*machine.folder.rglob("escaped"), *Path("/").glob("escaped")]


async def test_an_archive_restores_nothing_but_the_declared_paths(machine: Machine) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in ("1", "7", "bin", "target"):
            tar.addfile(entry(name))
    await forged(machine, file.getvalue())
    async with machine.job(cache()) as tried:
        await tried.restore()
        assert list(tried.workspace.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b" + bytes(100)])
async def test_what_is_no_archive_is_told_and_passed_over(machine: Machine, content: bytes) -> None:
    await forged(machine, content)
    async with machine.job(cache()) as tried:
        assert (await tried.restore()).startswith("cache `deps` could not be restored: the cache cannot be unpacked")


async def forged(machine: Machine, content: bytes) -> None:
    """Save a content that no runner packs, under the key of ``cache()``."""
    store = machine.local()
    async with machine.job(cache()) as tried:
        [use] = [one.use for one in tried.caches._of_stages["build"]]  # pyright: ignore[reportPrivateUsage]
    async with store.folder.writing() as new:
        new.file.write(content)
        sha256, size = await new.keep()
        assert await store.save(use, "deps", new.file, sha256, size)


# --- the runner's disk


async def test_a_content_that_the_disk_spoilt_is_never_unpacked(machine: Machine) -> None:
    await saved(machine, cache())
    [content] = machine.contents.iterdir()
    data = bytearray(content.read_bytes())
    data[len(data) // 2] ^= 1
    content.write_bytes(data)
    async with machine.job(cache()) as tried:
        assert (await tried.restore()).endswith("is no longer on this machine, or was damaged there")
        assert list(tried.workspace.iterdir()) == []
        make(tried.workspace / "target", "again")
        assert "cache saved" in await tried.save()
    async with machine.job(cache()) as tried:
        assert "cache hit" in await tried.restore()


async def test_a_cache_beyond_the_budget_is_not_saved(machine: Machine) -> None:
    async with machine.job(cache(), store=machine.local(1000)) as tried:
        (tried.workspace / "target").mkdir()
        (tried.workspace / "target" / "file").write_bytes(os.urandom(100_000))
        assert await tried.save() == "cache `deps` not saved: it takes more than the 1000 bytes that are kept of one"
        assert list(machine.contents.iterdir()) == []


async def content(folder: CacheFolder, data: bytes) -> str:
    async with folder.writing() as new:
        new.file.write(data)
        return (await new.keep())[0]


async def test_beyond_the_budget_what_was_not_used_longest_goes_and_never_what_is_in_use(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 250)
    first, second = await content(folder, 100 * b"1"), await content(folder, 100 * b"2")
    for place, name in enumerate((first, second)):
        os.utime(tmp_path / "caches" / "contents" / name, (place, place))
    async with folder.reading(first) as file:  # which is a use of it
        assert file is not None
        third = await content(folder, 100 * b"3")
        assert [folder.holds(name) for name in (first, second, third)] == [True, False, True]
        nothing = CacheFolder(tmp_path, 0)
        await nothing.trim()
        assert [folder.holds(name) for name in (first, third)] == [True, False]
        assert file.read() == 100 * b"1"
    await nothing.trim()
    assert not folder.holds(first)


async def test_what_two_processes_do_with_one_folder_holds_for_both(tmp_path: Path) -> None:
    name = await content(CacheFolder(tmp_path, 1000), b"content")
    program = (
        "import anyio, sys; from pathlib import Path; from runner.cache_folder import CacheFolder\n"
        "async def go():\n"
        "    async with CacheFolder(Path(sys.argv[1]), 0).reading(sys.argv[2]) as file:\n"
        "        print('held', flush=True); await anyio.sleep_forever()\n"
        "anyio.run(go)"
    )
    async with process(program, str(tmp_path), name) as holder:
        folder = CacheFolder(tmp_path, 0)
        await folder.trim()
        assert folder.holds(name)
        holder.kill()
        await anyio.to_thread.run_sync(holder.wait)
        await folder.trim()
        assert not folder.holds(name)


async def test_half_a_content_of_a_killed_process_is_removed_and_one_under_way_is_not(tmp_path: Path) -> None:
    program = (
        "import anyio, sys; from pathlib import Path; from runner.cache_folder import CacheFolder\n"
        "async def go():\n"
        "    async with CacheFolder(Path(sys.argv[1]), 1000).writing() as content:\n"
        "        content.file.write(b'half of it'); content.file.flush()\n"
        "        print('held', flush=True); await anyio.sleep_forever()\n"
        "anyio.run(go)"
    )
    folder, contents = CacheFolder(tmp_path, 1000), tmp_path / "caches" / "contents"
    async with process(program, str(tmp_path)) as writer:
        await folder.trim()
        [half] = contents.iterdir()
        assert half.name.startswith(cache_folder.NASCENT)
        writer.send_signal(signal.SIGKILL)
        await anyio.to_thread.run_sync(writer.wait)
        await folder.trim()
        assert list(contents.iterdir()) == []


@asynccontextmanager
async def process(program: str, *arguments: str) -> AsyncGenerator[subprocess.Popen[str]]:
    """Run a program that says `held` when it has come so far."""
    with subprocess.Popen(  # noqa: ASYNC220  # it only begins here
        [sys.executable, "-c", program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert await anyio.to_thread.run_sync(running.stdout.readline) == "held\n"
            yield running
        finally:
            running.kill()


# --- with an orchestrator


PIPELINE_CACHE = CacheDefinition(key="own", paths=["target"])


async def stored(installation: Installation, machine: Machine, patience: float = SECONDS) -> OrchestratorCaches:
    """Give the store of a new job, as a runner on a machine sees it. Its stage `greet` has the cache."""
    definition = PipelineDefinition(
        name="hello",
        inputs={"ref": InputDefinition(type="string", default="main")},
        stages=[StageDefinition(name="checkout"), StageDefinition(name="build", cache=[PIPELINE_CACHE])],
    )
    held = await begin(installation, definition)
    folder = CacheFolder(machine.state_folder, CACHE_BYTES)
    assignment = held.attempt.assignment
    return OrchestratorCaches(held.runner.client, assignment.job, assignment.attempt, folder, patience=patience)


async def test_another_runner_gets_it_from_the_orchestrator_and_then_has_it(
    database_url: str, machine: Machine, tmp_path: Path
) -> None:
    async with opened(database_url) as installation:
        await saved(machine, PIPELINE_CACHE, store=await stored(installation, machine))
        other = Machine(tmp_path / "other")
        other.folder.mkdir()
        for origin in ("the orchestrator", "this runner"):
            async with other.job(PIPELINE_CACHE, store=await stored(installation, other)) as tried:
                assert (await tried.restore()).endswith(f"from {origin})")
                assert (tried.workspace / "target" / "file").read_text() == "made"


async def test_a_content_that_the_disk_spoilt_is_fetched_again(database_url: str, machine: Machine) -> None:
    async with opened(database_url) as installation:
        await saved(machine, PIPELINE_CACHE, store=await stored(installation, machine))
        [path] = machine.contents.iterdir()
        whole = path.read_bytes()
        for damage in (whole[:-1], whole + b"x", b""):
            path.write_bytes(damage)
            async with machine.job(PIPELINE_CACHE, store=await stored(installation, machine)) as tried:
                assert (await tried.restore()).endswith("from the orchestrator)")
                assert (tried.workspace / "target" / "file").read_text() == "made"
            assert path.read_bytes() == whole


async def test_what_a_job_saved_meanwhile_is_not_saved_over(database_url: str, machine: Machine) -> None:
    async with opened(database_url) as installation:
        stores = [await stored(installation, machine) for _ in range(2)]

        async with machine.job(PIPELINE_CACHE, store=stores[1]) as tried:
            await tried.restore()
            make(tried.workspace / "target", "second")
            looked = stores[1].has

            async def has(use: CacheUse, key: str) -> bool:
                is_there = await looked(use, key)
                await saved(machine, PIPELINE_CACHE, store=stores[0], text="first")
                return is_there

            stores[1].has = has
            assert await tried.save() == "cache `own` not saved: another job saved it meanwhile"


async def ended(installation: Installation) -> None:
    """Stop the replica, and wait until nobody listens any more."""
    [replica] = installation.replicas
    client = await installation.client()
    replica.stop.set()
    with anyio.fail_after(SECONDS):
        while True:
            with suppress(OrchestratorRefused):  # it drains
                try:
                    await client.get("/v1/health", Health)
                except OrchestratorUnreachable:
                    return
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("away", ["database", "orchestrator"])
async def test_a_job_goes_on_when_its_caches_cannot_be_had(machine: Machine, away: str) -> None:
    with postgres.cluster() as cluster:
        async with opened(cluster.create_migrated()) as installation:
            store = await stored(installation, machine, patience=0.0)
            async with machine.job(PIPELINE_CACHE, store=store) as tried:
                if away == "orchestrator":
                    await ended(installation)
                else:
                    await anyio.to_thread.run_sync(cluster.stop)
                with anyio.fail_after(SECONDS):
                    assert (await tried.restore()).startswith("cache `own` could not be restored: ")
                    make(tried.workspace / "target")
                    assert (await tried.save()).startswith("cache `own` not saved: ")
            await anyio.to_thread.run_sync(cluster.start)
