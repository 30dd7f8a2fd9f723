"""``moonyard doctor``: whether this machine has what a runner needs, and what is weaker here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio
import click

from cli import engine as engine_options
from cli import runner as runner_commands
from cli import settings
from cli.engine import EngineOptions
from cli.tables import print_json

EXIT_UNFIT: Final = 1
_MARKS: Final = {"ok": ("green", "ok  "), "weak": ("yellow", "weak"), "fail": ("red", "fail")}


@click.command(short_help="Check whether this machine has what a runner needs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@settings.setting("orchestrator")
@settings.setting("state_folder")
@settings.setting("warm_containers")
@engine_options.options
def doctor(
    *, as_json: bool, orchestrator: tuple[str, ...], state_folder: Path, warm_containers: int, engine: EngineOptions
) -> int:
    """Check whether this machine has what a runner needs, and say what is weaker here than it could be.

    \b
    Exit code 0: a runner can work here, though something may be weak. 1: something that it needs is missing.
    Containers are made for the checks, and removed; nothing is pulled.
    """
    from runner import checkup

    addresses = list(orchestrator) or runner_commands.registered_with(state_folder)
    found = anyio.run(checkup.examine, engine.settings(state_folder, warm_containers=warm_containers), addresses)
    if as_json:
        print_json(found)
    else:
        width = max(len(finding.check) for finding in found)
        for finding in found:
            colour, mark = _MARKS[finding.state]
            click.echo(f"{click.style(mark, fg=colour)}  {finding.check:<{width}}  {finding.text}")
            if finding.hint:
                click.echo(f"{' ' * (width + 8)}{click.style('hint', fg='cyan')}: {finding.hint}")
    return EXIT_UNFIT if any(finding.state == "fail" for finding in found) else 0
