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
_ALL: Final = "/*"


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
    """Replaces image names before anything else looks at them.

    A name that ends in ``/*`` stands for all images whose names in full begin like it, and ends in ``/*`` in what is
    taken instead. A name without it goes before all of these, and a longer one of these before a shorter one. What was
    replaced once is not replaced again.

    :raises ImageNotFound: when a name is none that an image can have.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names: dict[str, str] = {}
        self._beginnings: dict[str, str] = {}
        for name, other in names.items():
            if name.endswith(_ALL) or other.endswith(_ALL):
                self._beginnings[_beginning(name)] = _beginning(other)
            else:
                self._names[full(name)] = full(other)

    def resolve(self, image: str) -> str:
        """Give the full name of the image to take for the one that a user named.

        :raises ImageNotFound: when it is no name an image can have.
        """
        name = full(image)
        if name in self._names:
            return self._names[name]
        fitting = [beginning for beginning in self._beginnings if name.startswith(beginning)]
        longest = max(fitting, key=len, default="")
        return full(self._beginnings[longest] + name[len(longest) :]) if longest else name


def _beginning(written: str) -> str:
    """Read ``registry.example/team/*``: give how names in full begin that it stands for.

    :raises ImageNotFound: when no name in full can begin like that.
    """
    begins = written.removesuffix("*")
    registry, *_ = begins.split("/")
    is_registry = "." in registry or ":" in registry or registry == "localhost"
    if not written.endswith(_ALL) or not is_registry or not _NAME.fullmatch(f"{begins}x"):
        raise ImageNotFound(
            f"`{written}` in the image map stands for no images",
            hint='Where one name ends in `/*`, so does the other: "docker.io/*" = "registry.example/mirror/*".',
        )
    return begins
