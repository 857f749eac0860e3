"""The states of attempts, tasks and runs, and their legal moves.

The table `ATTEMPT_MOVES` is the law: the ledger refuses every other move.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class AttemptState(StrEnum):
    SUBMITTING = "SUBMITTING"  # the intent is on record, the outcome of the hand-over unknown
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"  # for a person or a laboratory
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"

    @property
    def is_live(self) -> bool:
        return self in LIVE


LIVE = frozenset({AttemptState.SUBMITTING, AttemptState.SUBMITTED, AttemptState.RUNNING, AttemptState.WAITING})
ENDED = frozenset(AttemptState) - LIVE

ATTEMPT_MOVES: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.SUBMITTING: frozenset({AttemptState.SUBMITTED, AttemptState.RUNNING, AttemptState.WAITING}) | ENDED,
    AttemptState.SUBMITTED: frozenset({AttemptState.RUNNING, AttemptState.WAITING}) | ENDED,
    AttemptState.RUNNING: frozenset({AttemptState.SUBMITTED, AttemptState.WAITING}) | ENDED,  # requeued by a scheduler
    AttemptState.WAITING: frozenset({AttemptState.SUBMITTED, AttemptState.RUNNING}) | ENDED,
    AttemptState.COMPLETED: frozenset(),
    AttemptState.FAILED: frozenset(),
    AttemptState.CANCELLED: frozenset(),
    AttemptState.LOST: frozenset({AttemptState.COMPLETED, AttemptState.FAILED}),  # its exit.json turned up later
}


class TaskState(StrEnum):
    PENDING = "PENDING"
    READY = "READY"
    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    BLOCKED = "BLOCKED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"
    RETIRED = "RETIRED"  # gone from the campaign by an amendment: not counted, not waited for

    @property
    def is_settled(self) -> bool:
        """No further change without a person or a change upstream."""
        return self in SETTLED


SETTLED = frozenset(
    {
        TaskState.COMPLETED,
        TaskState.FAILED,
        TaskState.BLOCKED,
        TaskState.SKIPPED,
        TaskState.CANCELLED,
        TaskState.RETIRED,
    }
)
ACTIVE = frozenset({TaskState.SUBMITTED, TaskState.RUNNING, TaskState.WAITING})

TASK_STATE_OF_ATTEMPT: dict[AttemptState, TaskState] = {
    AttemptState.SUBMITTING: TaskState.SUBMITTED,
    AttemptState.SUBMITTED: TaskState.SUBMITTED,
    AttemptState.RUNNING: TaskState.RUNNING,
    AttemptState.WAITING: TaskState.WAITING,
}


class RunState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"  # only people or laboratories are left
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_over(self) -> bool:
        return self in (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED)


class FailureClass(StrEnum):
    """Why an attempt did not complete; `explain`, retry rules and the ledger use these words."""

    EXIT_CODE = "exit_code"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    MISSING_OUTPUT = "missing_output"
    INPUT_CHANGED = "input_changed"  # a file that it was to read is not what was recorded of it
    UNREADABLE = "unreadable"  # it ended, and what it left cannot be read
    LEFT_RUNNING = "left_running"  # the command ended with 0, and processes that it had started did not
    INTERRUPTED = "interrupted"  # ended from outside: a shutdown, the end of an allocation; uses no retry
    LOST = "lost"
    NODE_FAIL = "node_fail"
    BAD_RESPONSE = "bad_response"  # of a person, a lab or a closed cluster: it is asked again
    REJECTED = "rejected"  # by a person, or by an operator that took nothing
    DEADLINE = "deadline"  # nobody answered in time
    POSTPONED = "postponed"  # refused for the moment (disk full, queue full): tried again later, uses no retry
    NOT_STARTED = "not_started"  # claimed by a step: it can never start, and uses no retry
    TEMPLATE = "template"  # a template that cannot be resolved for this attempt
    CANCELLED = "cancelled"
    BY_HAND = "by_hand"  # of one that is COMPLETED: a person did it
    REUSED = "reused"  # of one that is COMPLETED: it is a result of another run
    DEFECT = "defect"  # an operator raised what it should not; the traceback is in the attempt's folder


RETRIED = frozenset(
    {
        FailureClass.EXIT_CODE,
        FailureClass.TIMEOUT,
        FailureClass.OUT_OF_MEMORY,
        FailureClass.MISSING_OUTPUT,
        FailureClass.LOST,
        FailureClass.NODE_FAIL,
    }
)


def run_state(
    counts: Mapping[TaskState, int], *, hard_ends: int, can_move: bool, paused: bool, cancelled: bool
) -> RunState:
    """Return the state of a run.

    ``hard_ends`` counts the tasks that make it FAILED; ``can_move`` says that a step could start something, now or
    after a retry's delay.
    """
    live = sum(counts.get(state, 0) for state in ACTIVE)
    waiting = counts.get(TaskState.WAITING, 0)
    to_do = counts.get(TaskState.PENDING, 0) + counts.get(TaskState.READY, 0)
    if not live and not to_do:
        return RunState.CANCELLED if cancelled else RunState.FAILED if hard_ends else RunState.COMPLETED
    if paused or (not live and not can_move):
        return RunState.PAUSED
    if to_do == sum(counts.values()):
        return RunState.PENDING
    return RunState.WAITING if live == waiting and not can_move else RunState.RUNNING
