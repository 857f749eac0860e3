"""Remedies help: what a rerun resets is shown, asked about, and can be taken back (issue 14.4)."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time

import pytest

from matterstack.care.rebuild import memory_ledger
from matterstack.core.states import FailureClass
from matterstack.views.explain import explain
from tests.conftest import MATTERSTACK

CHAIN = """tasks:
  a: {command: "date +%N > a.txt", outputs: {a: a.txt}}
  b: {inputs: {a: a.txt}, command: "cp ${{ inputs.a }} b.txt", outputs: {b: b.txt}}
"""
FAILURES = """tasks:
  one: {matrix: {i: [1, 2, 3]}, command: "echo first ${{ matrix.i }} >&2; exit 3"}
  two: {command: "exit 4"}
  slow: {command: "sleep 30", resources: {time: 1s}}
  soft: {command: "exit 5", allow_failure: true}
  fine: {command: "true"}
  below: {needs: [two], command: "true"}
"""


@pytest.fixture
def failed(bench):
    bench.start(FAILURES)
    bench.cli("run", "-q", bench.root)
    return bench


def states(bench):
    """The states of tasks, their results and retries, as the ledger has them and as a rebuilt one would."""
    with memory_ledger(bench.root) as store:
        rebuilt = [
            (row.task_id, str(row.state), row.reason, row.soft, row.cause, row.tries, row.result)
            for row in store.tasks()
        ]
    return rebuilt, bench.states()


# --- taking it back --------------------------------------------------------------------------------------------------


def test_a_rerun_that_was_cancelled_before_it_started_leaves_everything_as_before(bench):
    bench.start(CHAIN)
    bench.step_until_over()
    before = states(bench)
    bench.cli("rerun", bench.root, "a")
    assert bench.states() == {"a": "PENDING", "b": "COMPLETED"}

    assert bench.cli("cancel", bench.root, "a").stdout == "cancelled: 1 as before its rerun\n"

    assert states(bench) == before
    assert bench.cli("status", bench.root).stdout.splitlines()[0].endswith(f": COMPLETED ({bench.root})")


@pytest.mark.parametrize(
    "words", [["--failed"], ["two"], ["one", "--downstream"], ["--class", "timeout"], ["--like", "one/1"]]
)
def test_a_rerun_is_undone_as_a_whole(failed, words):
    before = states(failed)
    assert failed.cli("rerun", failed.root, *words).returncode == 0
    assert failed.states() != before[1]

    assert failed.cli("rerun", failed.root, "--undo").returncode == 0

    assert states(failed) == before
    assert failed.cli("doctor", failed.root).stdout == "nothing is wrong\n"
    assert failed.cli("rerun", failed.root, "--undo").stderr.startswith("error: ")


def test_once_something_has_started_the_rest_is_taken_back_by_name(bench):
    bench.start(CHAIN)
    bench.step_until_over()
    bench.cli("rerun", bench.root, "a", "--downstream")
    bench.step()

    refused = bench.cli("rerun", bench.root, "--undo")
    assert refused.returncode == 2
    assert (
        "1 of the 2 tasks of the last rerun have started, or were amended since; `matterstack cancel " in refused.stderr
    )
    assert bench.cli("cancel", bench.root, "b").stdout == "cancelled: 1 as before its rerun\n"
    bench.step_until(lambda: bench.states() == {"a": "COMPLETED", "b": "COMPLETED"})


def test_a_cancelled_run_is_cancelled_again_after_an_undone_rerun(bench):
    bench.start(CHAIN)
    bench.cli("cancel", bench.root)
    bench.cli("rerun", bench.root, "a")
    bench.cli("rerun", bench.root, "--undo")
    assert bench.cli("step", bench.root).returncode == 3
    assert json.loads(bench.cli("status", bench.root, "--json").stdout)["run"]["state"] == "CANCELLED"


# --- what it selects -------------------------------------------------------------------------------------------------

SELECTED = {
    "--failed": (["--failed"], {"one/1", "one/2", "one/3", "two", "slow", "soft"}),
    "a class": (["--class", "timeout"], {"slow"}),
    "an exit code": (["--class", "exit_code_3"], {"one/1", "one/2", "one/3"}),
    "the same cause": (["--like", "one/2"], {"one/1", "one/2", "one/3"}),
    "several tasks": (["two", "one/1"], {"two", "one/1"}),
    "both must hold": (["one", "two", "--class", "exit_code_4"], {"two"}),
}


@pytest.mark.parametrize(("words", "tasks"), SELECTED.values(), ids=SELECTED)
def test_a_rerun_selects_exactly_these_and_a_dry_run_changes_nothing(failed, words, tasks):
    before = failed.digest()
    found = json.loads(failed.cli("rerun", failed.root, *words, "--dry-run", "--json").stdout)
    assert set(found["tasks"]) == tasks
    assert failed.digest() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: rerun: name the tasks to run again"),
        (["fine", "--failed"], "error: no task has failed among those named"),
        (["--stale"], "error: no task is stale"),
        (["--class", "time_out"], "error: there is no class of failures 'time_out' (did you mean 'timeout'?)"),
        (["--like", "fine"], "error: fine is COMPLETED: --like names a task that has FAILED"),
        (["--undo", "two"], "error: --undo takes the whole last rerun back"),
    ],
)
def test_a_rerun_of_nothing_is_refused_in_words(failed, words, message):
    done = failed.cli("rerun", failed.root, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(message)


def test_stale_results_are_rerun_by_their_name(bench):
    bench.start(CHAIN)
    bench.step_until_over()
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    assert json.loads(bench.cli("rerun", bench.root, "--stale", "--dry-run", "--json").stdout) == {
        "tasks": ["b"], "below": [], "completed": 1,
    }  # fmt: skip


# --- asking ----------------------------------------------------------------------------------------------------------


def many(bench):
    bench.start(f"tasks: {{a: {{matrix: {{i: {list(range(25))}}}, command: 'true'}}}}\n")
    bench.step_until_over()


def test_above_20_tasks_nothing_is_reset_without_yes(bench):
    many(bench)
    refused = bench.cli("rerun", bench.root, "a")
    assert (refused.returncode, refused.stderr) == (
        2,
        "error: 25 tasks would be reset; --yes does so without asking, --dry-run shows them\n",
    )
    assert set(bench.states().values()) == {"COMPLETED"}
    assert bench.cli("rerun", bench.root, "a/1*").returncode == 0
    assert bench.cli("rerun", bench.root, "a", "--yes").returncode == 0


@pytest.mark.parametrize(("typed", "state"), [("y\n", "PENDING"), ("n\n", "COMPLETED")])
def test_on_a_terminal_it_asks(bench, typed, state):
    many(bench)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MATTERSTACK, "rerun", bench.root, "a"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.write(ours, typed.encode())
    printed = process.communicate(timeout=30)[0].decode()
    os.close(ours)
    os.close(theirs)
    assert "25 tasks; 25 of them COMPLETED" in printed
    assert set(bench.states().values()) == {state}


# --- advice ----------------------------------------------------------------------------------------------------------


def advice(bench, task):
    return {item.task_id: item for item in explain(bench.root, [task])}[task].advice


def test_each_class_has_advice_of_its_own(failed):
    (more, again) = advice(failed, "slow")
    assert more.text.startswith("it needs more `resources.time`, or `retries: {max: 1, timeout: {time: x2}}`: write ")
    assert [hint.verb for hint in (*more.commands, *again.commands)] == ["amend", "rerun"]
    assert [item.text for item in advice(failed, "soft")] == ["its failure is allowed; to run it again all the same"]
    assert [hint.verb for item in advice(failed, "two") for hint in item.commands] == ["amend", "rerun"]


def test_nothing_is_advised_about_what_a_condition_skipped(bench):
    bench.start("tasks: {a: {when: '${{ 1 == 2 }}', command: 'true'}, b: {needs: [a], command: 'true'}}\n")
    bench.step_until_over()
    for item in explain(bench.root):
        assert (str(item.state), item.hint, item.advice) == ("SKIPPED", None, ())


def test_the_commands_that_are_advised_work(failed, monkeypatch):
    for item in explain("runs/t"):
        for hint in (hint for each in item.advice for hint in each.commands):
            words = hint.command.split()[1:] + (["--dry-run"] if hint.verb == "rerun" else [])
            assert failed.cli(*words).returncode in (0, 3), hint.command


def test_every_class_of_failure_has_advice():
    from matterstack.hints import Hint
    from matterstack.views.advice import advice_for

    class Attempt:
        exit_code = 1

    for failure in FailureClass:
        attempt = Attempt()
        attempt.failure = failure
        found = advice_for(
            attempt, Hint("rerun", "r", "a"), "r", campaign="c.yaml", runs_command=True, soft=False
        )  # fmt: skip
        assert found
        assert all(item.text and item.commands for item in found)


# --- what is undone is what it was -----------------------------------------------------------------------------------

BROKEN = "tasks: {a: {command: 'exit 1'}, b: {needs: [a], command: 'true'}}\n"


def test_a_second_rerun_of_the_same_failure_is_undone_as_a_whole(bench):
    bench.start(BROKEN)
    bench.step_until_over()
    for _ in range(2):
        before = states(bench)
        bench.cli("rerun", bench.root, "a")
        assert bench.cli("rerun", bench.root, "--undo").returncode == 0
        assert states(bench) == before
        bench.cli("rerun", bench.root, "a")
        bench.step_until_over()


def test_what_only_waits_below_a_rerun_is_cancelled_as_ever(bench):
    bench.start(CHAIN)
    bench.cli("rerun", bench.root, "a")
    assert bench.cli("cancel", bench.root, "b").stdout == "cancelled: 1 will not start\n"
    assert bench.states()["b"] == "CANCELLED"


def test_what_waits_for_a_task_that_is_restored_is_looked_at_again(bench):
    bench.start(BROKEN)
    bench.step_until_over()
    bench.cli("rerun", bench.root, "a")
    bench.cli("pause", bench.root)
    bench.cli("step", bench.root)
    assert bench.cli("cancel", bench.root, "a").stdout == "cancelled: 1 as before its rerun\n"
    bench.cli("resume", bench.root)
    bench.step()
    assert bench.states() == {"a": "FAILED", "b": "BLOCKED"}


def test_a_retry_that_was_due_later_is_due_then_again(bench):
    bench.start("tasks: {a: {retries: {max: 1, delay: 1h}, command: 'echo 1 >> WITNESS; exit 1'}}\n")
    bench.step_until(lambda: bench.states() == {"a": "PENDING"})
    bench.cli("rerun", bench.root, "a")
    bench.cli("rerun", bench.root, "--undo")
    bench.step()
    assert re.search("due in (59 min|1 h 00)", bench.cli("explain", bench.root).stdout)
    assert bench.witnessed() == ["1"]


def test_a_whole_run_that_is_cancelled_before_its_rerun_started_keeps_its_results(bench):
    bench.start(CHAIN)
    bench.step_until_over()
    bench.cli("rerun", bench.root, "a", "--downstream")
    assert bench.cli("cancel", bench.root).stdout == "cancelled: 2 as before their rerun\n"
    assert bench.states() == {"a": "COMPLETED", "b": "COMPLETED"}
    assert json.loads(bench.cli("status", bench.root, "--json").stdout)["run"]["state"] == "COMPLETED"


def test_no_undo_is_offered_where_something_that_ran_was_ended(bench):
    bench.start("tasks: {a: {command: sleep 60}}\n")
    bench.step()
    said = bench.cli("rerun", bench.root, "a").stdout
    assert "--undo" not in said
    bench.cli("cancel", bench.root)


def test_what_withdrew_its_start_is_still_what_can_be_restored(bench):
    """A loop records what it will start before it does; what it could not start any more was never started."""
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 1}}}\n"
        f"tasks: {{a: {{matrix: {{i: {list(range(20))}}}, command: 'sleep 0.05'}}}}\n"
    )
    bench.cli("run", bench.root)
    bench.cli("rerun", bench.root, "--yes", "a/*")
    loop = bench.popen("run", bench.root)
    while loop.poll() is None and not any(state == "RUNNING" for state in bench.states().values()):
        time.sleep(0.01)
    bench.cli("cancel", bench.root, "a/*")
    loop.wait()
    tasks = json.loads(bench.cli("status", bench.root, "--json").stdout)["tasks"]
    assert {task["state"] for task in tasks if task["attempts"] == 1} == {"COMPLETED"}
