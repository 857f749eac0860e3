"""Readiness applied to the ledger: what settles decides what stands below it, round by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from matterstack.core.model import TaskChange
from matterstack.core.states import TaskState
from matterstack.storage.state_store import SQLiteStateStore, TaskRow

if TYPE_CHECKING:
    from matterstack.core.readiness import Upstream, WaitingTask


def settle_frontier(
    store: SQLiteStateStore, made: Iterable[TaskChange], now: float, *, unresolved: bool = True
) -> list[TaskChange]:
    """Decide, in the open transaction, the tasks that changes upstream concern; give all changes of tasks.

    Looks at tasks nobody has looked at, at those that watch a settled task, and at all directly below a failure
    for good. What is decided may settle again, until nothing is left. Without ``unresolved``, for commands of people,
    tasks that nobody has looked at are left to the next step.
    """
    changes = list(made)
    candidates = (set(store.unresolved()) if unresolved else set()) | _concerned(store, changes)
    while candidates:
        decided = _decide(store, candidates, now)
        changes += decided
        candidates = _concerned(store, decided)
    return changes


def _concerned(store: SQLiteStateStore, changes: Iterable[TaskChange]) -> set[str]:
    settled = [change for change in changes if change.state.is_settled]
    if not settled:
        return set()
    bad = [
        change.task_id
        for change in settled
        if change.state in (TaskState.BLOCKED, TaskState.CANCELLED)
        or (change.state is TaskState.FAILED and not change.soft)
    ]
    below = store.successors(bad) if bad else []
    return set(store.watchers(change.task_id for change in settled)).union(below)


def _decide(store: SQLiteStateStore, task_ids: set[str], now: float) -> list[TaskChange]:
    from matterstack.core.readiness import settle

    rows = [row for row in store.tasks(task_ids) if row.state is TaskState.PENDING and row.retry_at is None]
    entries = store.entries(row.task_id for row in rows)
    upstreams = store.upstreams(name for pairs in entries.values() for _, name in pairs)
    waiting = [waiting_task(store, row, entries[row.task_id], upstreams) for row in rows]
    return store.apply([(None, change) for change in settle(waiting, upstreams)], now)


def waiting_task(
    store: SQLiteStateStore, row: TaskRow, entries: Iterable[tuple[str, str]], upstreams: Mapping[str, Upstream]
) -> WaitingTask:
    """Give a PENDING task as readiness looks at it, its condition evaluated if all that it names has settled."""
    from matterstack.core.readiness import WaitingTask

    campaign = store.campaign(row.campaign_version)
    spec = campaign.tasks[row.group]
    task = WaitingTask(row.task_id, spec.allow_dependency_failure, spec.allow_skipped, tuple(entries))
    if "when" not in spec.people:
        return task
    from matterstack.template.attempt import RunFacts, condition_names, meets_condition

    names = condition_names(spec)
    named = frozenset(upstream for entry, upstream in task.entries if entry in names)
    condition = None
    if not any(upstreams[name].unsettled for name in named):
        run = store.run()
        late, _ = store.late_values(row.task_id)
        instance = store.instance(row.task_id)
        condition = meets_condition(campaign, instance, row.attempts + 1, RunFacts(run.run_id, run.name), late)
    return replace(task, named=named, condition=condition, condition_text=str(spec.people["when"]))
