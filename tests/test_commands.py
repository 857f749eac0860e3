"""The commands as people and programs use them: what they print, their JSON, their exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from matterstack.orchestration.actions import cancel, rerun
from tests.conftest import is_alive

CHAIN = """
tasks:
  relax:
    matrix: {m: [Al, Cu]}
    command: "python ${{ source }}/relax.py ${{ matrix.m }} > ${{ outputs.e }}"
    outputs: {e: "e/${{ matrix.m }}"}
    retries: 1
  report: {inputs: {e: "e/*"}, command: "cat ${{ inputs.e }} > r", outputs: {r: r}}
files: [relax.py]
"""
BUG = "import sys\nif sys.argv[1] == 'Cu':\n    sys.exit('no potential for Cu')\nprint(sys.argv[1])\n"
CURE = "import json, sys\nprint(sys.argv[1])\njson.dump({'energy': 1.5, 'ok': True}, open('metrics.json', 'w'))\n"


@pytest.fixture
def failed(bench):
    """A run that failed by a bug in its script."""
    (bench.folder / "relax.py").write_text(BUG)
    bench.write(CHAIN)
    done = bench.cli("run", "campaign.yaml")
    assert done.returncode == 3
    return bench


def test_a_bug_is_explained_corrected_taken_over_and_run_again(failed):
    explained = failed.cli("explain", "runs/t").stdout.splitlines()
    assert explained == [
        "relax/Cu: FAILED: attempt 2 of 2: exit code 1",
        "    no potential for Cu",
        "    command.sh: line 3: python ../../../../versions/1/source/relax.py Cu > e/Cu: exit code 1",
        "    runs/t/tasks/relax/Cu/attempt-2/stderr.log",
        "    if campaign.yaml, or a file that it names, is wrong: correct it there, take that, and run this again:",
        "        matterstack amend runs/t",
        "        matterstack rerun runs/t relax/Cu",
        "report: BLOCKED: relax/Cu failed, attempt 2 of 2: exit code 1",
    ]
    (failed.folder / "relax.py").write_text(CURE)

    shown = failed.cli("amend", "runs/t")
    assert shown.stdout.splitlines()[:3] == [
        "relax.py: changed",
        "  relax   1 COMPLETED becomes stale (relax.py): Al; 1 FAILED becomes PENDING (relax.py): Cu",
        "  report  1 BLOCKED becomes PENDING",
    ]
    assert (failed.root / "source" / "relax.py").read_text() == BUG
    assert failed.cli("amend", "runs/t", "--yes").returncode == 0
    assert (failed.root / "source" / "relax.py").read_text() == CURE
    assert failed.states() == {"relax/Al": "COMPLETED", "relax/Cu": "PENDING", "report": "PENDING"}

    assert failed.cli("run", "runs/t").returncode == 0

    assert (failed.root / "results" / "r").read_text() == "Al\nCu\n"
    attempts = json.loads(failed.cli("attempts", "runs/t", "relax/Cu", "--json").stdout)
    assert [(item["attempt"], item["state"], item["class"]) for item in attempts] == [
        (1, "FAILED", "exit_code"), (2, "FAILED", "exit_code"), (3, "COMPLETED", None),
    ]  # fmt: skip
    assert attempts[1]["source_digest"] != attempts[2]["source_digest"]
    assert "no potential" in (failed.attempt("relax/Cu", 2) / "stderr.log").read_text()
    assert [event["kind"] for event in failed.journal()].count("amended") == 1


def test_rerun_makes_consumers_stale_and_downstream_runs_them_too(failed):
    (failed.folder / "relax.py").write_text(CURE + "print(open('/proc/sys/kernel/random/uuid').read())\n")
    failed.cli("amend", "runs/t", "--yes")
    failed.cli("rerun", "runs/t", "relax/Al")
    failed.cli("run", "runs/t")
    failed.cli("rerun", "runs/t", "relax/Al")
    assert (failed.root / "results" / "e" / "Al").resolve().parent.parent.name == "attempt-2"
    failed.cli("run", "runs/t")

    assert (failed.root / "results" / "e" / "Al").resolve().parent.parent.name == "attempt-3"
    assert failed.states()["report"] == "COMPLETED"
    assert (
        "stale  report: made from attempt 2 of relax/Al, which has a newer one (3)"
        in failed.cli("status", "runs/t").stdout
    )

    failed.cli("rerun", "runs/t", "relax/Al", "--downstream")
    assert failed.states() == {"relax/Al": "PENDING", "relax/Cu": "COMPLETED", "report": "PENDING"}
    assert failed.cli("run", "runs/t").returncode == 0
    assert "stale" not in failed.cli("status", "runs/t").stdout
    used = json.loads((failed.attempt("report", 2) / "task.json").read_text())["inputs"]["e"]["files"]
    assert [(file["task"], file["attempt"]) for file in used] == [("relax/Al", 4), ("relax/Cu", 3)]


def test_status_as_json_has_its_documented_form(failed):
    data = json.loads(failed.cli("status", "runs/t", "--json").stdout)

    assert data["run"] == {"id": data["run"]["id"], "name": "t", "state": "FAILED", "root": "runs/t"}
    assert data["run"]["id"].startswith("t-") and len(data["run"]["id"]) == 10
    assert data["counts"] == {"COMPLETED": 1, "FAILED": 1, "BLOCKED": 1}
    assert data["tasks"][1] == {
        "id": "relax/Cu", "state": "FAILED", "operator": "local", "attempts": 2, "reason": "attempt 2 of 2: exit code 1",
    }  # fmt: skip
    assert isinstance(json.loads(failed.cli("status", "runs/t", "runs/t", "--json").stdout), list)


def test_explain_as_json_has_its_documented_form(failed):
    data = json.loads(failed.cli("explain", ".", "--json", cwd=failed.root).stdout)
    assert data[1] == {
        "id": "report", "state": "BLOCKED", "reason": "relax/Cu failed, attempt 2 of 2: exit code 1",
        "path": "tasks/relax/Cu/attempt-2/stderr.log", "command": "matterstack rerun . relax/Cu",
        "cause": {
            "where": "command.sh: line 3: python ../../../../versions/1/source/relax.py Cu > e/Cu: exit code 1",
            "lines": ["no potential for Cu"], "remarks": [],
        },
        "advice": [
            {"text": "if ../../campaign.yaml, or a file that it names, is wrong: correct it there, take that, and run this again",
             "commands": ["matterstack amend .", "matterstack rerun . relax/Cu"]},
        ],
    }  # fmt: skip


def test_results_as_table_json_and_csv(failed):
    (failed.folder / "relax.py").write_text(CURE)
    failed.cli("amend", "runs/t", "--yes")
    failed.cli("rerun", "runs/t", "relax/Al", "--downstream")
    failed.cli("run", "runs/t")

    table = failed.cli("results", "runs/t").stdout.splitlines()
    assert table[0].split() == ["task", "state", "attempt", "m", "energy", "ok"]
    assert table[1].split() == ["relax/Al", "COMPLETED", "2", "Al", "1.5", "true"]
    data = json.loads(failed.cli("results", "runs/t", "--json", "--task", "relax/*").stdout)
    assert data[0] == {
        "task": "relax/Al", "matrix": {"m": "Al"}, "state": "COMPLETED", "attempt": 2,
        "metrics": {"energy": 1.5, "ok": True}, "response": {},
    }  # fmt: skip
    rows = list(csv.reader(io.StringIO(failed.cli("results", "runs/t", "--csv").stdout)))
    assert rows[0] == ["task", "state", "attempt", "matrix.m", "metrics.energy", "metrics.ok"]
    assert rows[1] == ["relax/Al", "COMPLETED", "2", "Al", "1.5", "true"]


def test_task_json_says_what_was_asked_with_digests_and_origins(failed):
    task = json.loads((failed.attempt("relax/Al") / "task.json").read_text())
    assert task["command"] == "python ../../../../versions/1/source/relax.py Al > e/Al"
    assert (task["task"], task["attempt"], task["matrix"]) == ("relax/Al", 1, {"m": "Al"})
    assert {"MATTERSTACK_RUN", "MATTERSTACK_SOURCE", "MATTERSTACK_TASK", "MATTERSTACK_ATTEMPT"} <= set(task["env"])


def test_results_are_relative_links_so_a_moved_run_root_works(failed, tmp_path):
    new = tmp_path / "a b" / "Läufe's"
    new.parent.mkdir()
    failed.root.rename(new)
    assert os.readlink(new / "results" / "e" / "Al") == "../../tasks/relax/Al/attempt-1/e/Al"
    assert (new / "results" / "e" / "Al").read_text() == "Al\n"
    (failed.folder / "relax.py").write_text(CURE)

    assert failed.cli("amend", new, failed.folder / "campaign.yaml", "--yes").returncode == 0
    assert failed.cli("rerun", new, "relax/Cu").returncode == 0
    assert failed.cli("run", new).returncode == 0


def test_run_of_the_same_file_continues_and_of_another_says_what_differs(failed):
    again = failed.cli("run", "campaign.yaml")
    assert again.returncode == 3

    failed.write(CHAIN + "params: {x: 1}\n")
    other = failed.cli("run", "campaign.yaml")
    assert other.returncode == 2
    assert (
        "error: runs/t is a run of another version: campaign.yaml differs from runs/t/campaign.yaml; " in other.stderr
    )


def test_set_is_part_of_what_a_run_is(bench):
    bench.write('params: {x: 1}\ntasks: {a: {command: "echo ${{ params.x }} > o", outputs: {o: o}}}\n')
    assert bench.cli("run", "campaign.yaml", "--set", "y=1").returncode == 2
    assert bench.cli("run", "campaign.yaml", "--set", "x=1.50").returncode == 0
    assert (bench.root / "results" / "o").read_text() == "1.50\n"
    assert json.loads((bench.root / "run.json").read_text())["set"] == {"x": 1.5}
    assert '--set was {"x": 1.50} and is {}' in bench.cli("run", "campaign.yaml").stderr
    assert bench.cli("run", "campaign.yaml", "--set", "x=1.50").returncode == 0


def test_dry_run_says_what_a_step_would_do_and_writes_nothing(bench):
    bench.start("tasks: {a: {command: 'exit 1', retries: 1}, b: {command: 'sleep 60'}, c: {needs: [a], command: x}}\n")
    before = bench.digest()
    assert (
        bench.cli("step", "--dry-run", bench.root).stdout == "would submit  a, attempt 1\nwould submit  b, attempt 1\n"
    )
    assert bench.digest() == before
    bench.step()
    bench.exit_of("a")
    before = bench.settled_digest()  # the wrapper of b may still be writing

    done = bench.cli("step", "--dry-run", bench.root)

    assert done.stdout == "would record  a, attempt 1: FAILED (exit code 1)\nwould submit  a, attempt 2\n"
    assert bench.digest() == before


def test_pause_starts_nothing_more_and_shows_as_pending(bench):
    bench.start("tasks: {a: {command: 'true'}, b: {command: 'true'}}\n")
    assert bench.cli("pause", bench.root, "a").returncode == 0
    bench.step_until(lambda: bench.states() == {"a": "PENDING", "b": "COMPLETED"})
    done = bench.cli("run", bench.root)
    assert done.returncode == 4
    assert done.stdout.startswith("PAUSED: ")
    assert bench.reasons() == {"a": "the task is paused"}

    assert bench.cli("resume", bench.root, "a").returncode == 0
    assert bench.cli("pause", bench.root).returncode == 0
    assert bench.cli("run", bench.root).returncode == 4
    assert bench.cli("resume", bench.root).returncode == 0
    assert bench.cli("run", bench.root).returncode == 0


def test_cancel_really_ends_processes_and_blocks_what_is_below(bench):
    bench.start(
        "tasks: {a: {command: 'sleep 300 & echo $! > pid; wait'}, b: {needs: [a], command: x}, c: {command: 'sleep 300'}}\n"
    )
    bench.step()
    pid = int(bench.wait_for(bench.attempt("a") / "pid").read_text() or 0)
    time.sleep(0.1)

    done = bench.cli("cancel", bench.root, "a")

    assert done.stdout == "cancelled: 1 ended\n"
    assert not is_alive(pid)
    assert bench.states() == {"a": "CANCELLED", "b": "BLOCKED", "c": "RUNNING"}
    assert bench.reasons()["b"] == "a was cancelled"
    assert bench.cli("cancel", bench.root).stdout == "cancelled: 1 ended, 2 had ended before\n"
    assert bench.cli("step", bench.root).returncode == 3
    assert bench.cli("status", bench.root).stdout.split()[1] == "CANCELLED"


def test_cancel_is_quick_even_right_after_the_start(bench):
    bench.start("tasks: {a: {matrix: {i: [1, 2]}, command: 'sleep 300'}}\n")
    for number in range(1, 6):
        bench.step()
        began = time.monotonic()
        assert cancel(bench.root, []).still_alive == []
        assert time.monotonic() - began < 5
        rerun(bench.root, ["a"])
        assert len(list((bench.root / "tasks" / "a" / "1").iterdir())) == number


def test_rerun_of_a_running_task_ends_it_first(bench):
    bench.start("tasks: {a: {command: 'echo x >> WITNESS; [ $MATTERSTACK_ATTEMPT = 2 ] || sleep 300'}}\n")
    bench.step()
    bench.wait_for(bench.witness)

    assert bench.cli("rerun", bench.root, "a").returncode == 0

    assert bench.states() == {"a": "PENDING"}
    assert bench.cli("run", bench.root).returncode == 0
    assert bench.witnessed() == ["x", "x"]


def test_logs_tail_and_follow(bench):
    bench.start("tasks: {a: {command: 'echo one; echo two; sleep 1; echo three; echo bad >&2'}}\n")
    bench.step()
    following = bench.popen("logs", bench.root, "a", "--follow")
    shown = following.communicate(timeout=20)[0].split()
    assert [line for line in shown if line != "bad"] == ["one", "two", "three"]  # of two files there is no one order
    assert "bad" in shown
    assert bench.cli("logs", bench.root, "a", "--tail", 1).stdout == "three\nbad\n"
    assert bench.cli("logs", bench.root, "a", "--stream", "stderr").stdout == "bad\n"


def test_priorities_and_caps_cut_the_frontier(bench):
    bench.start(
        "operators: {local: {kind: local, max_active: 1}}\n"
        "tasks: {a: {command: 'echo a >> WITNESS'}, b: {command: 'echo b >> WITNESS', priority: 5}, "
        "c: {matrix: {p: [1, 9]}, priority: '${{ matrix.p }}', command: 'echo c${{ matrix.p }} >> WITNESS'}}\n"
    )
    assert bench.step().line() == "Tick: 4 ready, 1 submitted, 0 completed, 0 failed, 1 active, 0 pending"
    bench.step_until_over()
    assert bench.witnessed() == ["c9", "b", "c1", "a"]


def test_sums_of_cpus_and_memory_stay_within_the_slots(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 4, memory: 3G}}}\n"
        "tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'sleep 60', resources: {cpus: 2}}, "
        "b: {matrix: {i: [1, 2]}, command: 'sleep 60', resources: {memory: 2G}}}\n"
    )
    assert bench.step().submitted == [("a/1", 1), ("a/2", 1)]
    bench.cli("cancel", bench.root, "a")
    assert bench.step().submitted == [("b/1", 1)]


def test_a_retry_waits_for_its_delay(bench):
    bench.start("tasks: {a: {command: 'exit 1', retries: {max: 1, delay: 1s}}}\n")
    bench.step()
    bench.exit_of("a")
    bench.step()

    assert bench.states() == {"a": "PENDING"}
    assert bench.reasons()["a"].startswith("retry 1 of 1 after exit code 1; due in ")
    began = time.monotonic()
    assert bench.cli("run", bench.root).returncode == 3
    assert time.monotonic() - began < 4
    assert bench.exit_of("a", 2)["exit_code"] == 1


def test_soft_failures_skip_what_is_below_and_the_run_is_completed(bench):
    bench.start(
        "tasks: {a: {matrix: {i: [1, 2, 3]}, command: '[ ${{ matrix.i }} != 2 ] && echo ${{ matrix.i }} > o', "
        "outputs: {o: {path: 'o/${{ matrix.i }}', file: o}}, allow_failure: true}, "
        "b: {inputs: {x: 'o/*'}, command: 'cat ${{ inputs.x }}', allow_dependency_failure: {min: 2}}, "
        "c: {inputs: {x: 'o/*'}, command: x}, d: {needs: [c], command: x}, "
        "e: {inputs: {x: o/2}, command: '[ -z ${{ task.attempt }} ]', allow_dependency_failure: {min: 1}}}\n"
    )
    report = bench.step_until_over()

    states = bench.states()
    assert [states[name] for name in ("a/1", "a/2", "a/3", "b", "c", "d", "e")] == [
        "COMPLETED", "FAILED", "COMPLETED", "COMPLETED", "SKIPPED", "SKIPPED", "BLOCKED",
    ]  # fmt: skip
    assert (bench.attempt("b") / "stdout.log").read_text() == "1\n3\n"
    assert report.state == "FAILED"  # by e alone
    assert (
        bench.reasons()["d"]
        == "every task of needs[0] was skipped (c); a/2 failed (allowed), attempt 1 of 1: exit code 1"
    )


def test_what_a_command_finds_in_its_environment(bench, monkeypatch):
    monkeypatch.setenv("TOKEN_HERE", "secret-word")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    bench.start(
        "tasks: {a: {resources: {cpus: 2}, env: {X: 'v ${{ task.id }}', T: {from_env: TOKEN_HERE}}, setup: ['export Y=set'], "
        'command: \'printf "%s\\n" "$X" "$Y" "$OMP_NUM_THREADS" "$T" "$MATTERSTACK_TASK" "$MATTERSTACK_ATTEMPT" '
        '"$MATTERSTACK_RUN" "$MATTERSTACK_SOURCE" "$(command -v python)"\'}}\n'
    )
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    bench.step_until_over()

    out = (bench.attempt("a") / "stdout.log").read_text().splitlines()
    assert out[:6] == ["v a", "set", "2", "secret-word", "a", "1"]
    assert out[6:8] == [str(bench.root.resolve()), str(bench.root.resolve() / "versions/1/source")]
    assert Path(out[8]).parent == Path(sys.executable).parent
    for path in bench.root.rglob("*"):
        if path.is_file() and path.name != "stdout.log":
            assert b"secret-word" not in path.read_bytes()


def test_an_input_as_is_a_copy_that_may_be_changed(bench):
    (bench.folder / "cell.cif").write_text("cell")
    bench.start(
        "tasks: {a: {inputs: {c: {path: cell.cif, as: in/POSCAR}}, command: 'cat ${{ inputs.c }}; echo x >> in/POSCAR'}}\n"
    )
    bench.step_until_over()
    assert (bench.attempt("a") / "stdout.log").read_text() == "cell"
    assert (bench.root / "source" / "cell.cif").read_text() == "cell"


USAGE = {  # words -> (exit code, beginning of the message)
    ("status", "nowhere"): (2, "error: nowhere: no such run root; `matterstack init FILE` makes one"),
    ("step",): (2, "error: name a run root (RUN), or go into one"),
    ("step", "campaign.yaml"): (2, "error: campaign.yaml is a file, not a run root; "),
    ("init", "missing.yaml"): (2, "missing.yaml: no such file"),
    ("init", "."): (2, ".: is a folder; give the file in it"),
    ("init", "campaign.yaml"): (2, "error: runs/t already is a run; "),
    ("init", "campaign.yaml", "--root", "."): (2, "error: . exists and is not empty; "),
    ("explain", "runs/t", "nope"): (2, "error: no task is named 'nope'; "),
    ("explain", "runs/t", "relaxx/Cu"): (2, "error: no task is named 'relaxx/Cu' (did you mean 'relax/Cu'?); "),
    ("attempts", "runs/t", "relax"): (2, "error: 'relax' names 2 tasks (relax/Al, relax/Cu); name one"),
    ("logs", "runs/t", "report"): (2, "error: report has no attempt yet; "),
    ("logs", "runs/t", "relax/Al", "--attempt", "9"): (2, "error: relax/Al has no attempt 9; it has 1 to 1"),
    ("rerun", "runs/t"): (2, "error: rerun: name the tasks to run again (an id or a glob)"),
    ("logs", "runs/t"): (2, "error: name a task (TASK) after RUN; "),
    ("schema", "nope"): (2, "error: there is no schema 'nope'; there are campaign, experiment-request, "),
    ("run", "campaign.yaml", "--set", "x"): (2, "error: --set x: expected NAME=VALUE"),
    ("run", "runs/t", "--set", "x=1"): (2, "error: runs/t is a run root: "),
    ("run", "campaign.yaml", "--operators", "no.yaml"): (2, "no.yaml: no such file"),
    ("amend", "runs/t", "nowhere.yaml"): (2, "nowhere.yaml: no such file"),
    ("amend", "runs/t", "--to", "9"): (2, "error: --to 9: runs/t has the versions 1 to 1"),
    ("amend", "runs/t", "--unset", "x"): (2, "error: --unset x: --set gave nothing"),
    ("statsu", "runs/t"): (2, "Usage: "),
    ("step", "--nope"): (2, "Usage: "),
}  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), USAGE.items(), ids=[" ".join(words) for words in USAGE])
def test_a_mistake_in_usage_is_a_sentence_and_exit_code_2(failed, words, expected):
    done = failed.cli(*words)

    assert (done.returncode, done.stderr[: len(expected[1])]) == expected
    assert "Traceback" not in done.stderr


def test_run_may_be_left_out_inside_a_run_root(failed):
    assert failed.cli("status", cwd=failed.root).stdout.startswith("t-")
    assert failed.cli("step", cwd=failed.root).returncode == 3
    wrong = failed.cli("explain", "relax/Cu", cwd=failed.root)
    assert wrong.stderr == "error: RUN comes first: inside a run root write `. relax/Cu`\n"
    assert failed.cli("logs", "relax/Cu", cwd=failed.root).stderr == wrong.stderr


def test_schema_version_help_and_completion(bench):
    assert json.loads(bench.cli("schema").stdout)["title"] == "MatterStack campaign"
    assert bench.cli("--version").stdout == "matterstack 0.1.0\n"
    assert "_MATTERSTACK_COMPLETE" in bench.cli("completion", "bash").stdout
    assert "Exit codes: 0 fine" in " ".join(bench.cli("--help").stdout.split())


def test_validate_prints_all_problems_or_a_summary_also_as_json(bench):
    bench.write("tasks: {a: {command: x, needs: [b]}}\n", "bad.yaml")
    bad = bench.cli("validate", "bad.yaml")
    assert (bad.returncode, bad.stderr) == (2, "bad.yaml:3:33: tasks.a.needs[0]: 'b' is not defined\n")
    data = json.loads(bench.cli("validate", "bad.yaml", "--json").stdout)
    assert data == {
        "problems": [{"file": "bad.yaml", "line": 3, "column": 33, "where": "tasks.a.needs[0]",
                      "message": "'b' is not defined", "severity": "error"}],
        "summary": {},
    }  # fmt: skip
    bench.write("tasks: {a: {command: x}}\n")
    good = bench.cli("validate", "campaign.yaml")
    assert good.stdout.startswith("campaign.yaml: fine. 1 task with 1 instance in 1 level")
    assert json.loads(bench.cli("validate", "campaign.yaml", "--json").stdout)["summary"]["instances"] == 1


def test_nothing_is_made_when_the_file_has_problems(bench):
    bench.write("tasks: {a: {comand: x}}\n")
    assert bench.cli("run", "campaign.yaml").returncode == 2
    assert [path.name for path in bench.folder.iterdir()] == ["campaign.yaml"]


def test_every_reading_command_has_json(failed):
    for words in (
        ("status",),
        ("explain",),
        ("results",),
        ("attempts", "relax/Cu"),
        ("logs", "relax/Cu"),
        ("amend",),
        ("step", "--dry-run"),
    ):
        json.loads(failed.cli(words[0], "runs/t", *words[1:], "--json").stdout)
    log = json.loads(failed.cli("logs", "runs/t", "relax/Cu", "--json", "--attempt", 1).stdout)
    where = "matterstack: command.sh: line 3: python ../../../../versions/1/source/relax.py Cu > e/Cu: exit code 1"
    assert log == {
        "task": "relax/Cu", "attempt": 1, "version": 1, "live": False, "stdout": "", "stderr": f"no potential for Cu\n{where}\n",
    }  # fmt: skip


def test_a_reader_that_has_enough_is_no_failure(bench):
    import sys

    bench.start(f"tasks: {{a: {{matrix: {{i: {list(range(3000))}}}, command: 'true'}}}}\n")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m matterstack results {bench.root} | head -1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shell_is_told_what_a_command_takes(bench):
    env = {**os.environ, "_MATTERSTACK_COMPLETE": "bash_complete", "COMP_WORDS": "matterstack re", "COMP_CWORD": "1"}
    assert bench.cli(env=env).stdout.split() == [
        "plain,rehearse",
        "plain,results",
        "plain,respond",
        "plain,resume",
        "plain,rerun",
    ]


def test_logs_as_json_lines(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    lines = bench.cli("step", "-v", "--log-format", "json", bench.root).stderr.splitlines()
    assert all({"at", "level", "message"} <= set(json.loads(line)) for line in lines)
    assert bench.cli("step", "-q", bench.root).stderr == ""


def test_rerun_downstream_leaves_what_runs_alone(bench):
    bench.start(
        "tasks: {a: {command: 'true'}, b: {needs: [a], command: 'sleep 60'}, c: {needs: [a], command: 'true'}}\n"
    )
    bench.step_until(lambda: bench.states() == {"a": "COMPLETED", "b": "RUNNING", "c": "COMPLETED"})
    bench.cli("rerun", bench.root, "a", "--downstream")
    assert bench.states() == {"a": "PENDING", "b": "RUNNING", "c": "PENDING"}


def test_what_a_rerun_unsettles_is_an_event(bench):
    bench.start("operators: {local: {kind: local, max_active: 1}}\n"
                "tasks: {a: {command: 'true'}, x: {command: 'sleep 60', needs: [a], priority: 9}, b: {needs: [a], command: 'true'}}\n")  # fmt: skip
    bench.step_until(lambda: bench.states() == {"a": "COMPLETED", "x": "RUNNING", "b": "READY"})
    bench.cli("rerun", bench.root, "a")
    assert bench.states()["b"] == "PENDING"
    assert [event["state"] for event in bench.journal() if "b" in event.get("tasks", ())][-1] == "PENDING"


def test_a_templated_operator_that_cannot_run_is_refused_by_init(bench):
    file = bench.write(
        "operators: {c: {kind: slurm}}\ntasks: {a: {matrix: {op: [local, c]}, operator: '${{ matrix.op }}', command: 'true'}}\n"
    )
    assert bench.cli("init", file).returncode == 2


def test_a_rerun_below_a_group_that_is_waited_for_as_a_whole_is_no_product(bench):
    bench.start(
        f"params: {{n: {list(range(400))}}}\n"
        "tasks: {a: {matrix: {i: '${{ params.n }}'}, command: 'true'}, "
        "b: {matrix: {i: '${{ params.n }}'}, needs: [a], command: 'true'}, c: {needs: [b], command: 'true'}}\n"
    )
    from matterstack.core.below import below
    from matterstack.orchestration.session import open_ledger

    with open_ledger(bench.root, read_only=True) as store:
        edges = store.all_edges()
    assert len(edges) == 400 + 400 + 400 + 1
    assert len(below(edges, ["a/1"])) == 400 + 1 + 2  # with the nodes of both groups


def test_a_paused_task_is_pending_wherever_it_is_shown(bench):
    bench.start("tasks: {a: {command: 'true'}, b: {command: 'true'}}\n")
    bench.cli("pause", bench.root)
    report = bench.step()
    assert report.line() == "Tick: 0 ready, 0 submitted, 0 completed, 0 failed, 0 active, 2 pending"
    rows = json.loads(bench.cli("results", bench.root, "--json").stdout)
    assert {row["state"] for row in rows} == set(bench.states().values()) == {"PENDING"}


def test_a_dry_run_tells_of_wishes_and_of_what_will_be_rejected(bench):
    from matterstack.core.events import Wished
    from matterstack.orchestration.session import open_ledger

    bench.start(
        "tasks: {a: {command: 'sleep 60'}, f: {command: 'false', outputs: {o: o}}, "
        "r: {inputs: {i: o}, command: 'echo ${{ inputs.i }}', allow_dependency_failure: true}}\n"
    )
    bench.step()
    bench.exit_of("f")
    with open_ledger(bench.root) as store:
        store.append([Wished((("a", 1),), "cancel")], 0.0)
    lines = bench.cli("step", "--dry-run", bench.root).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "would record  f, attempt 1", "would record  r, attempt 1", "would end     a, attempt 1 (cancel requested)",
    ]  # fmt: skip


def test_what_is_over_stays_over_when_it_is_cancelled_or_paused(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    bench.step_until_over()
    assert bench.cli("cancel", bench.root).stdout == "cancelled: 1 had ended before\n"
    assert bench.cli("pause", bench.root).returncode == 2
    assert bench.cli("run", bench.root).returncode == 0


def test_amend_of_a_moved_run_root_never_takes_another_campaigns_files(bench, tmp_path):
    (bench.folder / "s.sh").write_text("echo right\n")
    bench.start('files: ["*.sh"]\ntasks: {a: {command: "sh ${{ source }}/s.sh"}}\n')
    deep = tmp_path / "x" / "y" / "z"
    deep.mkdir(parents=True)
    (tmp_path / "x" / "s.sh").write_text("echo wrong\n")
    bench.root.rename(deep / "t")
    (bench.folder / "s.sh").write_text("echo better\n")

    assert bench.cli("amend", deep / "t", "--yes").returncode == 0

    assert (deep / "t" / "source" / "s.sh").read_text() == "echo better\n"
    (bench.folder / "campaign.yaml").rename(bench.folder / "elsewhere.yaml")
    lost = bench.cli("amend", deep / "t")
    assert lost.returncode == 2
    assert "is not there; name it" in lost.stderr


def test_init_into_an_empty_folder_that_exists_also_the_current_one(bench):
    file = bench.write("tasks: {a: {command: 'true'}}\n")
    empty = bench.folder / "empty"
    empty.mkdir()
    (bench.folder / "link").symlink_to(empty)

    assert bench.cli("init", file, "--root", ".", cwd=empty).returncode == 0
    assert bench.cli("run", ".", cwd=empty).returncode == 0
    assert bench.cli("init", file, "--root", bench.folder / "link").returncode == 2
    assert sorted(path.name for path in empty.iterdir()) == sorted(
        ["campaign.yaml", "operators.yaml", "run.json", "run.lock", "state.sqlite", "journal.jsonl", "expanded", "environments", "source", "versions",
         "tasks", "results", ".gitignore", ".gitattributes"]
    )  # fmt: skip


def test_a_hint_to_type_is_quoted(bench):
    file = bench.write("tasks: {a: {command: 'true'}}\n")
    done = bench.cli("init", file, "--root", "a b$(touch pwned)'ü")
    assert """`matterstack run 'a b$(touch pwned)'"'"'ü'`""" in done.stdout


def test_closed_output_is_no_reason_to_fail(bench):
    import sys

    bench.start("tasks: {a: {command: 'true'}}\n")
    for words in ("status", "step", "results"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m matterstack {words} {bench.root} >&- 2>&-"], cwd=bench.folder
        )
        assert done.returncode == 0


def test_names_that_are_not_utf8_are_refused_or_shown_but_never_a_traceback(bench):
    odd = os.fsdecode(b"r\xff")
    file = bench.write("tasks: {a: {command: 'true'}}\n")
    assert bench.cli("run", file, "--root", odd).returncode == 0
    assert bench.cli("run", file, "--set", os.fsdecode(b"x=\xff")).returncode == 2
    (bench.folder / "d").mkdir()
    (bench.folder / "d" / odd).write_text("")
    file = bench.write("files: [d/**]\ntasks: {a: {command: 'true'}}\n")
    done = bench.cli("validate", file)
    assert done.returncode == 2
    assert "is not UTF-8; rename the file" in done.stderr


def test_columns_stay_aligned_behind_characters_of_double_width(bench):
    bench.start("tasks: {a: {matrix: {m: ['鉄鉄鉄', 'Fe']}, command: 'true'}}\n")

    lines = [line for line in bench.cli("results", bench.root).stdout.splitlines() if "READY" in line]

    assert len({cell_len(line.partition("READY")[0]) for line in lines}) == 1 and len(lines) == 2
