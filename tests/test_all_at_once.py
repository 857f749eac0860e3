"""One mistake hides no other (issue 14.7)."""

from __future__ import annotations

import json

import pytest

from matterstack.errors import CampaignError
from matterstack.spec.load import load_campaign

REST = "  a: {command: x, needs: [zz]}\n  d: {needs: [e], command: x}\n  e: {needs: [d], command: x}\n"
OF_THE_REST = ("'zz' is not defined", "a cycle: d -> e -> d")
HEAD = "matterstack: 1\nname: x\n"

MISTAKES = {
    "a wrong name": ("matterstack: 1\nname: bad name\ntasks:\n", ["name: "]),
    "no version": ("name: x\ntasks:\n", ["'matterstack' is missing"]),
    "another version": ("matterstack: 2\nname: x\ntasks:\n", ["matterstack: "]),
    "an unknown key at the top": (f"{HEAD}foo: 1\ntasks:\n", ["foo: unknown key"]),
    "params of a wrong type": (f"{HEAD}params: 3\ntasks:\n", ["params: expected"]),
    "files of a wrong type": (f"{HEAD}files: 3\ntasks:\n", ["files: expected"]),
    "defaults of a wrong type": (f"{HEAD}defaults: 3\ntasks:\n", ["defaults: expected"]),
    "a wrong default": (f"{HEAD}defaults: {{priority: high}}\ntasks:\n", ["defaults.priority: "]),
    "operators of a wrong type": (f"{HEAD}operators: 3\ntasks:\n", ["operators: expected"]),
    "an operator without a kind": (f"{HEAD}operators: {{o: {{slots: {{cpus: 1}}}}}}\ntasks:\n", ["operators.o: 'kind' is missing"]),
    "an operator's wrong key": (f"{HEAD}operators: {{local: {{kind: local, slot: 3}}}}\ntasks:\n", ["operators.local.slot: unknown key"]),
    "a size without a unit": (f"{HEAD}git_max_size: 10\ntasks:\n", ["git_max_size: "]),
    "needs of a wrong type": (f"{HEAD}tasks:\n  b: {{command: x, needs: 3}}\n", ["tasks.b.needs: expected"]),
    "inputs of a wrong type": (f"{HEAD}tasks:\n  b: {{command: x, inputs: 3}}\n", ["tasks.b.inputs: "]),
    "a wrong output": (f"{HEAD}tasks:\n  b: {{command: x, outputs: {{o: 3}}}}\n", ["tasks.b.outputs.o: "]),
    "a wrong matrix": (f"{HEAD}tasks:\n  b: {{command: x, matrix: {{m: 3}}}}\n", ["tasks.b.matrix.m: "]),
    "a task that is a text": (f"{HEAD}tasks:\n  b: x\n", ["tasks.b: expected"]),
    "a task's wrong name": (f"{HEAD}tasks:\n  b-c: {{command: x}}\n", ["tasks.b-c: "]),
    "a key twice": (f"{HEAD}tasks:\n  b: {{command: x, command: y}}\n", ["duplicate key 'command'"]),
    "no numbers": (f"{HEAD}params: {{a: .nan, b: .inf}}\ntasks:\n", ["1:.nan", ":.inf"]),
    "a tag": (f"{HEAD}params: {{a: !!python/object x}}\ntasks:\n", ["the tag "]),
    "a template that cannot be parsed": (f"{HEAD}tasks:\n  b: {{command: 'echo ${{{{ params. }}}}'}}\n", ["tasks.b.command: "]),
    "an unknown parameter": (f"{HEAD}tasks:\n  b: {{command: 'echo ${{{{ params.nope }}}}'}}\n", ["'nope' is not in params"]),
    "times and memory": (
        f"{HEAD}tasks:\n  b: {{command: x, resources: {{time: 30, memory: 4, mem: 4G}}}}\n",
        ["resources.time: ", "resources.memory: ", "resources.mem: unknown key"],
    ),
    "a path that matches nothing": (f"{HEAD}tasks:\n  b: {{command: x, inputs: {{i: nope.txt}}}}\n", ["'nope.txt' is neither"]),
}  # fmt: skip


def problems(tmp_path, text, **options):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(CampaignError) as caught:
        load_campaign(tmp_path / "c.yaml", **options)
    return [str(problem).partition("c.yaml:")[2] for problem in caught.value.problems if problem.severity == "error"]


@pytest.mark.parametrize(("text", "own"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_all_others_and_nothing_that_follows_from_it(tmp_path, text, own):
    found = problems(tmp_path, text + REST)
    for words in (*OF_THE_REST, *[words.removeprefix("1") for words in own]):
        assert any(words.lstrip(":") in line for line in found), words
    assert len(found) == len(own) + len(OF_THE_REST), found


def test_all_mistakes_together_are_told_at_once(tmp_path):
    text = (
        "name: bad name\nfoo: 1\nparams: {a: .nan}\noperators: {local: {kind: local, slots: {cpu: 1}}}\ntasks:\n"
        "  t1: {command: x, resources: {time: 30}}\n  t2: {command: x, resources: {time: 1h30m}}\n"
        "  t3: {command: 'echo ${{ matrix.nope }}', resources: {mem: 4G}}\n  t3: {command: y}\n" + REST
    )
    found = problems(tmp_path, text)
    for words in (
        "'matterstack' is missing", "name: ", "foo: unknown", "slots.cpu: unknown", "t1.resources.time", "t2.resources.time",
        "'nope' is not in matrix", "mem: unknown key", "duplicate key 't3'", *OF_THE_REST,
    ):  # fmt: skip
        assert any(words in line for line in found), (words, found)


def test_nothing_is_said_of_what_hangs_on_a_mistake(tmp_path):
    text = HEAD + (
        'params: 3\ntasks:\n  a: {matrix: {m: "${{ params.metals }}"}, command: \'echo ${{ params.x }}\', outputs: {o: "o/${{ matrix.m }}"}}\n'
        "  b: {inputs: {o: 'o/*'}, command: 'cat ${{ inputs.o }}'}\n"
    )
    assert len(problems(tmp_path, text)) == 1


def test_each_hole_in_quotes_of_one_command_is_told(tmp_path):
    text = HEAD + 'tasks:\n  b: {command: \'echo "${{ task.id }}" "${{ task.name }}" "${{ run.id }}"\'}\n'
    found = problems(tmp_path, text)
    assert [line.partition("command: ")[2][:14] for line in found] == [
        "${{ task.id }}",
        "${{ task.name ",
        "${{ run.id }} ",
    ]


def test_a_broken_file_of_operators_hides_no_mistake_of_the_campaign(tmp_path):
    (tmp_path / "site.yaml").write_text("local: {slots: {cpus: 1}}\n")
    found = problems(tmp_path, HEAD + "tasks:\n" + REST, operators=tmp_path / "site.yaml")
    assert len(found) == len(OF_THE_REST) + 1


@pytest.mark.parametrize(
    ("task", "meant"),
    [
        ("{matrix: {mol: [x]}, command: 'echo ${{ mol }}'}", "matrix.mol"),
        ("{command: 'echo ${{ cutoff }}'}", "params.cutoff"),
        ("{command: 'echo ${{ out }}', outputs: {out: o}}", "outputs.out"),
        ("{command: 'echo ${{ label }}'}", "task.label"),
        ("{command: 'echo ${{ parms.cutoff }}'}", "params"),
    ],
)
def test_a_name_without_its_root_is_suggested_with_it(tmp_path, task, meant):
    (found,) = problems(tmp_path, f"{HEAD}params: {{cutoff: 400}}\ntasks: {{a: {task}}}\n")
    assert f"(did you mean '{meant}'?)" in found


# --- answers ---------------------------------------------------------------------------------------------------------

ASKED = """operators: {h: {kind: human}}
tasks:
  q:
    operator: h
    instructions: When?
    response_schema:
      type: object
      required: [n]
      properties:
        d: {type: string, format: date}
        t: {type: string, format: date-time}
        n: {type: integer}
        mail: {type: string, format: email}
        u: {type: string, format: uri}
        p: {type: string, format: duration}
"""


def test_all_invalid_fields_of_an_answer_are_told_at_once(bench):
    bench.start(ASKED)
    bench.step()
    done = bench.cli(
        "respond", bench.root, "q", "--data", "d=yesterday", "--data", "n=x", "--data", "t=noon", "--data", "mail=me"
    )
    assert done.returncode == 2
    for words in (
        "d: 'yesterday' is not a 'date'",
        "n: 'x' is not of type 'integer'",
        "t: 'noon' is not a 'date-time'",
        "mail: 'me' is not a 'email'",
    ):
        assert words in done.stderr
    wrong = bench.cli("respond", bench.root, "q", "--data", "dd=1", "--data", "nn=2", "--data", "x")
    assert all(
        words in wrong.stderr
        for words in ("--data dd: no such field", "--data nn: no such field", "--data x: expected NAME=VALUE")
    )


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("d", "2026-02-28", True), ("d", "2026-02-30", False), ("t", "2026-02-28T12:00:00Z", True), ("t", "2026-02-28T12:00:00", False),
        ("mail", "ada@uni.example", True), ("u", "https://uni.example/x", True), ("u", "no uri", False), ("p", "P1DT12H", True), ("p", "P", False),
    ],
)  # fmt: skip
def test_formats_are_checked(bench, field, value, right):
    bench.start(ASKED)
    bench.step()
    done = bench.cli("respond", bench.root, "q", "--data", "n=1", "--data", f"{field}={value}")
    assert (done.returncode == 0) is right, done.stderr


# --- values ----------------------------------------------------------------------------------------------------------

LATE = [
    'deadline: "${{ response.q.t }}"', 'deadline: "${{ metrics.m.t }}"', 'resources: {time: "${{ response.q.t }}"}',
    'retries: {max: "${{ response.q.n }}"}', 'retries: {max: 1, delay: "${{ response.q.t }}"}',
    'retries: {max: 2, timeout: {time: "${{ response.q.t }}"}}', 'retries: "${{ metrics.m.n }}"',
]  # fmt: skip


@pytest.mark.parametrize("key", LATE)
def test_answers_and_metrics_can_be_named_where_the_page_says_so(bench, key):
    asks = key.startswith("deadline")
    task = f"{{operator: {'h' if asks else 'local'}, {'instructions: x' if asks else 'command: x'}, {key}}}"
    text = f"operators: {{h: {{kind: human}}}}\ntasks:\n  q: {{operator: h, instructions: x}}\n  m: {{command: x}}\n  d: {task}\n"
    assert bench.cli("validate", bench.write(text)).returncode == 0


def test_a_deadline_is_what_a_metric_says(bench):
    bench.start(
        'operators: {h: {kind: human}}\ntasks:\n  m: {command: "echo \'{\\"t\\": \\"2h\\"}\' > metrics.json"}\n'
        '  q: {operator: h, instructions: x, deadline: "${{ metrics.m.t }}"}\n'
    )
    bench.step_until(lambda: bench.states()["q"] == "WAITING")
    (waiting,) = json.loads(bench.cli("inbox", bench.root, "--json").stdout)
    assert waiting["until"] > waiting["since"]


def test_an_empty_rule_retries_unchanged(bench):
    bench.start(
        "tasks:\n  a: {command: '[ $MATTERSTACK_ATTEMPT = 3 ] || exit 85', retries: {max: 5, exit_code: never, exit_code_85: {}}}\n"
        "  b: {command: 'exit 1', retries: {max: 5, exit_code: never, exit_code_85: {}}}\n"
    )
    bench.step_until_over()
    assert len(json.loads(bench.cli("attempts", bench.root, "a", "--json").stdout)) == 3
    assert len(json.loads(bench.cli("attempts", bench.root, "b", "--json").stdout)) == 1


SET = "params: {a: {b: 1, c: {d: 2}}, e: 3}\ntasks: {t: {command: 'echo ${{ params.a.b }} ${{ params.a.c.d }} ${{ params.e }}'}}\n"


def test_set_replaces_one_key_of_a_mapping(bench):
    done = bench.cli("run", "-q", bench.write(SET), "--root", "runs/t", "--set", "a.c.d=7", "--set", "e=4")
    assert done.returncode == 0
    assert (bench.attempt("t") / "stdout.log").read_text() == "1 7 4\n"
    assert json.loads((bench.root / "run.json").read_text())["set"] == {"a.c.d": 7, "e": 4}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("a.x=1", "--set a.x: no such key; it has b, c"),
        ("a.c.dd=1", "--set a.c.dd: no such key (did you mean 'd'?); it has d"),
        ("e.x=1", "--set e.x: there is no mapping that has a key 'x'"),
        ("f.x=1", "--set f.x: no such parameter"),
    ],
)
def test_set_of_what_is_not_there_is_refused(bench, setting, words):
    done = bench.cli("validate", bench.write(SET), "--set", setting)
    assert done.returncode == 2
    assert words in done.stderr


CONSEQUENCES = {
    "a section under a name that is nearly right": "param: {z: 1}\ntasks: {a: {command: 'echo ${{ params.z }}'}}\n",
    "operators": "operator: {q: {kind: human}}\ntasks: {a: {operator: q, instructions: x}}\n",
    "defaults": "default: {params: {z: 1}}\ntasks: {a: {command: 'echo ${{ params.z }}'}}\n",
    "files": "file: [x.py]\ntasks: {a: {command: 'python ${{ source }}/x.py'}}\n",
    "an operator without a kind": "operators: {q: {}}\ntasks: {a: {operator: q, instructions: x}}\n",
    "an operator that is not there": "operators: {prof: {kind: human}}\ntasks: {a: {operator: proff, instructions: x}}\n",
}


@pytest.mark.parametrize("text", CONSEQUENCES.values(), ids=CONSEQUENCES)
def test_what_follows_from_a_mistake_is_no_second_one(bench, text):
    done = bench.cli("validate", bench.write(text))
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if "campaign.yaml:" in line]) == 1, done.stderr


def test_values_that_no_schema_can_judge_are_mistakes_like_others(bench):
    done = bench.cli("validate", bench.write(
        'tasks: {a: {command: "true", outputs: {o: {path: a, min_size: big}, p: {path: b, min_size: 10Q}}, '
        'inputs: {i: {external: "a\\0b"}}}, b: {comand: "true"}}\n'
    ))  # fmt: skip
    assert done.returncode == 2
    for where in ("outputs.o.min_size", "outputs.p.min_size", "inputs.i", "tasks.b.comand"):
        assert where in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_parameter_that_is_wrong_hides_no_name_that_is_not_there(bench):
    done = bench.cli("validate", bench.write(
        "params: {bad-name: 3, z: 1}\ntasks: {a: {command: 'echo ${{ params.nope }} ${{ params.z }}'}}\n"
    ))  # fmt: skip
    assert done.returncode == 2
    assert "params.bad-name" in done.stderr
    assert "'nope' is not in params" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "campaign.yaml:" in line]) == 2, done.stderr
