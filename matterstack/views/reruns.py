"""Which tasks a `rerun` means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from matterstack.core.below import below
from matterstack.core.selection import one_task, select_tasks
from matterstack.core.states import FailureClass, TaskState
from matterstack.core.suggestions import did_you_mean
from matterstack.deferred import dataclass
from matterstack.errors import UsageError
from matterstack.orchestration.actions import RerunReport, Reset
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.views.failures import group_like
from matterstack.views.reading import reading

_EXIT_CODE = re.compile(r"exit_code_(\d{1,3})")


@dataclass(frozen=True)
class Selection:
    """All that is given must hold of a task: its name, that it failed, how, that it is stale."""

    patterns: Sequence[str] = ()
    failed: bool = False
    stale: bool = False
    failure: str | None = None  # a class, or `exit_code_3`
    like: str | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.patterns or self.failed or self.stale or self.failure or self.like)

    def __call__(self, store: SQLiteStateStore) -> list[str]:
        """Return the tasks in the order of the campaign. Raises UsageError if there is none."""
        known = store.task_ids()
        chosen = select_tasks(known, self.patterns) if self.patterns else list(known)
        for what, narrow in self._conditions(store, known):
            wanted = set(narrow())
            chosen = [task_id for task_id in chosen if task_id in wanted]
            if not chosen:
                raise UsageError(f"no task {what}" + (" among those named" if self.patterns else ""))
        return chosen

    def _conditions(
        self, store: SQLiteStateStore, known: Sequence[str]
    ) -> list[tuple[str, Callable[[], Sequence[str]]]]:
        found: list[tuple[str, Callable[[], Sequence[str]]]] = []
        if self.failed:
            found.append(("has failed", lambda: [r.task_id for r in store.first_in(TaskState.FAILED, 1 << 30)]))
        if self.stale:
            found.append(("is stale", lambda: _stale_and_below(store)))
        if self.failure:
            failure, code = _class_of(self.failure)
            found.append((f"has failed as {self.failure}", lambda: store.failed_as(failure, code)))
        if self.like:
            task_id = one_task(known, self.like)
            (row,) = store.tasks([task_id])
            if row.state is not TaskState.FAILED:
                raise UsageError(f"{task_id} is {row.state}: --like names a task that has FAILED")
            found.append((f"has failed as {task_id} did", lambda: group_like(store.root, store, task_id)))
        return found


def _stale_and_below(store: SQLiteStateStore) -> list[str]:
    """Return what is stale, what runs in a form of before an amendment, and all that has used their results."""
    stale = [*store.stale(), *store.live_of_old_form()]
    wanted = set(stale) | (below(store.all_edges(), stale) if stale else set())
    used = (TaskState.COMPLETED, TaskState.FAILED)
    return [row.task_id for row in store.tasks(wanted) if row.task_id in set(stale) or row.state in used]


def preview_rerun(
    root: str | Path, select: Selection, *, downstream: bool = False, upstream: bool = False
) -> RerunReport:
    """Return what `rerun` would reset; nothing is written."""
    with reading(root) as (_, store):
        return Reset.of(store, select(store), downstream=downstream, upstream=upstream).report(set())


def _class_of(name: str) -> tuple[str, int | None]:
    match = _EXIT_CODE.fullmatch(name)
    if match:
        return str(FailureClass.EXIT_CODE), int(match[1])
    classes = [str(item) for item in FailureClass]
    if name not in classes:
        raise UsageError(
            f"there is no class of failures '{name}'{did_you_mean(name, classes)}; there are {', '.join(classes)}, and "
            "exit_code_N"
        )
    return name, None
