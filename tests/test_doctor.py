"""Damage and loss: what `doctor` finds, what `doctor --fix` repairs, and that nothing is lost silently or started twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time

import pytest

from matterstack import open_run, run_until_done
from matterstack.care.checks import examine
from matterstack.care.repair import repair
from matterstack.storage.state_store import SQLiteStateStore
from tests.conftest import Bench

CAMPAIGN = """
files: ["*.csv"]
params: {n: [1, 2, 1.50]}
tasks:
  a: {matrix: {table: t.csv, n: "${{ params.n }}"}, command: "echo ${{ task.id }} >> WITNESS; echo ${{ matrix.n }} > ${{ outputs.o }}; echo '{\\"m\\": 1.5}' > metrics.json", outputs: {o: "o/${{ task.label }}"}}
  bad: {command: "echo bad >> WITNESS; exit 3", retries: 1, allow_failure: true}
  below_bad: {needs: [bad], command: "true"}
  broken: {command: "exit 1"}
  below_broken: {needs: [broken], command: "true"}
  sum: {inputs: {x: "o/*"}, command: "echo sum >> WITNESS; cat ${{ inputs.x }} > ${{ outputs.o }}; mkdir -p d/s; echo 1 > d/s/x", outputs: {o: sum.txt, d: d/}}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that is over, and a copy of all its files: made once, since many tests damage it."""
    bench = Bench(tmp_path_factory.mktemp("ended") / "bench")
    bench.folder.mkdir()
    (bench.folder / "t.csv").write_text("id,x\nmp-1,0.10\n")
    bench.start(CAMPAIGN)
    run_until_done(bench.root)
    shutil.copytree(bench.folder, bench.folder.with_name("kept"), symlinks=True)
    return bench


@pytest.fixture
def over(ended, monkeypatch):
    shutil.rmtree(ended.folder)
    shutil.copytree(ended.folder.with_name("kept"), ended.folder, symlinks=True)
    monkeypatch.chdir(ended.folder)
    return ended


def content(ledger):
    """Give what a ledger says, without where it lies, when to the microsecond, and the events of its making."""
    db = sqlite3.connect(ledger)
    out = {}
    for table in ("tasks", "edges", "attempts", "attempt_inputs", "outputs", "source_files", "campaign_versions"):
        out[table] = [
            tuple(round(value, 3) if isinstance(value, float) else value for value in row)
            for row in sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
        ]
    out["run"] = db.execute("SELECT run_id, name, digest, paused, cancelled, source_digest FROM run").fetchall()
    out["counts"] = db.execute("SELECT * FROM task_counts WHERE tasks <> 0 ORDER BY 1, 2, 3, 4, 5").fetchall()
    lines = [json.loads(row[0]) for row in db.execute("SELECT line FROM events ORDER BY seq")]
    out["events"] = [line for line in lines if line["kind"] != "rebuilt"]
    db.close()
    return out


def lines(findings):
    return [f"{item.check} {item.path}: {item.message}" for item in findings]


# --- rebuilding ------------------------------------------------------------------------------------------------------


def overwrite(file, old, new):
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new))


def edit(ledger, statement):
    db = sqlite3.connect(ledger)
    assert db.execute(statement) is not None
    db.commit()
    db.close()


LOSSES = {
    "deleted": lambda ledger: ledger.unlink(),
    "empty": lambda ledger: ledger.write_bytes(b""),
    "truncated": lambda ledger: ledger.write_bytes(ledger.read_bytes()[:9000]),
    "scribbled on": lambda ledger: ledger.write_bytes(ledger.read_bytes()[:4096] + b"\xff" * 20000),
    "no UTF-8 in a campaign": lambda ledger: overwrite(ledger, b'{"name": "t"', b'{"na\xffe": "t"'),
    "no JSON in an event": lambda ledger: edit(ledger, "UPDATE events SET line = '{' WHERE seq = 3"),
    "no JSON in outputs": lambda ledger: edit(ledger, "UPDATE tasks SET outputs = '{' WHERE task_id = 'sum'"),
    "no state of a task": lambda ledger: edit(ledger, "UPDATE tasks SET state = 'COMPLETEX' WHERE task_id = 'sum'"),
    "no state of an attempt": lambda ledger: edit(ledger, "UPDATE attempts SET state = 'LOST?' WHERE task_id = 'sum'"),
    "no number of the home": lambda ledger: edit(ledger, "UPDATE run SET home_inode = 'x'"),
    "no number of the epoch": lambda ledger: edit(ledger, "UPDATE run SET epoch = 'x'"),
    "no campaign of that version": lambda ledger: edit(ledger, "UPDATE tasks SET campaign_version = 99; "),
    "no object in an event": lambda ledger: edit(ledger, "UPDATE events SET line = '99' WHERE seq = 1"),
    "no such operator": lambda ledger: edit(ledger, "UPDATE tasks SET operator = 'x' WHERE task_id = 'sum'"),
    "no table of outputs": lambda ledger: edit(ledger, "DROP TABLE outputs"),
    "no run": lambda ledger: edit(ledger, "DELETE FROM run"),
    "another file": lambda ledger: ledger.write_bytes(b"not a database at all, only some text\n" * 10),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_or_damaged_ledger_is_rebuilt_with_the_same_content_and_the_old_one_is_kept(over, loss):
    ledger = over.root / "state.sqlite"
    before = content(ledger)
    witnessed = over.witnessed()
    LOSSES[loss](ledger)
    damaged = ledger.read_bytes() if ledger.exists() else None

    if "no" in loss.split():  # SQLite itself finds nothing wrong with it
        for command in ("explain", "status"):
            done = over.cli(command, over.root)
            assert done.returncode in (0, 1)
            assert "Traceback" not in done.stderr
    else:
        assert over.cli("step", over.root).returncode == 1
    assert [item.check for item in examine(over.root) if item.fixable] == ["ledger"]
    done = over.cli("doctor", over.root, "--fix")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "nothing else is wrong")
    assert content(ledger) == before
    kept = over.root / "state.sqlite.damaged-1"
    assert (kept.read_bytes() if kept.exists() else None) == damaged
    assert over.cli("step", over.root).returncode == 3
    assert over.witnessed() == witnessed
    assert examine(over.root, digests=True) == []


def test_a_ledger_is_rebuilt_while_tasks_run_and_nothing_starts_twice(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 3}}}\n"
        "tasks: {a: {matrix: {i: [1, 2, 3, 4]}, command: 'echo ${{ task.id }} >> WITNESS; sleep 1; echo 1 > o', outputs: {o: {file: o, path: 'o/${{ matrix.i }}'}}}}\n"
    )
    bench.step()
    bench.wait_for(bench.witness)
    (bench.root / "state.sqlite").unlink()
    assert bench.cli("doctor", bench.root, "--fix").returncode == 0
    assert run_until_done(bench.root).state == "COMPLETED"
    assert sorted(bench.witnessed()) == ["a/1", "a/2", "a/3", "a/4"]


def test_a_folder_whose_event_is_lost_counts_as_submitting_and_its_task_is_adopted(bench):
    bench.start("tasks: {a: {command: 'echo a >> WITNESS; sleep 0.5'}}\n")
    before = (bench.root / "journal.jsonl").read_text()
    bench.step()
    bench.wait_for(bench.attempt("a") / "claim")
    (bench.root / "state.sqlite").unlink()
    (bench.root / "journal.jsonl").write_text(before + '{"seq": 2, "torn')
    assert bench.cli("doctor", bench.root, "--fix").returncode == 0
    assert run_until_done(bench.root).state == "COMPLETED"
    assert bench.witnessed() == ["a"]


def test_settings_and_an_amended_table_are_rebuilt_as_they_were(over):
    (over.folder / "t.csv").write_text("id,x\nmp-7,9.9\n")
    assert over.cli("amend", over.root, "--yes").returncode == 0
    before = content(over.root / "state.sqlite")
    (over.root / "state.sqlite").unlink()
    repair(over.root)
    assert content(over.root / "state.sqlite") == before
    assert (over.root / "source" / "t.csv").read_text() == "id,x\nmp-7,9.9\n"


def test_set_values_keep_their_text_when_a_ledger_is_rebuilt(bench):
    file = bench.write("params: {n: [1]}\ntasks: {a: {matrix: {n: '${{ params.n }}'}, command: 'true'}}\n")
    bench.cli("run", file, "--root", bench.root, "--set", "n=[.5, 1.00, 0x10]")
    (bench.root / "state.sqlite").unlink()
    repair(bench.root)
    assert list(bench.states()) == ["a/.5".replace(".5", "_5"), "a/1.00", "a/0x10"]


def test_a_rerun_a_pause_and_a_cancel_survive_a_rebuild(over):
    over.cli("rerun", over.root, "bad")
    over.cli("pause", over.root, "sum")
    over.cli("cancel", over.root, "below_bad")
    before = content(over.root / "state.sqlite")
    (over.root / "state.sqlite").unlink()
    repair(over.root)
    assert content(over.root / "state.sqlite") == before


# --- one file at a time ----------------------------------------------------------------------------------------------


def test_deleting_any_single_file_never_loses_a_finished_result_silently(over):
    whole = over.folder / "whole"
    shutil.copytree(over.root, whole, symlinks=True)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_symlink() or p.is_file())
    results = {p for p in files if p.parts[0] == "results"}
    assert len(files) > 40
    for file in files:
        shutil.rmtree(over.root)
        shutil.copytree(whole, over.root, symlinks=True)
        (over.root / file).unlink()
        repair(over.root)
        found = lines(examine(over.root))
        for result in results:
            if not (over.root / result).exists():
                made = os.readlink(over.root / result).split("tasks/")[1]
                assert any(made.split("/attempt-")[0] in line for line in found), (file, result, found)


# --- damage by hand --------------------------------------------------------------------------------------------------


def remove_run_json(root):
    (root / "run.json").unlink()


def spoil_journal(root):
    path = root / "journal.jsonl"
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join([text[0], "garbage\n", *text[2:]]))


DAMAGE = {
    "an output is deleted": (lambda root: (root / "tasks/sum/attempt-1/sum.txt").unlink(), "outputs tasks/sum/attempt-1/sum.txt: is missing", False),
    "an output is changed": (lambda root: (root / "tasks/sum/attempt-1/sum.txt").write_text("other"), "outputs tasks/sum/attempt-1/sum.txt: is not what the task made", False),
    "a file in a folder output is changed": (lambda root: (root / "tasks/sum/attempt-1/d/s/x").write_text("other"), "outputs tasks/sum/attempt-1/d/: is not what the task made", False),
    "an attempt folder is deleted": (lambda root: shutil.rmtree(root / "tasks/sum/attempt-1"), "attempts tasks/sum/attempt-1: is missing", False),
    "results/ is deleted": (lambda root: shutil.rmtree(root / "results"), "results results/sum.txt: is missing", True),
    "a link is another": (lambda root: ((root / "results/sum.txt").unlink(), (root / "results/sum.txt").symlink_to("/etc/passwd")), "results results/sum.txt: is not the link to its newest result", True),
    "a file where a link should be": (lambda root: ((root / "results/sum.txt").unlink(), (root / "results/sum.txt").write_text("mine")), "results results/sum.txt: is not the link to its newest result", False),
    "an output leads out of the run": (lambda root: ((root / "tasks/sum/attempt-1/sum.txt").unlink(), (root / "tasks/sum/attempt-1/sum.txt").symlink_to("/etc/passwd")), "outputs tasks/sum/attempt-1/sum.txt: lies outside of the run, in /etc/passwd", False),
    "run.json is missing": (remove_run_json, "run.json run.json: is missing", True),
    "the journal is missing": (lambda root: (root / "journal.jsonl").unlink(), "journal journal.jsonl: is missing", True),
    "the journal is short": (lambda root: (root / "journal.jsonl").write_text("".join((root / "journal.jsonl").read_text().splitlines(keepends=True)[:-3])), "journal journal.jsonl: lacks 3 events of the ledger", True),
    "a line of the journal is spoilt": (spoil_journal, "journal journal.jsonl: ", True),
    "a file of source/ is deleted": (lambda root: (root / "source/t.csv").unlink(), "source versions/1/source/t.csv: is missing", False),
    "a file of source/ is edited": (lambda root: (root / "source/t.csv").write_text("x"), "source versions/1/source/t.csv: was edited", False),
    "a folder of an unknown attempt": (lambda root: (root / "tasks/sum/attempt-2").mkdir(), "attempts tasks/sum/attempt-2: is an attempt that the ledger does not know", False),
    "an output is a folder": (lambda root: ((root / "tasks/sum/attempt-1/sum.txt").unlink(), (root / "tasks/sum/attempt-1/sum.txt").mkdir()), "outputs tasks/sum/attempt-1/sum.txt: is no longer a file", False),
    "an output is a pipe": (lambda root: ((root / "tasks/sum/attempt-1/sum.txt").unlink(), os.mkfifo(root / "tasks/sum/attempt-1/sum.txt")), "outputs tasks/sum/attempt-1/sum.txt: is no longer a file", False),
    "results/ is a link": (lambda root: (shutil.rmtree(root / "results"), (root / "elsewhere").mkdir(), (root / "results").symlink_to("elsewhere")), "results results/sum.txt: cannot be linked: results is a link", False),
    "a folder in results/ is a file": (lambda root: (shutil.rmtree(root / "results/o"), (root / "results/o").write_text("mine")), "results results/o/mp-1-1.50: cannot be linked: results/o is not a folder", False),
    "task.json is a pipe": (lambda root: ((root / "tasks/sum/attempt-1/task.json").unlink(), os.mkfifo(root / "tasks/sum/attempt-1/task.json")), "attempts tasks/sum/attempt-1/task.json: is missing", False),
    "run.json is deep": (lambda root: (root / "run.json").write_text("[" * 100_000), "run.json run.json: is damaged", True),
    "the journal is deep": (lambda root: (root / "journal.jsonl").write_text("[" * 100_000 + "\n"), "journal journal.jsonl: ", True),
    ".gitignore is missing": (lambda root: (root / ".gitignore").unlink(), "files .gitignore: is missing or not a file", True),
    ".gitattributes is emptied": (lambda root: (root / ".gitattributes").write_text(""), "files .gitattributes: lacks lines that git needs", True),
    "run.json is spoilt": (lambda root: (root / "run.json").write_text("{"), "run.json run.json: ", True),
    "run.json is a folder": (lambda root: ((root / "run.json").unlink(), (root / "run.json").mkdir()), "run.json run.json: is missing", True),
    "the ledger is a pipe": (lambda root: ((root / "state.sqlite").unlink(), os.mkfifo(root / "state.sqlite")), "ledger state.sqlite: is damaged: it is not a regular file", True),
    "the ledger is a folder": (lambda root: ((root / "state.sqlite").unlink(), (root / "state.sqlite").mkdir()), "ledger state.sqlite: is damaged: it is not a regular file", True),
    "the journal is a pipe": (lambda root: ((root / "journal.jsonl").unlink(), os.mkfifo(root / "journal.jsonl")), "journal journal.jsonl: ", True),
    "the journal is a broken link": (lambda root: ((root / "journal.jsonl").unlink(), (root / "journal.jsonl").symlink_to("/nonexistent/x")), "journal journal.jsonl: is missing", True),
    "the lock is a folder": (lambda root: ((root / "run.lock").unlink(), (root / "run.lock").mkdir()), "lock run.lock: is not a regular file", True),
    "the lock is a pipe": (lambda root: ((root / "run.lock").unlink(), os.mkfifo(root / "run.lock")), "lock run.lock: is not a regular file", True),
    "the campaign is edited": (lambda root: (root / "campaign.yaml").write_text((root / "campaign.yaml").read_text() + "# mine\n"), "files campaign.yaml: differs from the file that the run took", False),
    "the operators are cut": (lambda root: (root / "operators.yaml").write_text(""), "files operators.yaml: differs from the file that the run took", False),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_repaired_where_that_needs_no_person(over, damage):
    spoil, expected, fixable = DAMAGE[damage]
    spoil(over.root)
    before = over.digest()

    found = examine(over.root, digests=True)

    assert over.digest() == before
    assert any(line.startswith(expected) for line in lines(found)), lines(found)
    done = over.cli("doctor", over.root, "--fix", "--digests")
    assert done.returncode == (0 if fixable else 1), done.stdout + done.stderr
    if not fixable:
        assert expected.split(": ")[0].split(" ", 1)[1] in done.stdout
    assert over.cli("step", over.root).returncode == 3


EXITS = {
    "empty": b"", "truncated": b'{"task": "a", "attempt": 1, "exit', "not JSON": b"done\n", "huge": b"x" * 2_000_000,
    "of another attempt": b'{"task": "a", "attempt": 7, "exit_code": 0}\n', "deep": b"[" * 50_000 + b"\n", "a list": b"[0]\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", EXITS)
def test_an_exit_json_that_is_not_whole_is_no_success_and_no_crash(bench, kind):
    bench.start("tasks: {a: {command: 'sleep 0.2; kill -9 $PPID'}, b: {command: 'true'}}\n")
    bench.step()
    bench.wait_for(bench.attempt("b") / "exit.json")
    (bench.attempt("a") / "exit.json").write_bytes(EXITS[kind])
    assert bench.step_until_over().state == "FAILED"
    assert "its process is gone (its exit.json is incomplete or belongs to another attempt)" in bench.reasons()["a"]
    assert bench.states()["b"] == "COMPLETED"


def test_a_deep_lock_file_is_written_anew(over):
    (over.root / "run.lock").write_text("[" * 100_000 + "\n")
    assert over.cli("step", over.root).returncode == 3
    assert json.loads((over.root / "run.lock").read_text())["released"]


def test_lines_of_the_journal_may_end_as_an_editor_left_them(over):
    journal = over.root / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"\n", b"\r\n"))
    assert over.cli("rerun", over.root, "broken").returncode == 0
    assert examine(over.root) == []
    (over.root / "state.sqlite").unlink()
    assert over.cli("doctor", over.root, "--fix").returncode == 0
    assert over.states()["broken"] == "PENDING"


def test_of_two_histories_a_person_moves_the_wrong_one_away(over):
    overwrite(over.root / "journal.jsonl", b'"kind": "run_created"', b'"kind": "run_made"')
    found = over.cli("doctor", over.root)
    assert "journal.jsonl:1: is an event of the unknown kind 'run_made'" in found.stdout
    overwrite(over.root / "journal.jsonl", b'"kind": "run_made"', b'"kind": "run_created"')
    overwrite(over.root / "journal.jsonl", b'"name": "t"', b'"name": "u"')
    found = over.cli("doctor", over.root)
    assert "does not follow from the line before: one of the two was edited or replaced" in found.stdout
    (over.root / "journal.jsonl").rename(over.root / "journal.wrong")
    assert over.cli("doctor", over.root, "--fix").returncode == 0
    assert examine(over.root) == []


@pytest.mark.parametrize("name", ["stdout.log", "stderr.log", "task.json"])
def test_a_pipe_in_place_of_a_file_lets_no_command_wait(over, name):
    file = over.root / "tasks" / "broken" / "attempt-1" / name
    file.unlink(missing_ok=True)  # an empty log is removed
    os.mkfifo(file)
    for words in (
        ["logs", over.root, "broken"],
        ["explain", over.root],
        ["explain", over.root, "broken"],
        ["doctor", over.root],
    ):
        assert "Traceback" not in over.cli(*words).stderr
    (over.root / "state.sqlite").unlink()
    assert over.cli("doctor", over.root, "--fix").returncode in (0, 1)


@pytest.mark.parametrize("damage", ["latin-1", "a pipe"])
def test_a_gitignore_that_cannot_be_read_stops_no_step(bench, damage):
    bench.start(
        "git_max_size: 1K\n"
        "tasks: {a: {command: 'head -c 5000 /dev/zero > big', outputs: {o: big}}, b: {needs: [a], command: 'true'}}\n"
    )
    file = bench.root / ".gitignore"
    if damage == "latin-1":
        file.write_bytes(file.read_bytes() + b"# caf\xe9\n")
    else:
        file.unlink()
        os.mkfifo(file)
    assert bench.step_until_over().state == "COMPLETED"
    assert damage == "a pipe" or file.read_bytes().endswith(b"# caf\xe9\n/tasks/a/attempt-1/big\n")


def test_numbers_and_times_that_nobody_means_are_no_end(bench):
    bench.start("tasks: {a: {command: 'sleep 0.2; kill -9 $PPID'}, b: {command: 'true'}}\n")
    bench.step()
    bench.wait_for(bench.attempt("b") / "exit.json")
    (bench.attempt("a") / "exit.json").write_text('{"task": "a", "attempt": 1, "exit_code": 1' + "0" * 30 + "}\n")
    text = (bench.attempt("b") / "exit.json").read_text()
    (bench.attempt("b") / "exit.json").write_text(
        re.sub(r'"ended_at": "[^"]*"', '"ended_at": "0001-01-01T00:00:00Z"', text)
    )
    assert bench.step_until_over().state == "FAILED"
    assert bench.states() == {"a": "FAILED", "b": "COMPLETED"}
    before = content(bench.root / "state.sqlite")
    (bench.root / "state.sqlite").unlink()
    assert bench.cli("doctor", bench.root, "--fix").returncode == 0
    assert content(bench.root / "state.sqlite") == before


def test_a_task_whose_input_is_gone_says_so_before_it_starts(bench):
    bench.start(
        "tasks: {a: {command: 'echo 1 > o', outputs: {o: o}}, b: {inputs: {x: o}, command: 'cat ${{ inputs.x }}; echo b >> WITNESS'}}\n"
    )
    bench.step()
    bench.wait_for(bench.attempt("a") / "exit.json")
    bench.cli("pause", bench.root)
    bench.step()
    (bench.attempt("a") / "o").unlink()
    bench.cli("resume", bench.root)

    assert bench.step_until_over().state == "FAILED"

    assert bench.reasons()["b"] == (
        f"attempt 1: its input x, tasks/a/attempt-1/o, is gone; restore it and `matterstack rerun {bench.root} b`, "
        f"or `matterstack rerun {bench.root} a --downstream`"
    )
    bench.cli("rerun", bench.root, "a", "--downstream")
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["b"]


@pytest.mark.parametrize("link", ["tasks", "tasks/a"])
def test_a_link_in_place_of_a_folder_of_attempts_is_not_followed(bench, link):
    bench.start("tasks: {a: {command: 'echo a >> WITNESS'}}\n")
    (bench.folder / "else").mkdir()
    if link == "tasks":
        (bench.root / link).rmdir()
    (bench.root / link).symlink_to(bench.folder / "else")
    assert bench.step_until_over().state == "FAILED"
    real = bench.folder / "else"
    assert bench.reasons()["a"] == f"attempt 1: {link} is a symlink to {real}; replace it by the folder itself"
    assert not list((bench.folder / "else").iterdir())
    assert not bench.witness.exists()


def test_doctor_says_what_a_live_attempt_without_its_folder_comes_to(bench):
    bench.start("tasks: {a: {command: 'sleep 30', retries: 1}}\n")
    bench.step()
    bench.wait_for(bench.attempt("a") / "stderr.log")
    shutil.rmtree(bench.attempt("a"))
    assert f"what it computes is lost; `matterstack rerun {bench.root} a`" in bench.cli("doctor", bench.root).stdout
    bench.cli("cancel", bench.root)


def test_an_exit_json_that_turns_up_late_counts(bench):
    bench.start(
        "tasks: {a: {command: 'kill -9 $PPID; sleep 0.2; echo 1 > o', outputs: {o: o}}, b: {inputs: {o: o}, command: 'cp ${{ inputs.o }} p', outputs: {p: p}}}\n"
    )
    bench.step_until_over()
    assert bench.states() == {"a": "FAILED", "b": "BLOCKED"}
    (bench.attempt("a") / "exit.json").write_text(
        '{"task": "a", "attempt": 1, "exit_code": 0, "started_at": "2026-11-22T00:00:00Z", "ended_at": "2026-11-22T00:00:01Z"}\n'
    )
    bench.step()
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.root / "results" / "p").read_text() == "1\n"
    assert [item["state"] for item in bench.journal() if item.get("task") == "a" and "state" in item][-1] == "COMPLETED"


# --- readers, versions -----------------------------------------------------------------------------------------------


def test_a_reader_meets_a_commit_that_was_cut_and_reads_the_journal(over):
    before = open_run(over.root).to_json()
    db = sqlite3.connect(over.root / "state.sqlite", isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE tasks SET reason = hex(randomblob(2000))")
    hot = {p.name: p.read_bytes() for p in over.root.glob("state.sqlite*")}
    db.execute("ROLLBACK")
    db.close()
    assert len(hot) == 2
    for name, data in hot.items():
        (over.root / name).write_bytes(data)

    done = over.cli("status", over.root, "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["counts"] == before["counts"]
    assert "a killed step left an unfinished commit; reading journal.jsonl instead" in done.stderr
    over.cli("step", over.root)
    assert over.cli("status", over.root).stderr == ""


def test_an_older_ledger_is_migrated_with_a_backup_and_readers_wait_for_that(over):
    from matterstack.errors import LedgerError
    from matterstack.storage.migrations import MIGRATIONS

    ledger, now = over.root / "state.sqlite", len(MIGRATIONS)
    newer = (*MIGRATIONS, ("ALTER TABLE run ADD COLUMN note TEXT",), ("UPDATE run SET note = 'x'",))
    with pytest.raises(
        LedgerError,
        match=rf"has schema {now}, this MatterStack reads {now + 2}; `matterstack step .*runs/t` migrates it",
    ):
        SQLiteStateStore(ledger, read_only=True, migrations=newer)
    whole = content(ledger)

    with SQLiteStateStore(ledger, migrations=newer) as store:
        assert store.db.execute("SELECT note FROM run").fetchone() == ("x",)

    assert content(over.root / f"state.sqlite.v{now}-backup") == whole
    broken = (*newer, ("CREATE TABLE fine (x)", "THIS IS NO SQL"))
    with pytest.raises(LedgerError, match="syntax error"):
        SQLiteStateStore(ledger, migrations=broken)
    with SQLiteStateStore(ledger, migrations=newer) as store:
        assert store.db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'fine'").fetchone() == (0,)


def test_doctor_json_and_exit_codes(over):
    assert json.loads(over.cli("doctor", over.root, "--json").stdout) == {"findings": [], "fixed": []}
    (over.root / "results" / "sum.txt").unlink()
    done = over.cli("doctor", over.root, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["findings"] == [
        {
            "check": "results", "path": "results/sum.txt", "message": "is missing",
            "remedy": f"`matterstack doctor {over.root} --fix` sets it", "fixable": True,
        }
    ]  # fmt: skip
    assert json.loads(over.cli("doctor", over.root, "--fix", "--json").stdout) == {
        "findings": [], "fixed": ["results/sum.txt: linked"],
    }  # fmt: skip


def test_doctor_leaves_a_run_alone_that_somebody_works_on(bench):
    bench.start("tasks: {a: {command: 'sleep 3'}}\n")
    loop = bench.popen("run", bench.root)
    bench.wait_for(bench.attempt("a") / "claim")
    began = time.monotonic()
    assert bench.cli("doctor", bench.root).returncode == 0
    assert time.monotonic() - began < 3
    loop.communicate()


def test_after_a_reboot_the_results_of_the_last_minutes_are_checked_once(over):
    lock = over.root / "run.lock"
    lock.write_text(lock.read_text().replace('"boot": "', '"boot": "of another life '))
    (over.root / "tasks" / "sum" / "attempt-1" / "sum.txt").write_text("")

    first = over.cli("step", over.root).stderr

    assert "warning: the machine was rebooted: tasks/sum/attempt-1/sum.txt: is not what the task made" in first
    assert f"or `matterstack rerun {over.root} sum`" in first
    assert "rebooted" not in over.cli("step", over.root).stderr


def test_a_ledger_is_rebuilt_without_the_campaign_file(over):
    before = content(over.root / "state.sqlite")
    (over.root / "campaign.yaml").write_text((over.root / "campaign.yaml").read_text().replace("exit 3", "exit 7"))
    (over.root / "state.sqlite").unlink()
    assert over.cli("doctor", over.root, "--fix").returncode == 1
    assert content(over.root / "state.sqlite") == before
    assert lines(examine(over.root)) == [
        "files campaign.yaml: differs from the file that the run took; the run is unaffected"
    ]


def test_a_ledger_is_not_rebuilt_from_instances_that_were_edited(over):
    file = next(path for path in (over.root / "expanded").iterdir() if b"below_bad" in path.read_bytes())
    file.write_text(file.read_text().replace("exit 3", "exit 7") + " ")
    assert [item.path for item in examine(over.root)] == [f"expanded/{file.name}"]
    (over.root / "state.sqlite").unlink()
    done = over.cli("doctor", over.root, "--fix")
    assert done.returncode == 1
    assert "was edited: its name is its sha256; restore it from git or a backup" in done.stderr


def test_doctor_makes_nothing_where_there_is_no_run(bench):
    for words in ((), ("--fix",)):
        done = bench.cli("doctor", "nosuch", *words)
        assert (done.returncode, done.stdout) == (2, "")
    assert not (bench.folder / "nosuch").exists()


def test_what_was_kept_aside_is_never_overwritten(over):
    (over.root / "state.sqlite.damaged-1-journal").write_text("earlier")
    (over.root / "state.sqlite").write_bytes(b"")
    repair(over.root)
    assert (over.root / "state.sqlite.damaged-1-journal").read_text() == "earlier"
    assert (over.root / "state.sqlite.damaged-2").read_bytes() == b""
