"""The attempts of a task and their logs, as values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matterstack.core.reasons import also
from matterstack.core.recorded import AttemptRow
from matterstack.core.selection import one_task
from matterstack.core.times import to_text
from matterstack.errors import UsageError
from matterstack.hints import Hint
from matterstack.operators.environment import describe_shell
from matterstack.run_root.environments import environment_of
from matterstack.run_root.files import read_regular
from matterstack.run_root.layout import AFTER_SETUP, attempt_folder
from matterstack.text.reasons import sentence
from matterstack.views.reading import reading


def attempts(root: str | Path, task: str) -> tuple[str, list[dict[str, Any]]]:
    """Return a task's id and its attempts, oldest first, as `attempts --json` prints them."""
    with reading(root) as (path, store):
        task_id = one_task(store.task_ids(retired=True), task)
        return task_id, [
            {**_attempt_json(path, row), "source": store.source_of(row.campaign_version)}
            for row in store.attempts(task_id)
        ]


def _attempt_json(root: Path, row: AttemptRow) -> dict[str, Any]:
    return {
        "attempt": row.attempt,
        "state": str(row.state),
        "class": str(row.failure) if row.failure else None,
        "reason": sentence(also(row.reason, row.unlinked), root),
        "exit_code": row.exit_code,
        "operator": row.operator,
        "created_at": to_text(row.created_at),
        "started_at": to_text(row.started_at) if row.started_at else None,
        "ended_at": to_text(row.ended_at) if row.ended_at else None,
        "cpus": row.cpus,
        "memory": row.memory,
        "time_limit_s": row.time_s,
        "version": row.campaign_version,
        "source_digest": row.source_digest,
        "folder": attempt_folder(row.task_id, row.attempt),
        "response": json.loads(row.response) if row.response else None,
        "usage": json.loads(row.usage) if row.usage else None,
        "environment": _environment(root, attempt_folder(row.task_id, row.attempt)),
    }


def _environment(root: Path, folder: str) -> dict[str, Any] | None:
    """Return the environment that the command of an attempt had, after its `setup`."""
    record = environment_of(root, folder)
    try:
        lines = read_regular(root / folder / AFTER_SETUP, 1 << 20).decode(errors="replace").splitlines()
    except OSError:
        return record
    if record is None or len(lines) != 4:
        return record
    path, virtual_env, conda_prefix, modules = lines
    seen = {"VIRTUAL_ENV": virtual_env, "CONDA_PREFIX": conda_prefix, "LOADEDMODULES": modules}
    return {**record, **describe_shell({name: value for name, value in seen.items() if value}, path)}


def log_files(root: str | Path, task: str, attempt: int | None) -> tuple[Path, str, int, bool, int, int]:
    """Return (run root, task id, attempt, live, its version of the campaign, the newest) of logs, by default of the newest attempt."""
    with reading(root) as (path, store):
        task_id = one_task(store.task_ids(retired=True), task)
        rows = store.attempts(task_id)
        if not rows:
            (row,) = store.tasks([task_id])
            why = row.no_work or f"{task_id} has no attempt yet"
            raise UsageError(f"{why}; {Hint('explain', path, task_id)} says {'more' if row.no_work else 'why'}")
        numbers = {row.attempt: row for row in rows}
        number = attempt if attempt is not None else rows[-1].attempt
        if number not in numbers:
            raise UsageError(f"{task_id} has no attempt {number}; it has 1 to {rows[-1].attempt}")
        found = numbers[number]
        return path, task_id, number, found.state.is_live, found.campaign_version, store.newest_version()


def is_live(root: Path, task_id: str, attempt: int) -> bool:
    with reading(root) as (_, store):
        row = store.attempt(task_id, attempt)
        return row is not None and row.state.is_live
