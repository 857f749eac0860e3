"""Results of tasks as CSV: for people who ask for it, and for tasks that read the results of a group."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matterstack.core.values import as_text, dump_json

KINDS = ("matrix", "metrics", "response")


def with_columns(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows whose answers have columns: an answer may be any JSON."""
    return [
        dict(row) if isinstance(row["response"], Mapping) else {**row, "response": {"data": row["response"]}}
        for row in rows
    ]


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the columns of each kind, in the order in which they appear."""
    return {kind: list(dict.fromkeys(name for row in rows for name in row[kind])) for kind in KINDS}


def csv_text(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Sequence[str]],
    shown: Callable[[str], str] = lambda text: text,
) -> str:
    """Return CSV with the columns task, state, attempt, then `matrix.NAME`, `metrics.NAME`, `response.NAME`."""

    def plain(value: Any) -> str:
        if value is None:
            return ""
        try:
            return shown(as_text(value))
        except ValueError:
            return shown(dump_json(value))

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "state", "attempt", *(f"{kind}.{name}" for kind in columns for name in columns[kind])])
    for row in rows:
        values = [row[kind].get(name) for kind in columns for name in columns[kind]]
        writer.writerow([row["task"], row["state"], plain(row["attempt"]), *map(plain, values)])
    return file.getvalue()
