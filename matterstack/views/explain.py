"""Why a task is not done, down to the root cause, and what to do next. Values; the terminal and `--json` render them."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matterstack.core.model import PEOPLE_KINDS, Observation, OperatorSpec, Sighting
from matterstack.core.selection import select_tasks
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.core.values import format_duration
from matterstack.operators.answers import decode
from matterstack.operators.registry import make_operator
from matterstack.orchestration.handover import Slots
from matterstack.orchestration.run_lifecycle import Operators, as_live
from matterstack.run_root.layout import attempt_folder
from matterstack.storage.state_store import AttemptRow, SQLiteStateStore, TaskRow
from matterstack.views.reading import reading

log = logging.getLogger("matterstack")


@dataclass(frozen=True)
class Explanation:
    """Why a task is not COMPLETED: its last cause, where to look, and what to type next."""

    task_id: str
    state: TaskState
    reason: str
    path: str | None  # below the run root
    command: str | None
    to_correct: bool = False  # a failure to be corrected before the command helps

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.task_id, "state": str(self.state), "reason": self.reason, "path": self.path,
            "command": self.command,
        }  # fmt: skip


def explain(root: str | Path, patterns: Iterable[str] = (), *, shown_root: str | None = None) -> list[Explanation]:
    """Explain every task that is not COMPLETED, or the named ones whatever their state."""
    with reading(root) as (path, store):
        return _Explainer(path, store, shown_root or str(root)).explain(list(patterns))


class _Explainer:
    def __init__(self, root: Path, store: SQLiteStateStore, shown_root: str) -> None:
        self.root = root
        self.store = store
        self.run = store.run()
        self.rows = {row.task_id: row for row in store.tasks()}
        self.last = store.last_attempts()
        self.stale = store.stale()
        self.operators = Operators(store, self.run)
        self.shown_root = shlex.quote(shown_root)
        self.now = time.time()

    def explain(self, patterns: list[str]) -> list[Explanation]:
        if patterns:
            wanted = select_tasks(self.rows, patterns)
        else:
            wanted = [row.task_id for row in self.rows.values() if row.state is not TaskState.COMPLETED]
        return [self._one(self.rows[task_id]) for task_id in wanted]

    def _type(self, command: str, task_id: str, rest: str = "") -> str:
        return f"matterstack {command} {self.shown_root} {shlex.quote(task_id)}{rest}"

    def _one(self, row: TaskRow) -> Explanation:
        state = row.state
        if state in (TaskState.PENDING, TaskState.READY) and (self.run.paused or row.paused):
            what = f"matterstack resume {self.shown_root}" + (f" {shlex.quote(row.task_id)}" if row.paused else "")
            whose = "the task" if row.paused else "the run"
            return Explanation(row.task_id, TaskState.PENDING, f"{whose} is paused", None, what)
        handlers = {
            TaskState.FAILED: self._failed,
            TaskState.BLOCKED: self._below,
            TaskState.SKIPPED: self._below,
            TaskState.CANCELLED: self._cancelled,
            TaskState.PENDING: self._pending,
            TaskState.READY: self._ready,
            TaskState.COMPLETED: self._completed,
        }
        return handlers.get(state, self._live)(row)

    def _log_of(self, task_id: str) -> str | None:
        attempt = self.last.get(task_id)
        if attempt is None:
            return None
        folder = attempt_folder(task_id, attempt.attempt)
        for name in ("defect.txt", "stderr.log"):
            if (self.root / folder / name).exists():
                return f"{folder}/{name}"
        return folder

    def _failed(self, row: TaskRow) -> Explanation:
        reason = row.reason + (" (allowed)" if row.soft else "")
        log, command = self._log_of(row.task_id), self._type("rerun", row.task_id)
        return Explanation(row.task_id, row.state, reason, log, command, self._can_be_corrected(row))

    def _can_be_corrected(self, row: TaskRow) -> bool:
        """Say whether a corrected file of the campaign could help: not where nothing was run."""
        last = self.last.get(row.task_id)
        in_vain = (
            FailureClass.TEMPLATE, FailureClass.REJECTED, FailureClass.DEFECT, FailureClass.NOT_STARTED,
            FailureClass.DEADLINE, FailureClass.BAD_RESPONSE,
        )  # fmt: skip
        kind = self.store.campaign(row.campaign_version).operators[row.operator].kind
        if kind in ("human", "experiment"):
            return False
        return not row.soft and last is not None and last.failure not in in_vain

    def _below(self, row: TaskRow) -> Explanation:
        cause = self.rows.get(row.cause or "")
        if cause is None:
            return Explanation(row.task_id, row.state, row.reason, None, None)
        if cause.state is TaskState.FAILED:
            softly = " (allowed)" if cause.soft else ""
            reason = f"{cause.task_id} failed{softly}, {cause.reason}"
        elif cause.state is TaskState.CANCELLED:
            reason = f"{cause.task_id} was cancelled"
        else:
            reason = f"{cause.task_id} is {cause.state}: {cause.reason}"
        if row.reason and not row.reason.startswith((f"{cause.task_id} ",)) and "is blocked" not in row.reason:
            reason = f"{row.reason}; {reason}"
        to_correct = cause.state is TaskState.FAILED and self._can_be_corrected(cause)
        log = self._log_of(cause.task_id) if cause.state is TaskState.FAILED else None
        return Explanation(row.task_id, row.state, reason, log, self._type("rerun", cause.task_id), to_correct)

    def _cancelled(self, row: TaskRow) -> Explanation:
        return Explanation(row.task_id, row.state, "by a person", None, self._type("rerun", row.task_id))

    def _pending(self, row: TaskRow) -> Explanation:
        if row.retry_at is not None:
            wait = format_duration(row.retry_at - self.now)
            when = f"in {wait}" if row.retry_at > self.now else "at the next step"
            return Explanation(
                row.task_id, row.state, f"{row.reason}; due {when}", self._log_of(row.task_id),
                f"matterstack step {self.shown_root}",
            )  # fmt: skip
        if row.watch is None:
            row = self._looked_at(row)
        if row.watch is None:
            return Explanation(
                row.task_id, row.state, "the next step decides it", None, f"matterstack step {self.shown_root}"
            )
        last = self._last_cause(row)
        below = self._one(last)
        between = "" if row.watch == last.task_id else f"{row.watch}, which waits for "
        reason = f"waits for {between}{last.task_id}, {below.state}: {below.reason}"
        return Explanation(row.task_id, row.state, reason, below.path, below.command)

    def _looked_at(self, row: TaskRow) -> TaskRow:
        """Give a task that no step has looked at yet with what it waits for."""
        from matterstack.core.readiness import settle
        from matterstack.orchestration.frontier import waiting_task

        entries = self.store.entries([row.task_id])[row.task_id]
        upstreams = self.store.upstreams(name for _, name in entries)
        (change,) = settle([waiting_task(self.store, row, entries, upstreams)], upstreams)
        return replace(row, watch=change.watch)

    def _last_cause(self, row: TaskRow) -> TaskRow:
        """Follow what is waited for to the task that does not itself wait for another."""
        seen = {row.task_id}
        while row.state is TaskState.PENDING and row.watch is not None and row.retry_at is None:
            following = self.rows.get(row.watch)
            if following is None or following.task_id in seen:
                break
            seen.add(following.task_id)
            row = following
        return row

    def _ready(self, row: TaskRow) -> Explanation:
        operator = self.operators[row.operator]
        slots = Slots(operator.spec, operator, self.store.usage(row.operator))
        if slots.active:
            reason = f"ready; operator '{row.operator}' has {slots.describe()}"
        else:
            reason = "ready; the next step starts it"
        return Explanation(row.task_id, row.state, reason, None, f"matterstack step {self.shown_root}")

    def _live(self, row: TaskRow) -> Explanation:
        attempt = self.last[row.task_id]
        folder = attempt_folder(row.task_id, attempt.attempt)
        since = format_duration(self.now - (attempt.started_at or attempt.created_at))
        if attempt.state is AttemptState.SUBMITTING:
            reason = "its hand-over was interrupted; the next step finds out whether it runs"
            return Explanation(row.task_id, row.state, reason, folder, f"matterstack step {self.shown_root}")
        if (self.root / folder / "exit.json").exists():
            kept = attempt.reason.startswith("has ended")  # and cannot be recorded
            how = attempt.reason if kept else "has ended; the next step records how"
            reason = f"attempt {attempt.attempt} {how}"
            return Explanation(row.task_id, row.state, reason, folder, f"matterstack step {self.shown_root}")
        if attempt.state is AttemptState.WAITING:
            return self._waits(row, attempt, folder)
        handle = decode(attempt.handle)
        where = f", pid {handle['pid']} on {handle.get('host', '?')}" if "pid" in handle else ""
        more = f"; {attempt.reason}" if attempt.reason else ""
        wish = "; it is being cancelled" if attempt.wish else ""
        reason = f"attempt {attempt.attempt} runs for {since}{where}{more}{wish}"
        return Explanation(
            row.task_id, row.state, reason, f"{folder}/stdout.log", self._type("logs", row.task_id, " --follow")
        )

    def _waits(self, row: TaskRow, attempt: AttemptRow, folder: str) -> Explanation:
        """Say for whom a task waits, and how it is answered."""
        kind = self.store.campaign(row.campaign_version).operators[row.operator].kind
        whom = {"human": "a person", "manual": "a closed cluster", "experiment": "a laboratory"}.get(kind, kind)
        handle = decode(attempt.handle)
        reason = f"waits for {whom}, asked {format_duration(self.now - attempt.created_at)} ago"
        seen = look_now(self.root, self.store.campaign(row.campaign_version).operators[row.operator], attempt)
        if seen is not None and seen.sighting is Sighting.WAITING:
            attempt = replace(attempt, reason=seen.reason)  # as of now, not of the last step
        until = handle.get("deadline_at")
        if until and "overdue" not in attempt.reason:
            reason += f", until {str(until)[:16].replace('T', ' ')} UTC"
        reason += f"; {attempt.reason}" if attempt.reason else ""
        if seen is not None and seen.sighting is Sighting.ENDED:
            if seen.failure is FailureClass.BAD_RESPONSE:
                what = f"{reason}; its answer cannot be taken: {seen.reason}; the next step asks again"
            else:
                what = f"{reason}; {seen.reason}; the next step records it"
            return Explanation(row.task_id, row.state, what, folder, f"matterstack step {self.shown_root}")
        if attempt.wish:
            reason += "; it is being cancelled: the laboratory ends it with a result, by hand if it is gone for good"
        taken = "parcel" in handle
        commands = {
            "human": self._type("respond", row.task_id),
            "manual": f"matterstack parcel import {self.shown_root} FILE" if taken
            else f"matterstack parcel export {self.shown_root} -o work.tar.gz",
        }  # fmt: skip
        files = {"experiment": "experiment_request.json"}
        path = f"{folder}/{files.get(kind, 'instructions.md')}"
        return Explanation(row.task_id, row.state, reason, path, commands.get(kind))

    def _completed(self, row: TaskRow) -> Explanation:
        if row.task_id in self.stale:
            reason = f"stale: {self.stale[row.task_id]}"
            return Explanation(row.task_id, row.state, reason, None, self._type("rerun", row.task_id))
        return Explanation(row.task_id, row.state, f"attempt {row.result} succeeded", None, None)


def look_now(root: Path, spec: OperatorSpec, row: AttemptRow) -> Observation | None:
    """Look at a waiting attempt as the next step will; None for operators that are not only files."""
    if spec.kind not in PEOPLE_KINDS:
        return None
    operator = make_operator(spec)
    return operator.observe([as_live(root, row)]).get((row.task_id, row.attempt))
