"""A run that begins with results of another: what had the same work and inputs is not computed again."""

from __future__ import annotations

import json

import pytest

from matterstack.care.checks import examine
from matterstack.care.repair import repair
from tests.test_doctor import content

TEXT = """
params: {emax: 5}
operators: {board: {kind: human}}
tasks:
  a: {matrix: {x: VALUES}, command: "echo a${{ matrix.x }} >> WITNESS; echo ${{ matrix.x }} ${{ params.emax }} > o; echo '{\\"e\\": 1}' > metrics.json", outputs: {o: {file: o, path: "o/${{ matrix.x }}"}}}
  b: {matrix: {x: VALUES}, inputs: {o: "o/${{ matrix.x }}"}, command: "echo b${{ matrix.x }} >> WITNESS; cat ${{ inputs.o }} > p", outputs: {p: {file: p, path: "p/${{ matrix.x }}"}}}
  ask: {operator: board, needs: [b], instructions: Is it good?, response_schema: {type: object, required: [go], properties: {go: {type: boolean}}}}
  c: {inputs: {p: "p/*"}, when: "${{ response.ask.go }}", command: "echo c >> WITNESS; cat ${{ inputs.p }} > r", outputs: {r: r}}
"""


@pytest.fixture
def done(bench):
    bench.start(TEXT.replace("VALUES", "[1, 2, 3]"))
    assert bench.cli("run", bench.root).returncode == 4
    assert bench.cli("respond", bench.root, "ask", "--data", "go=true", "--by", "ada").returncode == 0
    assert bench.cli("run", bench.root).returncode == 0
    bench.witness.unlink()
    return bench


def fork(bench, text, *words):
    bench.write(text, "new.yaml")
    return bench.cli("init", "new.yaml", "--from", bench.root, "--root", "runs/new", "--yes", *words)


def run_new(bench):
    code = bench.cli("run", "runs/new").returncode
    return code, sorted(bench.witnessed())


def test_an_equal_campaign_computes_nothing_and_takes_answers_over(done):
    made = fork(done, TEXT.replace("VALUES", "[1, 2, 3]"))
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[:5] == [
        "from " + str(done.root) + ": 8 of 8 tasks are reused",
        "  a: 3 of 3 reused", "  b: 3 of 3 reused", "  ask: 1 of 1 reused", "  c: 1 of 1 reused",
    ]  # fmt: skip
    assert "  ask: the answer of ada at " in made.stdout
    assert run_new(done) == (0, [])
    new = done.folder / "runs/new"
    assert (new / "results/r").read_text() == (done.root / "results/r").read_text()
    found = json.loads(done.cli("attempts", new, "a/1", "--json").stdout)[0]
    assert (found["state"], found["class"]) == ("COMPLETED", "reused")
    assert found["reason"].startswith("the result of a/1, attempt 1, of t-")
    assert json.loads((new / "tasks/a/1/attempt-1/task.json").read_text())["task"] == "a/1"
    assert examine(new) == []
    assert "stale" not in done.cli("status", new).stdout


def test_only_what_differs_and_what_is_made_from_it_is_computed(done):
    fork(done, TEXT.replace("VALUES", "[1, 2, 3, 4]"))
    assert run_new(done) == (0, ["a4", "b4", "c"])


def test_another_value_is_another_work(done):
    fork(done, TEXT.replace("VALUES", "[1, 2, 3]"), "--set", "emax=6")
    assert run_new(done)[1] == ["a1", "a2", "a3", "b1", "b2", "b3", "c"]


def test_results_of_retired_instances_are_candidates(done):
    done.write(TEXT.replace("VALUES", "[1, 2]"))
    assert done.cli("amend", done.root, "--yes").returncode == 0
    told = fork(done, TEXT.replace("VALUES", "[1, 2, 3]"))
    assert "  a: 3 of 3 reused" in told.stdout


def test_a_result_that_was_changed_since_is_computed(done):
    file = done.attempt("a/2") / "o"
    file.chmod(0o644)
    file.write_text("something else\n")
    told = fork(done, TEXT.replace("VALUES", "[1, 2, 3]"))
    assert "  a: 2 of 3 reused; 1 new" in told.stdout
    assert run_new(done)[1] == ["a2", "b2", "c"]  # nobody can know before that a2 gives the same again


def test_without_consent_nothing_is_made(done):
    done.write(TEXT.replace("VALUES", "[1, 2, 3]"), "new.yaml")
    told = done.cli("init", "new.yaml", "--from", done.root, "--root", "runs/new")
    assert (told.returncode, told.stderr) == (0, "nothing was made; --yes does it\n")
    assert not (done.folder / "runs/new").exists()
    same = done.cli("init", "new.yaml", "--from", "runs/t", "--yes")
    assert (same.returncode, "--root DIR names a folder" in same.stderr) == (2, True)


def test_run_takes_it_as_well_and_a_lost_ledger_is_rebuilt(done):
    done.write(TEXT.replace("VALUES", "[1, 2, 3]"), "new.yaml")
    assert done.cli("run", "new.yaml", "--from", done.root, "--root", "runs/new", "--yes").returncode == 0
    new = done.folder / "runs/new"
    before = content(new / "state.sqlite")
    (new / "state.sqlite").unlink()
    repair(new)
    assert content(new / "state.sqlite") == before
