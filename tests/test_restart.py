"""Going on from the files of the attempt before."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from matterstack.errors import CampaignError
from matterstack.spec.load import load_campaign

COUNTS = (  # counts to 3 over as many attempts
    "tasks: {a: {command: 'n=$(cat a.chk 2> /dev/null || echo 0); echo $((n + 1)) > a.chk; echo ${MATTERSTACK_RESTART-no} ${{ task.restarted }} >> WITNESS; "
    "[ $n -ge 2 ] || exit 85', restart: {files: ['*.chk'], after: [exit_code_85]MORE}}}\n"
)


def attempts(bench, task="a"):
    return json.loads(bench.cli("attempts", bench.root, task, "--json").stdout)


def test_a_program_that_made_progress_goes_on_until_it_is_done(bench):
    bench.start(COUNTS.replace("MORE", ""))
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.attempt("a", 3) / "a.chk").read_text() == "3\n"
    assert bench.witness.read_text() == "no false\n1 true\n1 true\n"
    assert [item["reason"] for item in attempts(bench)][:1] == ["exit code 85"]
    task = json.loads((bench.attempt("a", 2) / "task.json").read_text())
    assert task["restart"] == {"from": 1, "files": ["a.chk"]}


def test_restarts_count_by_themselves(bench):
    bench.start(COUNTS.replace("MORE", ", max: 1"))
    bench.step_until_over()
    assert bench.states() == {"a": "FAILED"}
    assert bench.reasons()["a"] == "attempt 2: exit code 85, after 1 restart"


def test_two_ends_in_a_row_without_progress_fail(bench):
    bench.start("tasks: {a: {command: 'exit 85', restart: {files: [x.chk], after: [exit_code_85]}}}\n")
    bench.step_until_over()
    assert len(attempts(bench)) == 2
    assert "no progress: exit code 85, twice in a row" in bench.reasons()["a"]


def test_files_that_are_written_again_as_they_were_are_no_progress(bench):
    bench.start("tasks: {a: {command: 'echo 1 > x.chk; exit 85', restart: {files: [x.chk], after: [exit_code_85]}}}\n")
    bench.step_until_over()
    assert len(attempts(bench)) == 3  # written, the same, the same
    assert "no progress: exit code 85, twice in a row" in bench.reasons()["a"]


def test_progress_in_between_counts(bench):
    bench.start(
        "tasks: {a: {command: 'n=$(wc -l < WITNESS || echo 0); echo x >> WITNESS; case $n in 0|2) echo $n > x.chk;; esac; [ $n -ge 5 ] || exit 85', "
        "restart: {files: [x.chk], after: [exit_code_85]}}}\n"
    )
    bench.witness.write_text("")
    bench.step_until_over()
    assert len(attempts(bench)) == 5  # written, not, written, not, not
    assert bench.states() == {"a": "FAILED"}


def test_a_time_limit_is_gone_on_from_and_the_program_is_warned(bench):
    (bench.folder / "md.py").write_text(
        "import os, signal, sys, time\n"
        "n = int(open('md.chk').read()) if os.path.exists('md.chk') else 0\n"
        "def save(*_):\n    open('md.chk', 'w').write(str(n))\n    sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "while n < 20:\n    time.sleep(0.1)\n    n += 1\n"
    )
    bench.start(
        "files: [md.py]\ntasks: {a: {command: 'python ${{ source }}/md.py; echo done > o', outputs: {o: o}, resources: {time: 2s}, restart: {files: [md.chk], warn: 1s}}}\n"
    )
    assert bench.step_until_over(60).state == "COMPLETED"
    found = attempts(bench)
    assert len(found) > 1
    assert (found[0]["class"], found[0]["exit_code"]) == ("timeout", 3)
    assert "ended with exit code 3 when it was warned of its time limit of 2.0 s" in found[0]["reason"]


def test_an_attempt_that_was_ended_from_outside_goes_on(bench):
    bench.start(
        "tasks: {a: {command: 'if [ -e a.chk ]; then exit 0; fi; echo 1 > a.chk; sleep 60', restart: {files: [a.chk]}}}\n"
    )
    bench.step()
    bench.wait_for(bench.attempt("a") / "a.chk")
    pid = json.loads((bench.attempt("a") / "claim").read_text())["pid"]
    subprocess.run(["kill", f"-{int(signal.SIGTERM)}", str(pid)], check=True)
    assert bench.step_until_over().state == "COMPLETED"
    assert attempts(bench)[0]["class"] == "interrupted"


FAILS = "tasks: {a: {command: 'cat a.chk 2> /dev/null || echo fresh; echo CODE > a.chk; exit 85', restart: {files: [a.chk], after: [exit_code_85], max: 1}}}\n"


def test_a_rerun_begins_anew_unless_it_is_to_continue(bench):
    bench.start(FAILS)
    bench.step_until_over()
    assert len(attempts(bench)) == 2
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    assert (bench.attempt("a", 3) / "stdout.log").read_text() == "fresh\n"
    bench.cli("rerun", bench.root, "a", "--continue")
    bench.step_until_over()
    assert (bench.attempt("a", 5) / "stdout.log").read_text() == "CODE\n"


def test_other_handling_goes_on_and_other_work_begins_anew(bench):
    bench.start(FAILS)
    bench.step_until_over()
    bench.write(FAILS.replace("max: 1", "max: 3").replace("command", "retries: 9, command"))
    told = bench.cli("amend", bench.root, "--yes").stdout
    assert "1 FAILED becomes PENDING" in told
    bench.step_until_over()
    assert (bench.attempt("a", 3) / "stdout.log").read_text() == "CODE\n"
    bench.write(FAILS.replace("CODE", "OTHER"))
    bench.cli("amend", bench.root, "--yes")
    count = len(attempts(bench))
    bench.step_until_over()
    assert (bench.attempt("a", count + 1) / "stdout.log").read_text() == "fresh\n"


def test_a_retry_begins_anew(bench):
    bench.start(
        "tasks: {a: {command: 'cat a.chk || echo fresh; echo 1 > a.chk; exit 1', retries: 1, restart: {files: [a.chk]}}}\n"
    )
    bench.step_until_over()
    assert (bench.attempt("a", 2) / "stdout.log").read_text() == "fresh\n"


@pytest.mark.parametrize(
    ("restart", "told"),
    [
        ("{files: [x], warn: 5m}", "its time limit is 1m, so there is no moment 5m before that"),
        ("{files: [../x]}", ".."),
        ("{files: [x], after: [never]}", "timeout, out_of_memory, node_fail"),
        ("{files: []}", "a list of names or globs"),
        ("{after: [timeout]}", "files"),
    ],
)
def test_a_restart_that_cannot_be_is_told(bench, restart, told):
    with pytest.raises(CampaignError) as caught:
        load_campaign(bench.write(f"tasks: {{a: {{command: 'true', resources: {{time: 1m}}, restart: {restart}}}}}\n"))
    assert told in str(caught.value)


def test_a_parcel_takes_the_files_along_and_brings_them_back(bench):
    """Two trips to a closed cluster: the second goes on from what the first one left."""
    bench.start(
        "operators: {far: {kind: manual}}\n"
        "tasks: {md: {operator: far, restart: {files: ['*.chk'], after: [exit_code_85]}, outputs: {o: out}, "
        "command: 'echo x >> s.chk; [ $(wc -l < s.chk) -ge 3 ] || exit 85; wc -l < s.chk > out'}}\n"
    )
    for trip in range(3):
        bench.step()
        work, back = bench.folder / f"work-{trip}.tar.gz", bench.folder / f"back-{trip}.tar"
        assert bench.cli("parcel", "export", bench.root, "-o", work).returncode == 0
        there = bench.folder / f"there-{trip}"
        there.mkdir()
        subprocess.run(["tar", "xf", work, "-C", there], check=True)
        parcel = next(there.iterdir())
        subprocess.run(["sh", "run.sh"], cwd=parcel, check=False, capture_output=True)
        subprocess.run(["sh", "run.sh", "--pack", back], cwd=parcel, check=True, capture_output=True)
        told = bench.cli("parcel", "import", bench.root, back)
        assert told.returncode == 0, told.stderr
        assert "1 task of parcel" in told.stdout
    bench.step()
    assert bench.states() == {"md": "COMPLETED"}
    assert (bench.root / "results/out").read_text().strip() == "3"
    assert bench.cli("doctor", bench.root).returncode == 0
