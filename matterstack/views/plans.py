"""What stands for instances that results make, in words: groups that are not known yet, loops and their rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matterstack.core.reasons import Code, reason
from matterstack.core.recorded import TaskRow
from matterstack.core.states import TaskState
from matterstack.orchestration.growth import measures
from matterstack.storage.queries import Queries
from matterstack.text.reasons import sentence

_SHOWN = tuple(state for state in TaskState if state is not TaskState.RETIRED)


def open_plans(store: Queries) -> list[TaskRow]:
    """Return loops, and groups whose instances are not known, in the order of the campaign."""
    if not store.newest_campaign().has_unknown:
        return []
    return store.plans(*_SHOWN)


def in_words(store: Queries, row: TaskRow) -> str:
    """Return what is to be said of a plan beside its name: how far a loop is, what a group waits for."""
    if row.plan == "loop":
        return _loop(store, row)
    if row.state not in (TaskState.PENDING, TaskState.READY):
        return sentence(row.reason)
    waits = dict.fromkeys(upstream for _, upstream in store.entries([row.task_id])[row.task_id])
    return not_known(waits, store.campaign(row.campaign_version).tasks[row.group].expect)


def not_known(waits_for: Iterable[str], expect: int | None) -> str:
    """Return what is said of a group whose instances are not known."""
    guess = f"; expect {expect:,}" if expect is not None else ""
    return f"not known yet: waits for {', '.join(waits_for)}{guess}"


def _loop(store: Queries, row: TaskRow) -> str:
    if row.state.is_settled:
        return sentence(row.reason)
    repeat = store.campaign(row.campaign_version).tasks[row.group].repeat
    assert repeat is not None
    number = round_of(store, row)
    if not number:
        return f"at most {repeat.max} rounds"
    values = values_of(store, row, number - 1) if number > 1 else {}
    return sentence(reason(Code.ROUND, round=number, of=repeat.max, values=values))


def round_of(store: Queries, row: TaskRow) -> int:
    """Return the round that a loop is in, 0 before the first."""
    return int(store.made(row.task_id).get("round", 0))


def values_of(store: Queries, row: TaskRow, number: int) -> Mapping[str, Any]:
    """Return the values of `until` after a round, by their names; without those of tasks outside of the loop."""
    spec = store.campaign(row.campaign_version).tasks[row.group]
    found = measures(spec, store.round_values(f"{row.task_id}/{number}"))
    return {name: value for name, value in found.items() if value is not None}
