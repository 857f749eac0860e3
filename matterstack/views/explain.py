"""Why a task is not done, down to the root cause, and what to do next. Values; the terminal and `--json` render them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from matterstack.core.board import Board
from matterstack.core.kinds import EXPERIMENT, HUMAN, MANUAL
from matterstack.core.limits import Budget, Limits, Spent
from matterstack.core.model import LiveAttempt, Observation, OperatorSpec, Resources, Sighting
from matterstack.core.plan import Notice
from matterstack.core.readiness import TaskStanding, Upstream, settle
from matterstack.core.reasons import Code, Reason, includes, reason
from matterstack.core.recorded import AttemptRow, TaskRow
from matterstack.core.selection import select_tasks
from matterstack.core.slots import Slots, Use
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.core.times import to_text
from matterstack.core.values import format_duration, format_memory
from matterstack.deferred import dataclass
from matterstack.errors import OperatorError, UsageError
from matterstack.hints import Hint
from matterstack.operators.answers import decode
from matterstack.operators.registry import make_operator
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.workshop import RunWorkshop
from matterstack.run_root.layout import EXIT, STDOUT, attempt_folder
from matterstack.storage.queries import CLOCK_SKEW_S
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.text.reasons import minute, sentence
from matterstack.views.advice import Advice, advice_for
from matterstack.views.failures import Cause, cause_of, groups_of, worked_folder
from matterstack.views.plans import in_words, round_of
from matterstack.views.reading import as_of, reading


@dataclass(frozen=True)
class Explanation:
    """Why a task is not COMPLETED: its root cause, where to look, and what to do next."""

    task_id: str
    state: TaskState
    reason: str
    path: str | None = None  # below the run root
    hint: Hint | None = None
    advice: tuple[Advice, ...] = ()  # of a failure, in place of the hint
    cause: Cause = Cause()  # of a failure: what its attempt left
    root_cause: str | None = None  # the task at whose failure it is blocked or skipped
    like: tuple[str, ...] = ()  # all that failed for the same cause, itself included
    stale: str = ""  # why, if it went by older results than there are
    paused: bool = False  # the task, by itself

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.task_id, "state": str(self.state), "reason": self.reason,
            "path": self.path, "command": self.hint.command if self.hint is not None else None,
            "cause": {"where": self.cause.where, "lines": list(self.cause.shown(6)), "remarks": list(self.cause.remarks)}
            if self.cause != Cause() else None,
            "advice": [item.to_json() for item in self.advice],
        }  # fmt: skip


def explain(root: str | Path, patterns: Iterable[str] = (), *, shown_root: str | None = None) -> list[Explanation]:
    """Explain every task that is not COMPLETED, or the named ones whatever their state.

    ``shown_root`` is how the user named the run. Raises UsageError for a name that is not a task's.
    """
    with reading(root) as (path, store):
        return _Explainer(path, store, shown_root or str(root)).explain(list(patterns))


def explain_first(root: str | Path, state: TaskState, most: int) -> list[Explanation]:
    """Explain the first tasks in a state, in the order of the campaign."""
    with reading(root) as (path, store):
        return _Explainer(path, store, str(root)).explain_rows(store.first_in(state, most))


class _Explainer:
    def __init__(self, root: Path, store: SQLiteStateStore, shown_root: str) -> None:
        self.root = root
        self.store = store
        self.run = store.run()
        self.rows: dict[str, TaskRow] = {}  # those that were read
        self.causes: dict[str, Explanation] = {}  # of tasks that others wait for
        self.pool = Pool(store)
        self.shown_root = shown_root
        self.like: dict[str, tuple[str, ...]] = {}  # task -> all that failed for the same cause
        self.now = time.time()

    def explain(self, patterns: list[str]) -> list[Explanation]:
        exact = [row for row in self.store.tasks(patterns) if row.plan != "group" or row.state is not TaskState.RETIRED]
        if patterns and {row.task_id for row in exact} == {*patterns}:
            rows = exact
        elif patterns:
            rows = self.store.tasks(select_tasks(self.store.task_ids(), patterns))
        else:
            noted = set(self.store.noted())
            told = noted | set(self.stale)
            rows = [row for row in self.store.tasks() if row.state is not TaskState.COMPLETED or row.task_id in told]
            failed = [row for row in rows if row.state is TaskState.FAILED]
            self.like = {
                task: group.tasks for group in groups_of(self.root, self.store, failed) for task in group.tasks
            }
        return self.explain_rows(rows)

    def explain_rows(self, rows: Sequence[TaskRow]) -> list[Explanation]:
        self.rows |= {row.task_id: row for row in rows}
        return [self._with_stale(row, self._one(row)) for row in rows]

    def _with_stale(self, row: TaskRow, found: Explanation) -> Explanation:
        """Say of what went by older results that it did, and what runs it again or asks again."""
        why = self.stale.get(row.task_id)
        if why is None:
            return found
        below = any(upstream == row.task_id for upstream, _ in self.store.all_edges())
        again = self._hint("rerun", row.task_id, "--downstream" if below and row.state is not TaskState.WAITING else "")
        if row.state is TaskState.COMPLETED:
            return replace(found, reason=f"stale: {why}", hint=again, stale=why)
        text = "ask again" if row.state is TaskState.WAITING else "run it again"
        answer = (Advice("answer all the same", (found.hint,)),) if found.hint is not None and not found.advice else ()
        return replace(
            found, reason=f"{found.reason}; stale: {why}", advice=(Advice(text, (again,)), *answer), stale=why
        )

    def _row(self, task_id: str | None) -> TaskRow | None:
        if task_id is not None and task_id not in self.rows:
            self.rows |= {row.task_id: row for row in self.store.tasks([task_id])}
        return self.rows.get(task_id or "")

    def _last(self, task_id: str) -> AttemptRow | None:
        """Return the newest attempt of a task."""
        row = self._row(task_id)
        return self.store.attempt(task_id, row.attempts) if row is not None and row.attempts else None

    @cached_property
    def stale(self) -> dict[str, str]:
        return self.store.stale()

    @cached_property
    def live(self) -> list[AttemptRow]:
        return self.store.live_attempts()

    def _hint(self, verb: str, task_id: str | None = None, rest: str = "") -> Hint:
        return Hint(verb, self.shown_root, task_id, rest)

    def _text(self, found: Reason) -> str:
        return sentence(found, self.shown_root)

    def _is_local(self, version: int, operator: str) -> bool:
        return self.store.operators(version)[operator].row.on_this_machine

    def _spec(self, row: TaskRow) -> OperatorSpec:
        return self.store.operators(row.campaign_version)[row.operator]

    def _one(self, row: TaskRow) -> Explanation:
        if row.state in (TaskState.PENDING, TaskState.READY) and (self.run.paused or row.paused):
            whose, task = ("the task", row.task_id) if row.paused else ("the run", None)
            limit = self.run.pause_reason if not row.paused else Reason()
            why = f"{whose} is paused" + (f": {self._text(limit)}" if limit else "")
            over = "--over" if limit and limit.code is not Code.LIMIT_FAILURES else ""
            return Explanation(
                row.task_id, TaskState.PENDING, why, hint=self._hint("resume", task, over), paused=row.paused
            )
        handlers = {
            TaskState.FAILED: self._failed,
            TaskState.BLOCKED: self._below,
            TaskState.SKIPPED: self._below,
            TaskState.CANCELLED: self._cancelled,
            TaskState.PENDING: self._pending,
            TaskState.READY: self._ready,
            TaskState.COMPLETED: self._completed,
            TaskState.RETIRED: self._retired,
        }
        return handlers.get(row.state, self._live)(row)

    def _retired(self, row: TaskRow) -> Explanation:
        live = any(attempt.task_id == row.task_id for attempt in self.live)
        why = "gone from the campaign by an amendment" + ("; what runs goes on to its end" if live else "")
        return Explanation(row.task_id, row.state, why, hint=self._hint("attempts", row.task_id))

    # --- what ended ---

    def _cause(self, task_id: str) -> Cause:
        attempt = self._last(task_id)
        if attempt is None:
            return Cause()
        worked = worked_folder(self.store, self.store.instance(task_id).group) if attempt.exit_code == 127 else None
        return cause_of(self.root, attempt, worked)

    def _failed_plan(self, row: TaskRow) -> Explanation:
        """Explain a group or loop that failed: what it was made from is what can be made anew, or the file is wrong."""
        why = self._text(row.reason) + (" (allowed)" if row.soft else "")
        if row.reason.code is Code.ROUND_FAILED:
            return Explanation(row.task_id, row.state, why, hint=self._hint("rerun", str(row.reason["task"])))
        again: tuple[Hint, ...] = ()
        if row.plan == "group":
            producers = dict.fromkeys(upstream for _, upstream in self.store.entries([row.task_id])[row.task_id])
            again = tuple(self._hint("rerun", name) for name in producers)
        campaign = os.path.relpath(os.path.normpath(self.root.resolve() / self.run.campaign_path))
        advice = [Advice(f"if {campaign} is wrong: correct it there, and take that", (self._hint("amend"),))]
        if again:
            advice.insert(0, Advice("if what it is made from is wrong: make that anew", again))
        return Explanation(
            row.task_id, row.state, why, hint=again[0] if again else self._hint("amend"), advice=tuple(advice)
        )

    def _failed(self, row: TaskRow) -> Explanation:
        if row.plan is not None:
            return self._failed_plan(row)
        why = self._text(row.reason) + (" (allowed)" if row.soft else "")
        cause = self._cause(row.task_id)
        hint = self._hint("rerun", row.task_id)
        like = self.like.get(row.task_id, (row.task_id,))
        again = hint if len(like) == 1 else self._hint("rerun", None, f"--like {Hint.quote(row.task_id)}")
        advice = self._advice(row, again)
        return Explanation(row.task_id, row.state, why, cause.path, hint, advice, cause, like=like)

    def _advice(self, row: TaskRow, again: Hint) -> tuple[Advice, ...]:
        kind = self._spec(row).row
        campaign = os.path.relpath(os.path.normpath(self.root.resolve() / self.run.campaign_path))
        return advice_for(
            self._last(row.task_id), again, self.shown_root, campaign=campaign, runs_command=kind.runs_command,
            soft=row.soft,
        )  # fmt: skip

    @cached_property
    def as_of(self) -> float | None:
        return as_of(self.root, self.store)

    def _below(self, row: TaskRow) -> Explanation:
        cause = self._row(row.cause)
        own = self._text(row.reason)
        if cause is None:
            return Explanation(row.task_id, row.state, own)
        failed = cause.state is TaskState.FAILED
        if failed:
            why = f"{cause.task_id} failed{' (allowed)' if cause.soft else ''}, {self._text(cause.reason)}"
        elif cause.state is TaskState.CANCELLED:
            why = f"{cause.task_id} was cancelled"
        else:
            why = f"{cause.task_id} is {cause.state}: {self._text(cause.reason)}"
        # That something upstream failed or is blocked is said better by the root cause.
        if own and row.reason.code is not Code.UPSTREAM:
            why = f"{own}; {why}"
        left = self._cause(cause.task_id) if failed else Cause()
        if failed and cause.plan is not None:
            of_plan = self._failed_plan(cause)
            return Explanation(
                row.task_id, row.state, why, left.path, of_plan.hint, of_plan.advice, left, cause.task_id
            )
        hint = self._hint("rerun", cause.task_id)
        advice = self._advice(cause, hint) if failed else ()
        if row.reason.code is Code.CONDITION_FALSE or cause.state is TaskState.SKIPPED:
            return Explanation(row.task_id, row.state, why)  # to run anything again would skip it again
        return Explanation(row.task_id, row.state, why, left.path, hint, advice, left, cause.task_id)

    def _cancelled(self, row: TaskRow) -> Explanation:
        return Explanation(row.task_id, row.state, "by a person", hint=self._hint("rerun", row.task_id))

    def _completed(self, row: TaskRow) -> Explanation:
        if row.plan is not None:
            return Explanation(row.task_id, row.state, self._text(row.reason))
        attempt = self.store.attempt(row.task_id, row.result or 0)
        remark = f"; {self._text(attempt.reason)}" if attempt is not None and attempt.reason else ""
        return Explanation(row.task_id, row.state, f"attempt {row.result} succeeded{remark}{_used(attempt)}")

    # --- what waits ---

    def _planned(self, row: TaskRow) -> Explanation:
        """Explain what is not known yet: what it waits for, or how far a loop is and why it goes on."""
        said = in_words(self.store, row)
        if row.plan == "loop" and round_of(self.store, row) > 1:
            repeat = self.store.campaign(row.campaign_version).tasks[row.group].repeat
            until = repeat.until if repeat is not None else None
            said += f"; it goes on, since {until} does not hold yet" if until else ""
        below = self._row(row.watch)
        if below is None or row.state is TaskState.READY:
            return Explanation(row.task_id, row.state, said, hint=self._hint("step"))
        last = self._root_cause(row)
        found = self._one(last)
        return Explanation(
            row.task_id, row.state, f"{said}; {last.task_id} is {found.state}: {found.reason}", found.path, found.hint
        )

    def _pending(self, row: TaskRow) -> Explanation:
        if row.plan is not None:
            return self._planned(row)
        if row.retry_at is not None:
            newest = self._last(row.task_id)
            ahead = (
                newest is not None and (newest.ended_at or 0.0) > self.now + CLOCK_SKEW_S
            )  # the clock was set back since
            later = row.retry_at > self.now and not ahead
            when = f"in {format_duration(row.retry_at - self.now)}" if later else "at the next step"
            why = f"{self._text(row.reason)}; due {when}"
            cause = self._cause(row.task_id)
            return Explanation(row.task_id, row.state, why, cause.path, self._hint("step"), cause=cause)
        if row.watch is None:
            row = self._looked_at(row)
        if row.watch is None:
            return Explanation(row.task_id, row.state, "the next step decides it", hint=self._hint("step"))
        last = self._root_cause(row)
        if last.task_id not in self.causes:
            self.causes[last.task_id] = self._one(last)
        below = self.causes[last.task_id]
        between = "" if row.watch == last.task_id else f"{row.watch}, which waits for "
        why = f"waits for {between}{last.task_id}, {below.state}: {below.reason}"
        return Explanation(row.task_id, row.state, why, below.path, below.hint)

    def _looked_at(self, row: TaskRow) -> TaskRow:
        """Return a task that no step has looked at yet with what it waits for."""
        entries = self.store.entries([row.task_id])[row.task_id]
        upstreams = self._upstreams({name for _, name in entries})
        unsettled = frozenset(name for name, upstream in upstreams.items() if upstream.unsettled)
        workshop = RunWorkshop(self.store, Board(self.store), self.pool, RunFiles(self.root), self.now)
        (change,) = settle([workshop.condition(row, entries, unsettled)], upstreams)
        return replace(row, watch=change.watch)

    def _upstreams(self, names: set[str]) -> dict[str, Upstream]:
        standings: dict[str, TaskStanding] = self.store.standings(names)
        out = {name: Upstream.of_task(item) for name, item in standings.items()}
        groups = names - set(standings)
        return out | {name: Upstream.of_group(name, self.store.group(name, ()), ()) for name in groups}

    def _root_cause(self, row: TaskRow) -> TaskRow:
        """Follow what is waited for to the task that does not itself wait for another."""
        seen = {row.task_id}
        while row.state is TaskState.PENDING and row.watch is not None and row.retry_at is None:
            following = self._row(row.watch)
            if following is None or following.task_id in seen:
                break
            seen.add(following.task_id)
            row = following
        return row

    def _ready(self, row: TaskRow) -> Explanation:
        if row.plan is not None:
            return self._planned(row)
        capacity = self.pool.capacity(row.operator)
        if isinstance(capacity, Notice):
            return Explanation(row.task_id, row.state, self._text(capacity.reason))
        live = self.live
        machine = Use(item for item in live if self._is_local(item.campaign_version, item.operator))
        local = self._is_local(row.campaign_version, row.operator)
        slots = Slots(capacity, (item for item in live if item.operator == row.operator), machine if local else None)
        limit = self._limit_of(row)
        why = (
            f"ready; {limit}"
            if limit
            else (
                f"ready; operator '{row.operator}' has {slots.describe()}"
                if slots.use.active
                else "ready; the next step starts it"
            )
        )
        return Explanation(row.task_id, row.state, why, hint=self._hint("step"))

    def _limit_of(self, row: TaskRow) -> str:
        """Return which limit of the run a task waits for, "" for none."""
        limits = self.store.limits()
        if limits == Limits():
            return ""
        budget = Budget(limits, self.run, Spent(0, 0.0), self.live, 0, self.now)
        spec = self.store.campaign(row.campaign_version).tasks[row.group]
        asked = {**self._spec(row).resources, **spec.resources}.get("licences", {})
        name = budget.lacking(Resources(licences=asked))
        if name:
            return f"{budget.licences.get(name, 0)} of {limits.licences[name]} licences of {name} are in use"
        return f"the run has {budget.active} of {limits.max_active} active" if budget.is_full() else ""

    # --- what is alive ---

    def _live(self, row: TaskRow) -> Explanation:
        attempt = self._last(row.task_id)
        assert attempt is not None  # of a task that is alive
        folder = attempt_folder(row.task_id, attempt.attempt)
        since = format_duration(self.now - (attempt.started_at or attempt.created_at))
        if attempt.state is AttemptState.SUBMITTING:
            why = "its hand-over was interrupted; the next step finds out whether it runs"
            return Explanation(row.task_id, row.state, why, folder, self._hint("step"))
        if os.path.exists(self.root / folder / EXIT):
            kept = attempt.reason.code is Code.CANNOT_RECORD
            how = self._text(attempt.reason) if kept else "has ended; the next step records how"
            return Explanation(row.task_id, row.state, f"attempt {attempt.attempt} {how}", folder, self._hint("step"))
        if attempt.state is AttemptState.WAITING:
            return self._waits(row, attempt, folder)
        handle = decode(attempt.handle)
        where = f", pid {handle['pid']} on {handle.get('host', '?')}" if "pid" in handle else ""
        more = f"; {self._text(attempt.reason)}" if attempt.reason else ""
        wish = "; it is being cancelled" if attempt.wish else ""
        why = f"attempt {attempt.attempt} has been running for {since}{where}{more}{wish}"
        if self.as_of is not None:  # nobody knows here what has become of it
            at = minute(to_text(self.as_of))
            return Explanation(
                row.task_id, row.state, f"attempt {attempt.attempt} was running{where}; a copy, as of {at}"
            )
        return Explanation(
            row.task_id, row.state, why, f"{folder}/{STDOUT}", self._hint("logs", row.task_id, "--follow")
        )

    def _waits(self, row: TaskRow, attempt: AttemptRow, folder: str) -> Explanation:
        """Return for whom a task waits, and how it is answered."""
        spec = self._spec(row)
        handle = decode(attempt.handle)
        seen = look_now(self.root, spec, attempt)
        # As of now, not of the last step.
        reason_now = seen.why if seen is not None and seen.sighting is Sighting.WAITING else attempt.reason
        why = f"waits for {spec.row.whom or spec.kind}, asked {format_duration(self.now - attempt.created_at)} ago"
        until = handle.get("deadline_at")
        if until and not includes(reason_now, Code.OVERDUE):
            why += f", due {minute(until)}"
        why += f"; {self._text(reason_now)}" if reason_now else ""
        if seen is not None and seen.sighting is Sighting.ENDED:
            if seen.failure is FailureClass.BAD_RESPONSE:
                what = f"{why}; its answer cannot be accepted: {self._text(seen.why)}; the next step asks again"
            else:
                what = f"{why}; {self._text(seen.why)}; the next step records it"
            return Explanation(row.task_id, row.state, what, folder, self._hint("step"))
        if attempt.wish:
            why += "; it is being cancelled: the laboratory ends it with a result, by hand if it is gone for good"
        path = f"{folder}/{spec.row.asked_file}"
        hint = how_to_answer(spec, self.shown_root, row.task_id, taken="parcel" in handle)
        return Explanation(row.task_id, row.state, why, path, hint)


def _used(attempt: AttemptRow | None) -> str:
    """Return what an attempt used of cpus and memory, beside what it asked for, "" if that is not on record."""
    usage = json.loads(attempt.usage) if attempt is not None and attempt.usage else {}
    if attempt is None or not usage:
        return ""
    parts = [f"{format_duration(usage['cpu_s'])} of cpu"] if "cpu_s" in usage else []
    if usage.get("max_rss"):
        asked = f" of {format_memory(attempt.memory)} asked for" if attempt.memory else ""
        parts.append(f"{format_memory(usage['max_rss'])} of memory at most{asked}")
    return f"; it used {', '.join(parts)}" if parts else ""


def how_to_answer(spec: OperatorSpec, run: str | Path, task_id: str, *, taken: bool) -> Hint | None:
    """Return what a person does to answer, None where an instrument does; ``taken`` says that a parcel is out."""
    if spec.row is HUMAN:
        return Hint("respond", run, task_id)
    if spec.row is MANUAL:
        return Hint("parcel import", run, rest="FILE") if taken else Hint("parcel export", run, rest="-o work.tar.gz")
    return None if spec.row is EXPERIMENT else Hint("explain", run, task_id)


def look_now(root: Path, spec: OperatorSpec, row: AttemptRow) -> Observation | None:
    """Look at a waiting attempt as the next step will; None for operators that are not only files."""
    if not spec.row.asks and not spec.row.plug_in:
        return None
    folder = RunFiles(root).folder(row.key)
    live = LiveAttempt(*row.key, folder, row.state, row.handle, row.time_s, row.started_at)
    try:
        return make_operator(spec).observe([live]).get(row.key)
    except (OperatorError, UsageError) as error:  # a plug-in that is not installed here
        why = reason(Code.OPERATOR_UNUSABLE, operator=spec.name, error=str(error))
        return Observation(Sighting.UNKNOWN, reason=why)
