"""How what the ledger holds is decoded into the values of `core.recorded`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from types import NoneType
from typing import Any, TypeVar

from matterstack.core.model import ResolvedOutput, inputs_from_json, outputs_from_json
from matterstack.core.readiness import TaskStanding
from matterstack.core.reasons import NO_REASON, Reason, reason_from_json
from matterstack.core.recorded import AttemptRow, TaskRow
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.core.values import Float, Int
from matterstack.deferred import filled

T = TypeVar("T")


class Undecodable(ValueError):
    """The ledger holds something that no MatterStack wrote there; the text quotes it."""


TASK_COLUMNS = (
    "task_id, position, group_name, label, campaign_version, operator, priority, state, reason, soft, cause, watch, "
    "retry_at, paused, tries, attempts, result, restarts, carry, plan"
)
ATTEMPT_COLUMNS = (
    "task_id, attempt, state, operator, campaign_version, handle, wish, wished_at, created_at, started_at, ended_at, "
    "exit_code, failure, reason, counts, unlinked, cpus, memory, time_s, source_digest, response, usage, gpus, licences, work, carry, stalled"
)


def decode(function: Callable[[Any], T], value: Any) -> T:
    """Decode what the ledger holds. Raises Undecodable."""
    try:
        return function(value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Undecodable(f"it holds {str(value)[:60]!r}") from None


def reason_of(text: str) -> Reason:
    return decode(lambda text: reason_from_json(json.loads(text)), text) if text else NO_REASON


def _require(row: tuple[Any, ...], *columns: int, kinds: tuple[type, ...]) -> None:
    """Raise Undecodable where a column does not hold a value of one of these types: SQLite stores any in any."""
    for column in columns:
        if type(row[column]) not in kinds:
            raise Undecodable(f"it holds {str(row[column])[:60]!r}")


_NUMBERS = (int, float, NoneType)


def task_row(row: tuple[Any, ...]) -> TaskRow:
    _require(row, 1, 4, 14, 15, kinds=(int,))
    _require(row, 12, 16, kinds=_NUMBERS)
    values: list[Any] = [
        *row[:7], decode(TaskState, row[7]), reason_of(row[8]), bool(row[9]), *row[10:13], bool(row[13]), *row[14:],
    ]  # fmt: skip
    return filled(TaskRow, values)


def attempt_row(row: tuple[Any, ...]) -> AttemptRow:
    _require(row, 1, 4, 16, 22, kinds=(int,))
    _require(row, 7, 8, 9, 10, 11, 17, 18, kinds=_NUMBERS)
    failure = decode(FailureClass, row[12]) if row[12] else None
    values: list[Any] = [
        *row[:2], decode(AttemptState, row[2]), *row[3:12], failure, reason_of(row[13]), bool(row[14]),
        reason_of(row[15]), *row[16:-4], decode(json.loads, row[-4]) if row[-4] else {}, row[-3], row[-2], bool(row[-1]),
    ]  # fmt: skip
    return filled(AttemptRow, values)


def standing(row: tuple[Any, ...] | None) -> TaskStanding | None:
    """Return a row of (task_id, position, state, soft, cause)."""
    return None if row is None else TaskStanding(row[0], row[1], decode(TaskState, row[2]), bool(row[3]), row[4])


def inputs(text: str) -> Any:
    return decode(lambda text: inputs_from_json(json.loads(text)), text)


def outputs(text: str) -> dict[str, ResolvedOutput]:
    return decode(lambda text: outputs_from_json(json.loads(text)), text)


def plain(text: str | None) -> dict[str, Any]:
    """Decode metrics or an answer: JSON of others, in which no key is ours; numbers keep their text."""
    data: dict[str, Any] = decode(partial(json.loads, parse_int=Int, parse_float=Float), text or "{}")
    if not isinstance(data, dict):
        raise Undecodable(f"it holds {str(text)[:60]!r}")
    return data


def data_of(response: str | None) -> Any:
    """Return the data of an answer; empty without one."""
    data = plain(response).get("data")
    return {} if data is None else data
