"""What people do to a run: pause, resume, cancel, rerun. Each is events through the same door as a step's.

Each waits up to 30 s for the lock, which a loop gives up between its steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from pathlib import Path

from matterstack.core.below import below as tasks_below
from matterstack.core.board import Board, state_of_run
from matterstack.core.events import (
    Cancelled,
    Event,
    Expanded,
    Paused,
    RerunUndone,
    Resumed,
    RetriesReset,
    TasksChanged,
    Uncancelled,
    Wished,
)
from matterstack.core.model import TaskChange
from matterstack.core.readiness import ROUND
from matterstack.core.reasons import Code, reason
from matterstack.core.recorded import TaskRow
from matterstack.core.selection import select_tasks
from matterstack.core.states import ACTIVE, TaskState
from matterstack.deferred import changed, dataclass
from matterstack.errors import UsageError
from matterstack.hints import Hint
from matterstack.orchestration.comparison import made_again
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step
from matterstack.run_root.layout import require_run_root
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.text.reasons import sentence

PATIENCE_S = 30.0


def pause(root: str | Path, patterns: Sequence[str], *, resume: bool = False, over: bool = False) -> int:
    """Pause or resume a run, or tasks of it; what runs goes on. Return how many changed (of a run: 1).

    A run that a limit has paused goes on ``over`` it, until its next amendment. Raises UsageError for a run that is over,
    and for one that would be paused again at once.
    """
    path = require_run_root(Path(root))
    with open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
        board = Board(store)
        state = state_of_run(board.run, board.buckets())
        chosen = select_tasks(store.task_ids(), patterns) if patterns else []
        if state.is_over and not resume:
            raise UsageError(f"{path} is {state}: there is nothing left to pause")
        limit = board.run.pause_reason
        if resume and not patterns and not over and limit.code in (Code.LIMIT_CPU_HOURS, Code.LIMIT_ATTEMPTS):
            raise UsageError(
                f"{path}: {sentence(limit)}; {Hint('resume', path, rest='--over')} goes on all the same, or raise it under "
                f"`limits` and {Hint('amend', path)}"
            )
        if not patterns:
            event = Resumed(over=over) if resume else Paused()
            wanted = board.run.paused is resume or (over and not board.run.over)
            return store.append([event] if wanted else [], time.time())
        changed = tuple(row.task_id for row in store.tasks(chosen) if row.paused is resume)
        store.append([Resumed(changed) if resume else Paused(changed)] if changed else [], time.time())
        return len(changed)


@dataclass(frozen=True)
class CancelReport:
    not_started: list[str]
    ended: list[str]
    still_alive: list[str]
    settled: int  # tasks that had ended before
    restored: list[str]  # tasks that are again what they were before a rerun


def cancel(root: str | Path, patterns: Sequence[str]) -> CancelReport:
    """Cancel a run, or tasks of it: what waits never starts, what runs is ended (TERM, KILL 10 s later)."""
    path = require_run_root(Path(root))
    with open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
        rows = store.tasks(select_tasks(store.task_ids(), patterns) if patterns else None)
        waiting = [row for row in rows if row.state in (TaskState.PENDING, TaskState.READY)]
        live = [row for row in rows if row.state in ACTIVE]
        step = Step(path, store)
        events: list[Event] = []
        again = {task_id for task_id, *_ in store.reruns()} & {row.task_id for row in waiting}
        if again:  # not started since its rerun: it is what it was
            _restore(store, [row.task_id for row in waiting if row.task_id in again])
            waiting = [row for row in waiting if row.task_id not in again]
        if not patterns and (waiting or live) and not store.run().cancelled:
            events.append(Cancelled())
        if live:
            events.append(Wished(tuple((row.task_id, row.attempts) for row in live), "cancel"))
        decider = step.decider()
        why = reason(Code.CANCELLED)
        made = decider.change_tasks(waiting, [TaskChange(row.task_id, TaskState.CANCELLED, why) for row in waiting])
        decider.settle(made, unlooked=False)
        store.append([*events, *decider.plan.events], step.now)
        alive = carry_out_wishes(step, store, live)
        names = [row.task_id for row in live]
        return CancelReport(
            [row.task_id for row in waiting],
            [name for name in names if name not in alive],
            sorted(alive),
            len(rows) - len(waiting) - len(live) - len(again),
            sorted(again),
        )


def carry_out_wishes(step: Step, store: SQLiteStateStore, live: Iterable[TaskRow]) -> set[str]:
    """End attempts that carry a wish and record their ends; return the tasks whose attempts are still alive."""
    wanted = {row.task_id for row in live}
    if not wanted:
        return set()
    step.end_wished()
    return {row.task_id for row in store.live_attempts() if row.task_id in wanted}


@dataclass(frozen=True)
class RerunReport:
    """What a rerun resets, or would."""

    tasks: list[str]
    reopened: list[str]  # BLOCKED or SKIPPED below, or ended before
    ended: list[str]  # what ran and was ended first
    still_alive: list[str]
    completed: int  # of all these, tasks that had COMPLETED
    can_be_undone: bool  # nothing that ran was ended for it
    remarks: tuple[str, ...] = ()  # on what results have made: rounds that are dropped, instances that may be others

    @property
    def count(self) -> int:
        return len(self.tasks) + len(self.reopened)


Select = Callable[[SQLiteStateStore], list[str]]


@dataclass(frozen=True)
class Dropped:
    """A loop that returns to a round (0: to before the first one); the tasks of later rounds no longer count."""

    loop: TaskRow
    round: int
    tasks: tuple[TaskRow, ...]
    rounds: int  # that are dropped

    def events(self, store: SQLiteStateStore) -> list[Event]:
        """Return the events that make it so, but for the state of the loop itself."""
        live = tuple((row.task_id, row.attempts) for row in self.tasks if row.state in ACTIVE)
        first = f"{self.loop.task_id}/{self.round}"
        items = store.instances_of(first) if self.round else []
        groups = dict.fromkeys(item.group for item in items)
        out: list[Event] = [Wished(live, "cancel")] if live else []
        if self.tasks:
            out.append(TasksChanged(tuple(row.task_id for row in self.tasks), TaskState.RETIRED, rerun=True))
        given = next((item.given for item in items), {})
        edges = tuple((group, ROUND) for group in groups)
        return [
            *out,
            Expanded(self.loop.task_id, self.loop.campaign_version, "", 0, round=self.round, given=given, edges=edges),
        ]


def _failed_in_a_round(row: TaskRow) -> bool:
    return row.plan == "loop" and row.state is TaskState.FAILED and row.reason.code is Code.ROUND_FAILED


def _drop_rounds(store: SQLiteStateStore, reset: Reset, chosen: set[str], *, downstream: bool) -> None:
    """Find the loops that go back: `rerun LOOP` to before its first round, what is upstream of rounds to the first of these."""
    again = {row.task_id: row for row in reset.again}
    for loop in store.plans(*(state for state in TaskState if state is not TaskState.RETIRED)):
        last = int(store.made(loop.task_id).get("round", 0)) if loop.plan == "loop" else 0
        if not last:
            continue
        concerned = {
            int(name.removeprefix(f"{loop.task_id}/").partition("/")[0])
            for name in again
            if name.startswith(f"{loop.task_id}/")
        }
        stopped = _failed_in_a_round(loop) or loop.state is TaskState.CANCELLED
        if loop.task_id in chosen and not (concerned and stopped):
            to = 0
        elif not downstream or not (concerned or loop.task_id in again):
            continue
        elif concerned:
            to = min(concerned)
        else:
            to = 0 if any(up in again for _, up in store.entries([loop.task_id])[loop.task_id]) else last
        rows = store.tasks_within(loop.task_id, to + 1)
        gone = {row.task_id for row in rows}
        if to == last:
            continue
        reset.dropped.append(Dropped(loop, to, tuple(rows), last - to))
        reset.again = [row for row in reset.again if row.task_id not in gone]
        reset.reopened = [row for row in reset.reopened if row.task_id not in gone and row.task_id != loop.task_id]
        reset.waiting = [row for row in reset.waiting if row.task_id not in gone and row.task_id != loop.task_id]
        reset.live = [row for row in reset.live if row.task_id not in gone]
        if loop.task_id not in {row.task_id for row in reset.again}:
            reset.again.append(loop)


@dataclass()
class Reset:
    """The tasks that a rerun concerns."""

    chosen: list[str]
    again: list[TaskRow]  # to run again
    reopened: list[TaskRow]  # BLOCKED or SKIPPED below
    live: list[TaskRow]
    waiting: list[TaskRow]  # below, to be looked at anew
    dropped: list[Dropped] = field(default_factory=list)
    depending: dict[str, int] = field(default_factory=dict)  # groups that results of these make -> their instances

    @classmethod
    def of(cls, store: SQLiteStateStore, chosen: list[str], *, downstream: bool, upstream: bool = False) -> Reset:
        found = cls._of(store, chosen, downstream=downstream, upstream=upstream)
        if downstream and store.newest_campaign().has_unknown:
            again = {row.task_id for row in found.again}
            loops = [row.task_id for row in store.plans() if row.plan == "loop" and row.state is not TaskState.RETIRED]
            more = [loop for loop in loops if loop not in again and any(name.startswith(f"{loop}/") for name in again)]
            if more:  # a loop that goes back to a round has another result
                whole = cls._of(store, [*found.chosen, *more], downstream=True, upstream=False)
                whole.chosen = found.chosen
                found = whole
        names = [row.task_id for row in found.again]
        if names and store.newest_campaign().has_unknown:
            _drop_rounds(store, found, set(chosen), downstream=downstream)
            gone = tuple(f"{item.loop.task_id}/" for item in found.dropped)
            plans = [row for row in store.plans_below(names) if not (gone and row.task_id.startswith(gone))]
            found.depending = {row.task_id: size for row in plans if (size := store.size_of(row.task_id))}
        return found

    @classmethod
    def _of(cls, store: SQLiteStateStore, chosen: list[str], *, downstream: bool, upstream: bool) -> Reset:
        edges = store.all_edges()
        if upstream:
            read = store.all_edges(only_read=True)
            above = tasks_below(((downstream_, upstream_) for upstream_, downstream_ in read), chosen)
            chosen = [row.task_id for row in store.tasks({*above, *chosen})]
        removed, count = store.removed_outputs(), -1
        while len(chosen) != count:  # what is made again may have others below it that need something again
            count = len(chosen)
            below = tasks_below(edges, chosen)
            again = store.tasks(set(chosen) | below) if downstream else store.tasks(chosen)
            again = [row for row in again if row.state is not TaskState.RETIRED]
            others = store.tasks(below - {row.task_id for row in again})
            others = [row for row in others if row.state is not TaskState.RETIRED]
            reopened = [
                row for row in others if row.state in (TaskState.BLOCKED, TaskState.SKIPPED) or _failed_in_a_round(row)
            ]
            if removed:
                opened = [row for row in others if row.state in (TaskState.PENDING, TaskState.READY)]
                to_run = {row.task_id for row in (*again, *reopened, *opened)}
                chosen = [
                    row.task_id for row in store.tasks({*chosen, *made_again(to_run, store.outputs_read, removed)})
                ]
        live = [row for row in again if row.state in ACTIVE and row.task_id in set(chosen)]
        # What waits below may have been READY, or watch a task that settles anew: the next step looks again.
        waiting = [
            row
            for row in (*others, *again)
            if row.state in (TaskState.PENDING, TaskState.READY) and row.retry_at is None and row.task_id in below
        ]
        return cls(chosen, again, reopened, live, waiting)

    @property
    def settled(self) -> list[TaskRow]:
        loops = {item.loop.task_id for item in self.dropped}
        return [row for row in self.again if row.state.is_settled or row.retry_at is not None or row.task_id in loops]

    def carry_out(self, step: Step, *, continues: bool = False) -> set[str]:
        """Record that these run again, and end what is alive of them; return the tasks whose attempts are still alive."""
        store = step.store
        events: list[Event] = []
        if self.live:
            events.append(Wished(tuple((row.task_id, row.attempts) for row in self.live), "rerun"))
        for rows, again in (([*self.settled, *self.reopened], True), (self.waiting, False)):
            decider = step.decider()
            decider.change_tasks(rows, [TaskChange(row.task_id, TaskState.PENDING) for row in rows])
            for event in decider.plan.events:
                events.append(
                    changed(event, rerun=again, continues=again and continues)
                    if isinstance(event, TasksChanged)
                    else event
                )
        for dropped in self.dropped:
            events += dropped.events(store)
        # After what the tasks were is kept, `storage.apply`: the retries that they had used, and that the run was cancelled.
        if tried := tuple(row.task_id for row in self.again if row.tries or row.restarts):
            events.append(RetriesReset(tried))
        events += [Uncancelled()] if store.run().cancelled else []
        if store.run().pause_reason.code is Code.LIMIT_FAILURES:  # what had failed runs again
            events.append(Resumed())
        store.append(events, step.now)
        for row in (row for item in self.dropped for row in item.tasks if row.result is not None):
            step.files.withdraw(row.task_id, store.left_paths(row.task_id))
        gone = [row for item in self.dropped for row in item.tasks if row.state in ACTIVE]
        return carry_out_wishes(step, store, [*self.live, *gone])

    def report(self, alive: set[str]) -> RerunReport:
        below_again = [row for row in self.again if row.task_id not in set(self.chosen) and row.state.is_settled]
        ended = [row.task_id for row in self.live if row.task_id not in alive]
        completed = sum(row.state is TaskState.COMPLETED for row in self.again)
        others = [row.task_id for row in [*below_again, *self.reopened]]
        can_be_undone = bool(self.settled or self.reopened) and not self.live and not self.dropped
        remarks = [
            f"{item.rounds} round{'s' if item.rounds > 1 else ''} of {item.loop.task_id} "
            f"{'are' if item.rounds > 1 else 'is'} dropped ({len(item.tasks)} tasks); "
            + (f"it goes on from round {item.round}" if item.round else "it begins anew")
            for item in self.dropped
        ]
        remarks += [
            f"{name}: {count} instance{'s depend' if count != 1 else ' depends'} on its rows"
            for name, count in self.depending.items()
        ]
        return RerunReport(self.chosen, others, ended, sorted(alive), completed, can_be_undone, tuple(remarks))


class TooManyTasks(UsageError):
    """More tasks than were agreed to would be reset; nothing was."""

    def __init__(self, report: RerunReport) -> None:
        super().__init__(f"{report.count} tasks would be reset; --yes does so without asking, --dry-run shows them")
        self.report = report


def rerun(
    root: str | Path,
    patterns: Sequence[str] | Select,
    *,
    downstream: bool = False,
    upstream: bool = False,
    most: int | None = None,
    continues: bool = False,
) -> RerunReport:
    """Make tasks PENDING again, their retries counted from zero; a later step starts them as new attempts.

    BLOCKED and SKIPPED tasks below become PENDING; with ``downstream`` also those below that ended, with ``upstream`` all
    that they were made from. What runs is
    ended first. With ``continues`` they go on from the files that `restart` names, else they begin anew. Old attempts and
    their files stay, and until something has started `undo_rerun` takes it back. Raises
    TooManyTasks for more than ``most``.
    """
    path = require_run_root(Path(root))
    if not callable(patterns) and not patterns:
        raise UsageError(
            "rerun: name the tasks to run again (an id or a glob), or --failed, --class, --stale or --like"
        )
    with open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
        chosen = patterns(store) if callable(patterns) else select_tasks(store.task_ids(), patterns)
        reset = Reset.of(store, chosen, downstream=downstream, upstream=upstream)
        found = reset.report(set())
        if most is not None and found.count > most:
            raise TooManyTasks(found)
        return reset.report(reset.carry_out(Step(path, store), continues=continues))


def undo_rerun(root: str | Path) -> list[str]:
    """Make the tasks of the last rerun what they were before it, and return them.

    Raises UsageError if there is none, or if one of them has started since.
    """
    path = require_run_root(Path(root))
    with open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
        kept = store.reruns()
        if not kept:
            raise UsageError(f"{path}: no rerun to undo; a rerun can be undone only until one of its tasks has started")
        newest = max(at for _, at, _, _ in kept)
        if store.rounds_dropped_since(newest):
            raise UsageError(
                f"{path}: the last rerun dropped rounds of a loop, which cannot be undone; {Hint('step', path)} makes them anew"
            )
        tasks = [task_id for task_id, at, _, _ in kept if at == newest]
        count = next(count for _, at, count, _ in kept if at == newest)
        if len(tasks) < count:
            hint = Hint("cancel", path, rest=" ".join(map(Hint.quote, tasks[:5])) + (" …" if len(tasks) > 5 else ""))
            raise UsageError(
                f"{count - len(tasks)} of the {count} tasks of the last rerun have started, or were amended since; {hint} restores those that "
                "have not"
            )
        _restore(store, tasks)
        return tasks


def _restore(store: SQLiteStateStore, tasks: Sequence[str]) -> None:
    """Make tasks what they were before a rerun."""
    cancelled = any(was_cancelled for task_id, _, _, was_cancelled in store.reruns() if task_id in set(tasks))
    events: list[Event] = [RerunUndone(tuple(tasks))]
    if cancelled and not store.run().cancelled:
        events.append(Cancelled())
    store.append(events, time.time())
