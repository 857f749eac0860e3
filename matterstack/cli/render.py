"""Text for people: aligned tables, states in colour on a terminal, control characters made harmless."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matterstack.core.states import RunState, TaskState
from matterstack.core.values import as_text, dump_json, dump_json_lines

if TYPE_CHECKING:
    from matterstack.views.failures import FailureGroup

_COLOURS: dict[str, str] = {
    TaskState.COMPLETED: "green", TaskState.FAILED: "red", TaskState.BLOCKED: "magenta", TaskState.CANCELLED: "magenta",
    TaskState.RUNNING: "cyan", TaskState.SUBMITTED: "cyan", TaskState.WAITING: "yellow", TaskState.SKIPPED: "yellow",
    RunState.PAUSED: "yellow",
}  # fmt: skip
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def coloured(state: str) -> str:
    """Return a state with its colour; click removes it unless the output is a terminal."""
    colour = _COLOURS.get(state) if wants_colour() else None
    return click.style(state, fg=colour) if colour else str(state)


def wants_colour() -> bool:
    """Return whether colours may be used. Source: no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def harmless(text: str) -> str:
    """Remove what could move a terminal's cursor, change its title or worse; newlines and tabs stay."""
    return _CONTROL.sub("", text)


def print_json(value: Any) -> None:
    sys.stdout.write(dump_json_lines(value))


def stream_graph(nodes: Iterable[str], edges: Iterable[tuple[str, str]]) -> None:
    """Print `{"nodes": [id], "edges": [[from, to]]}`; the edges are not held, there may be millions."""
    write = sys.stdout.write
    write('{"nodes": [')
    write(", ".join(json.dumps(node, ensure_ascii=False) for node in nodes))
    write('],\n "edges": [')
    separator = ""
    for edge in edges:
        write(separator + json.dumps(edge, ensure_ascii=False))
        separator = ",\n  "
    write("]}\n")


_FILL = {"green": "palegreen", "red": "salmon", "magenta": "plum", "cyan": "lightcyan", "yellow": "khaki"}


def dot(
    name: str,
    nodes: Mapping[str, tuple[str, str]],
    members: Mapping[str, Sequence[str]],
    edges: Iterable[tuple[str, str]],
    notes: Mapping[str, str],
) -> None:
    """Print a graph for Graphviz. ``nodes`` maps ids to (group, state or ""), ``members`` groups to ids.

    ``notes`` are shown beside the ids of what stands for instances that are not known yet.

    Source: graphviz.org, "DOT Language".
    """

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    write = sys.stdout.write
    write(f"digraph {quoted(name)} {{\n  rankdir=LR;\n  node [shape=box, style=filled, fillcolor=white];\n")
    for number, (group, ids) in enumerate(members.items()):
        in_cluster = ids != [group]
        if in_cluster:
            write(f"  subgraph cluster_{number} {{\n    label={quoted(group)};\n")
        for task_id in ids:
            state = nodes[task_id][1]
            fill = _FILL.get(_COLOURS.get(state, ""), "white")
            given = [f"fillcolor={fill}", f"tooltip={quoted(state)}"] if state else []
            if task_id in notes:
                given += [f"label={quoted(f'{task_id} ({notes[task_id]})')}", 'style="filled,dashed"']
            attributes = f" [{', '.join(given)}]" if given else ""
            write(f"  {'  ' if in_cluster else ''}{quoted(task_id)}{attributes};\n")
        if in_cluster:
            write("  }\n")
    for upstream, downstream in edges:
        write(f"  {quoted(upstream)} -> {quoted(downstream)};\n")
    write("}\n")


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes, without its colours."""
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    from rich.cells import cell_len  # only for letters that may be two columns wide

    return cell_len(plain)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Align columns; ``right`` names those that are numbers."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(_width(line[index]) for line in lines) for index in range(len(header))]
    numbers = set(right)
    out = []
    for line in lines:
        cells = []
        for index, cell in enumerate(line):
            space = " " * (widths[index] - _width(cell))
            cells.append(space + cell if index in numbers else cell + space)
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


_WIDEST = 100  # characters of a cell; --json and --csv have all of it


def cell(value: Any) -> str:
    """Print a value for a table."""
    if value is None:
        return ""
    if isinstance(value, float) and len(str(value)) > 10:
        return f"{float(value):.6g}"
    try:
        text = harmless(as_text(value)).replace("\n", " ").replace("\t", " ")
    except ValueError:
        text = harmless(dump_json(value))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def counts_text(counts: Any) -> str:
    """Return `40 COMPLETED, 2 RUNNING`."""
    return ", ".join(f"{count} {coloured(str(state))}" for state, count in counts.items() if count)


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


_FLOOR = 12 * 2**20  # a command's peak begins at that of the slot worker which started it


def peak_text(size: int | None) -> str:
    """Print the peak memory of a process for a person."""
    return f"< {_FLOOR // 2**20}M" if size is not None and size < _FLOOR else memory_text(size)


def memory_text(size: int | None) -> str:
    """Print a size in bytes for a person: `512K`, `1.5G`."""
    if size is None:
        return ""
    for unit, scale in (("G", 2**30), ("M", 2**20)):
        if size >= scale:
            return f"{size / scale:.3g}{unit}"
    return f"{size // 1024}K"


_LONGEST_LINE = 200  # columns of what a task printed
_MOST_NAMES = 3


def failure_lines(root: Path, group: FailureGroup) -> Iterable[str]:
    """Yield failures of one cause for a terminal: which and why, where to look, and what runs exactly these again."""
    names = ", ".join(group.tasks[:_MOST_NAMES])
    more = len(group.tasks) - _MOST_NAMES
    which = f"{names} and {more} more" if more > 0 else names
    yield harmless(f"{which}: {group.text[:_LONGEST_LINE]}")
    if group.path:
        yield harmless(f"    {root / group.path}")
    if not group.soft and len(group.tasks) > 1:
        yield f"    {group.rerun(root).command}"
