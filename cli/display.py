"""Shows a job's events: as lines for people, or as the JSON lines that programs read."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Final, Protocol

import click
import msgspec

from cli import errors
from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, StageEvent, decode_line
from schema.states import FINAL_JOB_STATES, JobState

_STATE_MARKS: Final[dict[str, tuple[str, str]]] = {
    "queued": ("…", "cyan"),
    "running": ("▸", "cyan"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("■", "yellow"),
    "skipped": ("-", "bright_black"),
    "lost": ("?", "red"),
}
_LEVEL_COLOURS: Final = {"debug": "bright_black", "info": None, "warn": "yellow", "error": "red"}
_COMMAND_LENGTH: Final = 100
_INSIDE: Final = "│ "
"""Before a line of a group, once for each that it is in."""


class Display(Protocol):
    """Takes a job's event lines; ``final`` is the last job event seen."""

    final: JobEvent | None

    def show(self, lines: bytes) -> None: ...


def display(*, as_json: bool, verbose: bool) -> Display:
    return JsonDisplay() if as_json else PeopleDisplay(verbose=verbose)


class JsonDisplay:
    """Prints event lines as they are."""

    def __init__(self) -> None:
        self.final: JobEvent | None = None

    def show(self, lines: bytes) -> None:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
        # Only a job's own lines are looked into: this is the path that a gigabyte of log takes.
        for line in lines.splitlines() if b'"type":"job"' in lines else ():
            if line.startswith(b'{"type":"job"'):
                self.final = _final(decode_line(line))


class PeopleDisplay:
    """Prints events for people: stages as headings, commands with their result and time, log lines with their level.

    While stages run at the same time, each line of a stage says whose it is. Lines of a group stand below its name.
    """

    def __init__(self, *, verbose: bool) -> None:
        self.final: JobEvent | None = None
        self._verbose = verbose
        self._running: set[str] = set()

    def show(self, lines: bytes) -> None:
        text = [shown for line in lines.splitlines() if (shown := self._line(decode_line(line))) is not None]
        if text:
            click.echo("\n".join(text))

    def _line(self, event: AnyEvent) -> str | None:
        match event:
            case LogEvent():
                return self._log(event)
            case CommandEvent():
                return self._command(event)
            case StageEvent():
                return self._stage_line(event)
            case JobEvent():
                self.final = _final(event)
                return self._job(event)

    def _log(self, event: LogEvent) -> str | None:
        if event.level == "debug" and not self._verbose:
            return None
        # Escape sequences of a command's own would reach the reader's terminal: colours are welcome, the rest is not
        # worth telling apart here, so the escape character is shown instead.
        text = event.text.replace("\x1b", "␛")
        if event.service:
            text = f"{event.service}: {text}"
        if event.fields:
            text += "".join(f"  {name}={_field(value)}" for name, value in event.fields.items())
        begin = f"  {event.at[11:23]} {event.level:<5} {self._whose(event.stage)}"
        if event.heading is True and event.group:
            return f"{begin}{_INSIDE * (len(event.group) - 1)}{click.style(f'▾ {text}', bold=True)}"
        begin += _indent(event.group)
        line = begin + text.replace("\n", f"\n{begin}")
        colour = _LEVEL_COLOURS[event.level]
        return click.style(line, fg=colour) if colour else line

    def _command(self, event: CommandEvent) -> str:
        command = shlex.join(event.argv).replace("\n", "\\n").replace("\x1b", "␛")
        if len(command) > _COMMAND_LENGTH:
            command = command[: _COMMAND_LENGTH - 1] + "…"
        command = self._whose(event.stage) + _indent(event.group) + click.style(command, bold=True)
        rest = click.style(f"{event.duration:.3f} s  in {event.container}", fg="bright_black")
        # The line comes when the command has ended, below its output: it tells a result.
        if event.code == 0:
            return f"  {click.style('✓', fg='green')} {command}  {rest}"
        how = event.error.code if event.error else f"exit code {event.code}"
        return f"  {click.style('✗', fg='red')} {command}  {click.style(how, fg='red')}  {rest}"

    def _whose(self, stage: str | None) -> str:
        return f"[{stage}] " if stage is not None and self._running - {stage} else ""

    def _stage_line(self, event: StageEvent) -> str:
        if event.state == "running":
            self._running.add(event.stage)
        else:
            self._running.discard(event.stage)
        mark, colour = _STATE_MARKS[event.state]
        where = f"  in {event.container}" if event.container else ""
        took = f"  {event.duration:.2f} s" if event.duration is not None else ""
        word = "" if event.state in {"running", "succeeded"} else f" {event.state}"
        return f"{click.style(f'{mark} {event.stage}', fg=colour, bold=True)}{word}{where}{took}"

    def _job(self, event: JobEvent) -> str | None:
        if event.state == "running" and event.attempt == 1 and event.number is None:
            return None
        mark, colour = _STATE_MARKS[event.state]
        name = "job" if event.number is None else f"job {event.number}"
        attempt = f" (attempt {event.attempt})" if event.attempt > 1 else ""
        lines = [click.style(f"{mark} {name} {event.state}{attempt}", fg=colour, bold=event.state in FINAL_JOB_STATES)]
        if event.error is not None:
            lines += errors.lines_of(event.error, "  ")
        return "\n".join(lines)


def _indent(group: list[str] | msgspec.UnsetType) -> str:
    return _INSIDE * len(group) if group else ""


def _field(value: str | float) -> str:
    """Write a field's value so that it is seen where it ends."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value).replace("\x1b", "␛")
    return text if text and not any(c.isspace() or c in "\"'=" for c in text) else json.dumps(text, ensure_ascii=False)


def _final(event: AnyEvent) -> JobEvent | None:
    return event if isinstance(event, JobEvent) and event.state in FINAL_JOB_STATES else None


def styled_state(state: JobState) -> str:
    mark, colour = _STATE_MARKS[state]
    return click.style(f"{mark} {state}", fg=colour)
