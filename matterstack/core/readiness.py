"""Which tasks may start now, and which never will.

A pure function of the states upstream: no clock, no files, no ledger. `step`, `step --dry-run` and `explain` all
ask here, so they cannot disagree.

A PENDING task *watches* one unsettled task upstream and is looked at again when that one settles: of a fan-in over
thousands of tasks only a few settlings lead to a look at all of them. A failure for good is looked at everywhere
below at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matterstack.core.model import DependencyRule, TaskChange
from matterstack.core.states import TaskState


@dataclass(frozen=True)
class Upstream:
    """The states of one task, or of all tasks of a group, that something waits for."""

    name: str
    total: int
    completed: int = 0
    skipped: int = 0
    soft_failed: int = 0
    bad: int = 0  # FAILED for good and not softly, BLOCKED, CANCELLED
    unsettled: int = 0
    watch: str | None = None  # an unsettled task, the last in the order of the file
    culprit: str | None = None  # the first bad or softly failed task
    culprit_state: TaskState | None = None
    cause: str | None = None  # the task at the root of the culprit's state

    @classmethod
    def of_task(cls, task_id: str, state: TaskState, *, soft: bool, cause: str | None) -> Upstream:
        """Give the view of a single task; ``cause`` is its own root cause, None where it is the root."""
        failed = state is TaskState.FAILED
        bad = state in (TaskState.BLOCKED, TaskState.CANCELLED) or (failed and not soft)
        troubled = bad or failed
        return cls(
            name=task_id,
            total=1,
            completed=int(state is TaskState.COMPLETED),
            skipped=int(state is TaskState.SKIPPED),
            soft_failed=int(failed and soft),
            bad=int(bad),
            unsettled=int(not state.is_settled),
            watch=None if state.is_settled else task_id,
            culprit=task_id if troubled else None,
            culprit_state=state if troubled else None,
            cause=(cause or task_id) if troubled or state is TaskState.SKIPPED else None,
        )


@dataclass(frozen=True)
class WaitingTask:
    """A PENDING task with the rules that its own keys set."""

    task_id: str
    rule: DependencyRule | None
    allow_skipped: bool
    entries: tuple[tuple[str, str], ...]  # (entry, name of the upstream)
    named: frozenset[str] = frozenset()  # the upstream tasks that its `when` names: they settle first
    condition: bool | None = True  # of `when`, once those have settled; None if it cannot be evaluated
    condition_text: str = ""


def settle(tasks: Iterable[WaitingTask], upstreams: Mapping[str, Upstream]) -> list[TaskChange]:
    """Decide each task: READY, BLOCKED or SKIPPED, or PENDING with the task to watch."""
    from matterstack.core.graph import neighbourhood

    waiting = {task.task_id: task for task in tasks}
    graph = neighbourhood({task.task_id: task.entries for task in waiting.values()})
    changes = []
    for task_id, task in waiting.items():
        groups: dict[str, list[Upstream]] = {}
        for name, _, entry in graph.in_edges(task_id, keys=True):
            groups.setdefault(entry, []).append(upstreams[name])
        unique = {name: upstreams[name] for name in graph.pred[task_id]}
        changes.append(_decide(task, groups, list(unique.values())))
    return changes


def _decide(task: WaitingTask, groups: Mapping[str, list[Upstream]], unique: list[Upstream]) -> TaskChange:
    # A condition that is false wins over a failed input, whichever came first: so nothing else is decided before it.
    for upstream in unique:
        if upstream.name in task.named and upstream.unsettled:
            return TaskChange(task.task_id, TaskState.PENDING, watch=upstream.watch)
    if task.condition is False:
        return TaskChange(task.task_id, TaskState.SKIPPED, f"when: {task.condition_text} is false")
    if task.rule is None:
        for upstream in unique:
            if upstream.bad:
                return _because(task, TaskState.BLOCKED, upstream)
    unsettled = [upstream for upstream in unique if upstream.unsettled]
    if unsettled:
        return TaskChange(task.task_id, TaskState.PENDING, watch=unsettled[-1].watch)
    if task.rule is None:
        for upstream in unique:
            if upstream.soft_failed:
                return _because(task, TaskState.SKIPPED, upstream)
    if not task.allow_skipped:
        for entry, members in groups.items():
            if all(member.skipped == member.total for member in members):
                reason = f"all of {entry} ({members[0].name}{', …' if len(members) > 1 else ''}) was skipped"
                return TaskChange(task.task_id, TaskState.SKIPPED, reason, cause=members[0].cause)
    if task.rule is not None:
        counted = {
            upstream.name: upstream
            for entry, members in groups.items()
            if not entry.startswith(("response.", "metrics."))
            for upstream in members
        }
        short = _too_few(task.rule, list(counted.values()))
        if short:
            culprit = next((upstream for upstream in unique if upstream.culprit), None)
            return TaskChange(task.task_id, TaskState.BLOCKED, short, cause=culprit.cause if culprit else None)
    return TaskChange(task.task_id, TaskState.READY)


_VERB = {TaskState.FAILED: "failed", TaskState.BLOCKED: "is blocked", TaskState.CANCELLED: "was cancelled"}


def _because(task: WaitingTask, state: TaskState, upstream: Upstream) -> TaskChange:
    assert upstream.culprit is not None and upstream.culprit_state is not None
    verb = _VERB[upstream.culprit_state]
    softly = ", which is allowed" if state is TaskState.SKIPPED else ""
    return TaskChange(task.task_id, state, f"{upstream.culprit} {verb}{softly}", cause=upstream.cause)


def _too_few(rule: DependencyRule, upstreams: list[Upstream]) -> str:
    completed = sum(upstream.completed for upstream in upstreams)
    counted = sum(upstream.total - upstream.skipped for upstream in upstreams)
    if rule.min_count is not None and completed < rule.min_count:
        return f"{completed} of {counted} completed upstream, at least {rule.min_count} needed"
    if rule.min_percent is not None and completed * 100 < rule.min_percent * counted:
        return f"{completed} of {counted} completed upstream, at least {rule.min_percent:g}% needed"
    return ""
