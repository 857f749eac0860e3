"""Copies, clones, moved run roots and git: what takes part by files only, and how a copy becomes the home."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from matterstack import open_run, run_until_done, step_run
from matterstack.care.checks import examine
from matterstack.cli.main import _run
from matterstack.errors import RunIsCopyError
from matterstack.run_root.gitignore import ignore

CAMPAIGN = """
operators: {local: {kind: local, slots: {cpus: 8}}}
tasks:
  a: {matrix: {i: [1, 2, 3]}, command: "echo ${{ task.id }} ${{ task.attempt }} >> WITNESS; echo ${{ matrix.i }} > out", outputs: {o: {file: out, path: "a/${{ matrix.i }}"}}}
  again: {retries: 1, command: "test ${{ task.attempt }} -ge 2"}
  sum: {inputs: {x: "a/*"}, command: "echo sum ${{ task.attempt }} >> WITNESS; cat ${{ inputs.x }} > out", outputs: {o: {file: out, path: sum}}}
"""


def git(folder, *words):
    config = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *config, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def over(bench):
    bench.start(CAMPAIGN)
    run_until_done(bench.root)
    return bench


def names_in(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {name for name in names if not name.startswith(".git/")} - {"run.lock"}


READING = (["status"], ["explain"], ["results"], ["graph"], ["attempts", "a/1"], ["logs", "a/1"], ["doctor"])
WRITING = (
    ["step"],
    ["run"],
    ["pause"],
    ["resume"],
    ["cancel"],
    ["rerun", "a/1"],
    ["amend", "--yes"],
    ["doctor", "--fix"],
)


def copy_whole(bench):
    shutil.copytree(bench.root, bench.folder / "copy", symlinks=True)


def clone(bench):
    git(bench.root, "init", "-q")
    git(bench.root, "add", "-A")
    git(bench.root, "commit", "-qm", "all")
    git(bench.folder, "clone", "-q", str(bench.root), "copy")


@pytest.mark.parametrize("make", [copy_whole, clone], ids=["cp -a", "git clone"])
def test_a_copy_can_be_read_and_is_written_by_nobody_until_it_is_adopted(over, make):
    make(over)
    copy = over.folder / "copy"
    before = names_in(copy)

    for words in READING:
        done = over.cli(words[0], copy, *words[1:])
        assert done.returncode in (0, 1 if words[0] == "doctor" else 0), (words, done.stderr)
    for words in WRITING:
        done = over.cli(words[0], copy, *words[1:])
        assert done.returncode == 1, words
        assert "is a copy of a run" in done.stderr and "`matterstack adopt" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    assert names_in(copy) == before

    assert over.cli("adopt", copy).stdout.startswith(f"{copy} is the run's home now")
    assert over.cli("step", copy).returncode == 0
    assert over.cli("doctor", copy).returncode == 0
    assert over.cli("rerun", copy, "sum").returncode == 0
    assert run_until_done(copy).state == "COMPLETED"
    assert (copy / "results" / "sum").read_text() == "1\n2\n3\n"


def test_a_moved_run_root_is_no_copy(over):
    moved = over.folder / "elsewhere"
    over.root.rename(moved)
    assert over.cli("step", moved).returncode == 0
    assert over.cli("adopt", moved).stdout == f"{moved} is at home here; there is nothing to adopt\n"


def test_a_copy_put_at_the_place_that_a_moved_run_left_is_a_copy(bench):
    bench.start(CAMPAIGN)
    moved = bench.folder / "moved"
    bench.root.rename(moved)
    assert bench.cli("step", moved).returncode == 0
    shutil.copytree(moved, bench.root, symlinks=True)
    assert "is a copy of a run at home on" in bench.cli("step", bench.root).stderr
    assert bench.cli("step", moved).returncode == 0


def test_the_same_place_under_another_host_name_is_no_copy(over, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "login2")
    assert step_run(over.root).state == "COMPLETED"


def test_a_ledger_restored_at_the_same_place_is_no_copy(over):
    ledger = over.root / "state.sqlite"
    shutil.copy2(ledger, over.folder / "backup")
    ledger.unlink()
    shutil.copy2(over.folder / "backup", ledger)
    assert step_run(over.root).state == "COMPLETED"


def test_a_copy_on_another_host_with_another_path_is_one(over, monkeypatch):
    copy_whole(over)
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    with pytest.raises(RunIsCopyError):
        step_run(over.folder / "copy")


def test_a_running_run_is_only_adopted_with_a_persons_word(bench):
    bench.start(
        "tasks: {a: {command: 'echo a ${{ task.attempt }} >> WITNESS; sleep 30', retries: 1}, b: {needs: [a], command: 'true'}}\n"
    )
    bench.step()
    bench.wait_for(bench.witness)
    for name in ("lost", "keep"):
        shutil.copytree(bench.root, bench.folder / name, symlinks=True)
        (bench.folder / name / "state.sqlite").unlink()
    refused = bench.cli("adopt", bench.folder / "lost")
    assert refused.returncode == 2
    assert "at its home the run is RUNNING, 1 of its attempts alive; pause it there" in refused.stderr

    kept = bench.cli("adopt", bench.folder / "keep", "--assume", "keep")
    assert kept.returncode == 0
    assert {str(t.state) for t in open_run(bench.folder / "keep").tasks if t.task_id == "a"} == {"RUNNING"}

    lost = bench.cli("adopt", bench.folder / "lost", "--assume", "lost")
    assert "; 1 attempt given up; `matterstack step" in lost.stdout
    tasks = {t.task_id: (str(t.state), t.reason) for t in open_run(bench.folder / "lost").tasks}
    assert tasks["a"] == ("PENDING", "retry 1 of 1 after assumed lost by a person when the run was adopted")


def test_the_old_home_stops_when_it_meets_the_journal_of_the_new_one(over):
    clone(over)
    copy = over.folder / "copy"
    over.cli("adopt", copy)
    over.cli("rerun", copy, "sum")
    run_until_done(copy)
    git(copy, "add", "-A")
    git(copy, "commit", "-qm", "went on")
    git(over.root, "pull", "-q", str(copy), "HEAD")

    done = over.cli("step", over.root)

    assert done.returncode == 1
    assert f"the run was adopted by {socket.gethostname()}:{copy} at " in done.stderr
    assert "this home of it stops" in done.stderr
    assert "it goes on there (work there; `matterstack adopt" in over.cli("doctor", over.root).stdout
    (over.root / "state.sqlite").rename(over.folder / "old ledger")
    refused = over.cli("doctor", over.root, "--fix")
    assert refused.returncode == 1 and f"the run was adopted by {socket.gethostname()}:{copy}" in refused.stderr
    (over.folder / "old ledger").rename(over.root / "state.sqlite")

    assert over.cli("adopt", over.root).returncode == 0  # its new home is over: it may come back
    assert over.cli("step", over.root).returncode == 0
    assert over.cli("doctor", over.root).returncode == 0


# --- git -------------------------------------------------------------------------------------------------------------


def test_a_run_committed_after_each_step_is_cloned_adopted_and_finished(bench):
    bench.start(CAMPAIGN)
    git(bench.root, "init", "-q")
    for number in range(3):
        bench.step()
        for task in ("a/1", "a/2", "a/3", "again"):
            bench.exit_of(task)
        git(bench.root, "add", "-A")
        git(bench.root, "commit", "-qm", f"step {number}", "--allow-empty")
        if number == 0:
            bench.cli("pause", bench.root)
    assert git(bench.root, "ls-files", "state.sqlite", "run.lock") == ""
    git(bench.folder, "clone", "-q", str(bench.root), "clone")
    home, bench.root = bench.root, bench.folder / "clone"

    assert bench.cli("adopt", bench.root).returncode == 0
    bench.cli("resume", bench.root)

    assert run_until_done(bench.root).state == "COMPLETED"
    assert sorted(bench.witnessed()) == sorted(["a/1", "1", "a/2", "1", "a/3", "1", "sum", "1"])
    assert bench.cli("doctor", bench.root, "--digests").returncode == 0
    assert bench.cli("status", home).returncode == 0


def test_git_clean_leaves_a_live_run_alone_and_with_x_makes_it_a_copy(over):
    git(over.root, "init", "-q")
    git(over.root, "add", "-A")
    git(over.root, "commit", "-qm", "all")
    git(over.root, "clean", "-fdq")
    assert over.cli("step", over.root).returncode == 0
    git(over.root, "clean", "-fdxq")
    assert not (over.root / "state.sqlite").exists()
    assert "is a copy of a run" in over.cli("step", over.root).stderr
    assert over.cli("adopt", over.root).returncode == 0
    assert over.cli("step", over.root).returncode == 0
    assert over.states()["sum"] == "COMPLETED"


@pytest.mark.parametrize(
    "words", [("checkout", "-q", "HEAD~1", "--", "."), ("stash", "-q", "-u")], ids=["checkout", "stash"]
)
def test_an_older_commit_on_a_live_run_root_loses_nothing_that_the_ledger_knows(bench, words):
    bench.start(CAMPAIGN)
    git(bench.root, "init", "-q")
    git(bench.root, "add", "-A")
    git(bench.root, "commit", "-qm", "fresh")
    bench.step()
    for task in ("a/1", "a/2", "a/3", "again"):
        bench.exit_of(task)
    if words[0] == "checkout":
        git(bench.root, "add", "-A")
        git(bench.root, "commit", "-qm", "one step")
    bench.step()
    for task in ("sum/attempt-1", "again/attempt-2"):
        bench.wait_for(bench.root / "tasks" / task / "exit.json")
    git(bench.root, *words)

    assert "lines that a killed step left out were added" in bench.cli("step", bench.root).stderr
    events = [event["seq"] for event in bench.journal()]
    assert events == list(range(1, len(events) + 1))
    # what git took away is missing, and said to be: never taken for something that was not done
    found = bench.cli("doctor", bench.root).stdout
    if words[0] == "stash":
        assert "tasks/a/1/attempt-1" in found
    assert bench.states()["a/1"] == "COMPLETED"


def test_outputs_above_the_limit_are_kept_out_of_git_by_the_step_that_publishes_them(bench):
    bench.start(
        "git_max_size: 10K\n"
        "tasks:\n"
        "  a: {matrix: {i: [1, 20000]}, command: \"head -c ${{ matrix.i }} /dev/zero > 'big [1] #!.bin'; mkdir -p d; head -c 30000 /dev/zero > d/x; echo 1 > d/y\", "
        "outputs: {o: {file: 'big [1] #!.bin', path: 'o/${{ matrix.i }}'}, d: {file: d/, path: 'd/${{ matrix.i }}/'}}}\n"
        "  f: {command: 'head -c 20000 /dev/zero > half; exit 1', outputs: {o: half}, allow_failure: true}\n"
    )
    git(bench.root, "init", "-q")
    bench.step_until_over()
    git(bench.root, "add", "-A")
    kept = git(bench.root, "-c", "core.quotePath=false", "ls-files", "tasks").splitlines()
    assert "tasks/a/1/attempt-1/big [1] #!.bin" in kept
    assert "tasks/a/20000/attempt-1/big [1] #!.bin" not in kept
    assert "tasks/f/attempt-1/half" not in kept and "tasks/f/attempt-1/command.sh" in kept
    assert "tasks/a/1/attempt-1/d/y" in kept and "tasks/a/1/attempt-1/d/x" not in kept
    assert "results/o/20000" in git(bench.root, "ls-files", "results")
    (bench.root / ".gitignore").write_text("mine\n")
    assert bench.cli("doctor", bench.root, "--fix").returncode == 0
    assert "tasks/a/20000/attempt-1/big" not in git(bench.root, "ls-files", "--others", "--exclude-standard")
    digests = [event["outputs"] for event in bench.journal() if "outputs" in event]
    assert all(len(output["sha256"]) == 64 for outputs in digests for output in outputs)


def test_odd_names_are_ignored_by_git_as_they_are(tmp_path):
    git(tmp_path, "init", "-q")
    names = ["a b ", "back\\slash", "*star", "q?", "[x]", "!bang", "#hash", "two\nlines", "Ä", " lead"]
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / "other").write_bytes(b"x" * 100)
    ignore(tmp_path, names)
    git(tmp_path, "add", "-A")
    assert set(git(tmp_path, "ls-files", "-z").split("\0")) == {".gitignore", "other", ""}


def test_a_clone_without_its_large_outputs_says_so(over):
    clone(over)
    (over.folder / "copy" / "tasks" / "a" / "1" / "attempt-1" / "out").unlink()
    over.cli("adopt", over.folder / "copy")
    done = over.cli("doctor", over.folder / "copy")
    assert done.returncode == 1
    assert "outputs  tasks/a/1/attempt-1/out: is missing" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("command", ["status", "step", "doctor", "pause"])
def test_another_user_is_told_in_one_line_what_the_umask_forbids(over, command, monkeypatch, capfd):
    subprocess.run(["chmod", "-R", "go-rwx", over.root], check=True)
    monkeypatch.setattr(sys, "argv", ["matterstack", command, str(over.root)])
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        os._exit(_run())
    _, status = os.waitpid(child, 0)
    said = capfd.readouterr().err
    assert os.waitstatus_to_exitcode(status) in (1, 2)
    assert said.count("\n") == 1 and "Traceback" not in said


@pytest.fixture
def branched(bench):
    """A run whose copy was adopted and amended, and then amended at its old home as well; the copy's files come there."""
    text = "tasks: {a: {command: 'echo NUMBER'}}\n"
    bench.start(text.replace("NUMBER", "1"))
    bench.step_until_over()
    copy = bench.folder / "copy"
    shutil.copytree(bench.root, copy, symlinks=True)
    for file in copy.glob("state.sqlite*"):
        file.unlink()
    assert bench.cli("adopt", copy).returncode == 0
    bench.cli("amend", copy, bench.write(text.replace("NUMBER", "3"), "other.yaml"), "--yes")
    bench.write(text.replace("NUMBER", "2"))
    bench.cli("amend", bench.root, "--yes")
    (bench.folder / "kept").mkdir()
    for name in ("versions/2", "journal.jsonl"):
        shutil.move(bench.root / name, bench.folder / "kept")
        copying = shutil.copytree if (copy / name).is_dir() else shutil.copy
        copying(copy / name, bench.root / name)
    shutil.copytree(copy / "expanded", bench.root / "expanded", dirs_exist_ok=True)
    return bench


def homes(bench):
    return {json.loads(line)["home"] for line in (bench.root / "journal.jsonl").read_text().splitlines()}


def test_a_journal_that_branches_is_refused_and_both_heads_are_named(branched):
    for command in (["step"], ["adopt"], ["rerun", "--stale"], ["amend", "--yes", "--set", "x=1"]):
        told = branched.cli(command[0], branched.root, *command[1:])
        assert told.returncode in (1, 2)
        if command[0] != "amend":
            assert "branches after event " in told.stderr, told
    assert told.stdout == ""
    message = branched.cli("step", branched.root).stderr
    assert re.search(
        r"here, in the ledger, event \d+ \(amended by \S+, \S+ UTC, home \w{8}\); there, in the file, event \d+",
        message,
    )
    found = [item.message for item in examine(branched.root)]
    assert any(item.startswith("branches after event ") for item in found), found


def test_the_history_of_the_ledger_is_kept(branched):
    told = branched.cli("adopt", branched.root, "--journal", "here")
    assert told.returncode == 0, told.stderr
    (other,) = branched.root.glob("journal-*.jsonl")
    theirs = other.stem.partition("-")[2]
    assert "echo 3" in (branched.root / f"versions/2-{theirs}/campaign.yaml").read_text()
    assert len(homes(branched)) == 1
    shutil.move(branched.folder / "kept/2", branched.root / "versions/2")  # as from git
    assert examine(branched.root) == []
    branched.cli("rerun", branched.root, "--stale")
    assert branched.step_until_over().state == "COMPLETED"
    assert (branched.attempt("a", 2) / "stdout.log").read_text() == "2\n"


def test_the_history_of_the_file_is_kept(branched):
    shutil.move(branched.root / "versions/2", branched.folder / "kept/theirs")
    shutil.move(branched.folder / "kept/2", branched.root / "versions/2")  # as a merge may leave it
    told = branched.cli("adopt", branched.root, "--journal", "there")
    assert told.returncode == 0, told.stderr
    (mine,) = branched.root.glob("versions/2-*")
    assert "echo 2" in (mine / "campaign.yaml").read_text()
    shutil.move(branched.folder / "kept/theirs", branched.root / "versions/2")
    assert examine(branched.root) == []
    branched.cli("rerun", branched.root, "--stale")
    assert branched.step_until_over().state == "COMPLETED"
    assert (branched.attempt("a", 2) / "stdout.log").read_text() == "3\n"
    refused = branched.cli("adopt", branched.root, "--journal", "here")
    assert refused.returncode == 2
    assert "does not branch" in refused.stderr
