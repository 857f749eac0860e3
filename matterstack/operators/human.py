"""The human operator: a question in files, and an answer in one.

An attempt's folder holds `instructions.md`, `response_schema.json` where there is one, and awaits `response.json`.
All that is asked stands in task.json, which the step writes before; the other files are made of it, so that a
hand-over that was interrupted is finished by writing them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from matterstack.core.model import Launch, LiveAttempt, Observation, OperatorSpec, Sighting, Submission
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text, to_text
from matterstack.core.values import dump_json_lines
from matterstack.errors import SubmissionRejected
from matterstack.operators.answers import (
    BadAnswer,
    attempt_by_attempt,
    check_data,
    check_status,
    deadline_passed,
    decode,
    overdue,
    owner_of,
    printable,
    read_answer,
    read_task,
    times_of,
    with_defaults,
    write_whole,
)
from matterstack.operators.base import Key
from matterstack.operators.claims import take_claim

RESPONSE = "response.json"
INSTRUCTIONS = "instructions.md"
SCHEMA = "response_schema.json"
NO_FOLDER = "its folder or task.json is gone; restore it from git, or rerun the task"


class HumanOperator:
    def __init__(self, spec: OperatorSpec) -> None:
        self.spec = spec

    def origin(self) -> str:
        return "{}"

    def slots(self) -> tuple[int | None, int | None]:
        return None, None

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        return hand_over(launches, ask)

    def recover(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return attempt_by_attempt(attempts, recover)

    def observe(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return attempt_by_attempt(attempts, _look)

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return attempt_by_attempt(attempts, _withdraw)

    def wake_fds(self, attempts: Sequence[LiveAttempt]) -> Sequence[int]:
        return ()


def hand_over(launches: Sequence[Launch], write: Callable[[Path], Submission]) -> dict[Key, Submission]:
    """Write the files of each attempt; one that cannot be written is left out, and finished by `recover`."""
    out = {}
    for launch in launches:
        with suppress(OSError):
            out[launch.task_id, launch.attempt] = write(Path(launch.folder))
    return out


def ask(folder: Path) -> Submission:
    """Write the question of an attempt whose task.json is there. Raises OSError."""
    task = read_task(folder)
    if task is None:
        raise FileNotFoundError(2, "is missing or not whole", str(folder / "task.json"))
    asked = task["asked"]
    if asked.get("response_schema") is not None:
        write_whole(folder / SCHEMA, dump_json_lines(asked["response_schema"]))
    write_whole(folder / INSTRUCTIONS, instructions(task))
    return Submission(json.dumps(terms_of(asked)), AttemptState.WAITING)


def recover(attempt: LiveAttempt) -> Observation:
    """Finish an interrupted question; one whose task.json was not written whole is asked anew."""
    folder = Path(attempt.folder)
    if read_task(folder) is None:
        take_claim(folder, "recover")
        return Observation(Sighting.NOT_STARTED, reason="the hand-over was interrupted before the question was written")
    return Observation(Sighting.WAITING, handle=ask(folder).handle)


def terms_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Give what of a request is looked at in every step, and stands in its handle: the deadline."""
    return {key: asked[key] for key in ("deadline_at", "on_deadline") if asked.get(key) is not None}


def _look(attempt: LiveAttempt) -> Observation:
    answered = _answer(attempt)
    if answered is not None:
        return answered
    if not (Path(attempt.folder) / "task.json").exists():
        return Observation(Sighting.UNKNOWN, reason=NO_FOLDER)
    terms = decode(attempt.handle)
    if not deadline_passed(terms, time.time()):
        return Observation(Sighting.WAITING)
    return _too_late(attempt, terms)


def _answer(attempt: LiveAttempt) -> Observation | None:
    """Give what an answer makes of an attempt; None while there is none."""
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
    data = with_defaults(task["asked"].get("response_schema"), {} if answer.get("data") is None else answer["data"])
    record = {**answer, "data": data, "by": by, "at": to_text(at)}
    if status == "FAILED":
        why = answer.get("comment") or answer.get("error") or ""
        reason = f"rejected by {by}" + (f": {why}" if why else "")
        return Observation(
            Sighting.ENDED, failure=FailureClass.REJECTED, reason=printable(reason), ended_at=at, response=record
        )
    check_data(RESPONSE, record["data"], task["asked"].get("response_schema"), "response_schema")
    comment = f": {answer['comment']}" if answer.get("comment") else ""
    return Observation(Sighting.ENDED, reason=printable(f"answered by {by}{comment}"), ended_at=at, response=record)


_FIELDS = {"task": "task_id", "attempt": "attempt"}


def _too_late(attempt: LiveAttempt, terms: Mapping[str, Any]) -> Observation:
    if terms.get("on_deadline") == "remind":
        return Observation(Sighting.WAITING, reason=overdue(terms))
    at = from_text(terms.get("deadline_at"))
    if terms.get("on_deadline") != "default":
        return missed(terms)
    task = read_task(Path(attempt.folder))
    if task is None:
        return Observation(Sighting.UNKNOWN, reason=NO_FOLDER)
    answer = _default(task)
    return Observation(
        Sighting.ENDED, reason="nobody answered in time; the default was taken", ended_at=at, response=answer,
        leave={RESPONSE: dump_json_lines(answer)},
    )  # fmt: skip


def _default(task: Mapping[str, Any]) -> dict[str, Any]:
    """Give the answer that is taken at the deadline."""
    asked = task["asked"]
    return {
        "status": "COMPLETED", "data": {} if asked.get("default") is None else asked["default"], "error": None,
        "by": "deadline", "at": asked.get("deadline_at"), "comment": "nobody answered in time; this is the task's default",
    }  # fmt: skip


def missed(terms: Mapping[str, Any]) -> Observation:
    """Give the end of an attempt that nobody answered in time."""
    when = str(terms.get("deadline_at"))[:16].replace("T", " ")
    reason = f"nobody answered until {when} UTC, its deadline"
    return Observation(
        Sighting.ENDED, failure=FailureClass.DEADLINE, reason=reason, ended_at=from_text(terms.get("deadline_at"))
    )


def _withdraw(attempt: LiveAttempt) -> Observation:
    with_answer = _answer(attempt) if attempt.state is not AttemptState.SUBMITTING else None
    if with_answer is not None:
        return with_answer
    take_claim(Path(attempt.folder), "cancel")
    return Observation(Sighting.ENDED, failure=FailureClass.CANCELLED, reason="the question was withdrawn")


def instructions(task: Mapping[str, Any], how: Sequence[str] | None = None) -> str:
    """Give instructions.md: what is asked, on what, and ``how`` to answer (by default as a person does)."""
    asked = task["asked"]
    lines = [f"# {task['task']}", "", asked.get("instructions") or "(no instructions)", ""]
    if asked.get("refused"):
        lines += [f"**The answer before was not taken.** {printable(asked['refused'])} (its files are still there)", ""]
    inputs = [(name, file) for name, item in task["inputs"].items() for file in item["files"]]
    if inputs:
        lines += ["## Inputs", ""]
        lines += [
            f"- {name}: [{_file(file['path'])}](<{file['path']}>) sha256 `{file['sha256']}`" for name, file in inputs
        ]
        lines.append("")
    lines += ["## Answer", ""]
    if asked.get("response_schema") is not None:
        lines += [f"The fields, as JSON Schema, are in [{SCHEMA}]({SCHEMA}).", ""]
    if asked.get("deadline_at"):
        after = {"default": "then the default answer is taken", "remind": "then it counts as overdue"}
        what = after.get(str(asked.get("on_deadline")), "then the task fails")
        lines += [f"Until {str(asked['deadline_at'])[:16].replace('T', ' ')} UTC; {what}.", ""]
    if asked.get("responders"):
        lines += [f"Who may answer: {', '.join(map(str, asked['responders']))}.", ""]
    lines += how if how is not None else [
        "In the run root, or with its path in place of the dot:", "",
        f"    matterstack respond . '{task['task']}'", "",
        f"Or write `{RESPONSE}` into this folder (`FAILED` rejects it):", "",
        f'    {{"status": "COMPLETED", "data": {_sample(asked.get("response_schema"))}, "by": "your name", "comment": "why"}}', "",
    ]  # fmt: skip
    return "\n".join(lines)


def _file(path: str) -> str:
    return path.rsplit("/", 1)[-1].replace("[", "\\[").replace("]", "\\]")


def _sample(schema: Any) -> str:
    """Give what an answer looks like, its fields by name."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties:
        return "{…}"
    return "{" + ", ".join(f"{json.dumps(str(name), ensure_ascii=False)}: …" for name in properties) + "}"
