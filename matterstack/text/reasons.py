"""The sentence for each reason. Wording is free to change here: nothing compares it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.reasons import Code, Reason, reason_from_json
from matterstack.core.values import format_duration
from matterstack.hints import Hint

RUN = "RUN"  # stands for the run where a sentence is not shown for one in particular

Render = Callable[[Reason, "str | Path"], str]


def sentence(found: Reason, run: str | Path = RUN) -> str:
    """Return a reason as one sentence without a full stop, "" for none; ``run`` is named in commands to type."""
    return _SENTENCES[found.code](found, run)


def _nested(found: Reason, name: str, run: str | Path) -> str:
    return sentence(found.nested(name), run)


def minute(at: object) -> str:
    """Return a time of the ledger for a person, to the minute: `2026-11-25 09:14 UTC`."""
    return f"{str(at)[:16].replace('T', ' ')} UTC"


def describe_exit(exit_code: int | None) -> str:
    """Return an exit code for a person: `exit code 1`, `exit code 137 (SIGKILL)`, `exit code 127 (…)`."""
    if exit_code is None:
        return "no exit code"
    hint = {126: " (the command cannot be executed)", 127: " (command not found)"}.get(exit_code, "")
    if 128 < exit_code < 160:
        try:
            hint = f" ({signal.Signals(exit_code - 128).name})"
        except ValueError:
            hint = ""
    return f"exit code {exit_code}{hint}"


def some(names: Any, most: int = 5) -> str:
    """Return names as a list for a message, the first of many."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")


def _missing_outputs(found: Reason, run: str | Path) -> str:
    names, wrong = found["names"], found["wrong"] or []
    said = [f"{some(names)} {'was' if len(names) == 1 else 'were'} not written"] if names else []
    return f"{_nested(found, 'after', run)}, but {'; '.join([*said, *wrong[:5]])}"


def _attempt_failed(found: Reason, run: str | Path) -> str:
    which = f"attempt {found['attempt']}"
    if found["of"] is not None and found["try"] == found["attempt"]:
        which += f" of {found['of']}"
    elif found["of"] is not None:  # after a rerun, which starts the count again
        which += f" (try {found['try']} of {found['of']})"
    return f"{which}: {_nested(found, 'because', run)}"


_NOT_STARTED = {
    "claimed": "claimed by a step before it could start",
    "interrupted": "the hand-over was interrupted before it could start",
    "no files": "the hand-over was interrupted before its files were written",
    "no claim": "its worker could not write its claim",
}
_RECORDS = {
    "missing": " and left no exit.json",
    "torn": " (its exit.json is incomplete or belongs to another attempt)",
    "no claim": ", and its claim was removed from its folder",
    "no folder": ", and its folder was removed",
    "torn claim": ", and its claim is no longer complete",
}


def _gone(found: Reason, run: str | Path) -> str:
    what = "the machine was rebooted" if found["rebooted"] else "its process is gone"
    return what + _RECORDS[found["record"]]


def _defect(found: Reason, run: str | Path) -> str:
    return f"{found['during']} failed: {found['error']}; defect.txt has the traceback"


def _input_gone(found: Reason, run: str | Path) -> str:
    again = f", or {Hint('rerun', run, found['upstream'], '--downstream')}" if found["upstream"] else ""
    return (
        f"its input {found['input']}, {found['path']}, {found['how']}; restore it and "
        f"{Hint('rerun', run, found['task'])}{again}"
    )


def _input_changed(found: Reason, run: str | Path) -> str:
    origin = found["upstream"]
    again = f", or {Hint('rerun', run, origin, '--downstream')} makes it anew" if origin else ""
    since = f"since {origin} wrote it" if origin else "since it was recorded"
    digests = f"sha256 {found['now'][:12]}…, recorded {found['recorded'][:12]}…" if found["now"] else found["recorded"]
    by = f"; read by {some(found['readers'], 3)}" if found["readers"] else ""
    return f"{found['path']} was changed {since} ({digests}{by}); restore it and {Hint('rerun', run, found['task'])}{again}"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _peak(found: Reason) -> str:
    size = found.values.get("max_rss")
    return f", its largest process had {size / 2**20:.0f}M" if size else ""


_STATES = {"FAILED": "failed", "BLOCKED": "is blocked", "CANCELLED": "was cancelled"}


def _upstream(found: Reason, run: str | Path) -> str:
    return f"{found['task']} {_STATES[found['state']]}{', which is allowed' if found['allowed'] else ''}"


def _measures(values: Mapping[str, Any], before: str) -> str:
    """Return values by their names, such as `train.rmse 0.034`, or nothing."""
    shown = (f"{name} {_measure(value)}" for name, value in values.items())
    return f"{before}{', '.join(shown)}" if values else ""


def _measure(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _too_few(found: Reason, run: str | Path) -> str:
    needed = found["min_count"] if found["min_count"] is not None else f"{found['min_percent']:g}%"
    return f"{found['completed']} of {found['counted']} completed upstream, at least {needed} needed"


def _all_skipped(found: Reason, run: str | Path) -> str:
    more = ", …" if found["more"] else ""
    return f"every task of {found['entry']} was skipped ({found['first']}{more})"


def _give_up(run: str | Path) -> Hint:
    return Hint("adopt", run, rest="--assume lost")


def _elsewhere(found: Reason, run: str | Path) -> str:
    where = f"in another container of {found['host']}" if found["container"] else f"on {found['host']}"
    return f"runs {where}, unknown here; step the run there, or if that is gone for good, {_give_up(run)}"


def _hidden(found: Reason, run: str | Path) -> str:
    owner = found["owner"]
    return (
        f"was started by {owner}, whose processes cannot be seen by others here; step the run as {owner}, or if it is "
        f"certainly gone, {_give_up(run)}"
    )


def _orphans(found: Reason, run: str | Path) -> str:
    pids = some(found["pids"])
    if found["certain"]:
        return f"its worker is gone, its command is still running (pid {pids})"
    return f"its worker is gone; pid {pids} of its session may belong to it: end it, or if it does not, {_give_up(run)}"


def _links(found: Reason, run: str | Path) -> str:
    return "; ".join(
        f"results/{link['path']} {'of an older attempt was not removed' if link.get('old') else 'was not linked'}: "
        f"{link['why']}"
        for link in found["links"]
    )


def _unchanged(found: Reason) -> str:
    count = found["attempts"]
    return "its attempt is unchanged" if count == 1 else f"its {count} attempts are unchanged"


def _given_up(found: Reason, run: str | Path) -> str:
    if found["adopting"]:
        return "assumed lost by a person when the run was adopted"
    return f"assumed lost by a person ({_nested(found, 'seen', run)})"


def _with_comment(text: str, comment: object) -> str:
    return f"{text}: {comment}" if comment else text


def _withdrawn(found: Reason, run: str | Path) -> str:
    if found["what"] == "question":
        return "the question was withdrawn"
    if found["what"] == "request":
        return "the request was withdrawn"
    handed = _nested(found, "handed", run)
    return f"{handed}; what comes back will not be accepted" if handed else "it was withdrawn"


def _status_failed(found: Reason, run: str | Path) -> str:
    code = found["exit_code"]
    why = found["error"] or (describe_exit(code) if code is not None else "without saying why")
    return f"{found['file']} says FAILED: {why}"


_SENTENCES: dict[Code, Render] = {
    Code.NONE: lambda _, run: "",
    Code.SAID: lambda r, run: str(r["text"]),
    Code.ALSO: lambda r, run: "; ".join(sentence(reason_from_json(part), run) for part in r["parts"]),
    Code.EXIT_CODE: lambda r, run: describe_exit(r["exit_code"]),
    Code.FAILED_AS: lambda r, run: str(r["failure"]),
    Code.TIME_LIMIT: lambda r, run: f"stopped at its time limit of {format_duration(r['time_s'])}",
    Code.BY_HAND: lambda r, run: f"done by {r['by']}: {r['why']}",
    Code.REUSED: lambda r, run: f"the result of {r['task']}, attempt {r['attempt']}, of {r['run']}",
    Code.WARNED: lambda r, run: (
        f"ended with exit code {r['exit_code']} when it was warned of its time limit of {format_duration(r['time_s'])}"
    ),
    Code.NEVER_FITS: lambda r, run: (
        f"asks for {_gpus(r['asked'])}, operator '{r['operator']}' has {r['there']} here; it stays READY until it is stepped where there are more"
    ),
    Code.NO_DEVICES: lambda r, run: f"needs {_gpus(r['asked'])}, and {r['free']} of the machine's are free",
    Code.LEFT_RUNNING: lambda r, run: (
        f"its command ended, and left processes running, which were ended: {some(r['names'])}; let it wait for them, or set `background`"
    ),
    Code.INTERRUPTED: lambda r, run: f"ended from outside (by {r['by']}), which is not its failure",
    Code.INTERRUPTED_AGAIN: lambda r, run: f"starts again, and uses no retry: {_nested(r, 'because', run)}",
    Code.TOO_OFTEN_INTERRUPTED: lambda r, run: f"interrupted {r['times']} times in a row: {_nested(r, 'because', run)}",
    Code.CLAIM_HELD: lambda r, run: (
        f"its worker is gone, and a process that it started holds {r['folder']}/claim (`fuser` names it): end that, or if it is not the command's, {_give_up(run)}"
    ),
    Code.OUT_OF_MEMORY: lambda r, run: f"killed by the kernel for its memory (exit code {r['exit_code']}{_peak(r)})",
    Code.GONE: _gone,
    Code.MISSING_OUTPUTS: _missing_outputs,
    Code.CANCELLED_AT_END: lambda r, run: f"cancelled ({_nested(r, 'after', run)})",
    Code.NOT_STARTED: lambda r, run: _NOT_STARTED[r["why"]],
    Code.NO_ROOM: lambda r, run: str(r["text"]),
    Code.METRICS_IGNORED: lambda r, run: f"metrics.json is ignored: {r['why']}",
    Code.METRICS_INVALID: lambda r, run: (
        "metrics.json: " + ", ".join(f"'{name}' {why}" for name, why in [*r["values"].items()][:5])
    ),
    Code.OUTPUT_IS_LINK: lambda r, run: (
        f"{r['output']} is a link to {r['target']}, outside of the run: copies and git do not have the file"
    ),
    Code.UNREADABLE: lambda r, run: f"it ended, and {r['path']} cannot be read: {r['error']}",
    Code.GIVEN_UP: _given_up,
    Code.REJECTED: lambda r, run: str(r["text"]),
    Code.TEMPLATE: lambda r, run: str(r["text"]),
    Code.DEFECT: _defect,
    Code.INPUT_CHANGED: _input_changed,
    Code.INPUT_GONE: _input_gone,
    Code.ATTEMPT_FAILED: _attempt_failed,
    Code.NEVER_STARTED: lambda r, run: (
        f"attempt {r['attempt']}: not started, {r['times']} times in a row: {_nested(r, 'because', run)}"
    ),
    Code.RETRY: lambda r, run: f"retry {r['retry']} of {r['of']} after {_nested(r, 'because', run)}",
    Code.RESTART: lambda r, run: f"restart {r['restart']} of {r['of']} after {_nested(r, 'because', run)}",
    Code.NO_PROGRESS: lambda r, run: (
        f"attempt {r['attempt']}: no progress: {_nested(r, 'because', run)}, twice in a row, and no restart file was written"
    ),
    Code.TOO_MANY_RESTARTS: lambda r, run: (
        f"attempt {r['attempt']}: {_nested(r, 'because', run)}, after {r['of']} restart{'s' if r['of'] != 1 else ''}"
    ),
    Code.ASKED_AGAIN: lambda r, run: f"asked again: {_nested(r, 'because', run)}",
    Code.BAD_ANSWERS: lambda r, run: f"{r['times']} bad answers in a row, the last: {_nested(r, 'because', run)}",
    Code.POSTPONED: lambda r, run: f"not accepted: {_nested(r, 'because', run)}",
    Code.CANCELLED: lambda r, run: "cancelled",
    Code.UPSTREAM: _upstream,
    Code.CONDITION_FALSE: lambda r, run: f"when: {r['condition']} is false",
    Code.ALL_SKIPPED: _all_skipped,
    Code.TOO_FEW: _too_few,
    Code.NO_ROWS: lambda _, run: "its result gives no rows",
    Code.NO_INPUT: lambda r, run: f"nothing matches its input {r['input']} ({r['pattern']})",
    Code.BAD_ROWS: lambda r, run: f"its instances cannot be made: {r['text']}",
    Code.KNOWN: lambda r, run: f"its instances are known: {r['count']:,}",
    Code.ROUND: lambda r, run: f"round {r['round']} of at most {r['of']}{_measures(r['values'], ', after the last ')}",
    Code.LOOP_DONE: lambda r, run: (
        f"round {r['round']} of at most {r['of']} met its condition{_measures(r['values'], ': ')}"
    ),
    Code.ROUNDS_DONE: lambda r, run: (
        f"{r['rounds']} rounds are done, the most that `max` allows"
        + (f"; its condition was not met{_measures(r['values'], ': ')}" if r["condition"] else "")
    ),
    Code.ROUND_FAILED: lambda r, run: f"in round {r['round']} {r['task']} {_STATES[r['state']]}",
    Code.LIMIT_CPU_HOURS: lambda r, run: (
        f"{r['used']:,.5g} of {r['most']:,.5g} cpu-hours used"
        + (f", the next needs {r['next']:,.5g}" if r["next"] else "")
    ),
    Code.LIMIT_ATTEMPTS: lambda r, run: f"{r['attempts']:,} of {r['most']:,} attempts made",
    Code.LIMIT_FAILURES: lambda r, run: (
        f"{r['failures']:,} task{' has' if r['failures'] == 1 else 's have'} failed since the last resume, the limit is "
        f"{r['most']:,}"
    ),
    Code.CANNOT_SEE: lambda r, run: f"cannot be seen: {r['what'] + ': ' if r['what'] else ''}{r['error']}",
    Code.CANNOT_CLAIM: lambda r, run: f"cannot be claimed: {r['error']}",
    Code.CANNOT_RECORD: lambda r, run: (
        f"has ended but cannot be recorded yet: {r['what']}: {r['error']}; the next step will retry"
    ),
    Code.OTHER_CONTENT: lambda r, run: f"{some(r['files'])} already exists with different content",
    Code.ELSEWHERE: _elsewhere,
    Code.NOT_RECORDED_WHERE: lambda r, run: "it is not recorded where it runs",
    Code.HIDDEN: _hidden,
    Code.ORPHANS: _orphans,
    Code.CLAIM_INCOMPLETE: lambda r, run: "its claim is not written in full yet",
    Code.NO_FOLDER: lambda r, run: "its folder or task.json is gone; restore it from git, or rerun the task",
    Code.LINKS: _links,
    Code.OPERATOR_UNUSABLE: lambda r, run: f"operator '{r['operator']}' cannot be used: {r['error']}",
    Code.OPERATOR_AWAY: lambda r, run: f"operator '{r['operator']}' is unavailable: {r['error']}; {_unchanged(r)}",
    Code.OPERATOR_RAISED: lambda r, run: (
        f"operator '{r['operator']}' could not be asked: {r['error']}; {_unchanged(r)}"
    ),
    Code.HAND_OVER_UNKNOWN: lambda r, run: (
        f"operator '{r['operator']}' is unavailable: {r['error']}; the next step will find out which attempts it accepted"
    ),
    Code.HAND_OVER_RAISED: lambda r, run: f"operator '{r['operator']}' failed: {r['error']}",
    Code.RETRIES_UNUSABLE: lambda r, run: f"{r['error']}; without valid `retries` this attempt will not be retried",
    Code.INPUT_UNREADABLE: lambda r, run: f"{r['path']} cannot be read: {r['error']}",
    Code.GITIGNORE_UNWRITABLE: lambda r, run: f".gitignore could not be written: {r['error']}",
    Code.RETRIED_LATER: lambda r, run: f"{_nested(r, 'because', run)}; the next step will retry",
    Code.BAD_ANSWER: lambda r, run: str(r["text"]),
    Code.DEADLINE: lambda r, run: f"nobody answered until {minute(r['at'])}, its deadline",
    Code.OVERDUE: lambda r, run: f"overdue since {minute(r['since'])}",
    Code.ANSWERED: lambda r, run: _with_comment(f"answered by {r['by']}", r["comment"]),
    Code.REJECTED_BY: lambda r, run: _with_comment(f"rejected by {r['by']}", r["comment"]),
    Code.DEFAULT_TAKEN: lambda r, run: "nobody answered in time; the default was used",
    Code.WITHDRAWN: _withdrawn,
    Code.TAKEN_BY: lambda r, run: f"taken by {r['by'] or 'an instrument'} at {minute(r['at'])}",
    Code.NO_HEARTBEAT: lambda r, run: f"no heartbeat since {str(r['since'])[:19].replace('T', ' ')} UTC",
    Code.ASKED_TO_STOP: lambda r, run: f"{_nested(r, 'taken', run)}; asked to stop ({r['file']}), still running",
    Code.MEASURED: lambda r, run: f"measured by {r['instrument']}" if r["instrument"] else "measured",
    Code.LAB_FAILED: lambda r, run: f"{r['instrument']} failed: {r['error']}",
    Code.HANDED_OVER: lambda r, run: f"handed over to {r['by']} at {minute(r['at'])}",
    Code.CAME_BACK: lambda r, run: f"came back in a parcel at {minute(r['at'])}",
    Code.STATUS_COMPLETED: lambda r, run: f"{r['file']} says COMPLETED",
    Code.STATUS_FAILED: _status_failed,
}
