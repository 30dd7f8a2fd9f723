"""Durations on the command line, written as in a pipeline file."""

from __future__ import annotations

import click

from schema import times


class Duration(click.ParamType[float]):
    """Reads ``90s``, ``10m``, ``1h30m`` or plain seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value) if isinstance(value, str) and value.replace(".", "", 1).isdigit() else value
            return times.duration_seconds(number)
        except ValueError as error:
            self.fail(str(error), param, ctx)
