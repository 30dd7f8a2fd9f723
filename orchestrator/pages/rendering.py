"""Makes answers that are pages: nothing of them runs, and nothing of another site is in them or around them."""

from __future__ import annotations

import secrets
from typing import Any, Final

import jinja2
from litestar import Response

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("orchestrator.pages", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_DEFAULTS: Final = {"problem": None, "done": None}


def page(name: str, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response[str]:
    """Make a page of a template.

    :param values: for the template; ``problem`` and ``done`` are shown by all of them.
    """
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Response(
        _TEMPLATES.get_template(f"{name}.html").render(_DEFAULTS | values | {"nonce": nonce}),
        status_code=status,
        media_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": policy, "Cache-Control": "no-store", **(headers or {})},
    )
