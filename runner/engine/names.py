"""Image names: what a short one means, and what stands in for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from runner.engine.errors import ImageNotFound

DEFAULT_REGISTRY: Final = "docker.io"
_NAME: Final = re.compile(
    r"[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]+)?(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+"
    r"(?::[\w][\w.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,})?"
)


def full(image: str) -> str:
    """Write an image's name in full: ``alpine`` is ``docker.io/library/alpine:latest``, as with Docker.

    :raises ImageNotFound: when it is no name an image can have.
    """
    first, slash, rest = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        name = image
    elif slash:
        name = f"{DEFAULT_REGISTRY}/{image}"
    else:
        name = f"{DEFAULT_REGISTRY}/library/{image}"
    if name.startswith("index.docker.io/"):
        name = f"{DEFAULT_REGISTRY}/{rest}"
    if name.startswith(f"{DEFAULT_REGISTRY}/") and name.count("/") == 1:
        name = name.replace("/", "/library/", 1)
    if not _NAME.fullmatch(name):
        raise ImageNotFound(
            f"`{image}` is no name that an image can have",
            hint="Names look like `alpine`, `docker.io/library/rust:1.80` or `registry.example:5000/app@sha256:...`.",
        )
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


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
