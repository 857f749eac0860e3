"""Temporary outputs: there as long as somebody reads them, and made again if somebody needs them again."""

from __future__ import annotations

import json

import pytest

from matterstack.care.checks import examine
from matterstack.care.repair import repair
from tests.test_doctor import content

TEXT = (
    "tasks:\n"
    "  scf: {matrix: {x: [1, 2]}, command: 'echo scf${{ matrix.x }} >> WITNESS; echo ${{ matrix.x }} > wf; mkdir -p d; echo 1 > d/a', outputs: {wf: {path: 'wf/${{ matrix.x }}', file: wf, temporary: true}, "
    "d: {path: 'd/${{ matrix.x }}/', file: d/, temporary: true}}}\n"
    "  band: {matrix: {x: [1, 2]}, inputs: {wf: 'wf/${{ matrix.x }}', d: 'd/${{ matrix.x }}/'}, command: 'echo band${{ matrix.x }} >> WITNESS; cp ${{ inputs.wf }} b; BAD', outputs: {b: {file: b, path: 'b/${{ matrix.x }}'}}}\n"
)


def there(bench, x, attempt=1):
    return (bench.attempt(f"scf/{x}", attempt) / "wf").exists(), (bench.root / f"results/wf/{x}").is_symlink()


def test_it_is_removed_when_all_that_read_it_are_done(bench):
    bench.start(TEXT.replace("BAD", "[ ${{ matrix.x }} = 1 ]"))
    bench.step_until_over()
    assert bench.states()["band/2"] == "FAILED"
    assert there(bench, 1) == (False, False)
    assert there(bench, 2) == (True, True)  # a reader that failed keeps it
    assert not (bench.attempt("scf/1") / "d").exists()
    assert examine(bench.root) == []
    bench.write(TEXT.replace("BAD", "true"))
    bench.cli("amend", bench.root, "--yes")
    assert bench.step_until_over().state == "COMPLETED"
    assert there(bench, 2) == (False, False)


def test_a_rerun_of_a_reader_makes_it_again_and_says_so_before(bench):
    bench.start(TEXT.replace("BAD", "true"))
    bench.step_until_over()
    bench.witness.unlink()
    told = json.loads(bench.cli("rerun", bench.root, "band/1", "--dry-run", "--json").stdout)
    assert told["tasks"] == ["scf/1", "band/1"]
    bench.cli("rerun", bench.root, "band/1")
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["scf1", "band1"]
    assert there(bench, 1, 2) == (False, False)
    assert "stale" not in bench.cli("status", bench.root).stdout.replace(str(bench.root), "")


def test_a_new_reader_makes_it_again_and_the_preview_shows_that(bench):
    bench.start(TEXT.replace("BAD", "true"))
    bench.step_until_over()
    bench.witness.unlink()
    bench.write(
        TEXT.replace("BAD", "true")
        + "  dos: {inputs: {wf: wf/1}, command: 'cat ${{ inputs.wf }} > o', outputs: {o: o}}\n"
    )
    told = bench.cli("amend", bench.root, "--yes").stdout
    assert "  scf   1 COMPLETED becomes PENDING (its temporary output is needed again): 1; 1 COMPLETED stays" in told
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["scf1"]
    assert (bench.root / "results/o").read_text() == "1\n"
    assert there(bench, 1, 2) == (False, False)


def test_what_nobody_reads_stays_and_a_lost_ledger_knows_what_was_removed(bench):
    bench.start(
        TEXT.replace("BAD", "true") + "  alone: {command: 'echo 1 > z', outputs: {z: {path: z, temporary: true}}}\n"
    )
    bench.step_until_over()
    assert (bench.root / "results/z").read_text() == "1\n"
    before = content(bench.root / "state.sqlite")
    (bench.root / "state.sqlite").unlink()
    repair(bench.root)
    assert content(bench.root / "state.sqlite") == before
    (bench.attempt("scf/1") / "wf").write_text("left by a killed step")
    assert [item.message for item in examine(bench.root)] == ["is temporary and was to be removed"]
    repair(bench.root)
    assert examine(bench.root) == []


CHAIN = (
    "tasks:\n"
    "  p: {command: 'echo p >> WITNESS; echo hi > w; echo a > a', outputs: {w: {path: w, temporary: true}, a: a}}\n"
    "  x: {command: 'test -f ../../../flag && echo 1 > x', outputs: {x: x}, allow_failure: true}\n"
    "  r: {inputs: {w: w, x: x}, command: 'cat ${{ inputs.w }} ${{ inputs.x }} > r', outputs: {r: r}}\n"
    "  other: {inputs: {a: a}, command: 'cat ${{ inputs.a }}'}\n"
    "  after: {needs: [p], command: 'true'}\n"
    "  s: {inputs: {w: w}, command: 'cat ${{ inputs.w }} > s', outputs: {s: s}}\n"
)


def completed(bench):
    bench.start(CHAIN)
    bench.step_until_over()
    assert not (bench.attempt("p") / "w").exists()
    bench.witness.unlink()


@pytest.mark.parametrize("task", ["other", "after"])
def test_what_does_not_read_it_does_not_need_it_again(bench, task):
    completed(bench)
    assert json.loads(bench.cli("rerun", bench.root, task, "--dry-run", "--json").stdout)["tasks"] == [task]


def test_a_reader_that_is_opened_by_a_rerun_above_it_has_it_made_again(bench):
    completed(bench)
    assert bench.states()["r"] == "SKIPPED"
    (bench.root / "flag").touch()
    assert json.loads(bench.cli("rerun", bench.root, "x", "--dry-run", "--json").stdout)["tasks"] == ["p", "x"]
    bench.cli("rerun", bench.root, "x", "--yes")
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["p"]
    assert (bench.root / "results/r").read_text() == "hi\n1\n"


def test_a_reader_that_is_opened_by_an_amendment_above_it_has_it_made_again(bench):
    completed(bench)
    bench.write(CHAIN.replace("test -f ../../../flag &&", ""))
    told = bench.cli("amend", bench.root, "--yes").stdout
    assert "p      1 COMPLETED becomes PENDING (its temporary output is needed again)" in told
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.root / "results/r").read_text() == "hi\n1\n"


def test_a_reader_that_is_opened_by_complete_has_it_made_again(bench):
    completed(bench)
    (bench.folder / "mine").write_text("by hand\n")
    told = bench.cli("complete", bench.root, "x", "--output", "x=mine", "--why", "measured").stdout
    assert "1 task below can run now, after 1 task whose temporary outputs were removed (p)" in told
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.root / "results/r").read_text() == "hi\nby hand\n"


def test_a_reader_that_comes_back_has_it_made_again(bench):
    completed(bench)
    without = "".join(line for line in CHAIN.splitlines(True) if not line.startswith("  s:"))
    bench.write(without)
    bench.cli("amend", bench.root, "--yes")
    bench.write(CHAIN.replace("> s'", ">> s'"))
    bench.cli("amend", bench.root, "--yes")
    assert "error" not in bench.cli("rerun", bench.root, "s").stderr
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["p"]


def test_a_fork_takes_over_what_was_removed_if_nobody_needs_it(bench):
    text = CHAIN.replace("test -f ../../../flag &&", "")
    bench.start(text)
    bench.step_until_over()
    fork = bench.folder / "fork"
    made = bench.cli("init", "--from", bench.root, "--root", fork, "--yes", bench.write(text, "other.yaml"))
    assert "  p: 1 of 1 reused\n" in made.stdout
    assert "  s: 1 of 1 reused\n" in made.stdout
    assert bench.cli("run", "-q", fork).returncode == 0
    assert bench.witnessed() == ["p"]  # of the run before
    assert not (fork / "results/w").is_symlink()
    assert examine(fork) == []
    before = content(fork / "state.sqlite")
    (fork / "state.sqlite").unlink()
    repair(fork)
    assert content(fork / "state.sqlite") == before
    told = json.loads(bench.cli("rerun", fork, "s", "--dry-run", "--json").stdout)
    assert told["tasks"] == ["p", "s"]
    bench.cli("rerun", fork, "s")
    assert bench.cli("run", "-q", fork).returncode == 0
    assert (fork / "results/s").read_text() == "hi\n"


def test_a_fork_makes_what_was_removed_again(bench):
    completed(bench)
    changed = bench.write(CHAIN.replace("> s'", ">> s'"), "other.yaml")
    fork = bench.folder / "fork"
    told = bench.cli("init", "--from", bench.root, "--root", fork, changed, "--yes")
    assert told.returncode == 0, told.stderr
    assert bench.cli("run", "-q", fork).returncode == 0
    assert (fork / "results/s").read_text() == "hi\n"


def test_it_is_removed_when_its_last_reader_is_done_by_hand_or_retired(bench):
    text = CHAIN.replace("cat ${{ inputs.w }} > s", "false").replace("test -f ../../../flag &&", "")
    bench.start(text)
    bench.step_until_over()
    assert (bench.attempt("p") / "w").exists()
    (bench.folder / "mine").write_text("by hand\n")
    bench.cli("complete", bench.root, "s", "--output", "s=mine", "--why", "by hand")
    assert not (bench.attempt("p") / "w").exists()
    assert examine(bench.root) == []


def test_of_each_attempt_and_after_the_last_reader_is_retired(bench):
    text = CHAIN.replace("cat ${{ inputs.w }} > s", "false").replace("test -f ../../../flag &&", "")
    bench.start(text)
    bench.step_until_over()
    bench.cli("rerun", bench.root, "p")
    bench.step_until_over()
    assert [(bench.attempt("p", number) / "w").exists() for number in (1, 2)] == [True, True]
    bench.write("".join(line for line in text.splitlines(True) if not line.startswith("  s:")))
    bench.cli("amend", bench.root, "--yes")
    assert [(bench.attempt("p", number) / "w").exists() for number in (1, 2)] == [False, False]
    assert examine(bench.root) == []


def test_an_output_that_is_to_be_kept_from_now_on_is_made_again(bench):
    completed(bench)
    bench.write(CHAIN.replace(", temporary: true", ""))
    assert "p      1 COMPLETED becomes PENDING" in bench.cli("amend", bench.root, "--yes").stdout
    bench.step_until_over()
    assert (bench.root / "results/w").read_text() == "hi\n"


def test_what_changes_and_is_needed_again_is_told_once(bench):
    bench.start(TEXT.replace("BAD", "true"))
    bench.step_until_over()
    bench.write(
        TEXT.replace("BAD", "true").replace("echo 1 > d/a", "echo 2 > d/a")
        + "  dos: {inputs: {wf: wf/1}, command: 'cat ${{ inputs.wf }} > o', outputs: {o: o}}\n"
    )
    told = [line for line in bench.cli("amend", bench.root, "--yes").stdout.splitlines() if line.startswith("  scf ")]
    assert told == [
        "  scf   1 COMPLETED becomes stale (command): 2; 1 COMPLETED becomes PENDING (its temporary output is needed again): 1"
    ]
    assert bench.step_until_over().state == "COMPLETED"
