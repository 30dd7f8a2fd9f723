"""Which images a runner's owner lets pipelines use, by patterns over their names."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from runner.engine import names
from runner.engine.errors import ImageRefused


class ImageRules:
    """Refuses images. An image has to fit one of ``allowed``, where there are any, and none of ``denied``.

    A pattern is an image's name, in which ``*`` stands for any text, slashes included. One without a tag fits every tag
    and digest. Names are compared in full, as a pipeline asks for them: before the image map, which is the owner's own.
    """

    def __init__(self, allowed: Sequence[str], denied: Sequence[str]) -> None:
        self._allowed = allowed
        self._denied = denied

    def check(self, image: str) -> None:
        """See that an image may be used.

        :raises ImageRefused: when it may not; the message names the pattern.
        :raises ImageNotFound: when it is no name an image can have.
        """
        if not self._allowed and not self._denied:
            return
        for pattern in self._denied:
            if fits(image, pattern):
                raise ImageRefused(
                    f"image `{image}` is not allowed on this runner: it fits `{pattern}` in its `images_denied`",
                    hint="Use another image, or ask the runner's owner.",
                )
        if self._allowed and not any(fits(image, pattern) for pattern in self._allowed):
            patterns = ", ".join(f"`{pattern}`" for pattern in self._allowed)
            raise ImageRefused(
                f"image `{image}` is not allowed on this runner: it fits nothing in its `images_allowed` ({patterns})",
                hint="Use an image that is allowed, or ask the runner's owner.",
            )


def fits(image: str, pattern: str) -> bool:
    """Tell whether an image fits a pattern.

    :raises ImageNotFound: when it is no name an image can have.
    """
    name = names.full(image)
    compiled = _compiled(pattern)
    return any(compiled.fullmatch(form) for form in (name, name.partition("@")[0], names.repository(name)))


def wildcards(pattern: str) -> re.Pattern[str]:
    """Read a pattern in which ``*`` stands for any text."""
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # A short pattern means what a short name does; one whose registry is open stays so.
    written = pattern if "*" in pattern.partition("/")[0] and ("/" in pattern or pattern[0] == "*") else None
    return wildcards(written or names.with_registry(pattern))
