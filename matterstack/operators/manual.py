"""The manual operator: work for a closed cluster, carried there and back by a person.

The attempt's folder is the exchange. `status.json` says that it is done; what a parcel brings back (`parcel import`)
is put there as well. The handle remembers who took a parcel, and when.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.model import LiveAttempt, Observation, Sighting, Submission
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import to_text
from matterstack.operators.answers import (
    BadAnswer,
    NotYet,
    check_status,
    decode,
    exit_code_of,
    is_fresh,
    lately_changed,
    owner_of,
    printable,
    read_answer,
    read_task,
    times_of,
)
from matterstack.operators.asking import NO_FOLDER, FileOperator, instructions, require_task, terms_of
from matterstack.operators.claims import take_claim
from matterstack.run_root.files import write_beside
from matterstack.run_root.layout import INSTRUCTIONS, STATUS

_HOW = [
    "This is run on a machine that MatterStack does not reach. `command.sh` in this folder is the command; it reads its inputs",
    "by the paths above. `parcel export` packs all of it, so that nothing has to be looked for.", "",
    f"However it is run: when all outputs are in this folder, write `{STATUS}` last:", "",
    '    {"status": "COMPLETED"}', "", 'If it went wrong: `{"status": "FAILED", "error": "why"}`.', "",
]  # fmt: skip


_FAILURES = {
    "timeout": FailureClass.TIMEOUT,
    "left_running": FailureClass.LEFT_RUNNING,
}  # that run.sh of a parcel tells


class ManualOperator(FileOperator):
    def ask(self, folder: Path) -> Submission:
        task = require_task(folder)
        write_beside(folder / INSTRUCTIONS, instructions(task, _HOW), errors="backslashreplace")
        return Submission(json.dumps(terms_of(task["asked"])), AttemptState.WAITING)

    def answer(self, attempt: LiveAttempt) -> Observation | None:
        return _status(attempt, time.time())

    def progress(self, attempt: LiveAttempt, terms: Mapping[str, Any]) -> Reason:
        return handed(terms)

    def withdraw(self, attempt: LiveAttempt) -> Observation:
        take_claim(Path(attempt.folder), "cancel")
        why = reason(Code.WITHDRAWN, what="parcel", handed=handed(decode(attempt.handle)) or None)
        return Observation(Sighting.ENDED, failure=FailureClass.CANCELLED, reason=why)


def handed(terms: Mapping[str, Any]) -> Reason:
    """Return who took the work, and when; no reason before somebody did."""
    parcel = terms.get("parcel")
    if not isinstance(parcel, dict):
        return NO_REASON
    if terms.get("returned_at"):
        return reason(Code.CAME_BACK, at=str(terms["returned_at"]))
    return reason(Code.HANDED_OVER, by=printable(parcel.get("by"), 60), at=str(parcel.get("at")))


def _status(attempt: LiveAttempt, now: float) -> Observation | None:
    """Return what status.json makes of an attempt; None while there is none, or the folder is still being written."""
    folder = Path(attempt.folder)
    found = read_answer(folder / STATUS, now)
    if found is None:
        return None
    answer, seen = found
    task = read_task(folder)
    if task is None:
        return Observation(Sighting.UNKNOWN, reason=NO_FOLDER)
    status = check_status(STATUS, answer)
    for key, mine in (("task", attempt.task_id), ("attempt", attempt.attempt)):
        if key in answer and answer[key] != mine:
            raise BadAnswer(f"{STATUS} is of {key} {printable(answer[key], 60)}, not of this one")
    started, at = times_of(answer, seen, "ended_at", now)
    who = answer.get("by") or owner_of(seen)
    record = {**answer, "by": who, "at": to_text(at)}
    code = exit_code_of(STATUS, answer)
    if status == "FAILED":
        failure = _FAILURES.get(str(answer.get("failure")), FailureClass.EXIT_CODE)
        error = printable(answer["error"]) if answer.get("error") else None
        why = reason(Code.STATUS_FAILED, file=STATUS, error=error, exit_code=code)
        return Observation(
            Sighting.ENDED,
            exit_code=code,
            failure=failure,
            reason=why,
            response=record,
            started_at=started,
            ended_at=at,
            warned=answer.get("warned") is True,
        )
    if code not in (None, 0):
        raise BadAnswer(f"{STATUS} says COMPLETED but gives exit code {code}")
    if "returned_at" not in decode(attempt.handle) and _still_written(folder, task, seen, now):
        raise NotYet
    return Observation(
        Sighting.ENDED,
        exit_code=code,
        reason=reason(Code.STATUS_COMPLETED, file=STATUS),
        response=record,
        started_at=started,
        ended_at=at,
    )


def _still_written(folder: Path, task: Mapping[str, Any], status: os.stat_result, now: float) -> bool:
    """Return whether files may still be on their way: an output changed after status.json, or one that is missing.

    A copy that keeps the times of files changes that of the folder as long as it goes on.
    """
    outputs = [folder / item["file"] for item in task["outputs"].values() if not item.get("optional")]
    missing = [path for path in outputs if not path.exists()]
    changed = [at for path in outputs for at in _times(path) if at > status.st_mtime]
    if missing and lately_changed([folder, folder / STATUS], now):
        return True
    return any(is_fresh(at, now) for at in changed)


def _times(path: Path) -> Iterator[float]:
    try:
        yield path.stat().st_mtime
        if path.is_dir():
            for item in path.rglob("*"):
                yield item.stat().st_mtime
    except OSError:
        return
