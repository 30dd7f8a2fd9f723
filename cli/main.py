"""The ``moonyard`` command: its groups, and where every error of it is shown.

Exit codes: 0 done, 1 the job failed, 2 a usage or system error. Data goes to stdout, all else to stderr.
A command's own module is imported when the command runs: ``moonyard run`` does not pay for the web server.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Final

import click

from cli import errors
from schema.errors import MoonyardError

EXIT_JOB_FAILED: Final = 1
EXIT_ERROR: Final = 2

COMMANDS: Final = {
    "run": "cli.run:run",
    "up": "cli.up:up",
    "pipeline": "cli.pipeline:pipeline",
    "submit": "cli.jobs:submit",
    "jobs": "cli.jobs:jobs",
    "job": "cli.jobs:job",
    "logs": "cli.jobs:logs",
    "cancel": "cli.jobs:cancel",
    "artifact": "cli.artifact:artifact",
    "runner": "cli.runner:runner",
    "orchestrator": "cli.orchestrator:orchestrator",
    "db": "cli.db:db",
    "token": "cli.token:token",
}


class Commands(click.Group):
    """Finds a command's module when it is asked for; lists commands in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="First steps: `moonyard run FILE` runs a pipeline here and now; `moonyard up` starts everything here.",
)
@click.version_option(package_name="moonyard", message="moonyard %(version)s")
def moonyard() -> None:
    """Pipelines in Lua, every command in a container, every bit of state in Postgres."""


def main() -> None:
    """Run the command line and exit with its code."""
    logging.basicConfig(
        level=os.environ.get("MOONYARD_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        code = moonyard.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        code = EXIT_ERROR
    except click.ClickException as error:
        error.show()
        code = EXIT_ERROR
    except MoonyardError as error:
        errors.show(error)
        code = EXIT_ERROR
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to tell, and the exit must not try to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_ERROR
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
