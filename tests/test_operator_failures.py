"""What the local operator does when things go wrong: the attempt gets a class and a sentence, the rest goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from matterstack import run_until_done
from matterstack.core.model import Launch, LiveAttempt, OperatorSpec, Resources, Sighting
from matterstack.core.states import AttemptState
from matterstack.operators import processes
from matterstack.operators.claims import read_claim, take_claim
from matterstack.operators.local import LocalOperator
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step
from matterstack.text.reasons import sentence
from matterstack.views.attempts import attempts
from tests.conftest import MATTERSTACK, is_alive, open_to_others

OTHER = "  other: {command: 'true'}\n"


def last(bench, task="a"):
    return attempts(bench.root, task)[1][-1]


def session_of(bench, task="a"):
    """Return the processes of a running attempt, as they are found when its worker is gone."""
    folder = bench.attempt(task).resolve()
    claim = json.loads((folder / "claim").read_text())
    _, command, start, *_ = bench.wait_for_text(folder / ".exit.json", "started").split()
    return processes.Session(claim["pid"], claim["start"], int(command), start, str(folder), frozenset())


def kill_all(session):
    """Kill an attempt's worker, so that it cannot record the end, and then all that it started."""
    os.kill(session.leader, signal.SIGKILL)
    wait_until_gone(session.leader)
    kill_members(session)


def kill_members(session):
    deadline = time.monotonic() + 10
    while members := processes.session_members(session):
        assert time.monotonic() < deadline
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(0.01)


def run_one(bench, task):
    """Run a task `a` beside another one, which must not suffer."""
    bench.start(f"tasks:\n  a: {task}\n{OTHER}")
    report = bench.step_until_over()
    assert bench.states()["other"] == "COMPLETED"
    return report


CASES = {  # task -> (class, sentence)
    "a non-zero exit": ("{command: 'exit 7'}", "exit_code", "exit code 7"),
    "a failed pipe": ("{command: 'false | cat'}", "exit_code", "exit code 1"),
    "a failed first line": ("{command: \"false\\ntrue\"}", "exit_code", "exit code 1"),
    "an unknown command": ("{command: no-such-program}", "exit_code", "exit code 127 (command not found)"),
    "an unknown command as a list": ("{command: [no-such-program]}", "exit_code", "exit code 127 (command not found)"),
    "a command that cannot be executed": ("{command: [/etc/passwd]}", "exit_code", "exit code 126 (the command cannot be executed)"),
    "a syntax error": ("{command: 'if then'}", "exit_code", "exit code 2"),
    "a signal": ("{command: 'kill -SEGV $$'}", "exit_code", "exit code 139 (SIGSEGV)"),
    "a missing output": ("{command: 'true', outputs: {o: out.json}}", "missing_output", "exit code 0, but out.json was not written"),
    "two missing outputs": ("{command: 'true', outputs: {o: a, p: b}}", "missing_output", "exit code 0, but a, b were not written"),
    "a folder instead of a file": ("{command: 'mkdir x', outputs: {o: x}}", "missing_output", "exit code 0, but x is a folder; declare it with a `/` at its end"),
    "a file instead of a folder": ("{command: 'rmdir x; touch x', outputs: {o: x/}}", "missing_output", "exit code 0, but x/ is a file, not a folder"),
    "a time limit": ("{command: 'sleep 30', resources: {time: 1s}}", "timeout", "stopped at its time limit of 1.0 s"),
    "code 124 before the limit": ("{command: 'exit 124', resources: {time: 1h}}", "exit_code", "exit code 124"),
}  # fmt: skip


@pytest.mark.parametrize(("task", "failure", "reason"), CASES.values(), ids=CASES)
def test_a_failure_gets_its_class_and_sentence(bench, task, failure, reason):
    report = run_one(bench, task)

    assert report.state == "FAILED"
    assert (last(bench)["class"], last(bench)["reason"]) == (failure, reason)
    assert bench.reasons()["a"].endswith(reason)


def test_an_optional_output_may_be_missing(bench):
    assert run_one(bench, "{command: 'true', outputs: {o: {path: out, optional: true}}}").state == "COMPLETED"


def test_an_output_without_content_counts_and_its_folder_exists_beforehand(bench):
    run_one(bench, "{command: ': > deep/er/out', outputs: {o: deep/er/out, f: folder/}}")
    assert bench.states()["a"] == "COMPLETED"
    assert (bench.root / "results" / "deep" / "er" / "out").read_text() == ""


def test_a_time_limit_ends_the_whole_group_even_what_ignores_term(bench):
    bench.start(
        "tasks: {a: {command: \"trap '' TERM; (trap '' TERM; echo $BASHPID > child; sleep 300) & "
        'echo $! > ../../../pid; wait; sleep 300", resources: {time: 1s}}}\n'
    )
    report = bench.step_until_over(limit_s=40)

    assert report.state == "FAILED"
    assert last(bench)["class"] == "timeout"
    assert not is_alive(int((bench.attempt("a") / "child").read_text()))


def test_a_folder_that_cannot_be_made_fails_that_attempt_alone(bench):
    bench.start(f"tasks:\n  a: {{command: 'true'}}\n{OTHER}")
    (bench.root / "tasks" / "a").write_text("in the way")

    bench.step_until_over()

    assert bench.states() == {"a": "FAILED", "other": "COMPLETED"}
    assert last(bench)["class"] == "rejected"
    assert last(bench)["reason"] == "tasks/a cannot be written: File exists"
    assert (bench.root / "tasks" / "a").read_text() == "in the way"


def test_what_lies_in_a_new_attempts_folder_is_never_overwritten(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    bench.attempt("a").mkdir(parents=True)
    (bench.attempt("a") / "notes.txt").write_text("mine")

    bench.step_until_over()

    assert bench.states() == {"a": "FAILED"}
    assert [path.name for path in bench.attempt("a").iterdir()] == ["notes.txt"]


def test_a_killed_worker_whose_command_lives_is_still_running_and_then_lost(bench):
    bench.start("tasks: {a: {command: 'sleep 1.5', retries: 0}}\n")
    bench.step()
    claim = json.loads(bench.wait_for(bench.attempt("a") / "claim").read_text())
    bench.wait_for(bench.attempt("a") / "stderr.log")
    time.sleep(0.2)
    os.kill(claim["pid"], signal.SIGKILL)
    while is_alive(claim["pid"]):
        time.sleep(0.01)

    bench.step()
    assert bench.states() == {"a": "RUNNING"}
    assert "its worker is gone, its command is still running" in bench.reasons()["a"]

    bench.step_until_over()
    assert (last(bench)["state"], last(bench)["class"]) == ("LOST", "lost")
    assert last(bench)["reason"] == "its process is gone and left no exit.json"


def test_a_vanished_process_is_lost_and_tried_again(bench):
    bench.start("tasks: {a: {command: 'echo x >> WITNESS; [ $MATTERSTACK_ATTEMPT = 2 ] || sleep 60', retries: 1}}\n")
    bench.step()
    bench.wait_for(bench.witness)
    kill_all(session_of(bench))

    report = bench.step_until_over()

    assert report.state == "COMPLETED"
    assert bench.witnessed() == ["x", "x"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"task": "a", "attempt": 1}\n', '{"task": "a", "attempt": 2, "exit_code": 0}\n',
     '{"task": "b", "attempt": 1, "exit_code": 0}\n', '{"task": "a", "attempt": 1, "exit_code": "0"}\n',
     '{"task": "a", "attempt": 1, "exit_code": 0}', "x" * 100_000, '{"a":' * 5000],
    ids=["empty", "torn", "a list", "null", "no code", "another attempt", "another task", "text", "no newline", "huge", "deep"],
)  # fmt: skip
def test_an_exit_json_that_is_not_whole_is_never_taken_for_a_result(bench, content):
    bench.start("tasks: {a: {command: 'sleep 60'}}\n")
    bench.step()
    bench.wait_for(bench.attempt("a") / "stderr.log")
    session = session_of(bench)
    (bench.attempt("a") / "exit.json").write_text(content)
    bench.step()
    assert bench.states() == {"a": "RUNNING"}

    kill_all(session)
    (bench.attempt("a") / ".exit.json").unlink(missing_ok=True)  # whose rename was ended as well
    (bench.attempt("a") / "exit.json").write_text(content)
    bench.step_until_over()

    assert last(bench)["class"] == "lost"
    assert last(bench)["reason"].endswith("(its exit.json is incomplete or belongs to another attempt)")
    assert (bench.attempt("a") / "exit.json").read_text() == content


@pytest.mark.parametrize("content", ["[1]", "{", "\0"], ids=["list", "torn", "binary"])
def test_bad_metrics_are_ignored_with_a_warning_and_the_task_is_fine(bench, content):
    bench.start("tasks: {a: {command: 'cp $MATTERSTACK_SOURCE/m metrics.json'}}\nfiles: [m]\n")
    (bench.root / "source" / "m").write_text(content)
    bench.step()
    bench.exit_of("a")
    report = bench.step()

    assert report.state == "COMPLETED"
    assert report.warnings[0].startswith("a, attempt 1: metrics.json is ignored: ")


@pytest.fixture(autouse=True)
def file_m(tmp_path):
    (tmp_path / "m").write_text("")


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def operator():
    return LocalOperator(OperatorSpec("local", "local"))


def launch(folder: Path, script: str = "echo ran > ran") -> Launch:
    folder.mkdir()
    (folder / "command.sh").write_text(script)
    return Launch("a", 1, str(folder), ("bash", "-eo", "pipefail", "command.sh"), {}, Resources(), ())


def live(folder: Path, handle: str, state: AttemptState = AttemptState.SUBMITTING) -> LiveAttempt:
    return LiveAttempt("a", 1, str(folder), state, handle, None, None)


def test_a_worker_that_finds_the_folder_claimed_runs_and_writes_nothing(operator, tmp_path):
    asked = launch(tmp_path / "x")
    assert take_claim(tmp_path / "x", "test") is None

    outcome = operator.submit([asked])["a", 1]
    attempt = live(tmp_path / "x", outcome.handle)
    while operator.observe([attempt])["a", 1].sighting is Sighting.RUNNING:
        time.sleep(0.01)

    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["claim", "command.sh"]
    assert operator.recover([attempt])["a", 1].sighting is Sighting.NOT_STARTED


def test_a_worker_whose_folder_is_gone_makes_nothing(operator, tmp_path):
    asked = launch(tmp_path / "x")
    (tmp_path / "x" / "command.sh").unlink()
    (tmp_path / "x").rmdir()

    operator.submit([asked])
    time.sleep(0.3)

    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_an_attempt_that_nobody_claimed_is_fenced_and_never_starts(operator, tmp_path):
    asked = launch(tmp_path / "x")

    seen = operator.recover([live(tmp_path / "x", operator.origin())])["a", 1]
    assert seen.sighting is Sighting.NOT_STARTED

    operator.submit([asked])
    time.sleep(0.3)
    assert not (tmp_path / "x" / "ran").exists()


def test_an_attempt_whose_folder_was_never_made_is_fenced_too(operator, tmp_path):
    seen = operator.recover([live(tmp_path / "x", operator.origin())])["a", 1]

    assert seen.sighting is Sighting.NOT_STARTED
    with pytest.raises(FileExistsError):
        (tmp_path / "x").mkdir()


def test_a_running_attempt_that_the_ledger_does_not_know_is_adopted(operator, tmp_path):
    operator.submit([launch(tmp_path / "x", "sleep 30")])
    while read_claim(tmp_path / "x") is None:
        time.sleep(0.01)
    time.sleep(0.05)

    seen = operator.recover([live(tmp_path / "x", operator.origin())])["a", 1]

    assert seen.sighting is Sighting.RUNNING
    adopted = live(tmp_path / "x", str(seen.handle), AttemptState.RUNNING)
    assert operator.observe([adopted])["a", 1].sighting is Sighting.RUNNING
    assert operator.cancel([adopted])["a", 1].sighting is Sighting.ENDED


def test_a_torn_claim_without_a_worker_never_started(operator, tmp_path):
    launch(tmp_path / "x")
    (tmp_path / "x" / "claim").write_text('{"by": "wrap')

    assert operator.recover([live(tmp_path / "x", operator.origin())])["a", 1].sighting is Sighting.NOT_STARTED


@pytest.mark.parametrize(
    ("change", "sighting", "words"),
    [
        ({"machine": "m2", "boot": "b0", "host": "n7"}, Sighting.UNKNOWN, "runs on n7, unknown here"),
        ({"boot": "b0", "host": "n7"}, Sighting.UNKNOWN, "runs on n7, unknown here"),
        ({"host": "old-name"}, Sighting.GONE, "its process is gone"),
        ({"pid_ns": "1"}, Sighting.UNKNOWN, "runs in another container"),
        ({"boot": "b0"}, Sighting.GONE, "the machine was rebooted"),
        ({"boot": "b0", "pid_ns": "1"}, Sighting.GONE, "the machine was rebooted"),
        ({"start": "1"}, Sighting.GONE, "its process is gone"),
    ],
    ids=[
        "another machine",
        "another machine from the same image",
        "renamed since",
        "another container",
        "rebooted",
        "rebooted, new container",
        "a reused pid",
    ],
)
def test_gone_is_only_said_where_it_can_be_known(operator, tmp_path, change, sighting, words):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "claim").write_text('{"by": "worker"}\n')
    handle = {**processes.this_place().to_json(), "pid": 1, "start": "0", **change}

    seen = operator.observe([live(folder, json.dumps(handle), AttemptState.RUNNING)])["a", 1]

    assert seen.sighting is sighting
    assert seen.unreachable == (sighting is Sighting.UNKNOWN)
    assert words in sentence(seen.why)


def test_a_stranger_with_our_old_pid_is_neither_ours_nor_ended(operator, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "claim").write_text('{"by": "worker"}\n')
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    handle = {**processes.this_place().to_json(), "pid": stranger.pid, "start": "1"}
    attempt = live(folder, json.dumps(handle), AttemptState.RUNNING)
    try:
        assert operator.observe([attempt])["a", 1].sighting is Sighting.GONE
        operator.cancel([attempt])
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_of_a_session_whose_leader_is_gone_all_is_seen_and_only_what_has_our_marks_is_ended(operator, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & exec sleep 0.1"], start_new_session=True)
    leader.wait()
    gone = {"leader": 0, "start": "1", "command": leader.pid, "command_start": "1", "folder": str(folder)}
    # A mark that no process of another test has: those would be counted, and ended.
    strange = processes.Session(**gone, marks=frozenset({f"MATTERSTACK_TASK={tmp_path}".encode()}))
    assert len(processes.session_members(strange)) == 1  # so nothing is called lost
    processes.end_sessions([strange])
    assert len(processes.session_members(strange)) == 1

    ours = processes.Session(**{**gone, "folder": os.getcwd()}, marks=frozenset())
    processes.end_sessions([ours])
    assert processes.session_members(ours) == set()


def test_three_attempts_in_a_row_that_never_started_fail_the_task(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    for number in (1, 2, 3):  # somebody claims each folder before its worker can: the worker's claim fails
        folder = bench.attempt("a", number)

        class Claiming(LocalOperator):
            def submit(self, launches, folder=folder):
                take_claim(folder, "test")
                return super().submit(launches)

        step_with(bench, Claiming)
        time.sleep(0.2)
    bench.step()

    assert bench.states() == {"a": "FAILED"}
    assert "not started, 3 times in a row" in bench.reasons()["a"]


def step_with(bench, operator_class):
    """Take a step with a variant of the local operator, as a plug-in would be."""
    with open_to_write(bench.root) as store:
        return Step(bench.root, store, pool=Pool(store, operator_class)).take()


class Raising(LocalOperator):
    def submit(self, launches):
        raise KeyError("a defect")


def test_a_defect_of_an_operator_is_fenced_and_fails_with_its_traceback_in_the_folder(bench):
    bench.start("tasks: {a: {command: 'echo a >> WITNESS'}}\n")

    report = step_with(bench, Raising)

    assert report.warnings == ["operator 'local' failed: KeyError: 'a defect'"]
    assert bench.states() == {"a": "FAILED"}
    assert last(bench)["class"] == "defect"
    assert "KeyError: 'a defect'" in (bench.attempt("a") / "defect.txt").read_text()
    assert bench.witnessed() == []


class Nameless(LocalOperator):
    def origin(self):
        raise KeyError("a defect")


def test_a_defect_while_an_attempt_is_prepared_leaves_its_traceback_where_explain_points(bench):
    bench.start("tasks: {a: {command: 'echo a >> WITNESS', retries: 1}, b: {needs: [a], command: 'true'}}\n")

    step_with(bench, Nameless)

    shown = bench.cli("explain", bench.root, "a").stdout
    assert bench.states() == {"a": "FAILED", "b": "BLOCKED"}
    assert last(bench)["class"] == "defect"
    assert "tasks/a/attempt-1/defect.txt" in shown
    assert "KeyError: 'a defect'" in (bench.attempt("a") / "defect.txt").read_text()
    assert bench.witnessed() == []


class Blind(LocalOperator):
    def observe(self, attempts):
        raise OSError("the scheduler does not answer")


def test_an_operator_that_cannot_be_asked_changes_nothing(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    bench.step()
    bench.exit_of("a")
    before = bench.digest()

    report = step_with(bench, Blind)

    assert "could not be asked: OSError: the scheduler does not answer" in report.warnings[0]
    assert bench.digest() == before
    assert bench.step_until_over().state == "COMPLETED"


def test_a_link_that_cannot_be_set_is_told_and_set_by_a_later_step(bench):
    bench.start("tasks: {a: {command: 'echo 1 > o', outputs: {o: {file: o, path: r/o}}}}\n")
    (bench.root / "results" / "r").write_text("in the way")
    report = bench.step_until_over()
    assert any("results/r/o was not linked" in warning for warning in report.warnings)
    before = bench.digest()
    assert bench.step().warnings == []
    assert bench.digest() == before

    (bench.root / "results" / "r").unlink()
    bench.step()

    assert (bench.root / "results" / "r" / "o").read_text() == "1\n"
    assert [item["kind"] for item in bench.journal()][-1] == "links_changed"


# --- what tasks do to their own folder -------------------------------------------------------------------------------


ODD = {
    "exit.json is a folder": ("mkdir exit.json", "COMPLETED"),
    "exit.json is a link to a folder": ("mkdir d; ln -s d exit.json", "COMPLETED"),
    "exit.json is a loop of links": ("ln -s exit.json exit.json", "COMPLETED"),  # the worker replaces it
    ".exit.json is a pipe": ("rm .exit.json; mkfifo .exit.json", "COMPLETED"),
    ".exit.json is a link": ("rm .exit.json; ln -s nowhere .exit.json", "COMPLETED"),
    "its own group is signalled": ("kill -USR1 0", "FAILED"),
    "its own group is aborted": ("kill -ABRT 0", "FAILED"),
    "all its files are removed": ("rm -rf ./* .[!.]*", "COMPLETED"),
    "its folder is read-only": ("chmod a-w .", "COMPLETED"),
}


@pytest.mark.parametrize(("command", "state"), ODD.values(), ids=ODD)
def test_whatever_a_task_does_to_its_folder_its_end_is_seen(bench, command, state):
    bench.start(f"tasks: {{a: {{command: '{command}'}}, b: {{command: 'true'}}}}\n")

    bench.step_until_over(limit_s=15)

    assert (last(bench)["state"], bench.states()["b"]) == (state, "COMPLETED"), last(bench)
    assert not (bench.attempt("a") / "nowhere").exists()


def test_an_output_that_is_a_loop_of_links_is_missing(bench):
    run_one(bench, "{command: 'ln -s out out', outputs: {o: out}}")
    assert last(bench)["class"] == "missing_output"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_attempt_whose_output_may_not_be_read_has_failed_and_holds_no_slot(bench):
    bench.start("tasks: {a: {command: 'echo 1 > out', outputs: {o: out}}}\n")
    bench.step()
    bench.wait_for(bench.attempt("a") / "exit.json")
    (bench.attempt("a") / "outputs.sha256").unlink()  # as without sha256sum: the step reads the file
    (bench.attempt("a") / "out").chmod(0)
    for path in [bench.root, *bench.root.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    open_to_others(bench.folder)
    os.seteuid(65534)
    try:
        report = run_until_done(bench.root)
    finally:
        os.seteuid(0)

    assert report.state == "FAILED"
    (attempt,) = attempts(bench.root, "a")[1]
    assert (attempt["class"], attempt["reason"]) == (
        "unreadable", "it ended, and tasks/a/attempt-1/out cannot be read: Permission denied"
    )  # fmt: skip


def test_an_attempt_of_a_container_that_is_gone_is_lost_by_a_persons_word(bench):
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make namespaces")
    bench.start("tasks: {a: {retries: 1, command: 'echo a >> WITNESS; test ${{ task.attempt }} = 2 || sleep 60'}}\n")
    inside = shlex.join([*MATTERSTACK, "step", str(bench.root)])
    subprocess.run([*unshare, "sh", "-c", f"{inside}; while ! [ -e {bench.witness} ]; do sleep 0.1; done"], check=True)
    bench.step()
    assert bench.states() == {"a": "RUNNING"}
    assert f"if that is gone for good, `matterstack adopt {bench.root} --assume lost`" in bench.reasons()["a"]

    done = bench.cli("adopt", bench.root, "--assume", "lost")

    assert done.stdout == f"1 attempt given up; `matterstack step {bench.root}` goes on\n"
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["a", "a"]
    again = bench.cli("adopt", bench.root, "--assume", "lost").stdout
    assert again == f"{bench.root}: every live attempt can be reached from here; nothing was changed\n"


@pytest.mark.parametrize("word", [False, True], ids=["ended by hand", "by a person's word"])
def test_a_command_without_our_marks_in_a_session_of_its_own_is_not_lost_with_its_worker(bench, word):
    script = "echo $$ >> WITNESS; exec sleep 30"
    bench.start(
        f"tasks: {{a: {{retries: 1, background: wait, command: [env, '-i', '-C', /, setsid, '-f', sh, '-c', '{script}']}}}}\n"
    )
    bench.step()
    bench.wait_for(bench.witness)
    session = session_of(bench)
    os.kill(session.leader, signal.SIGKILL)
    wait_until_gone(session.leader)
    wait_until_gone(session.command)

    bench.step()

    assert bench.states() == {"a": "RUNNING"}
    held = f"a process that it started holds {bench.attempt('a').resolve()}/claim (`fuser` names it)"
    assert held in bench.reasons()["a"]
    assert f"if it is not the command's, `matterstack adopt {bench.root} --assume lost`" in bench.reasons()["a"]
    if word:
        assert bench.cli("adopt", bench.root, "--assume", "lost").returncode == 0
    os.kill(int(bench.witnessed()[0]), signal.SIGKILL)
    wait_until_gone(int(bench.witnessed()[0]))
    bench.step()
    assert attempts(bench.root, "a")[1][0]["state"] == "LOST"
    bench.cli("cancel", bench.root)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "empty"])
def test_a_claim_that_was_replaced_hides_neither_life_nor_end(bench, kind):
    bench.start("tasks: {a: {retries: 1, command: 'echo a >> WITNESS; test ${{ task.attempt }} = 2 || sleep 60'}}\n")
    bench.step()
    bench.wait_for(bench.witness)
    claim = bench.attempt("a") / "claim"
    session = session_of(bench)
    claim.unlink()
    if kind == "folder":
        claim.mkdir()
    elif kind == "pipe":
        os.mkfifo(claim)
    elif kind == "loop":
        claim.symlink_to("claim")
    else:
        claim.touch()
    bench.step()
    assert bench.states() == {"a": "RUNNING"}
    kill_all(session)

    assert bench.step_until_over().state == "COMPLETED"

    first = attempts(bench.root, "a")[1][0]
    assert (first["state"], first["reason"]) == ("LOST", "its process is gone, and its claim is no longer complete")
    assert bench.witnessed() == ["a", "a"]


def wait_until_gone(pid):
    while is_alive(pid):
        time.sleep(0.01)


@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_a_live_worker_is_found_where_neither_claim_nor_event_is_left(bench, end):
    bench.start("tasks: {a: {retries: 1, command: 'echo a >> WITNESS; while ! [ -e go ]; do sleep 0.1; done'}}\n")
    bench.step()
    bench.wait_for(bench.witness)
    (bench.root / "state.sqlite").unlink()
    (bench.attempt("a") / "claim").unlink()
    journal = (bench.root / "journal.jsonl").read_text().splitlines(keepends=True)
    (bench.root / "journal.jsonl").write_text("".join(journal[:2]))
    bench.cli("doctor", bench.root, "--fix")

    bench.step()

    assert bench.states() == {"a": "RUNNING"}
    if end == "cancelled":
        assert bench.cli("cancel", bench.root).stdout == "cancelled: 1 ended\n"
    else:
        (bench.attempt("a") / "go").touch()
        assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["a"]


def test_a_step_that_is_refused_a_process_starts_nothing_and_loses_nothing(bench):
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    bench.start("tasks: {a: {command: 'echo a >> WITNESS; echo 1 > out', outputs: {o: out}}}\n")
    calls = "clone,fork,vfork,clone3"
    strace = ["strace", "-f", "-qq", "-o", bench.folder / "trace", "-e", f"trace={calls}"]

    refused = [*strace, "-e", f"inject={calls}:error=EAGAIN:when=1+", *MATTERSTACK, "step", bench.root]
    done = subprocess.run(refused, capture_output=True, text=True)

    assert done.returncode == 1, done.stderr
    assert "nothing could be handed over: cannot be started: " in done.stderr
    assert last(bench)["class"] == "postponed"
    bench.cli("rerun", bench.root, "a")
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["a"]


def test_a_lone_surrogate_in_metrics_stops_nobody(bench):
    bench.start("tasks: {a: {command: 'printf %s ${{ params.m }} > metrics.json'}, b: {needs: [a], command: 'true'}}\n"
                "params: {m: '{\"x\": \"\\ud800\"}'}\n")  # fmt: skip
    assert bench.step_until_over().state == "COMPLETED"


@pytest.mark.parametrize("name", ["metrics.json", "exit.json", "out", "outputs.sha256"])
def test_a_named_pipe_where_a_file_is_expected_hangs_nobody(bench, name):
    bench.start(f"tasks: {{a: {{command: 'mkfifo {name}', outputs: {{o: {{path: out, optional: true}}}}}}}}\n")
    assert bench.step_until_over(limit_s=20).state.is_over


def test_the_wrapper_leaves_the_tasks_environment_alone(bench):
    names = "claim head limit timeout date shell options mv started stat uptime kills pid file code tries sha256 folder"
    env = ", ".join(f"{name}: mine" for name in names.split())
    bench.start(f"tasks: {{a: {{env: {{{env}}}, command: env, resources: {{time: 1m}}, outputs: {{}}}}}}\n")
    bench.step_until_over()
    found = dict(
        line.split("=", 1) for line in (bench.attempt("a") / "stdout.log").read_text().splitlines() if "=" in line
    )
    assert {name: found.get(name) for name in names.split()} == dict.fromkeys(names.split(), "mine")


def test_a_job_that_removes_its_claim_is_lost_and_not_started_anew(bench):
    bench.start("tasks: {a: {command: 'echo x >> WITNESS; rm -rf ./*; sleep 0.2; kill -9 $PPID'}}\n")
    bench.step_until_over()
    assert bench.witnessed() == ["x"]
    assert attempts(bench.root, "a")[1][-1]["class"] == "lost"


def test_a_task_that_failed_before_its_hand_over_is_shown_with_its_own_attempt(bench):
    file = bench.write("tasks: {a: {command: x, env: {T: {from_env: NOT_SET_HERE}}}}\n")
    done = bench.cli("run", file, "--root", bench.root)
    assert "a failed: attempt 1, the environment variable NOT_SET_HERE is not set where the step runs" in done.stderr


def test_a_command_that_ends_with_0_because_it_was_told_to_is_interrupted(bench):
    """As a program that saves what it has at TERM: its result is a part of what was asked for."""
    bench.start(
        "tasks: {a: {command: \"trap 'exit 0' TERM; echo 1 > t; while :; do sleep 0.1; done\", outputs: {t: t}}}\n"
    )
    bench.step()
    bench.wait_for(bench.attempt("a") / "t")
    claim = json.loads((bench.attempt("a") / "claim").read_text())
    os.kill(claim["pid"], signal.SIGTERM)
    bench.exit_of("a")
    bench.step()
    assert attempts(bench.root, "a")[1][0]["class"] == "interrupted"


HUGE = "tasks: {a: {command: 'truncate -s 200G b; echo 1 > WITNESS', outputs: {b: b}, resources: {time: LIMIT}}}\n"


def test_reading_what_a_command_made_counts_towards_its_time(bench):
    bench.start(HUGE.replace("LIMIT", "2s"))
    bench.step_until_over()
    assert attempts(bench.root, "a")[1][0]["class"] == "timeout"


def test_a_cancelled_attempt_ends_while_what_it_made_is_read(bench):
    bench.start(HUGE.replace("LIMIT", "1h"))
    bench.step()
    bench.wait_for(bench.witness)
    time.sleep(0.5)
    assert bench.cli("cancel", bench.root, "a").stdout.startswith("cancelled: 1 ")
    bench.step()
    assert bench.states() == {"a": "CANCELLED"}
