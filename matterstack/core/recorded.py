"""What the ledger records, as values that decisions read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from matterstack.core.readiness import TaskStanding
from matterstack.core.reasons import Reason
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.deferred import dataclass

CARRY_IF_SAME, CARRY_NOTHING, CARRY_ALWAYS = 0, 1, 2  # of a rerun: begin anew, or `--continue`


@dataclass(frozen=True)
class RunRow:
    run_id: str
    name: str
    digest: str
    created_at: str
    paused: bool
    cancelled: bool
    campaign_path: str  # of the campaign file, relative to the run root
    source_digest: str
    home_id: str
    home_path: str  # where the run root was made, or moved to
    pause_reason: Reason  # which limit paused it; none if a person did
    over: bool  # somebody let it go on over its limits
    failures_before: int  # tasks that had FAILED when it was resumed last


@dataclass(frozen=True)
class TaskRow:
    task_id: str
    position: int
    group: str
    label: str
    campaign_version: int
    operator: str
    priority: int
    state: TaskState
    reason: Reason
    soft: bool
    cause: str | None
    watch: str | None
    retry_at: float | None
    paused: bool
    tries: int  # failed attempts that count against the retries
    attempts: int  # how many there are
    result: int | None  # the newest successful attempt
    restarts: int  # attempts that went on from the files of one before
    carry: int  # whether the next attempt does: one of CARRY
    plan: str | None  # "group" or "loop" of what stands for instances that results make

    @property
    def no_work(self) -> str:
        """Why nothing is done for it itself, "" for an ordinary task."""
        if self.plan is None:
            return ""
        if self.plan == "loop":
            return f"{self.task_id} is a loop; its tasks are {self.task_id}/ROUND/TASK"
        return f"the instances of {self.task_id} are not known yet"

    @property
    def standing(self) -> TaskStanding:
        return TaskStanding(self.task_id, self.position, self.state, self.soft, self.cause)


@dataclass(frozen=True)
class AttemptRow:
    task_id: str
    attempt: int
    state: AttemptState
    operator: str
    campaign_version: int
    handle: str
    wish: str | None
    wished_at: float | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    failure: FailureClass | None
    reason: Reason
    counts: bool
    unlinked: Reason  # which links of results/ could not be set
    cpus: int
    memory: int | None
    time_s: float | None
    source_digest: str
    response: str | None  # JSON of what a person or lab answered
    usage: str | None  # JSON, as in exit.json
    gpus: int
    licences: Mapping[str, int]
    work: str  # digest of what it was asked to do
    carry: int  # as in `TaskRow`, when it was made
    stalled: bool  # it wrote none of the files from which the next could go on

    @cached_property
    def key(self) -> tuple[str, int]:
        return self.task_id, self.attempt


@dataclass(frozen=True)
class AsAsked:
    """What an amendment compares of a task, as the ledger has it."""

    matrix: str  # JSON, as the next two
    inputs: str
    outputs: str
    work: str  # digest of the task as it is now
    attempt_work: str  # and of what the attempt that it stands on was asked to do
    asked: tuple[int, dict[str, str]] | None  # an attempt, and the parts of its work, if the task has another since
    changed: list[str] | None  # the names of what has changed since then
    before: list[object] | None  # what it was before it was RETIRED, or rerun: [state, reason, soft, cause, tries, …]
    edges: frozenset[tuple[str, str]]  # (upstream, entry)


Bucket = tuple[TaskState, bool, bool, bool, bool]  # state, soft, paused, a retry is due later, nobody has looked at it


def bucket_of(row: TaskRow) -> Bucket:
    """Return the bucket in which a task is counted, as the triggers of the ledger do."""
    waits = row.retry_at is not None
    unlooked = row.state is TaskState.PENDING and row.watch is None and not waits
    return row.state, row.soft, row.paused, waits, unlooked
