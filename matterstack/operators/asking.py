"""What operators share whose hand-over and answers are files: for people, laboratories and closed clusters.

All that is asked stands in task.json, which the step writes last of what it makes; the other files are made of it, so
that a hand-over that was interrupted is finished by writing them. What is looked at in every step, the deadline, stands
in the handle.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from matterstack.core.model import Launch, LiveAttempt, Observation, OperatorSpec, Sighting, Submission
from matterstack.core.reasons import NO_REASON, Code, Reason, also, reason
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text
from matterstack.errors import SubmissionRejected
from matterstack.operators.answers import attempt_by_attempt, deadline_passed, decode, overdue, printable, read_task
from matterstack.operators.base import Key
from matterstack.operators.claims import take_claim
from matterstack.run_root.layout import RESPONSE, RESPONSE_SCHEMA, TASK

NO_FOLDER = reason(Code.NO_FOLDER)


_WAITING = Observation(Sighting.WAITING)  # what is seen of most, of perhaps thousands


class FileOperator(ABC):
    """An operator of files. A kind says how it asks, reads an answer and takes back; the rest is the same for all."""

    def __init__(self, spec: OperatorSpec) -> None:
        self.spec = spec

    @abstractmethod
    def ask(self, folder: Path) -> Submission:
        """Write the files of an attempt whose task.json is there; also again. Raises OSError."""

    @abstractmethod
    def answer(self, attempt: LiveAttempt) -> Observation | None:
        """Return what an answer makes of an attempt; None while there is none. Raises BadAnswer, NotYet, OSError."""

    @abstractmethod
    def withdraw(self, attempt: LiveAttempt) -> Observation:
        """Take an attempt back that nobody has answered, claiming it first; return what is seen of it then."""

    def progress(self, attempt: LiveAttempt, terms: Mapping[str, Any]) -> Reason:
        """Return who is working on it: the same from step to step while nothing changes."""
        return NO_REASON

    def too_late(self, attempt: LiveAttempt, terms: Mapping[str, Any]) -> Observation:
        """Return the end of an attempt that nobody answered in time."""
        when = str(terms.get("deadline_at"))
        why = reason(Code.DEADLINE, at=when)
        return Observation(Sighting.ENDED, failure=FailureClass.DEADLINE, ended_at=from_text(when), reason=why)

    # --- the protocol ---

    def origin(self) -> str:
        return "{}"

    def slots(self) -> tuple[int | None, int | None]:
        return None, None

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        out = {}
        for launch in launches:
            with suppress(OSError):  # left out: its outcome is unknown, and `recover` finishes it
                out[launch.task_id, launch.attempt] = self.ask(Path(launch.folder))
        return out

    def recover(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return attempt_by_attempt(attempts, self._recover)

    def observe(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return attempt_by_attempt(attempts, self._look)

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return attempt_by_attempt(attempts, self._take_back)

    def wake_fds(self, attempts: Sequence[LiveAttempt]) -> Sequence[int]:
        return ()

    def _recover(self, attempt: LiveAttempt) -> Observation:
        """Finish an interrupted hand-over; one whose task.json was not written whole is made anew."""
        folder = Path(attempt.folder)
        if read_task(folder) is None:
            take_claim(folder, "recover")
            return Observation(Sighting.NOT_STARTED, reason=reason(Code.NOT_STARTED, why="no files"))
        return Observation(Sighting.WAITING, handle=self.ask(folder).handle)

    def _look(self, attempt: LiveAttempt) -> Observation:
        answered = self.answer(attempt)
        if answered is not None:
            return answered
        if not os.path.exists(f"{attempt.folder}/{TASK}"):
            return Observation(Sighting.UNKNOWN, reason=NO_FOLDER)
        terms = decode(attempt.handle)
        late = bool(terms) and deadline_passed(terms, time.time())
        if late and terms.get("on_deadline") != "remind":
            return self.too_late(attempt, terms)
        progress = self.progress(attempt, terms)
        if not late and not progress:
            return _WAITING
        return Observation(Sighting.WAITING, reason=also(progress, overdue(terms)) if late else progress)

    def _take_back(self, attempt: LiveAttempt) -> Observation:
        answered = self.answer(attempt) if attempt.state is not AttemptState.SUBMITTING else None
        return answered if answered is not None else self.withdraw(attempt)


def require_task(folder: Path) -> dict[str, Any]:
    """Read task.json of an attempt's folder. Raises FileNotFoundError if it is not there or not whole."""
    task = read_task(folder)
    if task is None:
        raise FileNotFoundError(2, "is missing or incomplete", str(folder / TASK))
    return task


def terms_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a request that every step examines and that its handle keeps: the deadline."""
    return {key: asked[key] for key in ("deadline_at", "on_deadline") if asked.get(key) is not None}


def instructions(task: Mapping[str, Any], how: Sequence[str] | None = None) -> str:
    """Return instructions.md: what is asked, on what, and ``how`` to answer (by default as a person does)."""
    asked = task["asked"]
    lines = [f"# {task['task']}", "", asked.get("instructions") or "(no instructions)", ""]
    if asked.get("refused"):
        lines += [f"**The previous answer was not accepted.** {printable(asked['refused'])} (its files were kept)", ""]
    inputs = [(name, file) for name, item in task["inputs"].items() for file in item["files"]]
    if inputs:
        lines += ["## Inputs", ""]
        lines += [
            f"- {name}: [{_file(file['path'])}](<{file['path']}>) sha256 `{file['sha256']}`" for name, file in inputs
        ]
        lines.append("")
    lines += ["## Answer", ""]
    if asked.get("response_schema") is not None:
        lines += [f"The fields, as JSON Schema, are in [{RESPONSE_SCHEMA}]({RESPONSE_SCHEMA}).", ""]
    if asked.get("deadline_at"):
        after = {"default": "then the default answer is used", "remind": "then it counts as overdue"}
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
    """Return what an answer looks like, its fields by name."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties:
        return "{…}"
    return "{" + ", ".join(f"{json.dumps(str(name), ensure_ascii=False)}: …" for name in properties) + "}"
