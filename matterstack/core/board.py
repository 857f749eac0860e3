"""The ledger as it was read, with what has been decided since on top: what a decision looks at, and all it changes."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any, Protocol

from matterstack.core.model import AttemptChange, Evidence, TaskChange
from matterstack.core.readiness import GroupSummary, TaskStanding, Upstream
from matterstack.core.reasons import NO_REASON
from matterstack.core.recorded import AttemptRow, Bucket, RunRow, TaskRow, bucket_of
from matterstack.core.states import AttemptState, FailureClass, RunState, TaskState, run_state
from matterstack.deferred import changed

Published = tuple[int, dict[str, tuple[str, str | None, str | None]]]  # attempt, {output: (file, sha256, stamp)}


class Reader(Protocol):
    """What decisions read of a ledger; `storage.queries` answers by indexes, so that nothing is read that did not change."""

    def run(self) -> RunRow: ...
    def buckets(self) -> Mapping[Bucket, int]: ...
    def live_attempts(self, without: Container[tuple[str, int]] = ()) -> list[AttemptRow]: ...
    def awaited_attempts(self) -> list[AttemptRow]: ...
    def tasks(self, task_ids: Iterable[str] | None = None) -> list[TaskRow]: ...
    def unlooked(self) -> list[TaskRow]: ...
    def watchers(self, settled: Iterable[str]) -> list[TaskRow]: ...
    def successors(self, task_ids: Iterable[str]) -> list[TaskRow]: ...
    def retries_due(self, now: float) -> list[TaskRow]: ...
    def ready(self, operator: str, most: int) -> list[TaskRow]: ...
    def plans_below(self, task_ids: Iterable[str]) -> list[TaskRow]: ...
    def ready_operators(self) -> list[str]: ...
    def entries(self, task_ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]: ...
    def standings(self, task_ids: Iterable[str]) -> dict[str, TaskStanding]: ...
    def group(self, name: str, without: Iterable[str]) -> GroupSummary: ...
    def all_edges(self) -> list[tuple[str, str]]: ...
    def attempt(self, task_id: str, attempt: int) -> AttemptRow | None: ...
    def published(self, task_id: str) -> Published | None: ...
    def published_of(self, task_ids: Iterable[str]) -> dict[str, Published]: ...
    def published_in(self, group: str) -> dict[str, Published]: ...
    def size_of(self, group: str) -> int: ...
    def members(self, group: str) -> list[TaskRow]: ...
    def values_in(self, group: str) -> dict[str, tuple[Any, Any]]: ...
    def given_values(self, task_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, int]]]: ...
    def counted_failures(self, task_id: str, tries: int) -> list[tuple[FailureClass, int | None]]: ...
    def unclaimed_before(self, task_id: str, attempt: int) -> int: ...
    def consecutive(self, task_id: str, attempt: int, *failures: FailureClass) -> int: ...


class Board:
    def __init__(
        self, reader: Reader, ahead: Container[tuple[str, int]] = (), only: Collection[str] | None = None
    ) -> None:
        """``ahead`` names attempts that are on record ahead of their time, and not alive yet.

        With ``only``, no task but these is ready.
        """
        self.reader = reader
        self.only = only
        self.run = reader.run()
        self.live = reader.live_attempts(ahead)
        self._before: dict[str, TaskRow] = {}  # of tasks that were changed, as they were read
        self._now: dict[str, TaskRow] = {}
        self._changed_of: dict[str, list[str]] = {}  # group -> its tasks that were changed
        self._watching: dict[str, list[str]] = {}  # task -> those that were told to watch it
        self._ended: dict[str, tuple[AttemptRow, Evidence]] = {}  # task -> the attempt of it that ended

    # --- tasks ---

    def current(self, rows: Iterable[TaskRow]) -> list[TaskRow]:
        """Return rows that were read as they stand now."""
        return [self._now.get(row.task_id, row) for row in rows]

    def tasks(self, task_ids: Iterable[str]) -> dict[str, TaskRow]:
        return {row.task_id: row for row in self.current(self.reader.tasks(task_ids))}

    def change(self, row: TaskRow, change: TaskChange) -> bool:
        """Note what a task becomes; return whether it is anything new."""
        now = changed(
            row, state=change.state, reason=change.reason, soft=change.soft, cause=change.cause, watch=change.watch,
            retry_at=change.retry_at,
        )  # fmt: skip
        made = self._completed(row.task_id)
        if now.state is TaskState.COMPLETED and made is not None:
            now = changed(now, result=made[0])
        if now == row:
            return False
        self._put(row, now)
        if now.watch is not None:
            self._watching.setdefault(now.watch, []).append(row.task_id)
        return True

    def _put(self, row: TaskRow, now: TaskRow) -> None:
        if row.task_id not in self._before:
            self._before[row.task_id] = row
            self._changed_of.setdefault(row.group, []).append(row.task_id)
        self._now[row.task_id] = now

    def submitted(self, row: TaskRow) -> None:
        """Note that an attempt of a task is to be handed over."""
        now = changed(
            row, state=TaskState.SUBMITTED, reason=NO_REASON, soft=False, cause=None, watch=None, retry_at=None,
            attempts=row.attempts + 1,
        )  # fmt: skip
        self._put(row, now)

    def pending_now(self, changes: Iterable[TaskChange]) -> list[TaskRow]:
        """Return the tasks that these changes made PENDING, and that still are."""
        rows = (self._now[change.task_id] for change in changes if change.task_id in self._now)
        return [row for row in rows if row.state is TaskState.PENDING]

    def watchers_now(self, settled: Iterable[str]) -> list[TaskRow]:
        """Return the tasks that were told since to watch one of these."""
        return [self._now[task_id] for name in settled for task_id in self._watching.get(name, ())]

    # --- what is ready ---

    def operators_with_ready(self) -> list[str]:
        now = {row.operator for row in self._now.values() if row.state is TaskState.READY and row.plan is None}
        return sorted(now.union(self.reader.ready_operators()))

    def ready(self, operator: str, most: int) -> list[TaskRow]:
        """Return at most ``most`` READY tasks of an operator that are not paused, the first to start first."""
        if self.only is not None:
            rows = self.current(self.reader.tasks(self.only))
            rows = [row for row in rows if row.operator == operator and row.state is TaskState.READY and not row.paused]
            return sorted(rows, key=lambda row: (-row.priority, row.position))[:most]
        were = sum(row.state is TaskState.READY for row in self._before.values())
        rows = [row for row in self.reader.ready(operator, most + were) if row.task_id not in self._now]
        rows += [
            row
            for row in self._now.values()
            if row.operator == operator and row.state is TaskState.READY and not row.paused
        ]
        return sorted(rows, key=lambda row: (-row.priority, row.position))[:most]

    def startable(self) -> int:
        """Return how many tasks are READY and not paused by themselves."""
        if self.only is None:
            return startable(self.buckets())
        rows = self.current(self.reader.tasks(self.only))
        return sum(row.state is TaskState.READY and not row.paused for row in rows)

    # --- attempts ---

    def end(self, row: AttemptRow, change: AttemptChange) -> None:
        """Note that an attempt ended: what it made, gave and counts for is seen by all that is decided after."""
        now = changed(
            row, state=change.state, failure=change.failure, reason=change.reason, counts=change.counts,
            exit_code=change.exit_code if change.exit_code is not None else row.exit_code,
        )  # fmt: skip
        self._ended[row.task_id] = now, change.evidence or Evidence()
        if change.counts and row.state is not AttemptState.LOST:  # one that was lost has counted already
            task = self.tasks([row.task_id])[row.task_id]
            self._put(task, changed(task, tries=task.tries + 1))

    def attempt(self, task_id: str, attempt: int) -> AttemptRow | None:
        ended = self._ended.get(task_id)
        if ended is not None and ended[0].attempt == attempt:
            return ended[0]
        return self.reader.attempt(task_id, attempt)

    def _completed(self, task_id: str) -> tuple[int, Evidence] | None:
        ended = self._ended.get(task_id)
        if ended is None or ended[0].state is not AttemptState.COMPLETED:
            return None
        return ended[0].attempt, ended[1]

    def published(self, task_id: str) -> Published | None:
        """Return (attempt, {output: (file, sha256, stamp)}) of a task's newest successful attempt, None without one."""
        found = self._completed(task_id)
        if found is None:
            return self.reader.published(task_id)
        return found[0], {item.name: (item.file, item.sha256, item.stamp) for item in found[1].outputs}

    def published_of(self, task_ids: Iterable[str]) -> dict[str, Published]:
        """Return what `published` gives, of each of these tasks that has it."""
        wanted = set(task_ids)
        found = self.reader.published_of(wanted) if wanted else {}
        for task_id in wanted & set(self._ended):
            item = self.published(task_id)
            if item is not None:
                found[task_id] = item
        return found

    def published_in(self, group: str) -> dict[str, Published]:
        """Return what `published` gives of the COMPLETED instances of a group, in the order of the campaign."""
        others = [self._now[task_id] for task_id in self._changed_of.get(group, ())]
        found = self.reader.published_in(group)
        if not others:
            return found
        for row in others:
            item = self.published(row.task_id) if row.state is TaskState.COMPLETED else None
            if item is not None:
                found[row.task_id] = item
            else:
                found.pop(row.task_id, None)
        rows = {row.task_id: row.position for row in self.reader.tasks(found)}
        return {task_id: found[task_id] for task_id in sorted(found, key=rows.__getitem__)}

    def given_values(self, task_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, int]]]:
        """Return the answers and metrics that a task's templates name, and of which attempts they are."""
        values, origins = self.reader.given_values(task_id)
        for entry, upstream in self._named(task_id):
            found = self._completed(upstream)
            if found is None:
                continue
            root, _, group = entry.partition(".")
            given = found[1].metrics if root == "metrics" else (found[1].response or {}).get("data")
            values.setdefault(root, {})[group] = given if given is not None or root != "metrics" else {}
            origins[entry] = (upstream, found[0])
        return values, origins

    def values_in(self, group: str) -> dict[str, tuple[Any, Any]]:
        """Return {task: (metrics, data of the answer)} of the attempts that tasks of a group stand on."""
        found = self.reader.values_in(group)
        for task_id in self._changed_of.get(group, ()):
            task = self._now[task_id]
            if task_id in self._ended and self._ended[task_id][0].attempt == (task.result or task.attempts):
                evidence = self._ended[task_id][1]
                found[task_id] = (evidence.metrics or {}, (evidence.response or {}).get("data") or {})
        return found

    def members(self, group: str) -> list[TaskRow]:
        """Return the tasks of a group as they stand now, in the order of the campaign."""
        return self.current(self.reader.members(group))

    def _named(self, task_id: str) -> list[tuple[str, str]]:
        """Return the (entry, upstream) pairs of a task that templates made, where something of them ended."""
        if not self._ended:
            return []
        pairs = self.reader.entries([task_id])[task_id]
        return [pair for pair in pairs if pair[0].startswith(("response.", "metrics.")) and pair[1] in self._ended]

    def counted_failures(self, task_id: str, tries: int) -> list[tuple[FailureClass, int | None]]:
        """Return class and exit code of the last ``tries`` failures that count, oldest first."""
        ended = self._ended.get(task_id)
        if ended is None or not ended[0].counts or ended[0].failure is None or tries == 0:
            return self.reader.counted_failures(task_id, tries)
        before = self.reader.counted_failures(task_id, tries - 1)
        return [*before, (ended[0].failure, ended[0].exit_code)]

    def standings(self, names: Iterable[str]) -> dict[str, TaskStanding]:
        """Return how tasks stand now, by id; names of groups are left out."""
        wanted = set(names)
        found = {name: self._now[name].standing for name in wanted if name in self._now}
        known = {name for name in found if self._now[name].plan == "group" and found[name].state is TaskState.RETIRED}
        wanted -= known  # the group has its name from now on
        found = {name: standing for name, standing in found.items() if name not in known}
        return found | self.reader.standings(wanted - set(found))

    # --- readiness ---

    def upstreams(self, names: Iterable[str]) -> dict[str, Upstream]:
        """Return how tasks, and groups as a whole, stand now, by name."""
        wanted = set(names)
        standings = self.standings(wanted)
        out = {name: Upstream.of_task(standing) for name, standing in standings.items()}
        for name in wanted - set(standings):
            others = self._changed_of.get(name, ())
            pairs = [(self._before[task_id].standing, self._now[task_id].standing) for task_id in others]
            out[name] = Upstream.of_group(name, self.reader.group(name, others), pairs)
        return out

    # --- sums ---

    def buckets(self) -> dict[Bucket, int]:
        found = dict(self.reader.buckets())
        for task_id, before in self._before.items():
            found[bucket_of(before)] -= 1
            now = bucket_of(self._now[task_id])
            found[now] = found.get(now, 0) + 1
        return {bucket: count for bucket, count in found.items() if count}


def counts_of(buckets: Mapping[Bucket, int]) -> dict[TaskState, int]:
    """Return the number of tasks in each state, states in their order."""
    counts = dict.fromkeys(TaskState, 0)
    for (state, *_), count in buckets.items():
        counts[state] += count
    return {state: count for state, count in counts.items() if count and state is not TaskState.RETIRED}


def startable(buckets: Mapping[Bucket, int]) -> int:
    """Return how many tasks are READY and not paused by themselves."""
    return sum(count for (state, _, paused, _, _), count in buckets.items() if state is TaskState.READY and not paused)


def state_of_run(run: RunRow, buckets: Mapping[Bucket, int]) -> RunState:
    """Return the state of a run whose tasks are in these buckets."""
    hard = can_move = 0
    for (state, soft, paused, waits, unlooked), count in buckets.items():
        ended_badly = state in (TaskState.BLOCKED, TaskState.CANCELLED) or (state is TaskState.FAILED and not soft)
        hard += count if ended_badly else 0
        can_move += count if unlooked or (not paused and (waits or state is TaskState.READY)) else 0
    return run_state(
        counts_of(buckets), hard_ends=hard, can_move=can_move > 0, paused=run.paused, cancelled=run.cancelled
    )
