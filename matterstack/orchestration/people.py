"""What waits for people, and their answers.

An answer is a file in the attempt's folder: nothing here locks, or writes the ledger, so it works in a clone as well.
The next step at the run's home reads it.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matterstack.core.model import OperatorSpec, Sighting
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text, to_text
from matterstack.core.values import dump_json_lines
from matterstack.errors import MatterStackError, RunRootError, UsageError
from matterstack.operators.answers import (
    LARGEST,
    BadAnswer,
    NotYet,
    check_data,
    deadline_passed,
    decode,
    read_answer,
    read_task,
)
from matterstack.operators.asking import RESPONSE
from matterstack.operators.experiment import REQUEST, RESULT
from matterstack.orchestration.report import look_now, one_task, reading
from matterstack.storage import run_root
from matterstack.storage.state_store import AttemptRow, SQLiteStateStore

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
    folder = run_root.attempt_folder(row.task_id, row.attempt)
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


# --- answering ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What a person is asked in an attempt; `asked` is that of its task.json."""

    root: Path
    task_id: str
    attempt: int
    folder: Path
    asked: Mapping[str, Any]

    @property
    def schema(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.asked.get("response_schema")
        return found

    @property
    def answer_path(self) -> Path:
        return self.folder / RESPONSE


def find_question(root: str | Path, task: str) -> Question:
    """Give the question of a task that waits for a person. Raises UsageError where none does, saying what is."""
    with reading(root) as (path, store):
        task_id = one_task(store.task_ids(), task)
        (row,) = store.tasks([task_id])
        kind = store.campaign(row.campaign_version).operators[row.operator].kind
        attempts = store.attempts(task_id)
        _require_waiting(path, store, task_id, kind, attempts)
        attempt = attempts[-1].attempt
    folder = path / run_root.attempt_folder(task_id, attempt)
    found = read_task(folder)
    if found is None:
        raise RunRootError(f"{folder / 'task.json'}: is missing or not whole; restore it from git, or rerun the task")
    question = Question(path, task_id, attempt, folder, found["asked"])
    _require_no_answer(question)
    return question


def _require_waiting(
    root: Path, store: SQLiteStateStore, task_id: str, kind: str, attempts: Sequence[AttemptRow]
) -> None:
    (row,) = store.tasks([task_id])
    where, task = shlex.quote(str(root)), shlex.quote(task_id)
    if kind != "human":
        instead = {
            "manual": f"; `matterstack parcel export {where} {task} -o work.tar.gz` packs it",
            "experiment": f"; an instrument answers with {RESULT}",
        }
        raise UsageError(
            f"{task_id} is carried out by an operator of kind {kind}, not by a person{instead.get(kind, '')}"
        )
    if attempts and attempts[-1].state is AttemptState.WAITING:
        if attempts[-1].wish is not None:
            raise UsageError(f"{task_id} is being cancelled; it takes no answer any more")
        return
    if attempts and not attempts[-1].state.is_live and attempts[-1].response is not None:
        record = json.loads(attempts[-1].response)
        said = f"it was answered by {record.get('by')} at {str(record.get('at'))[:16].replace('T', ' ')}"
        raise UsageError(f"{task_id} is {row.state}: {said}; `matterstack rerun {where} {task}` asks again")
    raise UsageError(f"{task_id} is {row.state} and asks nothing now; `matterstack explain {where} {task}` says why")


def _require_no_answer(question: Question) -> None:
    if not os.path.lexists(question.answer_path):
        return
    try:
        found = read_answer(question.answer_path, time.time())
    except (BadAnswer, NotYet, OSError):
        found = None
    who = f" by {found[0].get('by')}" if found is not None and found[0].get("by") else ""
    raise UsageError(
        f"{question.task_id} is answered{who} already, in {question.answer_path}; the next step reads it "
        f"(`matterstack step {shlex.quote(str(question.root))}`)"
    )


def user() -> str:
    """Give the name under which somebody answers who does not say another."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def respond(question: Question, *, data: Any, by: str, comment: str | None = None, reject: bool = False) -> Path:
    """Write an answer, whole, where there is none; give its path.

    Raises UsageError for one that the task would not take, or if somebody was faster; RunRootError if it cannot be
    written.
    """
    responders = question.asked.get("responders")
    if responders is not None and by not in responders:
        raise UsageError(f"{by} may not answer {question.task_id}; {', '.join(responders)} may (--by says who you are)")
    if not reject:
        try:
            check_data("the answer", data, question.schema, "response_schema")
        except BadAnswer as error:
            raise UsageError(f"{question.task_id}: {error}") from None
    answer = {
        "status": "FAILED" if reject else "COMPLETED", "data": data, "error": comment if reject else None,
        "by": by, "at": to_text(time.time()), "comment": comment, "task": question.task_id, "attempt": question.attempt,
    }  # fmt: skip
    text = dump_json_lines(answer)
    if find_question(question.root, question.task_id).attempt != question.attempt:  # much may happen while one types
        raise UsageError(f"{question.task_id} was asked again meanwhile; answer that")
    try:
        if len(text.encode()) > LARGEST:
            raise UsageError(f"{question.task_id}: an answer of {len(text)} bytes; at most {LARGEST}")
        if not run_root.write_once(question.answer_path, text):
            _require_no_answer(question)
    except UnicodeEncodeError:
        raise UsageError(f"{question.task_id}: the answer holds a text that is not UTF-8") from None
    except OSError as error:
        raise RunRootError(f"{question.answer_path}: cannot be written: {error.strerror or error}") from None
    return question.answer_path
