"""Image names: what a short one means, and what stands in for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from runner.engine.errors import ImageNotFound

DEFAULT_REGISTRY: Final = "docker.io"
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# The grammar of the distribution specification (its `reference` package).
_NAME: Final = re.compile(
    rf"(?P<name>{_HOST}(?:/{_PART})+)(?::[\w][\w.-]{{0,127}})?"
    r"(?:@[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
_NAME_LENGTH_MAXIMUM: Final = 255


def full(image: str) -> str:
    """Write an image's name in full: ``alpine`` is ``docker.io/library/alpine:latest``, as with Docker.

    :raises ImageNotFound: when it is no name an image can have.
    """
    name = with_registry(image)
    match = _NAME.fullmatch(name)
    if match is None or len(match["name"]) > _NAME_LENGTH_MAXIMUM:
        raise ImageNotFound(
            f"`{image}` is no name that an image can have",
            hint="Names look like `alpine`, `docker.io/library/rust:1.80` or `registry.example:5000/app@sha256:...`.",
        )
    return name if name != match["name"] else f"{name}:latest"


def with_registry(image: str) -> str:
    """Put the registry before a name that does not begin with one. A registry's name is in small letters."""
    first, slash, rest = image.partition("/")
    if not slash:
        return f"{DEFAULT_REGISTRY}/library/{image}"
    if not ("." in first or ":" in first or first == "localhost"):
        return f"{DEFAULT_REGISTRY}/{image}"
    first = first.lower()
    if first in {DEFAULT_REGISTRY, "index.docker.io"}:
        return f"{DEFAULT_REGISTRY}/{rest}" if "/" in rest else f"{DEFAULT_REGISTRY}/library/{rest}"
    return f"{first}/{rest}"


def repository(image: str) -> str:
    """Leave tag and digest out of a name in full."""
    name = image.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(":")[0]


def registry(image: str) -> str:
    """Name the registry of an image whose name is in full."""
    return image.partition("/")[0]


class ImageMap:
    """Replaces image names before anything else looks at them."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {full(name): full(other) for name, other in names.items()}

    def resolve(self, image: str) -> str:
        """Give the full name of the image to take for the one that a user named.

        :raises ImageNotFound: when it is no name an image can have.
        """
        name = full(image)
        return self._names.get(name, name)
