"""The messages of the HTTP API under ``/v1``: what command line, runners and orchestrators say to each other.

Times are RFC 3339 with milliseconds, durations seconds, ids UUIDv7 as text; wherever a job is named in a path, its
short number serves as well. Errors are problem documents (RFC 9457).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from schema.definition import InputValue, PipelineDefinition, Problem
from schema.errors import ErrorInfo
from schema.plugins import LockedPlugin, PluginDescription
from schema.states import JobState, StageState

PROBLEM_MEDIA_TYPE = "application/problem+json"
EVENTS_MEDIA_TYPE = "application/x-ndjson"

SOURCE_BYTES_MAXIMUM = 1024 * 1024
"""The largest pipeline file."""
BATCH_BYTES_MAXIMUM = 4 * 1024 * 1024
"""The largest batch of events in one request."""

TokenKind = Literal["admin", "registration", "runner", "setup", "invitation", "user", "session"]
RunnerState = Literal["online", "draining", "offline", "revoked"]
TestState = Literal["passed", "failed", "error", "skipped"]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request's body: an unknown field is an error of the client, told at once."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer's body: readers pass over fields that they do not know."""


class ProblemDocument(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457; the error's stable code, hint and cause, a pipeline's problems and the request's id are extensions."""

    title: str
    status: int
    detail: str
    code: str
    type: str = "about:blank"
    instance: str | None = None
    hint: str | None = None
    cause: ErrorInfo | None = None
    problems: list[Problem] | None = None
    request_id: str | None = None
    """Under which the orchestrator's log has the request."""


# --- pipelines


class PipelinePush(Message, frozen=True, kw_only=True):
    filename: str
    """The file's name without folders, as errors show it: ``build.lua``."""
    source: str
    plugins: dict[str, dict[str, str]] = {}
    """The files of plugins of which the pipeline itself says where they are, by name and path: whoever pushes brings
    them, for the orchestrator fetches nothing."""


class PipelineVersion(Answer, frozen=True, kw_only=True):
    name: str
    version: str
    """The SHA-256, in hex, of the source, and of the plugins that it is locked with, if there are any."""
    filename: str
    created_at: str
    definition: PipelineDefinition
    plugins: list[LockedPlugin] = []
    """What it is locked with."""
    source: str | None = None
    """Only where one version is asked for."""
    unchanged: bool = False
    """The push brought the version that was there already."""


class PipelineList(Answer, frozen=True, kw_only=True):
    pipelines: list[PipelineVersion]


# --- jobs


class JobSubmit(Message, frozen=True, kw_only=True):
    pipeline: str
    version: str | None = None
    """By default the newest."""
    inputs: dict[str, InputValue] = {}
    idempotency_key: str | None = None
    """A second submit of the same pipeline with the same key gives the first one's job; with anything else in it, it is
    refused."""
    priority: int | None = None
    """From -100 to 100; by default the pipeline's."""
    delay: float | None = None
    """Seconds from now, by the database's clock, before which it does not start."""
    not_before: str | None = None
    """The same as a time."""
    queue_timeout: float | None = None
    """Seconds that it may wait for a runner; by default the pipeline's."""
    keep_on_failure: float | None = None
    """Seconds for which the containers and the workspace of an attempt that fails are kept, to be looked into."""


class JobsSubmit(Message, frozen=True, kw_only=True):
    """Jobs that are all queued, or none is."""

    jobs: list[JobSubmit]


class JobSubmitted(Answer, frozen=True, kw_only=True):
    id: str
    number: int
    pipeline: str
    fresh: bool
    """False for the job of an earlier submit with the same idempotency key."""


class JobsSubmitted(Answer, frozen=True, kw_only=True):
    jobs: list[JobSubmitted]
    """In the order in which they were asked for."""


class JobsCancel(Message, frozen=True, kw_only=True):
    """Cancels jobs that wait, of one pipeline or of all."""

    pipeline: str | None = None
    state: Literal["queued"]


class JobsCancelled(Answer, frozen=True, kw_only=True):
    cancelled: int


class Pause(Message, frozen=True, kw_only=True):
    pipeline: str | None = None
    """None for everything."""


class Paused(Answer, frozen=True, kw_only=True):
    pipeline: str | None
    paused: bool


class Resume(Answer, frozen=True, kw_only=True):
    """What an attempt begins with, instead of the pipeline's first stage and an empty workspace."""

    stage: str
    workspace: bool
    """Whether it gets the workspace that was kept of an attempt before it."""
    outputs: dict[str, dict[str, Any]] = {}
    """What stages told in attempts before it, by stage and name."""


class Trigger(Answer, frozen=True, kw_only=True):
    """What made a job."""

    kind: Literal["submit", "schedule", "psql", "run", "webhook"]
    """The API, a schedule, schema ``control``, ``moonyard run``, or a webhook."""
    by: str | None = None
    """The name of the token, the schedule, psql's user, or the hook."""
    delivery: str | None = None
    """Of a webhook: the delivery's id, as its sender gave it."""
    event: str | None = None
    """Of a webhook: what happened there, such as ``push``."""
    sender: str | None = None
    """Of a webhook: who did it there, as its sender says."""


class Output(Answer, frozen=True, kw_only=True):
    """What a stage told by ``job.output``."""

    stage: str
    name: str
    value: Any


class Stage(Answer, frozen=True, kw_only=True):
    name: str
    state: StageState
    container: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    error: ErrorInfo | None = None


class ReportedTest(msgspec.Struct, frozen=True, kw_only=True):
    """A test of a report."""

    suite: str
    name: str
    state: TestState
    duration: float | None = None
    """Seconds, where the report says."""
    message: str | None = None
    """Why it failed or was skipped."""


class JobTest(Answer, frozen=True, kw_only=True):
    """A test as a job's attempt had it."""

    attempt: int
    stage: str
    report: str
    suite: str
    name: str
    state: TestState
    duration: float | None = None
    message: str | None = None


class JobTests(Answer, frozen=True, kw_only=True):
    passed: int
    failed: int
    errors: int
    skipped: int
    duration: float
    """Seconds, of all together."""
    worst: list[JobTest] = []
    """The first of those that failed, or met an error."""


class JobTestList(Answer, frozen=True, kw_only=True):
    tests: list[JobTest]


class Job(Answer, frozen=True, kw_only=True):
    id: str
    number: int
    pipeline: str
    version: str
    inputs: dict[str, InputValue]
    state: JobState
    attempt: int
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    cancel_requested_at: str | None = None
    error: ErrorInfo | None = None
    runner: str | None = None
    priority: int = 0
    not_before: str | None = None
    concurrency_group: str | None = None
    resume: Resume | None = None
    """What its attempts begin with since its last retry; None for the start."""
    workspace_kept_until: str | None = None
    """Until when a retry may begin with a later stage; only where one job is asked for."""
    containers_kept_until: str | None = None
    """Until when `moonyard shell` finds the containers of an attempt that failed; only where one job is asked for."""
    waits_for: str | None = None
    """Why a queued job waits, or for whose yes one that runs, in words; only where one job is asked for."""
    stages: list[Stage] | None = None
    """Of the newest attempt; only where one job is asked for."""
    trigger: Trigger | None = None
    outputs: list[Output] | None = None
    """What its stages told, those of earlier attempts that were not run again included; as above."""
    tests: JobTests | None = None
    """Of the newest attempt's test reports, where it has any; as above."""


class JobList(Answer, frozen=True, kw_only=True):
    jobs: list[Job]
    """The newest first."""
    before: int | None = None
    """Give this as ``before`` for the next page; None on the last."""


# --- schedules

CatchUp = Literal["skip", "once", "all"]


class ScheduleCreate(Message, frozen=True, kw_only=True):
    name: str
    pipeline: str
    cron: str
    """Five fields: minute, hour, day of month, month, day of week."""
    time_zone: str = "UTC"
    inputs: dict[str, InputValue] = {}
    priority: int | None = None
    catch_up: CatchUp = "once"
    """Of the times that were missed: none, the last, or all (the newest 100)."""


class Schedule(Answer, frozen=True, kw_only=True):
    name: str
    pipeline: str
    cron: str
    time_zone: str
    inputs: dict[str, InputValue]
    priority: int | None
    catch_up: CatchUp
    created_at: str
    next_at: str | None
    """None while it is paused."""
    last_at: str | None = None
    last_job: int | None = None
    paused_by: str | None = None
    error: ErrorInfo | None = None
    """Why its last job could not be submitted."""


class ScheduleList(Answer, frozen=True, kw_only=True):
    schedules: list[Schedule]


# --- artifacts


class Artifact(Answer, frozen=True, kw_only=True):
    job: str
    name: str
    sha256: str
    size_bytes: int
    content_type: str
    created_at: str
    stage: str | None = None
    expires_at: str | None = None
    """When it goes, where that is before its job does."""


class ArtifactList(Answer, frozen=True, kw_only=True):
    artifacts: list[Artifact]


# --- caches


class Cache(Answer, frozen=True, kw_only=True):
    pipeline: str
    scope: str
    """Empty where all jobs of the pipeline share it."""
    key: str
    paths: list[str]
    size_bytes: int
    created_at: str
    used_at: str
    hits: int
    job: int | None
    """The number of the job that saved it."""


class CacheList(Answer, frozen=True, kw_only=True):
    caches: list[Cache]


class CachesForget(Message, frozen=True, kw_only=True):
    """Forgets what a pipeline's jobs saved: under one key or all, in one scope or all."""

    pipeline: str
    key: str | None = None
    scope: str | None = None


class CachesForgotten(Answer, frozen=True, kw_only=True):
    forgotten: int


# --- plugins


class PluginPush(Message, frozen=True, kw_only=True):
    files: dict[str, str]
    """The text of each file of a plugin's folder, by its path."""


class PluginVersion(Answer, frozen=True, kw_only=True):
    name: str
    version: str
    sha256: str
    """Of all its files (``plugins.folders.tree_hash``)."""
    origin: str
    """`shipped`, `folder` or `pushed`."""
    description: str | None = None
    """Not of those that were pushed, where all are listed."""
    pushed_by: str | None = None
    pushed_at: str | None = None
    unchanged: bool = False
    """The push brought what was there already."""


class PluginList(Answer, frozen=True, kw_only=True):
    plugins: list[PluginVersion]


class PluginShown(Answer, frozen=True, kw_only=True):
    origin: str
    description: PluginDescription


class PluginContents(Answer, frozen=True, kw_only=True):
    sha256: str
    files: dict[str, str]


# --- http limits


class HttpLimitSet(Message, frozen=True, kw_only=True):
    """Limits how often all runners together ask a host, or all hosts of a pattern together."""

    host: str
    rate: str
    """`50/s`, `30/m` or `1000/h`."""
    burst: int | None = None
    """How many at once; by default what comes in a second."""


class HttpLimit(Answer, frozen=True, kw_only=True):
    host: str
    rate: str
    burst: int
    permits: int
    """How many were handed out since it was set first."""
    set_by: str
    set_at: str


class HttpLimitList(Answer, frozen=True, kw_only=True):
    limits: list[HttpLimit]


class HttpLimitRemove(Message, frozen=True, kw_only=True):
    host: str


class HttpLimitRemoved(Answer, frozen=True, kw_only=True):
    host: str


# --- tokens and runners


class TokenCreate(Message, frozen=True, kw_only=True):
    kind: Literal["admin", "registration", "setup", "user"]
    name: str
    uses: int | None = None
    """How often a registration token may be used; None for no limit."""
    expires_in: float | None = None
    """Seconds from now; None for never."""
    permissions: list[str] | None = None
    """What a user token may be used for at most, of what its account may; None for all of that."""
    pipelines: list[str] | None = None
    """Patterns of the pipelines that a user token may be used for at most; None for all that its account may."""


class Token(Answer, frozen=True, kw_only=True):
    id: str
    kind: TokenKind
    name: str
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None
    last_used_at: str | None = None
    uses_left: int | None = None
    account: str | None = None
    """Whose it is."""
    permissions: list[str] | None = None
    pipelines: list[str] | None = None
    secret: str | None = None
    """The token itself: in the answer to its creation, and never again."""


class TokenList(Answer, frozen=True, kw_only=True):
    tokens: list[Token]


class RunnerRegister(Message, frozen=True, kw_only=True):
    """Sent with a registration token; the answer holds the runner's own token."""

    name: str
    tags: list[str] = []


class RunnerRegistered(Answer, frozen=True, kw_only=True):
    id: str
    name: str
    token: str


class Runner(Answer, frozen=True, kw_only=True):
    id: str
    name: str
    state: RunnerState
    registered_at: str
    seen_at: str | None = None
    version: str | None = None
    capacity: int | None = None
    running: int = 0
    tags: list[str] = []
    drained_by: str | None = None
    """Who wants no more jobs to go there."""
    pipelines: list[str] = []
    """The names or patterns of pipelines to which it is bound: it takes jobs of no others."""
    revoked_by: str | None = None
    """Who had its token refused."""
    token_at: str | None = None
    """When the token that it uses was made."""
    token_reused_at: str | None = None
    """When one of its tokens was used last that had been replaced: somebody else may have a copy."""


class RunnerBind(Message, frozen=True, kw_only=True):
    pipelines: list[str]
    """Names or patterns: it takes jobs of no others. Empty for any pipeline's again."""


class ReservationSet(Message, frozen=True, kw_only=True):
    pipelines: str
    """A name or pattern."""
    reserved: bool
    """Whether their jobs go only to runners that are bound to them."""


class Reservation(Answer, frozen=True, kw_only=True):
    pipelines: str
    reserved_by: str
    reserved_at: str
    runners: list[str] = []
    """Names of those that are bound by the same name or pattern."""


class ReservationList(Answer, frozen=True, kw_only=True):
    reservations: list[Reservation]


class RunnersChanged(Answer, frozen=True, kw_only=True):
    runners: list[str]
    """Their ids: all of the name that was given."""


class RunnersDrained(Answer, frozen=True, kw_only=True):
    runners: list[str]
    """Their ids: all of the name that was given."""


class RunnerList(Answer, frozen=True, kw_only=True):
    runners: list[Runner]


# --- what a runner says


class RunnerToken(Answer, frozen=True, kw_only=True):
    """A runner's new token. The one that it asked with is good until this one is used."""

    token: str


class RunnerTokenUsed(Answer, frozen=True, kw_only=True):
    """Said to a runner that uses its token: others that it had are replaced."""

    runner: str


class Claim(Message, frozen=True, kw_only=True):
    """Asks for up to ``slots`` jobs and waits up to ``wait`` seconds for the first."""

    slots: int
    wait: float
    capacity: int
    version: str


class Assignment(Answer, frozen=True, kw_only=True):
    """A job handed to a runner. The lease is renewed by heartbeats; ``attempt`` fences all that is sent for it."""

    job: str
    number: int
    attempt: int
    pipeline: str
    filename: str
    version: str
    source: str
    definition: PipelineDefinition
    inputs: dict[str, InputValue]
    plugins: list[LockedPlugin] = []
    """Those that its version is locked with: the runner gets them by their hashes."""
    lease_seconds: float
    resume: Resume | None = None
    keep_on_failure: float | None = None
    """Seconds for which its containers and workspace are to be kept if it fails."""
    traceparent: str | None = None
    """The trace that the attempt belongs to, as W3C Trace Context has it."""
    trigger: Trigger | None = None
    is_protected: bool = False
    """Its stages may have to be approved though its file says nothing of that: the runner asks before each."""


class HttpCeiling(Answer, frozen=True, kw_only=True):
    """A host, or a pattern of hosts, that jobs may ask by ``http`` only with a permit."""

    host: str
    rate: str


class Claimed(Answer, frozen=True, kw_only=True):
    assignments: list[Assignment]
    http_limits: list[HttpCeiling] = []
    """All that there are."""


class Holding(Message, frozen=True, kw_only=True):
    job: str
    attempt: int
    cancelling: bool = False
    """The runner has heard that this one is to be cancelled, and need not be told again."""
    killing: bool = False
    """The same, for one that is to end at once."""


class Kept(Message, frozen=True, kw_only=True):
    """An attempt that has ended, and whose containers the runner keeps."""

    job: str
    attempt: int


class Heartbeat(Message, frozen=True, kw_only=True):
    """Renews the leases of all attempts that the runner holds."""

    holding: list[Holding]
    kept: list[Kept] = []
    draining: bool = False
    rotating: bool = False
    """The runner has heard that it is to get a new token, and need not be told again."""
    wait: float = 0.0
    """The leases are renewed at once; the answer may wait up to so many seconds for something that the runner has to
    hear, so that a cancel reaches it without delay."""


class ShellWanted(Answer, frozen=True, kw_only=True):
    """A shell that the runner is to open; where it runs, and what, is as in ``schema.shells.ShellOpen``."""

    id: str
    job: str
    attempt: int
    stage: str | None
    container: str | None
    command: list[str] | None
    terminal: str | None
    lines: int
    columns: int


class HeartbeatAnswer(Answer, frozen=True, kw_only=True):
    lease_seconds: float
    cancel: list[str]
    """Jobs that a user wants cancelled."""
    kill: list[str] = []
    """Jobs that a user wants to end at once, with whatever a cancelled job still does."""
    gone: list[str]
    """Jobs of the runner's list that it no longer holds: stop them at once and report nothing more."""
    shells: list[ShellWanted] = []
    """Shells to open in containers that the runner has. One that it was told of before is the same."""
    release: list[Kept] = []
    """Of those whose containers it keeps: remove them now."""
    http_limits: list[HttpCeiling] = []
    """All that there are."""
    rotate: bool = False
    """An operator wants the runner to get a new token."""


class EventsAccepted(Answer, frozen=True, kw_only=True):
    next_seq: int
    """All events below it are stored."""


class BlobState(Answer, frozen=True, kw_only=True):
    """How much of a content is there, of an upload of this runner's that broke off or of a whole one."""

    is_whole: bool
    size_bytes: int


class ArtifactSave(Message, frozen=True, kw_only=True):
    """Names a blob, already uploaded under its SHA-256, as an artifact of the job."""

    name: str
    sha256: str
    size_bytes: int
    content_type: str = "application/octet-stream"
    stage: str | None = None
    retention: float | None = None
    """Seconds for which it is kept; None for as long as its job."""


class ArtifactsFind(Message, frozen=True, kw_only=True):
    """Asks for artifacts: of the job itself, of an earlier one, or of a pipeline's newest that succeeded."""

    name: str | None = None
    """None for all."""
    job: str | None = None
    """A number or id."""
    pipeline: str | None = None


class ArtifactsFound(Answer, frozen=True, kw_only=True):
    job: str
    number: int
    pipeline: str
    artifacts: list[Artifact]


class ReportAdd(Message, frozen=True, kw_only=True):
    """Tests of a report, in the order of the report; a long one comes in parts."""

    stage: str
    report: str
    """Its path."""
    position: int
    """Of the first of these in the report; 0 forgets what was told of it before."""
    tests: list[ReportedTest]


class ReportAdded(Answer, frozen=True, kw_only=True):
    accepted: int


class WorkspaceKeep(Message, frozen=True, kw_only=True):
    """Names a blob, already uploaded under its SHA-256, as the packed workspace of a failed attempt."""

    sha256: str


class WorkspaceKept(Answer, frozen=True, kw_only=True):
    expires_at: str


class CacheFind(Message, frozen=True, kw_only=True):
    """Asks for what was saved of a cache that the pipeline declares: of a stage by its name, or of the job (None).

    Which scopes are read is for the orchestrator to say: it knows the pipeline and the job's inputs.
    """

    stage: str | None
    place: int
    """Among the caches declared there, from 0."""
    key: str
    exact: bool = False
    """Only whether the job's own scope has that very key: nothing is restored by it."""


class CacheFound(Answer, frozen=True, kw_only=True):
    size_maximum: int
    """Of what may be saved, packed."""
    id: str | None = None
    """None where there is nothing."""
    scope: str = ""
    key: str = ""
    sha256: str = ""
    size_bytes: int = 0


class CacheSave(Message, frozen=True, kw_only=True):
    """Names a blob, already uploaded under its SHA-256, as the content of a declared cache under a key."""

    stage: str | None
    place: int
    key: str
    sha256: str


class CacheSaved(Answer, frozen=True, kw_only=True):
    saved: bool
    """False where the key was there already: what it names does not change."""


class HttpPermitsTake(Message, frozen=True, kw_only=True):
    """Asks for permits to ask hosts of a limit."""

    host: str
    """The limit's: a host or a pattern."""
    wanted: int


class HttpPermits(Answer, frozen=True, kw_only=True):
    granted: int
    """At least one, and no more than come in a second."""
    delay: float
    """Seconds from now until the first of them may be used; less than nothing for one that could have been used."""
    interval: float
    """Seconds from each to the next."""
    rate: str


class Health(Answer, frozen=True, kw_only=True):
    status: Literal["ok", "draining"]
    version: str
    schema_version: str
