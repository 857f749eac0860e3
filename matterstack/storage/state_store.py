"""The ledger: every SQL statement of MatterStack.

One writer, the holder of `run.lock`. A change and its event are one transaction; the journal gets the events after
the commit, before anything else happens. Every commit carries the epoch: the first of a step raises it, and it
fails if another process has committed since this one opened the ledger.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from matterstack.core.model import (
    ABSENT,
    AttemptChange,
    Campaign,
    Evidence,
    Instance,
    ResolvedOutput,
    Resources,
    TaskChange,
    campaign_from_json,
    inputs_from_json,
    inputs_to_json,
    outputs_from_json,
    to_json,
)
from matterstack.core.readiness import Upstream
from matterstack.core.states import ATTEMPT_MOVES, AttemptState, FailureClass, TaskState
from matterstack.core.times import from_text, to_text
from matterstack.core.values import Float, Int, dump_json, load_json
from matterstack.errors import (
    LedgerDamagedError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerNewerError,
    LedgerTakenOverError,
    LedgerUnfinishedError,
    RunRootError,
)
from matterstack.run_root.files import open_regular
from matterstack.storage.journal import Event, Journal, encode
from matterstack.storage.migrations import APPLICATION_ID, MIGRATIONS
from matterstack.version import __version__

log = logging.getLogger("matterstack")
T = TypeVar("T")

_LIVE = "('SUBMITTING', 'SUBMITTED', 'RUNNING', 'WAITING')"
_REBUILD = "`matterstack doctor --fix` rebuilds it from journal.jsonl and tasks/"
_BUSY_TIMEOUT_S = 10.0
_CLOCK_SKEW_S = 60.0  # between machines that write to one run root


@dataclass(frozen=True)
class RunRow:
    run_id: str
    name: str
    digest: str
    created_at: str
    paused: bool
    cancelled: bool
    campaign_version: int
    campaign_path: str  # of the campaign file, relative to the run root
    source_digest: str
    home_path: str  # where the run root was made


@dataclass(frozen=True)
class TaskRow:
    task_id: str
    position: int
    group: str
    label: str
    campaign_version: int
    operator: str
    priority: int
    state: TaskState
    reason: str
    soft: bool
    cause: str | None
    watch: str | None
    retry_at: float | None
    paused: bool
    tries: int
    attempts: int
    result: int | None  # the newest successful attempt


@dataclass(frozen=True)
class AttemptRow:
    task_id: str
    attempt: int
    state: AttemptState
    operator: str
    handle: str
    wish: str | None
    wished_at: float | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    failure: FailureClass | None
    reason: str
    counts: bool
    cpus: int
    memory: int | None
    time_s: float | None
    source_digest: str
    response: str | None  # JSON of what a person or lab answered


_TASK_COLUMNS = (
    "task_id, position, group_name, label, campaign_version, operator, priority, state, reason, soft, cause, watch, "
    "retry_at, paused, tries, attempts, result"
)
_ATTEMPT_COLUMNS = (
    "task_id, attempt, state, operator, handle, wish, wished_at, created_at, started_at, ended_at, exit_code, "
    "failure, reason, counts, cpus, memory, time_s, source_digest, response"
)


def _read(decode: Callable[[Any], T], value: Any) -> T:
    """Decode what the ledger holds. Raises LedgerDamagedError for what no MatterStack wrote there."""
    try:
        return decode(value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LedgerDamagedError(f"state.sqlite is damaged: it holds {str(value)[:60]!r}; {_REBUILD}") from None


def _inputs(text: str) -> Any:
    return inputs_from_json(json.loads(text))


def _outputs(text: str) -> dict[str, ResolvedOutput]:
    return outputs_from_json(json.loads(text))


def _task_row(row: tuple[Any, ...]) -> TaskRow:
    values: list[Any] = [
        *row[:7],
        _read(TaskState, row[7]),
        row[8],
        bool(row[9]),
        *row[10:13],
        bool(row[13]),
        *row[14:],
    ]
    return TaskRow(*values)


def _attempt_row(row: tuple[Any, ...]) -> AttemptRow:
    failure = _read(FailureClass, row[11]) if row[11] else None
    values: list[Any] = [*row[:2], _read(AttemptState, row[2]), *row[3:11], failure, row[12], bool(row[13]), *row[14:]]
    return AttemptRow(*values)


class SQLiteStateStore:
    """An open ledger.

    ``create`` makes a new one; without it a missing file is refused. ``read_only`` neither locks nor migrates.
    Raises LedgerMissingError, LedgerNewerError, LedgerForeignError or LedgerDamagedError, each a RuntimeError that
    says what to do.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        read_only: bool = False,
        journal: Journal | None = None,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        self.path = Path(path)
        self.migrations = migrations
        self.read_only = read_only
        self.moved_to: tuple[str, str] | None = None  # host and path, recorded by the next commit
        self.journal = journal
        self.epoch: int | None = None  # of this process's last commit or of opening; None in an empty ledger
        self._raised = False
        self._open_epoch: int | None = None  # of the open transaction
        self._pending: list[Event] = []
        self._next_seq = 1
        self._campaigns: dict[int, Campaign] = {}
        if not create:
            _check_magic(self.path)
        mode = "ro" if read_only else "rwc" if create else "rw"
        try:
            uri = f"{self.path.resolve().as_uri()}?mode={mode}"
            self.db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        except sqlite3.Error as error:
            raise RunRootError(f"{self.path}: cannot be opened: {error}{self._full()}") from None
        try:
            with self._guard():
                self.db.execute("PRAGMA foreign_keys = ON")
                self.db.execute("PRAGMA synchronous = FULL")
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
                f"put the run's ledger back, or move the file away: {_REBUILD}"
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
            raise LedgerDamagedError(
                f"{self.path} is damaged: schema version {version}, schema_info {recorded}, "
                f"application id {application_id}; {_REBUILD}"
            )
        if version < known and self.read_only:
            raise LedgerError(
                f"{self.path} has schema {version}, this MatterStack reads {known}; the next `matterstack step` "
                "brings it up to date, with a backup"
            )
        if version < known:
            self._migrate(version)

    def _migrate(self, version: int) -> None:
        """Bring an older ledger to today's schema: a backup first, then one transaction a version."""
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
        for number, statements in enumerate(self.migrations[version:], start=version + 1):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                for statement in statements:
                    self.db.execute(statement)
                self.db.execute("UPDATE schema_info SET version = ?, written_by = ?", (number, __version__))
                self.db.execute(f"PRAGMA user_version = {number}")
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
            log.warning("%s: brought from schema %d to %d; %s is as it was", self.path, number - 1, number, backup.name)

    def _full(self) -> str:
        """Say that the disk is full where it is, since SQLite only says that it could not open a file."""
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return ""
        full = (
            "no space left" if disk.f_bavail == 0 else "no inodes left" if disk.f_files and disk.f_favail == 0 else ""
        )
        return full and f" ({full} on its disk)"

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn SQLite's errors into sentences."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise RunRootError(f"{self.path} is busy: {text}; try again") from None
            if "readonly" in text and self.read_only:
                raise LedgerUnfinishedError(
                    f"{self.path}: a killed step left a commit to roll back; the next `matterstack step` does it"
                ) from None
            if "readonly" in text:
                raise RunRootError(
                    f"{self.path} cannot be written, or a killed step left something to finish: {text}; "
                    "check its permissions, then run `matterstack step`"
                ) from None
            if any(what in text for what in ("no such table", "no such column", "Could not decode")):
                raise LedgerDamagedError(f"{self.path} is damaged: {text}; {_REBUILD}") from None
            raise RunRootError(
                f"{self.path}: {text}{self._full()}; check the disk, then run `matterstack step`"
            ) from None
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise LedgerDamagedError(f"{self.path} is damaged: {error}; {_REBUILD}") from None

    # --- transactions and events ---

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body does, with its events, and bring the journal up to it; or nothing of it.

        Raises LedgerTakenOverError if another process has committed since this one opened the ledger.
        """
        with self._guard():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                self._open_epoch = self._check_epoch()
                before = self.db.total_changes
                row = self.db.execute("SELECT MAX(seq) FROM events").fetchone()
                self._next_seq = (row[0] or 0) + 1
                yield
                if not self._pending and self.db.total_changes == before:
                    self.db.execute("ROLLBACK")  # nothing was written: not a byte changes
                    return
                if self._open_epoch is not None:
                    self.db.execute("UPDATE run SET epoch = ?", (self._open_epoch,))
                if self.moved_to is not None:
                    self.set_home(*self.moved_to)
                self.db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", self._pending)
                self.db.execute("COMMIT")
            except BaseException:
                self._pending = []
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
        written, self._pending = self._pending, []
        if self._open_epoch is not None:
            self.epoch, self._raised = self._open_epoch, True
        if self.journal is not None:
            try:
                self.journal.append(written)
            except OSError as error:
                message = f"{self.journal.path}: cannot be written: {error.strerror}; the next step completes it"
                raise RunRootError(message) from None

    def _check_epoch(self) -> int | None:
        """Give the epoch that this transaction commits under, None in a ledger without a run."""
        if self.epoch is None:
            return None
        found = self.db.execute("SELECT epoch FROM run").fetchone()
        if found is None or found[0] != self.epoch:
            raise LedgerTakenOverError(
                f"{self.path}: another process has changed the ledger meanwhile; this one stops, nothing of it is lost"
            )
        return self.epoch + (0 if self._raised else 1)

    def record(self, kind: str, now: float, **data: Any) -> None:
        """Add an event to the open transaction."""
        event = Event(self._next_seq + len(self._pending), to_text(now), self._open_epoch or 1, kind, encode(data))
        self._pending.append(event)

    def mend_journal(self) -> int:
        """Append to the journal what a killed process could not; give the number of lines."""
        assert self.journal is not None
        with self._guard():
            last = self.db.execute("SELECT MAX(seq) FROM events").fetchone()[0] or 0
            return self.journal.mend(last, self.event, self.events_after)

    def event(self, seq: int) -> Event | None:
        row = self.db.execute("SELECT seq, at, epoch, kind, data FROM events WHERE seq = ?", (seq,)).fetchone()
        return Event(*row) if row else None

    def events_after(self, seq: int) -> list[Event]:
        rows = self.db.execute("SELECT seq, at, epoch, kind, data FROM events WHERE seq > ? ORDER BY seq", (seq,))
        return [Event(*row) for row in rows]

    def copy_to_memory(self) -> SQLiteStateStore:
        """Give a ledger in memory with the same content, to try things out: nothing of it reaches the disk."""
        copy = object.__new__(SQLiteStateStore)
        copy.moved_to = None
        copy.path, copy.read_only, copy.journal, copy.epoch, copy._raised = self.path, True, None, self.epoch, False
        copy._open_epoch, copy._pending, copy._next_seq, copy._campaigns = None, [], 1, self._campaigns
        copy.db = sqlite3.connect(":memory:", isolation_level=None)
        with self._guard():
            self.db.backup(copy.db)
        return copy

    @classmethod
    def in_memory(cls, path: Path) -> SQLiteStateStore:
        """Give an empty ledger in memory, for a run whose own cannot be read; ``path`` is that one's, for messages."""
        store = object.__new__(cls)
        store.migrations = MIGRATIONS
        store.moved_to = None
        store.path, store.read_only, store.journal, store.epoch, store._raised = path, False, None, None, False
        store._open_epoch, store._pending, store._next_seq, store._campaigns = None, [], 1, {}
        store.db = sqlite3.connect(":memory:", isolation_level=None)
        store._create()
        return store

    def integrity_problem(self) -> str:
        """Say what SQLite's own checks find, "" for nothing. Raises LedgerError where the file cannot even be read."""
        with self._guard():
            if self.db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return "its integrity check fails"
            row = self.db.execute("PRAGMA foreign_key_check").fetchone()
            if row is not None:
                return f"a row of {row[0]} refers to nothing"
            return self._content_problem()

    def _content_problem(self) -> str:
        """Read all that the ledger holds; say what cannot be, "" for nothing. SQLite's checks look at its form alone."""
        with self.in_memory(self.path) as ours:
            question = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
            lost = set(ours.db.execute(question)) - set(self.db.execute(question))
        if lost:
            kind, name = min(lost)
            return f"{kind} {name} is missing"
        for table, column, kind in self._columns():
            fits = "'integer', 'real'" if kind == "REAL" else f"'{kind.lower()}'"
            row = self.db.execute(
                f"SELECT {column} FROM {table} WHERE typeof({column}) NOT IN ({fits}, 'null') LIMIT 1"
            ).fetchone()
            if row is not None:
                return f"{table}.{column} holds {str(row[0])[:60]!r}"
        try:
            self.run()
            for row in self.tasks():
                campaign, item = self.campaign(row.campaign_version), self.instance(row.task_id)
                if row.group not in campaign.tasks or row.operator not in campaign.operators:
                    return f"no task '{row.group}' or operator '{row.operator}' is in its campaign"
                known = self.published(row.task_id)
                if known is not None and not set(known[1]) <= set(item.outputs):
                    return f"{row.task_id} has an output that its campaign does not know"
            for attempt in self.db.execute(f"SELECT {_ATTEMPT_COLUMNS}, metrics FROM attempts"):
                _read_plain(_attempt_row(attempt[:-1]).response)
                _read_plain(attempt[-1])
            for event in self.events_after(0):
                _read(lambda text: dict(json.loads(text)), event.data)
        except LedgerDamagedError as error:
            return str(error).partition("is damaged: ")[2].partition(";")[0]
        return ""

    def _columns(self) -> list[tuple[str, str, str]]:
        """Give (table, column, declared type) of all tables."""
        return self.db.execute(
            "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
        ).fetchall()

    def is_on_disk(self) -> bool:
        """Say whether this is the file at `path`, and not a ledger in memory."""
        return bool(self.db.execute("PRAGMA database_list").fetchone()[2])

    # --- where it is at home ---

    def home(self) -> tuple[int, str, str]:
        """Give (inode of the ledger, host, path) of where the run is at home."""
        with self._guard():
            row = self.db.execute("SELECT home_inode, home_host, home_path FROM run").fetchone()
        if row is None:
            raise LedgerDamagedError(f"{self.path} is damaged: it holds no run; {_REBUILD}")
        return _read(int, row[0]), str(row[1]), str(row[2])

    def is_at_home(self, host: str, path: str) -> bool:
        """Say whether this is the run's own ledger: by its inode (moved, another login node) or by host and path."""
        inode, home_host, home_path = self.home()
        return os.stat(self.path).st_ino == inode or (host, path) == (home_host, home_path)

    def set_home(self, host: str, path: str) -> None:
        """Record where the run is at home now; the way to its campaign stays one that leads there."""
        campaign, home = self.db.execute("SELECT campaign_path, home_path FROM run").fetchone()
        was = os.path.normpath(os.path.join(home, campaign))
        if path != home and os.path.isfile(was) and not os.path.isfile(os.path.join(path, campaign)):
            campaign = os.path.relpath(was, path)
        self.db.execute(
            "UPDATE run SET home_inode = ?, home_host = ?, home_path = ?, campaign_path = ?",
            (os.stat(self.path).st_ino, host, path, campaign),
        )

    # --- the run ---

    def create_run(
        self,
        run: RunRow,
        campaign: Campaign,
        instances: Iterable[Instance],
        sources: Mapping[str, tuple[str, int]],
        host: str,
        now: float,
        details: Mapping[str, Any],
    ) -> None:
        """Record a new run with all of its tasks; ``host`` is where it was made."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO run VALUES (?, ?, ?, ?, 1, 0, 0, ?, ?, ?, ?, ?, ?)",
                (run.run_id, run.name, run.digest, run.created_at, run.campaign_version, run.campaign_path,
                 run.source_digest, os.stat(self.path).st_ino if self.path.exists() else 0, host, run.home_path),
            )  # fmt: skip
            self.db.execute(
                "INSERT INTO campaign_versions VALUES (?, ?, ?, ?)",
                (run.campaign_version, run.digest, run.created_at, dump_json(to_json(campaign), exact=True)),
            )
            ordered = list(instances)
            self.db.executemany(
                "INSERT INTO tasks (task_id, position, group_name, label, campaign_version, matrix, operator, priority, "
                "inputs, outputs, state, watch) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _instance_rows(
                    ordered, run.campaign_version, {n for n, t in campaign.tasks.items() if "when" in t.people}
                ),
            )
            self.db.executemany(
                "INSERT INTO edges VALUES (?, ?, ?)",
                ((edge.upstream, item.task_id, edge.entry) for item in ordered for edge in item.edges),
            )
            self._replace_sources(sources)
            sizes = {path: [digest, size] for path, (digest, size) in sources.items()}
            self.record(
                "run_created", now, run=run.run_id, name=run.name, digest=run.digest, **details, sources=sizes or None
            )
        self.epoch = 1

    def run(self) -> RunRow:
        with self._guard():
            row = self.db.execute(
                "SELECT run_id, name, digest, created_at, paused, cancelled, campaign_version, campaign_path, "
                "source_digest, home_path FROM run"
            ).fetchone()
        if row is None:
            raise LedgerDamagedError(f"{self.path} is damaged: it holds no run; {_REBUILD}")
        values: list[Any] = [*row[:4], bool(row[4]), bool(row[5]), *row[6:]]
        return RunRow(*values)

    def campaign(self, version: int) -> Campaign:
        """Give a campaign version; kept, since reading a large one costs."""
        if version not in self._campaigns:
            row = self.db.execute("SELECT definition FROM campaign_versions WHERE version = ?", (version,)).fetchone()
            text = row[0] if row is not None else None
            self._campaigns[version] = _read(lambda text: campaign_from_json(load_json(text)), text)
        return self._campaigns[version]

    def keep_campaigns(self, campaigns: dict[int, Campaign]) -> None:
        """Share already read campaign versions (they never change) between the ticks of a loop."""
        self._campaigns = campaigns

    def set_paused(self, paused: bool, task_ids: Sequence[str] | None, now: float) -> int:
        """Pause or resume the run (``task_ids`` None) or tasks; give how many changed."""
        kind = "paused" if paused else "resumed"
        if task_ids is None:
            changed = self.db.execute("UPDATE run SET paused = ? WHERE paused <> ?", (paused, paused)).rowcount
            if changed:
                self.record(kind, now)
            return changed
        changed = 0
        for task_id in task_ids:
            done = self.db.execute(
                "UPDATE tasks SET paused = ? WHERE task_id = ? AND paused <> ?", (paused, task_id, paused)
            ).rowcount
            if done:
                self.record(kind, now, task=task_id)
            changed += done
        return changed

    def set_cancelled(self, cancelled: bool, now: float) -> None:
        if self.db.execute("UPDATE run SET cancelled = ? WHERE cancelled <> ?", (cancelled, cancelled)).rowcount:
            self.record("cancelled" if cancelled else "uncancelled", now)

    def sources(self) -> dict[str, str]:
        """Give {path below source/: sha256}."""
        return dict(self.db.execute("SELECT path, sha256 FROM source_files"))

    def tables(self) -> list[str]:
        """Give the files that a matrix of the campaign reads its rows from."""
        tasks = self.campaign(self.run().campaign_version).tasks.values()
        return [str(spec.matrix["table"]) for spec in tasks if spec.matrix and "table" in spec.matrix]

    def source_sizes(self) -> dict[str, tuple[str, int]]:
        """Give {path below source/: (sha256, bytes)}."""
        return {row[0]: (row[1], row[2]) for row in self.db.execute("SELECT path, sha256, size FROM source_files")}

    def replace_sources(self, sources: Mapping[str, tuple[str, int]], digest: str, now: float, **details: Any) -> None:
        self._replace_sources(sources)
        self.db.execute("UPDATE run SET source_digest = ?", (digest,))
        self.record("refreshed", now, source_digest=digest, **details)

    def _replace_sources(self, sources: Mapping[str, tuple[str, int]]) -> None:
        self.db.execute("DELETE FROM source_files")
        self.db.executemany(
            "INSERT INTO source_files VALUES (?, ?, ?)",
            ((path, digest, size) for path, (digest, size) in sources.items()),
        )

    # --- tasks: reading ---

    def counts(self) -> dict[TaskState, int]:
        with self._guard():
            rows = self.db.execute("SELECT state, COUNT(*) FROM tasks GROUP BY state").fetchall()
        return {_read(TaskState, state): count for state, count in rows}

    def hard_ends(self) -> int:
        """Give how many tasks make the run FAILED."""
        return int(
            self.db.execute(
                "SELECT COUNT(*) FROM tasks WHERE state IN ('BLOCKED', 'CANCELLED') OR (state = 'FAILED' AND soft = 0)"
            ).fetchone()[0]
        )

    def ready_count(self) -> int:
        """Give how many tasks are READY and not paused by themselves."""
        return int(self.db.execute("SELECT COUNT(*) FROM tasks WHERE state = 'READY' AND paused = 0").fetchone()[0])

    def can_move(self) -> bool:
        """Say whether a step could start something, now or after the delay of a retry."""
        row = self.db.execute(
            "SELECT EXISTS (SELECT 1 FROM tasks WHERE state = 'READY' AND paused = 0) "
            "OR EXISTS (SELECT 1 FROM tasks WHERE retry_at IS NOT NULL AND paused = 0) "
            "OR EXISTS (SELECT 1 FROM tasks WHERE state = 'PENDING' AND watch IS NULL AND retry_at IS NULL)"
        ).fetchone()
        return bool(row[0])

    def tasks(self, task_ids: Iterable[str] | None = None) -> list[TaskRow]:
        """Give tasks in the order of the campaign, all or the named ones."""
        with self._guard():
            if task_ids is None:
                rows = self.db.execute(f"SELECT {_TASK_COLUMNS} FROM tasks ORDER BY position")
            else:
                rows = self.db.execute(
                    f"SELECT {_TASK_COLUMNS} FROM tasks WHERE task_id IN (SELECT value FROM json_each(?)) "
                    "ORDER BY position",
                    (json.dumps(list(task_ids)),),
                )
            return [_task_row(row) for row in rows]

    def task_ids(self) -> list[str]:
        return [row[0] for row in self.db.execute("SELECT task_id FROM tasks ORDER BY position")]

    def instance(self, task_id: str) -> Instance:
        """Give a task as it was expanded; without its edges."""
        row = self.db.execute(
            "SELECT group_name, label, matrix, operator, priority, inputs, outputs FROM tasks WHERE task_id = ?",
            (task_id,),
        ).fetchone()
        return Instance(
            task_id, row[0], row[1], _read(load_json, row[2]), row[3], row[4],
            _read(_inputs, row[5]), _read(_outputs, row[6]), (),
        )  # fmt: skip

    def outputs_of(self, task_id: str) -> dict[str, ResolvedOutput]:
        row = self.db.execute("SELECT outputs FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return _read(_outputs, row[0])

    def matrices(self) -> dict[str, dict[str, Any]]:
        return {row[0]: _read(load_json, row[1]) for row in self.db.execute("SELECT task_id, matrix FROM tasks")}

    def ready(self, operator: str) -> Iterator[str]:
        """Give READY tasks of an operator, the first to start first."""
        rows = self.db.execute(
            "SELECT task_id FROM tasks WHERE operator = ? AND state = 'READY' AND paused = 0 "
            "ORDER BY priority DESC, position",
            (operator,),
        )
        for row in rows:
            yield row[0]

    def retries_due(self, now: float) -> list[str]:
        """Give the tasks whose delay is over, or was begun in what is the future by now: the clock was set back."""
        rows = self.db.execute(
            "SELECT task_id FROM tasks t WHERE retry_at IS NOT NULL AND paused = 0 AND (retry_at <= ? OR EXISTS "
            "(SELECT 1 FROM attempts a WHERE a.task_id = t.task_id AND a.attempt = t.attempts AND a.ended_at > ?))",
            (now, now + _CLOCK_SKEW_S),
        )
        return [row[0] for row in rows]

    def next_retry(self) -> float | None:
        row = self.db.execute("SELECT MIN(retry_at) FROM tasks WHERE retry_at IS NOT NULL AND paused = 0").fetchone()
        return None if row[0] is None else float(row[0])

    # --- readiness ---

    def unresolved(self) -> list[str]:
        """Give PENDING tasks that nothing has looked at since something about them changed."""
        rows = self.db.execute(
            "SELECT task_id FROM tasks WHERE state = 'PENDING' AND watch IS NULL AND retry_at IS NULL ORDER BY position"
        )
        return [row[0] for row in rows]

    def watchers(self, settled: Iterable[str]) -> list[str]:
        rows = self.db.execute(
            "SELECT task_id FROM tasks WHERE state = 'PENDING' AND watch IN (SELECT value FROM json_each(?))",
            (json.dumps(list(settled)),),
        )
        return [row[0] for row in rows]

    def successors(self, task_ids: Iterable[str]) -> list[str]:
        """Give the tasks directly below, also those that wait for a whole group of which one is named."""
        rows = self.db.execute(
            "SELECT DISTINCT e.downstream FROM edges e WHERE e.upstream IN (SELECT value FROM json_each(:ids)) "
            "OR e.upstream IN (SELECT t.group_name FROM tasks t WHERE t.task_id IN (SELECT value FROM json_each(:ids)))",
            {"ids": json.dumps(list(task_ids))},
        )
        return [row[0] for row in rows]

    def entries(self, task_ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """Give for each task its (entry, upstream) pairs, upstreams in the order of the campaign."""
        out: dict[str, list[tuple[str, str]]] = {task_id: [] for task_id in task_ids}
        rows = self.db.execute(
            "SELECT e.downstream, e.entry, e.upstream FROM edges e LEFT JOIN tasks t ON t.task_id = e.upstream "
            "WHERE e.downstream IN (SELECT value FROM json_each(?)) ORDER BY t.position",
            (json.dumps(list(out)),),
        )
        for downstream, entry, upstream in rows:
            out[downstream].append((entry, upstream))
        return out

    def upstreams(self, names: Iterable[str]) -> dict[str, Upstream]:
        """Give the states of tasks, and of groups as a whole, by name."""
        wanted = set(names)
        out: dict[str, Upstream] = {}
        rows = self.db.execute(
            "SELECT task_id, state, soft, cause FROM tasks WHERE task_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(wanted)),),
        )
        for task_id, state, soft, cause in rows:
            out[task_id] = Upstream.of_task(task_id, _read(TaskState, state), soft=bool(soft), cause=cause)
        for group in wanted - set(out):
            out[group] = self._group(group)
        return out

    def _group(self, group: str) -> Upstream:
        counts: dict[TaskState, int] = {}
        soft_failed = 0
        for state, soft, count in self.db.execute(
            "SELECT state, soft, COUNT(*) FROM tasks WHERE group_name = ? GROUP BY state, soft", (group,)
        ):
            known = _read(TaskState, state)
            counts[known] = counts.get(known, 0) + count
            soft_failed += count if soft and state == TaskState.FAILED else 0
        bad = counts.get(TaskState.BLOCKED, 0) + counts.get(TaskState.CANCELLED, 0)
        bad += counts.get(TaskState.FAILED, 0) - soft_failed
        first = self.db.execute(
            "SELECT task_id, state, cause FROM tasks WHERE group_name = ? AND state IN ('FAILED', 'BLOCKED', "
            "'CANCELLED', 'SKIPPED') ORDER BY state = 'SKIPPED', soft, position LIMIT 1",
            (group,),
        ).fetchone()
        last = self.db.execute(
            "SELECT task_id FROM tasks WHERE group_name = ? AND state IN ('PENDING', 'READY', 'SUBMITTED', 'RUNNING', "
            "'WAITING') ORDER BY position DESC LIMIT 1",
            (group,),
        ).fetchone()
        return Upstream(
            name=group,
            total=sum(counts.values()),
            completed=counts.get(TaskState.COMPLETED, 0),
            skipped=counts.get(TaskState.SKIPPED, 0),
            soft_failed=soft_failed,
            bad=bad,
            unsettled=sum(count for state, count in counts.items() if not state.is_settled),
            watch=last[0] if last else None,
            culprit=first[0] if first and first[1] != TaskState.SKIPPED else None,
            culprit_state=_read(TaskState, first[1]) if first and first[1] != TaskState.SKIPPED else None,
            cause=(first[2] or first[0]) if first else None,
        )

    def all_edges(self) -> list[tuple[str, str]]:
        """Give (upstream, downstream) pairs; a group that something waits for as a whole is a node behind its members."""
        rows = self.db.execute(
            "SELECT DISTINCT upstream, downstream FROM edges UNION ALL SELECT task_id, group_name FROM tasks "
            "WHERE group_name <> task_id AND group_name IN (SELECT DISTINCT upstream FROM edges)"
        )
        return list(rows)

    # --- attempts: reading ---

    def live_attempts(self) -> list[AttemptRow]:
        with self._guard():
            rows = self.db.execute(
                f"SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE state IN {_LIVE} ORDER BY created_at, task_id"
            ).fetchall()
        return [_attempt_row(row) for row in rows]

    def lost_attempts(self) -> list[AttemptRow]:
        """Give LOST attempts behind which no later one was handed over: their end may turn up yet."""
        rows = self.db.execute(
            f"SELECT {_ATTEMPT_COLUMNS} FROM attempts a WHERE state = 'LOST' AND attempt = "
            "(SELECT attempts FROM tasks WHERE task_id = a.task_id)"
        )
        return [_attempt_row(row) for row in rows]

    def unlinked(self) -> list[AttemptRow]:
        """Give the newest results of which a link in results/ could not be set; their reason says so."""
        rows = self.db.execute(
            f"SELECT {_ATTEMPT_COLUMNS} FROM attempts a WHERE state = 'COMPLETED' AND reason LIKE 'results/%' "
            "AND attempt = (SELECT result FROM tasks WHERE task_id = a.task_id)"
        )
        return [_attempt_row(row) for row in rows]

    def active(self) -> int:
        return int(self.db.execute(f"SELECT COUNT(*) FROM attempts WHERE state IN {_LIVE}").fetchone()[0])

    def usage(self, operator: str) -> tuple[int, int, int]:
        """Give (attempts, cpus, bytes of memory) of an operator's live attempts."""
        row = self.db.execute(
            "SELECT COUNT(*), COALESCE(SUM(cpus), 0), COALESCE(SUM(memory), 0) FROM attempts "
            f"WHERE operator = ? AND state IN {_LIVE}",
            (operator,),
        ).fetchone()
        return int(row[0]), int(row[1]), int(row[2])

    def attempts(self, task_id: str) -> list[AttemptRow]:
        with self._guard():
            rows = self.db.execute(
                f"SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE task_id = ? ORDER BY attempt", (task_id,)
            ).fetchall()
        return [_attempt_row(row) for row in rows]

    def attempt(self, task_id: str, attempt: int) -> AttemptRow | None:
        row = self.db.execute(
            f"SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE task_id = ? AND attempt = ?", (task_id, attempt)
        ).fetchone()
        return _attempt_row(row) if row else None

    def parcelled(self) -> list[AttemptRow]:
        """Give the attempts that went out in a parcel, by what their handle says."""
        rows = self.db.execute(
            f"SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE handle LIKE '%\"parcels\"%' ORDER BY created_at, task_id"
        )
        return [_attempt_row(row) for row in rows]

    def last_attempts(self) -> dict[str, AttemptRow]:
        """Give the newest attempt of each task that has one."""
        rows = self.db.execute(
            f"SELECT {_ATTEMPT_COLUMNS} FROM attempts a WHERE attempt = "
            "(SELECT MAX(attempt) FROM attempts WHERE task_id = a.task_id)"
        )
        return {row[0]: _attempt_row(row) for row in rows}

    def metrics(self) -> dict[str, tuple[int, dict[str, Any], Any]]:
        """Give {task: (attempt, metrics, data of the response)} of the newest successful attempts, else of the newest."""
        rows = self.db.execute(
            "SELECT a.task_id, a.attempt, a.metrics, a.response FROM attempts a JOIN tasks t "
            "ON t.task_id = a.task_id AND COALESCE(t.result, t.attempts) = a.attempt"
        )
        return {row[0]: (row[1], _read_plain(row[2]), _data_of(row[3])) for row in rows}

    def late_values(self, task_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, int]]]:
        """Give the answers and metrics that a task's templates name, and of which attempts they are.

        ({"response": {group: data}, "metrics": {group: values}}, {"response.GROUP": (task, attempt)}); ABSENT, and no
        attempt, of a task that is not COMPLETED.
        """
        values: dict[str, dict[str, Any]] = {"response": {}, "metrics": {}}
        origins = {}
        rows = self.db.execute(
            "SELECT e.entry, t.task_id, t.state, a.attempt, a.metrics, a.response FROM edges e "
            "JOIN tasks t ON t.task_id = e.upstream LEFT JOIN attempts a ON a.task_id = t.task_id "
            "AND a.attempt = t.result WHERE e.downstream = ? AND (e.entry LIKE 'response.%' OR e.entry LIKE 'metrics.%')",
            (task_id,),
        )
        for entry, upstream, state, attempt, metrics, response in rows:
            root, _, group = entry.partition(".")
            found: Any = ABSENT
            if state == TaskState.COMPLETED and attempt is not None:
                found = _read_plain(metrics) if root == "metrics" else _read_plain(response).get("data")
                origins[entry] = (upstream, attempt)
            values[root][group] = found
        return values, origins

    def published(self, task_id: str) -> tuple[int, dict[str, tuple[str, str | None]]] | None:
        """Give (attempt, {output: (file, sha256)}) of a task's newest successful attempt, None without one."""
        row = self.db.execute("SELECT result FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        if row is None or row[0] is None:
            return None
        rows = self.db.execute(
            "SELECT name, file, sha256 FROM outputs WHERE task_id = ? AND attempt = ?", (task_id, row[0])
        )
        return row[0], {name: (file, sha256) for name, file, sha256 in rows}

    def stale(self) -> dict[str, str]:
        """Say of tasks whose result was made from an older attempt, or without one that has succeeded since, why."""
        rows = self.db.execute(
            "SELECT i.task_id, i.upstream, i.upstream_attempt, u.result FROM attempt_inputs i "
            "JOIN tasks t ON t.task_id = i.task_id AND t.result = i.attempt AND t.state = 'COMPLETED' "
            "JOIN tasks u ON u.task_id = i.upstream WHERE u.result > i.upstream_attempt"
        )
        out = {row[0]: f"made from attempt {row[2]} of {row[1]}, which has a newer one ({row[3]})" for row in rows}
        rows = self.db.execute(
            "SELECT e.downstream, e.upstream FROM edges e "
            "JOIN tasks t ON t.task_id = e.downstream AND t.state = 'COMPLETED' "
            "JOIN tasks u ON u.task_id = e.upstream AND u.state = 'COMPLETED' "
            "JOIN attempts mine ON mine.task_id = t.task_id AND mine.attempt = t.result "
            "JOIN attempts theirs ON theirs.task_id = u.task_id AND theirs.attempt = u.result "
            "WHERE e.entry LIKE 'inputs.%' AND theirs.ended_at > mine.created_at AND NOT EXISTS "
            "(SELECT 1 FROM attempt_inputs i WHERE i.task_id = t.task_id AND i.attempt = t.result AND i.upstream = u.task_id)"
        )
        for task_id, upstream in rows:
            out.setdefault(task_id, f"made without {upstream}, which has succeeded since")
        return out

    def consecutive(self, task_id: str, attempt: int, *failures: FailureClass) -> int:
        """Give how many attempts in a row just before this one ended with one of these classes."""
        count = 0
        rows = self.db.execute(
            "SELECT failure FROM attempts WHERE task_id = ? AND attempt < ? ORDER BY attempt DESC", (task_id, attempt)
        )
        for row in rows:
            if row[0] not in failures:
                break
            count += 1
        return count

    def counted_failures(self, task_id: str, tries: int) -> list[tuple[FailureClass, int | None]]:
        """Give class and exit code of the last ``tries`` failures that count, oldest first."""
        rows = self.db.execute(
            "SELECT failure, exit_code FROM attempts WHERE task_id = ? AND counts = 1 ORDER BY attempt DESC LIMIT ?",
            (task_id, tries),
        ).fetchall()
        return [(_read(FailureClass, row[0]), row[1]) for row in reversed(rows)]

    # --- changes ---

    def add_attempt(
        self,
        task_id: str,
        operator: str,
        origin: str,
        resources: Resources,
        source_digest: str,
        inputs: Mapping[str, int],
        now: float,
    ) -> int:
        """Record the intent to hand a task over; give the number of the attempt."""
        attempt = int(self.db.execute("SELECT attempts FROM tasks WHERE task_id = ?", (task_id,)).fetchone()[0]) + 1
        self.db.execute(
            "INSERT INTO attempts (task_id, attempt, state, operator, handle, created_at, cpus, memory, time_s, "
            "source_digest) VALUES (?, ?, 'SUBMITTING', ?, ?, ?, ?, ?, ?, ?)",
            (
                task_id,
                attempt,
                operator,
                origin,
                now,
                resources.cpus,
                resources.memory,
                resources.time_s,
                source_digest,
            ),
        )
        self.db.executemany(
            "INSERT INTO attempt_inputs VALUES (?, ?, ?, ?)",
            ((task_id, attempt, upstream, number) for upstream, number in inputs.items()),
        )
        self.db.execute(
            "UPDATE tasks SET state = 'SUBMITTED', reason = '', retry_at = NULL, watch = NULL, attempts = ? "
            "WHERE task_id = ?",
            (attempt, task_id),
        )
        self.record(
            "attempt", now, task=task_id, attempt=attempt, state="SUBMITTING", task_state="SUBMITTED",
            operator=operator, source_digest=source_digest, handle=origin, cpus=resources.cpus,
            memory=resources.memory, time_s=resources.time_s,
        )  # fmt: skip
        return attempt

    def apply(self, changes: Iterable[tuple[AttemptChange | None, TaskChange | None]], now: float) -> list[TaskChange]:
        """Apply changes of attempts with those of their tasks, one event each; give the task changes that were made.

        Raises LedgerError for a move that the table of states does not have: a defect.
        """
        made = []
        for attempt, task in changes:
            task_changed = task is not None and self._change_task(task)
            if attempt is not None:
                self._change_attempt(attempt, task if task_changed else None, now)
            elif task_changed and task is not None:
                self.record("task", now, task=task.task_id, state=str(task.state), reason=task.reason, **_rest(task))
            if task is not None and task_changed:
                made.append(task)
        return made

    def _change_task(self, change: TaskChange) -> bool:
        """Write a task's row; say whether its state or reason is another now."""
        before = self.db.execute("SELECT state, reason FROM tasks WHERE task_id = ?", (change.task_id,)).fetchone()
        self.db.execute(
            "UPDATE tasks SET state = ?, reason = ?, soft = ?, cause = ?, watch = ?, retry_at = ? WHERE task_id = ?",
            (change.state, change.reason, change.soft, change.cause, change.watch, change.retry_at, change.task_id),
        )
        return tuple(before) != (str(change.state), change.reason)

    def _change_attempt(self, change: AttemptChange, task: TaskChange | None, now: float) -> None:
        key = (change.task_id, change.attempt)
        row = self.db.execute("SELECT state FROM attempts WHERE task_id = ? AND attempt = ?", key).fetchone()
        before = _read(AttemptState, row[0])
        if change.state is not before and change.state not in ATTEMPT_MOVES[before]:
            raise LedgerError(
                f"{change.task_id}, attempt {change.attempt}: {before} -> {change.state} is no legal move"
            )
        evidence = change.evidence or Evidence()
        self.db.execute(
            "UPDATE attempts SET state = ?, failure = ?, reason = ?, handle = COALESCE(?, handle), "
            "exit_code = COALESCE(?, exit_code), started_at = COALESCE(?, started_at), "
            "ended_at = COALESCE(?, ended_at), counts = ?, metrics = ?, response = ? WHERE task_id = ? AND attempt = ?",
            (change.state, change.failure, change.reason, change.handle, change.exit_code, change.started_at,
             change.ended_at, change.counts,
             dump_json(evidence.metrics) if evidence.metrics is not None else None,
             dump_json(evidence.response) if evidence.response is not None else None, *key),
        )  # fmt: skip
        if change.counts and before is not AttemptState.LOST:  # one that was lost has counted already
            self.db.execute("UPDATE tasks SET tries = tries + 1 WHERE task_id = ?", (change.task_id,))
        if change.state is AttemptState.COMPLETED:
            self.db.execute("UPDATE tasks SET result = ? WHERE task_id = ?", (change.attempt, change.task_id))
            self.db.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*key, item.name, item.path, item.file, item.size, item.sha256) for item in evidence.outputs],
            )
        self.record(
            "attempt", now, task=change.task_id, attempt=change.attempt, state=str(change.state),
            task_state=str(task.state) if task else None, failure=change.failure, reason=change.reason,
            task_reason=task.reason if task else None, counts=change.counts or None,
            **(_rest(task) if task else {}), exit_code=change.exit_code, handle=change.handle,
            started_at=to_text(change.started_at) if change.started_at else None,
            ended_at=to_text(change.ended_at) if change.ended_at else None,
            outputs={item.path: item.sha256 for item in evidence.outputs} or None,
            files=self._elsewhere(change.task_id, evidence) or None,
            metrics=evidence.metrics or None, response=evidence.response or None,
        )  # fmt: skip

    def _elsewhere(self, task_id: str, evidence: Evidence) -> dict[str, str]:
        """Give {path: file} of the outputs that do not lie where the campaign has them: a lab may say where."""
        if not evidence.outputs:
            return {}
        declared = {item.path: item.file for item in self.outputs_of(task_id).values()}
        return {item.path: item.file for item in evidence.outputs if declared.get(item.path) != item.file}

    def set_reason(self, task_id: str, attempt: int, reason: str, now: float) -> None:
        """Say something else of an attempt that has COMPLETED; "" says that all is well."""
        key = (task_id, attempt)
        self.db.execute("UPDATE attempts SET reason = ? WHERE task_id = ? AND attempt = ?", (reason, *key))
        self.record("attempt", now, task=task_id, attempt=attempt, state="COMPLETED", reason=reason)

    def wish(self, task_id: str, attempt: int, wish: str, now: float) -> None:
        """Record that a live attempt shall end: ``cancel`` or ``rerun``."""
        self.db.execute(
            "UPDATE attempts SET wish = ?, wished_at = COALESCE(wished_at, ?) WHERE task_id = ? AND attempt = ?",
            (wish, now, task_id, attempt),
        )
        self.record("wish", now, task=task_id, attempt=attempt, wish=wish)

    def reset_tries(self, task_id: str, now: float) -> None:
        """Let the retries of a task count anew."""
        if self.db.execute("UPDATE tasks SET tries = 0 WHERE task_id = ? AND tries > 0", (task_id,)).rowcount:
            self.record("retries_anew", now, task=task_id)

    # --- from the journal ---

    def replay(
        self,
        events: Sequence[Event],
        output_size: Callable[[str, int, str], int | None],
        inputs_of: Callable[[str, int], Mapping[str, int]],
        source_size: Callable[[str], int],
    ) -> None:
        """Bring a ledger that `create_run` made to where a journal says it was; its first event is the run's creation.

        What only files know comes from the callables: bytes of (task, attempt, file), the attempts that (task,
        attempt) read from, bytes of a file of source/. What a task waits for is left open: the next step looks.
        Raises LedgerError for an event of a task or of a kind that this campaign and version do not have.
        """
        known = set(self.task_ids())
        with self._guard():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                self.db.execute("DELETE FROM events")
                self.db.execute("UPDATE tasks SET watch = NULL")
                for event in events:
                    self._replay_one(event, known, output_size)
                self.db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", events)
                keys = self.db.execute("SELECT task_id, attempt FROM attempts").fetchall()
                self.db.executemany(
                    "INSERT OR IGNORE INTO attempt_inputs VALUES (?, ?, ?, ?)",
                    [(*key, upstream, number) for key in keys for upstream, number in inputs_of(*key).items()],
                )
                sizes = [(source_size(path), path) for path in self.sources()]
                self.db.executemany("UPDATE source_files SET size = ? WHERE path = ?", sizes)
                self.epoch = max(event.epoch for event in events)
                self.db.execute("UPDATE run SET epoch = ?", (self.epoch,))
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def _replay_one(self, event: Event, known: set[str], output_size: Callable[[str, int, str], int | None]) -> None:
        data = json.loads(event.data)
        task = data.get("task")
        if task is not None and task not in known:
            raise LedgerError(f"event {event.seq} of the journal is of a task '{task}' that the campaign does not have")
        try:
            self._replay(event, data, output_size)
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"event {event.seq} of the journal ({event.kind}) cannot be read: {error!r}") from None

    def _replay(
        self, event: Event, data: Mapping[str, Any], output_size: Callable[[str, int, str], int | None]
    ) -> None:
        task = data.get("task")
        if event.kind in ("paused", "resumed"):
            paused = event.kind == "paused"
            if task is None:
                self.db.execute("UPDATE run SET paused = ?", (paused,))
            else:
                self.db.execute("UPDATE tasks SET paused = ? WHERE task_id = ?", (paused, task))
        elif event.kind in ("cancelled", "uncancelled"):
            self.db.execute("UPDATE run SET cancelled = ?", (event.kind == "cancelled",))
        elif event.kind == "refreshed":
            self.db.execute("UPDATE run SET source_digest = ?", (data["source_digest"],))
            rows = [(path, digest, 0) for path, digest in data.get("files", {}).items()]
            self.db.executemany("INSERT OR REPLACE INTO source_files VALUES (?, ?, ?)", rows)
        elif event.kind == "retries_anew":
            self.db.execute("UPDATE tasks SET tries = 0 WHERE task_id = ?", (task,))
        elif event.kind == "wish":
            self.db.execute(
                "UPDATE attempts SET wish = ?, wished_at = COALESCE(wished_at, ?) WHERE task_id = ? AND attempt = ?",
                (data["wish"], from_text(event.at), task, data["attempt"]),
            )
        elif event.kind == "task":
            self._replay_task(data, data["state"], data.get("reason", ""))
        elif event.kind == "attempt":
            self._replay_attempt(event, data, output_size)
        elif event.kind not in ("run_created", "adopted", "rebuilt"):
            raise ValueError("an unknown kind of event")

    def _replay_task(self, data: Mapping[str, Any], state: str, reason: str) -> None:
        self.db.execute(
            "UPDATE tasks SET state = ?, reason = ?, soft = ?, cause = ?, watch = NULL, retry_at = ? WHERE task_id = ?",
            (TaskState(state), reason, data.get("soft", False), data.get("cause"), data.get("retry_at"), data["task"]),
        )

    def _replay_attempt(
        self, event: Event, data: Mapping[str, Any], output_size: Callable[[str, int, str], int | None]
    ) -> None:
        key = (data["task"], data["attempt"])
        state = AttemptState(data["state"])
        before = self.attempt(*key)
        if before is None:
            self.db.execute(
                "INSERT INTO attempts (task_id, attempt, state, operator, handle, created_at, cpus, memory, time_s, "
                "source_digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, state, data["operator"], data.get("handle", ""), from_text(event.at), data.get("cpus", 1),
                 data.get("memory"), data.get("time_s"), data.get("source_digest", "")),
            )  # fmt: skip
            self.db.execute("UPDATE tasks SET attempts = ? WHERE task_id = ?", (key[1], key[0]))
        else:
            self.db.execute(
                "UPDATE attempts SET state = ?, failure = ?, reason = ?, handle = COALESCE(?, handle), "
                "exit_code = COALESCE(?, exit_code), started_at = COALESCE(?, started_at), "
                "ended_at = COALESCE(?, ended_at), counts = ?, metrics = COALESCE(?, metrics), "
                "response = COALESCE(?, response) WHERE task_id = ? AND attempt = ?",
                (state, data.get("failure"), data.get("reason", ""), data.get("handle"), data.get("exit_code"),
                 from_text(data.get("started_at")), from_text(data.get("ended_at")), data.get("counts", False),
                 dump_json(data["metrics"]) if "metrics" in data else None,
                 dump_json(data["response"]) if "response" in data else None, *key),
            )  # fmt: skip
            if data.get("counts") and before.state is not AttemptState.LOST:
                self.db.execute("UPDATE tasks SET tries = tries + 1 WHERE task_id = ?", (key[0],))
        if state is AttemptState.COMPLETED:
            self.db.execute("UPDATE tasks SET result = ? WHERE task_id = ?", (key[1], key[0]))
            digests, files = data.get("outputs", {}), data.get("files", {})
            self.db.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (*key, name, item.path, file, output_size(*key, file), digests[item.path])
                    for name, item in self.outputs_of(key[0]).items()
                    if item.path in digests
                    for file in (files.get(item.path, item.file),)
                ],
            )
        if data.get("task_state"):
            self._replay_task(data, data["task_state"], data.get("task_reason", ""))

    def look_again(self, task_ids: Iterable[str], now: float) -> None:
        """Let the next step decide these PENDING or READY tasks anew."""
        wanted = json.dumps(list(task_ids))
        ready = self.db.execute(
            "SELECT task_id FROM tasks WHERE state = 'READY' AND task_id IN (SELECT value FROM json_each(?))", (wanted,)
        ).fetchall()
        self.db.execute(
            "UPDATE tasks SET state = 'PENDING', watch = NULL WHERE state IN ('PENDING', 'READY') "
            "AND retry_at IS NULL AND task_id IN (SELECT value FROM json_each(?))",
            (wanted,),
        )
        for row in ready:
            self.record("task", now, task=row[0], state=str(TaskState.PENDING))


def _data_of(response: str | None) -> Any:
    """Give the data of an answer; empty without one."""
    data = _read_plain(response).get("data")
    return {} if data is None else data


def _read_plain(text: str | None) -> dict[str, Any]:
    """Read metrics or an answer: JSON of others, in which no key is ours; numbers keep their text."""
    data: dict[str, Any] = _read(partial(json.loads, parse_int=Int, parse_float=Float), text or "{}")
    if not isinstance(data, dict):
        raise LedgerDamagedError(f"state.sqlite is damaged: it holds {str(text)[:60]!r}; {_REBUILD}")
    return data


def _rest(change: TaskChange) -> dict[str, Any]:
    """Give what an event says of a task beside its state and reason."""
    return {"soft": change.soft or None, "cause": change.cause, "retry_at": change.retry_at}


def _instance_rows(
    instances: Sequence[Instance], version: int, conditional: Container[str]
) -> Iterator[tuple[Any, ...]]:
    """Give the rows of new tasks; ``conditional`` are the groups with a `when`, which the first step looks at.

    One without upstream is READY; any other watches the last task that it waits for. Nothing is decided here: when
    the watched task settles, readiness looks at all.
    """
    last: dict[str, int] = {}  # position of a task, or of the last one of a group
    for position, item in enumerate(instances):
        last[item.task_id] = last[item.group] = position
    for position, item in enumerate(instances):
        watch = max((last[edge.upstream] for edge in item.edges), default=None)
        yield (
            item.task_id, position, item.group, item.label, version, dump_json(item.matrix, exact=True), item.operator,
            item.priority, json.dumps(inputs_to_json(item.inputs), ensure_ascii=False),
            json.dumps(to_json(item.outputs), ensure_ascii=False),
            TaskState.READY if watch is None and item.group not in conditional else TaskState.PENDING,
            None if watch is None or item.group in conditional else instances[watch].task_id,
        )  # fmt: skip


def _check_magic(path: Path) -> None:
    """Refuse what is no SQLite file before SQLite gets to see it.

    A truncated file is found by SQLite itself, when it reads. It must not be refused by its size here: before SQLite
    has rolled back a commit that was killed, header and size may differ.
    """
    try:
        with open_regular(path) as file:
            header, size = file.read(100), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise LedgerMissingError(f"{path} is missing; {_REBUILD}") from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.ELOOP):
            raise LedgerDamagedError(f"{path} is damaged: it is no regular file; {_REBUILD}") from None
        raise RunRootError(f"{path}: cannot be read: {error.strerror}") from None
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise LedgerDamagedError(f"{path} is damaged: no SQLite database ({size} bytes); {_REBUILD}")
