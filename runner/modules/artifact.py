"""``artifact.save``: keeps a file of the workspace beyond the job's end."""

from __future__ import annotations

import mimetypes
from pathlib import PurePosixPath
from typing import Final

import msgspec

from runner import jail
from runner.job_context import Call, JobContext
from runner.modules.arguments import ArgumentInvalid, parse
from sandbox.process import Value

SAVE: Final = "artifact.save"
NAME_LENGTH_MAXIMUM: Final = 255


class SaveArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    name: str | None = None
    content_type: str | None = None


async def save(job: JobContext, call: Call) -> Value:
    """Keep a file; give its name, SHA-256 and size.

    :raises JailError: when the path leads out of the workspace, or to no regular file.
    :raises MoonyardError: when the store refuses it, for instance for a name that the job used already.
    """
    arguments = parse(SAVE, SaveArguments, call.arguments[0] if call.arguments else None)
    name = arguments.name or PurePosixPath(arguments.path).name
    if not _is_name(name):
        raise ArgumentInvalid(
            f"{SAVE}: {name!r} cannot be an artifact's name: it is a relative path without `..`, empty parts "
            f"or control characters, of at most {NAME_LENGTH_MAXIMUM} characters"
        )
    content_type = arguments.content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    with jail.open_file(job.workspace, arguments.path) as file:
        saved = await job.artifacts.save(file, name, content_type)
    await job.stream.log(
        call.stage, "info", "system", f"artifact `{name}` kept ({saved.size_bytes} bytes, SHA-256 {saved.sha256})"
    )
    return {"name": name, "sha256": saved.sha256, "size": saved.size_bytes}


def _is_name(name: str) -> bool:
    return (
        0 < len(name) <= NAME_LENGTH_MAXIMUM
        and name.isprintable()
        and "\\" not in name
        and all(part not in {"", ".", ".."} for part in name.split("/"))
    )


CALLS: Final = {SAVE: save}
