"""What an observation means for an attempt and its task.

Recorded state + what the operator saw + what the files show -> changes. Pure: the same inputs give the same changes,
so a step that was killed before it recorded them is simply repeated.
"""

from __future__ import annotations

from matterstack.core.model import AttemptChange, AttemptFacts, Evidence, Observation, Restart, Sighting, TaskChange
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.core.recorded import AttemptRow
from matterstack.core.resources import rule_for
from matterstack.core.states import RETRIED, TASK_STATE_OF_ATTEMPT, AttemptState, FailureClass, TaskState

MOST_BAD_ANSWERS = 10  # in a row; then asking once more does not help, until somebody reruns the task
RETRY_LATER_S = 30.0  # after a temporary refusal
MOST_INTERRUPTED = 10  # in a row
MOST_UNCLAIMED = 3  # in a row; then something is wrong that another try does not cure

STALLING = (FailureClass.TIMEOUT, FailureClass.EXIT_CODE)  # two such ends in a row without progress are enough

_LIVE_SIGHTINGS = {
    Sighting.SUBMITTED: AttemptState.SUBMITTED,
    Sighting.RUNNING: AttemptState.RUNNING,
    Sighting.WAITING: AttemptState.WAITING,
}

Decision = tuple[AttemptChange | None, TaskChange | None]


def changes_nothing(row: AttemptRow, seen: Observation) -> bool:
    """Return whether what was seen of a live attempt is what is on record, so that nothing needs to be known of its task."""
    if seen.why != row.reason or (seen.handle is not None and seen.handle != row.handle):
        return False
    return seen.sighting is Sighting.UNKNOWN or _LIVE_SIGHTINGS.get(seen.sighting) is row.state


def reconcile(facts: AttemptFacts, seen: Observation, evidence: Evidence, now: float) -> Decision:
    """Decide one live attempt: (change of the attempt, change of its task), None where nothing changes."""
    live = facts.live
    if seen.sighting is Sighting.UNKNOWN:
        if seen.why == facts.reason:
            return None, None
        return AttemptChange(live.task_id, live.attempt, live.state, reason=seen.why, handle=seen.handle), None
    if seen.sighting in _LIVE_SIGHTINGS:
        return _still_live(facts, seen)
    if seen.sighting is Sighting.NOT_STARTED:
        return _not_started(facts, seen, now)
    return _ended(facts, seen, evidence, now)


def _still_live(facts: AttemptFacts, seen: Observation) -> Decision:
    live = facts.live
    state = _LIVE_SIGHTINGS[seen.sighting]
    handle = seen.handle if seen.handle != live.handle else None
    if state is live.state and handle is None and seen.why == facts.reason:
        return None, None
    change = AttemptChange(
        live.task_id, live.attempt, state, reason=seen.why, handle=handle, started_at=seen.started_at
    )
    return change, TaskChange(live.task_id, TASK_STATE_OF_ATTEMPT[state])


def _not_started(facts: AttemptFacts, seen: Observation, now: float) -> Decision:
    live = facts.live
    why = seen.why or reason(Code.NOT_STARTED, why="claimed")
    failure = seen.failure or FailureClass.NOT_STARTED
    # One whose hand-over is unknown was fenced by a step: that says nothing about the task, and never counts.
    unclaimed = failure is FailureClass.NOT_STARTED and (seen.unclaimed or live.state is not AttemptState.SUBMITTING)
    change = AttemptChange(
        live.task_id, live.attempt, AttemptState.CANCELLED, failure, why, ended_at=now, unclaimed=unclaimed
    )
    if facts.wish:
        return change, _after_wish(facts)
    if failure is FailureClass.POSTPONED:
        return change, postponed(live.task_id, why, now)
    if unclaimed and facts.unclaimed + 1 >= MOST_UNCLAIMED:
        text = reason(Code.NEVER_STARTED, attempt=live.attempt, times=MOST_UNCLAIMED, because=why)
        return change, TaskChange(live.task_id, TaskState.FAILED, text, soft=facts.allow_failure)
    return change, TaskChange(live.task_id, TaskState.PENDING)


def postponed(task_id: str, why: Reason, now: float) -> TaskChange:
    """Return what becomes of a task that could not be started for a temporary cause: later, and no retry used."""
    return TaskChange(task_id, TaskState.PENDING, reason(Code.POSTPONED, because=why), retry_at=now + RETRY_LATER_S)


def _after_wish(facts: AttemptFacts) -> TaskChange:
    if facts.wish == "rerun":
        return TaskChange(facts.live.task_id, TaskState.PENDING)
    return TaskChange(facts.live.task_id, TaskState.CANCELLED, reason(Code.CANCELLED))


def _ended(facts: AttemptFacts, seen: Observation, evidence: Evidence, now: float) -> Decision:
    live = facts.live
    failure, why = classify(seen, evidence, live.time_s, facts.restart)
    restarts = False
    before_wish = facts.wished_at is None or (seen.ended_at or now) < facts.wished_at
    if failure is None and before_wish:
        state, task = AttemptState.COMPLETED, TaskChange(live.task_id, TaskState.COMPLETED)
    elif facts.wish:
        state, task = AttemptState.CANCELLED, _after_wish(facts)
        after = why or reason(Code.EXIT_CODE, exit_code=seen.exit_code)
        failure, why = FailureClass.CANCELLED, reason(Code.CANCELLED_AT_END, after=after)
    else:
        assert failure is not None
        state = AttemptState.LOST if failure is FailureClass.LOST else AttemptState.FAILED
        going_on = _restart(facts, failure, why, seen.exit_code, evidence)
        restarts = going_on is not None and going_on.state is TaskState.PENDING
        task = going_on or after_failure(facts, failure, why, seen.exit_code, now)
    if facts.wish == "rerun" and state is AttemptState.COMPLETED:
        task = TaskChange(live.task_id, TaskState.PENDING)
    counts = state in (AttemptState.FAILED, AttemptState.LOST) and failure in RETRIED
    counts = counts and not _is_asked_again(facts, failure) and not restarts
    change = AttemptChange(
        live.task_id,
        live.attempt,
        state,
        failure,
        why,
        handle=seen.handle if seen.handle != live.handle else None,
        exit_code=seen.exit_code,
        started_at=seen.started_at,
        ended_at=seen.ended_at if seen.ended_at is not None else now,
        evidence=evidence,
        counts=counts,
        usage=seen.usage,
        restarts=restarts,
    )
    return change, task


def _restart(
    facts: AttemptFacts, failure: FailureClass, why: Reason, exit_code: int | None, evidence: Evidence
) -> TaskChange | None:
    """Return what becomes of a task that goes on from the files of its attempt, None for one that does not."""
    restart, live = facts.restart, facts.live
    if restart is None or not restart.is_after(failure, exit_code):
        return None
    if facts.stalled and evidence.stalled and failure in STALLING:
        text = reason(Code.NO_PROGRESS, attempt=live.attempt, because=why)
        return TaskChange(live.task_id, TaskState.FAILED, text, soft=facts.allow_failure)
    if facts.restarts >= restart.max:
        text = reason(Code.TOO_MANY_RESTARTS, attempt=live.attempt, of=restart.max, because=why)
        return TaskChange(live.task_id, TaskState.FAILED, text, soft=facts.allow_failure)
    text = reason(Code.RESTART, restart=facts.restarts + 1, of=restart.max, because=why)
    return TaskChange(live.task_id, TaskState.PENDING, text)


def classify(
    seen: Observation, evidence: Evidence, time_s: float | None, restart: Restart | None = None
) -> tuple[FailureClass | None, Reason]:
    """Return the failure class of an ended attempt, None for a success, and the reason."""
    if seen.failure in (FailureClass.INTERRUPTED, FailureClass.UNREADABLE):
        return seen.failure, seen.why
    if seen.sighting is Sighting.GONE:
        return FailureClass.LOST, seen.why or reason(Code.GONE, rebooted=False, record="missing")
    wanted = restart is not None and restart.is_after(FailureClass.EXIT_CODE, seen.exit_code)
    ended_by_itself = not seen.is_good and seen.failure in (None, FailureClass.EXIT_CODE)
    if ended_by_itself and seen.warned and time_s is not None and not wanted:
        return FailureClass.TIMEOUT, reason(Code.WARNED, time_s=time_s, exit_code=seen.exit_code)
    if seen.failure is not None:
        if seen.failure is FailureClass.TIMEOUT and not seen.why and time_s is not None:
            return seen.failure, reason(Code.TIME_LIMIT, time_s=time_s)
        return seen.failure, seen.why or reason(Code.FAILED_AS, failure=str(seen.failure))
    if not seen.is_good:
        return FailureClass.EXIT_CODE, reason(Code.EXIT_CODE, exit_code=seen.exit_code)
    if evidence.unreadable:
        return FailureClass.UNREADABLE, evidence.unreadable
    if evidence.missing or evidence.wrong:
        after = seen.why or reason(Code.EXIT_CODE, exit_code=0)
        names, wrong = list(evidence.missing), list(evidence.wrong) or None
        return FailureClass.MISSING_OUTPUT, reason(Code.MISSING_OUTPUTS, names=names, wrong=wrong, after=after)
    return None, evidence.remark or (seen.why if seen.response is not None else NO_REASON)


def _is_asked_again(facts: AttemptFacts, failure: FailureClass | None) -> bool:
    """Return whether a person, lab or closed cluster got it wrong: the task asks in a new attempt, using no retry."""
    return failure is FailureClass.BAD_RESPONSE or (facts.asks and failure is FailureClass.MISSING_OUTPUT)


def after_failure(
    facts: AttemptFacts, failure: FailureClass, why: Reason, exit_code: int | None, now: float
) -> TaskChange:
    """Return what becomes of a task whose attempt failed: a retry, perhaps later, or FAILED.

    A retry is PENDING first: something upstream may have been run again meanwhile.
    """
    live = facts.live
    if _is_asked_again(facts, failure):
        if (facts.bad_answers + 1) % MOST_BAD_ANSWERS == 0:
            text = reason(Code.BAD_ANSWERS, times=MOST_BAD_ANSWERS, because=why)
            return TaskChange(live.task_id, TaskState.FAILED, text, soft=facts.allow_failure)
        return TaskChange(live.task_id, TaskState.PENDING, reason(Code.ASKED_AGAIN, because=why))
    if failure is FailureClass.INTERRUPTED and facts.interruptions + 1 < MOST_INTERRUPTED:
        return TaskChange(live.task_id, TaskState.PENDING, reason(Code.INTERRUPTED_AGAIN, because=why))
    if failure is FailureClass.INTERRUPTED:
        why = reason(Code.TOO_OFTEN_INTERRUPTED, times=MOST_INTERRUPTED, because=why)
    never = rule_for(facts.retries, failure, exit_code) == "never"
    tries = facts.tries + 1
    if failure in RETRIED and tries <= facts.retries.max and not never:
        text = reason(Code.RETRY, retry=tries, of=facts.retries.max, because=why)
        due = now + facts.retries.delay_s if facts.retries.delay_s > 0 else None
        return TaskChange(live.task_id, TaskState.PENDING, text, retry_at=due)
    of = facts.retries.max + 1 if failure in RETRIED and not never else None
    text = reason(Code.ATTEMPT_FAILED, **{"attempt": live.attempt, "try": tries, "of": of, "because": why})
    return TaskChange(live.task_id, TaskState.FAILED, text, soft=facts.allow_failure)
