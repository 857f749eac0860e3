"""A step may be repeated and killed anywhere: each attempt's command starts once, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from matterstack import open_run
from tests.conftest import Bench

KILLER = Path(__file__).with_name("killer.py")

DIAMOND = """
operators: {local: {kind: local, slots: {cpus: 4}}}
tasks:
  a: {command: "echo a >> WITNESS; echo 1 > out", outputs: {o: {file: out, path: a}}}
  b: {matrix: {i: [1, 2]}, inputs: {x: a}, command: "echo ${{ task.id }} >> WITNESS; cp ${{ inputs.x }} out", outputs: {o: {file: out, path: "b/${{ matrix.i }}"}}}
  c: {inputs: {x: "b/*"}, command: "echo c >> WITNESS; cat ${{ inputs.x }} > out", outputs: {o: {file: out, path: c}}}
"""
STARTS = ["a", "b/1", "b/2", "c"]


def killed_step(bench: Bench, kill_at: int) -> bool:
    """Take a step that is killed at a boundary; say whether it was."""
    done = subprocess.run([sys.executable, str(KILLER), str(bench.root), str(kill_at)], capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def check_all_is_well(bench: Bench) -> None:
    assert sorted(bench.witnessed()) == STARTS
    assert set(bench.states().values()) == {"COMPLETED"}
    assert (bench.root / "results" / "c").read_text() == "1\n1\n"
    db = sqlite3.connect(bench.root / "state.sqlite")
    seqs = [row[0] for row in db.execute("SELECT seq FROM events ORDER BY seq")]
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert [event["seq"] for event in bench.journal()] == seqs


def test_ten_steps_without_change_submit_once_and_change_no_byte(bench):
    bench.start("tasks: {a: {command: 'echo a >> WITNESS; sleep 30'}, b: {needs: [a], command: 'true'}}\n")
    assert bench.step().line() == "Tick: 1 ready, 1 submitted, 0 completed, 0 failed, 1 active, 1 pending"
    bench.wait_for(bench.witness)
    bench.wait_for_text(bench.attempt("a") / ".exit.json", "started ")  # the last that its worker writes for now
    before = bench.digest()

    for _ in range(10):
        assert bench.cli("step", bench.root).returncode == 0

    assert bench.digest() == before
    assert bench.witnessed() == ["a"]


def test_steps_of_a_run_that_is_over_change_no_byte(bench):
    bench.start(DIAMOND)
    bench.step_until_over()
    before = bench.digest()

    for _ in range(3):
        bench.step()

    assert bench.digest() == before


# The boundaries of one step are counted by the killer itself; a step of this campaign has fewer than this many.
MOST_BOUNDARIES = 40


@pytest.mark.parametrize("kill_at", range(1, MOST_BOUNDARIES + 1))
def test_a_step_killed_anywhere_starts_each_command_once(bench, kill_at):
    bench.start(DIAMOND)

    kills = 0
    while not open_run(bench.root).state.is_over:
        kills += killed_step(bench, kill_at)  # each step is killed at this boundary, as long as there is one
        bench.step()

    check_all_is_well(bench)
    if kill_at <= 10:
        assert kills


def test_no_step_has_more_boundaries_than_are_tried(bench):
    bench.start(DIAMOND)
    counts = []
    while not open_run(bench.root).state.is_over:
        done = subprocess.run([sys.executable, str(KILLER), str(bench.root), "0"], capture_output=True, text=True)
        counts.append(int(done.stdout))
    assert 10 < max(counts) < MOST_BOUNDARIES


def test_a_loop_killed_again_and_again_still_finishes_with_one_start_each(bench):
    bench.start(DIAMOND)
    for delay in (0.35, 0.45, 0.5, 0.55, 0.6):
        loop = bench.popen("run", bench.root)
        try:
            loop.wait(delay)
        except subprocess.TimeoutExpired:
            loop.kill()
        loop.communicate()

    assert bench.cli("run", bench.root).returncode == 0
    check_all_is_well(bench)


def test_jobs_outlive_the_loop_that_started_them(bench):
    bench.start("tasks: {a: {command: 'sleep 1; echo a >> WITNESS'}}\n")
    loop = bench.popen("run", bench.root)
    bench.wait_for(bench.attempt("a") / "claim")
    loop.kill()
    loop.communicate()

    bench.exit_of("a")

    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["a"]


def test_the_journal_is_completed_after_a_cut(bench):
    bench.start(DIAMOND)
    bench.step_until_over()
    journal = bench.root / "journal.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)

    for left in (whole[:-7], b"".join(lines[:-3]), b"".join(lines[:-3]) + lines[-3][:9], lines[0], b""):
        journal.write_bytes(left)
        bench.step()
        assert journal.read_bytes() == whole


def test_a_journal_ahead_of_the_ledger_is_refused_in_words(bench):
    bench.start(DIAMOND)
    old = (bench.root / "state.sqlite").read_bytes()
    bench.step_until_over()
    (bench.root / "state.sqlite").write_bytes(old)

    done = bench.cli("step", bench.root)

    assert done.returncode == 1
    assert "the ledger only 2: state.sqlite is an old or foreign one" in done.stderr
    assert sorted(bench.witnessed()) == STARTS


def test_every_line_of_the_journal_is_an_event_of_the_ledger(bench):
    bench.start(DIAMOND)
    bench.step_until_over()

    db = sqlite3.connect(bench.root / "state.sqlite")
    rows = db.execute("SELECT seq, line FROM events ORDER BY seq").fetchall()
    db.close()

    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert (bench.root / "journal.jsonl").read_text().splitlines() == [line for _, line in rows]


def test_a_retry_waits_for_an_upstream_that_is_run_again(bench):
    bench.start(
        "tasks: {a: {command: '[ $MATTERSTACK_ATTEMPT = 1 ] || sleep 1; echo 1 > o', outputs: {o: o}}, "
        "b: {inputs: {i: o}, retries: {max: 1, delay: 1s}, command: 'cat ${{ inputs.i }}; [ $MATTERSTACK_ATTEMPT = 2 ]'}}\n"
    )
    bench.step_until(lambda: "retry 1 of 1" in bench.reasons().get("b", ""))
    bench.cli("rerun", bench.root, "a")
    bench.step_until(lambda: bench.states()["a"] == "RUNNING")

    assert bench.step_until_over().state == "COMPLETED"
    used = json.loads((bench.attempt("b", 2) / "task.json").read_text())["inputs"]["i"]["files"]
    assert [file["attempt"] for file in used] == [2]


def test_a_retry_is_blocked_if_an_upstream_has_failed_meanwhile(bench):
    bench.start(
        "tasks: {a: {command: '[ $MATTERSTACK_ATTEMPT = 1 ] && echo 1 > o', outputs: {o: o}}, "
        "b: {inputs: {i: 'o*'}, retries: {max: 1, delay: 1s}, command: '[ $MATTERSTACK_ATTEMPT = 2 ]'}}\n"
    )
    bench.step_until(lambda: "retry 1 of 1" in bench.reasons().get("b", ""))
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    assert bench.states() == {"a": "FAILED", "b": "BLOCKED"}


@pytest.mark.skipif(not (shutil.which("strace") or os.environ.get("CI")), reason="needs strace")
@pytest.mark.parametrize("write", range(1, 60, 4))
def test_a_commit_that_is_killed_at_any_write_is_rolled_back_and_repeated(bench, write):
    bench.start(
        f"tasks: {{a: {{matrix: {{i: {list(range(40))}}}, command: 'echo ${{{{ matrix.i }}}} >> WITNESS'}}}}\n"
        "operators: {local: {kind: local, slots: {cpus: 100}}}\n"
    )
    killed = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=KILL:when={write}",
         sys.executable, "-m", "matterstack", "step", str(bench.root)],
        cwd=bench.folder, capture_output=True,
    )  # fmt: skip
    assert killed.returncode in (0, -signal.SIGKILL, 137)

    assert bench.cli("run", bench.root).returncode == 0

    assert sorted(map(int, bench.witnessed())) == list(range(40))


def test_a_fan_in_is_stale_when_a_task_that_it_had_to_do_without_succeeds(bench):
    (bench.folder / "s.sh").write_text("[ $1 != 2 ] && echo $1 > o\n")
    bench.start(
        'files: ["*.sh"]\ntasks: {a: {matrix: {n: [1, 2, 3]}, command: "sh ${{ source }}/s.sh ${{ matrix.n }}", allow_failure: true, '
        'outputs: {o: {file: o, path: "o/${{ matrix.n }}"}}}, '
        'b: {inputs: {i: "o/*"}, allow_dependency_failure: {min: 2}, command: "cat ${{ inputs.i }} > p", outputs: {p: p}}}\n'
    )
    bench.step_until_over()
    assert "\nstale  " not in bench.cli("status", bench.root).stdout
    (bench.folder / "s.sh").write_text("echo $1 > o\n")
    bench.cli("amend", bench.root, "--yes")
    bench.step_until_over()
    assert "stale  b: made without a/2, which has succeeded since" in bench.cli("status", bench.root).stdout
    assert bench.cli("explain", bench.root).stdout.startswith("every task is COMPLETED, 3 of them stale:\na/1: ")
    bench.cli("rerun", bench.root, "--stale")
    bench.step_until_over()
    assert "\nstale  " not in bench.cli("status", bench.root).stdout
    assert (bench.root / "results" / "p").read_text() == "1\n2\n3\n"


def test_a_link_of_an_older_attempt_does_not_stay_beside_a_newer_result(bench):
    bench.start(
        "tasks: {a: {command: 'echo 1 > o; [ $MATTERSTACK_ATTEMPT = 2 ] || echo 1 > extra', "
        "outputs: {o: o, e: {path: extra, optional: true}}}}\n"
    )
    bench.step_until_over()
    assert (bench.root / "results" / "extra").exists()
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    assert sorted(path.name for path in (bench.root / "results").iterdir()) == ["o"]


def test_files_in_a_folder_output_are_digested_by_the_job_and_found_by_globs(bench):
    bench.start(
        "tasks: {a: {command: 'mkdir d/sub; echo 1 > d/x; echo 2 > d/sub/y', outputs: {d: d/}}, "
        "b: {inputs: {all: 'd/**', one: d/x}, command: 'cat ${{ inputs.all }} ${{ inputs.one }}'}}\n"
    )
    bench.step_until_over()
    assert len((bench.attempt("a") / "outputs.sha256").read_text().splitlines()) == 2
    assert (bench.attempt("b") / "stdout.log").read_text() == "2\n1\n1\n"


def test_an_input_as_keeps_its_mode(bench):
    script = bench.folder / "run.sh"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    bench.start("tasks: {a: {inputs: {s: {path: run.sh, as: go.sh}}, command: ./go.sh}}\n")
    assert bench.step_until_over().state == "COMPLETED"
