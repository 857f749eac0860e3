"""What `validate`, `explain FILE TASK` and `graph` show of a good file, and what they warn of."""

from __future__ import annotations

import json
import shutil

import pytest

from matterstack import run_until_done
from matterstack.core.model import OperatorSpec
from matterstack.operators.environment import THREADS
from matterstack.spec.load import load_campaign

HEAD = "matterstack: 1\nname: t\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text, **options):
        (tmp_path / "c.yaml").write_text(HEAD + text)
        return load_campaign("c.yaml", **options)

    return load


def warnings(loaded):
    return [f"{p.where}: {p.message}" for p in loaded.warnings if "this version of MatterStack" not in p.message]


# --- one instance as it would run ------------------------------------------------------------------------------------

WHOLE = """
params: {greeting: "it's ü", numbers: [1, 2]}
defaults: {retries: {max: 1, timeout: {time: x2}}, env: {LANG_OF: de}, resources: {time: 1m}, setup: ["X=1"]}
operators: {local: {kind: local, params: {launcher: env}, env: {FROM: operator}}}
tasks:
  make:
    matrix: {n: "${{ params.numbers }}"}
    params: {twice: "${{ matrix.n }}-${{ matrix.n }}"}
    command: "${{ operator.params.launcher }} true; echo ${{ params.greeting }} ${{ params.twice }} > ${{ outputs.o }}; env > env.txt"
    outputs: {o: {path: "o/${{ matrix.n }}.txt", file: OUT}, d: {path: "d/${{ task.label }}/", file: dir/, optional: true}}
    env: {N: "${{ matrix.n }}", ID: "${{ task.id }}"}
    resources: {cpus: "${{ matrix.n }}"}
  sum:
    inputs: {all: "o/*", one: {path: o/1.txt, as: FIRST}}
    command: [cat, "${{ inputs.all }}", FIRST]
"""


def test_the_preview_of_an_instance_is_what_its_first_attempt_runs(bench):
    file = bench.write(WHOLE)
    ids = ["make/1", "make/2", "sum"]
    shown = {task: json.loads(bench.cli("validate", file, "--task", task, "--json").stdout) for task in ids}
    assert shown["sum"] == json.loads(bench.cli("explain", file, "sum", "--json").stdout)
    bench.start(WHOLE)
    assert run_until_done(bench.root).state == "COMPLETED"

    for task, preview in shown.items():
        folder = bench.attempt(task)
        asked = json.loads((folder / "task.json").read_text())
        assert preview["script"] == (folder / "command.sh").read_text()
        assert preview["resources"] == asked["resources"]
        assert preview["inputs"] == {name: item["path"] for name, item in asked["inputs"].items()}
        assert {n: o["file"] for n, o in preview["outputs"].items()} == {
            n: o["file"] for n, o in asked["outputs"].items()
        }
        assert sorted(set(preview["env"]) - set(THREADS)) == asked["env"]
    env = dict(
        line.split("=", 1) for line in (bench.attempt("make/2") / "env.txt").read_text().splitlines() if "=" in line
    )
    for name, value in shown["make/2"]["env"].items():
        assert env[name] == value or name in ("MATTERSTACK_RUN", "MATTERSTACK_SOURCE")
    assert shown["make/2"]["env"]["OMP_NUM_THREADS"] == "2"


def test_the_preview_reads_well(bench):
    shown = bench.cli("validate", bench.write(WHOLE), "--task", "make/2").stdout
    assert shown.splitlines()[:5] == [
        "task:        make/2 (operator 'local', kind local)",
        f"python:      {shutil.which('python')}",
        "matrix:      n = 2",
        "outputs:     o = OUT -> results/o/2.txt",
        "             d = dir/ -> results/d/2/ (optional)",
    ]
    assert "             time = 1m\n" in shown
    assert "    env true; echo 'it'\"'\"'s ü' 2-2 > OUT; env > env.txt\n" in shown


def test_a_secret_is_not_shown(bench):
    file = bench.write("tasks: {a: {command: x, env: {TOKEN: {from_env: HOME}}}}\n")
    shown = json.loads(bench.cli("explain", file, "a", "--json").stdout)
    assert shown["env"]["TOKEN"] == {"from_env": "HOME"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("validate", "--task", "mak/1"), "no task is named 'mak/1' (did you mean 'make/1'?); there are make/1, make/2, sum"),
        (("validate", "--task", "make"), "'make' has 2 instances (make/1, make/2); name one"),
        (("explain",), "name one task after {file}; `matterstack validate {file}` lists them"),
        (("explain", "a", "b"), "name one task after {file}; `matterstack validate {file}` lists them"),
    ],
)  # fmt: skip
def test_naming_no_task_or_several_is_a_mistake_in_words(bench, words, message):
    file = bench.write(WHOLE)
    done = bench.cli(words[0], file, *words[1:])
    assert (done.returncode, done.stderr) == (2, "error: " + message.format(file=file) + "\n")


def test_what_hangs_on_an_answer_is_shown_as_written(load, bench):
    load(GATE)
    done = bench.cli("explain", "c.yaml", "go", "--json", cwd=bench.folder)
    shown = json.loads(done.stdout)
    assert shown["unresolved"] == ["response.approve", "metrics.energy"]
    assert shown["command"] == "echo ${{ response.approve.metals }} ${{ metrics.energy.e }}"


# --- the graph -------------------------------------------------------------------------------------------------------


def test_graph_gives_instances_and_each_edge_once_also_through_groups(bench):
    file = bench.write(WHOLE + "  last: {needs: [make, make/1, sum], command: 'true'}\n")
    data = json.loads(bench.cli("graph", file, "--json").stdout)
    assert data == {
        "nodes": ["make/1", "make/2", "sum", "last"],
        "edges": [["make/1", "sum"], ["make/2", "sum"], ["make/1", "last"], ["make/2", "last"], ["sum", "last"]],
    }
    bench.cli("init", file, "--root", bench.root)
    of_run = json.loads(bench.cli("graph", bench.root, "--json").stdout)
    assert of_run["nodes"] == data["nodes"]
    assert sorted(of_run["edges"]) == sorted(data["edges"])


def test_graph_prints_dot_with_groups_and_states(bench):
    bench.start("tasks: {a: {matrix: {i: [1, 2]}, command: 'true'}, b: {needs: [a/1], command: 'false'}}\n")
    run_until_done(bench.root)
    assert bench.cli("graph", bench.root).stdout.splitlines() == [
        'digraph "t" {',
        "  rankdir=LR;",
        "  node [shape=box, style=filled, fillcolor=white];",
        "  subgraph cluster_0 {",
        '    label="a";',
        '    "a/1" [fillcolor=palegreen, tooltip="COMPLETED"];',
        '    "a/2" [fillcolor=palegreen, tooltip="COMPLETED"];',
        "  }",
        '  "b" [fillcolor=salmon, tooltip="FAILED"];',
        '  "a/1" -> "b";',
        "}",
    ]


# --- the summary -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("tasks: {a: {command: x, resources: {cpus: 4, time: 30m}}}", 2.0),
        ("tasks: {a: {command: x, retries: 2, resources: {time: 1h}}}", 3.0),
        ("tasks: {a: {command: x, matrix: {i: [1, 2, 3]}, resources: {cpus: '${{ matrix.i }}', time: 1h}}}", 6.0),
        # 1 h, then 2 h, then 3 h for the limit, though 4 h would be next
        ("tasks: {a: {command: x, retries: {max: 2, timeout: {time: x2, up_to: 3h}}, resources: {time: 1h}}}", 6.0),
        ("tasks: {a: {command: x, retries: {max: 1, exit_code_3: {cpus: 8}}, resources: {time: 1h}}}", 9.0),
        ("tasks: {a: {command: x, retries: '${{ params.n }}', resources: {time: 1h}}}\nparams: {n: 4}", 5.0),
        ("tasks: {a: {command: x}}", None),
    ],
)
def test_the_most_cpu_hours_counts_every_retry_at_its_largest(load, text, hours):
    assert load(text + "\n").summary["cpu_hours"] == hours


def test_tasks_without_a_time_limit_are_named_and_people_cost_nothing(load, bench):
    loaded = load(GATE)
    assert loaded.summary["cpu_hours"] is None
    assert loaded.summary["without_time_limit"] == ["energy", "go"]
    shown = bench.cli("validate", "c.yaml", cwd=bench.folder).stdout
    assert "  no bound on cpu-hours: no time limit (resources.time) for energy, go\n" in shown


def test_what_labels_became_is_shown(load, bench, tmp_path):
    (tmp_path / "t.csv").write_text("id,n\nmp 1,2\nmp-2,3\n")
    loaded = load("tasks: {a: {command: x, matrix: {i: [Al, 'a/b']}}, b: {command: x, matrix: {table: t.csv}}}\n")
    assert loaded.summary["labels"] == {"a/a_b": "a/b", "b/mp_1": "mp 1"}
    assert "  labels  'a/b' became a/a_b\n" in bench.cli("validate", "c.yaml", cwd=bench.folder).stdout


# --- warnings --------------------------------------------------------------------------------------------------------

WARNED = {
    "tasks: {a: {command: 'x | y', shell: sh}}": ["tasks.a.command: under `shell: sh` a failure before a | is not noticed (write `shell: bash`, or split the pipeline)"],
    "tasks: {a: {command: 'x || y; echo \"|\" >| z', shell: sh}}": [],
    "tasks: {a: {command: 'x | y'}}": [],
    "tasks:\n  a:\n    command: echo a #b\n": [": '#b' is read by YAML as a comment, not as part of the value (quote the text, or write it below `|`, if it belongs to it)"],
    # an output that is not where the others are
    "tasks: {a: {command: x, outputs: {o: points/a}}, b: {command: x, outputs: {o: point/b}}, c: {command: x, inputs: {i: 'points/*'}}}": [
        "tasks.b.outputs.o: 'point/b' is used by no task, and c takes 'points/*' (is one of them a typo?)"],
    "tasks: {a: {command: x, outputs: {o: points/a}}, b: {command: x, outputs: {o: fits/b}}, c: {command: x, inputs: {i: 'points/*'}}}": [],
    "tasks: {a: {command: x, outputs: {o: run_a/x}}, b: {command: x, outputs: {o: run_b/x}}, c: {command: x, inputs: {i: 'run_a/*'}}}": [],
    "tasks: {a: {command: 'echo 1 > result.txt', outputs: {o: results.txt}}}": [
        "tasks.a.outputs.o: 'results.txt' is not in the command, which names 'result.txt' (is one of them a typo?)"],
    "tasks: {a: {command: 'echo 1 > ${{ outputs.o }}; cp results.txt result.txt', outputs: {o: results.txt}}}": [],
    # an input that takes an old file of the campaign folder
    "tasks: {a: {command: x, outputs: {o: fits.json}}, b: {command: x, inputs: {i: fit.json}}}": [
        "tasks.a.outputs.o: 'fits.json' is used by no task, and b takes 'fit.json' (is one of them a typo?)"],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WARNED.items(), ids=range(len(WARNED)))
def test_a_warning_is_told_apart_from_errors(load, tmp_path, text, expected):
    (tmp_path / "fit.json").write_text("{}")
    assert warnings(load(text + "\n")) == expected


PEOPLE = "operators: {board: {kind: human}, lab: {kind: experiment}, far: {kind: manual}}\n"


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("{command: x, deadline: 3d}", ["tasks.a.deadline: is for people and laboratories; operator 'local' is of kind local"]),
        ("{operator: board}", ["tasks.a: says nothing to the person who is asked; write `instructions`"]),
        ("{operator: board, description: Look.}", []),
        ("{operator: board, instructions: Look., on_deadline: remind}", ["tasks.a.on_deadline: has no effect without a `deadline`"]),
        ("{operator: board, instructions: Look., default: {n: 1}}", ["tasks.a.default: is only used with `on_deadline: default`"]),
        ("{operator: board, instructions: Look., result_schema: {}}", ["tasks.a.result_schema: is for laboratories; a person's answer has a `response_schema`"]),
        ("{operator: lab, instructions: Film., response_schema: {}}", ["tasks.a.response_schema: is for people; what an instrument gives has a `result_schema`"]),
        ("{operator: board, instructions: Look., deadline: 3d, on_deadline: default, default: {n: 1}, response_schema: {properties: {n: {maximum: '${{ params.most }}'}}}}", []),
    ],
)  # fmt: skip
def test_keys_for_people_that_have_no_effect_are_warned_of(load, task, expected):
    assert warnings(load(f"{PEOPLE}params: {{most: 4}}\ntasks: {{a: {task}}}\n")) == expected


# --- answers and metrics ---------------------------------------------------------------------------------------------

GATE = """
operators: {board: {kind: human}}
params: {metals: [Al, Cu]}
defaults: {retries: 3, resources: {cpus: 2}}
tasks:
  energy: {command: x}
  point: {matrix: {metal: "${{ params.metals }}"}, command: x, resources: {time: 1h}}
  approve: {operator: board, instructions: "Look at ${{ params.metals }}.", response_schema: {type: object, properties: {metals: {type: array}}}}
  go:
    when: ${{ "Al" in response.approve.metals and len(response.approve.metals) < 3 }}
    command: echo ${{ response.approve.metals }} ${{ metrics.energy.e }}
  each: {matrix: {metal: "${{ params.metals }}", k: [1, 2]}, command: "echo ${{ metrics.point.e }}", resources: {time: 1h}}
"""


def test_answers_and_metrics_imply_edges_to_the_instance_of_equal_axis_values(load):
    loaded = load(GATE)
    edges = {(edge.upstream, edge.entry, item.task_id) for item in loaded.instances for edge in item.edges}
    assert edges == {
        ("approve", "response.approve", "go"), ("energy", "metrics.energy", "go"),
        ("point/Al", "metrics.point", "each/Al-1"), ("point/Al", "metrics.point", "each/Al-2"),
        ("point/Cu", "metrics.point", "each/Cu-1"), ("point/Cu", "metrics.point", "each/Cu-2"),
    }  # fmt: skip
    assert warnings(loaded) == []


def test_people_labs_and_parcels_inherit_neither_retries_nor_resources(load):
    loaded = load(
        PEOPLE + "defaults: {retries: 3, resources: {cpus: 2, memory: 1G}}\n"
        "tasks:\n  a: {operator: board, instructions: x}\n  b: {operator: far, command: x, resources: {memory: 5G}}\n"
        "  c: {matrix: {w: [local, far]}, operator: '${{ matrix.w }}', command: x}\n"
    )
    tasks = loaded.campaign.tasks
    assert (tasks["a"].retries.max, tasks["a"].resources) == (0, {})
    assert (tasks["b"].retries.max, tasks["b"].resources) == (0, {"memory": "5G"})
    assert [tasks["c"].for_operator(OperatorSpec("x", kind)).retries.max for kind in ("local", "manual")] == [3, 0]
    assert tasks["c"].for_operator(OperatorSpec("x", "manual")).resources == {}


# --- retries by template ---------------------------------------------------------------------------------------------


def test_retries_by_template_are_resolved_for_each_instance(bench):
    bench.start(
        "params: {most: 2}\n"
        "tasks:\n"
        "  a:\n"
        "    matrix: {n: [0, 1]}\n"
        "    retries: {max: '${{ matrix.n }}', delay: '${{ matrix.n }}s', exit_code: '${{ params.rule }}'}\n"
        "    params: {rule: {time: x2}}\n"
        "    command: 'false'\n"
        "    resources: {time: 10m}\n"
    )
    report = bench.step_until_over()
    assert report.state == "FAILED"
    assert bench.reasons() == {"a/0": "attempt 1 of 1: exit code 1", "a/1": "attempt 2 of 2: exit code 1"}
    second = json.loads((bench.attempt("a/1", 2) / "task.json").read_text())
    assert second["resources"]["time"] == "1200s"


def test_a_rule_that_doubles_a_week_is_still_a_time(bench):
    bench.start(
        "tasks: {a: {command: 'false', retries: {max: 2, exit_code: {time: x2, memory: x2}}, resources: {time: 7d, memory: 600G}}}\n"
        "operators: {local: {kind: local, slots: {cpus: 1, memory: 4T}}}\n"
    )
    bench.step_until_over()
    third = json.loads((bench.attempt("a", 3) / "task.json").read_text())
    assert third["resources"] == {"cpus": 1, "time": "2419200s", "memory": "2457600M"}
