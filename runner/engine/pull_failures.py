"""Why a pull failed, read off the engine's words, and whether it is worth trying again.

An engine tells no status, only text; the words are those of the distribution specification's error codes, of Podman's
image library and of Docker. The first rule that fits counts.
"""

from __future__ import annotations

import platform
import re
from typing import Final

import msgspec

from runner.engine import names
from runner.engine.credentials import Login
from runner.engine.errors import (
    EngineError,
    ImageAccessDenied,
    ImageDigestMismatch,
    ImageNotFound,
    ImagePlatformMismatch,
    ImagePullFailed,
    first_line,
)


class _Rule(msgspec.Struct, frozen=True, kw_only=True):
    words: str
    """A regular expression over the message in small letters."""
    error: type[EngineError] = ImagePullFailed
    said: str = "could not be pulled from {registry}"
    hint: str
    transient: bool = False


_RULES: Final = (
    _Rule(
        words=r"does not match (?:expected|provided)|digest mismatch|digest verification failed|unexpected digest",
        error=ImageDigestMismatch,
        said="as {registry} gave it is not what its digest says",
        hint="Something between this machine and {registry} changes data, or the registry's own is damaged: "
        "nothing of it was used.",
    ),
    _Rule(
        words=r"no image found in (?:manifest list|image index)|no matching manifest for",
        error=ImagePlatformMismatch,
        said=f"has no variant in {{registry}} for this machine's processors ({platform.machine()})",
        hint="Use an image that is published for them, or a runner with others.",
    ),
    _Rule(
        words=r"toomanyrequests|too many requests",
        hint="{registry} limits how often images are pulled: log in there (`podman login {registry}`), or use a mirror "
        "by the image map.",
        transient=True,
    ),
    _Rule(
        words=r"unauthorized|(?<!permission )denied: |access denied|is denied|authentication required|forbidden"
        r"|invalid username/password",
        error=ImageAccessDenied,
        said="is not given to this runner by {registry}",
        hint="Is the name right? A private image needs credentials: `registries` in the pipeline, with a secret that "
        "it was granted; or `podman login {registry}` on the runner's machine, or the runner's setting `auth_file`.",
    ),
    _Rule(
        words=r"no space left on device|disk quota exceeded",
        hint="The disk of the runner's images is full: `podman image prune` makes room, and so does the setting "
        "`image_budget`.",
    ),
    _Rule(
        words=r"(?:http status:|registry|status code:?) 5\d\d\b|connection refused|connection reset|broken pipe|\beof\b"
        r"|i/o timeout|handshake timeout|deadline exceeded|no route to host|network is unreachable"
        r"|temporary failure in name resolution|server misbehaving",
        hint="Does the runner's machine reach {registry}? An image map in the settings takes images from elsewhere.",
        transient=True,
    ),
    _Rule(
        words=r"manifest unknown|name unknown|not found|name_unknown|manifest_unknown",
        error=ImageNotFound,
        said="does not exist in {registry}",
        hint="Check the name and the tag.",
    ),
    _Rule(
        words=r"",
        hint="Does the runner's machine reach {registry}? An image map in the settings takes images from elsewhere.",
    ),
)


def is_transient(resolved: str, message: str) -> bool:
    """Tell whether the same pull may succeed a moment later."""
    return _rule(resolved, message).transient


def failure(image: str, resolved: str, message: str, login: Login | None) -> EngineError:
    """Make the error of a pull from what the engine said.

    :param login: the job's own credentials, where it was made with them.
    """
    rule = _rule(resolved, message)
    registry = names.registry(resolved)
    if rule.error is ImageAccessDenied and login is not None:
        return ImageAccessDenied(
            f"image {described(image, resolved)} is not given to `{login.username}` by {registry}: "
            f"{reason_of(message)}",
            hint=f"Is the password right that secret `{login.secret}` holds, and may `{login.username}` read this "
            "image? Both are named by `registries` in the pipeline.",
        )
    return rule.error(
        f"image {described(image, resolved)} {rule.said.format(registry=registry)}: {reason_of(message)}",
        hint=rule.hint.format(registry=registry),
    )


def missing_here(image: str, resolved: str) -> ImageNotFound:
    """Make the error of an image that no registry could have."""
    return ImageNotFound(
        f"image {described(image, resolved)} does not exist on this machine, and `localhost/` names no registry",
        hint="`podman images` lists what there is; in a checkout of Moonyard, `make images` builds stand-ins.",
    )


def never_pulled(image: str, resolved: str) -> ImageNotFound:
    """Make the error of an image that is not to be fetched."""
    return ImageNotFound(
        f"image {described(image, resolved)} does not exist on this machine, and by its pull policy (`never`) it is "
        "not to be pulled",
        hint=f"`podman pull {resolved}` on the runner's machine puts it there; the policy is the setting `pull_policy` "
        "of the runner, or `pull` in the pipeline.",
    )


def withheld(image: str, resolved: str) -> ImageAccessDenied:
    """Make the error of an image that is here, is others', and is not to be fetched."""
    return ImageAccessDenied(
        f"image {described(image, resolved)} is on this machine, but not for this job: it came with credentials that "
        "the job does not have, or from another repository; and by its pull policy (`never`) it is not to be pulled",
        hint="Name the credentials by `registries` in the pipeline, with the secret that it was granted.",
    )


def described(image: str, resolved: str) -> str:
    """Name an image as the user did, and as what it is really taken from if that is another."""
    return f"`{image}`" if names.full(image) == resolved else f"`{image}` (mapped to `{resolved}`)"


def reason_of(message: str) -> str:
    """Shorten a pull's error to its last part, which says why; what comes before says again which image."""
    line = first_line(message)
    for word in ("pinging container registry", "reading manifest", "initializing source"):
        if word in line:
            line = line[line.index(word) :]
            break
    return line


def _rule(resolved: str, message: str) -> _Rule:
    # An image may have any of the words in its name.
    text = message.replace(resolved, "").replace(names.repository(resolved), "").lower()
    return next(rule for rule in _RULES if re.search(rule.words, text))
