"""Whether a delivery starts a job, and what the job's inputs are: a hook's rules, checked and followed."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

import jmespath
import jmespath.exceptions
import msgspec

from orchestrator import rights
from orchestrator.hooks.forges import DeliveryInvalid, Facts
from orchestrator.problems import RequestInvalid
from schema.definition import InputDefinition, InputValue, PipelineDefinition, input_value
from schema.hooks import FACTS, PULL_REQUEST, PUSH, HookKind, HookRules

PATTERNS_MAXIMUM: Final = 50
PATTERN_LENGTH_MAXIMUM: Final = 200
PATH_LENGTH_MAXIMUM: Final = 200
VALUE_LENGTH_MAXIMUM: Final = 16_384
"""Of an input's text that comes from outside."""
FACTS_FIELD: Final = "moonyard"
"""Under which paths find the facts, beside the payload's own fields."""
_EVENT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,59}")
_PATH_PARTS: Final = frozenset({"field", "subexpression", "index_expression", "index", "or_expression"})
"""Of JMESPath: names, items of lists, and `a || b`. What it has beside (filters, projections, functions) can be made to
take long, and gives lists, which no input can be."""
_SKIP: Final = re.compile(r"\[(?:skip ci|ci skip|no ci|skip moonyard)\]", re.IGNORECASE)


class HookInvalid(RequestInvalid):
    """A hook that is asked for, and can do nothing."""

    code = "hook_invalid"


def check(rules: HookRules, definition: PipelineDefinition) -> None:
    """See that rules make sense, with a pipeline as it is now.

    :raises HookInvalid: saying what does not.
    """
    for name, patterns in (("branch", rules.branches), ("tag", rules.tags), ("event", rules.events)):
        if len(patterns) > PATTERNS_MAXIMUM:
            raise HookInvalid(f"a hook has up to {PATTERNS_MAXIMUM} patterns of each kind: there are more of `{name}`")
        for pattern in patterns:
            if not 0 < len(pattern) <= PATTERN_LENGTH_MAXIMUM or not pattern.isprintable():
                raise HookInvalid(f"`{pattern[:60]}` is no pattern: it has 1 to {PATTERN_LENGTH_MAXIMUM} characters")
    for event in rules.events:
        if not _EVENT.fullmatch(event):
            raise HookInvalid(f"`{event[:60]}` is no event", hint="An event is named as the forge names it: `push`.")
    _check_inputs(rules, definition)


def _check_inputs(rules: HookRules, definition: PipelineDefinition) -> None:
    known = ", ".join(f"`{name}`" for name in definition.inputs) or "none"
    for name in (*rules.inputs, *rules.constants):
        if name not in definition.inputs:
            raise HookInvalid(f"`{name[:60]}` is not an input of pipeline `{definition.name}` (its inputs: {known})")
        if name in rules.inputs and name in rules.constants:
            raise HookInvalid(f"input `{name}` has a path and a constant: it can have one of them")
    for path in rules.inputs.values():
        compiled(path)
    for name, value in rules.constants.items():
        declared = definition.inputs[name]
        try:
            is_right = declared.choices is None or input_value(declared.type, value) in declared.choices
            input_value(declared.type, value)
        except ValueError:
            is_right = False
        if not is_right or (isinstance(value, str) and (len(value) > VALUE_LENGTH_MAXIMUM or "\0" in value)):
            raise HookInvalid(f"input `{name}` cannot be `{value!s:.60}`: it is of type {declared.type}")
    for name, declared in definition.inputs.items():
        if declared.default is None and name not in (*rules.inputs, *rules.constants, *FACTS):
            raise HookInvalid(
                f"input `{name}` of pipeline `{definition.name}` has no default, and the hook gives it nothing",
                hint=f"Say where it is in the payload (`--input {name}=PATH`), or what it is "
                f"(`--constant {name}=VALUE`).",
            )


@functools.lru_cache(maxsize=1000)
def compiled(path: str) -> Any:
    """Read a path.

    :raises HookInvalid: when it is none, or more than one.
    """
    if not 0 < len(path) <= PATH_LENGTH_MAXIMUM:
        raise HookInvalid(f"`{path[:60]}` is no path: it has 1 to {PATH_LENGTH_MAXIMUM} characters")
    try:
        found = jmespath.compile(path.removeprefix("$."))
    except jmespath.exceptions.JMESPathError as error:
        raise HookInvalid(f"`{path}` is no path: {str(error).splitlines()[0]}", hint=_PATH_HINT) from error
    waiting = [found.parsed]
    while waiting:
        part = waiting.pop()
        if part["type"] not in _PATH_PARTS:
            raise HookInvalid(f"`{path}` is more than a path: it has {_words(part['type'])}", hint=_PATH_HINT)
        waiting.extend(part["children"])
    return found


_PATH_HINT: Final = "A path looks like `after`, `pull_request.head.sha`, `commits[0].id`, or `checkout_sha || after`."


def _words(part: str) -> str:
    return f"a {part.replace('_', ' ')}"


def why_skipped(rules: HookRules, kind: HookKind, facts: Facts) -> str | None:
    """Say why a delivery starts no job; None if it does."""
    wanted = rules.events or ([] if kind == "generic" else [PUSH])
    if wanted and facts.event not in wanted:
        return f"event {facts.event} is not of this hook's"
    if facts.is_deleted:
        return f"{facts.branch or facts.tag or 'what was pushed'} was deleted"
    if facts.event == PULL_REQUEST and kind != "generic" and (why := _why_not_built(rules, facts)) is not None:
        return why
    if (kind != "generic" or rules.branches or rules.tags) and (why := _why_not_matched(rules, facts)) is not None:
        return why
    if _SKIP.search(facts.message or "") or _SKIP.search(facts.title or ""):
        return "its message says to skip it"
    return None


def _why_not_built(rules: HookRules, facts: Facts) -> str | None:
    if not facts.has_new_commits:
        return f"the pull request was {facts.action or 'changed'}, which changes nothing to be built"
    if facts.is_fork and rules.forks == "refuse":
        return "the pull request comes from another repository, and this hook refuses those"
    if facts.is_draft and not rules.drafts:
        return "the pull request is a draft"
    return None


def _why_not_matched(rules: HookRules, facts: Facts) -> str | None:
    if facts.event == PULL_REQUEST:
        fits = not rules.branches or _fits(rules.branches, facts.base)
        return None if fits else f"branch {facts.base} is not of this hook's"
    if facts.tag is not None:
        return None if _fits(rules.tags, facts.tag) else f"tag {facts.tag} is not of this hook's"
    if facts.branch is None:
        asked = rules.branches or rules.tags
        return "it says no branch, and this hook is for some" if asked else None
    fits = not rules.tags if not rules.branches else _fits(rules.branches, facts.branch)
    return None if fits else f"branch {facts.branch} is not of this hook's"


def _fits(patterns: list[str], value: str | None) -> bool:
    return value is not None and any(rights.fits(pattern, value) for pattern in patterns)


def inputs(
    rules: HookRules, facts: Facts, payload: dict[str, Any], definition: PipelineDefinition
) -> dict[str, InputValue]:
    """Make the inputs of a delivery's job, of those that the pipeline declares.

    :raises DeliveryInvalid: when something cannot be an input.
    """
    given = facts.given()
    told = payload | {FACTS_FIELD: msgspec.to_builtins(facts)}
    found: dict[str, InputValue] = {}
    for name, declared in definition.inputs.items():
        if name in rules.constants:
            found[name] = rules.constants[name]
            continue
        value: Any = compiled(rules.inputs[name]).search(told) if name in rules.inputs else given.get(name)
        if value is not None:
            found[name] = _input(name, value, declared)
    return found


def _input(name: str, value: Any, declared: InputDefinition) -> InputValue:
    if isinstance(value, list | dict):
        raise DeliveryInvalid(
            f"input `{name}` would be a {'list' if isinstance(value, list) else 'table'}, and has to be one value"
        )
    if isinstance(value, str) and len(value) > VALUE_LENGTH_MAXIMUM:
        raise DeliveryInvalid(
            f"input `{name}` would have {len(value):,} characters, and {VALUE_LENGTH_MAXIMUM:,} are the most"
        )
    if declared.type == "string" and not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    assert isinstance(value, str | int | float | bool), "JSON has no other"
    return value
