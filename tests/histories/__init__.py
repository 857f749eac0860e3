"""Journals of real runs, of every version: what each of their beginnings rebuilds to, and what is decided next.

A history is a folder with `run/`, the text files of a run root (of a run of today the journal and expanded/ suffice),
and `expected.jsonl`: one line for each beginning of its journal. `record.py` makes one from a run root.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matterstack.care.rebuild import memory_ledger
from matterstack.core.board import Board
from matterstack.core.events import AttemptMade, attempt_made
from matterstack.core.model import Evidence, Observation, OutputFile, Resources, Sighting
from matterstack.core.plan import Plan, decide
from matterstack.core.recorded import TaskRow
from matterstack.core.slots import Capacity
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.workshop import RunWorkshop
from matterstack.run_root.layout import JOURNAL, attempt_folder
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.text.reasons import sentence

HERE = Path(__file__).parent
HISTORIES = sorted(path.parent for path in HERE.glob("*/expected.jsonl"))


class OnPaper:
    """An attempt that would be made; nothing is rendered, as the files of the run are not here."""

    def __init__(self, made: AttemptMade, resources: Resources) -> None:
        self.made, self.resources, self.key = made, resources, made.key


class PaperWorkshop(RunWorkshop):
    def capacity(self, operator: str) -> Capacity:
        return Capacity(cpus=4)

    def prepare(self, task: TaskRow) -> OnPaper:
        key = (task.task_id, task.attempts + 1)
        return OnPaper(attempt_made(key, task.operator, "", Resources(), "", {}), Resources())


def beginnings(history: Path, beside: Path) -> Iterator[dict[str, Any]]:
    """Yield what each beginning of a history's journal comes to; ``beside`` is an empty folder for a copy of it."""
    root = beside / history.name
    shutil.copytree(history / "run", root)
    lines = (root / JOURNAL).read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        (root / JOURNAL).write_bytes(b"".join(lines[:count]))
        try:
            with memory_ledger(root) as store:
                yield {"lines": count, **_told(root, store, now=_at(lines[count - 1]) + 10.0)}
        except RuntimeError as error:
            yield {"lines": count, "refused": str(error).replace(str(root), "RUN")}


def _at(line: bytes) -> float:
    from matterstack.core.times import from_text

    found = from_text(json.loads(line)["at"])
    assert found is not None
    return found


def _told(root: Path, store: SQLiteStateStore, now: float) -> dict[str, Any]:
    return {
        "ledger": hashlib.sha256(json.dumps(ledger_text(store)).encode()).hexdigest()[:16],
        "if it runs": _next(root, store, Observation(Sighting.RUNNING), now),
        "if it ended": _next(root, store, Observation(Sighting.ENDED, exit_code=0), now),
        "if it failed": _next(root, store, Observation(Sighting.ENDED, exit_code=1), now),
    }


def ledger_text(store: SQLiteStateStore) -> list[Any]:
    """Give what a ledger says in the words of the views, so that a new column does not count as another history."""
    tasks = [
        (t.task_id, t.group, t.label, t.operator, str(t.state), sentence(t.reason), t.soft, t.cause, t.retry_at, t.paused,
         t.tries, t.attempts, t.result)
        for t in store.tasks()
    ]  # fmt: skip
    attempts = [
        (a.task_id, a.attempt, str(a.state), a.operator, a.wish, a.started_at, a.ended_at, a.exit_code,
         a.failure and str(a.failure), sentence(a.reason), a.counts, sentence(a.unlinked), a.response)
        for t in store.tasks() for n in range(1, t.attempts + 1) if (a := store.attempt(t.task_id, n)) is not None
    ]  # fmt: skip
    run = store.run()
    published = {t[0]: found for t in tasks if t[-1] is not None and (found := store.published(t[0])) is not None}
    results = {
        task: (attempt, {name: (file, digest) for name, (file, digest, *_) in outputs.items()})
        for task, (attempt, outputs) in published.items()
    }
    return [run.run_id, run.paused, run.cancelled, tasks, attempts, results, store.stale()]


def _next(root: Path, store: SQLiteStateStore, seen: Observation, now: float) -> list[str]:
    """Give what a step decides if this is seen of every live attempt, whose outputs are all there if it ended."""
    board = Board(store)
    rows = board.live
    found = {row.key: seen for row in rows}
    evidence: dict[tuple[str, int], Any] = {}
    if seen.sighting is Sighting.ENDED:
        for row in rows:
            outputs = store.outputs_of(row.task_id)
            files = tuple(OutputFile(name, o.path, o.file, 1, "0" * 64) for name, o in outputs.items())
            evidence[row.key] = Evidence(outputs=files)
    workshop = PaperWorkshop(store, board, Pool(store), RunFiles(root), now)
    folders = {row.key: attempt_folder(*row.key) for row in rows}
    return _words(decide(board, workshop, store.awaited_attempts(), folders, found, evidence, now))


def _words(plan: Plan) -> list[str]:
    events = [_word(event) for event in plan.events if event.kind != "attempt_made"]
    ends = [f"end {end.live.task_id} {end.live.attempt}" for end in plan.ends]
    fences = [f"fence {row.task_id} {row.attempt}" for row in plan.fences]
    starts = [f"start {intent.key[0]} {intent.key[1]}" for intent in plan.intents]
    return [*events, *ends, *fences, *starts]


def _word(event: Any) -> str:
    if event.kind == "attempt_changed":
        return f"{event.task} {event.attempt} {event.state}"
    if event.kind == "tasks_changed":
        return f"{' '.join(event.tasks)} {event.state}"
    return str(event.kind)
