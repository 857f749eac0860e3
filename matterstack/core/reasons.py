"""Why something is as it is: a code with values. `text.reasons` renders them; no decision reads the sentence.

The ledger and the journal store ``{"code": …, value: …}``. A value may be a reason itself ("retry 1 of 2 after …").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from matterstack.deferred import dataclass


class Code(StrEnum):
    """Every reason that MatterStack gives; behind each, its values."""

    NONE = ""
    SAID = "said"  # text: of a plug-in, a person, or a ledger of version 1
    ALSO = "also"  # parts: several reasons at once

    # ends of attempts
    EXIT_CODE = "exit_code"  # exit_code
    FAILED_AS = "failed_as"  # failure
    TIME_LIMIT = "time_limit"  # time_s
    BY_HAND = "by_hand"  # by, why: of a person who did a task
    REUSED = "reused"  # run, task, attempt: whose result it is
    WARNED = "warned"  # time_s, exit_code: it ended when it was told that its time limit is near
    OUT_OF_MEMORY = "out_of_memory"  # exit_code, max_rss (bytes, or None)
    NEVER_FITS = "never_fits"  # operator, asked, there: GPUs
    NO_DEVICES = "no_devices"  # asked, free
    LEFT_RUNNING = "left_running"  # names
    INTERRUPTED = "interrupted"  # by: the name of a signal
    INTERRUPTED_AGAIN = "interrupted_again"  # because
    TOO_OFTEN_INTERRUPTED = "too_often_interrupted"  # times, because
    GONE = "gone"  # rebooted, record: "missing", "torn", "no claim", "no folder" or "torn claim"
    MISSING_OUTPUTS = "missing_outputs"  # names, wrong: what is wrong with others, after: a reason
    CANCELLED_AT_END = "cancelled_at_end"  # after: a reason
    NOT_STARTED = "not_started"  # why: "claimed", "interrupted", "no files" or "no claim"
    NO_ROOM = "no_room"  # text: of a worker that gave its claim up
    METRICS_IGNORED = "metrics_ignored"  # why
    METRICS_INVALID = "metrics_invalid"  # values: name -> why that value is none
    OUTPUT_IS_LINK = "output_is_link"  # output, target
    UNREADABLE = "unreadable"  # path, error
    GIVEN_UP = "given_up"  # by a person; adopting, seen: a reason
    REJECTED = "rejected"  # text: of an operator that did not accept the work
    TEMPLATE = "template"  # text
    DEFECT = "defect"  # error, during
    INPUT_CHANGED = "input_changed"  # input, path, recorded and now (digests), task, upstream, readers
    INPUT_GONE = "input_gone"  # input, path, how, task, upstream

    # what becomes of tasks
    ATTEMPT_FAILED = "attempt_failed"  # attempt, try, of, because: a reason
    NEVER_STARTED = "never_started"  # attempt, times, because: a reason
    RETRY = "retry"  # retry, of, because: a reason
    RESTART = "restart"  # restart, of, because: a reason
    NO_PROGRESS = "no_progress"  # attempt, because: a reason
    TOO_MANY_RESTARTS = "too_many_restarts"  # attempt, of, because: a reason
    ASKED_AGAIN = "asked_again"  # because: a reason
    BAD_ANSWERS = "bad_answers"  # times, because: a reason
    POSTPONED = "postponed"  # because: a reason
    CANCELLED = "cancelled"
    UPSTREAM = "upstream"  # task, state, allowed
    CONDITION_FALSE = "condition_false"  # condition
    ALL_SKIPPED = "all_skipped"  # entry, first, more
    TOO_FEW = "too_few"  # completed, counted, min_count or min_percent

    # what stands for instances that results make
    NO_ROWS = "no_rows"  # of a group: nothing was to be made
    NO_INPUT = "no_input"  # input, pattern: nothing matched it
    BAD_ROWS = "bad_rows"  # text
    KNOWN = "known"  # count
    ROUND = "round"  # round, of, values: of a loop that goes on
    LOOP_DONE = "loop_done"  # round, of, condition, values
    ROUNDS_DONE = "rounds_done"  # rounds, condition, values: as many as may be
    ROUND_FAILED = "round_failed"  # round, task, state

    # limits of the run
    LIMIT_CPU_HOURS = "limit_cpu_hours"  # used, most, next: cpu-hours
    LIMIT_ATTEMPTS = "limit_attempts"  # attempts, most
    LIMIT_FAILURES = "limit_failures"  # failures, most

    # what is seen of live attempts
    CANNOT_SEE = "cannot_see"  # what, error
    CANNOT_CLAIM = "cannot_claim"  # error
    CANNOT_RECORD = "cannot_record"  # what, error
    OTHER_CONTENT = "other_content"  # files
    ELSEWHERE = "elsewhere"  # host, container
    NOT_RECORDED_WHERE = "not_recorded_where"
    HIDDEN = "hidden"  # owner
    ORPHANS = "orphans"  # pids, certain
    CLAIM_HELD = "claim_held"  # folder
    CLAIM_INCOMPLETE = "claim_incomplete"
    NO_FOLDER = "no_folder"
    LINKS = "links"  # links: [{path, why, old}]

    # warnings of a step
    OPERATOR_UNUSABLE = "operator_unusable"  # operator, error
    OPERATOR_AWAY = "operator_away"  # operator, error, attempts
    OPERATOR_RAISED = "operator_raised"  # operator, error, attempts
    HAND_OVER_UNKNOWN = "hand_over_unknown"  # operator, error
    HAND_OVER_RAISED = "hand_over_raised"  # operator, error
    RETRIES_UNUSABLE = "retries_unusable"  # error
    INPUT_UNREADABLE = "input_unreadable"  # path, error
    GITIGNORE_UNWRITABLE = "gitignore_unwritable"  # error
    RETRIED_LATER = "retried_later"  # because: a reason

    # people, laboratories and closed clusters
    BAD_ANSWER = "bad_answer"  # text
    DEADLINE = "deadline"  # at
    OVERDUE = "overdue"  # since
    ANSWERED = "answered"  # by, comment
    REJECTED_BY = "rejected_by"  # by, comment
    DEFAULT_TAKEN = "default_taken"
    WITHDRAWN = "withdrawn"  # what: "question", "request" or "parcel"; handed: a reason
    TAKEN_BY = "taken_by"  # by, at
    NO_HEARTBEAT = "no_heartbeat"  # since
    ASKED_TO_STOP = "asked_to_stop"  # file, taken: a reason
    MEASURED = "measured"  # instrument
    LAB_FAILED = "lab_failed"  # instrument, error
    HANDED_OVER = "handed_over"  # by, at
    CAME_BACK = "came_back"  # at
    STATUS_COMPLETED = "status_completed"  # file
    STATUS_FAILED = "status_failed"  # file, error, exit_code


@dataclass(frozen=True)
class Reason:
    """A code with its values; false for "no reason"."""

    code: Code = Code.NONE
    values: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.code is not Code.NONE

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def nested(self, name: str) -> Reason:
        """Return a value that is a reason itself; no reason where there is none."""
        found = self.values.get(name)
        return reason_from_json(found) if found else NO_REASON


NO_REASON = Reason()


def reason(code: Code, **values: Any) -> Reason:
    """Return a reason; values that are None are left out, reasons among them become JSON."""
    return Reason(code, {name: _plain(value) for name, value in values.items() if value is not None})


def said(text: str) -> Reason:
    """Return a reason that is somebody else's sentence."""
    return reason(Code.SAID, text=text) if text else NO_REASON


def as_reason(found: Reason | str) -> Reason:
    """Return what an operator gave as a reason: plug-ins may give a sentence."""
    return found if isinstance(found, Reason) else said(found)


def also(*parts: Reason) -> Reason:
    """Return several reasons as one; those that are none are left out."""
    given = [part for part in parts if part]
    return given[0] if len(given) == 1 else reason(Code.ALSO, parts=given) if given else NO_REASON


def includes(found: Reason, code: Code) -> bool:
    """Return whether a reason is of this code, or is several of which one is."""
    if found.code is Code.ALSO:
        return any(part["code"] == code for part in found["parts"])
    return found.code is code


def _plain(value: Any) -> Any:
    if isinstance(value, Reason):
        return reason_to_json(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def reason_to_json(found: Reason) -> dict[str, Any]:
    return {"code": str(found.code), **found.values}


def reason_from_json(data: Mapping[str, Any]) -> Reason:
    """Undo `reason_to_json`. Raises ValueError for a code that this version does not know, KeyError without one."""
    return Reason(Code(data["code"]), {name: value for name, value in data.items() if name != "code"})
