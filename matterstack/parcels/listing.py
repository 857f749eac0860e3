"""The parcels of a run, and where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from matterstack.core.recorded import AttemptRow
from matterstack.operators.answers import decode
from matterstack.views.reading import reading


def list_parcels(root: str | Path) -> list[dict[str, Any]]:
    """Return the parcels of a run, oldest first: id, by, at, file, and its tasks with their states."""
    with reading(root) as (_, store):
        states = {row.task_id: row for row in store.tasks(retired=True)}
        found: dict[str, dict[str, Any]] = {}
        for row in store.parcelled():
            for parcel in _parcels_of(row):
                item = found.setdefault(parcel["id"], {**parcel, "tasks": []})
                back = "returned_at" in decode(row.handle)
                state = "back" if back and row.state.is_live else str(row.state).lower()
                item["tasks"].append({"task": row.task_id, "attempt": row.attempt, "state": state})
        order = {task_id: row.position for task_id, row in states.items()}
        for item in found.values():
            item["tasks"].sort(key=lambda task: (order[task["task"]], task["attempt"]))
        return sorted(found.values(), key=lambda item: str(item["at"]))


def _parcels_of(row: AttemptRow) -> Iterator[dict[str, Any]]:
    listed: Iterable[Any] = decode(row.handle).get("parcels", ())
    for item in listed:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            yield {key: item.get(key) for key in ("id", "by", "at", "file")}
