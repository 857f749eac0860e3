"""A hundred and a thousand tasks to completion, correct to the last."""

from __future__ import annotations

import sqlite3

import pytest

from matterstack import initialize_run, open_run, run_until_done


def fan(count: int) -> str:
    return f"""
matterstack: 1
name: t
params: {{numbers: [{", ".join(map(str, range(count)))}]}}
operators: {{local: {{kind: local, slots: {{cpus: 16}}}}}}
tasks:
  point:
    matrix: {{i: "${{{{ params.numbers }}}}"}}
    command: "echo ${{{{ matrix.i }}}} > out; echo ${{{{ task.id }}}} >> WITNESS"
    outputs: {{o: {{file: out, path: "points/${{{{ matrix.i }}}}"}}}}
  sum:
    inputs: {{points: "points/*"}}
    command: "cat ${{{{ inputs.points }}}} | paste -sd+ | bc > sum || awk '{{s += $1}} END {{print s}}' ${{{{ inputs.points }}}} > sum"
    outputs: {{s: sum}}
"""


@pytest.mark.parametrize("count", [100, 1000])
def test_a_fan_of_tasks_completes_each_started_once(bench, count):
    initialize_run(bench.write(fan(count)), bench.root)

    report = run_until_done(bench.root)

    assert report.state == "COMPLETED"
    assert {str(state): number for state, number in open_run(bench.root).counts.items()} == {"COMPLETED": count + 1}
    assert sorted(bench.witnessed()) == sorted(f"point/{i}" for i in range(count))
    assert (bench.root / "results" / "sum").read_text().strip() == str(sum(range(count)))
    assert len(list((bench.root / "results" / "points").iterdir())) == count


def test_a_thousand_tasks_in_layers_start_after_what_they_need(bench):
    layers = [
        f'  l{n}: {{matrix: {{i: "${{{{ params.n }}}}"}}, needs: {[f"l{n - 1}"] if n else []}, '
        'command: "echo ${{ task.id }} >> WITNESS"}'
        for n in range(10)
    ]
    head = f"matterstack: 1\nname: t\nparams: {{n: {list(range(100))}}}\n"
    operators = "operators: {local: {kind: local, slots: {cpus: 16}}}\n"
    initialize_run(bench.write(head + operators + "tasks:\n" + "\n".join(layers) + "\n"), bench.root)

    assert run_until_done(bench.root).state == "COMPLETED"

    order = [line.split("/")[0] for line in bench.witnessed()]
    assert len(order) == 1000
    assert order == sorted(order)


def test_what_a_step_costs_does_not_grow_with_the_tasks_that_wait(bench):
    """The pages that SQLite reads in a step where one task ended: the same with 50 and with 5,000 waiting."""
    reads = []
    for count in (50, 5000):
        root = bench.folder / f"r{count}"
        text = f"""
tasks:
  first: {{command: "true"}}
  rest: {{matrix: {{i: "${{{{ params.n }}}}"}}, needs: [gate], command: "true"}}
  gate: {{needs: [first], command: "sleep 100"}}
params: {{n: {list(range(count))}}}
"""
        initialize_run(bench.write("matterstack: 1\nname: t\n" + text), root)
        run = Counted(root)
        run.step()
        reads.append(run.rows_stepped())
        bench.cli("cancel", root, "gate")
    assert reads[1] < reads[0] * 2 + 50


class Counted:
    """Steps a run in this process and counts the rows that its queries gave."""

    def __init__(self, root):
        self.root = root
        self.count = 0

    def step(self):
        from matterstack import step_run

        real = sqlite3.connect
        outer = self

        class Cursor(sqlite3.Cursor):
            def fetchall(self):
                rows = super().fetchall()
                outer.count += len(rows)
                return rows

            def __next__(self):
                outer.count += 1
                return super().__next__()

        class Connection(sqlite3.Connection):
            def execute(self, *args):
                return self.cursor(Cursor).execute(*args)

        def connect(*args, **kwargs):
            return real(*args, factory=Connection, **kwargs)

        sqlite3.connect = connect
        try:
            step_run(self.root)
        finally:
            sqlite3.connect = real

    def rows_stepped(self):
        return self.count
