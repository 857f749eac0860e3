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
    attempt: AttemptRow | None,
    rerun: Hint,
    run: str | Path,
    *,
    campaign: str,
    another_run: str,
    has_source: bool,
    runs_command: bool,
    soft: bool,
) -> tuple[Advice, ...]:
    """Return what to do about a task that failed.

    ``campaign`` is the file to correct, ``another_run`` the options that make another run of it. ``has_source`` says whether
    the run has files of the campaign folder that a correction may concern, ``soft`` that the failure is allowed.
    """
    failure = attempt.failure if attempt is not None else None
    again = Advice("run it again", (rerun,))
    text = f"if the mistake is in {campaign}, which this run no longer reads: correct it there and start another run"
    another = Advice(text, (Hint("run", campaign, None, another_run),))
    if soft:
        return (Advice("its failure is allowed; to run it again all the same", (rerun,)),)
    if failure in _AGAIN:
        return (Advice(_AGAIN[failure], (rerun,)),)
    if failure is FailureClass.INPUT_CHANGED:
        return (Advice("restore the file, then run it again", (rerun,)),)
    if failure in _MORE:
        key, more = _MORE[failure]
        text = f"it needs {more}, or `retries: {{max: 1, {failure}: {{{key}: x2}}}}`, in {campaign}: start another run"
        chance = Advice("if it was chance, or a corrected script needs less", (rerun,))
        return (Advice(text, another.commands), chance)
    if failure is FailureClass.LEFT_RUNNING:
        text = f"end the command with `wait`, or set `background: wait` or `leave`, in {campaign}: start another run"
        return (Advice(text, another.commands),)
    if failure is FailureClass.TEMPLATE:
        return (Advice(f"correct {campaign} and start another run", another.commands), Advice(
            "if a task above gives other values once it runs again", (rerun,)))  # fmt: skip
    if failure is FailureClass.REJECTED:
        if not runs_command:
            return (Advice("ask again", (rerun,)),)
        return (Advice("set or remove here what is named, then run it again", (rerun,)), another)
    refresh = Advice("if a file of the campaign is wrong, correct it", (Hint("refresh", run, rest="--yes"), rerun))
    if attempt is not None and attempt.exit_code in (126, 127):
        found = Advice("if the program can be found now", (rerun,))
        return (found, *((refresh,) if has_source else ()), another)
    return (refresh, another) if has_source else (again, another)
