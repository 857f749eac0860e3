"""Holding a run: its lock, its ledger brought up to date, and what a killed command left, finished."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from matterstack.core.events import Moved
from matterstack.core.times import from_text
from matterstack.errors import RunIsCopyError, RunRootError
from matterstack.hints import Hint
from matterstack.run_root import layout
from matterstack.run_root.files import place_of, sync, write_beside
from matterstack.run_root.layout import attempt_folder
from matterstack.run_root.results import publish, withdraw
from matterstack.run_root.verify import make_read_only, output_problem
from matterstack.storage.journal import KEPT_JOURNAL, Journal, set_aside_version_1
from matterstack.storage.run_lock import boot_id, run_lock
from matterstack.storage.state_store import SQLiteStateStore

log = logging.getLogger("matterstack")

WHY: ContextVar[str] = ContextVar("why", default="")  # what a person gave as the reason of the command that runs

_BEFORE_A_REBOOT_S = 900.0  # whose results may not have reached the disk


@contextmanager
def open_to_write(root: Path, *, wait_s: float = 0.0, by_person: bool = False) -> Iterator[SQLiteStateStore]:
    """Hold the run's lock and yield its ledger.

    Of a command ``by_person`` it is recorded who gave it, and why, with all that it changes.

    Raises RunLockedError if the lock is not free within ``wait_s``, RunIsCopyError for a copy or clone of a run
    (the files of a copy may be read, only `adopt` makes it one that writes), LedgerError, RunRootError.
    """
    with (
        run_lock(root, wait_s=wait_s, check=partial(refuse_clone, root)) as lock,
        open_ledger(root, trusted=lock.before.get("journal")) as store,
    ):
        if by_person:
            store.author = author()
        boot = lock.before.get("boot")
        if not boot and boot_id():  # a power cut may take what the last holder wrote as well
            _check_what_a_reboot_may_have_lost(root, store, store.last_end(), f"{root / layout.LOCK} is not whole")
        elif boot != boot_id() and lock.before.get("host") == socket.gethostname():
            last = from_text(lock.before.get("released") or lock.before.get("since")) or 0.0
            _check_what_a_reboot_may_have_lost(root, store, last, "the machine was rebooted")
        try:
            yield store
        finally:
            # A journal that is still the same when the lock is taken next needs no look at all of its lines.
            assert store.journal is not None
            lock.note["journal"] = store.journal.stamp()


def author() -> tuple[str, str]:
    """Return the person who runs this process, as user@host, and the reason that was given for it."""
    import getpass

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}", WHY.get()


def _check_what_a_reboot_may_have_lost(root: Path, store: SQLiteStateStore, last: float, why: str) -> None:
    """Set the links of the last minutes again, and warn of outputs that are not what was recorded: neither is synced.

    ``last`` is when the run was worked on last, in POSIX seconds, ``why`` what makes this necessary.
    """
    for task_id, attempt, outputs in store.published_since(last - _BEFORE_A_REBOOT_S):
        publish(root, task_id, attempt, outputs, ())  # what is in the way is told by `doctor`
        for output in outputs:
            problem = output_problem(root, attempt_folder(task_id, attempt), output, digests=True)
            if problem:
                log.warning(
                    "%s: %s/%s: %s (restore it from git or a backup, or %s)",
                    why, attempt_folder(task_id, attempt), output.file, problem, Hint("rerun", root, task_id),
                )  # fmt: skip


def refuse_clone(root: Path, holder: Mapping[str, Any]) -> None:
    """Raise RunIsCopyError if the ledger is missing and `run.lock` does not say that it was here."""
    if os.path.lexists(root / layout.LEDGER):
        return
    if (holder.get("host"), holder.get("path")) != place_of(root):
        raise is_a_copy(root)


def is_a_copy(root: Path, home: str = "") -> RunIsCopyError:
    return RunIsCopyError(
        f"{root} is a copy of a run{home}. It can be read but not stepped. Once the original has stopped, "
        f"{Hint('adopt', root)} makes this copy the one that runs"
    )


def open_ledger(root: Path, *, read_only: bool = False, trusted: object = None) -> SQLiteStateStore:
    """Open the ledger of a run root; the writer's journal is brought up to date with it first.

    ``trusted`` is what `Journal.stamp` gave when the last holder of the lock let it go: a journal that is still the
    same needs no look at all of its lines.
    """
    path = root / layout.LEDGER
    if read_only:
        return SQLiteStateStore(path, read_only=True)
    journal = Journal(root / layout.JOURNAL)
    store = SQLiteStateStore(path, journal=journal)
    try:
        _require_home(root, store)
        translated = set_aside_version_1(journal.path, store.run().run_id)
        added = store.complete_journal(compare=not trusted or journal.stamp() != trusted)
        journal.rotate()
        finish_version(root, store)
        if os.path.lexists(root / layout.MAKING):
            finish_made(root, store)
        if translated:
            log.warning("%s: translated; the previous journal is saved as %s", journal.path, KEPT_JOURNAL)
        elif added:
            log.warning("%s: %d lines that a killed step left out were added", journal.path, added)
    except OSError as error:
        store.close()
        raise RunRootError(f"{journal.path}: cannot be written: {error.strerror}") from None
    except BaseException:  # also Ctrl-C: the ledger must not stay open
        store.close()
        raise
    return store


def finish_version(root: Path, store: SQLiteStateStore) -> None:
    """Bring the links in the run root to the newest version of the campaign: after `amend`, or one that was killed."""
    version = store.newest_version()
    if version < 2:
        return
    from matterstack.run_root.versions import (  # a run that was never amended needs none of it
        is_linked_to,
        link_version,
    )

    if is_linked_to(root, version):
        return
    for task_id in store.retired():
        withdraw(root, task_id, store.left_paths(task_id))
    for task_id, attempt, outputs in store.published_since(0.0):  # also of those that came back
        if not all(os.path.lexists(root / layout.RESULTS / output.path.rstrip("/")) for output in outputs):
            publish(root, task_id, attempt, outputs, ())
    link_version(root, version)


def note_made(root: Path, task_id: str, attempt: int) -> None:
    """Note that an attempt is being made by hand; `finish_made` does the rest, also after a kill. Raises OSError."""
    write_beside(root / layout.MAKING, f"{attempt} {task_id}\n", synced=True)


def finish_made(root: Path, store: SQLiteStateStore) -> None:
    """Bring an attempt that was made by hand to its place if the ledger has it, else remove what was made of it."""
    import shutil  # as above

    try:
        number, _, task_id = (root / layout.MAKING).read_text(encoding="utf-8").rstrip("\n").partition(" ")
        attempt = int(number)
    except (FileNotFoundError, ValueError):
        (root / layout.MAKING).unlink(missing_ok=True)
        return
    final = root / attempt_folder(task_id, attempt)
    staged = final.with_name(f".by-hand-{attempt}")
    if staged.is_dir():
        row = store.attempt(task_id, attempt)
        if row is not None and not final.exists():
            os.rename(staged, final)
            sync(final.parent)
        else:
            shutil.rmtree(staged)
    if final.is_dir():
        for output in store.published_files(task_id):
            make_read_only(final / output.file.rstrip("/"))
        publish(root, task_id, attempt, store.published_files(task_id), ())
    (root / layout.MAKING).unlink()


def _require_home(root: Path, store: SQLiteStateStore) -> None:
    here = place_of(root)
    inode, *home = store.home()
    if not store.is_at_home(*here):
        raise is_a_copy(root, f" at home on {home[0]} in {home[1]}")
    found = store.path.stat().st_ino
    if tuple(home) != here or inode != found:
        # Else a copy put at the old place would be at home there as well.
        store.moved = Moved(*here, found, store.campaign_path_from(here[1]))
