"""Checks what a pipeline file returned and makes a definition of it, or the list of everything that is wrong."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, get_args

from plugins import Plugin, versions
from sandbox import locations, matrix, references
from sandbox.approvals import ApprovalChecker
from sandbox.caches import CacheChecker
from sandbox.frames import Function, lua_type
from sandbox.registries import RegistryChecker
from sandbox.rights import RIGHTS_FIELDS, RightsChecker
from sandbox.services import ServiceChecker
from schema import times
from schema.definition import (
    NAME_PATTERN,
    PRIORITY_MAXIMUM,
    TAG_PATTERN,
    TAGS_MAXIMUM,
    Backoff,
    Concurrency,
    InputDefinition,
    InputType,
    InputValue,
    PipelineDefinition,
    PipelineInvalid,
    Problem,
    PullPolicy,
    StageDefinition,
    When,
    input_value,
)
from schema.errors import MoonyardError

PIPELINE_FIELDS: Final = (
    "name",
    "description",
    "plugins",
    "inputs",
    "env",
    "stages",
    "on_cancel",
    "finally",
    "finally_timeout",
    "cancel_grace",
    "timeout",
    "priority",
    "queue_timeout",
    "retries",
    "keep_workspace",
    "tags",
    "concurrency",
    "services",
    "registries",
    "parallel",
    "fail_fast",
    "cache",
    "artifact_readers",
)
STAGE_FIELDS: Final = (
    "name",
    "container",
    "pull",
    "read_only",
    "privileged",
    "mounts",
    "devices",
    "capabilities",
    "script",
    "timeout",
    "needs",
    "retries",
    "services",
    "matrix",
    "when",
    "allow_failure",
    "cache",
    "approval",
)
STAGES_FIELDS: Final = ("needs", "matrix", "when", "allow_failure", "cache", "approval")
"""What only stages in `stages` have."""
CONTAINER_FIELDS: Final = ("pull", "read_only", *RIGHTS_FIELDS)
"""What only stages with a container of their own have."""
PULL_POLICIES: Final[tuple[PullPolicy, ...]] = get_args(PullPolicy)
WHEN_WORDS: Final[tuple[When, ...]] = ("on_success", "on_failure", "always")
STAGE_LISTS: Final = ("stages", "on_cancel", "finally")
INPUT_FIELDS: Final = ("type", "default", "description", "choices")
RETRIES_FIELDS: Final = ("times", "delay", "backoff")
CONCURRENCY_FIELDS: Final = ("group", "limit", "cancel_running")
STAGES_MAXIMUM: Final = 500
RETRIES_MAXIMUM: Final = 100
IMAGE_LENGTH_MAXIMUM: Final = 500
CANCEL_GRACE_MAXIMUM: Final = 600.0
CONCURRENCY_MAXIMUM: Final = 10_000
PARALLEL_MAXIMUM: Final = 64
READERS_MAXIMUM: Final = 100
GROUP_LENGTH_MAXIMUM: Final = 200
_PLACEHOLDER: Final = re.compile(r"\$\{([^}]*)\}")


def check(
    filename: str,
    source: str,
    value: object,
    required: Mapping[str, int],
    plugins: Mapping[str, Plugin],
    plugin_problems: Mapping[str, MoonyardError] | None = None,
) -> PipelineDefinition:
    """Check a pipeline.

    :param value: what the file returned, as plain data with ``Function`` for functions.
    :param required: the plugins that the file's top level required, with the lines.
    :param plugins: those that are there, by name.
    :param plugin_problems: why others are not, by name.
    :raises PipelineInvalid: with all problems at once.
    """
    checker = _Checker(filename, source, plugins, plugin_problems or {})
    definition = checker.pipeline(value)
    if isinstance(value, dict):
        checker.requirements(required)
    if checker.problems or definition is None:
        raise PipelineInvalid(filename, sorted(checker.problems, key=_line))
    return definition


def _line(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


class _Checker:
    def __init__(
        self,
        filename: str,
        source: str,
        known_plugins: Mapping[str, Plugin],
        plugin_problems: Mapping[str, MoonyardError],
    ) -> None:
        self.problems: list[Problem] = []
        self._filename = filename
        self._lines = locations.locate(source)
        self._known_plugins = known_plugins
        self._plugin_problems = plugin_problems
        self._plugins: list[str] = []
        self._combinations: dict[str, list[matrix.Combination]] = {}
        """By their stages' names."""
        self._input_names: list[str] = []
        self._caches = CacheChecker(problem=self.problem, unknown_fields=self._unknown_fields)
        self._registries = RegistryChecker(problem=self.problem, unknown_fields=self._unknown_fields)
        self._approvals = ApprovalChecker(
            problem=self.problem,
            unknown_fields=self._unknown_fields,
            whole=self._whole,
            duration=self._duration,
            text=self._text,
        )
        self._rights = RightsChecker(problem=self.problem, boolean=self._boolean)
        self._services = ServiceChecker(
            problem=self.problem,
            unknown_fields=self._unknown_fields,
            image=self._image,
            duration=self._duration,
            rights=self._rights,
        )

    def problem(
        self,
        path: locations.Path,
        message: str,
        hint: str | None = None,
        line: int | None = None,
        code: str = PipelineInvalid.code,
    ) -> None:
        line = line or locations.line_of(self._lines, path)
        where = self._filename if line is None else f"{self._filename}:{line}"
        self.problems.append(Problem(message=message, where=where, hint=hint, code=code))

    def pipeline(self, value: object) -> PipelineDefinition | None:
        if not isinstance(value, dict):
            self.problem(
                (),
                f"the file returns {lua_type(value)}, and a pipeline is a table",
                'End the file with `return { name = "...", stages = { ... } }`.',
            )
            return None
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at below
        self._unknown_fields((), table, PIPELINE_FIELDS, "pipeline")
        self._plugins = self._plugin_names(table.get("plugins"))
        inputs = self._inputs(table.get("inputs"))
        self._input_names = [*inputs]
        retries, retry_delay, retry_backoff = self._retries(("retries",), "the pipeline", table.get("retries"))
        stages, on_cancel, finally_ = (self._stages(field, table.get(field)) for field in STAGE_LISTS)
        self._check_names([*stages, *on_cancel, *finally_])
        return PipelineDefinition(
            name=self._name((), table, "pipeline"),
            description=self._text(("description",), table.get("description")),
            plugins=self._plugins,
            inputs=inputs,
            env=self._services.env(("env",), "the pipeline", table.get("env")),
            stages=self._expanded(self._in_order(stages)),
            on_cancel=on_cancel,
            finally_=finally_,
            finally_timeout=self._duration(("finally_timeout",), table.get("finally_timeout")),
            cancel_grace=self._grace(table.get("cancel_grace")),
            timeout=self._duration(("timeout",), table.get("timeout")),
            priority=self._whole(
                ("priority",), "the pipeline", table.get("priority", 0), -PRIORITY_MAXIMUM, PRIORITY_MAXIMUM
            ),
            queue_timeout=self._duration(("queue_timeout",), table.get("queue_timeout")),
            retries=retries,
            retry_delay=retry_delay,
            retry_backoff=retry_backoff,
            keep_workspace=self._duration(("keep_workspace",), table.get("keep_workspace")),
            tags=self._tags(table.get("tags")),
            concurrency=self._concurrency(table.get("concurrency"), inputs),
            services=self._services.services(("services",), "the pipeline", table.get("services")),
            registries=self._registries.registries(("registries",), table.get("registries")),
            parallel=None
            if table.get("parallel") is None
            else self._whole(("parallel",), "the pipeline", table["parallel"], 1, PARALLEL_MAXIMUM),
            fail_fast=self._boolean(("fail_fast",), "the pipeline", table.get("fail_fast"), default=True),
            cache=self._caches.caches(("cache",), "the pipeline", table.get("cache"), inputs=inputs),
            artifact_readers=self._readers(table.get("artifact_readers")),
        )

    def requirements(self, required: Mapping[str, int]) -> None:
        """A plugin that is used has to be named, so that a reader sees at the end of a file what it reaches for."""
        for name, line in required.items():
            if name not in self._plugins and name not in self._plugin_problems:
                words = ", ".join(f'"{plugin}"' for plugin in sorted({*self._plugins, name}))
                self.problem(
                    ("plugins",),
                    f'`require("{name}")` needs the plugin to be named in `plugins`',
                    f"Write `plugins = {{ {words} }}` in the pipeline's table.",
                    line=line,
                )

    def _unknown_fields(
        self, path: locations.Path, table: Mapping[Any, object], known: tuple[str, ...], of: str
    ) -> None:
        for key, value in table.items():
            if key in known:
                continue
            if key == "requires" and of == "pipeline":
                entries = _list(value)
                names = ", ".join(f'"{name}"' for name in (entries or []) if isinstance(name, str)) or '"git"'
                self.problem(
                    (*path, key),
                    "`requires` is no field of a pipeline: plugins are named in `plugins`",
                    f"Write `plugins = {{ {names} }}` instead.",
                )
                continue
            near = difflib.get_close_matches(str(key), known, n=1)
            self.problem(
                (*path, key),
                f"`{key}` is no field of {'an' if of[0] in 'aeiou' else 'a'} {of}"
                + (f"; did you mean `{near[0]}`?" if near else "")
                + f" (fields: {', '.join(known)})",
            )

    def _name(self, path: locations.Path, table: Mapping[str, object], of: str) -> str:
        name = table.get("name")
        if name is None:
            self.problem(path, f"the {of} has no `name`", f'Write `name = "..."` in the {of}\'s table.')
        elif not isinstance(name, str):
            self.problem((*path, "name"), f"`name` of the {of} must be a string, got {lua_type(name)}")
        elif not NAME_PATTERN.fullmatch(name):
            self.problem(
                (*path, "name"),
                f"`{name[:120]}` cannot be a name: up to 100 letters, digits, `.`, `_`, `-`, a letter or digit first",
            )
        else:
            return name
        return ""

    def _text(self, path: locations.Path, value: object) -> str | None:
        if value is not None and not isinstance(value, str):
            self.problem(path, f"`{path[-1]}` must be a string, got {lua_type(value)}")
            return None
        return value

    def _duration(self, path: locations.Path, value: object) -> float | None:
        if value is None:
            return None
        try:
            return times.duration_seconds(value)
        except ValueError as error:
            self.problem(path, f"`{path[-1]}` is no duration: {error}")
            return None

    def _grace(self, value: object) -> float | None:
        if value == 0 and not isinstance(value, bool):
            return 0.0
        grace = self._duration(("cancel_grace",), value)
        if grace is not None and grace > CANCEL_GRACE_MAXIMUM:
            self.problem(
                ("cancel_grace",),
                f"`cancel_grace` is at most {CANCEL_GRACE_MAXIMUM / 60:.0f} minutes, got {_shown(value)}",
                "What takes longer belongs in an `on_cancel` or `finally` stage.",
            )
        return grace

    def _whole(self, path: locations.Path, of: str, value: object, least: int, most: int) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.problem(path, f"`{path[-1]}` of {of} must be a whole number from {least} to {most}, got {_shown(value)}")
        return max(least, 0)

    def _boolean(self, path: locations.Path, of: str, value: object, *, default: bool) -> bool:
        if value is not None and not isinstance(value, bool):
            self.problem(path, f"`{path[-1]}` of {of} must be true or false, got {_shown(value)}")
            return default
        return default if value is None else value

    def _retries(self, path: locations.Path, of: str, value: object) -> tuple[int, float, Backoff]:
        if not isinstance(value, dict):
            return self._whole(path, of, 0 if value is None else value, 0, RETRIES_MAXIMUM), 0.0, "constant"
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
        self._unknown_fields(path, table, RETRIES_FIELDS, "`retries` table")
        backoff = table.get("backoff", "constant")
        if backoff not in get_args(Backoff):
            words = ", ".join(f'"{word}"' for word in get_args(Backoff))
            self.problem((*path, "backoff"), f"`backoff` of {of} must be one of {words}, got {_shown(backoff)}")
            backoff = "constant"
        times_tried = self._whole((*path, "times"), of, table.get("times"), 0, RETRIES_MAXIMUM)
        return times_tried, self._duration((*path, "delay"), table.get("delay")) or 0.0, backoff

    def _readers(self, value: object) -> list[str]:
        entries = [] if value is None else _list(value)
        if entries is None or len(entries) > READERS_MAXIMUM:
            self.problem(
                ("artifact_readers",),
                f"`artifact_readers` must be a list of up to {READERS_MAXIMUM} pipelines' names, got "
                + (lua_type(value) if entries is None else str(len(entries))),
                'Write `artifact_readers = { "deploy" }`.',
            )
            return []
        names: list[str] = []
        for index, name in enumerate(entries, 1):
            if isinstance(name, str) and NAME_PATTERN.fullmatch(name):
                names.append(name)
            else:
                self.problem(
                    ("artifact_readers", index),
                    f"`artifact_readers[{index}]` must be a pipeline's name, got {_shown(name)}",
                )
        return sorted(set(names))

    def _tags(self, value: object) -> list[str]:
        entries = [] if value is None else _list(value)
        if entries is None or len(entries) > TAGS_MAXIMUM:
            self.problem(
                ("tags",),
                f"`tags` must be a list of up to {TAGS_MAXIMUM} tags of runners, got "
                + (lua_type(value) if entries is None else str(len(entries))),
                'Write `tags = { "gpu" }`.',
            )
            return []
        tags: list[str] = []
        for index, tag in enumerate(entries, 1):
            if isinstance(tag, str) and TAG_PATTERN.fullmatch(tag):
                tags.append(tag)
            else:
                self.problem(
                    ("tags", index),
                    f"`tags[{index}]` must be up to 50 lower-case letters, digits, `.`, `_`, `-`, got {_shown(tag)}",
                )
        return sorted(set(tags))

    def _concurrency(self, value: object, inputs: Mapping[str, InputDefinition]) -> Concurrency | None:
        path: locations.Path = ("concurrency",)
        if value is None:
            return None
        if not isinstance(value, dict):
            return Concurrency(limit=self._whole(path, "the pipeline", value, 1, CONCURRENCY_MAXIMUM))
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
        self._unknown_fields(path, table, CONCURRENCY_FIELDS, "`concurrency` table")
        return Concurrency(
            group=self._group((*path, "group"), table.get("group"), inputs),
            limit=self._whole((*path, "limit"), "`concurrency`", table.get("limit", 1), 1, CONCURRENCY_MAXIMUM),
            cancel_running=self._boolean(
                (*path, "cancel_running"), "`concurrency`", table.get("cancel_running"), default=False
            ),
        )

    def _group(self, path: locations.Path, value: object, inputs: Mapping[str, InputDefinition]) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str) or not 0 < len(value) <= GROUP_LENGTH_MAXIMUM or not value.isprintable():
            self.problem(
                path,
                f"`group` must be a name of up to {GROUP_LENGTH_MAXIMUM} printable characters, got {lua_type(value)}",
            )
            return None
        for placeholder in _PLACEHOLDER.finditer(value):
            name = placeholder[1]
            if name not in inputs:
                near = difflib.get_close_matches(name, list(inputs), n=1)
                self.problem(
                    path,
                    f"`group` names the input `{name}`, and there is none of that name"
                    + (f"; did you mean `{near[0]}`?" if near else ""),
                )
        return value

    def _plugin_names(self, value: object) -> list[str]:
        names: list[str] = []
        for path, reference in references.read(value, self.problem):
            name = reference.name
            plugin = self._known_plugins.get(name)
            if (why := self._plugin_problems.get(name)) is not None:
                self.problem(path, why.message, why.hint, code=why.code)
            elif plugin is None:
                near = difflib.get_close_matches(name, self._known_plugins, n=1)
                self.problem(
                    path,
                    f"there is no plugin `{name}`"
                    + (f"; did you mean `{near[0]}`?" if near else "")
                    + f" (plugins: {', '.join(sorted(self._known_plugins))})",
                )
            elif reference.range is not None and not versions.fits(plugin.version, reference.range):
                self.problem(path, f"plugin `{name}` is version {plugin.version} here, and `{reference}` is asked for")
            else:
                names.append(name)
        return names

    def _inputs(self, value: object) -> dict[str, InputDefinition]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem(
                ("inputs",),
                f"`inputs` must be a table of inputs by name, got {lua_type(value)}",
                'Write `inputs = { ref = { type = "string", default = "main" } }`.',
            )
            return {}
        table: dict[Any, object] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
        inputs: dict[str, InputDefinition] = {}
        for name, declared in table.items():
            if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
                self.problem(("inputs", name), f"`{name}` cannot be an input's name")
            elif not isinstance(declared, dict):
                self.problem(
                    ("inputs", name),
                    f"input `{name}` must be a table, got {lua_type(declared)}",
                    f'Write `{name} = {{ type = "string", default = ... }}`.',
                )
            else:
                fields: dict[str, Any] = declared  # pyright: ignore[reportUnknownVariableType]  # looked at there
                inputs[name] = self._input(name, fields)
        return inputs

    def _input(self, name: str, declared: dict[str, Any]) -> InputDefinition:
        path: locations.Path = ("inputs", name)
        self._unknown_fields(path, declared, INPUT_FIELDS, "input")
        kind = declared.get("type", "string")
        if kind not in get_args(InputType):
            words = ", ".join(f'"{word}"' for word in get_args(InputType))
            self.problem((*path, "type"), f"`type` of input `{name}` must be one of {words}, got {_shown(kind)}")
            return InputDefinition(type="string")
        default = declared.get("default")
        if default is not None:
            default = self._input_value((*path, "default"), name, kind, default)
        choices: list[InputValue] | None = None
        if declared.get("choices") is not None:
            choices = self._choices((*path, "choices"), name, kind, declared["choices"])
            if choices and default is not None and default not in choices:
                self.problem((*path, "default"), f"`default` of input `{name}` is none of its `choices`")
        return InputDefinition(
            type=kind,
            default=default,
            description=self._text((*path, "description"), declared.get("description")),
            choices=choices,
        )

    def _choices(self, path: locations.Path, name: str, kind: InputType, value: object) -> list[InputValue] | None:
        entries = _list(value)
        if not entries:
            self.problem(path, f"`choices` of input `{name}` must be a list of values, got {lua_type(value)}")
            return None
        checked = [self._input_value(path, name, kind, entry) for entry in entries]
        return [entry for entry in checked if entry is not None]

    def _input_value(self, path: locations.Path, name: str, kind: InputType, value: object) -> InputValue | None:
        # Text is taken for any type on a command line, not in a pipeline's own file.
        if not isinstance(value, str) or kind == "string":
            with contextlib.suppress(ValueError):
                return input_value(kind, value)
        self.problem(path, f"`{path[-1]}` of input `{name}` must be of type {kind}, got {_shown(value)}")
        return None

    def _stages(self, field: str, value: object) -> list[StageDefinition]:
        entries = _list(value)
        if not entries and (field == "stages" or (value is not None and value != {})):
            self.problem(
                (field,),
                "the pipeline has no stages"
                if value is None or value == {}
                else f"`{field}` must be a list, got {lua_type(value)}",
                f'Write `{field} = {{ {{ name = "build", script = function() ... end }} }}`.',
            )
        if not entries:
            return []
        if len(entries) > STAGES_MAXIMUM:
            self.problem((field,), f"a pipeline has at most {STAGES_MAXIMUM} stages, got {len(entries)}")
            return []
        stages = [self._stage(field, index, entry) for index, entry in enumerate(entries, 1)]
        return [stage for stage in stages if stage is not None]

    def _stage(self, field: str, index: int, value: object) -> StageDefinition | None:
        path: locations.Path = (field, index)
        if not isinstance(value, dict):
            self.problem(path, f"`{field}[{index}]` must be a table, got {lua_type(value)}")
            return None
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at below
        self._unknown_fields(path, table, STAGE_FIELDS, "stage")
        name = self._name(path, table, "stage")
        label = f"stage `{name}`" if name else f"stage {index}"
        if field != "stages":
            for name_of_field in STAGES_FIELDS:
                if table.get(name_of_field) is not None:
                    self.problem(
                        (*path, name_of_field),
                        f"{label} stands in `{field}`, where each stage runs whatever became of the others: it has no "
                        f"`{name_of_field}`",
                        "They run in the order of the file.",
                    )
            table = {key: item for key, item in table.items() if key not in STAGES_FIELDS}
        script = table.get("script")
        if script is None:
            self.problem(
                path, f"{label} has no `script`", "Write `script = function(job) ... end` in the stage's table."
            )
        elif not isinstance(script, Function):
            self.problem((*path, "script"), f"`script` of {label} must be a function, got {lua_type(script)}")
        retries, retry_delay, retry_backoff = self._retries((*path, "retries"), label, table.get("retries"))
        line = locations.line_of(self._lines, path) if path in self._lines else None
        container = self._image((*path, "container"), label, table.get("container"))
        combinations = matrix.combinations((*path, "matrix"), label, table.get("matrix"), self._lines, self.problem)
        if combinations is not None:
            self._combinations[name] = combinations
            if len(longest := max((matrix.name(name, one) for one in combinations), key=len, default="")) > (
                matrix.NAME_LENGTH_MAXIMUM
            ):
                self.problem(
                    (*path, "matrix"),
                    f"`matrix` of {label} makes a stage's name of {len(longest)} characters, and at most "
                    f"{matrix.NAME_LENGTH_MAXIMUM} are taken",
                )
        for placeholder in matrix.unknown_placeholders(container or "", combinations[0] if combinations else ()):
            self.problem(
                (*path, "container"),
                f"`container` of {label} holds `{placeholder}`, and its `matrix` has no values of that name",
            )
        self._container_fields(path, label, table)
        return StageDefinition(
            name=name,
            container=container,
            pull=self._pull((*path, "pull"), label, table.get("pull")),
            read_only=self._boolean((*path, "read_only"), label, table.get("read_only"), default=False),
            rights=self._rights.rights(path, label, table),
            timeout=self._duration((*path, "timeout"), table.get("timeout")),
            needs=self._needs((*path, "needs"), label, table.get("needs")),
            when=self._when((*path, "when"), label, table.get("when")),
            allow_failure=self._boolean((*path, "allow_failure"), label, table.get("allow_failure"), default=False),
            retries=retries,
            retry_delay=retry_delay,
            retry_backoff=retry_backoff,
            services=self._services.services((*path, "services"), label, table.get("services")),
            cache=self._caches.caches(
                (*path, "cache"),
                label,
                table.get("cache"),
                inputs=self._input_names,
                axes=combinations[0] if combinations else (),
            ),
            approval=self._approvals.approval((*path, "approval"), label, table.get("approval")),
            line=line or (script.line if isinstance(script, Function) else None),
        )

    def _image(self, path: locations.Path, label: str, value: object) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            self.problem(path, f"`{path[-1]}` of {label} must be an image's name, got {lua_type(value)}")
        elif not value or len(value) > IMAGE_LENGTH_MAXIMUM or any(c.isspace() or not c.isprintable() for c in value):
            self.problem(path, f"`{path[-1]}` of {label} is no image's name: {_shown(value)}")
        else:
            return value
        return None

    def _container_fields(self, path: locations.Path, label: str, table: Mapping[str, object]) -> None:
        for field in CONTAINER_FIELDS:
            if table.get(field) is not None and table.get("container") is None:
                self.problem(
                    (*path, field),
                    f"`{field}` of {label} is about the stage's own container, and it has none",
                    'Name an image: `container = "docker.io/library/alpine:3"`.',
                )

    def _pull(self, path: locations.Path, label: str, value: object) -> PullPolicy | None:
        if value is None or value in PULL_POLICIES:
            return value
        words = ", ".join(f'"{word}"' for word in PULL_POLICIES)
        self.problem(path, f"`pull` of {label} must be one of {words}, got {_shown(value)}")
        return None

    def _needs(self, path: locations.Path, label: str, value: object) -> list[str] | None:
        entries = None if value is None else _list(value)
        if value is not None and (entries is None or not all(isinstance(entry, str) for entry in entries)):
            self.problem(
                path,
                f"`needs` of {label} must be a list of stages' names, got {lua_type(value)}",
                'Write `needs = { "build" }`, or `needs = {}` for a stage that waits for no other.',
            )
            return None
        return None if entries is None else [entry for entry in entries if isinstance(entry, str)]

    def _when(self, path: locations.Path, label: str, value: object) -> When:
        if isinstance(value, Function):
            return "function"
        for word in WHEN_WORDS:
            if value == word:
                return word
        if value is not None:
            words = ", ".join(f'"{word}"' for word in WHEN_WORDS)
            self.problem(path, f"`when` of {label} must be one of {words}, or a function, got {_shown(value)}")
        return "on_success"

    def _check_names(self, stages: list[StageDefinition]) -> None:
        by_name: dict[str, StageDefinition] = {}
        for stage in stages:
            if stage.name in by_name and stage.name:
                first = by_name[stage.name].line
                self.problem(
                    (),
                    f"stage name `{stage.name}` is used twice" + (f" (first in line {first})" if first else ""),
                    line=stage.line,
                )
            by_name.setdefault(stage.name, stage)

    def _in_order(self, stages: list[StageDefinition]) -> list[StageDefinition]:
        """Order stages so that each comes after those it needs, and as in the file where that leaves a choice."""
        by_name = {stage.name: stage for stage in reversed(stages)}
        owners = {name: name for name in by_name}
        owners |= {
            matrix.name(stage, combination): stage
            for stage, combinations in self._combinations.items()
            for combination in combinations
        }
        graph: dict[str, list[str]] = {}
        for stage in stages:
            graph[stage.name] = []
            for need in stage.needs or []:
                if need in owners:
                    graph[stage.name].append(owners[need])
                    continue
                near = difflib.get_close_matches(need, owners, n=1)
                self.problem(
                    (),
                    f"stage `{stage.name}` needs `{need}`, and there is no such stage"
                    + (f"; did you mean `{near[0]}`?" if near else ""),
                    line=stage.line,
                )
        place = {stage.name: index for index, stage in enumerate(stages)}
        sorter = TopologicalSorter(graph)
        try:
            sorter.prepare()
        except CycleError as error:
            names: list[str] = error.args[1]
            # graphlib lists what comes before first; people read "a needs b".
            circle = " needs ".join(f"`{name}`" for name in reversed(names))
            self.problem((), f"stages need each other in a circle: {circle}", line=by_name[names[0]].line)
            return stages
        ordered: list[StageDefinition] = []
        ready: list[str] = []
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=place.__getitem__)
            name = ready.pop(0)
            ordered.append(by_name[name])
            sorter.done(name)
        return ordered

    def _expanded(self, stages: list[StageDefinition]) -> list[StageDefinition]:
        expanded: list[StageDefinition] = []
        for stage in stages:
            combinations = self._combinations.get(stage.name)
            expanded += [stage] if combinations is None else [matrix.expand(stage, one) for one in combinations]
        if len(expanded) > STAGES_MAXIMUM:
            self.problem(
                ("stages",),
                f"a pipeline has at most {STAGES_MAXIMUM} stages, each combination of a `matrix` counted, got "
                f"{len(expanded)}",
            )
        return expanded


def _list(value: object) -> list[object] | None:
    """Take a Lua table that is a list; an empty table is one too."""
    if value == {}:
        return []
    return list(value) if isinstance(value, list) else None  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _shown(value: object) -> str:
    return f"`{value}`" if isinstance(value, str | int | float) else lua_type(value)
