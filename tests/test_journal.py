"""The journal is a chain: a line that was edited, removed, added or moved is noticed by whatever writes, and by doctor."""

from __future__ import annotations

import json

import pytest

from matterstack.core.events import Paused, Resumed, SourceChanged
from matterstack.errors import RunRootError
from matterstack.orchestration.session import open_to_write
from matterstack.storage import journal as journal_module
from tests.histories import HERE


@pytest.fixture
def over(bench):
    bench.start("tasks: {a: {command: 'true'}, b: {needs: [a], command: 'true'}}\n")
    bench.step_until_over()
    return bench


def lines_of(bench):
    return (bench.root / "journal.jsonl").read_bytes().splitlines(keepends=True)


TAMPERED = {
    "a line edited": lambda lines: [line.replace(b"COMPLETED", b"FAILED") for line in lines],
    "a line removed": lambda lines: [*lines[:3], *lines[4:]],
    "two lines swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "the last line twice": lambda lines: [*lines, lines[-1]],
    "an old line at the end": lambda lines: [*lines, lines[2]],
    "the first line removed": lambda lines: lines[1:],
    "text at the end": lambda lines: [*lines, b"hello\n"],
    "another version's journal": lambda lines: (
        (HERE / "version-1" / "run" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    ),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_a_journal_that_was_tampered_with_stops_who_writes_and_is_written_again_by_doctor(over, tamper):
    (over.root / "journal.jsonl").write_bytes(b"".join(tamper(lines_of(over))))
    tampered = (over.root / "journal.jsonl").read_bytes()

    step, pause, found = (over.cli(*words, over.root) for words in (["step"], ["pause"], ["doctor"]))

    assert (step.returncode, pause.returncode, found.returncode) == (1, 1, 1), (step, pause, found)
    assert all(len(done.stderr.splitlines()) == 1 and "journal.jsonl" in done.stderr for done in (step, pause))
    assert "journal.jsonl" in found.stdout
    assert (over.root / "journal.jsonl").read_bytes() == tampered


def test_doctor_writes_a_broken_chain_again_and_keeps_the_old_file(over):
    good = lines_of(over)
    (over.root / "journal.jsonl").write_bytes(b"".join([*good[:3], *good[4:]]))

    fixed = over.cli("doctor", over.root, "--fix")

    assert "journal.jsonl: written from the ledger" in fixed.stdout
    assert lines_of(over) == good
    assert over.cli("step", over.root).returncode == 0


def test_what_is_missing_at_the_end_is_written_by_the_next_step(over):
    good = lines_of(over)
    (over.root / "journal.jsonl").write_bytes(b"".join(good[:-2]) + good[-2][:20])

    assert over.cli("step", over.root).returncode == 0
    assert lines_of(over) == good


def test_a_journal_of_version_1_is_kept_once(bench, tmp_path):
    from tests.test_version_1 import command, make

    root = make(tmp_path / "runs" / "v1")
    command("pause", root, "after_slow")
    kept = (root / "journal.v1.jsonl").read_bytes()
    (root / "journal.jsonl").write_bytes(b"".join(kept.splitlines(keepends=True)[:20]))

    done = command("step", root)

    assert done.returncode == 1 and "journal.jsonl" in done.stderr
    assert (root / "journal.v1.jsonl").read_bytes() == kept


class Interrupted:
    """A database whose next commit is made, and then interrupted by Ctrl-C."""

    def __init__(self, db):
        self.db = db

    def __getattr__(self, name):
        return getattr(self.db, name)

    def execute(self, statement, *values):
        done = self.db.execute(statement, *values)
        if statement == "COMMIT":
            raise KeyboardInterrupt
        return done


def test_ctrl_c_just_after_a_commit_leaves_no_gap(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    with open_to_write(bench.root) as store:
        store.append([Paused()], 1.8e9)
        db, store.db = store.db, Interrupted(store.db)
        with pytest.raises(KeyboardInterrupt):
            store.append([Resumed()], 1.8e9)
        store.db = db

        store.append([Paused()], 1.8e9)

        assert [entry.event.kind for entry in store.journal.read()][-3:] == ["paused", "resumed", "paused"]


def test_a_disk_that_is_full_in_the_middle_of_a_group_leaves_no_line_that_the_ledger_does_not_have(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    with open_to_write(bench.root) as store:
        store.append([Paused()], 1.8e9)
        store.append([Resumed()], 1.8e9, sync=False)
        pages = store.db.execute("PRAGMA page_count").fetchone()[0]
        store.db.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(RunRootError, match="full"):
            store.append([SourceChanged("x" * 200_000)], 1.8e9, sync=False)
        store.db.execute("PRAGMA max_page_count = 1000000")

        store.append([Paused()], 1.8e9)

        known = [json.loads(line)["seq"] for line in store.lines_after(0)]
        assert [entry.seq for entry in store.journal.read()] == known


@pytest.fixture
def long(bench, monkeypatch):
    """A run whose journal has become several files."""
    monkeypatch.setattr(journal_module, "_SEGMENT", 2_000)
    bench.start("tasks: {a: {matrix: {i: [1, 2, 3, 4, 5, 6]}, command: 'true'}, b: {needs: [a], command: 'true'}}\n")
    bench.step_until_over()
    bench.cli("pause", bench.root)
    assert len(segments(bench)) >= 2
    return bench


def segments(bench):
    return sorted((bench.root / "journal").iterdir())


def test_what_is_older_than_a_segment_never_changes_again(long):
    before = {path.name: path.read_bytes() for path in segments(long)}
    long.step()

    assert {path.name: path.read_bytes() for path in segments(long)[: len(before)]} == before
    numbers = [
        json.loads(line)["seq"] for path in [*segments(long), long.root / "journal.jsonl"] if path.exists()
        for line in path.read_text().splitlines()
    ]  # fmt: skip
    assert numbers == list(range(1, len(numbers) + 1))
    assert long.cli("doctor", long.root).stdout == "nothing is wrong\n"


def test_a_ledger_is_rebuilt_from_all_segments(long):
    states = long.states()
    (long.root / "state.sqlite").unlink()

    assert "there is no ledger here" in long.cli("status", long.root).stderr
    assert long.cli("doctor", long.root, "--fix").returncode == 0

    assert long.states() == states
    assert long.cli("doctor", long.root).stdout == "nothing is wrong\n"


def test_an_edit_in_a_segment_is_told_with_its_line_and_doctor_writes_the_journal_anew(long):
    second = segments(long)[1]
    lines = second.read_text().splitlines(keepends=True)
    second.write_text("".join([lines[0].replace('"at": "2', '"at": "3'), *lines[1:]]))

    refused = long.cli("step", long.root)
    assert refused.returncode == 1
    assert f"{second}:1: differs from the ledger" in refused.stderr

    assert "journal.damaged-1 and journal.jsonl.damaged-1" in long.cli("doctor", long.root, "--fix").stdout
    assert long.cli("step", long.root).returncode == 0
    assert long.cli("doctor", long.root).stdout == "nothing is wrong\n"


def test_a_missing_current_file_is_written_again_from_the_ledger(long):
    (long.root / "journal.jsonl").unlink(missing_ok=True)

    assert long.cli("step", long.root).returncode == 0

    assert long.cli("doctor", long.root).stdout == "nothing is wrong\n"
