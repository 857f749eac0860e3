"""Why attempts failed, from what they left: what they printed last, where their shell ended; and failures that are alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.reasons import Code
from matterstack.core.recorded import AttemptRow, TaskRow
from matterstack.core.states import FailureClass, TaskState
from matterstack.deferred import dataclass
from matterstack.hints import Hint
from matterstack.run_root.attempts import read_tail
from matterstack.run_root.environments import environment_at_init, environment_of
from matterstack.run_root.files import read_regular
from matterstack.run_root.layout import COMMAND, DEFECT, SOURCE, STDERR, STDOUT, attempt_folder
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.text.reasons import sentence
from matterstack.views.reading import reading

SAID_BY_US = "matterstack: "  # before a line in stderr.log that says where a shell ended, see operators/strict.bash
_MOST_LINES = 5
_MOST_READ = 2000  # failures whose logs are read; above that, class and exit code tell them apart
_ERROR = re.compile(
    r"error|fatal|abort|fail|exception|not converge|no such|denied|cannot|killed|segmentation", re.IGNORECASE
)
_NO_ERROR = re.compile(r"\b(?:0|no|without|zero) (?:\w+ )?(?:errors?|fail\w*)|(?:errors?|fail\w*)\W+0\b", re.IGNORECASE)
_VARYING = re.compile(
    r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8,}\b|(?:\.{0,2}/)[^\s'\":,;)]+|[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
)


@dataclass(frozen=True)
class Cause:
    """What an attempt left that says why it failed."""

    where: str = ""  # where its shell ended: `command.sh: line 3: grep -c x: exit code 1`
    lines: tuple[str, ...] = ()  # the last that it printed, on stderr or, where that says nothing, on stdout
    error: str = ""  # an earlier one, or one on stdout, that speaks of an error where these do not
    path: str | None = None  # of the file that they are in, or of the attempt's folder; below the run root
    remarks: tuple[str, ...] = ()  # what explains it, and what to do about that

    @property
    def line(self) -> str:
        """The one line that says most."""
        return self.error or (self.lines[-1] if self.lines else self.where)

    def shown(self, most: int) -> tuple[str, ...]:
        """Return at most ``most`` lines that it printed: the one that speaks of an error, and the last."""
        if not self.error:
            return self.lines[-most:]
        return (self.error, *(self.lines[1 - most :] if most > 1 else ()))


def cause_of(root: Path, attempt: AttemptRow, worked: str | None = None) -> Cause:
    """Return what an attempt's files say about its failure. Nothing that is unreadable is an error here.

    ``worked`` is the folder of an attempt of the same task that completed, if there is one.
    """
    folder = attempt_folder(attempt.task_id, attempt.attempt)
    if not (root / folder).is_dir():
        return Cause()
    defect = read_tail(root / folder / DEFECT)
    if defect:
        return Cause(lines=tuple(defect[-1:]), path=f"{folder}/{DEFECT}")
    printed = read_tail(root / folder / STDERR)
    where = next((line for line in reversed(printed) if line.startswith(SAID_BY_US)), "").removeprefix(SAID_BY_US)
    foreign = [line for line in printed if not line.startswith(SAID_BY_US)]
    path = f"{folder}/{STDERR}" if printed else folder
    out = read_tail(root / folder / STDOUT)
    if not foreign and out:
        foreign, path = out, f"{folder}/{STDOUT}"
    lines, error = tuple(foreign[-_MOST_LINES:]), ""
    if lines and not any(map(_speaks_of_error, lines)):
        error = next((line for line in reversed([*out, *foreign]) if _speaks_of_error(line)), "")
        path = f"{folder}/{STDOUT}" if error in out else path
    remarks = list(_remarks(root, folder, attempt, worked))
    if attempt.failure is FailureClass.EXIT_CODE and not (where or lines or remarks):
        remarks.append(
            "it printed nothing: the program itself gave this exit code, or a shell ended by `exit` or with a condition that was "
            "false, as in `[ … ] && …`"
        )
    return Cause(where, lines, error, path, tuple(remarks))


def _speaks_of_error(line: str) -> bool:
    return bool(_ERROR.search(line)) and not _NO_ERROR.search(line)


def _remarks(root: Path, folder: str, attempt: AttemptRow, worked: str | None) -> Iterable[str]:
    code = attempt.exit_code
    if code in (126, 127):
        yield from _other_path(root, folder, worked)
        yield from _windows_line_ends(root, folder)
    if code == 141:
        yield "141 is SIGPIPE: the reader of a pipe ended before its writer, as `head` does"


def _other_path(root: Path, folder: str, worked: str | None) -> Iterable[str]:
    """Say in what the PATH of an attempt that did not find a command differs from the one at init, or of one that worked."""
    now = environment_of(root, folder)
    others = {f"that of {worked}, which worked": environment_of(root, worked)} if worked is not None else {}
    for whose, then in {**others, "the one at init": environment_at_init(root)}.items():
        if now is None or then is None:
            continue
        before, after = then.get("path") or [], now.get("path") or []
        gone = [str(item) for item in before if item not in after]
        if before != after:
            what = (
                f"{', '.join(gone[:3])} {'is' if len(gone) == 1 else 'are'} not on it"
                if gone
                else "its order is another"
            )
            yield (
                f"its PATH is not {whose} ({what}): step the run with the same environment active, or name the environment in "
                "`setup` or `env`"
            )
            return


def worked_folder(store: SQLiteStateStore, group: str) -> str | None:
    """Return the folder of an attempt of a group that completed."""
    found = store.completed_in(group)
    return None if found is None else attempt_folder(*found)


def _windows_line_ends(root: Path, folder: str) -> Iterable[str]:
    """Name the files of the campaign in a command whose `#!` line ends as on Windows."""
    try:
        script = read_regular(root / folder / COMMAND, 1 << 20).decode(errors="replace")
    except OSError:
        return
    for name in dict.fromkeys(re.findall(rf"{SOURCE}/([^\s:'\"]+)", script)):
        try:
            first = read_regular(root / SOURCE / name, 256).split(b"\n")[0]
        except OSError:
            continue
        if first.startswith(b"#!") and first.endswith(b"\r"):
            yield f"{name} has Windows line ends, so its interpreter is not found: sed -i 's/\\r$//' {name}"


@dataclass(frozen=True)
class FailureGroup:
    """Failures with the same cause."""

    group: str
    failure: FailureClass | None
    exit_code: int | None
    what: str  # `exit code 1`
    line: str  # the last that the first of them printed, or where its shell ended
    path: str | None  # below the run root, of the first
    tasks: tuple[str, ...]
    soft: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "group": self.group, "class": str(self.failure) if self.failure else None, "exit_code": self.exit_code,
            "reason": self.what, "line": self.line, "path": self.path, "tasks": list(self.tasks), "allowed": self.soft,
        }  # fmt: skip

    @property
    def text(self) -> str:
        """`13 x exit code 1: KeyError: 'O'`."""
        count = f"{len(self.tasks)} x " if len(self.tasks) > 1 else ""
        allowed = " (allowed)" if self.soft else ""
        return f"{count}{self.what}{allowed}" + (f": {self.line}" if self.line else "")

    def rerun(self, run: str | Path) -> Hint:
        """Return the command that selects exactly these."""
        if len(self.tasks) == 1:
            return Hint("rerun", run, self.tasks[0])
        return Hint("rerun", run, None, f"--like {Hint.quote(self.tasks[0])}")


def failure_groups(root: str | Path) -> list[FailureGroup]:
    """Return the failures of a run by their causes, those that are allowed last, the most frequent first."""
    with reading(root) as (path, store):
        return groups_of(path, store, store.first_in(TaskState.FAILED, 1 << 30))


def groups_of(root: Path, store: SQLiteStateStore, rows: Sequence[TaskRow]) -> list[FailureGroup]:
    found: dict[Any, list[TaskRow]] = {}
    first: dict[Any, tuple[AttemptRow | None, str, Cause]] = {}
    for number, row in enumerate(rows):
        last = store.attempt(row.task_id, row.attempts) if row.attempts else None
        why = row.reason.nested("because") if row.reason.code is Code.ATTEMPT_FAILED else row.reason
        what = sentence(why, root)
        cause = Cause()
        if last is not None and number < _MOST_READ:
            cause = cause_of(root, last, worked_folder(store, row.group) if last.exit_code == 127 else None)
        key = (
            row.group, row.soft, last and last.failure, last and last.exit_code, str(why.code), alike(cause.line, row.task_id),
            () if why.code is Code.EXIT_CODE else alike(what.replace(row.task_id, ""), row.task_id),
        )  # fmt: skip
        found.setdefault(key, []).append(row)
        first.setdefault(key, (last, what, cause))
    groups = [
        FailureGroup(
            key[0], last.failure if last is not None else None, last.exit_code if last is not None else None, what,
            cause.line, cause.path, tuple(row.task_id for row in found[key]), key[1],
        )
        for key, (last, what, cause) in first.items()
    ]  # fmt: skip
    return sorted(groups, key=lambda group: (group.soft, -len(group.tasks)))


def alike(line: str, task_id: str = "") -> str:
    """Return a line without what differs between failures of one cause: numbers, paths, hex, and the instance's own label."""
    label = task_id.partition("/")[2]
    parts = {part for part in re.split(r"[-/,=_]", label) if part} | ({label} if label else set())
    if parts:
        own = "|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True))
        line = re.sub(rf"(?<!\w)(?:{own})(?!\w)", "#", line)
    return _VARYING.sub("#", line)


def group_like(root: Path, store: SQLiteStateStore, task_id: str) -> tuple[str, ...]:
    """Return the tasks that failed as this one did, itself included; none if it has not failed."""
    groups = groups_of(root, store, store.first_in(TaskState.FAILED, 1 << 30))
    return next((group.tasks for group in groups if task_id in group.tasks), ())
