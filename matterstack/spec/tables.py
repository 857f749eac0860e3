"""Rows of a `matrix.table`: CSV, TSV, JSON or YAML."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.core.values import resolve_scalar
from matterstack.errors import CampaignError, Problem
from matterstack.spec.loader import Seq, load_document, plain, read_text

MOST_ROWS = 250_000
_MOST_COLUMNS = 2000
KINDS_OF_TABLES = (".csv", ".tsv", ".json", ".yaml", ".yml")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHERS = (";", "\t", "|")  # that programs write in place of a comma
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?\Z")


def read_table(path: Path, shown: str, *, may_be_empty: bool = False) -> list[dict[str, Any]]:
    """Return the rows of a table, each {column: value}, with the columns in their order.

    Cells of CSV and TSV follow the rule for scalars of a campaign file; an empty one is "". Raises CampaignError
    for a file that cannot be read, an empty table unless it ``may_be_empty``, and rows that do not fit the header.
    """
    rows = _read(path, shown)
    if not rows and not may_be_empty:
        raise _refuse(shown, 0, "has no rows")
    return rows


def _read(path: Path, shown: str) -> list[dict[str, Any]]:
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter:
        return _read_delimited(path, shown, delimiter)
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise _refuse(shown, 0, f"'{path.suffix}' is not a kind of table (.csv, .tsv, .json, .yaml)")
    document = load_document(path, shown)
    if not isinstance(document.root, Seq) or not all(isinstance(row, Mapping) for row in document.root):
        raise _refuse(shown, document.at[0], "is not a table: expected a list of rows (mappings)")
    rows: list[dict[str, Any]] = plain(document.root)
    for index, row in enumerate(rows):
        if list(row) != list(rows[0]) and set(row) != set(rows[0]):
            line = document.root.items_at[index][0]
            raise _refuse(shown, line, f"row {index + 1} has other columns ({', '.join(row)}) than the first")
    return rows


def _read_delimited(path: Path, shown: str, delimiter: str) -> list[dict[str, Any]]:
    # Not splitlines(): it would also cut at characters that a cell may hold.
    reader = csv.reader(io.StringIO(read_text(path, shown), newline=""), delimiter=delimiter, strict=True)
    rows: list[dict[str, Any]] = []
    try:
        header = next(reader, None)
        if not header:
            raise _refuse(shown, 1, "has no header line")
        if len(header) > _MOST_COLUMNS:
            raise _refuse(shown, 1, f"has {len(header)} columns; a table may have {_MOST_COLUMNS}")
        other = next((sign for sign in _OTHERS if len(header) == 1 and header[0].count(sign)), None)
        if other is not None and path.suffix.lower() == ".csv":
            cure = "name it .tsv" if other == "\t" else f"export it with commas, or: tr '{other}' , < {path.name}"
            what = "a tab" if other == "\t" else f"'{other}'"
            raise _refuse(shown, 1, f"has one column, '{header[0][:60]}': its cells are separated by {what} ({cure})")
        double = next((name for name, count in Counter(header).items() if count > 1), None)
        if double is not None or "" in header:
            what = f"two columns '{double}'" if double else "a column without a name"
            raise _refuse(shown, 1, f"has {what}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise _refuse(
                    shown,
                    reader.line_num,
                    f"has {len(cells)} cell{'' if len(cells) == 1 else 's'}, the header {len(header)} columns",
                )
            if len(rows) == MOST_ROWS:
                raise _refuse(
                    shown, reader.line_num, f"has more than {MOST_ROWS} rows, the most instances of a campaign"
                )
            rows.append({name: _cell(cell, shown, reader.line_num) for name, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        raise _refuse(shown, reader.line_num, f"is not {path.suffix[1:].upper()}: {error}") from None
    return rows


def _cell(text: str, shown: str, line: int) -> Any:
    if text == "":
        return ""
    try:
        value = resolve_scalar(text)
    except ValueError as error:
        raise _refuse(shown, line, str(error)) from None
    return text if value is None else value


def decimal_commas(rows: list[dict[str, Any]]) -> str:
    """Return which column holds numbers with a decimal comma, which are texts here; "" if none does."""
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        if all(isinstance(value, str) and _DECIMAL_COMMA.match(value) for value in values):
            return f"column '{name}' holds '{values[0]}', which is text: decimals are written with a point"
    return ""


def _refuse(shown: str, line: int, message: str) -> CampaignError:
    return CampaignError([Problem(shown, line, 1 if line else 0, "", message)])
