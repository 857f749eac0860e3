"""What is waiting for people, laboratories and closed clusters."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matterstack.core.model import OperatorSpec, Sighting
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text, to_text
from matterstack.errors import MatterStackError
from matterstack.operators.answers import deadline_passed, decode, read_task
from matterstack.operators.experiment import REQUEST
from matterstack.run_root.layout import attempt_folder
from matterstack.storage.state_store import AttemptRow
from matterstack.views.explain import look_now
from matterstack.views.reading import reading

log = logging.getLogger("matterstack")


@dataclass(frozen=True)
class Waiting:
    """An attempt that waits for a person, a lab or a closed cluster."""

    root: Path
    run_id: str
    task_id: str
    attempt: int
    kind: str
    operator: str
    since: float  # POSIX seconds
    until: float | None
    on_deadline: str | None
    overdue: bool
    answered: bool  # the answer is there, the next step reads it
    reason: str  # who has taken it, since when it is overdue
    summary: str  # the first line of the instructions
    folder: str  # below the run root
    command: str  # what to type

    def to_json(self) -> dict[str, Any]:
        return {
            "root": str(self.root), "run": self.run_id, "task": self.task_id, "attempt": self.attempt,
            "kind": self.kind, "operator": self.operator, "since": to_text(self.since),
            "until": to_text(self.until) if self.until is not None else None, "on_deadline": self.on_deadline,
            "overdue": self.overdue, "answered": self.answered, "reason": self.reason, "summary": self.summary,
            "folder": self.folder, "command": self.command,
        }  # fmt: skip


def inbox(roots: Iterable[str | Path]) -> list[Waiting]:
    """Give what waits for people, labs and closed clusters in these runs, the oldest first."""
    found: list[Waiting] = []
    wanted = list(roots)
    for root in wanted:
        try:
            found += _of_run(root)
        except MatterStackError as error:
            if len(wanted) == 1:
                raise
            log.warning("%s", error)  # one that is damaged does not hide the others
    return sorted(found, key=lambda item: item.since)


def _of_run(root: str | Path) -> list[Waiting]:
    with reading(root) as (path, store):
        run = store.run()
        operators = store.campaign(run.campaign_version).operators
        waiting = [row for row in store.live_attempts() if row.state is AttemptState.WAITING]
        return [_waiting(path, run.run_id, operators[row.operator], row) for row in waiting]


def _waiting(root: Path, run_id: str, spec: OperatorSpec, row: AttemptRow) -> Waiting:
    kind = spec.kind
    folder = attempt_folder(row.task_id, row.attempt)
    task = read_task(root / folder)
    asked: Mapping[str, Any] = task["asked"] if task is not None else {}
    terms = decode(row.handle)
    seen = look_now(root, spec, row)
    answered = seen is not None and seen.sighting is Sighting.ENDED
    reason = row.reason if seen is None else seen.reason
    if answered and seen is not None and seen.failure is FailureClass.BAD_RESPONSE:
        reason = f"the answer cannot be taken: {seen.reason}"
    elif row.wish is not None:
        reason = f"is being cancelled; {reason}"
    elif asked.get("refused"):
        reason = "; ".join(filter(None, (reason, f"asked again: {asked['refused']}")))
    return Waiting(
        root, run_id, row.task_id, row.attempt, kind, row.operator, row.created_at,
        from_text(terms.get("deadline_at")), terms.get("on_deadline"), deadline_passed(terms, time.time()), answered,
        reason, str(asked.get("instructions") or "").strip().partition("\n")[0], folder,
        _command(root, folder, kind, row, answered=answered, taken=isinstance(terms.get("parcel"), dict)),
    )  # fmt: skip


def _command(root: Path, folder: str, kind: str, row: AttemptRow, *, answered: bool, taken: bool) -> str:
    where, task = shlex.quote(str(root)), shlex.quote(row.task_id)
    if answered:
        return f"matterstack step {where}"
    if kind == "human":
        return f"matterstack respond {where} {task}"
    if kind == "manual":
        return (
            f"matterstack parcel import {where} FILE" if taken else f"matterstack parcel export {where} -o work.tar.gz"
        )
    return (
        f"cat {shlex.quote(str(root / folder / REQUEST))}"
        if kind == "experiment"
        else f"matterstack explain {where} {task}"
    )
