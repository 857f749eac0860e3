"""How a reading command opens a run: one snapshot, no lock, nothing written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matterstack.errors import LedgerMissingError, LedgerUnfinishedError
from matterstack.orchestration.run_lifecycle import open_ledger
from matterstack.run_root import layout
from matterstack.run_root.layout import require_run_root
from matterstack.storage.state_store import SQLiteStateStore

log = logging.getLogger("matterstack")


@contextmanager
def reading(root: str | Path) -> Iterator[tuple[Path, SQLiteStateStore]]:
    path = require_run_root(Path(root))
    with _open(path) as store:
        store.db.execute("BEGIN")  # one snapshot for all that is read
        yield path, store


def _open(root: Path) -> SQLiteStateStore:
    """Give the ledger, or the run as the journal tells it: a copy has no ledger, and a reader cannot roll one back."""
    try:
        return open_ledger(root, read_only=True)
    except (LedgerMissingError, LedgerUnfinishedError) as error:
        if not (root / layout.JOURNAL).exists():
            raise
        from matterstack.care.rebuild import memory_ledger

        why = (
            "there is no ledger here" if isinstance(error, LedgerMissingError) else "a killed step left a commit undone"
        )
        log.warning("%s: %s; this is read from %s", root, why, layout.JOURNAL)
        return memory_ledger(root)
