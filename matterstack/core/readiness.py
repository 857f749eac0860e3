"""Which tasks may start now, and which never will.

A pure function of the states upstream: no clock, no files, no ledger. `step`, `step --dry-run` and `explain` all
ask here, so they cannot disagree.

A PENDING task *watches* one unsettled task upstream and is looked at again when that one settles: of a fan-in over
thousands of tasks only a few settlings lead to a look at all of them. A failure for good is looked at everywhere
below at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from matterstack.core.model import DependencyRule, Instance, TaskChange
from matterstack.core.reasons import Code, Reason, reason
from matterstack.core.states import TaskState
from matterstack.deferred import changed, dataclass


@dataclass(frozen=True)
class TaskStanding:
    """What readiness must know of a task upstream."""

    task_id: str
    position: int
    state: TaskState
    soft: bool
    cause: str | None


@dataclass(frozen=True)
class GroupSummary:
    """A group of tasks in sum; ``troubled`` and ``last`` leave out those that the reader was told to."""

    counts: Mapping[tuple[TaskState, bool], int]  # (state, soft) -> tasks
    troubled: TaskStanding | None = None  # the first that is bad, softly failed or skipped
    last: TaskStanding | None = None  # the last unsettled one, in the order of the file


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
    culprit: TaskStanding | None = None  # the first bad or softly failed task
    cause: str | None = None  # the task at the root of the culprit's state

    @classmethod
    def of(
        cls,
        name: str,
        counts: Mapping[tuple[TaskState, bool], int],
        troubled: TaskStanding | None,
        last: TaskStanding | None,
    ) -> Upstream:
        skipped = sum(count for (state, _), count in counts.items() if state is TaskState.SKIPPED)
        failed = troubled is not None and troubled.state is not TaskState.SKIPPED
        return cls(
            name=name,
            total=sum(counts.values()),
            completed=sum(count for (state, _), count in counts.items() if state is TaskState.COMPLETED),
            skipped=skipped,
            soft_failed=counts.get((TaskState.FAILED, True), 0),
            bad=sum(
                count
                for (state, soft), count in counts.items()
                if state in (TaskState.BLOCKED, TaskState.CANCELLED) or (state is TaskState.FAILED and not soft)
            ),
            unsettled=sum(count for (state, _), count in counts.items() if not state.is_settled),
            watch=last.task_id if last is not None else None,
            culprit=troubled if failed else None,
            cause=(troubled.cause or troubled.task_id) if troubled is not None else None,
        )

    @classmethod
    def of_task(cls, task: TaskStanding) -> Upstream:
        """Return the view of a single task."""
        troubled = task if is_troubled(task) else None
        last = None if task.state.is_settled else task
        return cls.of(task.task_id, {(task.state, task.soft): 1}, troubled, last)

    @classmethod
    def of_group(
        cls, name: str, summary: GroupSummary, instead: Sequence[tuple[TaskStanding, TaskStanding]]
    ) -> Upstream:
        """Return the view of a group in which some tasks have changed since the summary: (before, now) of each."""
        counts = dict(summary.counts)
        for before, now in instead:
            if before.state is not TaskState.RETIRED:  # those belong to no group
                counts[before.state, before.soft] -= 1
            if now.state is TaskState.RETIRED:
                continue
            counts[now.state, now.soft] = counts.get((now.state, now.soft), 0) + 1
        tasks = [task for task in (summary.troubled, summary.last, *(now for _, now in instead)) if task is not None]
        troubled = min(filter(is_troubled, tasks), key=rank_of_trouble, default=None)
        unsettled = (task for task in tasks if not task.state.is_settled)
        return cls.of(name, counts, troubled, max(unsettled, key=lambda task: task.position, default=None))


def is_troubled(task: TaskStanding) -> bool:
    """Return whether a task ended and did not complete."""
    return task.state.is_settled and task.state not in (TaskState.COMPLETED, TaskState.RETIRED)


def rank_of_trouble(task: TaskStanding) -> tuple[bool, bool, int]:
    """Return the order in which troubled tasks are named as the cause: bad ones, softly failed ones, skipped ones."""
    return task.state is TaskState.SKIPPED, task.soft, task.position


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
    allow_failure: bool = False
    round: int = 0  # of a loop: which it is in


def initial_changes(instances: Sequence[Instance], conditional: Collection[str]) -> Iterator[TaskChange]:
    """Yield the first state of each new task; ``conditional`` are the groups with a `when`, which the first step decides.

    A task without upstream is READY; any other watches the last task that it waits for, so that nothing has to be
    looked at before that one settles.
    """
    last: dict[str, int] = {}  # position of a task, or of the last one of a group
    for position, item in enumerate(instances):
        last[item.task_id] = last[item.group] = position
    for item in instances:
        watch = max((last[edge.upstream] for edge in item.edges), default=None)
        if item.group in conditional:
            yield TaskChange(item.task_id, TaskState.PENDING)
        elif watch is None:
            yield TaskChange(item.task_id, TaskState.READY)
        else:
            yield TaskChange(item.task_id, TaskState.PENDING, watch=instances[watch].task_id)


def settle(tasks: Iterable[WaitingTask], upstreams: Mapping[str, Upstream]) -> list[TaskChange]:
    """Decide each task: READY, BLOCKED or SKIPPED, or PENDING with the task to watch."""
    from matterstack.core.graph import neighbourhood

    waiting = {task.task_id: task for task in tasks}
    first: dict[WaitingTask, WaitingTask] = {}  # of those that differ in nothing but their id: one decision is enough
    same = {task.task_id: first.setdefault(changed(task, task_id=""), task) for task in waiting.values()}
    graph = neighbourhood({task.task_id: task.entries for task in first.values()})
    decided: dict[str, TaskChange] = {}
    for task in first.values():
        groups: dict[str, list[Upstream]] = {}
        for name, _, entry in graph.in_edges(task.task_id, keys=True):
            groups.setdefault(entry, []).append(upstreams[name])
        unique = {name: upstreams[name] for name in graph.pred[task.task_id]}
        decided[task.task_id] = _decide(task, groups, list(unique.values()))
    return [changed(decided[same[task_id].task_id], task_id=task_id) for task_id in waiting]


def _decide(task: WaitingTask, groups: Mapping[str, list[Upstream]], unique: list[Upstream]) -> TaskChange:
    # A condition that is false wins over a failed input, whichever came first: so nothing else is decided before it.
    for upstream in unique:
        if upstream.name in task.named and upstream.unsettled:
            return TaskChange(task.task_id, TaskState.PENDING, watch=upstream.watch)
    if task.condition is False:
        return TaskChange(task.task_id, TaskState.SKIPPED, reason(Code.CONDITION_FALSE, condition=task.condition_text))
    needed = {member.name for entry, members in groups.items() if not only_its_end(entry) for member in members}
    if task.rule is None:
        for upstream in unique:
            if upstream.bad and upstream.name in needed:
                return _because(task, TaskState.BLOCKED, upstream)
    in_round = {member.name for member in groups.get(ROUND, ())}
    unsettled = [upstream for upstream in unique if upstream.unsettled]
    if unsettled:
        return TaskChange(task.task_id, TaskState.PENDING, watch=unsettled[-1].watch)
    if task.rule is None:
        for upstream in unique:
            if upstream.soft_failed and upstream.name in needed - in_round:
                return _because(task, TaskState.SKIPPED, upstream)
    if not task.allow_skipped:
        for entry, members in groups.items():
            if not only_its_end(entry) and entry != ROUND and all(member.skipped == member.total for member in members):
                why = reason(Code.ALL_SKIPPED, entry=entry, first=members[0].name, more=len(members) > 1)
                return TaskChange(task.task_id, TaskState.SKIPPED, why, cause=members[0].cause)
    if task.rule is not None:
        counted = {
            upstream.name: upstream
            for entry, members in groups.items()
            if not entry.startswith(("response.", "metrics.")) and not only_its_end(entry)
            for upstream in members
        }
        short = _too_few(task.rule, list(counted.values()))
        if short:
            culprit = next((upstream for upstream in unique if upstream.culprit), None)
            state = TaskState.SKIPPED if task.allow_failure else TaskState.BLOCKED
            return TaskChange(task.task_id, state, short, cause=culprit.cause if culprit else None)
    return TaskChange(task.task_id, TaskState.READY)


ROUND = "round"  # the entry of what a loop waits for in its round
DECIDED = "matrix"  # the entry of what decided that an instance is there


def only_its_end(entry: str) -> bool:
    """Return whether nothing but the end of an upstream is waited for: its results have a row, or its rows stay."""
    return entry.startswith("results.") or entry == DECIDED


def _because(task: WaitingTask, state: TaskState, upstream: Upstream) -> TaskChange:
    assert upstream.culprit is not None
    if task.round and upstream.culprit.task_id.startswith(f"{task.task_id}/"):
        culprit = upstream.culprit
        why = reason(Code.ROUND_FAILED, round=task.round, task=culprit.task_id, state=str(culprit.state))
        return TaskChange(task.task_id, TaskState.FAILED, why, soft=task.allow_failure, cause=upstream.cause)
    why = reason(
        Code.UPSTREAM,
        task=upstream.culprit.task_id,
        state=str(upstream.culprit.state),
        allowed=state is TaskState.SKIPPED,
    )
    return TaskChange(task.task_id, state, why, cause=upstream.cause)


def _too_few(rule: DependencyRule, upstreams: list[Upstream]) -> Reason | None:
    completed = sum(upstream.completed for upstream in upstreams)
    counted = sum(upstream.total - upstream.skipped for upstream in upstreams)
    if rule.min_count is not None and completed < rule.min_count:
        return reason(Code.TOO_FEW, completed=completed, counted=counted, min_count=rule.min_count)
    if rule.min_percent is not None and completed * 100 < rule.min_percent * counted:
        return reason(Code.TOO_FEW, completed=completed, counted=counted, min_percent=rule.min_percent)
    return None
