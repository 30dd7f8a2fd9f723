"""``artifact``: keeps files of the workspace beyond the job's end, brings back what jobs kept, and reads test reports.

Contents never pass through Lua. What is packed, and what is fetched, is a file of the runner's own on its way, so that
no container changes it there.
"""

from __future__ import annotations

import mimetypes
import os
import stat
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Final, cast

import msgspec

from runner import file_work, files, jail, junit
from runner.archives import compression, extraction, writing
from runner.archives.compression import Format
from runner.archives.contents import Limits
from runner.archives.reading import Archive
from runner.globs import Selection
from runner.job_context import Call, JobContext, SavedArtifact
from runner.modules import fs
from runner.modules.arguments import ArgumentInvalid, Kind, parse, text
from runner.trees import Check
from sandbox.frames import Value
from sandbox.process import LogPlace
from schema import times
from schema.sizes import size_text
from schema.states import Level
from schema.wire import Artifact, ArtifactsFind, ArtifactsFound, ReportedTest

SAVE: Final = "artifact.save"
FETCH: Final = "artifact.fetch"
LIST: Final = "artifact.list"
REPORT: Final = "artifact.test_report"
NAME_LENGTH_MAXIMUM: Final = 255
RETENTION_SECONDS_MAXIMUM: Final = 10 * 366 * 86400.0
FILES_MAXIMUM: Final = 1000
"""Of one pattern, where each becomes an artifact of its own."""
REPORTS_MAXIMUM: Final = 1000
COPY_BYTES: Final = 1024 * 1024
FOLDER_FORMAT: Final[Format] = "tar.zst"
_COMPRESSED: Final = {"gzip": "application/gzip", "xz": "application/x-xz", "bzip2": "application/x-bzip2"}
_ARCHIVES: Final[dict[Format, str]] = {
    "tar": "application/x-tar",
    "tar.gz": "application/gzip",
    "tar.xz": "application/x-xz",
    "tar.zst": "application/zstd",
    "zip": "application/zip",
}


class SaveArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str | None = None
    """A file of the workspace, or a folder, which is packed; no link on the way."""
    glob: str | None = None
    """A pattern, in the place of `path`: each file that it names is kept under its own path, or all of them packed,
    where `name` is given."""
    exclude: list[str] = []
    """Patterns of files that are left out of a folder, or of what `glob` names."""
    name: str | None = None
    """By default the file's name; each name once a job. Of a folder its ending says how it is packed: by default
    `.tar.zst` is put behind the folder's name."""
    content_type: str | None = None
    """By default guessed from the name."""
    retention: Annotated[float | str, Kind("duration", RETENTION_SECONDS_MAXIMUM)] | None = None
    """How long it is kept, at most ten years; by default as long as its job."""


class FetchArguments(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """The artifact's name."""
    job: str | int | None = None
    """The number or id of the job that kept it; by default this one."""
    pipeline: str | None = None
    """The pipeline whose newest job that succeeded kept it, in the place of `job`."""
    to: str | None = None
    """Where it is written in the workspace; by default its name. With `extract`, the folder to extract to, by default
    the workspace."""
    extract: bool = False
    """Whether it is an archive whose files are wanted, in the place of the archive."""


class ListArguments(msgspec.Struct, frozen=True, kw_only=True):
    job: str | int | None = None
    """The number or id of the job that kept them; by default this one."""
    pipeline: str | None = None
    """The pipeline whose newest job that succeeded kept them, in the place of `job`."""


class ReportArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """A file with JUnit's XML, or a pattern of such files."""


async def save(job: JobContext, call: Call) -> Value:
    """Keep a file, a folder, or what a pattern names; give name, SHA-256 and size, or a list of these.

    :raises JailError: when a path leads out of the workspace, or to nothing that can be kept.
    :raises MoonyardError: when the store refuses it, for instance for a name that the job used already.
    """
    arguments = parse(SAVE, SaveArguments, _given(call))
    if (arguments.path is None) == (arguments.glob is None):
        raise ArgumentInvalid(
            f"{SAVE}: `path` or `glob` says what is kept, got " + ("neither" if arguments.path is None else "both"),
            hint='Write artifact.save("dist/app.tar.gz") or artifact.save({ glob = "dist/*.deb" }).',
        )
    if arguments.path is not None:
        if await file_work.run(SAVE, lambda _: _is_folder(job.workspace, text(SAVE, "path", arguments.path or ""))):
            return await _save_packed(job, call, arguments, arguments.path, Selection((), arguments.exclude))
        return await _save_file(job, call, arguments, arguments.path, arguments.name)
    wanted = fs.GlobArguments(pattern=arguments.glob or "", exclude=arguments.exclude)
    if arguments.name is not None:
        return await _save_packed(
            job, call, arguments, ".", fs.selection(SAVE, [_below(wanted.pattern)], arguments.exclude)
        )
    found = await file_work.run(SAVE, lambda check: fs.glob_files(job.workspace, wanted, check))
    if not found:
        raise ArgumentInvalid(f"{SAVE}: no file of the workspace fits `glob`, which is {wanted.pattern!r}")
    if len(found) > FILES_MAXIMUM:
        raise ArgumentInvalid(
            f"{SAVE}: `glob` names {len(found)} files, and at most {FILES_MAXIMUM} become artifacts of their own",
            hint="Give a `name`: then they are packed into one.",
        )
    return [await _save_file(job, call, arguments, str(path), str(path)) for path in found]


async def fetch(job: JobContext, call: Call) -> Value:
    """Bring an artifact into the workspace.

    :raises MoonyardError: when there is none, or it is not for this job.
    """
    arguments = parse(FETCH, FetchArguments, _given(call))
    wanted = _wanted(FETCH, arguments.job, arguments.pipeline, arguments.name)
    found = await job.artifacts.find(wanted)
    artifact = found.artifacts[0]
    to = arguments.to or ("." if arguments.extract else artifact.name)
    jail.parts(to)
    with tempfile.TemporaryFile(dir=job.scratch) as file:
        await job.artifacts.fetch(artifact, file)
        file.flush()

        def put(check: Check) -> int:
            file.seek(0)
            if arguments.extract:
                archive = Archive(cast("IO[bytes]", file), artifact.name, Limits(), 0)  # pyright: ignore[reportArgumentType]  # it reads and seeks
                return extraction.extract_all(job.workspace, archive, to, Selection(), check).files
            _copy(file, job.workspace, to, check)
            return 1

        count = await file_work.run(FETCH, put)
    await _tell(
        job,
        call,
        "info",
        f"artifact `{artifact.name}`{_of(found)} fetched to `{to}` ({size_text(artifact.size_bytes)}, "
        f"SHA-256 {artifact.sha256})",
    )
    return {**_told(artifact, found), "to": to, "files": count}


async def list_(job: JobContext, call: Call) -> Value:
    """List the artifacts of a job.

    :raises MoonyardError: when there is no such job, or they are not for this one.
    """
    arguments = parse(LIST, ListArguments, {} if _given(call) is None else _given(call))
    found = await job.artifacts.find(_wanted(LIST, arguments.job, arguments.pipeline, None))
    return [_told(artifact, found) for artifact in found.artifacts]


async def test_report(job: JobContext, call: Call) -> Value:
    """Read test reports, and store their tests; give how many there were and how they ended.

    :raises ReportInvalid: for a file that is no report.
    """
    arguments = parse(REPORT, ReportArguments, _given(call))
    wanted = fs.GlobArguments(pattern=arguments.path)
    paths = [
        str(path) for path in await file_work.run(REPORT, lambda check: fs.glob_files(job.workspace, wanted, check))
    ]
    if not paths:
        raise ArgumentInvalid(f"{REPORT}: no file of the workspace fits `path`, which is {arguments.path!r}")
    if len(paths) > REPORTS_MAXIMUM:
        raise ArgumentInvalid(f"{REPORT}: `path` names {len(paths)} files, and at most {REPORTS_MAXIMUM} are read")
    tests: list[ReportedTest] = []
    for path in paths:
        read = await file_work.run(REPORT, lambda check, path=path: _read_report(job, path, check))
        await job.artifacts.report(call.stage, job.stream.redaction.text(path), read)
        tests += read
    counts = {state: sum(test.state == state for test in tests) for state in ("passed", "failed", "error", "skipped")}
    duration = round(sum(test.duration or 0.0 for test in tests), 6)
    what = paths[0] if len(paths) == 1 else f"{arguments.path} ({len(paths)} files)"
    is_good = not counts["failed"] and not counts["error"]
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "passed")
    await _tell(job, call, "info" if is_good else "warn", f"test report {what}: {told}")
    return {
        "tests": len(tests),
        "passed": counts["passed"],
        "failed": counts["failed"],
        "errors": counts["error"],
        "skipped": counts["skipped"],
        "duration": duration,
        "ok": is_good,
    }


async def _save_file(job: JobContext, call: Call, arguments: SaveArguments, path: str, name: str | None) -> Value:
    chosen = _name(name or PurePosixPath(path).name)
    with jail.open_file(job.workspace, path) as file:
        return await _keep(job, call, arguments, file, chosen, _content_type(arguments, chosen))


async def _save_packed(job: JobContext, call: Call, arguments: SaveArguments, path: str, selection: Selection) -> Value:
    name = arguments.name or (PurePosixPath(path).name if jail.parts(path) else "workspace")
    kind = compression.format_of(name)
    if kind is None:
        kind, name = FOLDER_FORMAT, f"{name}.{FOLDER_FORMAT}"
    chosen = _name(name)
    with tempfile.TemporaryFile(dir=job.scratch) as file:
        made = await file_work.run(SAVE, lambda check: writing.fill(file, job.workspace, path, kind, selection, check))
        if arguments.glob is not None and not made.files:
            raise ArgumentInvalid(f"{SAVE}: no file of the workspace fits `glob`, which is {arguments.glob!r}")
        file.flush()
        return await _keep(job, call, arguments, file, chosen, arguments.content_type or _ARCHIVES[kind])


async def _keep(
    job: JobContext, call: Call, arguments: SaveArguments, file: IO[bytes], name: str, content_type: str
) -> Value:
    retention = _retention(arguments.retention)
    name = job.stream.redaction.text(name)  # everybody who may see the job sees it
    saved: SavedArtifact = await job.artifacts.save(file, name, content_type, stage=call.stage, retention=retention)
    await _tell(job, call, "info", f"artifact `{name}` kept ({saved.size_bytes} bytes, SHA-256 {saved.sha256})")
    return {"name": name, "sha256": saved.sha256, "size": saved.size_bytes}


async def _tell(job: JobContext, call: Call, level: Level, text: str) -> None:
    await job.stream.log_lines(call.stage, level, "system", [text], place=LogPlace(group=call.group))


def _retention(value: str | float | None) -> float | None:
    if value is None:
        return None
    try:
        return times.duration_seconds(value, maximum=RETENTION_SECONDS_MAXIMUM)
    except ValueError as error:
        raise ArgumentInvalid(f"{SAVE}: `retention` is no duration: {error}") from error


def _content_type(arguments: SaveArguments, name: str) -> str:
    if arguments.content_type is not None:
        return text(SAVE, "content_type", arguments.content_type)
    kind = compression.format_of(name)
    if kind is not None:
        return _ARCHIVES[kind]
    guessed, packed = mimetypes.guess_type(name)
    return _COMPRESSED.get(packed, "application/octet-stream") if packed else guessed or "application/octet-stream"


def _name(name: str) -> str:
    if not _is_name(name):
        raise ArgumentInvalid(
            f"{SAVE}: {name[:300]!r} cannot be an artifact's name: it is a relative path without `..`, empty parts "
            f"or control characters, of at most {NAME_LENGTH_MAXIMUM} characters"
        )
    return name


def _is_name(name: str) -> bool:
    return (
        0 < len(name) <= NAME_LENGTH_MAXIMUM
        and name.isprintable()
        and "\\" not in name
        and all(part not in {"", ".", ".."} for part in name.split("/"))
    )


def _is_folder(workspace: Path, path: str) -> bool:
    with jail.handle(workspace, path, follow=False, links=False) as found:
        return stat.S_ISDIR(os.fstat(found).st_mode)


def _below(pattern: str) -> str:
    return pattern.removeprefix(f"{jail.INSIDE}/")


def _wanted(call: str, job: str | int | None, pipeline: str | None, name: str | None) -> ArtifactsFind:
    if job is not None and pipeline is not None:
        raise ArgumentInvalid(f"{call}: `job` and `pipeline` both say whose artifacts are wanted: give one of them")
    return ArtifactsFind(
        name=None if name is None else text(call, "name", name),
        job=None if job is None else text(call, "job", str(job)),
        pipeline=None if pipeline is None else text(call, "pipeline", pipeline),
    )


def _told(artifact: Artifact, found: ArtifactsFound) -> dict[str, Value]:
    return {
        "name": artifact.name,
        "sha256": artifact.sha256,
        "size": artifact.size_bytes,
        "content_type": artifact.content_type,
        "stage": artifact.stage,
        "job": found.number or None,
    }


def _of(found: ArtifactsFound) -> str:
    return f" of job {found.number} ({found.pipeline})" if found.number else ""


def _copy(file: IO[bytes], workspace: Path, to: str, check: Check) -> None:
    above = PurePosixPath(to).parent
    if str(above) not in {".", "/"}:
        jail.make_folders(workspace, str(above))
    with files.writing(workspace, to) as descriptor, os.fdopen(os.dup(descriptor), "wb") as target:
        while data := file.read(COPY_BYTES):
            check()
            target.write(data)


def _read_report(job: JobContext, path: str, check: Check) -> list[ReportedTest]:
    with files.reading(job.workspace, path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        return junit.read(file, os.fstat(descriptor).st_size, path, check, job.stream.redaction.text)


def _given(call: Call) -> Value:
    return call.arguments[0] if call.arguments else None


CALLS: Final = {SAVE: save, FETCH: fetch, LIST: list_, REPORT: test_report}
