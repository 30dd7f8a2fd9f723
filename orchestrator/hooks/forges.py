"""What a delivery says, read by its hook's kind into the same facts for all kinds.

Everything here was chosen by somebody outside: a stranger may open a pull request, and name a branch. So nothing is
believed to be there or of a type; texts have a length and no NUL. What a payload lacks is None.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from orchestrator.hooks import signatures
from orchestrator.problems import RequestInvalid
from schema.hooks import FACTS, PULL_REQUEST, PUSH, HookKind

TEXT_LENGTH_MAXIMUM: Final = 1000
"""Of a fact: names of branches and the like, and URLs."""
MESSAGE_LENGTH_MAXIMUM: Final = 4000
"""A commit's message is cut there."""
NAME_LENGTH_MAXIMUM: Final = 100
"""Of an event, a sender, a delivery's id."""
_FORM: Final = "application/x-www-form-urlencoded"
_NEW_COMMITS: Final = frozenset({"opened", "reopened", "synchronize", "synchronized", "ready_for_review"})
"""What happens to a pull request that changes what is to be built."""
_GITLAB_ACTIONS: Final = {"open": "opened", "reopen": "reopened"}
_DELIVERY_HEADERS: Final[dict[HookKind, tuple[str, ...]]] = {
    "github": ("x-github-delivery",),
    "gitlab": ("webhook-id", "idempotency-key", "x-gitlab-event-uuid"),
    "gitea": ("x-gitea-delivery", "x-forgejo-delivery"),
    "generic": ("webhook-id",),
}
_EVENT_HEADERS: Final[dict[HookKind, tuple[str, ...]]] = {
    "github": ("x-github-event",),
    "gitlab": ("x-gitlab-event",),
    "gitea": ("x-gitea-event", "x-forgejo-event"),
    "generic": (),
}


class DeliveryInvalid(RequestInvalid):
    """What is rightly signed, and no delivery of its kind."""

    code = "hook_delivery_invalid"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery says."""

    event: str
    ref: str | None = None
    """In full: `refs/heads/main`."""
    branch: str | None = None
    tag: str | None = None
    commit: str | None = None
    before: str | None = None
    author: str | None = None
    message: str | None = None
    repository: str | None = None
    repository_url: str | None = None
    pull_request: int | None = None
    base: str | None = None
    """The branch that a pull request is to go into."""
    title: str | None = None
    sender: str | None = None
    action: str | None = None
    """What happened to a pull request, in GitHub's words."""
    is_deleted: bool = False
    is_draft: bool = False
    is_fork: bool = False

    @property
    def has_new_commits(self) -> bool:
        return self.action in _NEW_COMMITS

    def given(self) -> dict[str, str | int]:
        """Give what an input can have."""
        found: dict[str, str | int | None] = {name: getattr(self, name) for name in FACTS}
        return {name: value for name, value in found.items() if value is not None}


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery, read."""

    id: str
    """As its sender named it."""
    key: str
    """By which it is known again: nobody but who has the secret can have the same delivery under another key."""
    payload: dict[str, Any]
    facts: Facts

    @property
    def is_ping(self) -> bool:
        return self.facts.event == "ping"


def read(kind: HookKind, headers: Mapping[str, str], body: bytes) -> Delivery:
    """Read a delivery whose signature was right.

    :raises DeliveryInvalid: when it is none of its kind.
    """
    payload = _payload(headers, body)
    _refuse_nul(payload)
    given = next((headers[name] for name in _DELIVERY_HEADERS[kind] if headers.get(name)), None)
    digest = hashlib.sha256(body).hexdigest()
    signed_id = signatures.signed_id(kind, headers)
    event = next((headers[name] for name in _EVENT_HEADERS[kind] if headers.get(name)), "")
    return Delivery(
        id=_identifier(given or digest),
        # A token (gitlab's older way) signs nothing at all: the id is then as good as the body.
        key=_identifier(signed_id or (given if kind == "gitlab" and given else digest)),
        payload=payload,
        facts=_facts(kind, _line(event) or "", payload),
    )


def _payload(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    try:
        if headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM:
            # GitHub's, unless it is set otherwise: JSON within a form.
            [text] = parse_qs(body.decode(), max_num_fields=10, strict_parsing=True)["payload"]
            body = text.encode()
        return msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, KeyError, RecursionError) as error:  # of msgspec, of UTF-8, of forms
        raise DeliveryInvalid(
            "the delivery's body is no JSON object", hint="Choose the content type `application/json` where it is sent."
        ) from error


def _refuse_nul(payload: dict[str, Any]) -> None:
    """Refuse what no text of Postgres can hold, before any of it goes anywhere."""
    waiting: list[Any] = [payload]
    while waiting:
        match waiting.pop():
            case str(text) if "\0" in text:
                raise DeliveryInvalid("the delivery holds a text with a NUL character, which no input can hold")
            case dict(found):  # pyright: ignore[reportUnknownVariableType]  # of any JSON
                waiting.extend(found.values())  # pyright: ignore[reportUnknownArgumentType]
            case list(found):  # pyright: ignore[reportUnknownVariableType]
                waiting.extend(found)  # pyright: ignore[reportUnknownArgumentType]
            case _:
                pass


def _facts(kind: HookKind, event: str, payload: dict[str, Any]) -> Facts:
    match kind:
        case "github" | "gitea":
            if event == PULL_REQUEST:
                return _pull_request(payload)
            if event == PUSH:
                return _push(payload)
            return Facts(event=event or "unknown", sender=_sender(payload), **_repository(payload))
        case "gitlab":
            return _gitlab(event, payload)
        case "generic":
            return _generic(payload)


def _push(payload: dict[str, Any]) -> Facts:
    """Read a push of GitHub, Gitea or Forgejo."""
    head = payload.get("head_commit")
    if not isinstance(head, dict):  # of an older Gitea
        head = _commit_of(payload, payload.get("after"))
    return Facts(
        event=PUSH,
        **_of_ref(_text(payload, "ref")),
        commit=_commit(payload, "after"),
        before=_commit(payload, "before"),
        author=_text(head, "author", "name"),
        message=_message(head, "message"),
        sender=_sender(payload) or _line(_text(payload, "pusher", "name")),
        is_deleted=payload.get("deleted") is True or _is_no_commit(payload.get("after")),
        **_repository(payload),
    )


def _pull_request(payload: dict[str, Any]) -> Facts:
    """Read a pull request of GitHub, Gitea or Forgejo."""
    found = payload.get("pull_request")
    number = _number(payload, "number") or _number(found, "number")
    head, base = _at(found, "head", "repo", "id"), _at(found, "base", "repo", "id")
    title = _text(found, "title")
    return Facts(
        event=PULL_REQUEST,
        ref=None if number is None else f"refs/pull/{number}/head",
        branch=_text(found, "head", "ref"),
        commit=_commit(found, "head", "sha"),
        before=_commit(payload, "before"),
        author=_text(found, "user", "login"),
        message=_message(found, "body"),
        pull_request=number,
        base=_text(found, "base", "ref"),
        title=title,
        sender=_sender(payload),
        action=_line(_text(payload, "action")),
        # Gitea says it in the title.
        is_draft=_at(found, "draft") is True or (title or "").upper().startswith(("WIP:", "[WIP]")),
        # A fork that is gone is none: whose commits these are is not known.
        is_fork=head is None or head != base,
        **_repository(payload),
    )


def _gitlab(header: str, payload: dict[str, Any]) -> Facts:
    kind = _line(_text(payload, "object_kind")) or header.lower().removesuffix(" hook").replace(" ", "_")
    project = payload.get("project")
    repository: dict[str, Any] = {
        "repository": _text(project, "path_with_namespace"),
        "repository_url": _text(project, "git_http_url"),
    }
    sender = _line(_text(payload, "user_username") or _text(payload, "user", "username"))
    if kind in {PUSH, "tag_push"}:
        head = _commit_of(payload, payload.get("after"))
        return Facts(
            event=PUSH,
            **_of_ref(_text(payload, "ref")),
            # Of an annotated tag, `after` is the tag itself.
            commit=_commit(payload, "checkout_sha") or _commit(payload, "after"),
            before=_commit(payload, "before"),
            author=_text(head, "author", "name"),
            message=_message(head, "message"),
            sender=sender,
            is_deleted=_is_no_commit(payload.get("after")),
            **repository,
        )
    if kind != "merge_request":
        return Facts(event=kind or "unknown", sender=sender, **repository)
    found = payload.get("object_attributes")
    number = _number(found, "iid")
    source, target = _at(found, "source_project_id"), _at(found, "target_project_id")
    action = _line(_text(found, "action"))
    # An update with a commit of before is one with new commits; GitLab has no word of its own for it.
    is_pushed = action == "update" and _at(found, "oldrev") is not None
    return Facts(
        event=PULL_REQUEST,
        ref=None if number is None else f"refs/merge-requests/{number}/head",
        branch=_text(found, "source_branch"),
        commit=_commit(found, "last_commit", "id"),
        before=_commit(found, "oldrev"),
        author=_text(found, "last_commit", "author", "name"),
        message=_message(found, "last_commit", "message"),
        pull_request=number,
        base=_text(found, "target_branch"),
        title=_text(found, "title"),
        sender=sender,
        action="synchronize" if is_pushed else _GITLAB_ACTIONS.get(action or "", action),
        is_draft=_at(found, "draft") is True or _at(found, "work_in_progress") is True,
        is_fork=source is None or source != target,
        **repository,
    )


def _generic(payload: dict[str, Any]) -> Facts:
    """Read what says the facts by their names."""
    of_ref = _of_ref(_text(payload, "ref"))
    return Facts(
        event=_line(_text(payload, "event") or _text(payload, "type")) or PUSH,
        ref=of_ref["ref"],
        branch=_text(payload, "branch") or of_ref["branch"],
        tag=_text(payload, "tag") or of_ref["tag"],
        commit=_commit(payload, "commit"),
        before=_commit(payload, "before"),
        author=_text(payload, "author"),
        message=_message(payload, "message"),
        repository=_text(payload, "repository"),
        repository_url=_text(payload, "repository_url"),
        pull_request=_number(payload, "pull_request"),
        base=_text(payload, "base"),
        title=_text(payload, "title"),
        sender=_line(_text(payload, "sender")),
        is_deleted=payload.get("deleted") is True or _is_no_commit(payload.get("commit")),
    )


def _repository(payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "repository": _text(payload, "repository", "full_name"),
        "repository_url": _text(payload, "repository", "clone_url"),
    }


def _sender(payload: dict[str, Any]) -> str | None:
    return _line(_text(payload, "sender", "login") or _text(payload, "sender", "username"))


def _of_ref(ref: str | None) -> dict[str, Any]:
    found = ref or ""
    return {
        "ref": ref,
        "branch": found.removeprefix("refs/heads/") if found.startswith("refs/heads/") else None,
        "tag": found.removeprefix("refs/tags/") if found.startswith("refs/tags/") else None,
    }


def _commit_of(payload: dict[str, Any], commit: Any) -> Any:
    """Find a commit in the list of those that were pushed."""
    commits = payload.get("commits")
    if not isinstance(commits, list):
        return None
    found: list[Any] = commits  # pyright: ignore[reportUnknownVariableType]  # of any JSON
    return next((known for known in found if _at(known, "id") == commit), None)


def _at(found: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(found, dict):
            return None
        found = found.get(name)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return found  # pyright: ignore[reportUnknownVariableType]


def _text(found: Any, *path: str) -> str | None:
    """Give a text; one that is longer than any such is none."""
    value = _at(found, *path)
    return value if isinstance(value, str) and 0 < len(value) <= TEXT_LENGTH_MAXIMUM else None


def _message(found: Any, *path: str) -> str | None:
    value = _at(found, *path)
    return value[:MESSAGE_LENGTH_MAXIMUM] if isinstance(value, str) else None


def _number(found: Any, *path: str) -> int | None:
    value = _at(found, *path)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53 else None


def _commit(found: Any, *path: str) -> str | None:
    value = _text(found, *path)
    return None if value is None or _is_no_commit(value) else value


def _is_no_commit(value: Any) -> bool:
    """Whether a commit's hash is all zeros: how git says that there is none."""
    return isinstance(value, str) and len(value) > 0 and not value.strip("0")


def line(text: str, length_maximum: int = NAME_LENGTH_MAXIMUM) -> str:
    """Make a text fit to stand in a table: of one line, short, and nothing that a terminal would follow."""
    shown = text[:length_maximum]
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)


def _line(text: str | None) -> str | None:
    return None if text is None else line(text)


def _identifier(text: str) -> str:
    if len(text) > NAME_LENGTH_MAXIMUM or not text.isascii() or not text.isprintable():
        raise DeliveryInvalid(
            f"the delivery's id has to be of up to {NAME_LENGTH_MAXIMUM} printable characters, and is not"
        )
    return text
