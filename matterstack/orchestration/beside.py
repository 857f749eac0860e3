"""Large groups are expanded while nobody holds the run's lock; the step records what came of it.

A step leaves such a group. Its caller lets the lock go, expands the group from what is on record, and takes the step on:
if all that decided the outcome is still the same, it is recorded, else the group is expanded anew, the third time within
the step.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from matterstack.core.states import TaskState
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.growth import Growing, Outcome, uncollected
from matterstack.orchestration.session import open_ledger
from matterstack.storage.state_store import SQLiteStateStore

_MOST_TIMES = 2  # that a group is expanded beside the lock


@dataclass(frozen=True)
class _Expanded:
    basis: Any  # what decided the outcome
    waits_for: frozenset[str]  # what its instances wait for
    standing: Any  # how that stood
    outcome: Outcome


class Beside:
    """What a step has left, and what was made of it since."""

    def __init__(self) -> None:
        self.left: dict[str, None] = {}  # in the order in which the step met them
        self._found: dict[str, _Expanded] = {}
        self._times: Counter[str] = Counter()

    def outcome(self, growing: Growing) -> Outcome | None:
        """Return what becomes of a group that is READY; None if it waits, or is left to `expand`."""
        task_id = growing.row.task_id
        found = self._found.pop(task_id, None)
        if found is not None and found.basis == growing.basis() and found.standing == growing.standing(found.waits_for):
            return found.outcome
        if self._times[task_id] >= _MOST_TIMES or not growing.is_large():
            return growing.outcome()
        self.left[task_id] = None
        return None

    def expand(self, root: Path) -> None:
        """Expand the first that was left; each that is recorded decides anew what the others are expanded beside.

        What cannot be read or written now is for the step to tell, which tries again.
        """
        task_id = next(iter(self.left))
        self._times[task_id] += 1
        with suppress(MatterStackError, OSError), uncollected(), open_ledger(root, read_only=True) as store:
            self._expand(root, store, task_id)
        self.left.clear()

    def _expand(self, root: Path, store: SQLiteStateStore, task_id: str) -> None:
        for row in store.tasks([task_id]):
            if row.plan != "group" or row.state is not TaskState.READY:
                continue
            growing = Growing(store, RunFiles(root), row)
            basis = growing.basis()  # before anything is read: what changes from here on shows
            outcome = growing.outcome()
            if outcome is not None:
                self._found[task_id] = _Expanded(basis, growing.waits_for, growing.stood, outcome)
