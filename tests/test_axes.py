"""Axes that are not written out: ranges, lockstep, files."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterstack.errors import CampaignError
from matterstack.spec.axes import range_values
from matterstack.spec.load import load_campaign


def labels(bench, matrix, params="", more=""):
    text = f"{params}tasks: {{a: {{matrix: {matrix}, command: 'true'{more}}}}}\n"
    return [item.label for item in load_campaign(bench.write(text)).instances]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("[0.95, 1.05, 0.01]", "0.95 0.96 0.97 0.98 0.99 1.00 1.01 1.02 1.03 1.04 1.05"),
        ("[0.9, 1.1, 0.05]", "0.90 0.95 1.00 1.05 1.10"),
        ("[1.00, 2, 0.5]", "1.00 1.50 2.00"),
        ("[300, 100, -100]", "300 200 100"),
        ("[1e-3, 3e-3, 1e-3]", "0.001 0.002 0.003"),
        ("[2, 4]", "2 3 4"),
        ("3", "1 2 3"),
        ('"${{ params.n }}"', "1 2"),
        ('[1, "${{ params.n }}"]', "1 2"),
        ("[5, 5, 1]", "5"),
    ],
)
def test_a_range_has_both_ends_and_the_digits_that_are_written(bench, written, found):
    assert labels(bench, f"{{x: {{range: {written}}}}}", "params: {n: 2}\n") == found.split()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("[0, 1, 0.3]", "1 is not met in steps of 0.3 from 0: write 0.9 or 1.2 as the last"),
        ("[0, 1, 0]", "a step of 0 never leads from 0 to 1"),
        ("[0, 1, -1]", "a step of -1 never leads from 0 to 1"),
        ("0", "expected [start, last, step], or a number n for 1 to n, got 0"),
        ("1.5", "expected [start, last, step]"),
        ('"${{ params.text }}"', "expected [start, last, step]"),
        ("1000000000", "1000000000 values; a campaign may have 250000 instances"),
        ("[1, 1e300, 1]", "1e300 is out of range"),
        ("[a, b]", "expected [start, last, step]"),
        ("[1]", "expected [start, last, step]"),
    ],
)
def test_a_range_that_cannot_be_is_told_where_it_stands(bench, written, told):
    with pytest.raises(CampaignError) as caught:
        labels(bench, f"{{x: {{range: {written}}}}}", "params: {text: many}\n")
    (problem,) = caught.value.problems
    assert told in problem.message or "expected" in problem.message
    assert problem.where.startswith("tasks.a.matrix.x")


numbers = st.decimals(min_value=-1000, max_value=1000, places=3)


@given(start=numbers, step=numbers.filter(bool), count=st.integers(0, 200))
def test_any_range_is_exact(start, step, count):
    from matterstack.core.values import Float

    given_ = [Float(str(value)) for value in (start, start + step * count, step)]
    found = range_values(given_, 1000)
    assert [Decimal(str(value)) for value in found] == [start + step * number for number in range(count + 1)]
    assert all(len(str(value).partition(".")[2]) == 3 for value in found)


def test_axes_in_lockstep_are_one_axis(bench):
    matrix = "{q: [0, 1, -1], m: [a, b], s: [1, 2, 2], zip: [q, s]}"
    assert labels(bench, matrix) == ["0-a-1", "0-b-1", "1-a-2", "1-b-2", "-1-a-2".replace("-1", "_1", 1), "_1-b-2"]


def test_axes_of_other_lengths_name_both(bench):
    with pytest.raises(CampaignError, match="'q' has 2 and 's' has 3"):
        labels(bench, "{q: [0, 1], s: [1, 2, 3], zip: [q, s]}")
    with pytest.raises(CampaignError, match="'t' is not an axis with values; zip takes q, s"):
        labels(bench, "{q: [0, 1], s: [1, 2], zip: [q, t]}")


def test_files_are_values_and_inputs(bench):
    (bench.folder / "cells").mkdir()
    for name in ("Al.cif", "Cu O.cif", "x.txt"):
        (bench.folder / "cells" / name).write_text(name)
    bench.start(
        "tasks: {a: {matrix: {cell: {files: 'cells/*.cif'}}, command: 'cat ${{ inputs.cell }} > ${{ outputs.o }}; echo ${{ matrix.cell }} >> ${{ outputs.o }}', "
        "outputs: {o: 'o/${{ task.label }}'}}}\n"
    )
    bench.step_until_over()
    assert bench.states() == {"a/Al": "COMPLETED", "a/Cu_O": "COMPLETED"}
    assert (bench.root / "results/o/Cu_O").read_text() == "Cu O.cifCu O\n"
    (bench.folder / "cells/Al.cif").write_text("another")
    (bench.folder / "cells/Ni.cif").write_text("new")
    told = bench.cli("amend", bench.root, "--yes").stdout
    assert "1 COMPLETED becomes stale (inputs.cell): Al; 1 new: Ni; 1 COMPLETED stays" in told


def test_files_that_are_none_or_alike_are_told(bench):
    for name in ("a.x", "a.y"):
        (bench.folder / name).write_text("")
    with pytest.raises(CampaignError, match=r"'\*\.z' matches no file"):
        labels(bench, "{f: {files: '*.z'}}")
    with pytest.raises(CampaignError, match=r"a\.x and a\.y are both 'a'"):
        labels(bench, "{f: {files: 'a.*'}}")
    with pytest.raises(CampaignError, match=r"inputs\.f is the file of this axis"):
        labels(bench, "{f: {files: 'a.x'}}", more=", inputs: {f: a.y}")


def test_a_thousand_seeds_are_one_line(bench):
    bench.write(
        "params: {n: 1000}\ntasks: {md: {matrix: {seed: {range: '${{ params.n }}'}}, command: 'echo ${{ matrix.seed }}'}}\n"
    )
    assert "1000 instances" in bench.cli("validate", "campaign.yaml").stdout
