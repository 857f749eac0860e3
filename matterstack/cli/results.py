"""results."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from matterstack.cli.options import common, echo_remark, json_option, run_argument, tell
from matterstack.errors import ExitCode, UsageError
from matterstack.hints import Hint

_MOST_REMARKS = 20  # on stale results
_USAGE = ("cpu_s", "max_rss", "read", "written")


@click.command()
@run_argument
@click.option("--task", "patterns", multiple=True, metavar="GLOB", help="Only these tasks (may be repeated).")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--usage", is_flag=True, help="With columns of what each used: seconds of cpu, peak memory, bytes.")
@click.option(
    "--copy", "target", metavar="DIR", help="Write the results as files into a new folder, with a table of origins."
)
@json_option
@common
def results(run: str, patterns: tuple[str, ...], as_csv: bool, usage: bool, target: str | None, as_json: bool) -> int:
    """Print one table of all tasks: matrix values, state, attempt, metrics."""
    if target is not None:
        return _copy(run, Path(target), patterns)
    from matterstack.cli.render import cell, print_json
    from matterstack.text.table import columns_of, csv_text, with_columns
    from matterstack.views.results import results as read_results

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other")
    rows = read_results(run, patterns, usage=usage)
    remarks = [f"{row['task']}: {row['remark']}" for row in rows if row.get("remark")]
    remarks += [f"{row['task']}: stale: {row['stale']}" for row in rows if row.get("stale")][:_MOST_REMARKS]
    if as_json:
        print_json(rows)
        return ExitCode.FINE
    rows = with_columns(rows)
    columns = columns_of(rows)
    if usage:
        columns["usage"] = list(_USAGE)
    if as_csv:
        # On a terminal a value could move the cursor; a pipe gets it as it is.
        click.echo(csv_text(rows, columns, cell if sys.stdout.isatty() else str), nl=False)
        for remark in remarks:
            echo_remark(remark)
        return ExitCode.FINE
    for index, part in enumerate(_tables(rows)):
        if index:
            click.echo()
        _print_table(part)
    for remark in remarks:
        echo_remark(remark)
    return ExitCode.FINE


def _tables(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows as one table, or as one for each group if those have other columns."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["task"].partition("/")[0], []).append(row)
    shapes = {
        tuple(tuple(_columns(row[kind] for row in part)) for kind in ("matrix", "metrics", "response"))
        for part in groups.values()
    }
    shapes.discard(((), (), ()))  # those without any fit everywhere
    return [rows] if len(shapes) <= 1 else list(groups.values())


def _print_table(rows: list[dict[str, Any]]) -> None:
    from matterstack.cli.render import cell, coloured, table
    from matterstack.text.table import columns_of

    columns = columns_of(rows)
    if any("usage" in row for row in rows):
        columns["usage"] = list(_USAGE)
    header = ["task", "state", "attempt", *(cell(name) for kind in columns for name in columns[kind])]
    lines = [
        [
            row["task"], coloured(row["state"]), cell(row["attempt"]),
            *(cell(row[kind].get(name)) for kind in columns for name in columns[kind]),
        ]
        for row in rows
    ]  # fmt: skip
    numeric = [i for i in range(2, len(header)) if all(_is_number(line[i]) for line in lines)]
    click.echo(table(header, lines, right=numeric))


def _copy(run: str, target: Path, patterns: tuple[str, ...]) -> int:
    from matterstack.cli.render import memory_text, plural
    from matterstack.views.copies import copy_results

    done = copy_results(run, target, patterns)
    size = memory_text(done.size) if done.size >= 1024 else plural(done.size, "byte")
    click.echo(f"{target}: {plural(done.files, 'file')}, {size}; {target / done.table} says where each comes from")
    if done.stale:
        echo_remark(f"warning: {plural(done.stale, 'file')} from results that are stale; {done.table} says which")
    for path in done.changed:
        tell(
            f"warning: {path} was changed after the task had written it; {Hint('doctor', run, rest='--digests')} compares it "
            "with what was recorded",
            "warning",
        )
    for path in done.left_out:
        tell(f"warning: {path} was not copied: a link out of its folder, or not a regular file", "warning")
    for path in done.missing:
        tell(f"warning: {path} is missing: it was not copied", "warning")
    return ExitCode.COULD_NOT_WORK if done.missing else ExitCode.FINE


def _columns(mappings: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True
