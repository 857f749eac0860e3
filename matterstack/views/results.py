"""One row for each task: matrix values, metrics and answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matterstack.core.selection import select_tasks
from matterstack.text.reasons import sentence
from matterstack.views.reading import reading
from matterstack.views.status import view_of


def results(root: str | Path, patterns: Iterable[str] = (), *, usage: bool = False) -> list[dict[str, Any]]:
    """Return one row for each task: its matrix values, and metrics and response of its newest successful attempt.

    With ``usage`` also what that used, as in exit.json.
    """
    chosen_patterns = list(patterns)
    with reading(root) as (path, store):
        rows = store.tasks()
        if chosen_patterns:
            chosen = set(select_tasks([row.task_id for row in rows], chosen_patterns))
            rows = [row for row in rows if row.task_id in chosen]
        run, matrices, found = store.run(), store.matrices(), store.metrics()
        used = store.usage_of_results() if usage else {}
        noted, stale = set(store.noted()), store.stale()
        out = []
        for row in rows:
            attempt, metrics, response = found.get(row.task_id, (row.attempts or None, {}, {}))
            last = store.attempt(row.task_id, row.result or 0) if row.task_id in noted else None
            out.append(
                {
                    "task": row.task_id, "matrix": matrices[row.task_id], "state": str(view_of(path, run, row, {}).state),
                    "attempt": attempt, "metrics": metrics, "response": response,
                    **({"stale": stale[row.task_id]} if row.task_id in stale else {}),
                    **({"remark": sentence(last.reason, path)} if last is not None else {}),
                    **({"usage": used.get(row.task_id, {})} if usage else {}),
                }
            )  # fmt: skip
        return out
