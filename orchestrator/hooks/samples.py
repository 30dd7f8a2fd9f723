"""Deliveries as forges send them, for trying a hook: short ones, with the fields that ours are read from."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from orchestrator.problems import RequestInvalid
from schema import times
from schema.hooks import PULL_REQUEST, PUSH, HookKind

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
_BEFORE: Final = "89abcdef0123456789abcdef0123456789abcdef"
_URL: Final = "https://forge.example/moonyard/sample.git"
_NAME: Final = "moonyard/sample"
_MESSAGE: Final = "A sample of a webhook"


def payload(kind: HookKind, name: str, branch: str) -> str:
    """Give the body of a delivery: of a push to a branch, or of a pull request to it.

    :raises RequestInvalid: when there is no sample of an event.
    """
    if name not in {PUSH, PULL_REQUEST}:
        raise RequestInvalid(
            f"there is no sample of event `{name[:60]}`, only of `{PUSH}` and `{PULL_REQUEST}`",
            hint="Give a delivery of your own: `moonyard hook test NAME --event EVENT --payload FILE`.",
        )
    match kind, name:
        case "gitlab", "pull_request":
            found = _gitlab_merge_request(branch)
        case "gitlab", _:
            found = _gitlab_push(branch)
        case "generic", _:
            found = _generic(name, branch)
        case _, "pull_request":
            found = _pull_request(branch)
        case _:
            found = _push(branch)
    return msgspec.json.encode(found).decode()


def _commit() -> dict[str, Any]:
    author = {"name": "Sample", "email": "sample@forge.example", "username": "sample"}
    return {"id": COMMIT, "message": _MESSAGE, "timestamp": times.now(), "author": author}


def _push(branch: str) -> dict[str, Any]:
    return {
        "ref": f"refs/heads/{branch}",
        "before": _BEFORE,
        "after": COMMIT,
        "deleted": False,
        "commits": [_commit()],
        "head_commit": _commit(),
        "repository": {"full_name": _NAME, "clone_url": _URL, "default_branch": "main"},
        "pusher": {"name": "sample"},
        "sender": {"login": "sample"},
    }


def _pull_request(branch: str) -> dict[str, Any]:
    repository = {"id": 1, "full_name": _NAME, "clone_url": _URL}
    return {
        "action": "opened",
        "number": 1,
        "pull_request": {
            "number": 1,
            "title": _MESSAGE,
            "draft": False,
            "user": {"login": "sample"},
            "head": {"ref": "topic", "sha": COMMIT, "repo": repository},
            "base": {"ref": branch, "sha": _BEFORE, "repo": repository},
        },
        "repository": repository,
        "sender": {"login": "sample"},
    }


def _gitlab_push(branch: str) -> dict[str, Any]:
    return {
        "object_kind": "push",
        "ref": f"refs/heads/{branch}",
        "before": _BEFORE,
        "after": COMMIT,
        "checkout_sha": COMMIT,
        "user_username": "sample",
        "project": {"id": 1, "path_with_namespace": _NAME, "git_http_url": _URL},
        "commits": [_commit()],
    }


def _gitlab_merge_request(branch: str) -> dict[str, Any]:
    return {
        "object_kind": "merge_request",
        "user": {"username": "sample"},
        "project": {"id": 1, "path_with_namespace": _NAME, "git_http_url": _URL},
        "object_attributes": {
            "iid": 1,
            "title": _MESSAGE,
            "draft": False,
            "action": "open",
            "source_branch": "topic",
            "target_branch": branch,
            "source_project_id": 1,
            "target_project_id": 1,
            "last_commit": _commit(),
        },
    }


def _generic(name: str, branch: str) -> dict[str, Any]:
    return {
        "event": name,
        "ref": f"refs/heads/{branch}",
        "commit": COMMIT,
        "before": _BEFORE,
        "author": "Sample",
        "message": _MESSAGE,
        "repository": _NAME,
        "repository_url": _URL,
        "sender": "sample",
    }
