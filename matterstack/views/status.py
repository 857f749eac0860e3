"""A run at one moment, as values: its state, its counts, its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.board import state_of_run
from matterstack.core.reasons import Reason
from matterstack.core.recorded import RunRow, TaskRow
from matterstack.core.states import RunState, TaskState
from matterstack.core.times import to_text
from matterstack.deferred import dataclass
from matterstack.text.reasons import sentence
from matterstack.views.failures import FailureGroup, groups_of
from matterstack.views.plans import in_words, open_plans
from matterstack.views.reading import as_of, reading


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
    stale: str = ""  # why, if it went by older results than there are

    @property
    def remark(self) -> str:
        """What there is to say of it in one line."""
        if not self.stale:
            return self.reason
        return f"stale: {self.stale}" if self.state is TaskState.COMPLETED else f"{self.reason}; stale: {self.stale}"


@dataclass(frozen=True)
class RunView:
    """A run at one moment."""

    root: Path
    run_id: str
    name: str
    state: RunState
    counts: Mapping[TaskState, int]
    tasks: tuple[TaskView, ...]
    as_of: float | None = None  # of a copy, whose events end there

    def to_json(self) -> dict[str, Any]:
        """Return the form of `status --json` (docs/json.md)."""
        return {
            "run": {
                "id": self.run_id, "name": self.name, "state": str(self.state), "root": str(self.root),
                **({"as_of": to_text(self.as_of)} if self.as_of is not None else {}),
            },
            "counts": {str(state): count for state, count in self.counts.items() if count},
            "tasks": [
                {
                    "id": task.task_id, "state": str(task.state), "operator": task.operator,
                    "attempts": task.attempts, "reason": task.remark,
                }
                for task in self.tasks
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class RunSummary:
    """A run in sum; it is read without looking at each task."""

    root: Path
    run_id: str
    state: RunState
    counts: Mapping[TaskState, int]
    groups: Mapping[str, Mapping[TaskState, int]]  # in the order of the file
    told: tuple[TaskView, ...]  # the first that failed, or whose result is stale
    more: int  # of these
    stale: int
    paused: tuple[str, ...]  # tasks, by themselves
    description: str
    created_at: str
    last_at: float  # of the newest event, POSIX seconds
    as_of: float | None  # of a copy, whose events end there
    failures: tuple[FailureGroup, ...]  # the first
    limit: Reason  # of the run, that paused it
    plans: Mapping[str, str]  # loops, and groups that are not known yet -> what is to be said of them


def summarise(root: str | Path, most: int) -> RunSummary:
    """Read a run in sum, with at most ``most`` tasks to be told of. Raises what `open_run` raises."""
    with reading(root) as (path, store):
        run, groups = store.run(), dict[str, dict[TaskState, int]]()
        for group, state, paused, count in store.groups():
            shown = TaskState.PENDING if state is TaskState.READY and (run.paused or paused) else state
            counts = groups.setdefault(group, {})
            counts[shown] = counts.get(shown, 0) + count
        total = {state: sum(counts.get(state, 0) for counts in groups.values()) for state in TaskState}
        plans = open_plans(store)
        groups = _with_loops(groups, [row.task_id for row in plans if row.plan == "loop"])
        stale = store.stale()
        old = store.tasks(stale)
        failed = store.first_in(TaskState.FAILED, most if total[TaskState.FAILED] else 0)
        others = [row for row in old if row.state is not TaskState.FAILED]
        first = sorted([*failed, *others], key=lambda row: row.position)[:most]
        return RunSummary(
            path, run.run_id, state_of_run(run, store.buckets()), {state: n for state, n in total.items() if n}, groups,
            tuple(view_of(path, run, row, stale) for row in first),
            max(0, total[TaskState.FAILED] + len(others) - len(first)),
            sum(row.state is not TaskState.WAITING for row in old), tuple(store.paused_tasks()),
            store.newest_campaign().description, run.created_at, store.last_event_at(), as_of(path, store),
            tuple(groups_of(path, store, [row for row in first if row.state is TaskState.FAILED])), run.pause_reason,
            {row.task_id: in_words(store, row) for row in plans},
        )  # fmt: skip


def _with_loops(groups: dict[str, dict[TaskState, int]], loops: Sequence[str]) -> dict[str, dict[TaskState, int]]:
    """Return groups in which those of all rounds of a loop are one, in its place."""
    if not loops:
        return groups
    out: dict[str, dict[TaskState, int]] = {}
    rows = {loop: loop.partition("/")[0] for loop in loops}
    for group, counts in groups.items():
        loop = next((loop for loop in loops if group.startswith(f"{loop}/")), None)
        if group in rows.values() and group not in out:
            out |= {loop: {} for loop, name in rows.items() if name == group}
            continue
        found = out.setdefault(loop or group, {})
        for state, count in counts.items():
            found[state] = found.get(state, 0) + count
    return out


def open_run(root: str | Path) -> RunView:
    """Read a run root. Raises UsageError if it is not one, LedgerError for a ledger that is refused."""
    with reading(root) as (path, store):
        run = store.run()
        stale = store.stale()
        said = {row.task_id: in_words(store, row) for row in open_plans(store)}
        tasks = tuple(view_of(path, run, row, stale, said) for row in store.tasks())
        counts: dict[TaskState, int] = {}
        for task in tasks:
            counts[task.state] = counts.get(task.state, 0) + 1
        ordered = {state: counts[state] for state in TaskState if state in counts}
        return RunView(
            path, run.run_id, run.name, state_of_run(run, store.buckets()), ordered, tasks, as_of(path, store)
        )


def view_of(
    root: Path, run: RunRow, row: TaskRow, stale: Mapping[str, str], said: Mapping[str, str] | None = None
) -> TaskView:
    state, why = row.state, sentence(row.reason, root)
    if state in (TaskState.READY, TaskState.PENDING) and (run.paused or row.paused):
        state, why = TaskState.PENDING, "paused"
    elif state is TaskState.PENDING and row.retry_at is not None:
        why = f"{why}; due {to_text(row.retry_at)[:19].replace('T', ' ')} UTC"
    elif said is not None and row.task_id in said:
        why = said[row.task_id]
    elif state is TaskState.PENDING and row.watch is not None:
        why = f"waits for {row.watch}"
    return TaskView(
        row.task_id, row.group, state, row.operator, row.attempts, why, row.soft, stale.get(row.task_id, "")
    )
