"""What a step did, computed from its plan and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from matterstack.core.board import Board, counts_of, state_of_run
from matterstack.core.plan import Ended, Notice, Plan
from matterstack.core.reasons import Code
from matterstack.core.recorded import AttemptRow, Bucket
from matterstack.core.states import AttemptState, RunState, TaskState
from matterstack.deferred import dataclass
from matterstack.text.reasons import sentence

Key = tuple[str, int]


@dataclass(frozen=True)
class StepReport:
    """What one step did, or a dry run would. Counts are those of the tick line."""

    root: Path
    run_id: str
    state: RunState
    ready: int
    startable: int  # READY tasks left that are not paused
    active: int
    unlooked: int  # PENDING tasks that the next step looks at
    counts: Mapping[TaskState, int]
    submitted: Sequence[Key] = field(default_factory=list)
    ended: Sequence[Ended] = field(default_factory=list)
    retried: Sequence[str] = field(default_factory=list)
    to_end: tuple[Key, ...] = ()  # of a dry run: what a step would end
    notices: tuple[Notice, ...] = ()
    live: tuple[AttemptRow, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """The notices as sentences, each once: two passes of a step may meet the same."""
        texts = ((item.subject, sentence(item.reason, self.root)) for item in self.notices)
        return list(dict.fromkeys(f"{subject}: {text}" if subject else text for subject, text in texts))

    @property
    def completed(self) -> int:
        return sum(item.state is AttemptState.COMPLETED for item in self.ended)

    @property
    def failed(self) -> int:
        return sum(item.state in (AttemptState.FAILED, AttemptState.LOST) for item in self.ended)

    @property
    def pending(self) -> int:
        """Tasks that wait, also READY ones that are paused."""
        left = self.counts.get(TaskState.READY, 0) - max(0, self.startable)
        return self.counts.get(TaskState.PENDING, 0) + left

    @property
    def changed(self) -> bool:
        return bool(self.submitted or self.ended or self.retried)

    @property
    def is_stuck(self) -> bool:
        """Whether nothing is alive, and all that is ready asks for more than there is here."""
        codes = {notice.reason.code for notice in self.notices}
        return self.active == 0 and self.startable > 0 and not self.changed and codes == {Code.NEVER_FITS}

    def to_json(self) -> dict[str, Any]:
        """Return the form of `step --json` (docs/json.md)."""
        return {
            "run": {"id": self.run_id, "state": str(self.state)},
            "counts": {str(state): count for state, count in self.counts.items()},
            "submitted": [{"task": task_id, "attempt": attempt} for task_id, attempt in self.submitted],
            "retried": list(self.retried),
            "ended": [
                {
                    "task": item.task_id,
                    "attempt": item.attempt,
                    "state": str(item.state),
                    "reason": sentence(item.reason, self.root),
                }
                for item in self.ended
            ],
            "warnings": self.warnings,
        }

    def line(self) -> str:
        """Return the tick line."""
        return (
            f"Tick: {self.ready} ready, {len(self.submitted)} submitted, {self.completed} completed, "
            f"{self.failed} failed, {self.active} active, {self.pending} pending"
        )


def report_of(root: Path, board: Board, plans: Sequence[Plan], notices: Sequence[Notice]) -> StepReport:
    """Return the report of a step whose plans were carried out; ``board`` is read after the last of them."""
    buckets = board.buckets()
    return StepReport(
        root=root,
        run_id=board.run.run_id,
        state=state_of_run(board.run, buckets),
        ready=plans[0].ready,
        startable=0 if board.run.paused else board.startable(),
        active=len(board.live),
        unlooked=_unlooked(buckets),
        counts=counts_of(buckets),
        submitted=[key for plan in plans for key in plan.submitted],
        ended=[item for plan in plans for item in plan.ended],
        retried=[task_id for plan in plans for task_id in plan.retried],
        notices=(*notices, *(notice for plan in plans for notice in plan.notices)),
        live=tuple(board.live),
    )


def _unlooked(buckets: Mapping[Bucket, int]) -> int:
    return sum(count for (_, _, _, _, unlooked), count in buckets.items() if unlooked)


def report_of_dry_run(
    root: Path, board: Board, plan: Plan, running: Sequence[Key], notices: Sequence[Notice]
) -> StepReport:
    """Return what a step would do: the plan alone, over the board that it was made on."""
    buckets = board.buckets()
    over = {(item.task_id, item.attempt) for item in plan.ended}
    return StepReport(
        root=root,
        run_id=board.run.run_id,
        state=state_of_run(board.run, buckets),
        ready=plan.ready,
        startable=0 if board.run.paused else board.startable(),
        active=sum(row.key not in over for row in board.live),
        unlooked=_unlooked(buckets),
        counts=counts_of(buckets),
        submitted=[intent.key for intent in plan.intents],
        ended=[*plan.ended, *plan.expected],
        retried=list(plan.retried),
        to_end=tuple(end.live.key for end in plan.ends if end.instead is None and end.live.key in running),
        notices=(*notices, *plan.notices),
    )
