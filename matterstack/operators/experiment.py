"""The laboratory operator: a request in a file, taken by an instrument with a claim, and a result in a file.

`docs/lab-protocol.md` is the instrument's side. As with people, all that is asked stands in task.json, and the
request is made of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.core.model import LiveAttempt, Observation, Sighting, Submission
from matterstack.core.reasons import NO_REASON, Code, Reason, also, reason
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import to_text
from matterstack.core.values import dump_json_lines
from matterstack.operators.answers import (
    BadAnswer,
    NotYet,
    check_data,
    check_status,
    decode,
    digest_of_output,
    inside,
    lately_changed,
    owner_of,
    printable,
    read_answer,
    read_task,
    times_of,
)
from matterstack.operators.asking import NO_FOLDER, FileOperator, instructions, require_task, terms_of
from matterstack.operators.claims import Claim, read_claim, take_claim
from matterstack.run_root.files import write_beside
from matterstack.run_root.layout import CANCEL, CLAIM, HEARTBEAT, INSTRUCTIONS, REQUEST, RESULT

_HEARTBEAT_S = 60.0  # between two, if the instrument does not say otherwise
_MISSED = 3  # so many heartbeats late, it is stale


class ExperimentOperator(FileOperator):
    def ask(self, folder: Path) -> Submission:
        """Write the request of an attempt whose task.json is there, the file by which an instrument finds it last."""
        task = require_task(folder)
        asked = task["asked"]
        content = {
            "task": task["task"], "attempt": task["attempt"], "run": task["run"], "token": asked["token"],
            "instructions": asked.get("instructions") or "", "parameters": asked.get("parameters") or {},
            "matrix": task["matrix"],
            "inputs": {
                name: [{"path": file["path"], "sha256": file["sha256"]} for file in item["files"]]
                for name, item in task["inputs"].items()
            },
            "outputs": {name: {"file": item["file"], "optional": bool(item.get("optional"))}
                        for name, item in task["outputs"].items()},
            "result_schema": asked.get("result_schema"), "deadline_at": asked.get("deadline_at"),
            "created_at": task["created_at"],
        }  # fmt: skip
        write_beside(folder / INSTRUCTIONS, instructions(task, _how(content)), errors="backslashreplace")
        write_beside(folder / REQUEST, dump_json_lines(content), errors="backslashreplace")
        return Submission(json.dumps({"token": asked["token"], **terms_of(asked)}), AttemptState.WAITING)

    def answer(self, attempt: LiveAttempt) -> Observation | None:
        return _result(attempt, time.time())

    def progress(self, attempt: LiveAttempt, terms: Mapping[str, Any]) -> Reason:
        folder = Path(attempt.folder)
        claim = read_claim(folder)
        if claim is None:
            return NO_REASON
        return also(_taken(claim, folder), _stale_heartbeat(folder, time.time()))

    def withdraw(self, attempt: LiveAttempt) -> Observation:
        """Take the request back. One that an instrument has taken is asked to stop, and ends by its result."""
        folder = Path(attempt.folder)
        claim = take_claim(folder, "cancel")
        if claim is None or claim.by == "step":
            why = reason(Code.WITHDRAWN, what="request")
            return Observation(Sighting.ENDED, failure=FailureClass.CANCELLED, reason=why)
        if not (folder / CANCEL).exists():
            task = read_task(folder)
            token = task["asked"].get("token") if task is not None else decode(attempt.handle).get("token")
            write_beside(
                folder / CANCEL,
                dump_json_lines({"token": token, "at": to_text(time.time())}),
                errors="backslashreplace",
            )
        why = reason(Code.ASKED_TO_STOP, file=CANCEL, taken=_taken(claim, folder))
        return Observation(Sighting.WAITING, reason=why)


def _how(request: Mapping[str, Any]) -> list[str]:
    """Return the part of instructions.md for somebody at the instrument, who may answer by hand."""
    lines = [f"- {name}: {printable(_with_unit(value))}" for name, value in request["parameters"].items()]
    lines = ["Parameters:", "", *lines, ""] if lines else []
    wanted = [f"- {name}: `{item['file']}`" + (" (may be left out)" if item["optional"] else "")
              for name, item in request["outputs"].items()]  # fmt: skip
    lines += ["Files wanted in this folder:", "", *wanted, ""] if wanted else []
    if request.get("result_schema") is not None:
        lines += [
            "Values wanted, as JSON Schema:",
            "",
            f"    {json.dumps(request['result_schema'], ensure_ascii=False)}",
            "",
        ]
    files = {name: {"path": item["file"], "sha256": "…"} for name, item in request["outputs"].items()}
    answer = {"status": "COMPLETED", "token": request["token"], "data": {}, "files": files}
    return [
        *lines, f"An instrument takes `{REQUEST}` with a `claim` (docs/lab-protocol.md of MatterStack). By hand: create the file",
        f"`claim` with your name, put the files here, and write `{RESULT}` last (sha256 by `sha256sum FILE`):", "",
        f"    {json.dumps(answer, ensure_ascii=False)}", "", 'If it went wrong: `"status": "FAILED"` and an `"error"`.', "",
    ]  # fmt: skip


def _with_unit(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"value", "unit"}:
        return f"{value['value']} {value['unit']}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _taken(claim: Claim, folder: Path) -> Reason:
    who = claim.data.get("by") or claim.data.get("instrument")
    since = to_text((folder / CLAIM).stat().st_mtime)
    return reason(Code.TAKEN_BY, by=printable(who, 60) if who else None, at=since)


def _stale_heartbeat(folder: Path, now: float) -> Reason:
    try:
        last = os.stat(folder / HEARTBEAT).st_mtime
        found = read_answer(folder / HEARTBEAT, now)
    except (OSError, BadAnswer, NotYet):
        return NO_REASON  # it is optional, and decides nothing
    interval = found[0].get("interval_s") if found is not None else None
    if isinstance(interval, bool) or not isinstance(interval, int | float) or interval <= 0:
        interval = _HEARTBEAT_S
    if now - last <= _MISSED * interval:
        return NO_REASON
    return reason(Code.NO_HEARTBEAT, since=to_text(last))


def _result(attempt: LiveAttempt, now: float) -> Observation | None:
    """Return what a result makes of an attempt; None while there is none."""
    folder = Path(attempt.folder)
    found = read_answer(folder / RESULT, now)
    if found is None:
        return None
    answer, seen = found
    task = read_task(folder)
    if task is None:
        return Observation(Sighting.UNKNOWN, reason=NO_FOLDER)
    status = check_status(RESULT, answer)
    if answer.get("token") != task["asked"].get("token"):
        raise BadAnswer(f"{RESULT}: `token` is {printable(answer.get('token'), 60)}, not that of the request")
    who = answer.get("instrument") or owner_of(seen)
    started, at = times_of(answer, seen, "ended_at", now)
    record = {**answer, "data": {} if answer.get("data") is None else answer["data"], "by": who, "at": to_text(at)}
    if status == "FAILED":
        error = printable(answer.get("error") or "without saying why")
        lab = printable(answer.get("instrument") or "the laboratory", 60)
        why = reason(Code.LAB_FAILED, instrument=lab, error=error)
        return Observation(
            Sighting.ENDED,
            failure=FailureClass.EXIT_CODE,
            reason=why,
            response=record,
            started_at=started,
            ended_at=at,
        )
    check_data(RESULT, record["data"], task["asked"].get("result_schema"), "result_schema")
    named = _named_files(task, {} if answer.get("files") is None else answer["files"])
    try:
        files = _files(folder, task, named)
    except BadAnswer:
        if lately_changed([folder, folder / RESULT, *folder.rglob("*")], now):
            raise NotYet from None  # its files may still be on their way
        raise
    instrument = printable(answer["instrument"], 60) if answer.get("instrument") else None
    why = reason(Code.MEASURED, instrument=instrument)
    return Observation(Sighting.ENDED, reason=why, response=record, files=files, started_at=started, ended_at=at)


def _named_files(task: Mapping[str, Any], given: Any) -> dict[str, dict[str, str]]:
    """Return `files` of a result as it should be: {output: {"path", "sha256"}}. Raises BadAnswer."""
    if not isinstance(given, dict):
        raise BadAnswer(f"{RESULT}: `files` must be an object")
    for name, item in given.items():
        shown = printable(name, 60)
        if name not in task["outputs"]:
            raise BadAnswer(f"{RESULT}: `files.{shown}` is not an output of the request")
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("path", "sha256")):
            raise BadAnswer(f"{RESULT}: `files.{shown}` needs `path` and `sha256`")
    return given


def _files(folder: Path, task: Mapping[str, Any], named: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, str]]:
    """Find and check the files of a result; return {output: (file, sha256)}. Raises BadAnswer."""
    out = {}
    for name, item in named.items():
        path = inside(folder, item["path"])
        is_folder = task["outputs"][name]["file"].endswith("/")
        if path is None or (is_folder and not path.is_dir()) or (not is_folder and not path.is_file()):
            what = "folder" if is_folder else "file"
            raise BadAnswer(f"{RESULT}: `files.{printable(name, 60)}.path` is no {what} of the attempt's folder")
        digest = digest_of_output(path)
        if digest != item["sha256"].lower():
            shown = printable(item["path"], 60)
            raise BadAnswer(f"{RESULT}: {shown} has sha256 {digest[:12]}…, not {printable(item['sha256'], 12)}…")
        out[name] = (path.relative_to(folder).as_posix() + ("/" if is_folder else ""), digest)
    return out
