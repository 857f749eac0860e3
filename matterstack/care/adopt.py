"""`adopt`: a copy of a run becomes its home, or a person gives up attempts that nobody can reach."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matterstack.care import rebuild
from matterstack.care.repair import move_aside, relink
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
from matterstack.run_root.files import place_of, sha256_of
from matterstack.run_root.layout import require_run_root
from matterstack.storage.journal import Journal, branch_of, parse_or_none
from matterstack.storage.run_lock import run_lock
from matterstack.storage.state_store import SQLiteStateStore


def adopt(root: str | Path, *, assume: str | None = None, journal: str | None = None) -> str:
    """Make a copy or clone the run's home; return a sentence of what was done.

    The old home must be paused or over by its journal, with nothing of its own alive; or ``assume`` says what became of
    that: `lost` (it has ended), `keep` (it goes on there). At home `lost` gives up the attempts that cannot be seen from
    here, of a container or a machine that is gone for good. ``journal`` chooses between two histories: `here`, that of the
    ledger, or `there`, that of journal.jsonl. Raises UsageError if nothing of this holds.
    """
    path = require_run_root(Path(root))
    with run_lock(path, wait_s=PATIENCE_S):
        if journal is not None:
            return _choose(path, journal, assume)
        try:
            refuse_clone(path, {})
            if not _adopt_ledger(path, assume):
                return _give_up(path) if assume == "lost" else f"{path} is at home here; there is nothing to adopt"
        except RunIsCopyError:
            memory = rebuild.memory_ledger(path)
            _require_rest(path, memory, assume)
            rebuild.write_ledger(path, time.time(), _adopted(path, memory, assume))
        return _at_home(path, assume)


def _at_home(path: Path, assume: str | None) -> str:
    with open_ledger(path) as store:
        lost = _assume_lost(path, store) if assume == "lost" else 0
        linked = list(relink(path, store))
    more = f"; {_attempts(lost)} given up" if lost else ""
    more += f"; {len(linked)} links of results/ set" if linked else ""
    return f"{path} is the run's home now{more}; {Hint('step', path)} goes on"


def _choose(root: Path, journal: str, assume: str | None) -> str:
    """Keep one of two histories; what only the other one had stays, under the name of its home."""
    file = Journal(root / layout.JOURNAL)
    if not os.path.lexists(root / layout.LEDGER):
        raise UsageError(f"{root} has no ledger, so there is one history only: {Hint('adopt', root)}")
    with SQLiteStateStore(root / layout.LEDGER, read_only=True) as store:
        ours = store.lines_after(0)
        branch = branch_of(ours, file.lines())
        if branch is None:
            raise UsageError(f"{file.path} does not branch; {Hint('doctor', root)} says whether anything else is wrong")
        if journal == "here":
            other = branch.there.home
            kept = list(_set_journal_aside(root, other))
            Journal(root / layout.JOURNAL).append(ours)
            moved = _set_versions_aside(root, store, other)
    if journal == "there":
        other = branch.here.home
        memory = rebuild.memory_ledger(root)
        _require_rest(root, memory, assume)
        moved = _set_versions_aside(root, memory, other)
        before = set(root.glob(f"{layout.LEDGER}.*"))
        rebuild.write_ledger(root, time.time(), _adopted(root, memory, assume))
        kept = sorted(path.name for path in set(root.glob(f"{layout.LEDGER}.damaged-*")) - before)
    more = f"; the other is {' and '.join([*kept, *moved])}"
    done = _at_home(root, assume if journal == "there" else None)
    if journal == "here":
        done = f"{root} stays the run's home; {Hint('step', root)} goes on"
    return f"the history of {'the ledger' if journal == 'here' else layout.JOURNAL} is kept{more}; {done}"


def _set_journal_aside(root: Path, other: str) -> Iterator[str]:
    """Rename the journal to `journal-<home>.jsonl`, and its older files; yield the names."""
    for name, kept in ((layout.SEGMENTS, f"{layout.SEGMENTS}-{other}"), (layout.JOURNAL, f"journal-{other}.jsonl")):
        if os.path.lexists(root / name):
            if os.path.lexists(root / kept):
                kept = move_aside(root / name)
            else:
                os.replace(root / name, root / kept)
            yield kept


def _set_versions_aside(root: Path, store: SQLiteStateStore, other: str) -> list[str]:
    """Rename the folders of versions that are not those of a ledger to `versions/N-<home>`; return their names."""
    moved = []
    for folder in sorted((root / layout.VERSIONS).glob("[0-9]*")):
        if folder.name.isdigit() and not _is_of(folder, store, int(folder.name)):
            name, number = f"{folder.name}-{other}", 1
            while os.path.lexists(folder.with_name(name)):
                number += 1
                name = f"{folder.name}-{other}-{number}"
            folder.rename(folder.with_name(name))
            moved.append(f"{layout.VERSIONS}/{name}")
    return moved


def _is_of(folder: Path, store: SQLiteStateStore, version: int) -> bool:
    if version not in store.versions():
        return False
    files = dict(zip((layout.CAMPAIGN, layout.OPERATORS), store.digests_of(version), strict=True))
    files |= {f"{layout.SOURCE}/{path}": digest for path, (digest, *_) in store.source_files(version).items()}
    try:
        return all(not digest or sha256_of(folder / path) == digest for path, digest in files.items())
    except OSError:
        return False


def _adopt_ledger(root: Path, assume: str | None) -> bool:
    """Adopt a copy by its own ledger; return False where it is at home. Raises RunIsCopyError if only the journal can."""
    journal = Journal(root / layout.JOURNAL)
    with SQLiteStateStore(root / layout.LEDGER, journal=journal) as store:
        ours, lines = store.lines_after(0), journal.lines()
        branch = branch_of(ours, lines)
        if branch is not None:
            raise UsageError(f"{journal.path} {branch.in_words(root)}")
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
