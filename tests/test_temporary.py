"""Temporary outputs: there as long as somebody reads them, and made again if somebody needs them again."""

from __future__ import annotations

import json

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
