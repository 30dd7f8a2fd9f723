"""Shows errors to people: what failed, why, where in their Lua, and what to do next. On stderr, never on stdout."""

from __future__ import annotations

import click

from schema.definition import PipelineInvalid, Problem
from schema.errors import ErrorInfo, MoonyardError, chain


def lines_of(error: ErrorInfo, indent: str = "") -> list[str]:
    """Write an error and its causes, one line each, with the Lua call chain and the hints."""
    written: list[str] = []
    for depth, link in enumerate(chain(error)):
        label = click.style("error" if depth == 0 else "caused by", fg="red", bold=depth == 0)
        where = f"{link.where}: " if link.where else ""
        # What an error only repeats of its cause is told once, below.
        message = link.message if link.cause is None else link.message.removesuffix(f": {link.cause.message}")
        # What an error quotes may be a command's own words: escape sequences are not to reach the reader's terminal.
        message = message.replace("\x1b", "␛")
        written.append(f"{indent}{label}[{link.code}] {where}{message}")
        written += [f"{indent}    at {frame}" for frame in (link.trace or [])[:12]]
    hints = list(dict.fromkeys(link.hint for link in chain(error) if link.hint))
    return written + [f"{indent}{click.style('hint', fg='cyan')}: {hint}" for hint in hints]


def show(error: MoonyardError) -> None:
    """Print an error to stderr."""
    problems = problems_of(error)
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        click.echo(f"{click.style('error', fg='red', bold=True)}[{error.code}] the pipeline has {count}:", err=True)
        for problem in problems:
            click.echo(f"  {problem.where}: {problem.message}", err=True)
            if problem.hint:
                click.echo(f"    {click.style('hint', fg='cyan')}: {problem.hint}", err=True)
        return
    for line in lines_of(error.info):
        click.echo(line, err=True)


def problems_of(error: MoonyardError) -> list[Problem]:
    """List a pipeline's problems, whether they were found here or by an orchestrator."""
    from schema.client import OrchestratorRefused

    if isinstance(error, PipelineInvalid):
        return error.problems
    if isinstance(error, OrchestratorRefused):
        return error.problem.problems or []
    return []
