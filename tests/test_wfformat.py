"""`import wfformat`: recorded workflows to campaigns, in both layouts of the format."""

from __future__ import annotations

import gzip
import json
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterstack import initialize_run, run_until_done
from matterstack.core.values import resolve_scalar
from matterstack.errors import CampaignError
from matterstack.spec.importers.wfformat import read_wfformat
from matterstack.spec.load import load_campaign
from matterstack.spec.loader import dump_document, parse_document, plain

SCRIPT = 'echo "a ${x:-b}" > out.txt \\\n    ; cat <<-END > versions.yml\n"A:B": $(echo 1)\nEND\ntrue ${{ not.ours }}'

V15 = {
    "name": "Ä workflow: 1", "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {"id": "A.SPLIT:x_1", "name": "split", "parents": [], "children": ["B_1"], "inputFiles": ["data.csv", "gone.csv"], "outputFiles": ["part 1", "part[2]"]},
                {"id": "B_1", "name": "work", "parents": ["A.SPLIT:x_1"], "inputFiles": ["part 1"], "outputFiles": ["/c3/93/out.txt", "https://x.org/versions.yml"]},
                {"id": "B_2", "name": "work", "parents": ["A.SPLIT:x_1", "B_1"], "inputFiles": ["part[2]"], "outputFiles": []},
            ],
            "files": [{"id": "data.csv", "sizeInBytes": 3}],
        },
        "execution": {"tasks": [
            {"id": "A.SPLIT:x_1", "runtimeInSeconds": 1, "coreCount": 3.5, "memoryInBytes": 5_000_000, "command": {"program": "sh", "arguments": ["-c", "cp data.csv 'part 1'; echo '*' > part[2]"]}},
            {"id": "B_1", "runtimeInSeconds": 1, "command": {"program": SCRIPT, "arguments": []}},
        ]},
    },
}  # fmt: skip

V14 = {
    "name": "old", "schemaVersion": "1.4",
    "workflow": {"tasks": [
        {"name": "make_1", "id": "ID1", "category": "make", "parents": [], "command": {"program": "touch", "arguments": ["o.txt"]},
         "files": [{"link": "input", "name": "data.csv"}, {"link": "output", "name": "o.txt"}], "cores": 1},
        {"name": "use_1", "id": "ID2", "category": "use", "parents": ["make_1"], "command": {"program": "cat", "arguments": ["o.txt"]},
         "files": [{"link": "input", "name": "o.txt"}]},
    ]},
}  # fmt: skip


def test_a_workflow_of_today_becomes_a_campaign_that_runs_its_commands(bench):
    (bench.folder / "in.json").write_text(json.dumps(V15))
    (bench.folder / "data.csv").write_text("1,2\n")

    done = bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "3 tasks; 3 edges",
        "1 file that no task makes is not here; it is listed under x-external-inputs "
        "(put what tasks read beside the campaign and import again; programs must be on PATH)",
        "1 task has no recorded command; it runs its name as a program",
    ]
    loaded = load_campaign(bench.folder / "c.yaml")
    assert [item.task_id for item in loaded.instances] == ["A_SPLIT_x_1", "B_1", "B_2"]
    edges = {(edge.upstream, item.task_id) for item in loaded.instances for edge in item.edges}
    assert edges == {("A_SPLIT_x_1", "B_1"), ("A_SPLIT_x_1", "B_2"), ("B_1", "B_2")}
    tasks = loaded.campaign.tasks
    assert tasks["A_SPLIT_x_1"].resources == {"cpus": 4, "memory": "5M"}
    assert tasks["A_SPLIT_x_1"].description == "A.SPLIT:x_1"
    assert tasks["B_2"].command == ("work",)


def test_a_whole_script_reaches_the_shell_byte_for_byte(bench):
    (bench.folder / "in.json").write_text(json.dumps(V15))
    bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")
    shown = json.loads(bench.cli("explain", "c.yaml", "B_1", "--json").stdout)
    assert shown["script"].split("\n", 2)[2] == SCRIPT + "\n"


def test_inputs_lie_in_the_working_folder_by_their_recorded_names(bench):
    simple = json.loads(json.dumps(V15))
    simple["workflow"]["specification"]["tasks"][1]["outputFiles"] = ["/c3/93/out.txt"]
    simple["workflow"]["execution"]["tasks"][1]["command"] = {"program": "cp", "arguments": ["part 1", "out.txt"]}
    simple["workflow"]["execution"]["tasks"].append(
        {"id": "B_2", "command": {"program": "test", "arguments": ["-f", "part_2_"]}}
    )
    simple["workflow"]["execution"]["tasks"][0]["command"]["arguments"][1] = "cp data.csv 'part 1'; echo '*' > part_2_"
    (bench.folder / "in.json").write_text(json.dumps(simple))
    (bench.folder / "data.csv").write_text("1,2\n")
    bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")

    initialize_run(bench.folder / "c.yaml", bench.root)

    assert run_until_done(bench.root).state == "COMPLETED"
    assert (bench.root / "results" / "B_1" / "out.txt").read_text() == "1,2\n"


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bytes], ids=["xz", "gz", "plain"])
def test_the_older_layout_is_read_too_also_compressed(bench, pack):
    (bench.folder / "in").write_bytes(pack(json.dumps(V14).encode()))
    done = bench.cli("import", "wfformat", "in")
    assert done.returncode == 0
    tasks = plain(parse_document(done.stdout, "x").root)["tasks"]
    assert tasks == {
        "ID1": {"outputs": {"out0": {"path": "ID1/o.txt", "file": "o.txt"}}, "command": ["touch", "o.txt"]},
        "ID2": {"inputs": {"in0": {"path": "ID1/o.txt", "as": "o.txt"}}, "command": ["cat", "o.txt"]},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "expected a WfFormat document, got an empty list"),
        (b'{"workflow": {}}', "workflow: expected a mapping, got an empty mapping"),
        (b'{"workflow": {"tasks": []}}', "workflow.tasks: expected a list of at least one task, got an empty list"),
        (b'{"workflow": {"tasks": [{"id": "a", "parents": [1]}]}}', "workflow.tasks[0].parents[0]: 1 is not of type 'string'"),
        (b'{"workflow": {"tasks": [{"id": "a"}, {"id": "a"}]}}', "two tasks have the id 'a'"),
        (b"\xfd7zXZ\x00broken", "cannot be decompressed: "),
        (b"\x1f\x8bbroken", "cannot be decompressed: "),
        (b"\xff\xfe", "is not "),
    ],
)  # fmt: skip
def test_what_is_not_wfformat_is_refused_in_one_line(bench, content, message):
    (bench.folder / "in.json").write_bytes(content)
    done = bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith(f"in.json: {message}") and done.stderr.count("\n") == 1
    assert not (bench.folder / "c.yaml").exists()


def test_an_existing_file_is_never_overwritten(bench):
    (bench.folder / "in.json").write_text(json.dumps(V14))
    (bench.folder / "c.yaml").write_text("mine")
    done = bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")
    assert (done.returncode, done.stderr) == (2, "error: c.yaml exists; -o needs a new file\n")
    assert (bench.folder / "c.yaml").read_text() == "mine"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], include_characters="\n\t"), max_size=40))
def test_every_text_that_is_written_as_yaml_reads_back_as_itself(text):
    if any(ord(char) in (0x85, 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF) for char in text):
        return  # line breaks of YAML 1.1, which libyaml folds, and what is no character
    assert plain(parse_document(dump_document({"k": text, "l": [text]}, as_json=False), "x").root) == {
        "k": text, "l": [text],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["012", "1e-3", "yes", "No", "~", "", "1.0", "0x1F", ".5", "true", "24:00:00", "<<", "a # b", "*x", "- a", "x: y"],
)
def test_texts_that_look_like_something_else_stay_texts(text):
    assert plain(parse_document(dump_document({"k": text}, as_json=False), "x").root) == {"k": text}
    assert isinstance(resolve_scalar(text) if text else "", str | int | float | bool | None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["workflow", "tasks", "specification", "execution", "id", "name", "parents", "files", "link",
                         "inputFiles", "outputFiles", "command", "program", "arguments", "coreCount"]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@given(
    JSON,
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "name", "parents", "outputFiles", "inputFiles", "command"]), JSON, max_size=6
        ),
        max_size=4,
    ),
)
def test_whatever_the_document_it_is_imported_or_refused(tmp_path_factory, tree, tasks):
    folder = tmp_path_factory.mktemp("wf")
    for document in (tree, {"workflow": {"specification": {"tasks": tasks}}}, {"workflow": {"tasks": tasks}}):
        (folder / "in.json").write_text(json.dumps(document))
        try:
            imported = read_wfformat(folder / "in.json", folder)
        except CampaignError as error:
            assert error.problems
            continue
        (folder / "c.json").write_text(dump_document(imported.document, as_json=True))
        try:
            load_campaign(folder / "c.json")
        except CampaignError as error:  # a cycle stands in the recording itself
            assert all("a cycle" in problem.message for problem in error.problems), error


@pytest.mark.parametrize("text", ["{'name': 'x'}", "{'command': {'program': 'x', 'arguments': ['\\ud800']}}"])
def test_an_odd_recording_is_refused_or_imported_never_a_traceback(bench, text):
    document = json.loads(text.replace("'", '"'))
    workflow = {"workflow": {"tasks": [{"name": "a", "files": [{"link": "input", "name": ""}], **document}]}}
    (bench.folder / "in.json").write_text(json.dumps(workflow))
    done = bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (bench.folder / "c.yaml").exists()
