"""What people may do: permissions, and the roles that come along with them.

A permission is held for pipelines, by a name or a pattern, or for the whole installation. Those for the installation
say what concerns no single pipeline; they are held by a role that is given for all pipelines (``*``) alone.
``docs/permissions.md`` has the table that follows from this.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

PipelinePermission = Literal[
    "view",
    "read-logs",
    "read-artifacts",
    "run",
    "cancel",
    "push",
    "shell",
    "approve",
    "manage-secrets",
    "manage-queue",
    "manage-hooks",
    "protect",
]
InstallationPermission = Literal[
    "view-runners",
    "manage-runners",
    "push-plugins",
    "manage-installation",
    "manage-accounts",
    "read-audit",
    "read-metrics",
]
Permission = PipelinePermission | InstallationPermission
Role = Literal["admin", "maintainer", "operator", "developer", "viewer"]

PIPELINE_PERMISSIONS: Final[tuple[PipelinePermission, ...]] = get_args(PipelinePermission)
INSTALLATION_PERMISSIONS: Final[tuple[InstallationPermission, ...]] = get_args(InstallationPermission)
PERMISSIONS: Final[tuple[Permission, ...]] = (*PIPELINE_PERMISSIONS, *INSTALLATION_PERMISSIONS)

MEANINGS: Final[dict[Permission, str]] = {
    "view": "see that a pipeline is there, its versions, jobs, their stages, inputs and tests",
    "read-logs": "read the log and events of its jobs",
    "read-artifacts": "download what its jobs kept",
    "run": "submit jobs of it, and try them again",
    "cancel": "cancel its jobs",
    "push": "push versions of it",
    "shell": "open a shell in containers of its jobs, and let kept ones go",
    "approve": "approve or refuse a stage that waits for it, in jobs that others submitted",
    "manage-secrets": "set and remove its secrets, and say which secrets it may have",
    "manage-queue": "pause and resume it, change its schedules, forget its caches",
    "manage-hooks": "make and remove webhooks that start it",
    "protect": "say which of its stages wait for an approval, whatever its file says",
    "view-runners": "list runners and plugins",
    "manage-runners": "make registration tokens, drain, bind and revoke runners",
    "push-plugins": "push plugins that all pipelines may name",
    "manage-installation": "limit what all runners do together, put secrets under a new master key",
    "manage-accounts": "make accounts, groups and tokens of others, and say who may do what",
    "read-audit": "read who did what",
    "read-metrics": "read the metrics of a replica",
}

_VIEWER: Final = frozenset[Permission]({"view", "read-logs", "read-artifacts", "view-runners"})
_DEVELOPER: Final = _VIEWER | frozenset[Permission]({"run", "cancel", "push"})
_OPERATOR: Final = _VIEWER | frozenset[Permission](
    {"run", "cancel", "shell", "approve", "manage-queue", "manage-runners", "read-metrics"}
)
_MAINTAINER: Final = _DEVELOPER | frozenset[Permission](
    {"shell", "approve", "manage-secrets", "manage-queue", "manage-hooks", "protect", "push-plugins", "read-audit"}
)
ROLES: Final[dict[Role, frozenset[Permission]]] = {
    "admin": frozenset(PERMISSIONS),
    "maintainer": _MAINTAINER,
    "operator": _OPERATOR,
    "developer": _DEVELOPER,
    "viewer": _VIEWER,
}


def needs_installation(permission: Permission) -> bool:
    """Whether a permission concerns no single pipeline."""
    return permission in INSTALLATION_PERMISSIONS
