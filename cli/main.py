"""The ``moonyard`` command: its groups, and where every error of it is shown.

Exit codes: 0 done, 1 the job failed, 2 a usage or system error, 130 ended by Ctrl-C. Data goes to stdout, all else to
stderr. A command's own module is imported when the command runs: ``moonyard run`` does not pay for the web server.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from typing import Final

import click

from cli import service_log
from schema.errors import MoonyardError, leaves

EXIT_JOB_FAILED: Final = 1
EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130

COMMANDS: Final = {
    "init": "cli.init:init",
    "run": "cli.run:run",
    "check": "cli.check:check",
    "test": "cli.test:test",
    "stubs": "cli.init:stubs",
    "up": "cli.up:up",
    "pipeline": "cli.pipeline:pipeline",
    "plugin": "cli.plugin:plugin",
    "submit": "cli.jobs:submit",
    "jobs": "cli.jobs:jobs",
    "job": "cli.jobs:job",
    "logs": "cli.jobs:logs",
    "cancel": "cli.jobs:cancel",
    "retry": "cli.jobs:retry",
    "approvals": "cli.approval:approvals",
    "approve": "cli.approval:approve",
    "refuse": "cli.approval:refuse",
    "protection": "cli.approval:protection",
    "shell": "cli.shell:shell",
    "release": "cli.shell:release",
    "pause": "cli.queue:pause",
    "resume": "cli.queue:resume",
    "schedule": "cli.schedule:schedule",
    "hook": "cli.hook:hook",
    "artifact": "cli.artifact:artifact",
    "cache": "cli.cache:cache",
    "http-limit": "cli.http_limit:http_limit",
    "secret": "cli.secret:secret",
    "grant": "cli.grant:grant",
    "runner": "cli.runner:runner",
    "doctor": "cli.doctor:doctor",
    "orchestrator": "cli.orchestrator:orchestrator",
    "db": "cli.db:db",
    "login": "cli.login:login",
    "logout": "cli.login:logout",
    "whoami": "cli.login:whoami",
    "password": "cli.login:password",
    "account": "cli.account:account",
    "group": "cli.group:group",
    "role": "cli.role:role",
    "token": "cli.token:token",
    "audit": "cli.audit:audit",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        question = f"; did you mean `{near[0]}`?" if near else f" (there are: {', '.join(COMMANDS)})"
        raise click.UsageError(f"`{name}` is not a command{question}", ctx)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="First steps: `moonyard init` makes a project, `moonyard run FILE` runs a pipeline here and now, "
    "`moonyard up` starts everything here.",
)
@click.version_option(package_name="moonyard", message="moonyard %(version)s")
def moonyard() -> None:
    """Pipelines in Lua, every command in a container, every bit of state in Postgres."""


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _open_standard_streams()
        service_log.set_up()
        code = moonyard.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = EXIT_ERROR
    except MoonyardError as error:
        service_log.show(error)
        code = EXIT_ERROR
    except ExceptionGroup as group:
        _show_all(group)
        code = EXIT_ERROR
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to tell, and the exit must not try to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_ERROR
    except Exception:  # a defect of ours is not to end with the exit code that means "the job failed"
        logging.getLogger(__name__).exception("this is a defect of Moonyard's own")
        code = EXIT_ERROR
    sys.exit(code if isinstance(code, int) else 0)


def _show_all(group: ExceptionGroup) -> None:
    """Show what several tasks met at the same moment."""
    found = leaves(group)
    if not all(isinstance(error, MoonyardError) for error in found):
        logging.getLogger(__name__).error("this is a defect of Moonyard's own", exc_info=group)
        return
    for error in found:
        assert isinstance(error, MoonyardError)
        service_log.show(error)


def _open_standard_streams() -> None:
    """Open what we were started without (``>&-``): a file of ours would get its number, and what is meant for it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    # Python has none for those; text that no encoding takes (a file's name) is shown as escapes.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
