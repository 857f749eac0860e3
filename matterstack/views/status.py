"""A run at one moment, as values: its state, its counts, its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.core.board import state_of_run
from matterstack.core.recorded import RunRow, TaskRow
from matterstack.core.states import RunState, TaskState
from matterstack.core.times import to_text
from matterstack.deferred import dataclass
from matterstack.text.reasons import sentence
from matterstack.views.reading import reading


@dataclass(frozen=True)
class TaskView:
    """A task as people see it: a pause or a retry's delay shows as PENDING."""

    task_id: str
    group: str
    state: TaskState
    operator: str
    attempts: int
    reason: str
    soft: bool
    stale: bool = False  # COMPLETED, of older results than there are


@dataclass(frozen=True)
class RunView:
    """A run at one moment."""

    root: Path
    run_id: str
    name: str
    state: RunState
    counts: Mapping[TaskState, int]
    tasks: tuple[TaskView, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form of `status --json` (docs/json.md)."""
        return {
            "run": {"id": self.run_id, "name": self.name, "state": str(self.state), "root": str(self.root)},
            "counts": {str(state): count for state, count in self.counts.items() if count},
            "tasks": [
                {
                    "id": task.task_id, "state": str(task.state), "operator": task.operator,
                    "attempts": task.attempts, "reason": f"stale: {task.reason}" if task.stale else task.reason,
                }
                for task in self.tasks
            ],
        }  # fmt: skip


def open_run(root: str | Path) -> RunView:
    """Read a run root. Raises UsageError if it is not one, LedgerError for a ledger that is refused."""
    with reading(root) as (path, store):
        run = store.run()
        stale = store.stale()
        tasks = tuple(view_of(path, run, row, stale) for row in store.tasks())
        counts: dict[TaskState, int] = {}
        for task in tasks:
            counts[task.state] = counts.get(task.state, 0) + 1
        ordered = {state: counts[state] for state in TaskState if state in counts}
        return RunView(path, run.run_id, run.name, state_of_run(run, store.buckets()), ordered, tasks)


def view_of(root: Path, run: RunRow, row: TaskRow, stale: Mapping[str, str]) -> TaskView:
    state, why, is_stale = row.state, sentence(row.reason, root), False
    if state in (TaskState.READY, TaskState.PENDING) and (run.paused or row.paused):
        state, why = TaskState.PENDING, "paused"
    elif state is TaskState.PENDING and row.retry_at is not None:
        why = f"{why}; due {to_text(row.retry_at)[:19].replace('T', ' ')} UTC"
    elif state is TaskState.PENDING and row.watch is not None:
        why = f"waits for {row.watch}"
    elif row.task_id in stale:
        why, is_stale = stale[row.task_id], True
    return TaskView(row.task_id, row.group, state, row.operator, row.attempts, why, row.soft, is_stale)
