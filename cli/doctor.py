"""``moonyard doctor``: whether what is there of a deployment works, and what is weaker than it could be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from cli import engine as engine_options
from cli import runner as runner_commands
from cli import secret_keys, settings
from cli.engine import EngineOptions
from cli.tables import print_json
from schema.errors import MoonyardError

if TYPE_CHECKING:
    from schema.findings import Finding

EXIT_UNFIT: Final = 1
PARTS: Final = ("runner", "files", "orchestrators", "database", "secrets")
_MARKS: Final = {"ok": ("green", "ok    "), "weak": ("yellow", "weak  "), "broken": ("red", "broken")}


@click.command(short_help="Check a deployment: what works, and what is weak.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("--strict", is_flag=True, help="Exit with 1 where something is weak, too.")
@click.option(
    "--only",
    type=click.Choice(PARTS),
    multiple=True,
    help="Look at this part alone; may be repeated. By default at all.",
)
@settings.setting("orchestrator")
@settings.setting("database_url")
@settings.setting("listen_url")
@settings.setting("secret_key_file")
@settings.setting("secret_key_command")
@settings.setting("state_folder")
@settings.setting("warm_containers")
@engine_options.options
def doctor(
    *,
    as_json: bool,
    strict: bool,
    only: tuple[str, ...],
    orchestrator: tuple[str, ...],
    database_url: str | None,
    listen_url: str | None,
    secret_key_file: Path | None,
    secret_key_command: str | None,
    state_folder: Path,
    warm_containers: int,
    engine: EngineOptions,
) -> int:
    """Check what is there of a deployment: what works, what is weaker than it could be, why it matters, what to do.

    It looks at this machine as a runner would need it, at files with credentials, at the orchestrators and the database
    that are named or that `moonyard up` started, and at the master keys of secrets.

    \b
    Exit code 0: nothing is broken, though something may be weak. 1: something is broken, or weak with --strict.
    2: it could not be run at all.
    Containers are made for the checks, and removed; nothing is pulled, and nothing is changed.
    """
    saved = settings.Credentials.of(state_folder)
    url = database_url or saved.database_url
    if secret_key_file is None and secret_key_command is None and database_url is None and saved.database_url:
        secret_key_file = secret_keys.of_up(state_folder)
    chosen = engine.settings(state_folder, warm_containers=warm_containers)
    found: list[Finding] = []
    for part in only or PARTS:
        match part:
            case "runner":
                from runner import checkup

                found += anyio.run(checkup.examine, chosen)
            case "files":
                from cli.checkups import files

                found += files.examine(state_folder, auth_file=chosen.auth_file, key_file=secret_key_file)
            case "orchestrators":
                addresses = list(orchestrator) or runner_commands.registered_with(state_folder) or saved.addresses
                found += anyio.run(_orchestrators, addresses)
            case "database" if url is not None:
                from cli.checkups import database

                found += anyio.run(database.examine, url, listen_url)
            case "secrets":
                found += _secrets(secret_key_file, secret_key_command, state_folder, url, listen_url)
            case _:
                pass  # there is no database that anybody named
    _print(found, as_json=as_json)
    unfit = {"broken", "weak"} if strict else {"broken"}
    return EXIT_UNFIT if any(finding.state in unfit for finding in found) else 0


async def _orchestrators(addresses: Sequence[str]) -> list[Finding]:
    from cli.checkups import orchestrators

    found: list[Finding] = []
    for address in addresses:
        found += await orchestrators.examine(address, settings.tls_ca())
    return found


def _secrets(
    file: Path | None, command: str | None, state_folder: Path, url: str | None, listen_url: str | None
) -> list[Finding]:
    from cli.checkups import master_keys

    try:
        keys = secret_keys.load(file, command)
    except MoonyardError as error:
        return [master_keys.unusable(error)]
    return anyio.run(master_keys.examine, keys, state_folder, url, listen_url)


def _print(found: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    width = max((len(finding.check) for finding in found), default=0)
    for finding in found:
        colour, mark = _MARKS[finding.state]
        click.echo(f"{click.style(mark, fg=colour)}  {finding.check:<{width}}  {finding.text}")
        for name, text in (("why", finding.why), ("hint", finding.hint)):
            if text:
                click.echo(f"{' ' * (width + 10)}{click.style(name, fg='cyan')}: {text}")
    counted = {state: sum(finding.state == state for finding in found) for state in _MARKS}
    click.echo(f"{counted['broken']} broken, {counted['weak']} weak, {counted['ok']} ok", err=True)
