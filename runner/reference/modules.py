"""All core modules, in the order in which people need them."""

from __future__ import annotations

from typing import Final

from runner.reference import (
    archive,
    artifact,
    container,
    data,
    flow,
    fs,
    http,
    job,
    log,
    process,
    regex,
    secret,
    semver,
    template,
    time,
)
from runner.reference.description import Function, Module

MODULES: Final[tuple[Module, ...]] = (
    process.MODULE,
    container.MODULE,
    log.MODULE,
    job.JOB,
    job.ENV,
    secret.MODULE,
    fs.MODULE,
    archive.MODULE,
    artifact.MODULE,
    http.MODULE,
    data.JSON,
    data.YAML,
    data.TOML,
    data.HASH,
    data.BASE64,
    regex.MODULE,
    template.MODULE,
    semver.MODULE,
    time.MODULE,
    flow.MODULE,
)
NAMES: Final = frozenset(module.name for module in MODULES if not module.is_global)
"""What is there as a global table, and through ``require``."""
FUNCTIONS: Final[dict[str, Function]] = {name: one for module in MODULES for name, one in module.every.items()}
