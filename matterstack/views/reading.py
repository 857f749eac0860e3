"""How a reading command opens a run: one snapshot, no lock, nothing written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matterstack.errors import LedgerMissingError, LedgerUnfinishedError
from matterstack.orchestration.session import open_ledger
from matterstack.run_root import layout
from matterstack.run_root.files import place_of
from matterstack.run_root.layout import require_run_root
from matterstack.storage.journal import Journal
from matterstack.storage.run_lock import read_holder
from matterstack.storage.state_store import SQLiteStateStore

log = logging.getLogger("matterstack")


@contextmanager
def reading(root: str | Path) -> Iterator[tuple[Path, SQLiteStateStore]]:
    """Yield run root and ledger. Raises UsageError for what is not a run root, LedgerError for a refused ledger."""
    path = require_run_root(Path(root))
    with _open(path) as store, store.snapshot():
        yield path, store


def as_of(root: Path, store: SQLiteStateStore) -> float | None:
    """Return the time of the last event of a copy or clone, which may know nothing of what was done since; None at home."""
    at_home = store.is_at_home(*place_of(root)) if store.path.exists() else _was_here(root)
    return None if at_home else store.last_event_at()


def _was_here(root: Path) -> bool:
    holder = read_holder(root)
    return (holder.get("host"), holder.get("path")) == place_of(root)


def _open(root: Path) -> SQLiteStateStore:
    """Return the ledger, or the run as its journal says: a copy has no ledger, and a reader cannot roll one back."""
    try:
        return open_ledger(root, read_only=True)
    except (LedgerMissingError, LedgerUnfinishedError) as error:
        if not Journal(root / layout.JOURNAL).exists():
            raise
        from matterstack.care.rebuild import memory_ledger

        missing = isinstance(error, LedgerMissingError)
        why = "there is no ledger here" if missing else "a killed step left an unfinished commit"
        log.warning("%s: %s; reading %s instead", root, why, layout.JOURNAL)
        return memory_ledger(root)
