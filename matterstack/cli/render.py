"""Text for people: aligned tables, states in colour on a terminal, control characters made harmless."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from matterstack.core.states import RunState, TaskState
from matterstack.core.values import as_text, dump_json_lines

_COLOURS: dict[str, str] = {
    TaskState.COMPLETED: "green", TaskState.FAILED: "red", TaskState.BLOCKED: "magenta", TaskState.CANCELLED: "magenta",
    TaskState.RUNNING: "cyan", TaskState.SUBMITTED: "cyan", TaskState.WAITING: "yellow", TaskState.SKIPPED: "yellow",
    RunState.PAUSED: "yellow",
}  # fmt: skip
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def coloured(state: str) -> str:
    """Give a state with its colour; click drops it where the output is no terminal."""
    colour = _COLOURS.get(state)
    return click.style(state, fg=colour) if colour else str(state)


def harmless(text: str) -> str:
    """Remove what could move a terminal's cursor, change its title or worse; newlines and tabs stay."""
    return _CONTROL.sub("", text)


def print_json(value: Any) -> None:
    sys.stdout.write(dump_json_lines(value))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Align columns; ``right`` names those that are numbers."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(click.unstyle(line[index])) for line in lines) for index in range(len(header))]
    numbers = set(right)
    out = []
    for line in lines:
        cells = []
        for index, cell in enumerate(line):
            space = " " * (widths[index] - len(click.unstyle(cell)))
            cells.append(space + cell if index in numbers else cell + space)
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def cell(value: Any) -> str:
    """Print a value for a table."""
    if value is None:
        return ""
    if isinstance(value, float) and len(str(value)) > 10:
        return f"{float(value):.6g}"
    try:
        return harmless(as_text(value)).replace("\n", " ").replace("\t", " ")
    except ValueError:
        return harmless(dump_json_lines(value)).replace("\n", " ")


def counts_text(counts: Any) -> str:
    """Give `40 COMPLETED, 2 RUNNING`."""
    return ", ".join(f"{count} {coloured(str(state))}" for state, count in counts.items() if count)


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
