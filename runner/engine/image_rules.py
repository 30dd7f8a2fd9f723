"""Which images a runner's owner lets pipelines use, by patterns over their names."""

from __future__ import annotations

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
        self._allowed = [(pattern, _compiled(pattern)) for pattern in allowed]
        self._denied = [(pattern, _compiled(pattern)) for pattern in denied]

    def check(self, image: str) -> None:
        """See that an image may be used.

        :raises ImageRefused: when it may not; the message names the pattern.
        :raises ImageNotFound: when it is no name an image can have.
        """
        if not self._allowed and not self._denied:
            return
        name = names.full(image)
        forms = (name, name.partition("@")[0], names.repository(name))
        for pattern, compiled in self._denied:
            if any(map(compiled.fullmatch, forms)):
                raise ImageRefused(
                    f"image `{image}` is not allowed on this runner: it fits `{pattern}` in its `images_denied`",
                    hint="Use another image, or ask the runner's owner.",
                )
        if self._allowed and not any(compiled.fullmatch(form) for _, compiled in self._allowed for form in forms):
            patterns = ", ".join(f"`{pattern}`" for pattern, _ in self._allowed)
            raise ImageRefused(
                f"image `{image}` is not allowed on this runner: it fits nothing in its `images_allowed` ({patterns})",
                hint="Use an image that is allowed, or ask the runner's owner.",
            )


def _compiled(pattern: str) -> re.Pattern[str]:
    # A short pattern means what a short name does; one whose registry is open stays so.
    written = pattern if "*" in pattern.partition("/")[0] and ("/" in pattern or pattern[0] == "*") else None
    written = written or names.with_registry(pattern)
    return re.compile(".*".join(re.escape(part) for part in written.split("*")))
