"""What looks like a credential, whoever made it: kinds that can be told from their form alone.

A kind is on by default if nearly all that has its form is a credential: a prefix of its own, a length, an alphabet. It
has two expressions: a coarse one for the scan, and an exact one for what the scan found, whose group ``secret`` is
taken out, or else all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from schema.errors import MoonyardError
from schema.scanning import ExpressionInvalid, Scanner

REACH_BYTES: Final = 8 * 1024
"""None is longer, but for a private key, which is told line by line."""
EXPRESSION_LENGTH_MAXIMUM: Final = 1000
KIND_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
PRIVATE_KEY: Final = "private-key"

# A character that none of these is part of stands before and after.
_B: Final = rb"(?<![A-Za-z0-9_])"
_E: Final = rb"(?![A-Za-z0-9_])"


class RedactInvalid(MoonyardError):
    """A pattern of the runner's owner cannot be used."""

    code = "redact_invalid"


class RedactSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the owner of a runner wants taken out besides, or not."""

    patterns: dict[str, str] = {}
    """Expressions by the name of their kind."""
    on: list[str] = []
    """Kinds that are not on by default."""
    off: list[str] = []
    """Kinds that are, and are not wanted."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of credential."""

    name: str
    coarse: bytes
    exact: re.Pattern[bytes]
    is_on: bool = True


def _kind(name: str, coarse: bytes, exact: bytes | None = None, *, is_on: bool = True) -> Kind:
    return Kind(name=name, coarse=coarse, exact=re.compile(exact or _B + coarse + _E), is_on=is_on)


# The lines of a key between its first and its last, also in a JSON string, where line ends are written `\n`.
_KEY_LINE_END: Final = rb"(?:\s|\\r|\\n)"
_KEY_HEADERS: Final = (
    rb"(?:(?:Proc-Type|DEK-Info|Version|Comment|Charset|Hash):[^\r\n\\]{0,200}" + _KEY_LINE_END + rb"{1,4})"
)
KEY_BEGIN: Final = rb"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
KEY_FIRST: Final = rb"(?=[A-Za-z0-9+/=]{20}|[A-Z][A-Za-z-]{3,12}: )"
"""What the first line is to begin with: text may follow where a key's first line is only spoken of."""
# All lines but the last are long.
KEY_BODY: Final = (
    _KEY_HEADERS
    + rb"{0,8}(?:[A-Za-z0-9+/=]{16,4096}"
    + _KEY_LINE_END
    + rb"{1,8}){0,2000}(?:[A-Za-z0-9+/=]{1,4096}"
    + _KEY_LINE_END
    + rb"{0,8}(?=-----END|\Z))?"
)

KINDS: Final = (
    _kind("anthropic-key", rb"sk-ant-[a-z]{3,8}[0-9]{2}-[A-Za-z0-9_-]{80,200}"),
    _kind(
        "authorization-header",
        rb"(?i)authorization",
        rb"(?i)authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:basic|bearer|token)\s{1,4}"
        rb"(?P<secret>[A-Za-z0-9._~+/=-]{16,4096})",
    ),
    _kind("age-key", rb"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    _kind(
        "aws-access-key", rb"A(?:KIA|SIA)[A-Z2-7]{16}", _B + rb"A(?:KIA|SIA)(?!IOSFODNN7EXAMPLE)[A-Z2-7]{16}" + _E
    ),
    _kind(
        "aws-secret-key",
        rb"(?i)aws_?(?:secret|session)",
        rb"(?i)aws_?(?:secret_?(?:access_?)?key|session_?token)[\"']?\s{0,8}[=:]\s{0,8}[\"']?"
        rb"(?P<secret>[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])|[A-Za-z0-9/+]{100,4096}={0,2})",
    ),
    _kind(
        "azure-storage-key",
        rb"AccountKey=[A-Za-z0-9+/]{86}==",
        rb"AccountKey=(?P<secret>[A-Za-z0-9+/]{86}==)",
    ),
    _kind("databricks-token", rb"dapi[a-f0-9]{32}"),
    _kind("digitalocean-token", rb"do[opr]_v1_[a-f0-9]{64}"),
    _kind("docker-token", rb"dckr_pat_[A-Za-z0-9_-]{27}"),
    _kind("github-token", rb"gh[pousr]_[A-Za-z0-9]{36}", _B + rb"gh[pousr]_[A-Za-z0-9]{36,255}" + _E),
    _kind("github-fine-token", rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _kind(
        "gitlab-token",
        rb"gl(?:pat|ptt|dt|rt|cbt|ft|oas|agent|soat|imt)-[A-Za-z0-9_-]{20}",
        _B + rb"gl(?:pat|ptt|dt|rt|cbt|ft|oas|agent|soat|imt)-[A-Za-z0-9_.-]{20,300}" + _E,
    ),
    _kind("google-api-key", rb"AIza[0-9A-Za-z_-]{35}"),
    _kind("google-oauth-secret", rb"GOCSPX-[A-Za-z0-9_-]{28}"),
    _kind("huggingface-token", rb"hf_[A-Za-z0-9]{34}"),
    _kind(
        "jwt",
        rb"eyJ[A-Za-z0-9_-]{10,500}\.eyJ[A-Za-z0-9_-]{10}",
        _B + rb"eyJ[A-Za-z0-9_-]{10,1000}\.eyJ[A-Za-z0-9_-]{10,4096}\.[A-Za-z0-9_-]{10,1400}" + _E,
    ),
    _kind("linear-key", rb"lin_api_[A-Za-z0-9]{40}"),
    _kind("moonyard-token", rb"moonyard_[a-z]{3,16}_[0-9a-f]{72}"),
    _kind("new-relic-key", rb"NRAK-[A-Z0-9]{27}"),
    _kind("npm-token", rb"npm_[A-Za-z0-9]{36}"),
    _kind(
        "openai-key",
        rb"T3BlbkFJ",
        _B + rb"sk-(?:[a-z]{2,12}-)?[A-Za-z0-9_-]{20,200}T3BlbkFJ[A-Za-z0-9_-]{20,200}" + _E,
    ),
    _kind("postman-key", rb"PMAK-[a-f0-9]{24}-[a-f0-9]{34}"),
    _kind(
        PRIVATE_KEY,
        KEY_BEGIN,
        KEY_BEGIN + _KEY_LINE_END + rb"{0,8}" + KEY_FIRST + rb"(?P<secret>" + KEY_BODY + rb")",
    ),
    _kind(
        "pypi-token",
        rb"pypi-AgE(?:IcHlwaS5vcmc|NdGVzdC5weXBpLm9yZw)[A-Za-z0-9_-]{50}",
        _B + rb"pypi-AgE(?:IcHlwaS5vcmc|NdGVzdC5weXBpLm9yZw)[A-Za-z0-9_-]{50,1000}" + _E,
    ),
    _kind("sendgrid-key", rb"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _kind("shopify-token", rb"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    _kind(
        "slack-token",
        rb"xox[abeoprs]-[0-9A-Za-z-]{20}",
        _B + rb"xox[abeoprs]-(?:[0-9A-Za-z]{1,100}-){1,4}[0-9A-Za-z]{10,300}" + _E,
    ),
    _kind("slack-app-token", rb"xapp-[0-9]-[A-Z0-9]{8,20}-[0-9]{8,20}-[a-f0-9]{64}"),
    _kind(
        "slack-webhook",
        rb"hooks\.slack\.com/(?:services|workflows|triggers)/",
        rb"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<secret>[A-Z0-9]{8,20}/[A-Za-z0-9]{8,20}/[A-Za-z0-9]{16,64})",
    ),
    _kind(
        "stripe-key",
        rb"[rs]k_(?:live|test)_[A-Za-z0-9]{24}",
        _B + rb"[rs]k_(?:live|test)_[A-Za-z0-9]{24,250}" + _E,
    ),
    _kind(
        "terraform-token",
        rb"\.atlasv1\.[A-Za-z0-9_-]{60}",
        _B + rb"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,100}" + _E,
    ),
    _kind(
        "vault-token",
        rb"hv[bsr]\.[A-Za-z0-9_-]{24}",
        _B + rb"hv[bsr]\.[A-Za-z0-9_-]{24,300}" + _E,
    ),
    _kind(
        "url-password",
        rb"://[^\s/:@'\"]{0,64}:[^\s/@'\"]{3,256}@",
        rb"://[^\s/:@'\"]{0,64}:(?P<secret>[^\s/@'\"]{3,256})@",
        is_on=False,  # half of those that are seen stand in examples
    ),
)  # fmt: skip


class Credentials:
    """The kinds that one runner looks for."""

    def __init__(self, settings: RedactSettings = RedactSettings()) -> None:  # noqa: B008  # it never changes
        """Choose kinds.

        :raises RedactInvalid: for a kind that does not exist, and an expression that cannot be used.
        """
        known = {kind.name for kind in KINDS}
        for name in (*settings.on, *settings.off):
            if name not in known:
                raise RedactInvalid(
                    f"`redact` names `{name}`, which is no kind of credential",
                    hint=f"There are: {', '.join(sorted(known))}.",
                )
        chosen = [kind for kind in KINDS if (kind.is_on or kind.name in settings.on) and kind.name not in settings.off]
        own = [_own(name, expression, known) for name, expression in settings.patterns.items()]
        self._kinds: Sequence[Kind] = chosen
        self._scanner = Scanner([kind.coarse for kind in chosen]) if chosen else None
        self._own = Scanner([kind.coarse for kind in own], coarsely=True) if own else None
        self._own_kinds: Sequence[Kind] = own

    def present(self, block: bytes) -> list[Kind]:
        """List the kinds of which a block may have something."""
        found = [] if self._scanner is None else [self._kinds[index] for index in self._scanner.present(block)]
        if self._own is not None:
            found += [self._own_kinds[index] for index in self._own.present(block)]
        return found


def spans(kind: Kind, block: bytes) -> Iterator[tuple[int, int]]:
    """Find what looks like a credential of a kind: from where, to where."""
    group = "secret" if "secret" in kind.exact.groupindex else 0
    for match in kind.exact.finditer(block):
        if match.start(group) < match.end(group):
            yield match.start(group), match.end(group)


def _own(name: str, expression: str, known: set[str]) -> Kind:
    if not KIND_NAME.fullmatch(name) or name in known:
        raise RedactInvalid(
            f"`redact.patterns` has a pattern `{name}`, which is no name for one",
            hint="Small letters, digits and `-`, at most 41, and no kind that there is.",
        )
    if len(expression) > EXPRESSION_LENGTH_MAXIMUM:
        raise RedactInvalid(
            f"pattern `{name}` in `redact.patterns` is longer than {EXPRESSION_LENGTH_MAXIMUM} characters"
        )
    try:
        exact = re.compile(expression.encode())
        is_everywhere = exact.match(b"") is not None
        if not is_everywhere:
            Scanner([expression.encode()], coarsely=True)
    except (re.error, ExpressionInvalid) as error:
        raise RedactInvalid(f"pattern `{name}` in `redact.patterns` cannot be used: {error}") from error
    if is_everywhere:
        raise RedactInvalid(f"pattern `{name}` in `redact.patterns` fits an empty text, and so would be everywhere")
    return Kind(name=name, coarse=expression.encode(), exact=exact)
