"""A question, and the answer to it.

An answer is a file in the attempt's folder: nothing here locks or writes the ledger, so it works in a clone as well.
The next step at the run's home reads it."""

from __future__ import annotations

import getpass
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.kinds import EXPERIMENT, HUMAN, MANUAL
from matterstack.core.model import OperatorSpec
from matterstack.core.recorded import AttemptRow
from matterstack.core.selection import one_task, select_tasks
from matterstack.core.states import AttemptState
from matterstack.core.times import to_text
from matterstack.core.values import dump_json_lines
from matterstack.deferred import dataclass
from matterstack.errors import RunRootError, UsageError
from matterstack.hints import Hint
from matterstack.operators.answers import LARGEST, BadAnswer, NotYet, check_data, read_answer, read_task
from matterstack.run_root.files import write_once
from matterstack.run_root.layout import RESPONSE, RESULT, attempt_folder
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.views.reading import reading


@dataclass(frozen=True)
class Question:
    """What a person is asked in an attempt; `asked` is that of its task.json."""

    root: Path
    task_id: str
    attempt: int
    folder: Path
    asked: Mapping[str, Any]
    answered_before: bool = False  # an earlier attempt has an answer that others may have used
    stale: str = ""  # why, if it shows older results than there are

    @property
    def schema(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.asked.get("response_schema")
        return found

    @property
    def instructions(self) -> str:
        """What is asked, with the paths of its inputs as they are from the current folder."""
        return from_here(str(self.asked.get("instructions") or ""), self.folder)

    @property
    def answer_path(self) -> Path:
        return self.folder / RESPONSE


def find_question(root: str | Path, task: str) -> Question:
    """Return the question of a task that waits for a person. Raises UsageError where none does, saying what is."""
    with reading(root) as (path, store):
        task_id = one_task(store.task_ids(), task)
        (row,) = store.tasks([task_id])
        if row.no_work:
            raise UsageError(f"{row.no_work}; {Hint('inbox', path)} lists what waits")
        spec = store.operators(row.campaign_version)[row.operator]
        attempts = store.attempts(task_id)
        _require_waiting(path, store, task_id, spec, attempts)
        attempt, answered_before = attempts[-1].attempt, row.result is not None
        stale = store.stale().get(task_id, "")
    folder = path / attempt_folder(task_id, attempt)
    found = read_task(folder)
    if found is None:
        raise RunRootError(f"{folder / 'task.json'}: is missing or incomplete; restore it from git, or rerun the task")
    question = Question(path, task_id, attempt, folder, found["asked"], answered_before, stale)
    _require_no_answer(question)
    return question


def from_here(text: str, folder: Path) -> str:
    """Return instructions with the inputs named from the current folder; they were written for the attempt's."""
    task = read_task(folder)
    inputs = task["inputs"].values() if task is not None else ()
    paths = {str(file.get("path")) for item in inputs for file in item.get("files", ())}
    paths |= {str(item["path"]) for item in inputs if item.get("path")}
    known = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True) if path.startswith("../"))
    return re.sub(known, lambda found: os.path.relpath(folder / found[0]), text) if known else text


def find_questions(root: str | Path, pattern: str | None = None) -> list[Question]:
    """Return the questions that wait for a person and have no answer yet, of the tasks that a glob names, or of all.

    Raises UsageError if there is none.
    """
    with reading(root) as (path, store):
        chosen = set(select_tasks(store.task_ids(), [pattern])) if pattern is not None else None
        waiting = [
            row
            for row in store.live_attempts()
            if row.state is AttemptState.WAITING and row.wish is None and (chosen is None or row.task_id in chosen)
            and store.operators(row.campaign_version)[row.operator].row is HUMAN
            and not os.path.lexists(path / attempt_folder(*row.key) / RESPONSE)
        ]  # fmt: skip
    if not waiting:
        what = f"of those that '{pattern}' names" if pattern is not None else "of its tasks"
        raise UsageError(f"{path}: none {what} waits for an answer; {Hint('inbox', root)} lists what waits")
    return [find_question(root, row.task_id) for row in sorted(waiting, key=lambda row: row.created_at)]


def _require_waiting(
    root: Path, store: SQLiteStateStore, task_id: str, spec: OperatorSpec, attempts: Sequence[AttemptRow]
) -> None:
    (row,) = store.tasks([task_id])
    if spec.row is not HUMAN:
        instead = {
            MANUAL: f"; {Hint('parcel export', root, task_id, '-o work.tar.gz')} packs it",
            EXPERIMENT: f"; an instrument answers with {RESULT}",
        }.get(spec.row, "")
        raise UsageError(f"{task_id} is carried out by an operator of kind {spec.kind}, not by a person{instead}")
    if attempts and attempts[-1].state is AttemptState.WAITING:
        if attempts[-1].wish is not None:
            raise UsageError(f"{task_id} is being cancelled; it no longer accepts answers")
        return
    if attempts and not attempts[-1].state.is_live and attempts[-1].response is not None:
        record = json.loads(attempts[-1].response)
        by = f"it was answered by {record.get('by')} at {str(record.get('at'))[:16].replace('T', ' ')}"
        raise UsageError(f"{task_id} is {row.state}: {by}; {Hint('rerun', root, task_id)} asks again")
    raise UsageError(f"{task_id} is {row.state} and asks nothing now; {Hint('explain', root, task_id)} says why")


def _require_no_answer(question: Question) -> None:
    if not os.path.lexists(question.answer_path):
        return
    try:
        found = read_answer(question.answer_path, time.time())
    except (BadAnswer, NotYet, OSError):
        found = None
    who = f" by {found[0].get('by')}" if found is not None and found[0].get("by") else ""
    raise UsageError(
        f"{question.task_id} is already answered{who}, in {question.answer_path}; the next step reads it "
        f"({Hint('step', question.root)})"
    )


def user() -> str:
    """Return the name under which somebody answers who does not say another."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def respond(question: Question, *, data: Any, by: str, comment: str | None = None, reject: bool = False) -> Path:
    """Write an answer, whole, where there is none; return its path.

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
        raise UsageError(f"{question.task_id} has been asked again; answer the new question")
    try:
        if len(text.encode()) > LARGEST:
            raise UsageError(f"{question.task_id}: an answer of {len(text)} bytes; at most {LARGEST}")
        if not write_once(question.answer_path, text):
            _require_no_answer(question)
    except UnicodeEncodeError:
        raise UsageError(f"{question.task_id}: the answer holds a text that is not UTF-8") from None
    except OSError as error:
        raise RunRootError(f"{question.answer_path}: cannot be written: {error.strerror or error}") from None
    return question.answer_path
