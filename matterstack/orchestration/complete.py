"""A person did a task: its outputs become an attempt of its own, checked like any other's."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.core.below import below
from matterstack.core.events import AttemptChanged, AttemptMade, Event, RetriesReset, TasksChanged
from matterstack.core.model import Evidence, ResolvedOutput, TaskChange, to_json
from matterstack.core.reasons import Code, reason
from matterstack.core.recorded import TaskRow
from matterstack.core.selection import one_task
from matterstack.core.states import ACTIVE, AttemptState, FailureClass, TaskState
from matterstack.core.suggestions import did_you_mean
from matterstack.core.times import rounded, to_text
from matterstack.core.values import dump_json_lines, encode_json
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError, RunRootError, UsageError
from matterstack.hints import Hint
from matterstack.orchestration.actions import PATIENCE_S
from matterstack.orchestration.comparison import made_again
from matterstack.orchestration.session import author, finish_made, note_made, open_to_write
from matterstack.orchestration.step import Step
from matterstack.run_root.attempts import gather_evidence
from matterstack.run_root.files import sync_files, write_beside
from matterstack.run_root.layout import TASK, attempt_folder, require_run_root
from matterstack.storage.state_store import SQLiteStateStore


@dataclass(frozen=True)
class Completed:
    task_id: str
    attempt: int
    outputs: tuple[str, ...]  # paths below results/
    reopened: tuple[str, ...]  # tasks below that were BLOCKED or SKIPPED
    made_again: tuple[str, ...]  # tasks whose temporary outputs these need, and that were removed


def complete(root: str | Path, task: str, given: Mapping[str, Path], why: str) -> Completed:
    """Record that a person did a task, with files for its outputs; they are copied into an attempt folder of their own.

    All or nothing. Raises UsageError for a task that is alive or done, for an output that is missing, unknown or not what the
    task declares, and RunRootError for what cannot be copied.
    """
    path = require_run_root(Path(root))
    with open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
        task_id = one_task(store.task_ids(), task)
        (row,) = store.tasks([task_id])
        if row.no_work:
            raise UsageError(f"{row.no_work}; {Hint('explain', path, task_id)} says more")
        declared = store.outputs_of(task_id)
        kind = store.operators(row.campaign_version)[row.operator].row
        if kind.answers:
            verb, rest = ("respond", row.task_id) if row.state is TaskState.WAITING else ("rerun", row.task_id)
            raise UsageError(
                f"{task_id} is answered by {kind.whom or 'others'}, not completed: {Hint(verb, path, rest)}"
            )
        _require(path, row, declared, given)
        attempt, now = row.attempts + 1, rounded(time.time())
        staged = path / attempt_folder(task_id, attempt).replace("attempt-", ".by-hand-")
        try:
            note_made(path, task_id, attempt)
            evidence = _fill(path, store, row, staged, declared, given, why, now)
        except OSError as error:
            finish_made(path, store)
            if isinstance(error, MatterStackError):
                raise
            if error.strerror is None:  # of a folder: a list of what could not be copied
                raise RunRootError(f"{error.args[0][0][2]}; nothing was changed") from None
            raise RunRootError(f"{error.filename or staged}: {error.strerror}; nothing was changed") from None
        except BaseException:  # also Ctrl-C: the staged folder is removed
            finish_made(path, store)
            raise
        reopened = _below(store, task_id)
        at = to_text(now)
        made = AttemptMade(task_id, attempt, row.operator, encode_json({"by": author()[0]}), 0, source_digest="")
        events: list[Event] = [
            made,
            AttemptChanged(
                task_id, attempt, AttemptState.COMPLETED, FailureClass.BY_HAND,
                reason(Code.BY_HAND, by=author()[0], why=why), exit_code=None, started_at=at, ended_at=at,
                outputs=evidence.outputs, metrics=evidence.metrics or {},
                becomes=TaskChange(task_id, TaskState.COMPLETED),
            ),
        ]  # fmt: skip
        waiting = [  # below
            r.task_id for r in reopened if r.state in (TaskState.PENDING, TaskState.READY) and r.retry_at is None
        ]
        again = [r.task_id for r in reopened if r.state in (TaskState.BLOCKED, TaskState.SKIPPED)]
        removed = store.removed_outputs()
        needed = sorted(made_again([*again, *waiting], store.outputs_read, removed)) if removed else []
        if waiting or again:
            events.append(TasksChanged((*again, *waiting, *needed), TaskState.PENDING))
        if tried := tuple(item.task_id for item in store.tasks(needed) if item.tries or item.restarts):
            events.append(RetriesReset(tried))
        store.append(events, now)
        finish_made(path, store)
        Step(path, store).remove_temporary([task_id])
    return Completed(task_id, attempt, tuple(item.path for item in evidence.outputs), tuple(again), tuple(needed))


def _require(root: Path, row: TaskRow, declared: Mapping[str, ResolvedOutput], given: Mapping[str, Path]) -> None:
    if row.state in ACTIVE:
        raise UsageError(f"{row.task_id} is {row.state}; {Hint('cancel', root, row.task_id)} ends it first")
    if row.state is TaskState.COMPLETED:
        raise UsageError(
            f"{row.task_id} is COMPLETED; {Hint('rerun', root, row.task_id)} makes room for another result"
        )
    for name, file in given.items():
        if name not in declared:
            has = f"it has {', '.join(declared)}" if declared else "it has none"
            raise UsageError(f"--output {name}: {row.task_id} has no such output{did_you_mean(name, declared)}; {has}")
        if not file.is_file() and not file.is_dir():
            what = "is no regular file or folder" if file.exists() else "no such file"
            raise UsageError(f"--output {name}={file}: {what}")
        if file.is_dir() != declared[name].is_folder:
            raise UsageError(f"--output {name}={file}: {row.task_id} declares a {_kind(declared[name])}")
    missing = [name for name, item in declared.items() if not item.optional and name not in given]
    if missing:
        more = "".join(f" --output {name}=FILE" for name in missing)
        raise UsageError(f"{row.task_id} is complete with{more}")


def _kind(output: ResolvedOutput) -> str:
    return "folder" if output.is_folder else "file"


def _fill(
    root: Path,
    store: SQLiteStateStore,
    row: TaskRow,
    folder: Path,
    declared: Mapping[str, ResolvedOutput],
    given: Mapping[str, Path],
    why: str,
    now: float,
) -> Evidence:
    """Make the folder of the attempt under another name. Raises UsageError for outputs that would fail a task."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, file in given.items():
        target = folder / declared[name].file.rstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if declared[name].is_folder:
            shutil.copytree(file, target)
        else:
            shutil.copyfile(file, target)
    instance = store.instance(row.task_id)
    record: dict[str, Any] = {
        "task": row.task_id, "attempt": row.attempts + 1, "group": row.group, "label": row.label,
        "run": {"id": store.run().run_id, "name": store.run().name}, "operator": row.operator, "command": None,
        "by_hand": {"by": author()[0], "why": why, "files": {name: str(file) for name, file in given.items()}},
        "matrix": instance.matrix, "inputs": {}, "outputs": {name: to_json(item) for name, item in declared.items()},
        "work": instance.work, "version": row.campaign_version, "created_at": to_text(now),
    }  # fmt: skip
    write_beside(folder / TASK, dump_json_lines(record))
    found = gather_evidence(str(folder), declared, {}, ours=False)
    wrong = [*(f"{name} is missing" for name in found.missing), *found.wrong]
    if wrong:
        raise UsageError(f"{row.task_id}: {'; '.join(wrong)}; nothing was changed")
    sync_files(folder)
    return found


def _below(store: SQLiteStateStore, task_id: str) -> list[TaskRow]:
    return store.tasks(below(store.all_edges(), [task_id]))
