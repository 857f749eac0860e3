"""A ledger made anew from the text files of a run root: campaign, journal, attempt folders.

`doctor --fix` and `adopt` write it; readers of a copy, which has no ledger, read it from memory. How a campaign file is
expanded is not known here: `expand` is set by `matterstack.wiring`, where the format and this part meet.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.model import LoadedCampaign, Resources
from matterstack.core.values import load_json
from matterstack.errors import JournalError, LedgerError, MatterStackError, RunIsCopyError, RunRootError
from matterstack.operators.claims import read_claim
from matterstack.operators.registry import make_operator
from matterstack.run_root import layout
from matterstack.run_root.files import place_of, read_regular, sha256_of
from matterstack.run_root.layout import attempt_folder
from matterstack.storage.journal import Event, Journal
from matterstack.storage.state_store import RunRow, SQLiteStateStore

Expand = Callable[[Path, Mapping[str, Any], "frozenset[str]"], LoadedCampaign]

expand: Expand | None = None  # (run root, params that were set, files that source/ had at first) -> the campaign


def from_journal(root: Path, store: SQLiteStateStore) -> list[Event]:
    """Fill an empty ledger with the run that the journal of ``root`` tells of; give the events.

    Raises LedgerError or RunRootError in words if campaign, journal and ledger's version do not fit each other.
    """
    events = Journal(root / layout.JOURNAL).read()
    if not events or events[0].kind != "run_created":
        raise JournalError(f"{root / layout.JOURNAL} does not begin with the run's creation; restore it from git")
    created = json.loads(events[0].data)
    record = read_record(root)
    changed = next(changed_files(root, created), None)
    if changed is not None:
        raise RunRootError(f"{root / changed} is not what the run began with; restore it from git or a backup first")
    sources = {path: (digest, size) for path, (digest, size) in created.get("sources", {}).items()}
    loaded = _load(root, record, frozenset(sources))
    run = RunRow(
        record["id"], record["name"], record["digest"], record["created_at"], False, False, 1,
        created.get("campaign_path", ""), created.get("source_digest", ""), place_of(root)[1],
    )  # fmt: skip
    store.create_run(run, loaded.campaign, loaded.instances, sources, socket.gethostname(), 0.0, {})
    store.replay(
        events,
        output_size=lambda task, attempt, file: _size(root / attempt_folder(task, attempt) / file),
        inputs_of=lambda task, attempt: _inputs_of(root, task, attempt),
        source_size=lambda path: _size(root / "source" / path) or 0,
    )
    return events


def changed_files(root: Path, created: Mapping[str, Any]) -> Iterator[str]:
    """Give the files that say what the run is and are not what they were at init; ``created`` is the first event."""
    for name, key in ((layout.CAMPAIGN, "campaign_sha256"), (layout.OPERATORS, "operators_sha256")):
        try:
            if key in created and sha256_of(root / name) != created[key]:
                yield name
        except OSError:
            yield name


def read_record(root: Path) -> dict[str, Any]:
    """Read run.json. Raises RunRootError if it is missing or not ours."""
    path = root / layout.RUN
    try:
        data = load_json(read_regular(path).decode())
    except OSError as error:
        raise RunRootError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not all(isinstance(data.get(k), str) for k in ("id", "name", "digest")):
        raise RunRootError(f"{path} is damaged; restore it from git or a backup")
    return {"created_at": "", **data}


def _load(root: Path, record: Mapping[str, Any], files: frozenset[str]) -> LoadedCampaign:
    assert expand is not None, "matterstack.wiring sets it"
    try:
        return expand(root, record.get("set") or {}, files)
    except MatterStackError as error:
        first = str(error).splitlines()[0]
        raise RunRootError(f"{root}: its campaign cannot be read any more: {first}") from None


def memory_ledger(root: Path) -> SQLiteStateStore:
    """Give the run as the journal tells it, to be read; nothing is written."""
    store = SQLiteStateStore.in_memory(root / layout.LEDGER)
    from_journal(root, store)
    return store


def write_ledger(root: Path, now: float, kind: str, **data: Any) -> None:
    """Write `state.sqlite` anew from the journal, recording it as an event of ``kind``; one that is there goes aside.

    Attempt folders without an event count as SUBMITTING: something may run there.
    """
    beside = root / f".{layout.LEDGER}.rebuilt"
    for name in _ledger_files(beside):
        name.unlink(missing_ok=True)
    with SQLiteStateStore(beside, create=True) as store:
        events = from_journal(root, store)
        if kind != "adopted":
            refuse_if_adopted(root, events)
        unknown = _unknown_folders(root, store)
    journal = Journal(root / layout.JOURNAL)
    _drop_torn_line(journal)
    keep_aside(root)
    os.replace(beside, root / layout.LEDGER)
    with SQLiteStateStore(root / layout.LEDGER, journal=journal) as store, store.transaction():
        store.set_home(*place_of(root))
        store.record(kind, now, host=place_of(root)[0], path=place_of(root)[1], **data)
        for task_id, attempt in unknown:
            _add_found(root, store, task_id, attempt, now)


def refuse_if_adopted(root: Path, events: Sequence[Event]) -> None:
    """Raise RunIsCopyError if by its journal the run is at home elsewhere by now."""
    adopted = next((event for event in reversed(events) if event.kind == "adopted"), None)
    data = json.loads(adopted.data) if adopted is not None else {}
    home = (data.get("host"), data.get("path"))
    if adopted is not None and home != place_of(root):
        raise RunIsCopyError(
            f"{root}: the run was adopted by {home[0]}:{home[1]} at {adopted.at[:19]} UTC; it goes on there "
            f"(`matterstack adopt {root}` takes it back, once that home has stopped)"
        )


def keep_aside(root: Path) -> None:
    """Move a damaged ledger, and what SQLite left beside it, out of the way without losing it."""
    number = 1
    while any(root.glob(f"{layout.LEDGER}.damaged-{number}*")):
        number += 1
    for path in _ledger_files(root / layout.LEDGER):
        if os.path.lexists(path):
            suffix = path.name.removeprefix(layout.LEDGER)
            os.replace(path, root / f"{layout.LEDGER}.damaged-{number}{suffix}")


def _ledger_files(ledger: Path) -> list[Path]:
    return [ledger.with_name(ledger.name + suffix) for suffix in ("", "-journal", "-wal", "-shm")]


def _drop_torn_line(journal: Journal) -> None:
    data = journal.path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(journal.path, end)


def _unknown_folders(root: Path, store: SQLiteStateStore) -> list[tuple[str, int]]:
    """Give the attempts that have a folder and no event, in their order."""
    found = []
    for row in store.tasks():
        attempt = row.attempts + 1
        while (root / attempt_folder(row.task_id, attempt)).is_dir():
            found.append((row.task_id, attempt))
            attempt += 1
    return found


def _add_found(root: Path, store: SQLiteStateStore, task_id: str, attempt: int, now: float) -> None:
    (row,) = store.tasks([task_id])
    spec = store.campaign(row.campaign_version).operators[row.operator]
    claim = read_claim(root / attempt_folder(task_id, attempt))
    # Where it was handed over is only known by the claim; without one it was from this home.
    origin = json.dumps(claim.data) if claim is not None and claim.by == "wrapper" else make_operator(spec).origin()
    inputs = _inputs_of(root, task_id, attempt)
    number = store.add_attempt(task_id, row.operator, origin, Resources(), store.run().source_digest, inputs, now)
    if number != attempt:
        raise LedgerError(f"{task_id}: attempt {attempt} would be recorded as {number}")


def _inputs_of(root: Path, task_id: str, attempt: int) -> dict[str, int]:
    """Read from task.json which attempts an attempt read from; empty if it is gone or not ours."""
    try:
        data = json.loads(read_regular(root / attempt_folder(task_id, attempt) / "task.json"))
        files = [file for item in data["inputs"].values() for file in item["files"] if "task" in file]
        found = [*files, *data.get("answers", {}).values()]
        return {str(file["task"]): int(file["attempt"]) for file in found}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _size(path: Path) -> int | None:
    try:
        if path.is_dir():
            return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
        return path.stat().st_size
    except OSError:
        return None
