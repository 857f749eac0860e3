"""The journal is a chain: a line that was edited, removed, added or moved is noticed by whatever writes, and by doctor."""

from __future__ import annotations

import pytest

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
