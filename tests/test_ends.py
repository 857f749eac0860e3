"""Runs end and say so; what is quiet is quiet about the right things (issue 14.5)."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time

import pytest

from matterstack import initialize_run, step_run
from tests.conftest import MATTERSTACK

CAPPED = """operators: {board: {kind: human, max_active: 1}}
tasks:
  ask: {operator: board, matrix: {i: [1, 2, 3]}, instructions: "Go on?"}
  go: {command: "true"}
"""


def test_people_beyond_max_active_do_not_keep_a_run_going(bench):
    done = bench.cli("run", bench.write(CAPPED), "--root", "runs/t")
    assert done.returncode == 4
    assert "  2 ready tasks of theirs will be asked as `max_active` allows\n" in done.stdout
    for task in (1, 2):
        assert bench.cli("respond", "runs/t", f"ask/{task}", "--approve").returncode == 0
        assert bench.cli("run", "-q", "runs/t").returncode == 4
    bench.cli("respond", "runs/t", "ask/3", "--approve")
    assert bench.cli("run", "-q", "runs/t").returncode == 0


def test_local_work_beside_them_goes_on(bench):
    bench.start(
        CAPPED.replace('"true"', '"sleep 0.5; echo 1 > o"').replace(
            "go:", "next: {needs: [go], command: 'true'}\n  go:"
        )
    )
    assert bench.cli("run", "-q", bench.root).returncode == 4
    assert bench.states()["next"] == "COMPLETED"


def test_wait_waits_for_people_as_well(bench):
    bench.start(CAPPED)
    process = bench.popen("run", "-q", "--wait", bench.root)
    for task in (1, 2, 3):
        bench.wait_for(bench.attempt(f"ask/{task}") / "instructions.md", 30)
        assert process.poll() is None
        assert bench.cli("respond", bench.root, f"ask/{task}", "--approve").returncode == 0
    assert process.wait(60) == 0


SOFT = """tasks:
  p: {{matrix: {{n: [1, 2, 3]}}, command: "test ${{{{ matrix.n }}}} = 1 && echo 1 > o", outputs: {{o: {{file: o, path: "p/${{{{ matrix.n }}}}"}}}}, allow_failure: true}}
  fit: {{inputs: {{p: "p/*"}}, allow_dependency_failure: {{min: 2}}, command: "true", allow_failure: {soft}}}
  report: {{needs: [fit], command: "true"}}
"""


def test_a_soft_task_that_cannot_reach_its_min_is_skipped_with_what_is_below_it(bench):
    done = bench.cli("run", bench.write(SOFT.format(soft="true")), "--root", "runs/t")
    assert done.returncode == 0
    assert {task: state for task, state in bench.states().items() if "/" not in task} == {
        "fit": "SKIPPED",
        "report": "SKIPPED",
    }
    assert bench.reasons()["fit"].startswith("1 of 3 completed upstream, at least 2 needed; ")
    assert json.loads(bench.cli("status", "runs/t", "--json").stdout)["run"]["state"] == "COMPLETED"


def test_a_task_that_must_not_fail_is_blocked_by_its_min(bench):
    assert bench.cli("run", "-q", bench.write(SOFT.format(soft="false")), "--root", "runs/t").returncode == 3
    assert bench.states()["fit"] == "BLOCKED"


# --- quiet -----------------------------------------------------------------------------------------------------------


def cron(bench, line):
    """Run a line as cron does: by /bin/sh, with hardly any environment; what it prints is a mail."""
    programs = bench.folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "matterstack").write_text(f'#!/bin/sh\nexec {" ".join(MATTERSTACK)} "$@"\n')
    (programs / "matterstack").chmod(0o755)
    env = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(bench.folder), "SHELL": "/bin/sh"}
    env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=bench.folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


LINE = "matterstack step -q runs/t"


def test_cron_mails_failures_and_is_silent_about_what_goes_well(bench):
    bench.start("tasks: {a: {command: 'sleep 0.2'}, b: {needs: [a], command: 'echo no potential >&2; exit 1'}}\n")
    assert cron(bench, LINE) == (0, "")
    time.sleep(0.5)
    assert cron(bench, LINE) == (0, "")
    bench.exit_of("b")

    code, mail = cron(bench, LINE)

    assert code == 3
    assert mail.splitlines() == [
        "runs/t is FAILED", "b: exit code 1: no potential", "    runs/t/tasks/b/attempt-1/stderr.log", "matterstack explain runs/t",
    ]  # fmt: skip
    assert cron(bench, LINE)[1] == mail  # until somebody does something about it


def test_cron_is_silent_while_another_step_runs(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    holder = subprocess.Popen(
        ["flock", bench.root / "run.lock", "sh", "-c", "echo held; sleep 20"], stdout=subprocess.PIPE, text=True
    )
    holder.stdout.readline()
    try:
        assert cron(bench, LINE) == (75, "")
        assert "another process is running" in bench.cli("step", bench.root).stderr
    finally:
        holder.kill()
        holder.wait()


def test_cron_mails_a_question_once(bench):
    bench.start(CAPPED)
    assert cron(bench, LINE) == (0, "ask/1 waits for a person or a lab\nmatterstack inbox runs/t\n")
    bench.exit_of("go")
    assert cron(bench, LINE) == (0, "")


def test_cron_mails_a_result_that_is_stale(bench):
    bench.start(
        "tasks: {a: {command: 'date +%N > a', outputs: {a: a}}, b: {inputs: {a: a}, command: 'cat ${{ inputs.a }}'}}\n"
    )
    bench.step_until_over()
    bench.cli("rerun", bench.root, "a")
    assert cron(bench, LINE) == (0, "")
    bench.exit_of("a", 2)
    assert cron(bench, LINE) == (0, "1 result is stale; nothing is rerun automatically\nmatterstack status runs/t\n")


def test_a_failure_that_is_allowed_or_retried_is_no_mail(bench):
    bench.start(
        "tasks: {a: {command: 'exit 1', allow_failure: true}, b: {command: 'exit 1', retries: {max: 1, delay: 1h}}}\n"
    )
    bench.cli("step", bench.root)
    for task in ("a", "b"):
        bench.exit_of(task)
    assert cron(bench, LINE) == (0, "")


# --- logging ---------------------------------------------------------------------------------------------------------


def test_a_step_of_the_python_api_logs_its_tick(bench, caplog):
    initialize_run(bench.write("tasks: {a: {command: 'true'}}\n"), bench.root)
    with caplog.at_level(logging.DEBUG, logger="matterstack"):
        step_run(bench.root)
    assert "Tick: 1 ready, 1 submitted, 0 completed, 0 failed, 1 active, 0 pending" in caplog.messages


LINES = {
    "no such run": (["step", "nowhere"], 2),
    "no such command": (["stepp"], 2),
    "no such option": (["status", "--nope"], 2),
    "a bad file": (["validate", "bad.yaml"], 2),
    "a loop": (["run", "campaign.yaml"], 3),
    "a step": (["step", "runs/t"], 3),
    "a warning": (["validate", "warned.yaml"], 0),
    "a quiet step": (["step", "-q", "runs/t"], 3),
}


def test_every_line_on_stderr_is_json_if_that_is_asked_for(bench):
    bench.write("tasks: {a: {command: 'exit 1'}, b: {needs: [a], command: 'true'}}\n")
    bench.write("tasks: {a: {command: x, needs: [zz]}, c: {command: y, needs: 3}}\n", "bad.yaml")
    bench.write("tasks: {a: {command: '#!/bin/python'}}\n", "warned.yaml")
    for name, (words, code) in LINES.items():
        done = bench.cli(*words, "--log-format", "json")
        assert done.returncode == code, name
        lines = done.stderr.splitlines()
        assert lines, name
        for line in lines:
            assert {"at", "level", "message"} <= set(json.loads(line)), name


@pytest.mark.parametrize("words", [["--log-format=json"], ["--log-format", "json"]])
def test_a_traceback_for_a_user_is_no_traceback_in_json_either(bench, words):
    done = bench.cli("explain", bench.folder, *words)
    assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["error"]


def test_waiting_for_people_ends_where_nobody_is_asked_and_nothing_can_start(bench):
    bench.start("tasks: {a: {resources: {gpus: 99}, command: 'true'}}\n")
    done = bench.cli("run", "--wait", bench.root, timeout=30)
    assert done.returncode == 4
