"""Whether a ledger can be what it says: SQLite's own checks look at its form alone, so all that it holds is read."""

from __future__ import annotations

from itertools import zip_longest

from matterstack.core.recorded import bucket_of
from matterstack.core.states import TaskState
from matterstack.errors import JournalError, LedgerDamagedError, MatterStackError
from matterstack.storage.journal import Journal
from matterstack.storage.rows import ATTEMPT_COLUMNS, Undecodable, attempt_row, plain
from matterstack.storage.state_store import SQLiteStateStore

_OBJECTS = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
_OF_EVENTS = ("tasks", "edges", "attempts", "attempt_inputs", "outputs", "source_files")


def integrity_problem(store: SQLiteStateStore) -> str:
    """Return what is wrong with a ledger, "" for nothing. Raises LedgerError where the file cannot even be read."""
    with store.guard():
        if store.db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            return "its integrity check fails"
        row = store.db.execute("PRAGMA foreign_key_check").fetchone()
        if row is not None:
            return f"a row of {row[0]} refers to nothing"
        problem = _missing_object(store) or _wrong_type(store)
        if problem:
            return problem
        try:
            return _content_problem(store)
        except Undecodable as error:
            return str(error)
        except LedgerDamagedError as error:
            return error.what


def _missing_object(store: SQLiteStateStore) -> str:
    with SQLiteStateStore.in_memory(store.path) as ours:
        lost = set(ours.db.execute(_OBJECTS)) - set(store.db.execute(_OBJECTS))
    if not lost:
        return ""
    kind, name = min(lost)
    return f"{kind} {name} is missing"


def _wrong_type(store: SQLiteStateStore) -> str:
    columns = store.db.execute(
        "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
    ).fetchall()
    for table, column, kind in columns:
        fits = "'integer', 'real'" if kind == "REAL" else f"'{kind.lower()}'"
        row = store.db.execute(
            f"SELECT {column} FROM {table} WHERE typeof({column}) NOT IN ({fits}, 'null') LIMIT 1"
        ).fetchone()
        if row is not None:
            return f"{table}.{column} holds {str(row[0])[:60]!r}"
    return ""


def _content_problem(store: SQLiteStateStore) -> str:
    store.run()
    counted: dict[object, int] = {}
    for row in [*store.tasks(retired=True), *(row for row in store.plans(TaskState.RETIRED) if row.plan == "group")]:
        counted[bucket_of(row)] = counted.get(bucket_of(row), 0) + 1
        campaign, item = store.campaign(row.campaign_version), store.instance(row.task_id)
        named = row.group in campaign.tasks or (item.given and campaign.tasks.has(row.group))
        if not named or (row.operator not in campaign.operators and row.plan is None):
            return f"no task '{row.group}' or operator '{row.operator}' is in its campaign"
        known = store.published(row.task_id)
        if known is not None and row.campaign_version == 1 and not set(known[1]) <= set(item.outputs):
            return f"{row.task_id} has an output that its campaign does not know"
    if counted != store.buckets():
        return "its counts of tasks are not those of its tasks"
    for attempt in store.db.execute(f"SELECT {ATTEMPT_COLUMNS}, metrics FROM attempts"):
        plain(attempt_row(attempt[:-1]).response)
        plain(attempt[-1])
    return _contradiction(store)


def _contradiction(store: SQLiteStateStore) -> str:
    """Return where events and tables contradict each other: the events are applied again, to an empty ledger."""
    try:
        entries = list(Journal(store.path).check(store.lines_after(0)))
    except JournalError as error:
        return f"its events are not one history ({str(error).partition('; ')[0].removeprefix(f'{store.path}:')})"
    with SQLiteStateStore.in_memory(store.path) as again:
        again.root, again.read = store.root, store.read
        try:
            again.replay(entries)
        except LedgerDamagedError as error:
            return f"its events do not fit each other ({error.what})"
        except MatterStackError:  # expanded/ cannot be read: then it cannot be rebuilt either
            return ""
        for table in _OF_EVENTS:
            question = f"SELECT * FROM {table} ORDER BY 1, 2, 3"
            ours, theirs = store.db.execute(question), again.db.execute(question)
            for mine, made in zip_longest(ours, theirs):
                if mine != made:
                    about = (mine or made or ("",))[0]
                    return f"{table} has another {about} than the events say"
    return ""
