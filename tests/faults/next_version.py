"""Runs the command as a MatterStack whose ledger has one more version would: python next_version.py WORDS...

Migrations that are to come are tried with one that is made up here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from matterstack.cli.main import main
from matterstack.storage import state_store
from matterstack.storage.migrations import MIGRATIONS

ONE_MORE = (
    "ALTER TABLE run ADD COLUMN note TEXT",
    "CREATE TABLE extra (x INTEGER)",
    "UPDATE run SET note = 'new'",
)
NEXT = (*MIGRATIONS, ONE_MORE)


@contextmanager
def next_version() -> Iterator[None]:
    """Let every ledger that is opened meanwhile be brought to the next version."""
    keywords = state_store.SQLiteStateStore.__init__.__kwdefaults__
    keywords["migrations"] = state_store.MIGRATIONS = NEXT
    try:
        yield
    finally:
        keywords["migrations"] = state_store.MIGRATIONS = MIGRATIONS


if __name__ == "__main__":
    with next_version():
        main()
