"""What forges send, in the shape of what GitHub, GitLab and Gitea document and send, with names of our own."""

from __future__ import annotations

from typing import Any

BEFORE = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"
AFTER = "59b20b8d5c6ff8d09518454d4dd8b7b30f095ab5"
NOTHING = "0" * 40


def github_user(login: str = "octavia", number: int = 21031067) -> dict[str, Any]:
    return {
        "login": login,
        "id": number,
        "node_id": "MDQ6VXNlcjIxMDMxMDY3",
        "avatar_url": f"https://avatars.example/u/{number}?v=4",
        "gravatar_id": "",
        "url": f"https://api.forge.example/users/{login}",
        "html_url": f"https://forge.example/{login}",
        "type": "User",
        "site_admin": False,
    }


def github_repository(full_name: str = "octavia/hello", number: int = 186853002) -> dict[str, Any]:
    owner, _, name = full_name.partition("/")
    return {
        "id": number,
        "node_id": "MDEwOlJlcG9zaXRvcnkxODY4NTMwMDI=",
        "name": name,
        "full_name": full_name,
        "private": False,
        "owner": github_user(owner),
        "html_url": f"https://forge.example/{full_name}",
        "description": None,
        "fork": False,
        "url": f"https://forge.example/{full_name}",
        "created_at": 1557933565,
        "updated_at": "2019-05-15T15:20:41Z",
        "pushed_at": 1557933657,
        "git_url": f"git://forge.example/{full_name}.git",
        "ssh_url": f"git@forge.example:{full_name}.git",
        "clone_url": f"https://forge.example/{full_name}.git",
        "size": 0,
        "default_branch": "main",
        "topics": [],
        "visibility": "public",
    }


def github_commit(commit: str, message: str) -> dict[str, Any]:
    person = {"name": "Octavia", "email": "octavia@forge.example", "username": "octavia"}
    return {
        "id": commit,
        "tree_id": "f9d2a07e9488b91af2641b26b9407fe22a451433",
        "distinct": True,
        "message": message,
        "timestamp": "2019-05-15T15:20:30Z",
        "url": f"https://forge.example/octavia/hello/commit/{commit}",
        "author": person,
        "committer": person,
        "added": ["README.md"],
        "removed": [],
        "modified": [],
    }


def github_push(
    ref: str = "refs/heads/main", after: str = AFTER, message: str = "Say hello\n\nTo the world.", before: str = BEFORE
) -> dict[str, Any]:
    is_deleted = after == NOTHING
    head = None if is_deleted else github_commit(after, message)
    return {
        "ref": ref,
        "before": before,
        "after": after,
        "repository": github_repository(),
        "pusher": {"name": "octavia", "email": "octavia@forge.example"},
        "sender": github_user(),
        "created": before == NOTHING,
        "deleted": is_deleted,
        "forced": False,
        "base_ref": None,
        "compare": f"https://forge.example/octavia/hello/compare/{before[:12]}...{after[:12]}",
        "commits": [] if head is None else [head],
        "head_commit": head,
    }


def github_pull_request(
    action: str = "opened",
    *,
    head: dict[str, Any] | None = None,
    draft: bool = False,
    base: str = "main",
    title: str = "Update the README with new information.",
) -> dict[str, Any]:
    repository = github_repository()
    return {
        "action": action,
        "number": 2,
        "pull_request": {
            "url": "https://api.forge.example/repos/octavia/hello/pulls/2",
            "id": 279147437,
            "number": 2,
            "state": "open",
            "locked": False,
            "title": title,
            "user": github_user("stranger", 42),
            "body": "This is a pretty simple change that we need to pull into main.",
            "created_at": "2019-05-15T15:20:33Z",
            "merged_at": None,
            "merge_commit_sha": None,
            "assignees": [],
            "labels": [],
            "draft": draft,
            "head": {
                "label": "octavia:changes",
                "ref": "changes",
                "sha": AFTER,
                "user": github_user(),
                "repo": head if head is not None else repository,
            },
            "base": {
                "label": f"octavia:{base}",
                "ref": base,
                "sha": BEFORE,
                "user": github_user(),
                "repo": repository,
            },
            "author_association": "OWNER",
            "merged": False,
            "commits": 1,
            "changed_files": 1,
        },
        "repository": repository,
        "sender": github_user("stranger", 42),
    }


def github_fork() -> dict[str, Any]:
    return github_repository("stranger/hello", 999) | {"fork": True}


def github_ping() -> dict[str, Any]:
    return {
        "zen": "Practicality beats purity.",
        "hook_id": 109948940,
        "hook": {
            "type": "Repository",
            "id": 109948940,
            "name": "web",
            "active": True,
            "events": ["push"],
            "config": {},
        },
        "repository": github_repository(),
        "sender": github_user(),
    }


def gitlab_project() -> dict[str, Any]:
    return {
        "id": 15,
        "name": "Diaspora",
        "description": "",
        "web_url": "https://gitlab.example/mike/diaspora",
        "git_ssh_url": "git@gitlab.example:mike/diaspora.git",
        "git_http_url": "https://gitlab.example/mike/diaspora.git",
        "namespace": "Mike",
        "visibility_level": 0,
        "path_with_namespace": "mike/diaspora",
        "default_branch": "main",
    }


def gitlab_push(ref: str = "refs/heads/main", after: str = AFTER, kind: str = "push") -> dict[str, Any]:
    return {
        "object_kind": kind,
        "event_name": kind,
        "before": BEFORE,
        "after": after,
        "ref": ref,
        "ref_protected": True,
        "checkout_sha": None if after == NOTHING else AFTER,
        "message": None,
        "user_id": 4,
        "user_name": "John Smith",
        "user_username": "jsmith",
        "user_email": "",
        "project_id": 15,
        "project": gitlab_project(),
        "commits": [
            {
                "id": BEFORE,
                "message": "Update Catalan translation.",
                "title": "Update Catalan translation.",
                "author": {"name": "Jordi", "email": "jordi@gitlab.example"},
            },
            {
                "id": AFTER,
                "message": "fixed readme",
                "title": "fixed readme",
                "timestamp": "2012-01-03T23:36:29+02:00",
                "author": {"name": "GitLab dev user", "email": "gitlabdev@dv6700.(none)"},
                "added": ["CHANGELOG"],
                "modified": ["app/controller/application.rb"],
                "removed": [],
            },
        ],
        "total_commits_count": 2,
    }


def gitlab_merge_request(
    action: str = "open", *, source_project: int = 15, oldrev: str | None = None, draft: bool = False
) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "id": 99,
        "iid": 1,
        "target_branch": "main",
        "source_branch": "ms-viewport",
        "source_project_id": source_project,
        "target_project_id": 15,
        "author_id": 51,
        "title": "MS-Viewport",
        "state": "opened",
        "draft": draft,
        "work_in_progress": draft,
        "last_commit": {
            "id": AFTER,
            "message": "fixed readme",
            "author": {"name": "GitLab dev user", "email": "gitlabdev@dv6700.(none)"},
        },
        "action": action,
    }
    if oldrev is not None:
        attributes["oldrev"] = oldrev
    return {
        "object_kind": "merge_request",
        "event_type": "merge_request",
        "user": {"id": 1, "name": "Administrator", "username": "root", "email": "admin@gitlab.example"},
        "project": gitlab_project(),
        "object_attributes": attributes,
    }


def gitea_push(ref: str = "refs/heads/develop") -> dict[str, Any]:
    user = {"id": 1, "login": "gitea", "full_name": "Gitea", "email": "someone@gitea.io", "username": "gitea"}
    return {
        "ref": ref,
        "before": BEFORE,
        "after": AFTER,
        "compare_url": "http://localhost:3000/gitea/webhooks/compare/x...y",
        "commits": [
            {
                "id": AFTER,
                "message": "Webhooks Yay!",
                "url": f"http://localhost:3000/gitea/webhooks/commit/{AFTER}",
                "author": {"name": "Gitea", "email": "someone@gitea.io", "username": "gitea"},
                "committer": {"name": "Gitea", "email": "someone@gitea.io", "username": "gitea"},
                "timestamp": "2017-03-13T13:52:11-04:00",
            }
        ],
        "repository": {
            "id": 140,
            "owner": user,
            "name": "webhooks",
            "full_name": "gitea/webhooks",
            "private": False,
            "fork": False,
            "html_url": "http://localhost:3000/gitea/webhooks",
            "ssh_url": "ssh://gitea@localhost:2222/gitea/webhooks.git",
            "clone_url": "http://localhost:3000/gitea/webhooks.git",
            "default_branch": "master",
        },
        "pusher": user,
        "sender": user,
    }


def gitea_pull_request(title: str = "Add a page") -> dict[str, Any]:
    push = gitea_push()
    return {
        "action": "synchronized",
        "number": 7,
        "pull_request": {
            "id": 70,
            "number": 7,
            "title": title,
            "user": push["sender"],
            "head": {"label": "page", "ref": "page", "sha": AFTER, "repo_id": 140, "repo": push["repository"]},
            "base": {"label": "master", "ref": "master", "sha": BEFORE, "repo_id": 140, "repo": push["repository"]},
        },
        "repository": push["repository"],
        "sender": push["sender"],
    }
