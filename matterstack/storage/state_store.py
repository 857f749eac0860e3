"""An open ledger: how it is opened, what is refused, and how events are committed.

One writer, the holder of `run.lock`. Events and what they change are one transaction; the journal gets their lines after
the commit, before anything else happens. Every commit carries the epoch: the first of a step raises it, and it fails if
another process has committed since this one opened the ledger.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Self

from matterstack.core.events import (
    Adopted,
    Amended,
    AttemptChanged,
    AttemptMade,
    Event,
    Expanded,
    Moved,
    RunCreated,
    Withdrawn,
)
from matterstack.core.limits import Spent
from matterstack.core.model import Campaign, Instance, OperatorSpec
from matterstack.core.states import FailureClass
from matterstack.core.times import rounded
from matterstack.errors import (
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerNewerError,
    LedgerTakenOverError,
    LedgerUnfinishedError,
    MatterStackError,
    RunRootError,
)
from matterstack.hints import Hint
from matterstack.run_root.files import open_regular
from matterstack.run_root.layout import DEFECT
from matterstack.storage.apply import apply
from matterstack.storage.expanded import digest_of_text, read_expanded, write_expanded
from matterstack.storage.invariants import violation
from matterstack.storage.journal import BEGINNING, Entry, Journal, digest_of
from matterstack.storage.migrations import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, TABLES
from matterstack.storage.queries import CPU_S, Queries
from matterstack.storage.rows import Undecodable
from matterstack.version import __version__

log = logging.getLogger("matterstack")

_BUSY_TIMEOUT_S = 10.0


_OF_THE_DISK = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH,
}  # fmt: skip


class _Guard:
    """The context in which a ledger is read or written."""

    def __init__(self, store: SQLiteStateStore) -> None:
        self.store = store

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, (sqlite3.Error, Undecodable)):
            raise self.store.refusal(error) from None


LONGEST_PATH_OF_SQLITE = 512  # bytes, with that of the rollback journal. Source: sqlite3.c, MAX_PATHNAME


def _too_long(path: Path) -> str:
    size = len(os.fsencode(os.path.abspath(path))) + len("-journal")
    if size <= LONGEST_PATH_OF_SQLITE:
        return ""
    return f" (its path needs {size} bytes, SQLite takes {LONGEST_PATH_OF_SQLITE}: move the run root to a shorter path)"


class SQLiteStateStore(Queries):
    """An open ledger.

    ``create`` makes a new one; without it a missing file is refused. ``read_only`` neither locks nor migrates.
    Raises LedgerMissingError, LedgerNewerError, LedgerForeignError or LedgerDamagedError, each a RuntimeError that
    says what to do.
    """

    epoch: int | None

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        read_only: bool = False,
        journal: Journal | None = None,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        self._begin(Path(path), journal, migrations, read_only=read_only)
        if not create:
            _check_magic(self.path, self._rebuilds())
        mode = "ro" if read_only else "rwc" if create else "rw"
        try:
            if create:  # SQLite would leave out the group whatever the umask says
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            uri = f"{self.path.resolve().as_uri()}?mode={mode}"
            self.db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        except sqlite3.Error as error:
            raise RunRootError(f"{self.path}: cannot be opened: {error}{self._full()}{_too_long(self.path)}") from None
        try:
            with self.guard():
                self.db.execute("PRAGMA foreign_keys = ON")
                # Beyond FULL: the end of a commit is a name that is removed, and the journal must not know of it before
                # that is certain. Source: sqlite.org/pragma.html#pragma_synchronous
                self.db.execute("PRAGMA synchronous = EXTRA")
                self.db.execute("PRAGMA cache_size = -65536")  # KiB: 100,000 new tasks are written once
                if create:
                    self._create()
                else:
                    self._check_version()
                row = self.db.execute("SELECT epoch FROM run").fetchone()
                self.epoch = row[0] if row else None
        except BaseException:
            self.db.close()
            raise
        log.info("ledger: %s", self.path)
        log.info("ledger schema version: %s", len(self.migrations))

    def _begin(
        self, path: Path, journal: Journal | None, migrations: Sequence[Sequence[str]], *, read_only: bool
    ) -> None:
        self.path = path
        self.root = path.parent  # as the user gave it, for messages
        self.migrations = migrations
        self.read_only = read_only
        self.journal = journal
        self.moved: Moved | None = None  # recorded by the next commit
        self.author: tuple[str, str] = ("", "")  # who changes it, user@host, and why; empty for a step
        self.epoch = None  # of this process's last commit or of opening; None in an empty ledger
        self._raised = False
        self._before: tuple[int | None, bool, Moved | None] = (None, False, None)  # the open transaction
        self._to_flush = False  # whether anything was recorded that is not committed, or not in the journal
        self._in_journal: int | None = None  # number of the last event that it has
        self._campaigns: dict[int, Campaign] = {}
        self._instances: dict[str, Instance] = {}
        self._operators: dict[int, Mapping[str, OperatorSpec]] = {}
        self._source_of: dict[int, str] = {}
        self._spent = None
        self.read: Callable[[str], str] = lambda digest: read_expanded(self.root, digest)

    @classmethod
    def over(
        cls, db: sqlite3.Connection, path: Path, read: Callable[[str], str] | None = None, *, known: bool = False
    ) -> Self:
        """Return a ledger over an open database, whose tables are made if it has none; ``path`` is for messages.

        A ``known`` database was opened before by this process, and is not checked again.
        """
        store = cls.__new__(cls)
        store._begin(path, None, MIGRATIONS, read_only=False)
        store.db = db
        if not known:
            store._create()
        if read is not None:
            store.read = read
        row = db.execute("SELECT epoch FROM run").fetchone()
        store.epoch = row[0] if row else None
        return store

    @classmethod
    def in_memory(cls, path: Path) -> SQLiteStateStore:
        """Return an empty ledger in memory, for a run whose own cannot be read; ``path`` is that one's."""
        return cls.over(sqlite3.connect(":memory:", isolation_level=None), path)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> SQLiteStateStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- opening ---

    def _create(self) -> None:
        if self.db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._check_version()
            return
        self.db.execute("BEGIN IMMEDIATE")
        for statements in self.migrations:
            for statement in statements:
                self.db.execute(statement)
        self.db.execute("INSERT INTO schema_info VALUES (?, ?)", (len(self.migrations), __version__))
        self.db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.db.execute(f"PRAGMA user_version = {len(self.migrations)}")
        self.db.execute("COMMIT")

    def _check_version(self) -> None:
        application_id = self.db.execute("PRAGMA application_id").fetchone()[0]
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in self.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if application_id != APPLICATION_ID and "schema_info" not in tables and tables:
            raise LedgerForeignError(
                f"{self.path} is a database of another program (application id {application_id}); "
                f"put the run's ledger back, or move the file away: {self._rebuilds()}"
            )
        rows = (
            self.db.execute("SELECT version, written_by FROM schema_info").fetchall() if "schema_info" in tables else []
        )
        recorded, written_by = rows[0] if len(rows) == 1 else (None, "an unknown version")
        newest = max(version, recorded if isinstance(recorded, int) else 0)
        known = len(self.migrations)
        if newest > known and version == recorded:
            raise LedgerNewerError(
                f"{self.path} has schema {newest}, written by MatterStack {written_by}; MatterStack {__version__} "
                f"knows {known}; use the newer MatterStack"
            )
        if application_id != APPLICATION_ID or version < 1 or recorded != version:
            what = f"schema version {version}, schema_info {recorded}, application id {application_id}"
            raise LedgerDamagedError(self.path, what, self._rebuilds())
        lost = set(TABLES) - tables if version == SCHEMA_VERSION else None
        if lost:
            raise LedgerDamagedError(self.path, f"table {min(lost)} is missing", self._rebuilds())
        if version < known and self.read_only:
            raise LedgerError(
                f"{self.path} has schema {version}, this MatterStack reads {known}; {Hint('step', self.root)} "
                f"migrates it, with a backup, and {Hint('doctor', self.root, rest='--fix')} does so without starting anything"
            )
        if version < known:
            self._migrate(version)

    def _migrate(self, version: int) -> None:
        """Bring an older ledger to today's schema: a backup first, then one transaction for each version."""
        backup = self.path.with_name(f"{self.path.name}.v{version}-backup")
        if not backup.exists():
            beside = backup.with_name(f"{backup.name}.part")
            for left in self.path.parent.glob(f"{beside.name}*"):  # of one that was killed here
                left.unlink()
            copy = sqlite3.connect(beside)
            try:
                self.db.backup(copy)
            finally:
                copy.close()
            os.replace(beside, backup)  # whole, or not there
        steps = list(enumerate(self.migrations[version:], start=version + 1))
        if version < 2:  # its events fill the tables as they are today
            steps = [(len(self.migrations), [item for statements in self.migrations[1:] for item in statements])]
        for number, statements in steps:
            self.db.execute("PRAGMA foreign_keys = OFF")  # it has no effect within a transaction
            self.db.execute("BEGIN IMMEDIATE")
            try:
                if version < 2:
                    from matterstack.storage.version_1 import translate_ledger

                    translate_ledger(self, statements)
                else:
                    for statement in statements:
                        self.db.execute(statement)
                self.db.execute("UPDATE schema_info SET version = ?, written_by = ?", (number, __version__))
                self.db.execute(f"PRAGMA user_version = {number}")
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
            finally:
                self.db.execute("PRAGMA foreign_keys = ON")
            log.warning(
                "%s: migrated from schema %d to %d; the previous ledger is saved as %s",
                self.path, 1 if version < 2 else number - 1, number, backup.name,
            )  # fmt: skip

    def _rebuilds(self) -> str:
        return f"{Hint('doctor', self.root, rest='--fix')} rebuilds it from journal.jsonl and tasks/"

    def _full(self) -> str:
        """Return whether the disk is full where it is, since SQLite only says that it could not open a file."""
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return ""
        full = (
            "no space left" if disk.f_bavail == 0 else "no inodes left" if disk.f_files and disk.f_favail == 0 else ""
        )
        return full and f" ({full} on its disk)"

    def guard(self) -> AbstractContextManager[None]:
        """Turn SQLite's errors, and what cannot be decoded, into errors of ours."""
        return _Guard(self)

    def refusal(self, error: sqlite3.Error | Undecodable) -> MatterStackError:
        """Return what is raised for an error of SQLite. Source of the codes: sqlite.org/rescode.html."""
        text = str(error)
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the rest tells kinds of one code
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return RunRootError(f"{self.path} is busy: {text}; try again")
        if code == sqlite3.SQLITE_READONLY and self.read_only:
            return LedgerUnfinishedError(
                f"{self.path}: a killed step left an unfinished commit; {Hint('step', self.root)} rolls it back"
            )
        if code == sqlite3.SQLITE_READONLY:
            return RunRootError(
                f"{self.path} cannot be written, or a killed step left something to finish: {text}; "
                f"check its permissions, then run {Hint('step', self.root)}"
            )
        if os.path.isdir(f"{self.path}-journal"):
            return RunRootError(
                f"{self.path}-journal is a folder where SQLite writes its rollback journal; move it away"
            )
        if code in _OF_THE_DISK:
            return RunRootError(
                f"{self.path}: {text}{self._full()}; check the disk, then run {Hint('step', self.root)}"
            )
        return LedgerDamagedError(self.path, text, self._rebuilds())

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all that is read in the body be of one moment."""
        with self.guard():
            self.db.execute("BEGIN")
        try:
            yield
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    # --- writing ---

    def append(
        self, events: Iterable[Event], now: float, *, sync: bool = True, between: Callable[[], None] = lambda: None
    ) -> int:
        """Record events with what they change; return how many there were. ``between`` is called after each.

        With ``sync`` they are committed, with those before them that were not, and the journal is brought up to them.
        Without it they wait for that, or for `flush`: this process sees what they change, and nobody else.
        All or nothing. Raises LedgerTakenOverError if another process has committed since this one opened the ledger,
        LedgerError for events that do not fit or that would make the ledger say what cannot be (defect.txt in the run
        root has the details), RunRootError if the disk refuses.
        """
        given = list(events)
        if given:
            self._add(given, now, between)
        if sync:
            self.flush()
        return len(given)

    def _add(self, given: list[Event], now: float, between: Callable[[], None]) -> None:
        """Apply events in the open transaction, or in a new one."""
        joins = self.db.in_transaction
        with self.guard():
            if self._in_journal is None:
                self._in_journal = self.last_seq()
            self.db.execute("SAVEPOINT events" if joins else "BEGIN IMMEDIATE")
            try:
                if not joins:
                    self._before = (self.epoch, self._raised, self.moved)
                epoch = self._next_epoch()
                if self.moved is not None:
                    given.insert(0, self.moved)
                self.write(_timed(given, now, epoch, between))
                problem = violation(self.db, given)
                if problem:
                    raise self._defect(problem, given)
                if joins:
                    self.db.execute("RELEASE events")
                self.epoch, self._raised, self.moved, self._to_flush = epoch, True, None, True
                self._keep_up(given)
            except BaseException:
                if not self.db.in_transaction:  # on a full disk SQLite undoes all of it, not only what was added
                    self._undone()
                elif joins:
                    self.db.execute("ROLLBACK TO events")
                else:
                    self.db.execute("ROLLBACK")
                    self._undone()
                raise

    def _keep_up(self, events: Sequence[Event]) -> None:
        """Add to what was spent what events say of it, and forget instances that they change."""
        if any(isinstance(event, Expanded | Amended) for event in events):
            self._instances.clear()
        if self._spent is None:
            return
        attempts, cpu_s = self._spent.attempts, self._spent.cpu_s
        for event in events:
            if isinstance(event, AttemptMade):
                attempts += 1
            elif isinstance(event, Withdrawn):
                attempts -= len(event.attempts)
            elif isinstance(event, AttemptChanged) and event.ended_at is not None:
                if event.failure in (FailureClass.NOT_STARTED, FailureClass.POSTPONED):
                    attempts -= 1
                else:
                    row = self._one(f"SELECT {CPU_S} FROM attempts a WHERE task_id = ? AND attempt = ?", *event.key)
                    cpu_s += float(row[0] or 0.0) if row is not None else 0.0
        self._spent = Spent(attempts, cpu_s)

    def _undone(self) -> None:
        self._spent = None
        self.epoch, self._raised, self.moved = self._before

    def flush(self) -> None:
        """Commit what was recorded without it, and bring the journal up to the ledger. Raises RunRootError."""
        if not self._to_flush:
            return
        with self.guard():
            try:
                if self.db.in_transaction:
                    self.db.execute("COMMIT")
            except BaseException as error:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                    self._undone()
                elif isinstance(error, sqlite3.Error):
                    self._undone()
                raise  # else Ctrl-C came after the commit
        if self.journal is not None:
            # As the ledger has them: whatever stopped an earlier flush, no line is left out.
            lines = self.lines_after(self._in_journal or 0)
            try:
                self.journal.append(lines)
            except OSError as error:
                message = f"{self.journal.path}: cannot be written: {error.strerror}; the next step completes it"
                raise RunRootError(message) from None
            self._in_journal = (self._in_journal or 0) + len(lines)
        self._to_flush = False

    def write(self, timed: Iterable[tuple[float, int, Event]]) -> list[str]:
        """Apply new events, each with its time and epoch, in the open transaction; return their lines."""
        row = self.db.execute("SELECT seq, line FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        seq, prev = (row[0], digest_of(row[1])) if row is not None else (0, BEGINNING)
        home = self.db.execute("SELECT home_id FROM run").fetchone()
        home_id, epoch = home[0] if home is not None else "", 1
        lines = []
        for at, epoch, event in timed:
            if isinstance(event, RunCreated):
                home_id = event.new_home
            seq += 1
            entry = Entry(seq, rounded(at), epoch, home_id, prev, event, *self.author)
            line = entry.line()
            self._apply(entry, line)
            prev = digest_of(line)
            lines.append(line)
            if isinstance(event, Adopted):
                home_id = event.new_home
        self.db.execute("UPDATE run SET epoch = ?", (epoch,))
        return lines

    def _defect(self, problem: str, events: Sequence[Event]) -> LedgerError:
        """Keep what was to be recorded for whoever looks for the defect; return the error to raise."""
        shown = "".join(f"{event.kind} {event.to_json()}\n" for event in events)
        path = self.root / DEFECT
        with suppress(OSError):
            path.write_text(f"{problem}\n\n{shown}\n{''.join(traceback.format_stack())}", errors="backslashreplace")
        return LedgerError(
            f"{self.path}: a defect of MatterStack: {problem}; nothing was recorded, {path} has the details for a report"
        )

    def _apply(self, entry: Entry, line: str) -> None:
        apply(self.db, entry, self.read)
        self.db.execute("INSERT INTO events VALUES (?, ?)", (entry.seq, line))

    def _next_epoch(self) -> int:
        """Return the epoch that the open transaction commits under."""
        if self.epoch is None:
            return 1
        found = self.db.execute("SELECT epoch FROM run").fetchone()
        if found is None or found[0] != self.epoch:
            raise LedgerTakenOverError(
                f"{self.path}: another process has changed the ledger; stopping here, nothing is lost"
            )
        return int(self.epoch) + (0 if self._raised else 1)

    def require_epoch(self) -> None:
        """Raise LedgerTakenOverError if another process has committed since this one did."""
        with self.guard():
            self._next_epoch()

    def replay(self, entries: Iterable[Entry]) -> None:
        """Fill an empty ledger with the events of a journal. Raises LedgerError for one that does not fit."""
        with self.guard():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                entry = None
                for entry in entries:
                    self._apply(entry, entry.line())
                if entry is not None:
                    self.epoch = entry.epoch
                    self.db.execute("UPDATE run SET epoch = ?", (self.epoch,))
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Write the events of an older version in the body, all or nothing."""
        with self.guard():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
                row = self.db.execute("SELECT epoch FROM run").fetchone()
                self.epoch = row[0] if row else None
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def keep(self, text: str) -> str:
        """Keep a file of expanded/; return its name. A ledger in memory writes nothing to the disk."""
        if self.is_on_disk():
            return write_expanded(self.root, text)
        digest = digest_of_text(text)
        known, read = {digest: text}, self.read
        self.read = lambda name: known[name] if name in known else read(name)
        return digest

    def keep_campaigns(self, campaigns: dict[int, Campaign]) -> None:
        """Share already read campaign versions (they never change) between the ticks of a loop."""
        self._campaigns = campaigns

    # --- events ---

    def last_seq(self) -> int:
        row = self._one("SELECT MAX(seq) FROM events")
        return int(row[0] or 0) if row is not None else 0

    def line(self, seq: int) -> str | None:
        row = self._one("SELECT line FROM events WHERE seq = ?", seq)
        return row[0] if row is not None else None

    def lines_after(self, seq: int) -> list[str]:
        return [row[0] for row in self._all("SELECT line FROM events WHERE seq > ? ORDER BY seq", seq)]

    def complete_journal(self, *, compare: bool) -> int:
        """Append to the journal what a killed process could not, return the number of lines; with ``compare`` check
        every line of it first. Raises JournalError if it is not this ledger's; OSError."""
        assert self.journal is not None
        if compare:
            self.journal.compare(self.lines_after)
        added = self.journal.complete(self.last_seq(), self.line, self.lines_after)
        self._in_journal = self.last_seq()
        return added

    # --- where it is at home ---

    def is_on_disk(self) -> bool:
        """Return whether this is the file at `path`, and not a ledger in memory."""
        row = self._one("PRAGMA database_list")
        return row is not None and bool(row[2])

    def is_at_home(self, host: str, path: str) -> bool:
        """Return whether this is the run's own ledger: by its inode (moved, another login node) or by host and path."""
        inode, home_host, home_path = self.home()
        return os.stat(self.path).st_ino == inode or (host, path) == (home_host, home_path)

    def campaign_path_from(self, path: str) -> str:
        """Return the way from a place of the run root to the campaign file: one that leads there."""
        run = self.run()
        was = os.path.normpath(os.path.join(run.home_path, run.campaign_path))
        if path != run.home_path and os.path.isfile(was) and not os.path.isfile(os.path.join(path, run.campaign_path)):
            return os.path.relpath(was, path)
        return run.campaign_path


def _timed(
    events: Iterable[Event], now: float, epoch: int, between: Callable[[], None]
) -> Iterator[tuple[float, int, Event]]:
    for event in events:
        yield now, epoch, event
        between()


def _check_magic(path: Path, remedy: str) -> None:
    """Refuse what is not a SQLite file before SQLite gets to see it.

    A truncated file is found by SQLite itself, when it reads. It must not be refused by its size here: before SQLite
    has rolled back a commit that was killed, header and size may differ.
    """
    try:
        with open_regular(path) as file:
            header, size = file.read(100), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise LedgerMissingError(path, remedy) from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.ELOOP):
            raise LedgerDamagedError(path, "it is not a regular file", remedy) from None
        raise RunRootError(f"{path}: cannot be read: {error.strerror}") from None
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise LedgerDamagedError(path, f"not a SQLite database ({size} bytes)", remedy)
