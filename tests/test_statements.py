"""What a step asks the ledger: an idle step reads no table whole that grows with the campaign or with time."""

from __future__ import annotations

import sqlite3

import pytest

from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step, take_and_tell

GROWING = ("tasks", "edges", "attempts", "attempt_inputs", "outputs", "source_files", "events")


def statements_of_a_step(root):
    """Give each statement of the next step, with its values, and how SQLite answers it."""
    seen = []
    with open_to_write(root) as store:
        store.db.set_trace_callback(seen.append)
        try:
            report = take_and_tell(Step(root, store))
        finally:
            store.db.set_trace_callback(None)
    asked = sorted({text for text in seen if text.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE", "DELETE"))})
    db = sqlite3.connect(f"file:{root / 'state.sqlite'}?mode=ro", uri=True)
    try:
        return report, {text: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}")] for text in asked}
    finally:
        db.close()


def schema(root, kind):
    db = sqlite3.connect(root / "state.sqlite")
    try:
        return dict(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = ?", (kind,)))
    finally:
        db.close()


def whole(root, plans):
    """Give the statements that read all of a growing table; a partial index holds only the rows that are looked for."""
    partial = {name for name, sql in schema(root, "index").items() if " WHERE " in (sql or "")}
    found = {}
    for text, plan in plans.items():
        for line in plan:
            words = line.split()
            if words[0] == "SCAN" and words[1] in GROWING and words[-1] not in partial:
                found[text] = line
    return found


@pytest.fixture
def idle(bench):
    """A run with tasks that ended, that run, that wait for a person and that are not ready, and nothing to do."""
    bench.start(
        "operators: {board: {kind: human}}\n"
        "tasks:\n"
        "  done: {matrix: {i: [1, 2, 3]}, command: 'echo 1 > o', outputs: {o: {path: 'o/${{ matrix.i }}', file: o}}}\n"
        "  long: {needs: [done], command: 'sleep 30', resources: {time: 1m}}\n"
        "  gate: {operator: board, instructions: 'go on?'}\n"
        "  last: {needs: [long, gate], command: 'true'}\n"
    )
    bench.step_until(lambda: bench.states()["long"] in ("RUNNING", "SUBMITTED") and bench.states()["gate"] == "WAITING")
    bench.step()
    yield bench
    bench.cli("cancel", bench.root)


def test_an_idle_step_reads_no_growing_table_whole(idle):
    assert set(GROWING) <= set(schema(idle.root, "table"))

    report, plans = statements_of_a_step(idle.root)

    assert not report.changed
    assert len(plans) > 5
    assert whole(idle.root, plans) == {}


def test_the_check_sees_a_scan(idle):
    db = sqlite3.connect(idle.root / "state.sqlite")
    plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN SELECT count(*) FROM attempts WHERE exit_code = 3")]
    db.close()
    assert whole(idle.root, {"count": plan})
