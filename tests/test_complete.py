"""A person did a task: its outputs are an attempt like any other's."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time

import pytest

from matterstack.care.checks import examine
from matterstack.care.repair import repair
from tests.test_doctor import content

CHAIN = (
    "tasks:\n  a: {command: 'exit 1', outputs: {o: {path: 'x/o.txt', not_empty: true}, log: {path: log, optional: true}, d: {path: d/, optional: true}}}\n"
    "  b: {inputs: {o: x/o.txt}, command: 'cat ${{ inputs.o }} > p', outputs: {p: p}}\n"
)


@pytest.fixture
def failed(bench):
    bench.start(CHAIN)
    bench.step_until_over()
    (bench.folder / "mine.txt").write_text("by hand\n")
    return bench


def complete(bench, *words, why="at the other cluster"):
    return bench.cli("complete", bench.root, "a", *words, "--why", why)


def test_what_a_person_did_counts_and_what_is_below_goes_on(failed):
    done = complete(failed, "--output", "o=mine.txt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a is COMPLETED by hand (attempt 2); 1 task below can run now; ")
    assert failed.step_until_over().state == "COMPLETED"
    assert (failed.root / "results/p").read_text() == "by hand\n"
    assert (failed.root / "results/x/o.txt").resolve() == (failed.attempt("a", 2) / "x/o.txt").resolve()
    found = json.loads(failed.cli("attempts", failed.root, "a", "--json").stdout)[1]
    assert (found["state"], found["class"]) == ("COMPLETED", "by_hand")
    assert found["reason"].endswith(": at the other cluster")
    assert examine(failed.root) == []
    assert '"at the other cluster"' in failed.cli("history", failed.root, "--task", "a").stdout


def test_it_is_rebuilt_and_run_again_as_any_other(failed):
    complete(failed, "--output", "o=mine.txt")
    before = content(failed.root / "state.sqlite")
    (failed.root / "state.sqlite").unlink()
    repair(failed.root)
    assert content(failed.root / "state.sqlite") == before
    failed.cli("rerun", failed.root, "a")
    failed.step_until_over()
    assert failed.states()["a"] == "FAILED"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "a is complete with --output o=FILE"),
        (("--output", "o=nothing.txt"), "--output o=nothing.txt: no such file"),
        (("--output", "p=mine.txt"), "a has no such output; it has o, log, d"),
        (("--output", "o=mine.txt", "--output", "d=mine.txt"), "a declares a folder"),
        (("--output", "o=empty.txt"), "x/o.txt is empty; nothing was changed"),
        (("--output", "o"), "expected NAME=FILE"),
    ],
)
def test_what_would_fail_a_task_is_refused_and_changes_nothing(failed, words, told):
    (failed.folder / "empty.txt").write_text("")
    before = failed.digest()
    done = complete(failed, *words)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert told in done.stderr
    assert failed.digest() == before


def test_what_is_alive_or_done_is_refused(bench):
    bench.start("tasks: {a: {command: 'sleep 20'}, b: {command: 'true'}}\n")
    bench.step()
    bench.wait_for(bench.attempt("b") / "exit.json")
    bench.step()
    assert "ends it first" in complete(bench).stderr
    assert "b is COMPLETED" in bench.cli("complete", bench.root, "b", "--why", "x").stderr
    bench.cli("cancel", bench.root)


def test_a_kill_leaves_the_old_state_or_the_new_one(failed):
    for delay in range(0, 300, 25):
        process = failed.popen("complete", failed.root, "a", "--output", "o=mine.txt", "--why", "x")
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
        failed.cli("pause", failed.root)  # opens the ledger to write, and starts nothing
        failed.cli("resume", failed.root)
        db = sqlite3.connect(failed.root / "state.sqlite")
        taken = db.execute("SELECT COUNT(*) FROM attempts WHERE failure = 'by_hand'").fetchone()[0] == 1
        db.close()
        assert (failed.states()["a"] == "COMPLETED") == taken == (failed.attempt("a", 2) / "x/o.txt").exists()
        assert examine(failed.root) == []


def test_a_rerun_upstream_means_all_that_it_was_made_from(bench):
    bench.start(
        "tasks: {a: {command: 'echo 1 > a', outputs: {a: a}}, b: {inputs: {a: a}, command: 'cp ${{ inputs.a }} b', outputs: {b: b}}, "
        "c: {inputs: {b: b}, command: 'true'}, d: {command: 'true'}}\n"
    )
    bench.step_until_over()
    told = json.loads(bench.cli("rerun", bench.root, "b", "--upstream", "--dry-run", "--json").stdout)
    assert told["tasks"] == ["a", "b"]
    assert bench.cli("rerun", bench.root, "b", "--upstream").returncode == 0
    assert bench.states() == {"a": "PENDING", "b": "PENDING", "c": "COMPLETED", "d": "COMPLETED"}


def test_a_folder_that_cannot_be_copied_is_refused_and_says_why(failed):
    (failed.folder / "made").mkdir()
    os.mkfifo(failed.folder / "made/pipe")
    done = complete(failed, "--output", "o=mine.txt", "--output", "d=made")
    assert done.returncode == 1
    assert "error: `made/pipe` is a named pipe; nothing was changed" in done.stderr
    assert failed.states()["a"] == "FAILED"


def test_a_rerun_upstream_leaves_out_what_a_task_only_waits_for(bench):
    bench.start(
        "tasks:\n  a: {command: 'echo 1 > o', outputs: {o: o}}\n  first: {command: 'true'}\n"
        "  b: {needs: [first], inputs: {o: o}, command: 'cat ${{ inputs.o }}'}\n"
    )
    bench.step_until_over()
    told = json.loads(bench.cli("rerun", bench.root, "b", "--upstream", "--dry-run", "--json").stdout)
    assert told["tasks"] == ["a", "b"]
