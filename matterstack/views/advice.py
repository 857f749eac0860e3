"""What to do about a failure, by its class. Nothing is advised that cannot change the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matterstack.core.recorded import AttemptRow
from matterstack.core.states import FailureClass
from matterstack.deferred import dataclass
from matterstack.hints import Hint


@dataclass(frozen=True)
class Advice:
    """What to do, in words, and the commands to type for it, one after the other."""

    text: str
    commands: tuple[Hint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "commands": [hint.command for hint in self.commands]}


_MORE = {
    FailureClass.TIMEOUT: ("time", "more `resources.time`"),
    FailureClass.OUT_OF_MEMORY: ("memory", "more `resources.memory`"),
}
_AGAIN = {
    FailureClass.INTERRUPTED: "it was ended from outside, and is not to blame: run it again",
    FailureClass.LOST: "it may have been the machine: run it again",
    FailureClass.NODE_FAIL: "the machine failed: run it again",
    FailureClass.NOT_STARTED: "look at the machine (processes, disk, memory), then run it again",
    FailureClass.DEADLINE: "nobody answered in time: ask again",
    FailureClass.BAD_RESPONSE: "tell whoever answers what is wrong, then ask again",
    FailureClass.UNREADABLE: "make it readable if you need what it left, then run it again",
    FailureClass.DEFECT: "the traceback says where: report it if it is MatterStack's, then run it again",
    FailureClass.CANCELLED: "run it again",
}


def advice_for(
    attempt: AttemptRow | None, rerun: Hint, run: str | Path, *, campaign: str, runs_command: bool, soft: bool
) -> tuple[Advice, ...]:
    """Return what to do about a task that failed.

    ``campaign`` is the file to correct, ``soft`` says that the failure is allowed.
    """
    failure = attempt.failure if attempt is not None else None
    again = Advice("run it again", (rerun,))
    amend = Hint("amend", run)
    if soft:
        return (Advice("its failure is allowed; to run it again all the same", (rerun,)),)
    if failure in _AGAIN:
        return (Advice(_AGAIN[failure], (rerun,)),)
    if failure is FailureClass.INPUT_CHANGED:
        return (Advice("restore the file, then run it again", (rerun,)),)
    if failure in _MORE:
        key, more = _MORE[failure]
        text = f"it needs {more}, or `retries: {{max: 1, {failure}: {{{key}: x2}}}}`: write that into {campaign}, and take it"
        return (Advice(text, (amend,)), Advice("if it was chance", (rerun,)))
    if failure is FailureClass.LEFT_RUNNING:
        text = f"end the command with `wait`, or set `background: wait` or `leave`, in {campaign}, and take that"
        return (Advice(text, (amend,)),)
    if failure is FailureClass.TEMPLATE:
        return (Advice(f"correct {campaign}, and take that", (amend,)), Advice(
            "if a task above gives other values once it runs again", (rerun,)))  # fmt: skip
    if failure is FailureClass.REJECTED:
        if not runs_command:
            return (Advice("ask again", (rerun,)),)
        corrected = Advice(f"or correct {campaign}, and take that", (amend,))
        return (Advice("set or remove here what is named, then run it again", (rerun,)), corrected)
    text = f"if {campaign}, or a file that it names, is wrong: correct it there, take that, and run this again"
    corrected = Advice(text, (amend, rerun))
    if attempt is not None and attempt.exit_code in (126, 127):
        return (Advice("if the program can be found now", (rerun,)), corrected)
    return (corrected,) if runs_command else (again, corrected)
