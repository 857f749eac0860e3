"""The human operator: a question in files, and an answer in one.

An attempt's folder holds `instructions.md`, `response_schema.json` where there is one, and awaits `response.json`.
All that is asked stands in task.json, which the step writes before; the other files are made of it, so that a
hand-over that was interrupted is finished by writing them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.core.model import LiveAttempt, Observation, Sighting, Submission
from matterstack.core.reasons import Code, reason
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text, to_text
from matterstack.core.values import dump_json_lines
from matterstack.operators.answers import (
    BadAnswer,
    check_data,
    check_status,
    owner_of,
    printable,
    read_answer,
    read_task,
    times_of,
    with_defaults,
)
from matterstack.operators.asking import (
    NO_FOLDER,
    FileOperator,
    instructions,
    require_task,
    terms_of,
)
from matterstack.operators.claims import take_claim
from matterstack.run_root.files import write_beside
from matterstack.run_root.layout import INSTRUCTIONS, RESPONSE, RESPONSE_SCHEMA


class HumanOperator(FileOperator):
    def ask(self, folder: Path) -> Submission:
        task = require_task(folder)
        asked = task["asked"]
        if asked.get("response_schema") is not None:
            write_beside(folder / RESPONSE_SCHEMA, dump_json_lines(asked["response_schema"]), errors="backslashreplace")
        write_beside(folder / INSTRUCTIONS, instructions(task), errors="backslashreplace")
        return Submission(json.dumps(terms_of(asked)), AttemptState.WAITING)

    def answer(self, attempt: LiveAttempt) -> Observation | None:
        return _answer(attempt)

    def withdraw(self, attempt: LiveAttempt) -> Observation:
        take_claim(Path(attempt.folder), "cancel")
        why = reason(Code.WITHDRAWN, what="question")
        return Observation(Sighting.ENDED, failure=FailureClass.CANCELLED, reason=why)

    def too_late(self, attempt: LiveAttempt, terms: Mapping[str, Any]) -> Observation:
        if terms.get("on_deadline") != "default":
            return super().too_late(attempt, terms)
        task = read_task(Path(attempt.folder))
        if task is None:
            return Observation(Sighting.UNKNOWN, reason=NO_FOLDER)
        answer = _default(task)
        return Observation(
            Sighting.ENDED, reason=reason(Code.DEFAULT_TAKEN), response=answer,
            ended_at=from_text(terms.get("deadline_at")), leave={RESPONSE: dump_json_lines(answer)},
        )  # fmt: skip


def _answer(attempt: LiveAttempt) -> Observation | None:
    """Return what an answer makes of an attempt; None while there is none."""
    if not os.path.lexists(f"{attempt.folder}/{RESPONSE}"):  # as it usually is, of perhaps thousands
        return None
    folder, now = Path(attempt.folder), time.time()
    found = read_answer(folder / RESPONSE, now)
    if found is None:
        return None
    answer, seen = found
    task = read_task(folder)
    if task is None:
        return Observation(Sighting.UNKNOWN, reason=NO_FOLDER)
    status = check_status(RESPONSE, answer)
    wrong = [key for key in ("task", "attempt") if key in answer and answer[key] != getattr(attempt, _FIELDS[key])]
    if wrong:
        raise BadAnswer(f"{RESPONSE} is of {wrong[0]} {printable(answer[wrong[0]], 60)}, not of this one")
    by = answer.get("by") or owner_of(seen)
    _, at = times_of(answer, seen, "at", now)
    responders = task["asked"].get("responders")
    if responders is not None and by not in responders and answer != _default(task):
        raise BadAnswer(f"{printable(by, 60)} may not answer; {', '.join(map(str, responders))} may")
    data = {} if answer.get("data") is None else answer["data"]
    if status != "FAILED":  # a rejection fills nothing in
        data = with_defaults(task["asked"].get("response_schema"), data)
    record = {**answer, "data": data, "by": by, "at": to_text(at)}
    if status == "FAILED":
        comment = printable(answer.get("comment") or answer.get("error") or "") or None
        why = reason(Code.REJECTED_BY, by=printable(by), comment=comment)
        return Observation(Sighting.ENDED, failure=FailureClass.REJECTED, reason=why, ended_at=at, response=record)
    check_data(RESPONSE, record["data"], task["asked"].get("response_schema"), "response_schema")
    why = reason(Code.ANSWERED, by=printable(by), comment=printable(answer.get("comment") or "") or None)
    return Observation(Sighting.ENDED, reason=why, ended_at=at, response=record)


_FIELDS = {"task": "task_id", "attempt": "attempt"}


def _default(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer that is taken at the deadline."""
    asked = task["asked"]
    return {
        "status": "COMPLETED", "data": {} if asked.get("default") is None else asked["default"], "error": None,
        "by": "deadline", "at": asked.get("deadline_at"), "comment": "nobody answered in time; this is the task's default",
    }  # fmt: skip
