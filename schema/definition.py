"""A pipeline file after it was loaded and checked: plain data, without its functions.

The sandbox makes a definition from a Lua file; the orchestrator stores it with the version; runner and command line
read it.
"""

from __future__ import annotations

import math
import re
from typing import Final, Literal

import msgspec

from schema.errors import MoonyardError

InputType = Literal["string", "number", "integer", "boolean"]
InputValue = str | int | float | bool
PullPolicy = Literal["missing", "always", "never"]
MatrixValue = str | int | float | bool
CachePolicy = Literal["restore_and_save", "restore", "save"]
CacheWhen = Literal["on_success", "always"]
When = Literal["on_success", "on_failure", "always", "function"]
"""When a stage runs: ``function`` stands for one of the file's own, which is asked."""

NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.IGNORECASE)
"""Names of pipelines and stages: they stand in paths, URLs and container labels as they are."""
TAG_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,49}")
TAGS_MAXIMUM: Final = 20
REGISTRY_PATTERN: Final = re.compile(
    r"(?=[^/]*[.:])(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(?::[0-9]{1,5})?"
    r"(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
"""A registry of images, or a part of it, as images' names in full begin with it."""
REGISTRIES_MAXIMUM: Final = 20
PRIORITY_MAXIMUM: Final = 100
"""Priorities go from minus this to this."""
SERVICE_NAME_PATTERN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Services' names are host names (RFC 1123)."""
SERVICES_MAXIMUM: Final = 20
READY_SECONDS: Final = 60.0
"""What a service has to be ready, its image's pull not counted, where the pipeline does not say."""
Backoff = Literal["constant", "exponential"]
CANCEL_GRACE_SECONDS: Final = 10.0
"""What commands of a cancelled job have between SIGTERM and SIGKILL, where the pipeline does not say."""
PARALLEL_STAGES: Final = 8
"""How many stages of a job run at once, where the pipeline does not say."""
FINALLY_SECONDS: Final = 300.0
"""What the stages that run after the others have in all, where the pipeline does not say."""
_INTEGER_MINIMUM: Final = -(2**63)
_INTEGER_MAXIMUM: Final = 2**63 - 1


class InputDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """An input. One without a default has to be given on submit."""

    type: InputType
    default: InputValue | None = None
    description: str | None = None
    choices: list[InputValue] | None = None

    @property
    def required(self) -> bool:
        return self.default is None


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """How a service tells that it can be used: by a port or by a command, never by both."""

    port: int | None = None
    """It listens there, and not only for itself."""
    command: list[str] | None = None
    """It ends with exit code 0, run in the service's container."""
    timeout: float = READY_SECONDS


class ServiceDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A container that runs beside those of a job or stage: a database, a queue, a server to test against."""

    image: str
    command: list[str] | None = None
    """In the place of the image's own; its entrypoint stays."""
    env: dict[str, str] = {}
    ready: Readiness | None = None
    """By default a service is ready once it has started."""
    rights: Rights | None = None
    """What it asks for beyond what all containers have."""


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What a container asks for beyond what all have. Nothing of it is given that the runner's owner does not allow."""

    privileged: bool = False
    """All that root on the runner's machine can do."""
    mounts: list[str] = []
    """Of the owner's, by their places in the container."""
    devices: list[str] = []
    capabilities: list[str] = []
    """As in capabilities(7), without ``CAP_``."""


class RegistryLogin(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a pipeline's jobs are at a registry of images."""

    username: str
    password_secret: str
    """The name of the secret that holds the password, or a token in its place."""


class CacheDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of the workspace that are kept under a key for jobs to come; ``schema.caches`` reads its words."""

    key: str
    """With ``${name}`` for the values of inputs and of the stage's matrix."""
    files: list[str] = []
    """Patterns of files in the workspace whose contents are part of the key."""
    paths: list[str]
    """Relative to the workspace, sorted, none inside another."""
    restore_keys: list[str] = []
    """How the keys begin of those that are taken where there is none under the key; the first that fits is."""
    policy: CachePolicy = "restore_and_save"
    when: CacheWhen = "on_success"
    """After what end of its stage, or of the job's stages, it is saved."""
    scope: str | None = None
    """Whom it is shared with, with ``${input}`` for the values of inputs; None for all jobs of the pipeline."""


APPROVAL_SECONDS: Final = 86400.0
APPROVALS_MAXIMUM: Final = 10


class ApprovalDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage waits for before it begins: that somebody else than who submitted the job says yes."""

    count: int = 1
    """How many have to."""
    message: str | None = None
    """What they are told."""
    timeout: float = APPROVAL_SECONDS
    """Seconds; after them, the stage fails."""


class StageDefinition(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    container: str | None = None
    pull: PullPolicy | None = None
    """When the container's image is fetched; by default as the runner's owner says."""
    read_only: bool = False
    """Nothing of the container's image can be written to."""
    rights: Rights | None = None
    """What the container asks for beyond what all have."""
    timeout: float | None = None
    """Seconds."""
    needs: list[str] | None = None
    """The stages it waits for; None for all before it."""
    of: str | None = None
    """The stage in the file that it is one combination of, by its name."""
    matrix: dict[str, MatrixValue] | None = None
    """The combination's values."""
    when: When = "on_success"
    allow_failure: bool = False
    retries: int = 0
    retry_delay: float = 0.0
    """Seconds to wait before a retry, doubled from one to the next where the backoff is exponential."""
    retry_backoff: Backoff = "constant"
    services: dict[str, ServiceDefinition] = {}
    """By name; they live for as long as a try of the stage."""
    cache: list[CacheDefinition] = []
    approval: ApprovalDefinition | None = None
    line: int | None = None

    @property
    def name_in_file(self) -> str:
        return self.of or self.name


class Concurrency(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a group may be under way at once."""

    group: str | None = None
    """A name, with ``${input}`` for the values of inputs; None for the pipeline itself."""
    limit: int = 1
    cancel_running: bool = False
    """A new job cancels those of its group that were submitted before it."""


class PipelineDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A checked pipeline. ``stages`` are in an order in which each comes after those it needs."""

    name: str
    description: str | None = None
    plugins: list[str] = []
    inputs: dict[str, InputDefinition] = {}
    stages: list[StageDefinition]
    env: dict[str, str] = {}
    """Variables that all containers of the job have, but those of services."""
    on_cancel: list[StageDefinition] = []
    """Run when the job is cancelled, after what runs was stopped."""
    finally_: list[StageDefinition] = msgspec.field(name="finally", default_factory=list)
    """Run after all others, however those ended."""
    finally_timeout: float | None = None
    """Seconds that ``on_cancel`` and ``finally`` have together; by default FINALLY_SECONDS."""
    cancel_grace: float | None = None
    """Seconds that a command of a cancelled job has to end by itself; by default CANCEL_GRACE_SECONDS."""
    timeout: float | None = None
    """Seconds."""
    priority: int = 0
    queue_timeout: float | None = None
    """Seconds that a job may wait for a runner."""
    retries: int = 0
    """How often a job that failed is tried again, as a new attempt."""
    retry_delay: float = 0.0
    retry_backoff: Backoff = "constant"
    keep_workspace: float | None = None
    """Seconds for which a failed attempt's workspace is kept, for a retry from a later stage; None for not at all."""
    parallel: int | None = None
    """How many stages run at once; by default PARALLEL_STAGES."""
    fail_fast: bool = True
    """The first stage that fails ends those that run, and others do not begin."""
    tags: list[str] = []
    """What a runner has to have; by default any runner may have the job."""
    concurrency: Concurrency | None = None
    services: dict[str, ServiceDefinition] = {}
    """By name; they live for as long as the job."""
    registries: dict[str, RegistryLogin] = {}
    """By registries, or parts of them: for all images of theirs that the job's containers are made of."""
    artifact_readers: list[str] = []
    """The other pipelines whose jobs may fetch what jobs of this one keep; what the newest version says counts."""
    cache: list[CacheDefinition] = []
    """Of the job: restored once, and saved when its stages have ended."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong in a pipeline file: where it is, what is wrong, what was expected."""

    message: str
    where: str
    """``file:line``, or the file alone where the line cannot be known."""
    code: str = "pipeline_invalid"
    hint: str | None = None


class PipelineInvalid(MoonyardError):
    """A pipeline file that cannot be used, with all of its problems at once."""

    code = "pipeline_invalid"

    def __init__(self, filename: str, problems: list[Problem]) -> None:
        assert problems, "a pipeline is invalid for a reason"
        first = problems[0]
        count = len(problems)
        super().__init__(
            f"pipeline file `{filename}` has {'a problem' if count == 1 else f'{count} problems'}: "
            + "; ".join(f"{problem.where}: {problem.message}" for problem in problems),
            code=first.code if count == 1 else None,
            where=first.where,
            hint=first.hint,
        )
        self.filename = filename
        self.problems = problems


class InputsInvalid(MoonyardError):
    """Inputs that do not fit the pipeline's definition."""

    code = "inputs_invalid"


def resolve_inputs(definition: PipelineDefinition, given: dict[str, object]) -> dict[str, InputValue]:
    """Check given inputs against a definition and fill in the defaults.

    Text is taken for any type, for that is what a command line can give: ``"3"`` for an integer, ``"true"`` for a
    boolean.

    :raises InputsInvalid: naming every input that is unknown, missing or of the wrong type.
    """
    problems: list[str] = []
    for name in given:
        if name not in definition.inputs:
            known = ", ".join(f"`{known}`" for known in definition.inputs) or "none"
            problems.append(f"`{name}` is not an input (inputs of `{definition.name}`: {known})")
    resolved: dict[str, InputValue] = {}
    for name, declared in definition.inputs.items():
        if name not in given:
            if declared.default is None:
                problems.append(f"`{name}` ({declared.type}) is required and was not given")
            else:
                resolved[name] = declared.default
            continue
        value = given[name]
        try:
            checked = input_value(declared.type, value)
        except ValueError:
            problems.append(f"`{name}` must be of type {declared.type}, got `{value}`")
            continue
        if declared.choices is not None and checked not in declared.choices:
            choices = ", ".join(f"`{choice}`" for choice in declared.choices)
            problems.append(f"`{name}` must be one of {choices}, got `{checked}`")
            continue
        resolved[name] = checked
    if problems:
        raise InputsInvalid(
            f"inputs of pipeline `{definition.name}` are wrong: {'; '.join(problems)}",
            hint="Give inputs as `--input name=value`.",
        )
    return resolved


def input_value(kind: InputType, value: object) -> InputValue:
    """Read a value as an input of a type.

    :raises ValueError: when it is none, or one that Lua and JSON cannot hold.
    """
    read = _read_value(kind, value)
    if kind == "number" and not math.isfinite(float(read)):
        raise ValueError("not finite")
    if kind == "integer" and not _INTEGER_MINIMUM <= int(read) <= _INTEGER_MAXIMUM:
        raise ValueError("not of 64 bits")
    return read


def _read_value(kind: InputType, value: object) -> InputValue:
    match kind, value:
        case "string", str():
            return value
        case "boolean", bool():
            return value
        case "boolean", "true" | "yes" | "1":
            return True
        case "boolean", "false" | "no" | "0":
            return False
        case "integer", int() if not isinstance(value, bool):
            return value
        case "integer", float() if value.is_integer():
            return int(value)
        case "integer", str():
            return int(value)
        case "number", int() | float() if not isinstance(value, bool):
            return value
        case "number", str():
            return float(value)
        case _:
            raise ValueError(f"not of type {kind}")
