"""`adopt`: a copy of a run becomes its home, or a person gives up attempts that nobody can reach."""

from __future__ import annotations

import time
from pathlib import Path

from matterstack.care import rebuild
from matterstack.care.repair import PATIENCE_S, _relink
from matterstack.core.model import Observation, Sighting
from matterstack.errors import RunIsCopyError, RunRootError, UsageError
from matterstack.orchestration.run_lifecycle import Step, open_ledger, refuse_clone, state_of_run
from matterstack.run_root import layout
from matterstack.run_root.files import place_of
from matterstack.run_root.layout import require_run_root
from matterstack.storage.journal import Journal
from matterstack.storage.run_lock import run_lock
from matterstack.storage.state_store import SQLiteStateStore


def adopt(root: str | Path, *, assume: str | None = None) -> str:
    """Make a copy or clone the run's home; give a sentence of what was done.

    The old home must be paused or over by its journal, with nothing of its own alive; or ``assume`` says what became of
    that: `lost` (it has ended), `keep` (it goes on there). At home `lost` gives up the attempts that cannot be seen from
    here, of a container or a machine that is gone for good. Raises UsageError if nothing of this holds.
    """
    path = require_run_root(Path(root))
    host, place = place_of(path)
    with run_lock(path, wait_s=PATIENCE_S):
        try:
            refuse_clone(path, {})
            journal = Journal(path / layout.JOURNAL)
            with SQLiteStateStore(path / layout.LEDGER, journal=journal) as store:
                ours, events = store.events_after(0), journal.read()
                gone_on = events[: len(ours)] == ours and any(e.kind == "adopted" for e in events[len(ours) :])
                if gone_on:  # it was adopted elsewhere and comes back: the journal knows more than this ledger
                    raise RunIsCopyError(str(path))
                if store.is_at_home(host, place):
                    return _give_up(path) if assume == "lost" else f"{path} is at home here; there is nothing to adopt"
                if ours != events:
                    raise RunRootError(
                        f"{path}: ledger and journal of the copy are not of the same moment; "
                        f"remove {layout.LEDGER} from the copy, and adopt it by its journal"
                    )
                _require_rest(path, store, assume)
                with store.transaction():
                    store.set_home(host, place)
                    store.record("adopted", time.time(), host=host, path=place, assume=assume)
        except RunIsCopyError:
            _require_rest(path, rebuild.memory_ledger(path), assume)
            rebuild.write_ledger(path, time.time(), "adopted", assume=assume)
        with open_ledger(path) as store:
            lost = _assume_lost(path, store) if assume == "lost" else 0
            linked = list(_relink(path, store))
    more = f"; {lost} attempt{'' if lost == 1 else 's'} given up" if lost else ""
    more += f"; {len(linked)} links of results/ set" if linked else ""
    return f"{path} is the run's home now{more}; `matterstack step {path}` goes on"


def _require_rest(root: Path, store: SQLiteStateStore, assume: str | None) -> None:
    live = store.active()
    state = state_of_run(store, store.counts())
    if assume is None and (live or not (store.run().paused or state.is_over)):
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
            key: Observation(Sighting.GONE, reason=f"taken to be lost, by a person ({seen.reason})")
            for key, seen in step.look().items()
            if seen.unreachable
        }
        step.record_all(gone)
    if not gone:
        return f"{root}: all that is alive can be reached from here; nothing was changed"
    return f"{len(gone)} attempt{'' if len(gone) == 1 else 's'} given up; `matterstack step {root}` goes on"


def _assume_lost(root: Path, store: SQLiteStateStore) -> int:
    step = Step(root, store)
    rows = store.live_attempts()
    gone = Observation(Sighting.GONE, reason="taken to be lost, by a person, when the run was adopted")
    step.record_all({(row.task_id, row.attempt): gone for row in rows})
    return len(rows)
