"""Routes for plugins: for people to push, list and show them, for runners to fetch what versions are locked with."""

from __future__ import annotations

from typing import Annotated, Any, Final

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from orchestrator import parts, plugins
from orchestrator.access import RUNNER, needs
from plugins.resolution import Catalogue
from schema.plugins import BYTES_MAXIMUM
from schema.wire import PluginContents, PluginList, PluginPush, PluginShown, PluginVersion

AnyRequest = Request[Any, Any, Any]
VersionQuery = Annotated[str | None, QueryParameter(name="version")]
PUSH_BYTES_MAXIMUM: Final = 6 * BYTES_MAXIMUM + 64 * 1024
"""A character may take six in JSON."""


def _known(request: AnyRequest) -> Catalogue:
    here = parts.of(request)
    return plugins.catalogue(here.database, here.settings.plugin_folder)


@post(
    "/v1/plugins",
    opt=needs("push-plugins"),
    tags=["plugins"],
    status_code=200,
    request_max_body_size=PUSH_BYTES_MAXIMUM,
)
async def plugin_push(request: AnyRequest, data: JSONBody[PluginPush]) -> PluginVersion:
    """Check a plugin and store it under its name and version, which names these files from now on."""
    here = parts.of(request)
    return await plugins.push(here.database, here.checker, _known(request), data.files, actor=parts.actor(request))


@get("/v1/plugins", opt=needs("view"), tags=["plugins"])
async def plugin_list(request: AnyRequest) -> PluginList:
    """List the plugins that pipelines can name: those that ship, those of the orchestrator's folder, those pushed."""
    here = parts.of(request)
    return await plugins.listed(here.database, here.settings.plugin_folder)


@get("/v1/plugins/{name:str}", opt=needs("view"), tags=["plugins"])
async def plugin_show(request: AnyRequest, name: FromPath[str], plugin_version: VersionQuery = None) -> PluginShown:
    """Show a plugin: its manifest and its operations. `version` is `1`, `1.2` or `1.2.3`; by default the newest."""
    return await plugins.shown(parts.of(request).checker, _known(request), name, plugin_version)


@get("/v1/runner/plugins/{sha256:str}", opt=RUNNER, tags=["runner"])
async def plugin_get(request: AnyRequest, sha256: FromPath[str]) -> PluginContents:
    """Give the files of a plugin by their hash."""
    runner = parts.identity(request).runner
    assert runner is not None, "a runner's token has its runner: a constraint says so"
    return await plugins.contents(parts.of(request).database, runner, sha256)


HANDLERS: Final[list[HTTPRouteHandler]] = [plugin_push, plugin_list, plugin_show, plugin_get]
