"""How a reading command opens a run: one snapshot, no lock, nothing written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matterstack.errors import LedgerMissingError, LedgerUnfinishedError
from matterstack.orchestration.session import open_ledger
from matterstack.run_root import layout
from matterstack.run_root.layout import require_run_root
from matterstack.storage.journal import Journal
from matterstack.storage.state_store import SQLiteStateStore

log = logging.getLogger("matterstack")


@contextmanager
def reading(root: str | Path) -> Iterator[tuple[Path, SQLiteStateStore]]:
    """Yield run root and ledger. Raises UsageError for what is not a run root, LedgerError for a refused ledger."""
    path = require_run_root(Path(root))
    with _open(path) as store, store.snapshot():
        yield path, store


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
