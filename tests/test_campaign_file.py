"""The campaign file: what it means, and every mistake said in words, at its place, all at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterstack.core.model import Retries
from matterstack.core.resources import escalate, most_cpu_seconds
from matterstack.core.states import FailureClass
from matterstack.core.validation import find_errors
from matterstack.errors import CampaignError
from matterstack.spec.expand import make_label
from matterstack.spec.load import load_campaign, parse_overrides
from matterstack.spec.loader import load_document
from matterstack.spec.schema import read_schema
from tests.conftest import HEAD


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text, **options):
        (tmp_path / "c.yaml").write_text(HEAD + text)
        return load_campaign("c.yaml", **options)

    return load


@pytest.fixture
def problems(load):
    """Give the problems of a campaign as lines, the file's name left out."""

    def problems(text, **options):
        with pytest.raises(CampaignError) as caught:
            load(text, **options)
        return [str(problem).removeprefix("c.yaml:") for problem in caught.value.problems]

    return problems


def ids(loaded):
    return [instance.task_id for instance in loaded.instances]


def edges(loaded):
    return {(edge.upstream, item.task_id) for item in loaded.instances for edge in item.edges}


# --- matrices and labels ---------------------------------------------------------------------------------------------


def test_axes_are_multiplied_and_labels_keep_numbers_as_written(load):
    loaded = load("tasks: {e: {matrix: {m: [Al, Cu], s: [0.95, 1.00, 1e-3]}, command: x}}\n")
    assert ids(loaded) == ["e/Al-0.95", "e/Al-1.00", "e/Al-1e-3", "e/Cu-0.95", "e/Cu-1.00", "e/Cu-1e-3"]


def test_include_appends_and_exclude_removes(load):
    loaded = load(
        "tasks: {e: {matrix: {m: [Al, Cu], s: [1, 2], exclude: [{m: Al, s: 2}], include: [{m: Ni, s: 9}]}, command: x}}\n"
    )
    assert ids(loaded) == ["e/Al-1", "e/Cu-1", "e/Cu-2", "e/Ni-9"]


def test_an_axis_may_come_from_params_and_set_replaces_them(load):
    text = 'params: {m: [Al, Cu]}\ntasks: {e: {matrix: {m: "${{ params.m }}"}, command: x}}\n'
    assert ids(load(text)) == ["e/Al", "e/Cu"]
    assert ids(load(text, overrides=parse_overrides(["m=[Ni, 1.0]"]))) == ["e/Ni", "e/1.0"]


TABLES = {
    "t.csv": 'id,e hull,n\nmp-1,0.10,007\n"mp,2",-1,\n',
    "t.tsv": "id\te hull\tn\nmp-1\t0.10\t007\nmp,2\t-1\t\n",
    "t.json": '[{"id": "mp-1", "e hull": 0.10, "n": "007"}, {"id": "mp,2", "e hull": -1, "n": ""}]',
    "t.yaml": "- {id: mp-1, e hull: 0.10, n: 007}\n- {id: 'mp,2', e hull: -1, n: ''}\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_a_row_an_instance_labelled_by_its_first_column(load, tmp_path, name):
    (tmp_path / name).write_text(TABLES[name])

    loaded = load(
        f"tasks: {{e: {{matrix: {{table: {name}, k: [a, b]}}, command: \"x ${{{{ matrix['e hull'] }}}}\"}}}}\n"
    )

    assert ids(loaded) == ["e/mp-1-a", "e/mp-1-b", "e/mp_2-a", "e/mp_2-b"]
    assert [str(item.matrix["e hull"]) for item in loaded.instances] == ["0.10", "0.10", "-1", "-1"]
    assert [item.matrix["n"] for item in loaded.instances] == ["007", "007", "", ""]
    assert loaded.files == (name,)


LABELS = {
    "Al": "Al", "a b/c": "a_b_c", ".hidden": "_hidden", "-x": "_x", "ß-Ä.1": "ß-Ä.1", "水": "水", "": "_",
    "x" * 200: "x" * 200, "x" * 201: "x" * 200 + "-eb454ff0",
}  # fmt: skip


@pytest.mark.parametrize(("text", "label"), LABELS.items(), ids=[text[:8] for text in LABELS])
def test_labels_are_made_safe(text, label):
    if len(text) > 200:
        assert make_label(text)[:201] == label[:201]
        assert len(make_label(text)) == 209
    else:
        assert make_label(text) == label


@given(st.text(max_size=400))
def test_every_label_is_the_name_of_a_folder_and_stable(text):
    label = make_label(text)

    assert 0 < len(label.encode()) <= 209
    assert "/" not in label
    assert label[0] not in ".-"
    assert make_label(label) == label or len(label.encode()) > 200


# --- edges -----------------------------------------------------------------------------------------------------------

FAN = """
params: {m: [Al, Cu]}
tasks:
  e: {matrix: {m: "${{ params.m }}", s: [1, 2]}, command: x, outputs: {p: "p/${{ matrix.m }}/${{ matrix.s }}.json", d: "d/${{ matrix.m }}${{ matrix.s }}/"}}
  f: {matrix: {m: "${{ params.m }}"}, inputs: {p: "p/${{ matrix.m }}/*.json"}, command: x, outputs: {f: "f/${{ matrix.m }}"}}
"""


@pytest.mark.parametrize(
    ("need", "upstream"),
    {"al*": ["alpha", "alb"], "alpha": ["alpha"], "alpha/*": ["alpha/1", "alpha/2"], "**/2": ["alpha/2"], "*": ["alpha", "alb"]}.items(),
)  # fmt: skip
def test_a_glob_in_needs_names_tasks_as_it_does_on_the_command_line(load, need, upstream):
    loaded = load(
        f"tasks: {{alpha: {{matrix: {{i: [1, 2]}}, command: x}}, alb: {{command: x}}, z: {{needs: ['{need}'], command: x}}}}"
    )
    assert sorted(edge.upstream for edge in loaded.instances[-1].edges) == sorted(upstream)


def test_a_glob_over_outputs_makes_the_edges(load):
    loaded = load(FAN)
    assert edges(loaded) == {("e/Al-1", "f/Al"), ("e/Al-2", "f/Al"), ("e/Cu-1", "f/Cu"), ("e/Cu-2", "f/Cu")}
    assert loaded.summary["patterns"] == {"f/Al.p": "2 of e", "f/Cu.p": "2 of e"}
    assert (loaded.summary["depth"], loaded.summary["width"]) == (2, 4)


@pytest.mark.parametrize(
    ("pattern", "upstreams"),
    [("f/*", ["f"]), ("f/Al", ["f/Al"]), ("**/1.json", ["e/Al-1", "e/Cu-1"]), ("p/?u/[12].json", ["e/Cu-1", "e/Cu-2"]),
     ("d/Al1/OUTCAR", ["e/Al-1"]), ("d/Al1/", ["e/Al-1"]), ("d/Al1/*.txt", ["e/Al-1"]), ("p/**", ["e"]), ("p/Al/*", ["e/Al-1", "e/Al-2"]),
     ("d/Al1/**", ["e/Al-1"]), ("d/**", ["e"])],
)  # fmt: skip
def test_what_a_pattern_means(load, pattern, upstreams):
    loaded = load(FAN + f'  g: {{inputs: {{x: "{pattern}"}}, command: x}}\n')
    assert [edge.upstream for edge in loaded.instances[-1].edges] == upstreams


@pytest.mark.parametrize(
    ("need", "upstreams"),
    [("f", ["f"]), ("f/Al", ["f/Al"]), ('"f/*"', ["f/Al", "f/Cu"]), ('"*/Al*"', ["e/Al-1", "e/Al-2", "f/Al"]), ('"f/${{ params.m[1] }}"', ["f/Cu"])],
)  # fmt: skip
def test_what_needs_means_one_edge_to_a_group(load, need, upstreams):
    loaded = load(FAN + f"  g: {{needs: [{need}], command: x}}\n")
    assert [edge.upstream for edge in loaded.instances[-1].edges] == upstreams


def test_files_of_the_campaign_folder_are_inputs_where_no_output_matches(load, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.txt", "a.txt", ".c.txt"):
        (tmp_path / "in" / name).write_text("")
    loaded = load('tasks: {a: {inputs: {x: "in/*.txt", y: in/b.txt, z: in}, command: "x ${{ inputs.x }}"}}\n')

    assert [source.path for source in loaded.instances[0].inputs["x"].sources] == ["in/a.txt", "in/b.txt"]
    assert loaded.files == ("in/a.txt", "in/b.txt")


def test_run_roots_below_the_campaign_folder_are_not_its_files(load, tmp_path):
    (tmp_path / "runs" / "t").mkdir(parents=True)
    for name in ("run.json", "operators.yaml", "x.py"):
        (tmp_path / "runs" / "t" / name).write_text("")
    (tmp_path / "y.py").write_text("")
    assert load('files: ["**/*.py"]\ntasks: {a: {command: x}}\n').files == ("y.py",)


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "tasks: {}": ["3:8: tasks: expected a mapping of at least one task, got an empty mapping"],
    "tasks: {a: {comand: x}}": ["3:13: tasks.a.comand: unknown key (did you mean 'command'?)"],
    "tasks: {a: {}}": ["3:9: tasks.a: 'command' is missing (operator 'local' is of kind local)"],
    "tasks: {1a: {command: x}}": ["3:9: tasks.1a: expected a name of letters, digits and '_' (at most 100, the first no digit), got '1a'"],
    "tasks: {a: {command: x, container: y}}": ["3:25: tasks.a.container: 'container' is reserved for a later version of MatterStack"],
    "tasks: {a: {command: x, needs: [b]}}": ["3:33: tasks.a.needs[0]: 'b' is not defined"],
    "tasks: {scf_pbe: {command: x}, a: {command: x, needs: [scf]}}": ["3:56: tasks.a.needs[0]: 'scf' is not defined (did you mean 'scf_pbe'?)"],
    "tasks: {a: {command: x, needs: [a]}}": ["3:9: tasks.a: a cycle: a -> a"],
    "tasks: {a: {command: x, needs: [b]}, b: {command: x, needs: [c]}, c: {command: x, needs: [a]}}": ["3:9: tasks.a: a cycle: a -> c -> b -> a"],
    "tasks: {a: {command: x, inputs: {x: y}, outputs: {o: z}}, b: {command: x, inputs: {x: z}, outputs: {o: y}}}": ["3:9: tasks.a: a cycle: a -> b -> a"],
    "tasks: {a: {command: x, outputs: {o: p}}, b: {command: x, outputs: {o: p}}}": ["3:72: tasks.b.outputs.o: 'p' of b: a also declares it; outputs cannot be or contain each other"],
    "tasks: {a: {command: x, outputs: {o: p/}}, b: {command: x, outputs: {o: p/q}}}": ["3:73: tasks.b.outputs.o: 'p/q' of b: a declares 'p/'; outputs cannot be or contain each other"],
    "tasks: {a: {command: x, outputs: {o: ../p}}}": ["3:38: tasks.a.outputs.o: '../p' leaves its folder by '..'"],
    "tasks: {a: {command: x, outputs: {o: /p}}}": ["3:38: tasks.a.outputs.o: '/p' is absolute; give a path relative to the campaign folder or to results/"],
    "tasks: {a: {command: x, outputs: {o: exit.json}}}": ["3:38: tasks.a.outputs.o: 'exit.json' is a file that MatterStack writes; use another name"],
    'tasks: {a: {command: x, outputs: {o: "*.x"}}}': ["3:38: tasks.a.outputs.o: '*.x' is a pattern; an output is one file, or a folder with a trailing /"],
    "tasks: {a: {command: x, inputs: {i: nothing}}}": ["3:37: tasks.a.inputs.i: 'nothing' is neither a declared output nor a file of the campaign folder"],
    'tasks: {a: {command: x, inputs: {i: "n/*"}}}': ["3:37: tasks.a.inputs.i: 'n/*' matches no declared output and no file of the campaign folder"],
    "files: [scripts/**]\ntasks: {a: {command: x}}": ["3:9: files[0]: 'scripts/**' matches no file of ."],
    "tasks: {a: {command: 'python ${{ source }}/x.py'}}": ["3:22: tasks.a.command: source/x.py does not exist in the campaign folder"],
    "tasks: {a: {command: 'cat ${{ source }}/c.yaml'}}": ["3:22: tasks.a.command: source/c.yaml is not in `files`; add it"],
    "tasks: {a: {command: 'echo ${{ matrix.x }}'}}": ["3:22: tasks.a.command: 'x' is not in matrix; it is empty"],
    "tasks: {a: {command: 'echo ${{ nope }}'}}": ["3:22: tasks.a.command: 'nope' is not known; params, matrix, inputs, outputs, source, resources, operator, task, run, response, metrics can be used in command"],
    "tasks: {a: {command: 'echo \"${{ task.id }}\"'}}": ["3:22: tasks.a.command: ${{ task.id }} is inside double quotes: move it outside the quotes; values are quoted automatically, or write ${{ raw(task.id) }} if it must be inserted as it is"],
    "tasks: {a: {command: x, outputs: {o: '${{ inputs.x }}'}}}": ["3:38: tasks.a.outputs.o: 'inputs' cannot be used in outputs; params, matrix, task can"],
    "tasks: {a: {command: x, description: '${{ task.id }}'}}": ["3:38: tasks.a.description: templates cannot be used here"],
    "tasks: {a: {command: x, matrix: {i: []}}}": ["3:37: tasks.a.matrix.i: 'i' is empty: it gives no instances"],
    "tasks: {a: {command: x, matrix: {i: [a b, a_b]}}}": ["3:33: tasks.a.matrix: {i: a b} and {i: a_b} have the same label 'a_b'; set `label`"],
    "tasks: {a: {command: x, matrix: {i: [attempt-1]}}}": ["3:33: tasks.a.matrix: {i: attempt-1} has the label 'attempt-1', the name of the folder of an attempt; set `label`"],
    "tasks: {a: {command: x, matrix: {i: [[1], [2]]}}}": ["3:37: tasks.a.matrix.i: a list or mapping as a value needs a `label`"],
    "tasks: {a: {command: x, matrix: {table: t.csv}}}": ["3:41: tasks.a.matrix.table: t.csv: no such file"],
    "tasks: {a: {command: x, matrix: {i: [1], j: [2], include: [{i: 3}]}}}": ["3:60: tasks.a.matrix.include[0]: has other keys than the first row: missing j"],
    "tasks: {a: {command: x, operator: clstr}}\noperators: {cluster: {kind: slurm}}": ["3:35: tasks.a.operator: there is no operator 'clstr' (did you mean 'cluster'?); there are local, cluster"],
    "tasks: {a: {command: x, resources: {memory: 5 apples}}}": ["3:45: tasks.a.resources.memory: expected memory with a unit like 500M, 24G or 1.5T, got 5 apples"],
    "tasks: {a: {command: x, resources: {time: 10}}}": ["3:43: tasks.a.resources.time: expected a time with a unit, like 90s, 10m, 4h, 2d or 24:00:00, got 10"],
    "tasks: {a: {command: x, resources: {cpus: 4}}}\noperators: {local: {kind: local, slots: {cpus: 2}}}": ["3:36: tasks.a.resources: asks for 4 cpus, operator 'local' has 2"],
    "tasks: {a: {command: x, retries: -1}}": ["3:34: tasks.a.retries: expected a number of retries, or a mapping with max, delay and rules, got -1"],
    "tasks: {a: {command: x, allow_dependency_failure: {min: some}}}": ["3:57: tasks.a.allow_dependency_failure.min: expected a number like 7 or a share like 90%, got 'some'"],
    "tasks: {a: {command: x}\n": ["4:1: is not YAML: expected ',' or '}' (the { that opens in line 3 is not closed)"],
    "tasks: {a: {command: x, inputs: {p: ${{ matrix.x }}}}}": ["3:38: is not YAML: expected ',' or '}' (put \"${{ … }}\" in double quotes inside { } and [ ])"],
    "tasks: {a: {command: x, inputs: {p: *.json}}}": ["3:38: is not YAML: expected alphabetic or numeric character (a value with a leading * must be quoted)"],
    "tasks:\n\ta: {command: x}": ["4:1: is not YAML: found character that cannot start any token (a tab cannot indent YAML; use spaces)"],
    "tasks: {a: {command: x}}\ntasks: {b: {command: x}}": ["4:1: duplicate key 'tasks' (first defined on line 3)"],
    "x-a: &a [*a]\ntasks: {a: {command: x}}": ["3:10: alias *a refers to the value that contains it"],
    "params: {a: .nan}\ntasks: {a: {command: x}}": ["3:13: .nan is not a finite number; quote it if it is text"],
    "params: {a: !!python/name:os.system x}\ntasks: {a: {command: x}}": ["3:13: the tag tag:yaml.org,2002:python/name:os.system is not allowed in a campaign"],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES.items(), ids=[str(n) for n in range(len(MISTAKES))])
def test_a_mistake_is_one_line_with_its_place_and_cure(problems, text, expected):
    assert problems(text) == expected


def test_all_problems_are_told_at_once_in_the_order_of_the_file(problems):
    found = problems(
        "tasks:\n  a: {command: x, needs: [b, c]}\n  d: {command: 'x ${{ nope }}', outputs: {o: ../x}}\n"
        "  e: {command: x, operator: nowhere, inputs: {i: missing}}\n"
    )
    assert [line.split(": ")[1] for line in found] == [
        "tasks.a.needs[0]", "tasks.a.needs[1]", "tasks.d.command", "tasks.d.outputs.o", "tasks.e.operator", "tasks.e.inputs.i",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\xff\xfe\x00", "is not UTF-8"), (b"\x00\x01\x02", "is not allowed in YAML"), (b"[1]\n", "is not a campaign"), (b"just text\n", "is not a campaign")],
    ids=["empty", "not UTF-8", "binary", "a list", "text"],
)  # fmt: skip
def test_a_file_that_is_no_campaign_is_refused(tmp_path, content, words):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(CampaignError, match=words):
        load_campaign(tmp_path / "c.yaml")


def test_an_alias_bomb_is_refused_at_once(problems):
    bomb = "x-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"x-a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert "aliases expand to more than" in problems(bomb + "tasks: {a: {command: x}}\n")[0]


def test_a_billion_instances_are_refused_at_once(problems):
    axes = ", ".join(f"x{n}: {list(range(1000))}" for n in range(3))
    assert (
        "1000000000 instances; a campaign may have 250000"
        in problems(f"tasks: {{a: {{command: x, matrix: {{{axes}}}}}}}\n")[0]
    )


def test_anchors_merges_and_x_keys_work(load):
    loaded = load("x-r: &r {cpus: 3, time: 1h}\ntasks: {a: {command: x, x-note: y, resources: {<<: *r, cpus: 1}}}\n")
    assert loaded.campaign.tasks["a"].resources == {"cpus": 1, "time": "1h"}


X_KEYS = """
x-top: 1
params: {x-a: 1, p: {x-b: 2, c: 3}}
operators: {x-o: 1, local: {kind: local, x-n: 1, slots: {x-k: 1}}}
defaults: {x-d: 1, resources: {x-q: 1}}
tasks:
  x-template: &t {command: "true"}
  a:
    <<: *t
    x-note: hello
    resources: {x-why: big, cpus: 1}
    retries: {max: 1, x-r: 1, timeout: {x-t: 1, time: x2}}
    env: {x-e: 1}
    inputs: {x-i: 1}
    outputs: {x-oo: 1, o: {path: o, x-z: 1, optional: true}}
    matrix: {x-m: 1, i: [1]}
    allow_dependency_failure: {x-d: 1, min: 0}
"""


def test_x_keys_are_ignored_at_every_place_also_by_the_schema_alone(load):
    loaded = load(X_KEYS)
    spec = loaded.campaign.tasks["a"]
    assert (ids(loaded), spec.env, list(spec.inputs), list(spec.outputs)) == (["a/1"], {}, [], ["o"])
    assert loaded.campaign.params == {"p": {"c": 3}}
    whole = load_document(Path("c.yaml")).root  # as an editor checks it
    assert find_errors(json.dumps([json.loads(read_schema("campaign"))]), "campaign.schema.json", whole) == []


def test_defaults_are_merged_key_by_key_and_setup_is_appended(load):
    loaded = load(
        "defaults: {resources: {cpus: 1, memory: 1G}, setup: [one], env: {A: a, B: b}, retries: 2}\n"
        "tasks: {a: {command: x, resources: {cpus: 2}, setup: [two], env: {B: c}, retries: {max: 1, delay: 5s}}}\n"
    )
    spec = loaded.campaign.tasks["a"]
    assert (spec.resources, spec.setup, spec.env) == ({"cpus": 2, "memory": "1G"}, ("one", "two"), {"A": "a", "B": "c"})
    assert (spec.retries.max, spec.retries.delay_s) == (1, 5)


def test_operators_of_a_site_replace_the_campaigns_whole(load, tmp_path):
    (tmp_path / "site.yaml").write_text("cluster: {kind: local, max_active: 7}\n")
    loaded = load(
        "operators: {cluster: {kind: slurm, setup: [x]}}\ntasks: {a: {command: x, operator: cluster}}\n",
        operators="site.yaml",
    )
    assert (loaded.campaign.operators["cluster"].kind, loaded.campaign.operators["cluster"].setup) == ("local", ())


def test_what_cannot_run_yet_passes_validate_and_is_refused_in_words_by_init(load, problems):
    text = "operators: {c: {kind: slurm}}\ntasks: {a: {command: x, operator: c}}\n"
    load(text)
    assert problems(text, installed_kinds=["local"], to_run=True) == [
        "3:23: operators.c.kind: this version of MatterStack cannot run operators of kind 'slurm' yet"
    ]


def test_json_is_accepted_wherever_yaml_is(tmp_path):
    (tmp_path / "c.json").write_text('{"matterstack": 1, "name": "t", "tasks": {"a": {"command": ["x", 1.00]}}}')
    assert load_campaign(tmp_path / "c.json").campaign.tasks["a"].command == ("x", "1.00")


KEYS = st.sampled_from(["matterstack", "name", "tasks", "params", "files", "defaults", "operators", "a", "command", "matrix",
    "needs", "inputs", "outputs", "resources", "retries", "cpus", "env", "label", "include", "table", "kind"])  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(
    ["${{ params.a }}", "${{ x", "a/*", "..", "1G", "local", "true", "${{ matrix.a }}"]))  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@given(TREES, TREES)
def test_whatever_the_structure_it_loads_or_is_refused_with_problems(tmp_path_factory, tree, task):
    path = tmp_path_factory.mktemp("fuzz") / "c.json"
    for document in (
        tree,
        {"matterstack": 1, "name": "t", "tasks": {"a": task, "b": {"command": "x"}}, "params": tree},
    ):
        path.write_text(json.dumps(document))
        try:
            load_campaign(path)
        except CampaignError as error:
            assert error.problems
            assert all("\n" not in problem.message for problem in error.problems)


@given(st.text(max_size=80))
def test_whatever_the_text_it_loads_or_is_refused_with_problems(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "c.yaml"
    for content in (text, HEAD + "tasks: {a: {command: " + text + "}}\n"):
        path.write_text(content, encoding="utf-8", errors="replace")
        try:
            load_campaign(path)
        except CampaignError as error:
            assert error.problems


def test_an_order_of_axes_or_a_digit_is_another_campaign(tmp_path):
    digests = set()
    for matrix in ("{a: [1.00], b: [2]}", "{b: [2], a: [1.00]}", "{a: [1.0], b: [2]}"):
        (tmp_path / "c.yaml").write_text(HEAD + f"tasks: {{t: {{matrix: {matrix}, command: x}}}}\n")
        digests.add(load_campaign(tmp_path / "c.yaml").digest)
    assert len(digests) == 3


def test_retries_are_merged_key_by_key(tmp_path):
    (tmp_path / "c.yaml").write_text(
        HEAD
        + "defaults: {retries: {max: 2, delay: 10s}}\ntasks: {a: {command: x, retries: {delay: 1s}}, b: {command: x, retries: 0}}\n"
    )
    tasks = load_campaign(tmp_path / "c.yaml").campaign.tasks
    assert (tasks["a"].retries.max, tasks["a"].retries.delay_s) == (2, 1)
    assert (tasks["b"].retries.max, tasks["b"].retries.delay_s) == (0, 10)


def test_a_value_in_needs_is_made_safe_as_labels_are(tmp_path):
    (tmp_path / "c.yaml").write_text(
        HEAD + 'params: {v: ["a*", "a b", "ab", "-x"]}\ntasks: {x: {matrix: {v: "${{ params.v }}"}, command: x}, '
        'y: {matrix: {v: "${{ params.v }}"}, needs: ["x/${{ matrix.v }}"], command: x, label: "${{ matrix.v }}y"}}\n'
        .replace('"a*", ', '"c*", ')
    )  # fmt: skip
    loaded = load_campaign(tmp_path / "c.yaml")
    assert [[edge.upstream for edge in item.edges] for item in loaded.instances[4:]] == [
        ["x/c_"],
        ["x/a_b"],
        ["x/ab"],
        ["x/_x"],
    ]


def test_a_tasks_own_param_counts_in_its_resources(bench):
    bench.start(
        "params: {n: 1}\ntasks: {a: {matrix: {i: [3]}, params: {n: '${{ matrix.i }}'}, resources: {cpus: '${{ params.n }}'}, "
        "command: 'echo ${{ params.n }} ${{ resources.cpus }}'}}\n"
    )
    bench.step_until_over()
    assert (bench.attempt("a/3") / "stdout.log").read_text() == "3 3\n"


def test_a_typo_in_a_thousand_instances_is_told_once_and_at_once(tmp_path):
    from matterstack.errors import CampaignError

    (tmp_path / "c.yaml").write_text(
        HEAD + f"params: {{n: {list(range(1000))}}}\n"
        'tasks: {a: {matrix: {i: "${{ params.n }}"}, command: x, outputs: {o: "out/${{ matrix.i }}"}}, '
        'b: {matrix: {i: "${{ params.n }}"}, command: x, inputs: {o: "oot/${{ matrix.i }}"}}}\n'
    )
    with pytest.raises(CampaignError) as caught:
        load_campaign(tmp_path / "c.yaml")
    assert len(caught.value.problems) == 1
    assert "did you mean 'out/" in str(caught.value)


def test_a_cell_may_hold_any_character_but_the_end_of_its_line(tmp_path):
    (tmp_path / "t.csv").write_text('id,note\na,"x\u2028y\x0cz"\nb,"two\nlines"\n', newline="")
    (tmp_path / "c.yaml").write_text(HEAD + 'tasks: {a: {matrix: {table: t.csv}, command: "x ${{ matrix.note }}"}}\n')
    notes = [item.matrix["note"] for item in load_campaign(tmp_path / "c.yaml").instances]
    assert notes == ["x\u2028y\x0cz", "two\nlines"]


@pytest.mark.parametrize("limit", ["0s", "0.001s"])
def test_a_time_limit_of_nothing_is_refused_and_not_taken_for_none(tmp_path, limit):
    (tmp_path / "c.yaml").write_text(HEAD + f"tasks: {{a: {{command: x, resources: {{time: {limit}}}}}}}\n")
    with pytest.raises(CampaignError, match="leaves no time to run"):
        load_campaign(tmp_path / "c.yaml")


REFUSED = {
    "a huge number in a template": ("tasks: {a: {command: 'echo ${{ 1e400 }}'}}", "is too large for a number"),
    "a huge priority": ("tasks: {a: {command: x, priority: 99999999999999999999}}", "expected a whole number"),
    "huge cpus": ("tasks: {a: {command: x, resources: {cpus: 99999999999999999999}}}", "expected a whole number"),
    "a long template": ("tasks: {a: {command: 'x ${{ " + "a" * 1100 + " }}', outputs: {o: '${{ " + "b" * 1100 + " }}'}}}", "a template of"),
    "null in a list": ("tasks: {a: {command: [x, null]}}", "expected a text or a number"),
    "an unknown kind": ("operators: {l: {kind: locl}}\ntasks: {a: {command: x}}", "did you mean 'local'?"),
    "an input as an output": ("tasks: {a: {command: x, inputs: {i: {path: c.yaml, as: o}}, outputs: {o: o}}}", "is an output as well"),
    "more than there are": ("tasks: {b: {command: x}, a: {command: x, needs: [b], allow_dependency_failure: {min: 3}}}", "needs at least 3 completed tasks, but a depends on only 1"),
    "no program": ("tasks: {a: {command: ['']}}", "the name of the program is empty"),
    "another case": ("tasks: {c: {command: x}, a: {command: x, needs: [C]}}", "did you mean 'c'?"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_its_place(tmp_path, text, words):
    from matterstack.errors import CampaignError

    (tmp_path / "c.yaml").write_text(HEAD + text + "\n")
    with pytest.raises(CampaignError, match=words.replace("?", r"\?")) as caught:
        load_campaign(tmp_path / "c.yaml")
    assert all(problem.line for problem in caught.value.problems)


def test_more_problems_are_told_beside_an_unknown_key(tmp_path):
    from matterstack.errors import CampaignError

    (tmp_path / "c.yaml").write_text(
        HEAD + "tasks:\n  a: {comand: x, needs: [zz], description: 3}\n"
        '  b: {command: "${{ nope }} ${{ params.y }}", env: {E: "${{ inputs.q }}"}, needs: [b]}\n'
    )
    with pytest.raises(CampaignError) as caught:
        load_campaign(tmp_path / "c.yaml")
    assert [problem.where for problem in caught.value.problems] == [
        "tasks.a.comand", "tasks.a.needs[0]", "tasks.a.description", "tasks.b", "tasks.b.command", "tasks.b.command",
        "tasks.b.env.E",
    ]  # fmt: skip


def test_json_may_write_characters_as_pairs_of_escapes_and_indent_with_tabs(tmp_path):
    data = {"matterstack": 1, "name": "t", "tasks": {"a": {"command": "echo 😀 \\ud83d / \t"}}}
    (tmp_path / "c.json").write_text(json.dumps(data, indent="\t"))
    assert load_campaign(tmp_path / "c.json").campaign.tasks["a"].command == data["tasks"]["a"]["command"]


def test_the_number_of_the_attempt_can_be_used_in_resources_and_params(bench):
    bench.start(
        "tasks: {a: {command: 'false', retries: 1, params: {seed: '${{ task.attempt }}'}, "
        "resources: {memory: '${{ task.attempt }}G', time: '${{ params.seed }}m'}}}\n"
    )
    bench.step_until_over()
    second = json.loads((bench.attempt("a", 2) / "task.json").read_text())
    assert second["resources"] == {"cpus": 1, "memory": "2G", "time": "2m"}
    assert second["params"] == {"seed": 2}


def test_a_factor_multiplies_the_one_cpu_that_is_asked_for_by_default(bench):
    bench.start("tasks: {a: {command: 'false', retries: {max: 1, exit_code: {cpus: x2}}}}\n")
    bench.step_until_over()
    assert json.loads((bench.attempt("a", 2) / "task.json").read_text())["resources"]["cpus"] == 2


def test_a_limit_of_growth_never_makes_a_resource_smaller():
    rules = Retries(max=1, rules={"timeout": {"time": "x2", "up_to": "1h"}})
    assert escalate({"time": "10h"}, rules, [(FailureClass.TIMEOUT, None)]) == {"time": "36000s"}


def test_the_most_cpu_seconds_is_a_bound_also_where_rules_ask_for_less():
    rules = Retries(max=5, rules={"timeout": {"time": "1m"}, "exit_code": {"time": "1m"}})
    assert most_cpu_seconds({"time": "10h"}, rules) == 6 * 36000


def test_answers_and_metrics_may_be_named_under_several_keys(bench):
    file = bench.write(
        "tasks:\n  a: {matrix: {m: [1, 2]}, command: 'true'}\n"
        "  b: {matrix: {m: [1.0, 2]}, command: 'echo ${{ metrics.a.e }}', resources: {memory: '${{ metrics.a.m }}'}}\n"
    )
    loaded = load_campaign(file)
    assert [(e.upstream, i.task_id) for i in loaded.instances for e in i.edges] == [("a/1", "b/1.0"), ("a/2", "b/2")]


def test_own_params_are_seen_by_deadline_condition_and_schema(bench):
    file = bench.write(
        "operators: {h: {kind: human}}\nparams: {n: no}\ntasks: {a: {operator: h, instructions: x, params: {days: 3d, n: 3, go: true}, "
        "deadline: '${{ params.days }}', when: '${{ params.go }}', response_schema: {maxProperties: '${{ params.n }}'}}}\n"
    )
    assert [item.task_id for item in load_campaign(file).instances] == ["a"]


def test_many_unknown_names_and_many_patterns_are_told_within_seconds(bench):
    tasks = {f"t{i}": {"command": "x", "needs": [f"zz{i}"]} for i in range(3000)}
    file = bench.write(json.dumps({"matterstack": 1, "name": "t", "tasks": tasks}), "c.json")
    done = bench.cli("validate", file, timeout=30)
    assert done.stderr.count("is not defined") == 3000
    deep = {f"t{i}": {"command": "x", "outputs": {"o": "a/" * 25 + f"f{i}"}} for i in range(300)}
    deep["z"] = {"command": "x", "inputs": {"i": "**/a/" * 14 + "**/q"}}
    file = bench.write(json.dumps({"matterstack": 1, "name": "t", "tasks": deep}), "d.json")
    assert "matches no declared output" in bench.cli("validate", file, timeout=30).stderr


def test_a_table_with_too_many_rows_is_not_read_to_its_end(bench):
    with open(bench.folder / "t.csv", "w") as file:
        file.write("id\n" + "".join(f"{n}\n" for n in range(300_000)))
    done = bench.cli("validate", bench.write("tasks: {a: {command: x, matrix: {table: t.csv}}}\n"), timeout=30)
    assert done.stderr.endswith("t.csv:250002:1: has more than 250000 rows, the most instances of a campaign\n")


def test_a_file_that_is_changed_in_place_makes_an_edge(bench):
    tasks = [{"id": "a", "outputFiles": ["f"]}, {"id": "b", "inputFiles": ["f"], "outputFiles": ["f"]}]
    (bench.folder / "in.json").write_text(json.dumps({"workflow": {"specification": {"tasks": tasks}}}))
    bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")
    assert json.loads(bench.cli("graph", "c.yaml", "--json").stdout)["edges"] == [["a", "b"]]
