"""The table that a pipeline's file returns, and what its scripts get. ``sandbox.definitions`` checks it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from runner.modules.arguments import Duration
from runner.reference import lua_types
from runner.reference.lua_types import ANY, Callback, Table
from schema.definition import Backoff, CachePolicy, CacheWhen, InputType, PullPolicy
from schema.states import StageState

_NAME: Final = "moonyard"


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """What made a job."""

    kind: Literal["submit", "schedule", "psql", "run", "webhook"]
    """The API, a schedule, schema `control`, `moonyard run`, or a webhook."""
    by: str | None = None
    """The name of the token, the schedule, psql's user, or the hook."""
    delivery: str | None = None
    """Of a webhook: the delivery's id, as its sender gave it."""
    event: str | None = None
    """Of a webhook: what happened there, such as `push`."""
    sender: str | None = None
    """Of a webhook: who did it there, as its sender says. A stranger may have chosen it."""


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """What `pcall` gives of an error of a module's function, and why a job failed."""

    code: str
    """For programs, such as `command_failed`."""
    message: str
    """For people."""
    where: str | None = None
    """The file and line."""
    hint: str | None = None
    """What to do."""
    cause: dict[str, Any] | None = None
    """The error that it came from, with the same fields."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a script is called with."""

    id: str
    """Known everywhere."""
    number: int | None
    """For people; nil in `moonyard run`."""
    attempt: int
    """Which try of the job this is, from 1."""
    pipeline: str
    """The pipeline's name."""
    version: str | None = None
    """The SHA-256 of the pipeline's source."""
    trigger: Trigger | None = None
    """What made the job."""
    stage: str
    """The stage's name."""
    inputs: dict[str, Any]
    """The values of the inputs, by name."""
    env: dict[str, str]
    """The variables of the pipeline's `env`."""
    outputs: dict[str, Any]
    """What stages told by `output`, by name."""
    output: Annotated[Any, Callback((("name", lua_types.STRING), ("value", ANY)))]
    """Tells a result of the stage, for the stages after it and for whoever looks at the job."""
    stages: dict[str, StageState]
    """How the stages ended that did so far, by name."""
    matrix: dict[str, str | int | float | bool] | None = None
    """The values of the stage's combination, of a stage with a `matrix`."""
    state: Literal["succeeded", "failed", "cancelled"] | None = None
    """How the job's stages ended, in `on_cancel` and `finally` stages."""
    error: Error | None = None
    """Why it failed, in those."""


JOB: Final = lua_types.table(Job, _NAME)
SCRIPT: Final = Callback((("job", JOB),))
CONDITION: Final = Callback((("job", JOB),), ANY)


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    times: int
    """How often, 0 to 100."""
    delay: Duration | None = None
    """How long to wait before; by default not at all."""
    backoff: Backoff = "constant"
    """Whether each delay is twice the one before, up to an hour."""


class Concurrency(msgspec.Struct, frozen=True, kw_only=True):
    group: str | None = None
    """The group's name; `${ref}` stands for the input `ref`. By default the pipeline is a group of its own."""
    limit: int = 1
    """How many jobs of the group may be under way, 1 to 10000."""
    cancel_running: bool = False
    """Whether a new job cancels those of its group that were submitted before it."""


class Input(msgspec.Struct, frozen=True, kw_only=True):
    type: InputType = "string"
    """What is accepted."""
    default: str | int | float | bool | None = None
    """Without one, the input is required."""
    description: str | None = None
    """For people."""
    choices: list[str | int | float | bool] | None = None
    """What is accepted at all."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    port: int | None = None
    """Something listens at this TCP port, and not only on a loopback address."""
    command: list[str | int | float] | None = None
    """This ends with exit code 0 in the service's container; instead of `port`."""
    timeout: Duration | None = None
    """How long that may take; by default 60 s."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    image: str
    """It runs what it says, its own entrypoint included."""
    command: list[str | int | float] | None = None
    """In the place of the image's command; the entrypoint gets it."""
    env: dict[str, str | int | float] = {}
    """Its environment."""
    ready: Ready | None = None
    """How it tells that it can be used; without it, it is ready when it has started."""
    privileged: bool = False
    """As with a stage."""
    mounts: list[str] = []
    """As with a stage."""
    devices: list[str] = []
    """As with a stage."""
    capabilities: list[str] = []
    """As with a stage."""


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    username: str
    """Whom the job is there."""
    password_secret: str
    """The name of the secret that holds the password or token; the pipeline has to be granted it."""


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    """What it is kept under. `${name}` stands for the value of an input, or of the stage's matrix."""
    files: list[str] = []
    """Patterns of files in the workspace: the hash of their names and contents is put behind the key."""
    paths: list[str]
    """Files and folders of the workspace that are kept."""
    restore_keys: list[str] = []
    """How keys begin that do as well where there is nothing under the key itself."""
    policy: CachePolicy = "restore_and_save"
    """What is done."""
    when: CacheWhen = "on_success"
    """Whether it is also saved when the stage (or one of the job's) failed."""
    scope: str | None = None
    """Who shares it, with `${name}` for the values of inputs; by default all jobs of the pipeline."""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    count: int = 1
    """How many people have to say yes, 1 to 10; none of them submitted the job, or had it tried again."""
    message: str | None = None
    """What they are told."""
    timeout: Duration | None = None
    """How long the stage waits before it fails; by default 24 h."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """Up to 100 letters, digits, `.`, `_`, `-`; each only once."""
    container: str | None = None
    """An image: the stage gets a container of its own from it."""
    pull: PullPolicy | None = None
    """When that image is pulled; by default as the runner's `pull_policy` says."""
    read_only: bool = False
    """Whether nothing of that image can be written to."""
    privileged: bool = False
    """Whether that container can do all that root on the runner's machine can, where the runner's owner allows it."""
    mounts: list[str] = []
    """Folders that the runner's owner shares, by their places in the container."""
    devices: list[str] = []
    """Devices of the runner's machine, such as `/dev/kvm`, where its owner allows them."""
    capabilities: list[str] = []
    """Beyond those that all containers have, such as `NET_ADMIN`, where the owner allows them."""
    script: Annotated[Any, SCRIPT]
    """What the stage does; called with the job."""
    timeout: Duration | None = None
    """How long one try of the stage may run."""
    needs: list[str] | None = None
    """The stages that it waits for, and no others; by default all before it."""
    retries: int | Retries = 0
    """How often a failed stage is tried again within its job."""
    services: dict[str, Service] = {}
    """Containers that run beside the stage's, by their host names."""
    matrix: dict[str, list[str | int | float | bool]] | None = None
    """One stage for each combination of the values."""
    when: Annotated[Any, CONDITION] | Literal["on_success", "on_failure", "always"] = "on_success"
    """Whether it runs when its turn comes; a function, called with the job, says so."""
    allow_failure: bool = False
    """Whether the job goes on, and can succeed, when it fails."""
    cache: Cache | list[Cache] | None = None
    """Paths of the workspace that are kept for later jobs."""
    approval: bool | Approval | None = None
    """What it waits for before it begins: that somebody else than who submitted the job says yes."""


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """What it is pushed and submitted as: up to 100 letters, digits, `.`, `_`, `-`, a letter or digit first."""
    description: str | None = None
    """For people."""
    plugins: list[str] = []
    """The plugins that the file requires."""
    inputs: dict[str, Input] = {}
    """What a submit may give, by name."""
    env: dict[str, str | int | float] = {}
    """The environment of all commands; scripts read it by `env.get`."""
    stages: list[Stage]
    """At least one, at most 500."""
    on_cancel: list[Stage] = []
    """What runs after the stages when the job was cancelled."""
    finally_: list[Stage] = msgspec.field(name="finally", default_factory=list)
    """What runs after the others, however those ended."""
    finally_timeout: Duration | None = None
    """How long `on_cancel` and `finally` may take in all; by default 5 minutes."""
    cancel_grace: Duration | None = None
    """How long a command of a cancelled job has to end by itself, 0 included; by default 10 s, at most 10 minutes."""
    timeout: Duration | None = None
    """How long the stages of one attempt of the job may run; by default 24 h."""
    priority: int = 0
    """Jobs with a higher one go first; -100 to 100."""
    queue_timeout: Duration | None = None
    """How long a job may wait for a runner."""
    retries: int | Retries = 0
    """How often a failed job is tried again as a new attempt, from its first stage."""
    keep_workspace: Duration | None = None
    """For how long the workspace of a failed attempt is kept; by default not at all."""
    tags: list[str] = []
    """What a runner must have been registered with to get the job."""
    concurrency: int | Concurrency | None = None
    """How many jobs may be under way at once; by default any number."""
    services: dict[str, Service] = {}
    """Containers that run beside the job's, by their host names."""
    registries: dict[str, Registry] = {}
    """Credentials for private images, by registries such as `registry.example.org`, or parts of them."""
    parallel: int = 8
    """How many stages of a job run at once, 1 to 64."""
    fail_fast: bool = True
    """Whether the first failure ends the stages that run beside it."""
    cache: Cache | list[Cache] | None = None
    """Paths of the workspace that are kept for later jobs."""
    artifact_readers: list[str] = []
    """The other pipelines whose jobs may fetch its artifacts."""


PIPELINE: Final = lua_types.table(Pipeline, _NAME)
TABLES: Final[tuple[Table, ...]] = tuple(
    lua_types.table(kind, _NAME)
    for kind in (
        Pipeline,
        Stage,
        Input,
        Retries,
        Concurrency,
        Service,
        Ready,
        Registry,
        Cache,
        Approval,
        Job,
        Trigger,
        Error,
    )
)
