"""What a runner's owner lets containers have beyond what all have: told by rules, for named images and pipelines.

    a pipeline asks (schema.definition.Rights) ──> a rule for its image or name has it ──> Granted
                                               └─> none has ──> RightsRefused, before anything is made

A pipeline names a mount by where it wants to see it; which folder of this machine that is, and whether it can be
written to, is the owner's word alone. What no owner can have meant is refused when the rules are read: a mount that
leads to the engine, to what the runner keeps, or to the whole machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import msgspec

from runner.engine import image_rules
from runner.engine.errors import RightsRefused
from schema.definition import Rights

_MACHINE: Final = ("/", "/proc", "/sys", "/dev")
"""Folders of the machine's that are no data."""
ENGINES: Final = (
    Path("/var/lib/containers"),
    Path("/run/containers"),
    Path("/var/lib/docker"),
    Path("/run/docker.sock"),
)
"""Where engines keep what containers are made of, and how they are spoken with."""
_TAKEN: Final = ("/workspace", "/.moonyard", "/proc", "/sys", "/dev")
"""Places in a container that have their use already."""
_CAPABILITY: Final = re.compile(r"[A-Z][A-Z0-9_]*")


class Mount(NamedTuple):
    source: str
    target: str
    mode: str
    """Or "ro"."""


class Allowance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: it holds where an image fits its patterns and a pipeline's name does; a list that is empty fits all."""

    images: list[str] = []
    pipelines: list[str] = []
    privileged: bool = False
    mounts: list[str] = []
    """Written as `/folder/of/the/machine:/place/in/the/container:ro`; without `ro` it can be written to."""
    devices: list[str] = []
    capabilities: list[str] = []

    @property
    def written_mounts(self) -> Iterator[Mount]:
        for written in self.mounts:
            source, target, *mode = written.split(":")
            yield Mount(source, target, *(mode or ["rw"]))

    def fits(self, image: str, pipeline: str) -> bool:
        return (not self.images or any(image_rules.fits(image, pattern) for pattern in self.images)) and (
            not self.pipelines or any(image_rules.wildcards(pattern).fullmatch(pipeline) for pattern in self.pipelines)
        )

    @property
    def whom(self) -> str:
        images = f"images {_list(self.images)}" if self.images else "any image"
        return f"{images} in pipelines {_list(self.pipelines)}" if self.pipelines else images

    @property
    def what(self) -> str:
        parts = (
            "all that root on this machine can (`privileged`)" if self.privileged else "",
            f"mounts {_list(self.mounts)}" if self.mounts else "",
            f"devices {_list(self.devices)}" if self.devices else "",
            f"capabilities {_list(self.capabilities)}" if self.capabilities else "",
        )
        return ", ".join(filter(None, parts))


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What one container gets, in the engine's words."""

    privileged: bool = False
    binds: list[str] = []
    devices: list[str] = []
    capabilities: list[str] = []


class Allowances:
    """The owner's rules."""

    def __init__(self, rules: Sequence[Allowance]) -> None:
        self._rules = rules

    def grant(self, image: str, pipeline: str, rights: Rights) -> Granted:
        """See that a container may have what it asks for; several rules may each allow a part of it.

        :raises RightsRefused: when it may not; the message names what is missing, the hint the rule that would do.
        """
        rules = [rule for rule in self._rules if rule.fits(image, pipeline)]
        mounts = {mount.target: mount for rule in reversed(rules) for mount in rule.written_mounts}
        devices = {device for rule in rules for device in rule.devices}
        capabilities = {capability for rule in rules for capability in rule.capabilities}
        missing = {
            "mounts": [target for target in rights.mounts if target not in mounts],
            "devices": [device for device in rights.devices if device not in devices],
            "capabilities": [capability for capability in rights.capabilities if capability not in capabilities],
        }
        if rights.privileged and not any(rule.privileged for rule in rules):
            raise _refused(image, pipeline, "privileged", "`privileged`", "true")
        for kind, names in missing.items():
            if names:
                value = '["/folder/of/the/machine:{}"]' if kind == "mounts" else '["{}"]'
                raise _refused(image, pipeline, kind, f"{kind} {_list(names)}", value.format(names[0]))
        return Granted(
            privileged=rights.privileged,
            binds=[":".join(mounts[target]) for target in dict.fromkeys(rights.mounts)],
            devices=list(dict.fromkeys(rights.devices)),
            capabilities=list(dict.fromkeys(rights.capabilities)),
        )


def _refused(image: str, pipeline: str, kind: str, what: str, value: str) -> RightsRefused:
    return RightsRefused(
        f"a container of image `{image}` may not have {what} on this runner: no rule of its owner's allows that to the "
        f"image in pipeline `{pipeline}`",
        hint=f'The owner can allow it in moonyard.toml: [[allow]] images = ["{image}"], {kind} = {value}.',
    )


def read(value: object, private: Sequence[Path]) -> list[Allowance]:
    """Read rules as a settings file has them.

    :param private: files and folders that no container may come to see.
    :raises ValueError: when they cannot be used, with the reason.
    """
    try:
        rules = msgspec.convert(value, list[Allowance])
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    for rule in rules:
        if not rule.images and not rule.pipelines:
            raise ValueError('a rule names no `images` and no `pipelines`; for all, write images = ["*"]')
        if not rule.what:
            raise ValueError(f"the rule for {rule.whom} allows nothing")
        for pattern in (*rule.images, *rule.pipelines):
            if not pattern:
                raise ValueError("an empty pattern fits nothing")
        for written in rule.mounts:
            _check_mount(written, private)
        for device in rule.devices:
            path = PurePosixPath(device)
            if path.parts[:2] != ("/", "dev") or ".." in path.parts or ":" in device or len(path.parts) < 3:
                raise ValueError(f"`{device}` is no device such as `/dev/kvm`")
        for capability in rule.capabilities:
            if not _CAPABILITY.fullmatch(capability) or capability.startswith("CAP_"):
                raise ValueError(f"`{capability}` is no capability such as `NET_ADMIN`")
    return rules


def _check_mount(written: str, private: Sequence[Path]) -> None:
    source, *rest = written.split(":")
    target, mode = (*rest, "rw")[:2] if rest else ("", "")
    if not _is_plain(source) or not _is_plain(target) or len(rest) > 2 or mode not in {"ro", "rw"}:
        raise ValueError(f"`{written}` is no mount such as `/var/cache/build:/cache:ro`, of full paths without `..`")
    if target == "/" or any(_holds(taken, target) for taken in _TAKEN):
        raise ValueError(f"`{written}` cannot be mounted: `{target}` has its use in a container already")
    actual = Path(source).resolve()
    if str(actual) in _MACHINE or any(_holds(folder, str(actual)) for folder in _MACHINE[1:]):
        raise ValueError(f"`{written}` cannot be mounted: `{actual}` is the machine itself")
    for path in private:
        for kept in {path, path.resolve()}:
            if _holds(str(actual), str(kept)) or (_holds(str(kept), str(actual))):
                raise ValueError(f"`{written}` cannot be mounted: it leads to `{kept}`, which no container is to see")


def _is_plain(path: str) -> bool:
    return path.startswith("/") and ".." not in PurePosixPath(path).parts


def _holds(folder: str, path: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
