"""What a step decides: a value, made from what the ledger and the operators say.

`decide` looks at everything and plans; `decide_outcomes` is the second half of a step: what came of acting on the plan.
Neither writes anything. What they need that is not in the ledger (templates rendered, files of inputs found) comes from a
`Workshop`, which reads and never writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Protocol

from matterstack.core.below import below
from matterstack.core.board import Board
from matterstack.core.events import AttemptMade, Event, Key, Paused, attempt_changed, tasks_changed
from matterstack.core.limits import Budget
from matterstack.core.model import (
    AttemptChange,
    AttemptFacts,
    Evidence,
    LiveAttempt,
    Observation,
    OutputFile,
    Rejection,
    Resources,
    Retries,
    Sighting,
    Submission,
    TaskChange,
    TaskSpec,
)
from matterstack.core.readiness import WaitingTask, settle
from matterstack.core.reasons import Code, Reason, reason
from matterstack.core.reconcile import STALLING, changes_nothing, postponed, reconcile
from matterstack.core.recorded import AttemptRow, TaskRow
from matterstack.core.slots import MOST_AT_ONCE, Capacity, Slots, Use
from matterstack.core.states import TASK_STATE_OF_ATTEMPT, AttemptState, FailureClass, TaskState
from matterstack.deferred import changed, dataclass

_BAD_ANSWERS = (FailureClass.BAD_RESPONSE, FailureClass.MISSING_OUTPUT)
ENDED = (Sighting.ENDED, Sighting.GONE)


@dataclass(frozen=True)
class Notice:
    """A warning: of whom, "" where the reason says so itself, and what."""

    subject: str
    reason: Reason


@dataclass(frozen=True)
class Ended:
    """An attempt that ended in a step; ``task_state`` is what became of its task."""

    task_id: str
    attempt: int
    state: AttemptState
    task_state: TaskState
    reason: Reason
    seconds: float | None
    soft: bool = False  # a failure that is allowed


@dataclass(frozen=True)
class End:
    """An attempt to be ended, as somebody wished, or since its time to answer is over: then ``instead`` holds if nobody
    has answered by then."""

    live: LiveAttempt
    operator: AttemptRow
    instead: Observation | None = None


@dataclass(frozen=True)
class Publication:
    """Outputs of an attempt that results/ shows from now on; none of a failed one, whose files git may have to ignore."""

    task_id: str
    attempt: int
    outputs: tuple[OutputFile, ...]
    completed: bool


class Intent(Protocol):
    """An attempt that is ready to be handed over (`orchestration.launch`)."""

    @property
    def key(self) -> Key: ...
    @property
    def made(self) -> AttemptMade: ...
    @property
    def resources(self) -> Resources: ...


@dataclass(frozen=True)
class Unlaunchable:
    """A task that fails before it could be handed over; ``defect`` is a traceback."""

    made: AttemptMade
    failure: FailureClass
    reason: Reason
    defect: str = ""


@dataclass(frozen=True)
class Unneeded:
    """A task that has nothing to work on: it is skipped."""

    reason: Reason


class Workshop(Protocol):
    """What decisions ask about campaign and files. Nothing of it writes."""

    def spec(self, task: TaskRow) -> TaskSpec:
        """Return a task as its operator carries it out."""
        ...

    def asks(self, task: TaskRow) -> bool:
        """Return whether people, a lab or a closed cluster do the work."""
        ...

    def retries(self, task: TaskRow, attempt: int) -> Retries | Reason:
        """Return the retries of an attempt, or why its templates cannot be resolved."""
        ...

    def condition(self, task: TaskRow, entries: Sequence[tuple[str, str]], unsettled: frozenset[str]) -> WaitingTask:
        """Return a task as readiness looks at it, its condition evaluated if all that it names has settled."""
        ...

    def capacity(self, operator: str) -> Capacity | Notice:
        """Return what an operator may use in sum, or why it cannot be used."""
        ...

    def budget(self, alive: Sequence[AttemptRow], over: Sequence[AttemptRow]) -> Budget | None:
        """Return what the limits of the run leave beside what is alive, None without limits.

        ``over`` are attempts that end in this plan, which are not recorded yet.
        """
        ...

    def is_local(self, version: int | None, operator: str) -> bool:
        """Return whether an operator works on this machine, in a version of the campaign or in the newest.

        All that do share its cpus and memory, and their intents may be on record before there is room for them.
        """
        ...

    def prepare(self, task: TaskRow) -> Intent | Unlaunchable | Unneeded | Notice:
        """Render an attempt of a READY task; a notice says why that cannot be done at the moment."""
        ...


Outcome = Submission | Rejection


@dataclass()
class Plan:
    """What is to be committed and done. `events` in the order in which they are committed."""

    events: list[Event] = field(default_factory=list)
    fences: list[AttemptRow] = field(default_factory=list)  # hand-over of unknown outcome: decided by their claims
    ends: list[End] = field(default_factory=list)
    leave: list[tuple[AttemptRow, Observation]] = field(
        default_factory=list
    )  # files that an operator wants there first
    publications: list[Publication] = field(default_factory=list)
    intents: list[Intent] = field(default_factory=list)  # to be handed over once they are committed
    queued: list[Intent] = field(default_factory=list)  # the same, of those that were on record before
    recorded: list[Key] = field(default_factory=list)  # of `Ahead.handed`
    ahead: list[Intent] = field(default_factory=list)  # to be handed over later, as soon as there is room
    defects: dict[Key, str] = field(default_factory=dict)  # tracebacks, for the attempts' folders
    # for the report
    ended: list[Ended] = field(default_factory=list)
    expected: list[Ended] = field(default_factory=list)  # what will probably come of `ends` and `leave`
    submitted: list[Key] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    ready: int = 0


def as_live(folder: str, row: AttemptRow) -> LiveAttempt:
    return LiveAttempt(row.task_id, row.attempt, folder, row.state, row.handle, row.time_s, row.started_at)


@dataclass()
class Ahead:
    """Intents that a loop has on record before there is room for them: it then hands them over without a commit.

    They take no slot. Only operators of this machine have any: what is handed to others is not taken back in time.
    What comes of a hand-over is recorded with the next thing that is.
    """

    intents: dict[Key, Intent] = field(default_factory=dict)  # in the order in which they start
    most: int = 0  # how many may be on record
    handed: dict[Key, Outcome] = field(default_factory=dict)  # what came of hand-overs that is not recorded yet
    notices: list[Notice] = field(default_factory=list)  # met at that
    running: dict[Key, AttemptMade] = field(
        default_factory=dict
    )  # handed over by this loop, and not seen to have ended
    places: set[Key] = field(default_factory=set)  # of these, in whose place nothing was handed over yet
    replaced: int = 0  # how many have ended since the last look, and had their place taken
    free: int = 0  # and how many had not
    looked: float = 0.0  # when it was last asked what has ended, by the clock of `time.monotonic`
    checked: float = 0.0  # when the ledger was last seen to be this process's

    def next_for(self, ended: AttemptMade) -> Intent | None:
        """Return the next intent if it takes no more than an attempt that ended has left, None if a plan must decide."""
        for intent in self.intents.values():
            if intent.made.operator == ended.operator:
                fits = intent.made.cpus <= ended.cpus and (intent.made.memory or 0) <= (ended.memory or 0)
                return intent if fits and not intent.made.gpus else None
        return None


class Decider:
    """Collects a plan over a board. The public functions below are its uses."""

    def __init__(self, board: Board, workshop: Workshop, now: float, ahead: Ahead | None = None) -> None:
        self.ahead = ahead or Ahead()
        self.board = board
        self.workshop = workshop
        self.now = now
        self.plan = Plan()
        self._over: set[Key] = set()  # live attempts that end in this plan
        self._budget: Budget | None = None
        self._made_again: list[str] = []  # tasks that have another result now

    # --- attempts ---

    def reconcile(
        self, rows: Iterable[AttemptRow], seen: Mapping[Key, Observation], evidence: Mapping[Key, Evidence | Reason]
    ) -> list[TaskChange]:
        """Decide what was seen of attempts; return how tasks changed."""
        observed = [
            row
            for row in rows
            if row.key in seen and not (evidence.get(row.key) is None and changes_nothing(row, seen[row.key]))
        ]
        tasks = self.board.tasks({row.task_id for row in observed})
        changes = []
        for row in observed:
            found, task = self._evident(row, seen[row.key], evidence.get(row.key)), tasks[row.task_id]
            if found is None:
                continue
            facts = self._facts(row, task, found[0])
            attempt, change = reconcile(facts, found[0], found[1], self.now)
            if task.state is TaskState.RETIRED:
                change = None  # its attempt goes on to its end; nothing follows from it
            if attempt is not None:
                changes += self._record(row, task, attempt, change, found[0])
        return changes

    def _evident(
        self, row: AttemptRow, seen: Observation, evidence: Evidence | Reason | None
    ) -> tuple[Observation, Evidence] | None:
        """Return an observation with what the files show; without them nothing is decided on an end."""
        if not isinstance(evidence, Reason):
            if evidence is not None and evidence.remark:
                self.notice(row, evidence.remark)
            return seen, evidence or Evidence(response=seen.response)
        self.notice(row, evidence)
        if not row.state.is_live:  # a late end: what is recorded of it stays
            return None
        return Observation(Sighting.UNKNOWN, reason=evidence), Evidence()

    def notice(self, row: AttemptRow, why: Reason) -> None:
        self.plan.notices.append(Notice(f"{row.task_id}, attempt {row.attempt}", why))

    def _facts(self, row: AttemptRow, task: TaskRow, seen: Observation) -> AttemptFacts:
        spec, asks = self.workshop.spec(task), self.workshop.asks(task)
        retries = Retries()
        if seen.sighting in ENDED:
            found = self.workshop.retries(task, row.attempt)
            if isinstance(found, Reason):
                self.plan.notices.append(Notice(task.task_id, found))
            else:
                retries = found
        reader = self.board.reader
        last = reader.attempt(row.task_id, row.attempt - 1) if spec.restart is not None and row.attempt > 1 else None
        not_started, interrupted = seen.sighting is Sighting.NOT_STARTED, FailureClass.INTERRUPTED
        return AttemptFacts(
            live=as_live("", row),
            wish=row.wish,
            wished_at=row.wished_at,
            reason=row.reason,
            retries=retries,
            tries=task.tries - (row.state is AttemptState.LOST),  # one that was lost has counted already
            unclaimed=reader.unclaimed_before(row.task_id, row.attempt) if not_started else 0,
            allow_failure=spec.allow_failure,
            asks=asks,
            bad_answers=reader.consecutive(row.task_id, row.attempt, *_BAD_ANSWERS) if asks else 0,
            interruptions=reader.consecutive(row.task_id, row.attempt, interrupted)
            if seen.failure is interrupted
            else 0,
            restart=spec.restart,
            restarts=task.restarts,
            stalled=last is not None and last.stalled and last.failure in STALLING,
        )

    def _record(
        self, row: AttemptRow, task: TaskRow, attempt: AttemptChange, change: TaskChange | None, seen: Observation
    ) -> list[TaskChange]:
        """Add the event of an attempt; return the change of its task, if it is one."""
        if not attempt.state.is_live:
            self.board.end(row, attempt)
            task = self.board.current([task])[0]
        becomes = change if change is not None and self.board.change(task, change) else None
        self.plan.events.append(attempt_changed(attempt, becomes))
        if not attempt.state.is_live:
            self._over.add(row.key)
            completed = attempt.state is AttemptState.COMPLETED
            outputs = attempt.evidence.outputs if attempt.evidence is not None else ()
            shown = completed and task.state is not TaskState.RETIRED
            self.plan.publications.append(Publication(*row.key, outputs, shown))
            if completed and row.attempt > 1:
                self._made_again.append(row.task_id)
            self.plan.ended.append(self._ended(attempt, change.state if change else task.state, seen, task))
        return [becomes] if becomes is not None else []

    def _ended(self, attempt: AttemptChange, task_state: TaskState, seen: Observation, task: TaskRow) -> Ended:
        seconds = seen.elapsed_s
        if seconds is None and seen.started_at is not None and seen.ended_at is not None:
            seconds = seen.ended_at - seen.started_at
        soft = self.workshop.spec(task).allow_failure
        return Ended(attempt.task_id, attempt.attempt, attempt.state, task_state, attempt.reason, seconds, soft)

    def set_aside(self, row: AttemptRow, folder: str, seen: Observation | None) -> bool:
        """Note an attempt that something must be done about before it can be decided; return whether it is one."""
        unknown = row.state is AttemptState.SUBMITTING or (seen is not None and seen.sighting is Sighting.UNCLAIMED)
        if row.wish is not None:
            self.plan.ends.append(End(as_live(folder, row), row))
        elif unknown:
            self.plan.fences.append(row)
        elif seen is not None and seen.failure is FailureClass.DEADLINE:
            self.plan.ends.append(End(as_live(folder, row), row, seen))
            self._expect(row, seen)
        elif seen is not None and seen.leave:
            self.plan.leave.append((row, seen))
            self._expect(row, seen)
        else:
            return False
        return True

    def _expect(self, row: AttemptRow, seen: Observation) -> None:
        task = self.board.tasks([row.task_id])[row.task_id]
        facts = self._facts(row, task, seen)
        attempt, change = reconcile(facts, seen, Evidence(response=seen.response), self.now)
        if attempt is not None:
            self.plan.expected.append(self._ended(attempt, change.state if change else task.state, seen, task))

    def catch_up(
        self, seen: Mapping[Key, Observation], evidence: Mapping[Key, Evidence | Reason]
    ) -> tuple[list[AttemptRow], list[TaskChange]]:
        """Record hand-overs that are not on record yet; of an attempt that has ended since, its end says it all.

        Return the attempts whose end is left to be decided, and how tasks changed.
        """
        handed = self.ahead.handed
        rows = [row for row in self.board.live if row.key in handed]
        self.plan.recorded = [row.key for row in rows]
        over: list[AttemptRow] = []
        others: list[AttemptRow] = []
        for row in rows:
            found = seen.get(row.key) if isinstance(handed[row.key], Submission) else None
            ended = found is not None and found.sighting in ENDED and not isinstance(evidence.get(row.key), Reason)
            (over if ended else others).append(row)
        self.plan.submitted += [row.key for row in over]
        return over, self.submissions(others, handed, self.now)

    def submissions(
        self, rows: Iterable[AttemptRow], outcomes: Mapping[Key, Outcome], started_at: float
    ) -> list[TaskChange]:
        """Record the outcomes of hand-overs; an unknown one stays SUBMITTING, and the next step recovers it."""
        known = [row for row in rows if row.key in outcomes]
        tasks = self.board.tasks({row.task_id for row in known})
        changes = []
        for row in known:
            outcome, task = outcomes[row.key], tasks[row.task_id]
            attempt, change = self._submission(row, task, outcome, started_at)
            becomes = change if self.board.change(task, change) else None
            self.plan.events.append(attempt_changed(attempt, becomes))
            if isinstance(outcome, Submission):
                self.plan.submitted.append(row.key)
            else:
                self._over.add(row.key)
            if attempt.state is AttemptState.FAILED:
                self.plan.ended.append(self._ended(attempt, change.state, Observation(Sighting.UNKNOWN), task))
            changes += [becomes] if becomes is not None else []
        return changes

    def _submission(
        self, row: AttemptRow, task: TaskRow, outcome: Outcome, started_at: float
    ) -> tuple[AttemptChange, TaskChange]:
        if isinstance(outcome, Submission):
            started = started_at if outcome.state is AttemptState.RUNNING else None
            change = AttemptChange(*row.key, outcome.state, handle=outcome.handle, started_at=started)
            return change, TaskChange(row.task_id, TASK_STATE_OF_ATTEMPT[outcome.state])
        why = outcome.reason
        if outcome.retry_later:
            failure = FailureClass.POSTPONED
            change = AttemptChange(*row.key, AttemptState.CANCELLED, failure, why, ended_at=self.now)
            return change, postponed(row.task_id, why, self.now)
        failure = FailureClass.DEFECT if outcome.is_defect else outcome.failure or FailureClass.REJECTED
        return self.failed(row.key, task, failure, why)

    def failed(self, key: Key, task: TaskRow, failure: FailureClass, why: Reason) -> tuple[AttemptChange, TaskChange]:
        """Return the changes of an attempt that fails for good without having run."""
        text = reason(Code.ATTEMPT_FAILED, attempt=key[1], because=why)
        soft = self.workshop.spec(task).allow_failure
        change = AttemptChange(*key, AttemptState.FAILED, failure, why, ended_at=self.now)
        return change, TaskChange(key[0], TaskState.FAILED, text, soft=soft)

    # --- tasks ---

    def change_tasks(self, rows: Iterable[TaskRow], changes: Iterable[TaskChange]) -> list[TaskChange]:
        """Change tasks, one event for all that became the same; return those that are anything new."""
        by_id = {row.task_id: row for row in rows}
        made = [change for change in changes if self.board.change(by_id[change.task_id], change)]
        self.plan.events += tasks_changed(made)
        return made

    def reopen_below(self, task_ids: Iterable[str]) -> list[TaskChange]:
        """Open what is BLOCKED or SKIPPED below tasks that were FAILED and are so no longer."""
        late = list(task_ids)
        if not late:
            return []
        rows = self.board.tasks(below(self.board.reader.all_edges(), late)).values()
        ended = [row for row in rows if row.state in (TaskState.BLOCKED, TaskState.SKIPPED)]
        return self.change_tasks(ended, [TaskChange(row.task_id, TaskState.PENDING) for row in ended])

    def retries_due(self) -> list[TaskChange]:
        due = [row for row in self.board.current(self.board.reader.retries_due(self.now)) if row.retry_at is not None]
        self.plan.retried = [row.task_id for row in due]
        return self.change_tasks(due, [TaskChange(row.task_id, TaskState.PENDING) for row in due])

    def expand_again(self) -> list[TaskChange]:
        """Let groups be made anew whose instances are those of an older result."""
        if not self._made_again:
            return []
        names, self._made_again = self._made_again, []
        rows = self.board.current(self.board.reader.plans_below(names))
        failed = [row.task_id for row in rows if row.state is TaskState.FAILED]
        made = self.change_tasks(rows, [TaskChange(row.task_id, TaskState.PENDING) for row in rows])
        return [*made, *self.reopen_below(failed)]

    def settle(self, made: Iterable[TaskChange], *, unlooked: bool = True) -> None:
        """Decide what changes upstream mean, round by round, until nothing is left.

        Looks at tasks that nobody has looked at, at those that watch a settled task, and at all directly below a
        failure for good. Without ``unlooked``, for commands of people, the first are left to the next step.
        """
        changes = [*made, *self.expand_again()]
        candidates = {row.task_id: row for row in (self.board.reader.unlooked() if unlooked else ())}
        candidates |= {row.task_id: row for row in self.board.pending_now(changes)} if unlooked else {}
        candidates |= self._concerned(changes)
        while candidates:
            decided = self._decide(self.board.current(candidates.values()))
            candidates = self._concerned(decided)

    def _concerned(self, changes: Sequence[TaskChange]) -> dict[str, TaskRow]:
        settled = [change for change in changes if change.state.is_settled]
        if not settled:
            return {}
        rows = self.board.reader.watchers(change.task_id for change in settled)
        bad = [
            change.task_id
            for change in settled
            if change.state in (TaskState.BLOCKED, TaskState.CANCELLED)
            or (change.state is TaskState.FAILED and not change.soft)
        ]
        rows += self.board.reader.successors(bad) if bad else []
        rows += self.board.watchers_now(change.task_id for change in settled)
        return {row.task_id: row for row in rows}

    def _decide(self, rows: Iterable[TaskRow]) -> list[TaskChange]:
        open_ = [row for row in rows if row.state is TaskState.PENDING and row.retry_at is None]
        if not open_:
            return []
        entries = self.board.reader.entries(row.task_id for row in open_)
        upstreams = self.board.upstreams(name for pairs in entries.values() for _, name in pairs)
        unsettled = frozenset(name for name, upstream in upstreams.items() if upstream.unsettled)
        waiting = [self.workshop.condition(row, entries[row.task_id], unsettled) for row in open_]
        return self.change_tasks(open_, settle(waiting, upstreams))

    # --- hand-over ---

    def launch(self) -> list[TaskChange]:
        """Choose what is handed over; return the tasks that failed before they could be."""
        failed: list[TaskChange] = []
        alive = [row for row in self.board.live if row.key not in self._over]
        machine = Use(row for row in alive if self.workshop.is_local(row.campaign_version, row.operator))
        waiting = {intent.made.operator for intent in self.ahead.intents.values()}
        self._budget = self.workshop.budget(alive, [row for row in self.board.live if row.key in self._over])
        if self._budget is not None and (why := self._budget.failed()) is not None:
            self._pause(why)
            return failed
        for operator in sorted(waiting.union(self.board.operators_with_ready())):
            capacity = self.workshop.capacity(operator)
            if isinstance(capacity, Notice):
                self.plan.notices.append(capacity)
                continue
            local = self.workshop.is_local(None, operator)
            live = (row for row in alive if row.operator == operator)
            slots = Slots(capacity, live, machine if local else None)
            left = self._hand_over_queued(operator, slots)
            if not left:
                failed += self._choose(operator, slots)
            if self._budget is not None:  # then nothing is recorded ahead of its turn
                if self.board.run.paused:
                    break
                continue
            if self.ahead.most and left <= self.ahead.most // 2 and local:
                failed += self._choose_ahead(operator, slots, self.ahead.most - left)
        return failed

    def _pause(self, why: Reason) -> None:
        """Start nothing more: the run has reached a limit."""
        self.plan.events.append(Paused(reason=why))
        self.board.run = changed(self.board.run, paused=True, pause_reason=why)
        self.plan.notices.append(Notice("", why))

    def _hand_over_queued(self, operator: str, slots: Slots) -> int:
        """Choose of the intents that are on record; return how many are left."""
        queue = [intent for intent in self.ahead.intents.values() if intent.made.operator == operator]
        for number, intent in enumerate(queue):
            if not slots.fits(intent.resources):
                return len(queue) - number
            slots.take(intent.resources)
            del self.ahead.intents[intent.key]
            self.plan.queued.append(intent)
        return 0

    def _choose(self, operator: str, slots: Slots) -> list[TaskChange]:
        failed: list[TaskChange] = []
        for row in self._first_to_start(operator, slots):
            if slots.full():
                break
            found = self._prepared(row, failed)
            if found is None or self._never_starts(row, found, slots):
                continue
            if not slots.fits(found.resources):
                break
            if self._budget is not None:
                why = self._budget.refuses(found.resources)
                if why is not None:
                    self._pause(why)
                    break
                if self._budget.lacking(found.resources):
                    continue  # tasks that need no such licence may start before it
                if not self._budget.fits(found.resources):
                    break
                self._budget.take(found.resources)
            slots.take(found.resources)
            self.plan.events.append(found.made)
            self.plan.intents.append(found)
            self.board.submitted(row)
        return failed

    def _first_to_start(self, operator: str, slots: Slots) -> Iterator[TaskRow]:
        """Yield READY tasks in the order in which they start: as many as could fit, and more if some never can."""
        most, seen = slots.bound(), set[str]()
        while not slots.full():
            rows = self.board.ready(operator, most)
            new = [row for row in rows if row.task_id not in seen]
            yield from new
            seen |= {row.task_id for row in new}
            if len(rows) < most or not new:
                break
            most = min(2 * most + 8, 2 * MOST_AT_ONCE)

    def _never_starts(self, row: TaskRow, found: Intent, slots: Slots) -> bool:
        if not slots.never(found.resources):
            return False
        there = slots.capacity.gpus
        why = reason(Code.NEVER_FITS, operator=row.operator, asked=found.resources.gpus, there=there)
        self.plan.notices.append(Notice(row.task_id, why))
        return True

    def _choose_ahead(self, operator: str, slots: Slots, most: int) -> list[TaskChange]:
        """Choose what will be handed over next."""
        failed: list[TaskChange] = []
        for row in self.board.ready(operator, most):
            found = self._prepared(row, failed)
            if found is not None and not slots.never(found.resources):
                self.plan.events.append(found.made)
                self.plan.ahead.append(found)
                self.board.submitted(row)
        return failed

    def _prepared(self, row: TaskRow, failed: list[TaskChange]) -> Intent | None:
        """Return a READY task's attempt, None if it stays READY or has failed."""
        found = self.workshop.prepare(row)
        if isinstance(found, Notice):
            self.plan.notices.append(found)
            return None
        if isinstance(found, Unneeded):
            failed += self.change_tasks([row], [TaskChange(row.task_id, TaskState.SKIPPED, found.reason)])
            return None
        if isinstance(found, Unlaunchable):
            failed.append(self._unlaunchable(row, found))
            return None
        return found

    def _unlaunchable(self, row: TaskRow, found: Unlaunchable) -> TaskChange:
        attempt, change = self.failed(found.made.key, row, found.failure, found.reason)
        self.plan.events.append(found.made)
        self.board.submitted(row)
        self.board.change(self.board.current([row])[0], change)
        self.plan.events.append(attempt_changed(attempt, change))
        self.plan.ended.append(self._ended(attempt, change.state, Observation(Sighting.UNKNOWN), row))
        if found.defect:
            self.plan.defects[found.made.key] = found.defect
        return change


def decide(
    board: Board,
    workshop: Workshop,
    awaited: Sequence[AttemptRow],
    folders: Mapping[Key, str],
    seen: Mapping[Key, Observation],
    evidence: Mapping[Key, Evidence | Reason],
    now: float,
    ahead: Ahead | None = None,
) -> Plan:
    """Return what a step is to record and to do.

    ``seen`` is what the operators saw of live and ``awaited`` attempts, ``folders`` where those are, ``evidence`` what the
    files of those that ended show, or why that cannot be told.
    """
    decider = Decider(board, workshop, now, ahead)
    plan = decider.plan
    over, made = decider.catch_up(seen, evidence)
    handed = decider.ahead.handed
    live = [
        row
        for row in board.live
        if row.key not in handed and not decider.set_aside(row, folders[row.key], seen.get(row.key))
    ]
    made += decider.reconcile([*over, *live, *awaited], seen, evidence)
    late = {row.key for row in awaited}
    made += decider.reopen_below(
        item.task_id
        for item in plan.ended
        if (item.task_id, item.attempt) in late and item.state is AttemptState.COMPLETED
    )
    made += decider.retries_due()
    decider.settle(made)
    if not board.run.paused:
        plan.ready = board.startable()
        if plan.ready or decider.ahead.intents:
            decider.settle(decider.launch(), unlooked=False)
    return plan


def decide_handed(
    board: Board,
    workshop: Workshop,
    seen: Mapping[Key, Observation],
    evidence: Mapping[Key, Evidence | Reason],
    now: float,
    ahead: Ahead,
) -> Plan:
    """Return what is to be recorded of hand-overs since the last step, and of what has ended; nothing is handed over."""
    decider = Decider(board, workshop, now, ahead)
    over, made = decider.catch_up(seen, evidence)
    ended = [
        row
        for row in board.live
        if row.key not in ahead.handed and row.state is not AttemptState.SUBMITTING and row.wish is None
        and row.key in seen and seen[row.key].sighting in ENDED
    ]  # fmt: skip
    made += decider.reconcile([*over, *ended], seen, evidence)
    decider.settle(made, unlooked=False)
    return decider.plan


def decide_outcomes(
    board: Board,
    workshop: Workshop,
    seen: Mapping[Key, Observation],
    evidence: Mapping[Key, Evidence | Reason],
    outcomes: Mapping[Key, Outcome],
    now: float,
    *,
    unlooked: bool = True,
) -> Plan:
    """Return what is to be recorded of acting on a plan: of fences, ends and hand-overs."""
    decider = Decider(board, workshop, now)
    made = decider.reconcile(board.live, seen, evidence)
    made += decider.submissions(board.live, outcomes, now)
    decider.settle(made, unlooked=unlooked)
    return decider.plan
