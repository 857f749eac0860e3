"""A ledger that cannot be read stops a step: nothing is decided on a guess, no task fails for it, nothing changes."""

from __future__ import annotations

import sqlite3
import time

import pytest

from matterstack.errors import RunRootError
from matterstack.orchestration.run_lifecycle import take_step
from matterstack.orchestration.session import open_to_write

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
                take_step(bench.root, store)
        finally:
            store.db.set_progress_handler(None, 0)

    assert "FAILED" not in bench.states().values()
    bench.step_until_over()
    assert bench.states() == {"a": "COMPLETED", "b": "COMPLETED"}
    assert len(bench.journal()) == len({line["seq"] for line in bench.journal()})
