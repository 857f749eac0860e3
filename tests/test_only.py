"""`run --only`: these tasks and what they need, and nothing else."""

from __future__ import annotations

from matterstack.orchestration.loop import run_until_done

TEXT = (
    "tasks:\n  a: {matrix: {x: [Cu, Ag, Au]}, command: 'echo a${{ matrix.x }} >> WITNESS; echo 1 > o', outputs: {o: {file: o, path: 'o/${{ matrix.x }}'}}}\n"
    "  b: {matrix: {x: [Cu, Ag, Au]}, inputs: {o: 'o/${{ matrix.x }}'}, command: 'echo b${{ matrix.x }} >> WITNESS'}\n"
    "  c: {needs: [b], command: 'echo c >> WITNESS'}\n  bad: {command: 'exit 1'}\n"
)


def test_only_what_is_named_and_what_it_needs_is_started(bench):
    bench.start(TEXT)
    done = bench.cli("run", bench.root, "--only", "b/C*")
    assert done.returncode == 0, done.stderr
    assert bench.witnessed() == ["aCu", "bCu"]
    assert bench.states()["a/Ag"] == "READY"
    assert bench.cli("run", bench.root, "--only", "b/Ag", "--only", "a/Au").returncode == 0
    assert sorted(bench.witnessed()) == ["aAg", "aAu", "aCu", "bAg", "bCu"]


def test_its_code_is_that_of_what_was_named(bench):
    bench.start(TEXT)
    assert bench.cli("run", bench.root, "--only", "bad").returncode == 3
    assert bench.cli("run", bench.root, "--only", "a").returncode == 0
    assert bench.cli("run", bench.root, "--only", "nothing").returncode == 2
    assert sorted(bench.witnessed()) == ["aAg", "aAu", "aCu"]


def test_people_among_them_are_not_waited_for(bench):
    bench.start(
        "operators: {board: {kind: human}}\ntasks: {ask: {operator: board, instructions: Well?}, a: {needs: [ask], command: 'true'}, b: {command: 'echo b >> WITNESS'}}\n"
    )
    assert bench.cli("run", bench.root, "--only", "a").returncode == 4
    assert bench.witnessed() == []


def test_it_ends_as_soon_as_nothing_more_of_it_can_start(bench):
    bench.start(TEXT)
    reports = []
    run_until_done(bench.root, reports.append, only=["a"])
    assert reports[-1].changed  # no tick in vain after it, and no wait for one
