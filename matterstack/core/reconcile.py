"""What an observation means for an attempt and its task.

Recorded state + what the operator saw + what the files show -> changes. Pure: the same inputs give the same
changes, so a step that was killed before it recorded them is simply repeated.
"""

from __future__ import annotations

import signal

from matterstack.core.model import AttemptChange, AttemptFacts, Evidence, Observation, Sighting, TaskChange
from matterstack.core.resources import rule_for
from matterstack.core.states import RETRIED, TASK_STATE_OF_ATTEMPT, AttemptState, FailureClass, TaskState
from matterstack.core.values import format_duration

MOST_BAD_ANSWERS = 10  # in a row; then asking once more does not help, until somebody reruns the task
RETRY_LATER_S = 30.0  # after a refusal of the moment
MOST_NOT_STARTED = 3  # in a row; then something is wrong that another try does not cure

_LIVE_SIGHTINGS = {
    Sighting.SUBMITTED: AttemptState.SUBMITTED,
    Sighting.RUNNING: AttemptState.RUNNING,
    Sighting.WAITING: AttemptState.WAITING,
}

Changes = tuple[AttemptChange | None, TaskChange | None]


def reconcile(facts: AttemptFacts, seen: Observation, evidence: Evidence, now: float) -> Changes:
    """Decide one live attempt: (change of the attempt, change of its task), None where nothing changes."""
    live = facts.live
    if seen.sighting is Sighting.UNKNOWN:
        if seen.reason == facts.reason:
            return None, None
        return AttemptChange(live.task_id, live.attempt, live.state, reason=seen.reason, handle=seen.handle), None
    if seen.sighting in _LIVE_SIGHTINGS:
        return _still_live(facts, seen)
    if seen.sighting is Sighting.NOT_STARTED:
        return _not_started(facts, seen, now)
    return _ended(facts, seen, evidence, now)


def _still_live(facts: AttemptFacts, seen: Observation) -> Changes:
    live = facts.live
    state = _LIVE_SIGHTINGS[seen.sighting]
    handle = seen.handle if seen.handle != live.handle else None
    if state is live.state and handle is None and seen.reason == facts.reason:
        return None, None
    change = AttemptChange(
        live.task_id, live.attempt, state, reason=seen.reason, handle=handle, started_at=seen.started_at
    )
    return change, TaskChange(live.task_id, TASK_STATE_OF_ATTEMPT[state])


def _not_started(facts: AttemptFacts, seen: Observation, now: float) -> Changes:
    live = facts.live
    reason = seen.reason or "claimed by a step before it could start"
    failure = seen.failure or FailureClass.NOT_STARTED
    change = AttemptChange(live.task_id, live.attempt, AttemptState.CANCELLED, failure, reason, ended_at=now)
    if facts.wish:
        return change, _after_wish(facts)
    if failure is FailureClass.POSTPONED:
        return change, postponed(live.task_id, reason, now)
    if facts.not_started + 1 >= MOST_NOT_STARTED:
        return change, TaskChange(
            live.task_id,
            TaskState.FAILED,
            f"attempt {live.attempt}: not started, {MOST_NOT_STARTED} times in a row: {reason}",
            soft=facts.allow_failure,
        )
    return change, TaskChange(live.task_id, TaskState.PENDING)


def postponed(task_id: str, reason: str, now: float) -> TaskChange:
    """Decide what becomes of a task that could not be started for a cause of the moment: later, and no retry used."""
    return TaskChange(task_id, TaskState.PENDING, f"not accepted: {reason}", retry_at=now + RETRY_LATER_S)


def _after_wish(facts: AttemptFacts) -> TaskChange:
    if facts.wish == "rerun":
        return TaskChange(facts.live.task_id, TaskState.PENDING)
    return TaskChange(facts.live.task_id, TaskState.CANCELLED, "cancelled")


def _ended(facts: AttemptFacts, seen: Observation, evidence: Evidence, now: float) -> Changes:
    live = facts.live
    failure, reason = classify(seen, evidence, live.time_s)
    before_wish = facts.wished_at is None or (seen.ended_at or now) < facts.wished_at
    if failure is None and before_wish:
        state, task = AttemptState.COMPLETED, TaskChange(live.task_id, TaskState.COMPLETED)
    elif facts.wish:
        state, task = AttemptState.CANCELLED, _after_wish(facts)
        failure, reason = FailureClass.CANCELLED, f"cancelled ({reason or describe_exit(seen.exit_code)})"
    else:
        assert failure is not None
        state = AttemptState.LOST if failure is FailureClass.LOST else AttemptState.FAILED
        task = after_failure(facts, failure, reason, seen.exit_code, now)
    if facts.wish == "rerun" and state is AttemptState.COMPLETED:
        task = TaskChange(live.task_id, TaskState.PENDING)
    counts = state in (AttemptState.FAILED, AttemptState.LOST) and failure in RETRIED
    counts = counts and not _is_asked_again(facts, failure)
    change = AttemptChange(
        live.task_id,
        live.attempt,
        state,
        failure,
        reason,
        exit_code=seen.exit_code,
        started_at=seen.started_at,
        ended_at=seen.ended_at if seen.ended_at is not None else now,
        evidence=evidence,
        counts=counts,
    )
    return change, task


def classify(seen: Observation, evidence: Evidence, time_s: float | None) -> tuple[FailureClass | None, str]:
    """Give the failure class of an ended attempt, None for a success, and one sentence."""
    if seen.sighting is Sighting.GONE:
        return FailureClass.LOST, seen.reason or "its process is gone and left no exit.json"
    if seen.failure is not None:
        if seen.failure is FailureClass.TIMEOUT and not seen.reason and time_s is not None:
            return seen.failure, f"stopped at its time limit of {format_duration(time_s)}"
        return seen.failure, seen.reason or str(seen.failure)
    if not seen.is_good:
        return FailureClass.EXIT_CODE, describe_exit(seen.exit_code)
    if evidence.missing:
        names = ", ".join(evidence.missing[:5]) + (", …" if len(evidence.missing) > 5 else "")
        verb = "was" if len(evidence.missing) == 1 else "were"
        said = seen.reason or "exit code 0"
        return FailureClass.MISSING_OUTPUT, f"{said}, but {names} {verb} not written"
    return None, evidence.remark or (seen.reason if seen.response is not None else "")


def describe_exit(exit_code: int | None) -> str:
    """Print an exit code for a person: `exit code 1`, `exit code 137 (SIGKILL)`, `exit code 127 (…)`."""
    if exit_code is None:
        return "no exit code"
    hint = {126: " (a command that cannot be executed)", 127: " (a command that was not found)"}.get(exit_code, "")
    if 128 < exit_code < 160:
        try:
            hint = f" ({signal.Signals(exit_code - 128).name})"
        except ValueError:
            hint = ""
    return f"exit code {exit_code}{hint}"


def _is_asked_again(facts: AttemptFacts, failure: FailureClass | None) -> bool:
    """Say whether a person, lab or closed cluster got it wrong: the task asks in a new attempt and uses no retry."""
    return failure is FailureClass.BAD_RESPONSE or (facts.asks and failure is FailureClass.MISSING_OUTPUT)


def after_failure(
    facts: AttemptFacts, failure: FailureClass, reason: str, exit_code: int | None, now: float
) -> TaskChange:
    """Decide what becomes of a task whose attempt failed: a retry, perhaps later, or FAILED.

    A retry is PENDING first: something upstream may have been run again meanwhile.
    """
    live = facts.live
    if _is_asked_again(facts, failure):
        if (facts.bad_answers + 1) % MOST_BAD_ANSWERS == 0:
            text = f"{MOST_BAD_ANSWERS} bad answers in a row, the last: {reason}"
            return TaskChange(live.task_id, TaskState.FAILED, text, soft=facts.allow_failure)
        return TaskChange(live.task_id, TaskState.PENDING, f"asked again: {reason}")
    never = rule_for(facts.retries, failure, exit_code) == "never"
    tries = facts.tries + 1
    if failure in RETRIED and tries <= facts.retries.max and not never:
        if facts.retries.delay_s > 0:
            text = f"retry {tries} of {facts.retries.max} after {reason}"
            return TaskChange(live.task_id, TaskState.PENDING, text, retry_at=now + facts.retries.delay_s)
        return TaskChange(live.task_id, TaskState.PENDING, f"retry {tries} of {facts.retries.max} after {reason}")
    if failure not in RETRIED or never:
        which = f"attempt {live.attempt}"
    elif tries == live.attempt:
        which = f"attempt {tries} of {facts.retries.max + 1}"
    else:  # after a rerun, which counts anew
        which = f"attempt {live.attempt} (try {tries} of {facts.retries.max + 1})"
    return TaskChange(live.task_id, TaskState.FAILED, f"{which}: {reason}", soft=facts.allow_failure)
