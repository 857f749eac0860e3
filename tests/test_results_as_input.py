"""A table of the results of a group, as an input."""

from __future__ import annotations

import pytest

from matterstack.errors import CampaignError
from matterstack.spec.load import load_campaign

TEXT = (
    'tasks:\n  relax: {matrix: {m: [Al, Cu, Ag]}, command: \'echo "{\\"e\\": -1.5}" > metrics.json; [ ${{ matrix.m }} != Cu ]\'}\n'
    "  fit: {inputs: {table: {results: relax}}, command: 'cat ${{ inputs.table }}; cp ${{ inputs.table }} o', outputs: {o: o}}\n"
)


def test_it_has_a_row_for_each_also_of_what_failed(bench):
    bench.start(TEXT)
    bench.step_until_over()
    assert bench.states()["fit"] == "COMPLETED"
    made = (bench.root / "results/o").read_text()
    assert made == (
        "task,state,attempt,matrix.m,metrics.e\nrelax/Al,COMPLETED,1,Al,-1.5\nrelax/Cu,FAILED,1,Cu,-1.5\nrelax/Ag,COMPLETED,1,Ag,-1.5\n"
    )
    assert made == bench.cli("results", bench.root, "--csv", "--task", "relax").stdout
    assert (bench.attempt("fit") / "table.csv").exists()


def test_it_is_stale_once_one_of_them_has_another_result(bench):
    bench.start(TEXT.replace("-1.5", "$RANDOM"))
    bench.step_until_over()
    assert "stale  fit" not in bench.cli("status", bench.root).stdout
    bench.cli("rerun", bench.root, "relax/Al")
    bench.step_until_over()
    assert "stale  fit: made from attempt 1 of relax/Al" in bench.cli("status", bench.root).stdout


def test_another_name_and_what_is_no_task(bench):
    bench.start(TEXT.replace("{results: relax}", "{results: relax, as: deep/er/all.csv}"))
    bench.step_until_over()
    assert (bench.attempt("fit") / "deep/er/all.csv").exists()
    with pytest.raises(CampaignError, match=r"'relay' is not a task \(did you mean 'relax'\?\); there are relax"):
        load_campaign(bench.write(TEXT.replace("results: relax", "results: relay")))
    with pytest.raises(CampaignError, match="'fit' is the task itself"):
        load_campaign(bench.write(TEXT.replace("results: relax", "results: fit")))


def test_a_row_that_is_added_makes_it_stale(bench):
    bench.start(TEXT)
    bench.step_until_over()
    bench.write(TEXT.replace("Ag]", "Ag, Au]"))
    assert "1 COMPLETED becomes stale (1 more input): fit" in bench.cli("amend", bench.root, "--yes").stdout


def test_it_names_the_attempts_that_it_was_made_from_when_both_run_again(bench):
    bench.start(TEXT.replace("-1.5", "$MATTERSTACK_ATTEMPT"))
    bench.step_until_over()
    bench.cli("rerun", bench.root, "relax/Al", "relax/Cu", "fit")
    assert bench.cli("run", "-q", bench.root).returncode == 3
    made = (bench.root / "results/o").read_text()
    assert made.splitlines()[1:] == ["relax/Al,COMPLETED,2,Al,2", "relax/Cu,FAILED,2,Cu,2", "relax/Ag,COMPLETED,1,Ag,1"]
    assert made == bench.cli("results", bench.root, "--csv", "--task", "relax").stdout
    assert "stale  fit" not in bench.cli("status", bench.root).stdout


def test_it_is_stale_once_one_of_them_that_was_not_there_is_or_failed_since(bench):
    bench.start(
        "tasks:\n"
        "  y: {command: 'test -f ../../../flag'}\n"
        "  z: {needs: [y], command: 'test -f ../../../flag', outputs: {}}\n"
        "  fit: {inputs: {t: {results: z}}, command: 'cat ${{ inputs.t }}'}\n"
    )
    bench.step_until_over()
    (bench.root / "flag").touch()
    bench.cli("rerun", bench.root, "y", "--yes")
    bench.step_until_over()
    assert "stale  fit: made without z, which has succeeded since" in bench.cli("status", bench.root).stdout
    bench.cli("rerun", bench.root, "--stale", "--yes")
    bench.step_until_over()
    assert "stale  fit" not in bench.cli("status", bench.root).stdout
    (bench.root / "flag").unlink()
    bench.cli("rerun", bench.root, "z")
    bench.step_until_over()
    assert "stale  fit: has read z before its attempt 2 failed" in bench.cli("status", bench.root).stdout


def test_the_name_of_the_table_cannot_be_that_of_an_output(bench):
    told = bench.cli(
        "validate",
        bench.write(
            "tasks: {a: {command: 'true'}, b: {inputs: {t: {results: a}}, command: 'true', outputs: {o: t.csv}}}\n"
        ),
    )
    assert told.returncode == 2
    assert "tasks.b.inputs.t: 't.csv' is an output as well; the copy would count as written; set `as`" in told.stderr
