"""Tables for people, and the same rows as JSON lines for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click
import msgspec

_WIDTH_UNLIMITED: Final = 100_000


def print_json(rows: Sequence[msgspec.Struct]) -> None:
    """Print one JSON object a line."""
    for row in rows:
        click.echo(msgspec.json.encode(row).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print a table, or on stderr the sentence that says why there is none."""
    if not rows:
        click.echo(empty, err=True)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text.from_ansi(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        # There is no width to keep to: a cell is never folded, so that rows stay lines.
        console = Console(width=_WIDTH_UNLIMITED)
    console.print(table)


def age(moment: str | None) -> str:
    """Write a time as people read it in a table: to the second, in UTC."""
    return "" if moment is None else moment[:19].replace("T", " ")
