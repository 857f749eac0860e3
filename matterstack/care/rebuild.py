"""A ledger made from the text files of a run root: journal, expanded/, and the folders of attempts.

`doctor --fix` and `adopt` write it; readers of a copy, which has no ledger, read it from memory. A journal of version 1 is
translated on the way: the only place where the campaign's YAML is expanded again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matterstack.care.record import attempts_read
from matterstack.core.events import Adopted, Event, Rebuilt, attempt_made
from matterstack.core.model import Resources
from matterstack.core.times import to_text
from matterstack.errors import JournalError, RunIsCopyError
from matterstack.hints import Hint
from matterstack.operators.claims import read_claim
from matterstack.operators.registry import make_operator
from matterstack.orchestration.session import author
from matterstack.run_root import layout
from matterstack.run_root.files import place_of
from matterstack.run_root.layout import attempt_folder
from matterstack.storage.journal import Entry, Journal, is_version_1, set_aside_version_1
from matterstack.storage.state_store import SQLiteStateStore


def from_journal(root: Path, store: SQLiteStateStore) -> list[Entry]:
    """Fill an empty ledger with the run that the journal of ``root`` tells of; return its events.

    Raises LedgerError or RunRootError in words if journal, expanded/ and the version do not fit each other.
    """
    journal = Journal(root / layout.JOURNAL)
    lines = journal.lines()
    if lines and is_version_1(lines[0]):
        from matterstack.care.version_1 import translated

        store.root = root
        with store.translating():
            store.write(translated(root, store, lines))
        return list(journal.check(store.lines_after(0)))
    entries = list(journal.check(lines))
    if not entries or entries[0].event.kind != "run_created":
        raise JournalError(f"{journal.path} does not begin with the run's creation; restore it from git")
    store.root = root
    store.replay(entries)
    return entries


def memory_ledger(root: Path) -> SQLiteStateStore:
    """Return the run as its journal says, to be read; nothing is written."""
    store = SQLiteStateStore.in_memory(root / layout.LEDGER)
    from_journal(root, store)
    return store


def write_ledger(root: Path, now: float, event: Rebuilt | Adopted) -> None:
    """Write `state.sqlite` from the journal, and record ``event``; one that is there is kept under another name.

    Attempt folders without an event count as SUBMITTING: something may run there.
    """
    beside = root / f".{layout.LEDGER}.rebuilt"
    for name in _ledger_files(beside):
        name.unlink(missing_ok=True)
    with SQLiteStateStore(beside, create=True) as store:
        entries = from_journal(root, store)
        if isinstance(event, Rebuilt):
            refuse_if_adopted(root, entries)
        unknown = list(_unknown_folders(root, store))
    journal = Journal(root / layout.JOURNAL)
    _drop_torn_line(journal)
    keep_aside(root)
    os.replace(beside, root / layout.LEDGER)
    set_aside_version_1(journal.path, entries[0].event.to_json()["run"])
    with SQLiteStateStore(root / layout.LEDGER, journal=journal) as store:
        store.complete_journal(compare=False)
        found = [_found(root, store, *key) for key in unknown]
        store.author = author()
        store.append([event, *found], now)


def here(root: Path, store: SQLiteStateStore) -> dict[str, Any]:
    """Return what the events that move a home say of this place."""
    host, path = place_of(root)
    ledger = root / layout.LEDGER
    return {
        "host": host, "path": path, "inode": ledger.stat().st_ino if ledger.exists() else 0,
        "campaign_path": store.campaign_path_from(path),
    }  # fmt: skip


def refuse_if_adopted(root: Path, entries: list[Entry]) -> None:
    """Raise RunIsCopyError if by its journal the run is at home elsewhere by now."""
    adopted = next((entry for entry in reversed(entries) if isinstance(entry.event, Adopted)), None)
    if adopted is None or not isinstance(adopted.event, Adopted):
        return
    home = (adopted.event.host, adopted.event.path)
    if home != place_of(root):
        raise RunIsCopyError(
            f"{root}: the run was adopted by {home[0]}:{home[1]} at {to_text(adopted.at)[:19]} UTC; it goes on there "
            f"({Hint('adopt', root)} takes it back, once that home has stopped)"
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
    data = journal.path.read_bytes() if journal.path.exists() else b""
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(journal.path, end)


def _unknown_folders(root: Path, store: SQLiteStateStore) -> Iterator[tuple[str, int]]:
    """Yield the attempts that have a folder and no event, in their order."""
    for row in store.tasks(retired=True):
        attempt = row.attempts + 1
        while (root / attempt_folder(row.task_id, attempt)).is_dir():
            yield row.task_id, attempt
            attempt += 1


def _found(root: Path, store: SQLiteStateStore, task_id: str, attempt: int) -> Event:
    (row,) = store.tasks([task_id])
    spec = store.operators(row.campaign_version)[row.operator]
    claim = read_claim(root / attempt_folder(task_id, attempt))
    # Where it was handed over is only known by the claim; without one it was from this home.
    origin = json.dumps(claim.data) if claim is not None and claim.by == "worker" else make_operator(spec).origin()
    inputs = attempts_read(root, task_id, attempt)
    return attempt_made((task_id, attempt), row.operator, origin, Resources(), store.run().source_digest, inputs)
