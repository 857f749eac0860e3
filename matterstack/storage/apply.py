"""What each event does to the ledger: one function for each kind, the only code that writes its tables.

Used alike by a step, a person's command, a migration and the replay of a journal, so that a ledger made from the journal
is the same by construction. An event holds all that its function needs; only `TasksAdded` and `RunCreated` name a file of
expanded/, which ``read`` returns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from matterstack.core import events as e
from matterstack.core.model import Instance, TaskChange, inputs_to_json, outputs_to_json
from matterstack.core.reasons import Code, Reason, reason, reason_to_json
from matterstack.core.states import ATTEMPT_MOVES, AttemptState, TaskState
from matterstack.core.times import from_text, rounded, to_text
from matterstack.core.values import dump_json, encode_json
from matterstack.errors import LedgerError
from matterstack.storage.journal import Entry

if TYPE_CHECKING:
    import sqlite3

Read = Callable[[str], str]  # sha256 of a file of expanded/ -> its text


def apply(db: sqlite3.Connection, entry: Entry, read: Read) -> None:
    """Write what an event changed, within the open transaction.

    Raises LedgerError for an event that does not fit the ledger: of a task it does not have, or an illegal move.
    """
    _FUNCTIONS[entry.event.kind](db, entry, entry.event, read)


def text_of(found: Reason) -> str:
    """Return a reason as the ledger stores it."""
    return encode_json(reason_to_json(found)) if found else ""


# --- the run --------------------------------------------------------------------------------------------------------


def _run_created(db: sqlite3.Connection, entry: Entry, event: e.RunCreated, read: Read) -> None:
    db.execute(
        "INSERT INTO run (run_id, name, digest, created_at, epoch, campaign_path, source_digest, home_id, home_inode, "
        "home_host, home_path) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (event.run, event.name, event.digest, event.created_at, entry.epoch, event.campaign_path, event.source_digest,
         event.new_home, event.inode, event.host, event.path),
    )  # fmt: skip
    _put_version(db, 1, event, event.created_at, read)
    _put_sources(db, 1, event.sources)


def _put_version(
    db: sqlite3.Connection, version: int, event: e.RunCreated | e.Amended, created_at: str, read: Read
) -> None:
    db.execute(
        "INSERT INTO campaign_versions (version, digest, created_at, definition, source, site, campaign_sha256, "
        "operators_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (version, event.digest, created_at, read(event.definition), event.source, event.site, event.campaign_sha256,
         event.operators_sha256),
    )  # fmt: skip


def _tasks_added(db: sqlite3.Connection, entry: Entry, event: e.TasksAdded, read: Read) -> None:
    position = _next_position(db)
    rows = list(_lines(read(event.rows)))
    _insert_tasks(
        db,
        (
            (number, event.campaign_version, *row[:8], _work_of(row), *row[8:10], *_plan_of(row))
            for number, row in enumerate(rows, position)
        ),
        len(rows),
    )
    _put_edges(db, rows)


def _next_position(db: sqlite3.Connection) -> int:
    """Return the position after that of all tasks; an index answers each half."""
    row = db.execute(
        "SELECT MAX(COALESCE((SELECT MAX(position) FROM tasks WHERE given IS NULL), -1), "
        "COALESCE((SELECT MAX(position) FROM tasks WHERE given IS NOT NULL), -1)) + 1"
    ).fetchone()
    return int(row[0])


def _lines(text: str) -> Iterator[Any]:
    """Yield the values of a file that has one on each line, of which there may be a hundred thousand."""
    start = 0
    while start < len(text):  # not by splitlines(): it would also cut at U+2028 in a value
        end = text.find("\n", start + _AT_ONCE)
        end = len(text) if end < 0 else end
        yield from json.loads(f"[{text[start:end].rstrip(chr(10)).replace(chr(10), ',')}]")
        start = end + 1


_AT_ONCE = 1 << 20  # characters
_NEW_TASK = (
    "INSERT INTO tasks (position, campaign_version, task_id, group_name, label, matrix, operator, priority, inputs, outputs, "
    "work, state, watch, plan, given) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_MANY = 1000  # new tasks, from which on they are counted together
_COUNT_NEW = (
    "INSERT INTO task_counts SELECT state, soft, paused, retry_at IS NOT NULL, "
    "state = 'PENDING' AND watch IS NULL AND retry_at IS NULL, COUNT(*) FROM tasks WHERE rowid > ? GROUP BY 1, 2, 3, 4, 5 "
    "ON CONFLICT (state, soft, paused, waits, unlooked) DO UPDATE SET tasks = tasks + excluded.tasks"
)


def _insert_tasks(db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]], count: int) -> None:
    if count < _MANY:
        db.executemany(_NEW_TASK, rows)
        return
    # The trigger that counts each takes as long as all the rest.
    last = db.execute("SELECT COALESCE(MAX(rowid), 0) FROM tasks").fetchone()[0]
    trigger = db.execute("SELECT sql FROM sqlite_master WHERE name = 'task_counted'").fetchone()[0]
    db.execute("DROP TRIGGER task_counted")
    db.executemany(_NEW_TASK, rows)
    db.execute(trigger)
    db.execute(_COUNT_NEW, (last,))


def _work_of(row: list[Any]) -> str:
    return row[11] if len(row) > 11 else ""  # a run of before has none


def _plan_of(row: list[Any]) -> tuple[Any, Any]:
    return (row[12] or None, row[13] or None) if len(row) > 12 else (None, None)


def _put_edges(db: sqlite3.Connection, rows: Iterable[list[Any]]) -> None:
    db.executemany(
        "INSERT INTO edges VALUES (?, ?, ?)", ((upstream, row[0], how) for row in rows for upstream, how in row[10])
    )


def _reused(db: sqlite3.Connection, entry: Entry, event: e.Reused, read: Read) -> None:
    rows = list(_lines(read(event.rows)))
    _update(
        db,
        "UPDATE tasks SET state = 'COMPLETED', watch = NULL, attempts = 1, result = 1 WHERE task_id = ? AND attempts = 0",
        ((task,) for task, _, _ in rows),
    )
    db.executemany(
        "INSERT INTO attempts (task_id, attempt, state, operator, campaign_version, created_at, started_at, ended_at, exit_code, "
        "failure, reason, cpus, source_digest, work, metrics, response, usage) SELECT task_id, 1, 'COMPLETED', operator, "
        "campaign_version, ?, ?, ?, ?, 'reused', ?, 0, '', work, ?, ?, ? FROM tasks WHERE task_id = ?",
        (
            (
                entry.at, row["started_at"], row["ended_at"], row["exit_code"],
                text_of(reason(Code.REUSED, run=row["run"], task=row["task"], attempt=row["attempt"])),
                row["metrics"], row["response"], row["usage"], task,
            )
            for task, row, _ in rows
        ),
    )  # fmt: skip
    db.executemany(
        "INSERT INTO outputs VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?)",
        ((task, *output) for task, _, outputs in rows for output in outputs),
    )
    # What each was made from: of what it waits for, the attempt that was taken over as well.
    db.executemany(
        "INSERT OR IGNORE INTO attempt_inputs SELECT e.downstream, 1, e.upstream, 1 FROM edges e WHERE e.downstream = ? "
        "AND (e.entry LIKE 'inputs.%' OR e.entry LIKE 'response.%' OR e.entry LIKE 'metrics.%')",
        ((task,) for task, _, _ in rows),
    )


def _amended(db: sqlite3.Connection, entry: Entry, event: e.Amended, read: Read) -> None:
    _put_version(db, event.version, event, to_text(entry.at), read)
    db.execute(
        "UPDATE campaign_versions SET source = 'versions/1/source' WHERE source = 'source'"
    )  # of before versions
    _put_sources(db, event.version, event.sources)
    db.execute(
        "UPDATE run SET digest = ?, campaign_path = ?, source_digest = ?, over = 0, "
        "paused = CASE WHEN pause_reason <> '' THEN 0 ELSE paused END, pause_reason = ''",
        (event.digest, event.campaign_path, event.source_digest),
    )
    put: list[tuple[int, list[Any], Any]] = []
    moved: list[tuple[int, str]] = []
    retired: list[str] = []
    for what, *rest in _lines(read(event.rows)):
        if what == "put":
            put.append((rest[0], rest[1], rest[2:]))
        else:
            moved.append((rest[1], rest[0]))
            retired += [rest[0]] if what == "retire" else []
    # What is gone keeps the version in which it was last.
    db.execute(
        "UPDATE tasks SET campaign_version = ? WHERE (state <> 'RETIRED' OR plan IS NOT NULL) AND task_id NOT IN (SELECT value FROM json_each(?))",
        (event.version, json.dumps(retired)),
    )
    _update(db, "UPDATE tasks SET position = ? WHERE task_id = ?", moved)
    _put_instances(db, event.version, put, retired)


def _put_instances(
    db: sqlite3.Connection, version: int, put: list[tuple[int, list[Any], Any]], retired: Iterable[str]
) -> None:
    """Write instances that are new or another, as (position, row, marks); ``retired`` ones wait for nothing any longer."""
    gone = list(retired)
    known = set()
    # The id of a group may be that of a plan, or of a task that was or becomes one: then it is looked up as well.
    if gone or any(row[0] == row[1] for _, row, _ in put) or not _are_new(db, {row[1] for _, row, _ in put}):
        given = json.dumps([*(row[0] for _, row, _ in put), *gone])
        db.execute("DELETE FROM edges WHERE downstream IN (SELECT value FROM json_each(?))", (given,))
        found = db.execute("SELECT task_id FROM tasks WHERE task_id IN (SELECT value FROM json_each(?))", (given,))
        known = {row[0] for row in found}
    _update(
        db,
        "UPDATE tasks SET position = ?, campaign_version = ?, group_name = ?, label = ?, matrix = ?, operator = ?, "
        "priority = ?, inputs = ?, outputs = ?, work = ?, made = CASE WHEN plan IS ? THEN made END, plan = ?, given = ?, asked = ?, changed = ? WHERE task_id = ?",
        (
            (
                number,
                version,
                *row[1:8],
                row[11],
                _plan_of(row)[0],
                *_plan_of(row),
                *(_json_or_none(item) for item in marks),
                row[0],
            )
            for number, row, marks in put
            if row[0] in known
        ),
    )
    _insert_tasks(
        db,
        (
            (number, version, *row[:8], row[11], *row[8:10], *_plan_of(row))
            for number, row, _ in put
            if row[0] not in known
        ),
        len(put) - len(known),
    )
    _put_edges(db, (row for _, row, _ in put))


def _are_new(db: sqlite3.Connection, groups: set[str]) -> bool:
    """Return whether none of these groups has an instance yet; the row that stands for a group does not count."""
    counted = "SELECT 1 FROM tasks WHERE group_name = ? AND task_id <> group_name LIMIT 1"
    return all(db.execute(counted, (group,)).fetchone() is None for group in groups)


def _expanded(db: sqlite3.Connection, entry: Entry, event: e.Expanded, read: Read) -> None:
    position = _next_position(db)
    put: list[tuple[int, list[Any], Any]] = []
    retired: list[str] = []
    for what, number, *rest in _lines(read(event.rows)) if event.rows else ():
        if what == "put":
            put.append((position + len(put) if number is None else number, rest[0], rest[1:]))
        else:
            retired.append(number)
    _put_instances(db, event.campaign_version, put, retired)
    if event.round:  # of a round that was dropped nothing can be undone once it is made again
        db.executemany(
            "UPDATE tasks SET before = NULL, made = NULL WHERE task_id = ?", ((row[0],) for _, row, _ in put)
        )
    made = (
        {"round": event.round, "given": event.given} if event.round else {"reads": event.reads, "values": event.values}
    )
    _update(db, "UPDATE tasks SET made = ? WHERE task_id = ? AND plan IS NOT NULL", [(encode_json(made), event.task)])
    db.execute("DELETE FROM edges WHERE downstream = ? AND entry = 'round'", (event.task,))
    db.executemany("INSERT INTO edges VALUES (?, ?, ?)", ((up, event.task, how) for up, how in event.edges))


def _json_or_none(value: Any) -> str | None:
    return None if value is None else encode_json(value)


WORK = 11  # where a row has the digest of its work


def row_of(item: Instance, state: TaskState, watch: str | None = None) -> list[Any]:
    """Return an instance with its first state as the files that events name have it; the digest of its work is put in later."""
    return [
        item.task_id, item.group, item.label, dump_json(item.matrix, exact=True), item.operator, int(item.priority),
        encode_json(inputs_to_json(item.inputs)), encode_json(outputs_to_json(item.outputs)), str(state), watch,
        [[edge.upstream, edge.entry] for edge in item.edges], "",
        *([item.plan, dump_json(item.given, exact=True) if item.given else ""] if item.plan or item.given else []),
    ]  # fmt: skip


def rows_of(
    instances: Iterable[Instance],
    first: Iterable[TaskChange],
    works: Callable[[list[Any], Instance], str] | None = None,
) -> Iterator[str]:
    """Yield the lines of a file that `TasksAdded` names, a JSON list each: `row_of` of each instance."""
    for item, change in zip(instances, first, strict=True):
        row = row_of(item, change.state, change.watch)
        if works is not None:
            row[WORK] = works(row, item)
        yield encode_json(row)


def _paused(db: sqlite3.Connection, entry: Entry, event: e.Paused | e.Resumed, read: Read) -> None:
    if event.tasks:
        paused = isinstance(event, e.Paused)
        _update(db, "UPDATE tasks SET paused = ? WHERE task_id = ?", ((paused, task) for task in event.tasks))
    elif isinstance(event, e.Paused):
        db.execute("UPDATE run SET paused = 1, pause_reason = ?", (text_of(event.reason),))
    else:
        db.execute(
            "UPDATE run SET paused = 0, pause_reason = '', over = MAX(over, ?), failures_before = "
            "(SELECT COALESCE(SUM(tasks), 0) FROM task_counts WHERE state = 'FAILED' AND soft = 0)",
            (event.over,),
        )


def _cancelled(db: sqlite3.Connection, entry: Entry, event: e.Event, read: Read) -> None:
    db.execute("UPDATE run SET cancelled = ?", (isinstance(event, e.Cancelled),))


def _source_changed(db: sqlite3.Connection, entry: Entry, event: e.SourceChanged, read: Read) -> None:
    db.execute("UPDATE run SET source_digest = ?", (event.source_digest,))
    _put_sources(db, 1, event.sources)


def _put_sources(db: sqlite3.Connection, version: int, sources: Any) -> None:
    rows = ((version, path, digest, size, *stamp, None)[:5] for path, (digest, size, *stamp) in sources.items())
    db.executemany("INSERT OR REPLACE INTO source_files VALUES (?, ?, ?, ?, ?)", rows)


def _moved(db: sqlite3.Connection, entry: Entry, event: e.Moved | e.Adopted | e.Rebuilt, read: Read) -> None:
    home = event.new_home if isinstance(event, e.Adopted) else entry.home
    db.execute(
        "UPDATE run SET home_id = ?, home_inode = ?, home_host = ?, home_path = ?, campaign_path = ?",
        (home, event.inode, event.host, event.path, event.campaign_path),
    )


def _nothing(db: sqlite3.Connection, entry: Entry, event: e.Event, read: Read) -> None:
    """It is on record; no table says it."""


# --- tasks ----------------------------------------------------------------------------------------------------------


def _tasks_changed(db: sqlite3.Connection, entry: Entry, event: e.TasksChanged, read: Read) -> None:
    values = _values(event.change)
    if event.rerun:
        carry = event.carry_of()
        _update(db, _KEEP_BEFORE, ((rounded(entry.at), len(event.tasks), carry, task) for task in event.tasks))
    _update(db, _CHANGE_TASK, ((*values, event.change.state, task) for task in event.tasks))
    if event.state is TaskState.PENDING and entry.who:  # a person runs what had failed again: it is forgiven no more
        db.execute(
            "UPDATE run SET failures_before = MIN(failures_before, (SELECT COALESCE(SUM(tasks), 0) FROM task_counts "
            "WHERE state = 'FAILED' AND soft = 0))"
        )


_SET = "state = ?, reason = ?, soft = ?, cause = ?, watch = ?, retry_at = ?"
# What a task was before a rerun is kept while it waits for its turn; it can no longer be undone when it is anything else.
_CHANGE_TASK = f"UPDATE tasks SET {_SET}, before = CASE WHEN ? IN ('PENDING', 'READY', 'RETIRED') THEN before END WHERE task_id = ?"
_KEEP_BEFORE = (
    "UPDATE tasks SET before = json_array(state, reason, soft, cause, tries, (SELECT cancelled FROM run), ?, ?, retry_at), "
    "carry = COALESCE(?, carry) WHERE task_id = ?"
)
_RESTORE = (
    "UPDATE tasks SET state = json_extract(before, '$[0]'), reason = json_extract(before, '$[1]'), "
    "soft = json_extract(before, '$[2]'), cause = json_extract(before, '$[3]'), tries = json_extract(before, '$[4]'), "
    "retry_at = json_extract(before, '$[8]'), watch = NULL, before = NULL, carry = 0 WHERE task_id = ? AND before IS NOT NULL"
)
_LOOK_AGAIN = "UPDATE tasks SET watch = NULL WHERE state = 'PENDING' AND watch IN (?, ?)"
_COUNT = "UPDATE tasks SET tries = tries + ?, restarts = restarts + ?, result = COALESCE(?, result) WHERE task_id = ?"
_CHANGE_TASK_TOO = (
    f"UPDATE tasks SET {_SET}, before = NULL, carry = 0, tries = tries + ?, restarts = restarts + ?, "
    "result = COALESCE(?, result) WHERE task_id = ?"
)


def _values(change: TaskChange) -> tuple[Any, ...]:
    """Return the columns that `_CHANGE_TASK` sets; a time is the one that the line of the journal says."""
    at = None if change.retry_at is None else rounded(change.retry_at)
    return change.state, text_of(change.reason), change.soft, change.cause, change.watch, at


def _retries_reset(db: sqlite3.Connection, entry: Entry, event: e.RetriesReset, read: Read) -> None:
    _update(db, "UPDATE tasks SET tries = 0, restarts = 0 WHERE task_id = ?", ((task,) for task in event.tasks))


def _rerun_undone(db: sqlite3.Connection, entry: Entry, event: e.RerunUndone, read: Read) -> None:
    _update(db, _RESTORE, ((task,) for task in event.tasks))
    db.executemany(_LOOK_AGAIN, ((task, task.partition("/")[0]) for task in event.tasks))


def _update(db: sqlite3.Connection, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Update one row for each; raise LedgerError if one of them does not exist."""
    given = list(rows)
    if db.executemany(statement, given).rowcount != len(given):
        raise LedgerError("an event names a task or attempt that the ledger does not have")


# --- attempts -------------------------------------------------------------------------------------------------------


def _attempt_made(db: sqlite3.Connection, entry: Entry, event: e.AttemptMade, read: Read) -> None:
    changed = db.execute(
        "UPDATE tasks SET state = 'SUBMITTED', reason = '', soft = 0, cause = NULL, watch = NULL, retry_at = NULL, "
        "attempts = ? WHERE task_id = ? AND attempts = ?",
        (event.attempt, event.task, event.attempt - 1),
    )
    if changed.rowcount != 1:
        found = db.execute("SELECT attempts FROM tasks WHERE task_id = ?", (event.task,)).fetchone()
        raise LedgerError(f"{event.task}: attempt {event.attempt} does not follow attempt {found and found[0]}")
    if event.attempt > 1:
        db.execute("UPDATE attempts SET awaited = 0 WHERE task_id = ? AND awaited = 1", (event.task,))
    db.execute(
        "INSERT INTO attempts (task_id, attempt, state, operator, campaign_version, handle, created_at, cpus, memory, "
        "time_s, gpus, source_digest, licences, work, carry) SELECT ?, ?, 'SUBMITTING', ?, campaign_version, ?, ?, ?, ?, ?, ?, ?, ?, "
        "work, carry FROM tasks "
        "WHERE task_id = ?",
        (event.task, event.attempt, event.operator, event.handle, entry.at, event.cpus, event.memory,
         event.time_s, event.gpus, event.source_digest, encode_json(event.licences) if event.licences else None, event.task),
    )  # fmt: skip
    if event.inputs:
        db.executemany(
            "INSERT INTO attempt_inputs VALUES (?, ?, ?, ?)",
            ((*event.key, upstream, number) for upstream, number in event.inputs.items()),
        )


def _withdrawn(db: sqlite3.Connection, entry: Entry, event: e.Withdrawn, read: Read) -> None:
    keys = event.attempts
    _update(db, "DELETE FROM attempts WHERE task_id = ? AND attempt = ? AND state = 'SUBMITTING'", keys)
    db.executemany("DELETE FROM attempt_inputs WHERE task_id = ? AND attempt = ?", keys)
    _update(
        db,
        # One that is RETIRED, by an amendment or a rerun that dropped its round, stays so.
        "UPDATE tasks SET state = CASE state WHEN 'SUBMITTED' THEN 'READY' ELSE state END, attempts = attempts - 1 "
        "WHERE task_id = ? AND attempts = ?",
        keys,
    )


def _attempt_changed(db: sqlite3.Connection, entry: Entry, event: e.AttemptChanged, read: Read) -> None:
    row = db.execute("SELECT state FROM attempts WHERE task_id = ? AND attempt = ?", event.key).fetchone()
    if row is None:
        raise LedgerError(f"an event names {event.task}, attempt {event.attempt}, which the ledger does not have")
    before = AttemptState(row[0])
    if event.state is not before and event.state not in ATTEMPT_MOVES[before]:
        raise LedgerError(f"{event.task}, attempt {event.attempt}: {before} -> {event.state} is not a legal move")
    completed = event.state is AttemptState.COMPLETED
    db.execute(
        "UPDATE attempts SET state = ?, failure = ?, reason = ?, handle = COALESCE(?, handle), "
        "exit_code = COALESCE(?, exit_code), started_at = COALESCE(?, started_at), ended_at = COALESCE(?, ended_at), "
        "counts = ?, unclaimed = ?, stalled = ?, awaited = ?, unlinked = ?, metrics = COALESCE(?, metrics), usage = COALESCE(?, usage), "
        "response = COALESCE(?, response) WHERE task_id = ? AND attempt = ?",
        (event.state, event.failure, text_of(event.reason), event.handle, event.exit_code, from_text(event.started_at),
         from_text(event.ended_at), event.counts, event.unclaimed, event.stalled, event.state is AttemptState.LOST,
         text_of(event.unlinked), dump_json(event.metrics) if event.metrics else None,
         dump_json(event.usage) if event.usage else None,
         dump_json(event.response) if event.response else None, *event.key),
    )  # fmt: skip
    counts = event.counts and before is not AttemptState.LOST  # one that was lost has counted already
    result = event.attempt if completed else None
    if event.becomes is not None:
        db.execute(_CHANGE_TASK_TOO, (*_values(event.becomes), counts, event.restarts, result, event.task))
    elif counts or completed or event.restarts:
        db.execute(_COUNT, (counts, event.restarts, result, event.task))
    if event.outputs:
        db.executemany(
            "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            [
                (*event.key, item.name, item.path, item.file, item.size, item.sha256, item.stamp)
                for item in event.outputs
            ],
        )


def _links_changed(db: sqlite3.Connection, entry: Entry, event: e.LinksChanged, read: Read) -> None:
    _update(
        db,
        "UPDATE attempts SET unlinked = ? WHERE task_id = ? AND attempt = ?",
        [(text_of(event.reason), event.task, event.attempt)],
    )


def _outputs_removed(db: sqlite3.Connection, entry: Entry, event: e.OutputsRemoved, read: Read) -> None:
    _update(db, "UPDATE outputs SET removed = 1 WHERE task_id = ? AND attempt = ? AND name = ?", event.outputs)


def _wished(db: sqlite3.Connection, entry: Entry, event: e.Wished, read: Read) -> None:
    _update(
        db,
        "UPDATE attempts SET wish = ?, wished_at = COALESCE(wished_at, ?) WHERE task_id = ? AND attempt = ?",
        ((event.wish, entry.at, *key) for key in event.attempts),
    )


def _parcel_packed(db: sqlite3.Connection, entry: Entry, event: e.ParcelPacked, read: Read) -> None:
    for key in event.attempts:
        terms = _terms(db, key)
        before = [item for item in terms.get("parcels", []) if item != event.parcel]
        parcels = before if event.undone else [*before, dict(event.parcel)]
        terms = {**terms, "parcel": parcels[-1], "parcels": parcels} if parcels else {
            name: value for name, value in terms.items() if name not in ("parcel", "parcels")
        }  # fmt: skip
        last = terms.get("parcel")
        why = reason(Code.HANDED_OVER, by=last["by"], at=last["at"]) if last else Reason()
        _put_terms(db, key, terms, why)


def _parcel_returned(db: sqlite3.Connection, entry: Entry, event: e.ParcelReturned, read: Read) -> None:
    at = to_text(entry.at)
    for key in event.attempts:
        _put_terms(db, key, {**_terms(db, key), "returned_at": at}, reason(Code.CAME_BACK, at=at))


def _terms(db: sqlite3.Connection, key: e.Key) -> dict[str, Any]:
    row = db.execute("SELECT handle FROM attempts WHERE task_id = ? AND attempt = ?", key).fetchone()
    if row is None:
        raise LedgerError(f"an event names {key[0]}, attempt {key[1]}, which the ledger does not have")
    try:
        terms = json.loads(row[0] or "{}")
    except ValueError:
        terms = {}
    return terms if isinstance(terms, dict) else {}


def _put_terms(db: sqlite3.Connection, key: e.Key, terms: dict[str, Any], why: Reason) -> None:
    db.execute(
        "UPDATE attempts SET handle = ?, reason = ?, parcelled = ? WHERE task_id = ? AND attempt = ?",
        (json.dumps(terms, ensure_ascii=False), text_of(why), bool(terms.get("parcels")), *key),
    )


_FUNCTIONS: dict[str, Callable[[Any, Entry, Any, Read], None]] = {
    e.RunCreated.kind: _run_created,
    e.TasksAdded.kind: _tasks_added,
    e.Reused.kind: _reused,
    e.Amended.kind: _amended,
    e.Expanded.kind: _expanded,
    e.Paused.kind: _paused,
    e.Resumed.kind: _paused,
    e.Cancelled.kind: _cancelled,
    e.Uncancelled.kind: _cancelled,
    e.SourceChanged.kind: _source_changed,
    e.Moved.kind: _moved,
    e.Adopted.kind: _moved,
    e.Rebuilt.kind: _moved,
    e.Translated.kind: _nothing,
    e.TasksChanged.kind: _tasks_changed,
    e.RetriesReset.kind: _retries_reset,
    e.RerunUndone.kind: _rerun_undone,
    e.AttemptMade.kind: _attempt_made,
    e.Withdrawn.kind: _withdrawn,
    e.AttemptChanged.kind: _attempt_changed,
    e.LinksChanged.kind: _links_changed,
    e.OutputsRemoved.kind: _outputs_removed,
    e.Wished.kind: _wished,
    e.ParcelPacked.kind: _parcel_packed,
    e.ParcelReturned.kind: _parcel_returned,
}
