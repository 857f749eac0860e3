"""A ledger that cannot be read stops a step: nothing is decided on a guess, no task fails for it, nothing changes."""

from __future__ import annotations

import sqlite3
import time

import pytest

from matterstack.errors import RunRootError
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step, take_and_tell

TWO = "tasks: {a: {command: 'true'}, b: {command: 'true', retries: 1, outputs: {o: o}}}\n"


def damage(root, column, task):
    with sqlite3.connect(root / "state.sqlite") as db:
        db.execute(f"UPDATE tasks SET {column} = '{{broken' WHERE task_id = ?", (task,))
    db.close()


@pytest.mark.parametrize("column", ["inputs", "outputs", "matrix"])
def test_a_damaged_task_that_is_ready_stops_the_step_and_changes_nothing(bench, column):
    bench.start(TWO)
    damage(bench.root, column, "b")
    before = bench.digest()

    done = bench.cli("step", bench.root)

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {bench.root / 'state.sqlite'} is damaged: ")
    assert len(done.stderr.splitlines()) == 1 and "doctor" in done.stderr
    assert bench.digest() == before


def test_a_damaged_task_that_runs_stops_the_step_and_the_run(bench):
    bench.start("tasks: {a: {command: 'touch o; sleep 0.2', outputs: {o: o}}}\n")
    bench.step()
    damage(bench.root, "outputs", "a")
    bench.exit_of("a")
    before = bench.digest()

    done = bench.cli("step", bench.root)
    started = time.monotonic()
    looped = bench.cli("run", bench.root, timeout=60)

    assert done.returncode == looped.returncode == 1, (done, looped)
    assert "is damaged" in done.stderr and "is damaged" in looped.stderr
    assert bench.digest() == before
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("column", ["inputs", "outputs"])
def test_the_advice_repairs_it_and_the_run_goes_on(bench, column):
    bench.start(TWO.replace("command: 'true', retries", "command: 'touch o', retries"))
    damage(bench.root, column, "b")
    bench.cli("step", bench.root)

    assert bench.cli("doctor", bench.root, "--fix").returncode == 0
    assert bench.cli("run", bench.root).returncode == 0
    assert bench.states() == {"a": "COMPLETED", "b": "COMPLETED"}


@pytest.mark.parametrize("at", [1, 10, 40, 80, 120, 160, 200, 240])
def test_a_read_error_that_passes_fails_no_task_and_the_next_step_goes_on(bench, at):
    """SQLite itself breaks one statement off, once, as it does when a disk or a network folder fails for a moment."""
    bench.start(
        "tasks: {a: {command: 'echo 1 > o', outputs: {o: o}}, b: {inputs: {o: o}, command: 'cat ${{ inputs.o }}'}}\n"
    )
    bench.step()
    bench.exit_of("a")
    calls = []

    def once():
        calls.append(1)
        return int(len(calls) == at)

    with open_to_write(bench.root) as store:
        store.db.set_progress_handler(once, 5)  # virtual-machine instructions
        try:
            with pytest.raises(RunRootError, match="interrupted"):
                take_and_tell(Step(bench.root, store))
        finally:
            store.db.set_progress_handler(None, 0)

    assert "FAILED" not in bench.states().values()
    bench.step_until_over()
    assert bench.states() == {"a": "COMPLETED", "b": "COMPLETED"}
    assert len(bench.journal()) == len({line["seq"] for line in bench.journal()})


# --- what contradicts itself is found, and made again from the journal ------------------------------------------------

CONTRADICTIONS = {
    "a task that has not run": "UPDATE tasks SET state = 'PENDING', watch = NULL WHERE task_id = 'a'",
    "a task that has not completed": "UPDATE tasks SET state = 'COMPLETED' WHERE task_id = 'gate'",
    "an attempt that is gone": "DELETE FROM attempts WHERE task_id = 'gate'",
    "another result": "UPDATE tasks SET result = 77 WHERE task_id = 'a'",
    "a handle that is torn": "UPDATE attempts SET handle = '{' WHERE task_id = 'gate'",
    "an output elsewhere": "UPDATE outputs SET path = '../../x'",
    "an event that is gone": "DELETE FROM events WHERE seq = 3",
    "an event that was edited": "UPDATE events SET line = replace(line, 'COMPLETED', 'FAILED')",
    "no counts": "DELETE FROM task_counts",
    "no edges": "DROP TABLE edges",
}


@pytest.mark.parametrize("statement", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_doctor_finds_a_ledger_that_its_own_events_contradict_and_makes_it_again(bench, statement):
    bench.start(
        "operators: {board: {kind: human}}\n"
        "tasks: {a: {command: 'echo 1 > o', outputs: {o: o}}, gate: {operator: board, instructions: 'go on?'}}\n"
    )
    bench.step_until(lambda: bench.states()["a"] == "COMPLETED")
    before = bench.states()
    with sqlite3.connect(bench.root / "state.sqlite") as db:
        db.execute(statement)
    db.close()

    found = bench.cli("doctor", bench.root)
    fixed = bench.cli("doctor", bench.root, "--fix")

    assert found.returncode == 1 and "state.sqlite: is damaged" in found.stdout, found
    assert "rebuilt from journal.jsonl" in fixed.stdout, fixed
    assert "Traceback" not in found.stderr + fixed.stderr
    assert bench.cli("doctor", bench.root).returncode == 0
    assert bench.states() == before
    assert bench.step().state == "WAITING"


@pytest.mark.parametrize("statement", ["DELETE FROM task_counts", "DROP TABLE edges",
                                       "UPDATE run SET home_path = x'00ff'",
                                       "UPDATE tasks SET state = 'READY', attempts = 0 WHERE task_id = 'a'"])  # fmt: skip
def test_what_a_step_meets_of_it_is_one_sentence(bench, statement):
    bench.start("tasks: {a: {command: 'true'}, b: {needs: [a], command: 'sleep 30'}}\n")
    bench.step_until(lambda: bench.states()["a"] == "COMPLETED")
    with sqlite3.connect(bench.root / "state.sqlite") as db:
        db.execute(statement)
    db.close()

    done = bench.cli("step", bench.root)

    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
    assert "is damaged" in done.stderr


@pytest.mark.parametrize("command", ["a", "a, attempt 1, which runs"])
def test_a_campaign_that_the_ledger_cannot_give_is_not_taken_for_an_operator_that_is_missing(bench, command):
    bench.start("tasks: {a: {command: 'sleep 0.2'}}\n")
    if command != "a":
        bench.step()
        bench.exit_of("a")
    with sqlite3.connect(bench.root / "state.sqlite") as db:
        db.execute("UPDATE campaign_versions SET definition = '{broken'")
    db.close()
    before = bench.digest()

    for done in (bench.cli("step", bench.root), bench.cli("run", bench.root, timeout=60)):
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
        assert "is damaged" in done.stderr
    assert bench.digest() == before
