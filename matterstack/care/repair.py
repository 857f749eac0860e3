"""`doctor --fix`: what can be repaired without a person and without starting anything."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from matterstack.care import rebuild
from matterstack.care.checks import GIT_FILES, left_over, left_temporary, owners_of_paths, require_traces
from matterstack.care.record import read_record
from matterstack.core.events import Rebuilt, RunCreated
from matterstack.core.model import OutputFile
from matterstack.core.values import dump_json_lines
from matterstack.errors import JournalError, LedgerDamagedError, LedgerMissingError, RunRootError
from matterstack.orchestration.session import open_ledger, refuse_clone
from matterstack.run_root import layout
from matterstack.run_root.files import read_regular, write_beside
from matterstack.run_root.gitignore import ignore, large_files
from matterstack.run_root.layout import attempt_folder, require_run_root
from matterstack.run_root.results import publish
from matterstack.storage.integrity import integrity_problem
from matterstack.storage.journal import Journal, parse_or_none, set_aside_version_1
from matterstack.storage.run_lock import LOCK_FILE, run_lock, write_released
from matterstack.storage.state_store import SQLiteStateStore

PATIENCE_S = 30.0


def repair(root: str | Path) -> list[str]:
    """Do what `examine` calls fixable; return what was done, one sentence each.

    Raises RunLockedError if another process works on the run, RunIsCopyError for a copy, and what cannot be mended
    in words.
    """
    path = Path(root)
    require_traces(path)
    done: list[str] = []
    if (path / LOCK_FILE).is_symlink() or ((path / LOCK_FILE).exists() and not (path / LOCK_FILE).is_file()):
        done.append(f"{LOCK_FILE}: moved to {move_aside(path / LOCK_FILE)}")
        write_released(path, path)
    with run_lock(path, wait_s=PATIENCE_S, check=partial(refuse_clone, path)):
        for left in left_over(path):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            done.append(f"{left.name}: removed")
        done += _mend_record(path)
        require_run_root(path)
        why = _why_rebuild(path)
        if why:
            memory = rebuild.memory_ledger(path)
            rebuild.write_ledger(path, time.time(), Rebuilt(why=why, **rebuild.here(path, memory)))
            done.append(f"{layout.LEDGER}: {why}; rebuilt from journal.jsonl and tasks/")
        done += _mend_journal(path)
        with open_ledger(path) as store:
            done += [f"results/{output.path}: linked" for output in relink(path, store)]
            for left_path in left_temporary(path, store):
                there = path / left_path.rstrip("/")
                shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
                done.append(f"{left_path}: removed")
            done += _mend_git_files(path, store)
    return done


def _mend_git_files(root: Path, store: SQLiteStateStore) -> Iterator[str]:
    for name, lines in GIT_FILES.items():
        try:
            have = read_regular(root / name).decode(errors="replace")
        except OSError:
            have = ""
            if os.path.lexists(root / name):
                yield f"{name}: what was not a file is {move_aside(root / name)} now"
        lacking = [line for line in lines.splitlines() if line not in have.splitlines()]
        if lacking:
            kept = have if not have or have.endswith("\n") else have + "\n"
            write_beside(root / name, kept + "".join(line + "\n" for line in lacking))
            yield f"{name}: written"
    most = store.newest_campaign().git_max_size
    at_work = {
        row.key
        for row in store.live_attempts()
        if store.operators(row.campaign_version)[row.operator].row.on_this_machine
    }
    large = [
        path
        for folder in (layout.TASKS, layout.VERSIONS, *_source_of_before_versions(root))
        for path in large_files(root, folder, most)
    ]
    skipped = tuple(f"{attempt_folder(*key)}/" for key in at_work)
    ignore(root, [path for path in large if not path.startswith(skipped)], at_work)


def _source_of_before_versions(root: Path) -> list[str]:
    return [] if (root / layout.SOURCE).is_symlink() else [layout.SOURCE]


def move_aside(path: Path) -> str:
    """Move what should not be there out of the way; return its new name."""
    number = 1
    while os.path.lexists(kept := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    os.replace(path, kept)
    return kept.name


def _mend_record(root: Path) -> list[str]:
    """Write a run.json that is lost or damaged from the ledger; a damaged one is kept."""
    try:
        read_record(root)
        return []
    except RunRootError:
        said = [_write_record(root)]
    return said


def _why_rebuild(root: Path) -> str:
    try:
        with SQLiteStateStore(root / layout.LEDGER) as store:
            return integrity_problem(store)
    except LedgerMissingError as error:
        return error.what
    except LedgerDamagedError:
        return "damaged"


def _mend_journal(root: Path) -> list[str]:
    """Write a journal that cannot be read, or was edited, from the ledger; the old one is kept."""
    journal = Journal(root / layout.JOURNAL)
    with SQLiteStateStore(root / layout.LEDGER, read_only=True) as store:
        set_aside_version_1(journal.path, store.run().run_id)
    try:
        list(journal.check(journal.lines()))
        return []
    except JournalError:
        pass
    with SQLiteStateStore(root / layout.LEDGER, read_only=True) as store:
        lines = store.lines_after(0)
    moved = [
        move_aside(path) for path in (journal.path.with_name(layout.SEGMENTS), journal.path) if os.path.lexists(path)
    ]
    kept = f"; the damaged one is {' and '.join(map(str, moved))}" if moved else ""
    journal.append(lines)
    return [f"{layout.JOURNAL}: written from the ledger{kept}"]


def _write_record(root: Path) -> str:
    """Write a lost run.json from the ledger."""
    with SQLiteStateStore(root / layout.LEDGER, read_only=True) as store:
        run, first = store.run(), parse_or_none(store.line(1) or "")
    created = first.event if first is not None else None
    record = {
        "id": run.run_id, "name": run.name, "digest": created.digest if isinstance(created, RunCreated) else run.digest, "created_at": run.created_at,
        "version": created.version if isinstance(created, RunCreated) else None,
        "set": created.set if isinstance(created, RunCreated) else {},
    }  # fmt: skip
    kept = f"; the damaged one is {move_aside(root / layout.RUN)}" if os.path.lexists(root / layout.RUN) else ""
    write_beside(root / layout.RUN, dump_json_lines(record))
    return f"{layout.RUN}: written from the ledger{kept}"


def relink(root: Path, store: SQLiteStateStore) -> Iterator[OutputFile]:
    owners = owners_of_paths(store)
    for row in store.tasks():
        for output in store.published_files(row.task_id):
            if owners.get(output.path.rstrip("/"), row.task_id) != row.task_id:
                continue
            link = root / "results" / output.path.rstrip("/")
            target = f"{attempt_folder(row.task_id, row.result or 0)}/{output.file.rstrip('/')}"
            is_right = link.is_symlink() and os.readlink(link) == os.path.relpath(root / target, link.parent)
            if is_right or not (root / target).exists():
                continue
            if not publish(root, row.task_id, row.result or 0, [output], []):
                yield output
