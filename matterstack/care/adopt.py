"""`adopt`: a copy of a run becomes its home, or a person gives up attempts that nobody can reach."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from matterstack.care import rebuild
from matterstack.care.repair import relink
from matterstack.core.board import Board, state_of_run
from matterstack.core.events import Adopted
from matterstack.core.model import Observation, Sighting
from matterstack.core.reasons import Code, reason
from matterstack.errors import RunIsCopyError, RunRootError, UsageError
from matterstack.hints import Hint
from matterstack.orchestration.actions import PATIENCE_S
from matterstack.orchestration.session import author, open_ledger, refuse_clone
from matterstack.orchestration.step import Step
from matterstack.run_root import layout
from matterstack.run_root.files import place_of
from matterstack.run_root.layout import require_run_root
from matterstack.storage.journal import Journal, parse_or_none
from matterstack.storage.run_lock import run_lock
from matterstack.storage.state_store import SQLiteStateStore


def adopt(root: str | Path, *, assume: str | None = None) -> str:
    """Make a copy or clone the run's home; return a sentence of what was done.

    The old home must be paused or over by its journal, with nothing of its own alive; or ``assume`` says what became of
    that: `lost` (it has ended), `keep` (it goes on there). At home `lost` gives up the attempts that cannot be seen from
    here, of a container or a machine that is gone for good. Raises UsageError if nothing of this holds.
    """
    path = require_run_root(Path(root))
    with run_lock(path, wait_s=PATIENCE_S):
        try:
            refuse_clone(path, {})
            if not _adopt_ledger(path, assume):
                return _give_up(path) if assume == "lost" else f"{path} is at home here; there is nothing to adopt"
        except RunIsCopyError:
            memory = rebuild.memory_ledger(path)
            _require_rest(path, memory, assume)
            rebuild.write_ledger(path, time.time(), _adopted(path, memory, assume))
        with open_ledger(path) as store:
            lost = _assume_lost(path, store) if assume == "lost" else 0
            linked = list(relink(path, store))
    more = f"; {_attempts(lost)} given up" if lost else ""
    more += f"; {len(linked)} links of results/ set" if linked else ""
    return f"{path} is the run's home now{more}; {Hint('step', path)} goes on"


def _adopt_ledger(root: Path, assume: str | None) -> bool:
    """Adopt a copy by its own ledger; return False where it is at home. Raises RunIsCopyError if only the journal can."""
    journal = Journal(root / layout.JOURNAL)
    with SQLiteStateStore(root / layout.LEDGER, journal=journal) as store:
        ours, lines = store.lines_after(0), journal.lines()
        later = [parse_or_none(line) for line in lines[len(ours) :]]
        if lines[: len(ours)] == ours and any(
            entry is not None and isinstance(entry.event, Adopted) for entry in later
        ):
            # It was adopted elsewhere and comes back: the journal knows more than this ledger.
            raise RunIsCopyError(str(root))
        if store.is_at_home(*place_of(root)):
            return False
        if ours != lines:
            raise RunRootError(
                f"{root}: ledger and journal of the copy are not of the same moment; remove {layout.LEDGER} from the copy, "
                "and adopt it by its journal"
            )
        _require_rest(root, store, assume)
        store.author = author()
        store.append([_adopted(root, store, assume)], time.time())
        return True


def _adopted(root: Path, store: SQLiteStateStore, assume: str | None) -> Adopted:
    place: dict[str, Any] = rebuild.here(root, store)
    return Adopted(new_home=secrets.token_hex(4), assume=assume, **place)


def _require_rest(root: Path, store: SQLiteStateStore, assume: str | None) -> None:
    board = Board(store)
    state, live = state_of_run(board.run, board.buckets()), len(board.live)
    if assume is None and (live or not (board.run.paused or state.is_over)):
        alive = f", {live} of its attempts alive" if live else ""
        raise UsageError(
            f"{root}: at its home the run is {state}{alive}; pause it there, let them end and bring its files here, "
            "or say --assume lost (they have ended) or --assume keep (they go on there)"
        )


def _give_up(root: Path) -> str:
    """Take the live attempts that cannot be seen from here to be lost, by a person's word."""
    with open_ledger(root) as store:
        step = Step(root, store)
        gone = {
            key: Observation(Sighting.GONE, reason=reason(Code.GIVEN_UP, seen=seen.why))
            for key, seen in step.look().items()
            if seen.unreachable
        }
        step.record(gone)
    if not gone:
        return f"{root}: every live attempt can be reached from here; nothing was changed"
    return f"{_attempts(len(gone))} given up; {Hint('step', root)} goes on"


def _assume_lost(root: Path, store: SQLiteStateStore) -> int:
    rows = store.live_attempts()
    gone = Observation(Sighting.GONE, reason=reason(Code.GIVEN_UP, adopting=True))
    Step(root, store).record({row.key: gone for row in rows})
    return len(rows)


def _attempts(count: int) -> str:
    return f"{count} attempt{'' if count == 1 else 's'}"
