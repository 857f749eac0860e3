"""The clock jumps, by a month in either direction, while things run, wait and are retried: real commands, a false clock."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest

from matterstack.care.checks import examine
from matterstack.views.attempts import attempts
from tests.conftest import MATTERSTACK

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime"),
]
JUMPS = ["+30d", "-30d"]

CAMPAIGN = """
operators: {local: {kind: local, slots: {cpus: 8}}, board: {kind: human}}
tasks:
  runs: {command: 'echo runs >> WITNESS; while test ! -e go; do sleep 0.05; done', resources: {time: 10m}}
  short: {command: 'echo short >> WITNESS; sleep 60', resources: {time: 0.5s}, allow_failure: true}
  again: {retries: {max: 1, delay: 1s}, command: 'echo again >> WITNESS; test ${{ task.attempt }} -ge 2'}
  ask: {operator: board, instructions: x}
  below: {needs: [runs, again, ask], command: 'echo below >> WITNESS'}
"""


def step_at(bench, jump):
    done = subprocess.run(["faketime", "-f", jump, *MATTERSTACK, "step", bench.root], capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr
    assert "Traceback" not in done.stderr


def until(bench, jump, done):
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, bench.states()
        step_at(bench, jump)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_of_the_clock_ends_and_starts_nothing(bench, jump):
    bench.start(CAMPAIGN)
    bench.step()
    bench.wait_for(bench.attempt("short") / "exit.json")
    bench.wait_for(bench.attempt("again") / "exit.json")

    step_at(bench, jump)  # the clock jumps here, and stays so

    assert bench.states()["runs"] == "RUNNING"
    assert bench.states()["ask"] == "WAITING"
    assert attempts(bench.root, "short")[1][0]["class"] == "timeout"
    until(bench, jump, lambda: bench.states()["again"] == "COMPLETED")
    (bench.attempt("ask") / "response.json").write_text('{"status": "COMPLETED"}')
    (bench.attempt("runs") / "go").touch()
    until(bench, jump, lambda: bench.states()["below"] == "COMPLETED")
    assert sorted(bench.witnessed()) == ["again", "again", "below", "runs", "short"]
    assert examine(bench.root, digests=True) == []


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_back_to_the_true_time_neither(bench, jump):
    bench.start(CAMPAIGN)
    step_at(bench, jump)
    bench.wait_for(bench.attempt("again") / "exit.json")
    step_at(bench, jump)
    assert bench.states()["again"] == "PENDING"

    bench.step_until(lambda: bench.states()["again"] == "COMPLETED")  # its delay began in another month

    assert bench.states()["runs"] == "RUNNING"
    (bench.attempt("ask") / "response.json").write_text('{"status": "COMPLETED"}')
    (bench.attempt("runs") / "go").touch()
    assert bench.step_until_over().state == "COMPLETED"
    exit_json = json.loads((bench.attempt("runs") / "exit.json").read_text())
    assert exit_json["exit_code"] == 0
    assert sorted(bench.witnessed()) == ["again", "again", "below", "runs", "short"]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_limit_is_kept_by_a_clock_that_does_not_jump(bench, jump):
    bench.start("tasks: {a: {command: 'sleep 60', resources: {time: 1s}}}\n")
    began = time.monotonic()
    step_at(bench, jump)
    assert bench.exit_of("a")["exit_code"] in (124, 137)
    assert time.monotonic() - began < 20
    bench.step_until_over()
    assert attempts(bench.root, "a")[1][0]["class"] == "timeout"
