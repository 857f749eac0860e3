"""Every error that MatterStack raises on purpose, and the exit codes.

    MatterStackError                     1   it could not work
    ├── UsageError                       2   a mistake in usage or in a file
    │   └── CampaignError                2   the campaign file, all of its problems
    ├── RunRootError                     1   a run root that cannot be read or written
    ├── RunLockedError(BlockingIOError) 75   another process works on this run
    ├── RunIsCopyError                   1   a copy or clone of a run, which only `adopt` lets write
    ├── LedgerError(RuntimeError)        1   a ledger that is refused
    │   ├── LedgerMissingError               lost
    │   ├── LedgerUnfinishedError            a killed step left a commit to roll back, which a reader cannot
    │   ├── LedgerNewerError                 written by a newer MatterStack
    │   ├── LedgerForeignError               not ours, or of another run
    │   ├── LedgerDamagedError               truncated, corrupt, or of no version
    │   ├── LedgerTakenOverError             another process has committed since it was opened
    │   └── JournalError                     journal and ledger contradict each other
    ├── TemplateError                    2   a `${{ … }}` that cannot be parsed or resolved
    └── OperatorError                    1
        ├── SubmissionRejected               not accepted: FAILED, or tried again later
        └── OperatorUnavailable              outcome unknown

Failed work is no error of ours: it is a recorded state. Everything else that escapes is a defect and
shows its traceback.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import field
from enum import IntEnum

from matterstack.deferred import dataclass

_UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Escape what would break a line or do something to a terminal: names may hold anything."""
    return _UNPRINTABLE.sub(_escaped, text)


# Errors of the system that pass: a full disk, no more processes or file descriptors, a file system that went away.
TRANSIENT = frozenset(
    {
        errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS,
    }
)  # fmt: skip

# And errors that stay: what may not be read, or is named too long.
STAYS = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP})


TICK = 25  # level of remarks, between INFO and WARNING: shown unless --quiet


class ExitCode(IntEnum):
    """What a command's exit status says."""

    FINE = 0  # done, or work remains
    COULD_NOT_WORK = 1  # disk, permission, refused ledger, a defect
    MISTAKE = 2  # in usage or in a file
    RUN_FAILED = 3  # `step` and `run`: the run is FAILED or CANCELLED
    NEEDS_PEOPLE = 4  # `run`: nothing left but people, or paused
    LOCKED = 75  # EX_TEMPFAIL of sysexits.h: try again later


class MatterStackError(Exception):
    """An error with a one-line message for a person."""

    exit_code = ExitCode.COULD_NOT_WORK


class UsageError(MatterStackError):
    exit_code = ExitCode.MISTAKE


@dataclass(frozen=True)
class Problem:
    """One mistake in a file, at a 1-based line and column (0: the file as a whole)."""

    file: str
    line: int
    column: int
    where: str
    message: str
    severity: str = "error"  # or "warning"
    unknown_key: bool = False  # the last part of `where` should not be there
    path: tuple[str | int, ...] = field(default=(), compare=False)  # what `where` says, of a value of the file

    def __post_init__(self) -> None:
        # A message quotes what stands in the file: it stays one line, and does nothing to a terminal.
        for name in ("where", "message"):
            object.__setattr__(self, name, one_line(getattr(self, name)))

    def __str__(self) -> str:
        file = one_line(self.file)
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        kind = "warning: " if self.severity == "warning" else ""
        where = f"{self.where}: " if self.where else ""
        return f"{place}: {kind}{where}{self.message}"


class CampaignError(UsageError):
    """The problems of a campaign file, sorted by position; the message has a line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class RunRootError(MatterStackError):
    pass


class RunIsCopyError(MatterStackError):
    pass


class RunLockedError(MatterStackError, BlockingIOError):
    exit_code = ExitCode.LOCKED


class LedgerError(MatterStackError, RuntimeError):
    pass


class LedgerMissingError(LedgerError):
    """``what`` is the predicate of the sentence."""

    what = "missing"

    def __init__(self, path: object, remedy: object) -> None:
        super().__init__(f"{path} is missing; {remedy}")


class LedgerUnfinishedError(LedgerError):
    pass


class LedgerNewerError(LedgerError):
    pass


class LedgerForeignError(LedgerError):
    pass


class LedgerDamagedError(LedgerError):
    """``what`` says in which way."""

    def __init__(self, path: object, what: str, remedy: object) -> None:
        super().__init__(f"{path} is damaged: {what}; {remedy}")
        self.what = what


class LedgerTakenOverError(LedgerError):
    pass


class JournalError(LedgerError):
    pass


class TemplateError(UsageError):
    """``keys`` say where below a task the template is, as far as that is known; they come first in the message."""

    def __init__(self, what: str, keys: Sequence[str] = ()) -> None:
        super().__init__(f"{'.'.join(keys)}: {what}" if keys else what)
        self.what, self.keys = what, tuple(keys)


class ValueRefused(ValueError):
    """A value that cannot be, under these keys of a task."""

    def __init__(self, what: str, keys: Sequence[str]) -> None:
        super().__init__(f"{'.'.join(keys)}: {what}")
        self.what, self.keys = what, tuple(keys)


class OperatorError(MatterStackError):
    pass


class SubmissionRejected(OperatorError):
    """The work was not accepted, for certain: nothing was started.

    With ``retry_later`` the refusal is temporary (queue full, no more processes): the task is handed over again by a
    later step, without using a retry.
    """

    def __init__(self, message: str, *, retry_later: bool = False) -> None:
        super().__init__(message)
        self.retry_later = retry_later


class OperatorUnavailable(OperatorError):
    """The operator could not be asked; nothing is known about the outcome."""
