"""Files that people, labs and closed clusters write: read only when they are whole, and never trusted.

A file that is no JSON, or cannot be one, is waited for as long as it may still be being written: 5 s from its last
change. After that it is a bad answer, with a reason in words.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from matterstack.core.model import Observation, Sighting
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.core.states import FailureClass
from matterstack.core.times import from_text, to_text
from matterstack.core.validation import SchemaError, schema_violation
from matterstack.run_root.files import digest_of_listing, read_regular, sha256_of
from matterstack.run_root.layout import TASK

log = logging.getLogger("matterstack")

SETTLED_S = 5.0  # a file that was not changed for so long is not being written any more
_CLOCK_SKEW_S = 60.0  # by which the clock of a file server may be ahead of ours
LARGEST = 1 << 20  # bytes of an answer; it is kept in the ledger
STATES = ("COMPLETED", "FAILED")


class BadAnswer(ValueError):
    """A whole answer that is none; the text says why."""


class NotYet(Exception):
    """There is an answer, and it may still be being written: nothing is decided, no deadline either."""


def is_fresh(changed_at: float, now: float) -> bool:
    """Return whether something may still be being written. A clock that is far off does not make it fresh for ever."""
    return -_CLOCK_SKEW_S < now - changed_at < SETTLED_S


def read_answer(path: Path, now: float) -> tuple[dict[str, Any], os.stat_result] | None:
    """Read a JSON object that somebody else writes; None while it is absent.

    Raises NotYet while it may still be being written, BadAnswer for what is whole, or has been left half-written, and is
    no answer; OSError if it cannot be told.
    """
    try:
        seen = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = _read(path, seen)
    except FileNotFoundError:
        return None  # it went between the two looks
    except BadAnswer:
        if is_fresh(seen.st_mtime, now):
            raise NotYet from None
        raise
    if not isinstance(data, dict):
        raise BadAnswer(f"{path.name} is {_kind(data)}, not an object")
    return data, seen


def _read(path: Path, seen: os.stat_result) -> Any:
    if stat.S_ISLNK(seen.st_mode):
        raise BadAnswer(f"{path.name} is a link; write the file itself")
    if not stat.S_ISREG(seen.st_mode):
        raise BadAnswer(f"{path.name} is not a regular file")
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadAnswer(f"{path.name} is not a regular file")
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise BadAnswer(f"{path.name} is larger than {LARGEST} bytes")
    return parse_json(path.name, raw)


def parse_json(name: str, raw: bytes) -> Any:
    """Read JSON that somebody else wrote, with nothing in it that could not be kept. Raises BadAnswer."""
    if not raw.strip():
        raise BadAnswer(f"{name} is empty")
    try:
        data = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_number, parse_float=_finite)
        json.dumps(data, ensure_ascii=False).encode()  # a lone surrogate is JSON, and no text that could be kept
    except UnicodeError:
        raise BadAnswer(f"{name} is not UTF-8") from None
    except RecursionError:
        raise BadAnswer(f"{name} is nested too deeply") from None
    except ValueError as error:
        raise BadAnswer(f"{name} is not JSON: {str(error)[:100]}") from None
    if _depth(data) > 50:
        raise BadAnswer(f"{name} is nested deeper than 50 levels")
    return data


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _depth(data: Any) -> int:
    """Return how deeply lists and mappings are nested, level by level."""
    depth, level = 0, [data]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _kind(data: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(data), "null")


def check_status(name: str, answer: Mapping[str, Any]) -> str:
    """Return `COMPLETED` or `FAILED`. Raises BadAnswer for another status, and for keys that are no texts."""
    status = answer.get("status")
    if status not in STATES:
        got = "missing" if "status" not in answer else f"{json.dumps(status, ensure_ascii=False)[:60]}"
        raise BadAnswer(f"{name}: `status` is {got}; it must be COMPLETED or FAILED")
    for key in ("error", "by", "at", "comment", "instrument", "token", "started_at", "ended_at"):
        if answer.get(key) is not None and not isinstance(answer[key], str):
            raise BadAnswer(f"{name}: `{key}` must be a text")
    return str(status)


def check_data(name: str, data: Any, schema: Mapping[str, Any] | None, key: str) -> None:
    """Raise BadAnswer where ``data`` is none by the schema under ``key`` of the task."""
    if schema is None:
        return
    try:
        problem = schema_violation(schema, data)
    except SchemaError as error:
        raise BadAnswer(f"{name}: `data` cannot be checked by the {key}: {error}") from None
    if problem:
        raise BadAnswer(f"{name}: `data` does not satisfy {key}: {printable(problem)}")


def exit_code_of(name: str, answer: Mapping[str, Any]) -> int | None:
    """Return the exit code that an answer names. Raises BadAnswer for what is none."""
    code = answer.get("exit_code")
    if code is None:
        return None
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255:
        raise BadAnswer(f"{name}: `exit_code` must be a number from 0 to 255")
    return code


def times_of(answer: Mapping[str, Any], seen: os.stat_result, key: str, now: float) -> tuple[float | None, float]:
    """Return (begun, ended) of what an answer tells of, none later than now; ``key`` names its end, else the file's time."""
    started, ended = from_text(answer.get("started_at")), from_text(answer.get(key))
    return None if started is None else min(started, now), min(seen.st_mtime if ended is None else ended, now)


def lately_changed(paths: Iterable[Path], now: float) -> bool:
    """Return whether one of these may still be being written, also by a copy that keeps the times of files."""
    for path in paths:
        with suppress(OSError):
            found = path.stat()
            if is_fresh(found.st_mtime, now) or is_fresh(found.st_ctime, now):
                return True
    return False


def with_defaults(schema: Mapping[str, Any] | None, data: Any) -> Any:
    """Return an answer with the defaults of its schema for the fields that it does not have."""
    properties = (schema or {}).get("properties")
    if not isinstance(data, dict) or not isinstance(properties, Mapping):
        return data
    fields = properties.items()
    defaults = {name: field["default"] for name, field in fields if isinstance(field, Mapping) and "default" in field}
    return {**defaults, **data}


def owner_of(seen: os.stat_result) -> str:
    """Return the name of a file's owner, or his number."""
    try:
        import pwd

        return pwd.getpwuid(seen.st_uid).pw_name
    except (ImportError, KeyError):
        return str(seen.st_uid)


def printable(text: object, limit: int = 300) -> str:
    """Return a text of others as one line for a terminal: no control characters, and not without end."""
    line = " ".join(str(text).split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def bad(text: str, at: float | None = None) -> Observation:
    """Return the observation of a bad answer: the attempt ends, the file is kept, and the task asks again."""
    why = reason(Code.BAD_ANSWER, text=printable(text))
    return Observation(Sighting.ENDED, failure=FailureClass.BAD_RESPONSE, reason=why, ended_at=at)


# --- files ----------------------------------------------------------------------------------------------------------


def inside(folder: Path, name: str) -> Path | None:
    """Return a path below a folder that somebody else named; None if it leads out of it, also by links."""
    if not name or "\0" in name or os.path.isabs(name):
        return None
    path = folder / os.path.normpath(name)
    try:
        path.stat()
        home = folder.resolve()
        if not path.resolve().is_relative_to(home) or path.resolve() == home:
            return None
    except (OSError, RuntimeError):
        return None
    return None if os.path.normpath(name).startswith("..") else path


def digest_of_output(path: Path) -> str:
    """Return the sha256 of a file; of a folder that of the lines `<sha256>  <relative path>`, sorted by path.

    Raises OSError, and BadAnswer for a folder with links: what they lead to is not what was measured.
    """
    if path.is_file():
        return sha256_of(path)
    link = next((item for item in path.rglob("*") if item.is_symlink()), None)
    if link is not None:
        raise BadAnswer(
            f"{printable(link.name, 60)} in {printable(path.name, 60)}/ is a link; put the file itself there"
        )
    return digest_of_listing(
        {file.relative_to(path).as_posix(): sha256_of(file) for file in path.rglob("*") if file.is_file()}
    )


# --- deadlines ------------------------------------------------------------------------------------------------------


def deadline_passed(asked: Mapping[str, Any], now: float) -> bool:
    """Return whether the time to answer is over; ``asked`` holds `deadline_at`, if there is one."""
    at = from_text(asked.get("deadline_at"))
    return at is not None and now >= at


def overdue(asked: Mapping[str, Any]) -> Reason:
    """Return since when an answer is overdue: the same from step to step."""
    at = from_text(asked.get("deadline_at"))
    return reason(Code.OVERDUE, since=to_text(at)) if at is not None else NO_REASON


# --- asking ---------------------------------------------------------------------------------------------------------


def read_task(folder: Path) -> dict[str, Any] | None:
    """Read task.json of an attempt's folder; None if it is not there or not whole."""
    data = read_json_object(folder / TASK)
    parts = ("asked", "inputs", "outputs", "run", "matrix")
    return data if data is not None and all(isinstance(data.get(key), dict) for key in parts) else None


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object of ours; None if it is not there or not whole."""
    try:
        data = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def decode(handle: str) -> dict[str, Any]:
    """Read a handle; empty if it is none."""
    if handle in ("", "{}"):  # of most that wait: thousands may be read in a step
        return {}
    try:
        data = json.loads(handle)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def attempt_by_attempt(attempts: Any, look: Callable[[Any], Observation | None]) -> dict[tuple[str, int], Observation]:
    """Look at each attempt by itself: one whose files cannot be read just now is unknown, the others go on."""
    out = {}
    for attempt in attempts:
        try:
            seen = look(attempt)
        except NotYet:
            seen = None
        except BadAnswer as error:
            seen = bad(str(error))
        except OSError as error:
            name = os.path.basename(str(error.filename or ""))
            why = reason(Code.CANNOT_SEE, what=name, error=str(error.strerror))
            seen = Observation(Sighting.UNKNOWN, reason=why)
        except Exception as error:  # a defect met at one attempt: the others must still be seen
            log.warning("%s, attempt %s", *attempt.key, exc_info=True)
            why = reason(Code.CANNOT_SEE, error=printable(f"{type(error).__name__}: {error}"))
            seen = Observation(Sighting.UNKNOWN, reason=why)
        if seen is not None:
            out[attempt.key] = seen
    return out
