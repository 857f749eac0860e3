"""What can never be true of a ledger, checked before each commit: cheap, since bounded by what is alive or changed.

The simulator checks more than these, against the truth of its world (tests/simulation/invariants.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matterstack.core.events import AttemptChanged, AttemptMade, Event

if TYPE_CHECKING:
    import sqlite3

_LIVE = "('SUBMITTING', 'SUBMITTED', 'RUNNING', 'WAITING')"
_TWO_LIVE = (
    f"SELECT task_id FROM attempts WHERE task_id IN (SELECT value FROM json_each(?)) AND state IN {_LIVE} "
    "GROUP BY task_id HAVING COUNT(*) > 1 LIMIT 1"
)
_ACTIVE = "SELECT COALESCE(SUM(tasks), 0) FROM task_counts WHERE state IN ('SUBMITTED', 'RUNNING', 'WAITING')"
_LIVE_COUNT = f"SELECT COUNT(*) FROM attempts WHERE state IN {_LIVE}"
_RETIRED = "SELECT 1 FROM task_counts WHERE state = 'RETIRED' AND tasks <> 0"
_LIVE_RETIRED = (  # they go on to their end, and their tasks stay RETIRED
    f"SELECT COUNT(*) FROM attempts a JOIN tasks t ON t.task_id = a.task_id WHERE a.state IN {_LIVE} "
    "AND t.state = 'RETIRED'"
)
_WITHOUT_RESULT = (
    "SELECT task_id FROM tasks t WHERE task_id IN (SELECT value FROM json_each(?)) AND state = 'COMPLETED' AND NOT EXISTS "
    "(SELECT 1 FROM attempts a WHERE a.task_id = t.task_id AND a.attempt = t.result AND a.state = 'COMPLETED') LIMIT 1"
)


def violation(db: sqlite3.Connection, events: Sequence[Event]) -> str:
    """Return what is impossible in the open transaction, "" for nothing; ``events`` are those that it applied."""
    touched = [event.task for event in events if isinstance(event, AttemptMade | AttemptChanged)]
    if not touched:
        return ""
    names = json.dumps(touched)
    two = db.execute(_TWO_LIVE, (names,)).fetchone()
    if two is not None:
        return f"{two[0]} would have two live attempts"
    active, live = db.execute(_ACTIVE).fetchone()[0], db.execute(_LIVE_COUNT).fetchone()[0]
    if active != live and db.execute(_RETIRED).fetchone() is not None:
        live -= db.execute(_LIVE_RETIRED).fetchone()[0]
    if active != live:
        return f"{active} tasks would be active, with {live} live attempts"
    without = db.execute(_WITHOUT_RESULT, (names,)).fetchone()
    if without is not None:
        return f"{without[0]} would be COMPLETED without a successful attempt"
    return ""
