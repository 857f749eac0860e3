"""Names and paths as people have them: spaces, quotes, umlauts, newlines, leading dashes, 200 characters."""

from __future__ import annotations

import json
import os

import pytest

from matterstack import open_run, run_until_done
from matterstack.spec.load import load_campaign

VALUES = ["a b", "it's", 'say "x"', "Ä ß 水", "-rf", "--help", ".hidden", "$HOME", "`id`", "$(id)", "a;b", "a&b", "*", "[x]",
          "?", "back\\slash", "tab\there", "two\nlines", "~", "!", "#x", "%s", "{}", "x" * 200, "ä" * 100, "\u202e", "a\u0301"]  # fmt: skip
ODD_FOLDER = "-an odd 'run' \"root\" Ä\n$(id) *"


def campaign(folder, values):
    text = json.dumps({
        "matterstack": 1, "name": "t",
        "tasks": {
            "say": {
                "matrix": {"table": "values.json"}, "label": "${{ matrix.v }}-${{ matrix.n }}",
                "command": "printf '%s' ${{ matrix.v }} > ${{ outputs.o }}; printf '%s' \"$V\" > env.txt",
                "env": {"V": "${{ matrix.v }}"},
                "outputs": {"o": "said/${{ task.label }}.txt"},
            },
            "argv": {"matrix": {"table": "values.json"}, "label": "${{ matrix.v }}-${{ matrix.n }}", "command": ["cp", "--", "${{ inputs.said }}", "${{ outputs.o }}"],
                     "inputs": {"said": "said/${{ task.label }}.txt"}, "outputs": {"o": "copied/${{ task.label }}"}},
            "all": {"command": "cat ${{ inputs.all }} > ${{ outputs.o }}", "inputs": {"all": "copied/*"}, "outputs": {"o": "all it's.txt"}},
        },
    })  # fmt: skip
    (folder / "values.json").write_text(json.dumps([{"n": n, "v": value} for n, value in enumerate(values)]))
    file = folder / "campaign 'of' Ä.json"
    file.write_text(text)
    return file


def test_odd_values_pass_through_command_argv_env_and_files_unharmed_at_an_odd_path(bench):
    folder = bench.folder / ODD_FOLDER
    folder.mkdir()
    file = campaign(folder, VALUES)
    root = folder / "-run root\n'1'"

    done = bench.cli("run", file, "--root", root, cwd=folder)

    assert done.returncode == 0, done.stderr
    labels = {}
    for instance in load_campaign(file).instances:
        if instance.group == "say":
            labels[instance.label] = instance.matrix["v"]
            folder_of = root / "tasks" / instance.task_id / "attempt-1"
            assert (root / "results" / "said" / f"{instance.label}.txt").read_text() == instance.matrix["v"]
            assert (folder_of / "env.txt").read_text() == instance.matrix["v"]
    assert list(labels.values()) == VALUES
    assert (root / "results" / "all it's.txt").read_text() == "".join(VALUES)
    assert all(len(os.fsencode(label)) <= 209 and label[0] not in ".-" and "/" not in label for label in labels)


def test_every_reading_command_works_on_odd_names_and_prints_lines_that_harm_no_terminal(bench):
    folder = bench.folder / ODD_FOLDER
    folder.mkdir()
    file = campaign(folder, VALUES)
    bench.root = folder / "run"
    bench.cli("run", file, "--root", "run", cwd=folder)
    say = open_run(bench.root).tasks[3].task_id
    for words in (
        ["status"],
        ["explain"],
        ["results"],
        ["results", "--csv"],
        ["graph"],
        ["attempts", say],
        ["logs", say],
    ):
        done = bench.cli(words[0], "run", *words[1:], cwd=folder)
        assert done.returncode == 0, (words, done.stderr)
        assert words[-1] == "--csv" or not set("\x1b\r\b\u202e") & set(done.stdout)
        as_json = bench.cli(words[0], "run", *words[1:], "--json", cwd=folder)
        assert words[-1] == "--csv" or isinstance(json.loads(as_json.stdout), list | dict)


def test_labels_stay_the_same_when_a_table_gains_columns_and_rows(bench):
    table = bench.folder / "t.csv"
    text = "tasks: {a: {matrix: {table: t.csv}, command: x}}\n"
    table.write_text("id,x\nmp 1,1\nÄ,2\n")
    before = [item.task_id for item in load_campaign(bench.write(text)).instances]
    table.write_text("id,x,y\nmp 1,1,9\nnew,5,9\nÄ,2,9\n")
    assert [item.task_id for item in load_campaign(bench.write(text)).instances] == [before[0], "a/new", before[1]]
    assert before == ["a/mp_1", "a/Ä"]


def test_two_long_labels_that_differ_at_their_end_stay_two(bench):
    text = f"tasks: {{a: {{matrix: {{v: [{'x' * 250}1, {'x' * 250}2]}}, command: x}}}}\n"
    ids = [item.task_id for item in load_campaign(bench.write(text)).instances]
    assert len(set(ids)) == 2 and all(len(i) == len("a/") + 209 for i in ids)


@pytest.mark.parametrize("name", ["x" * 101, "a-b", "1a", "ä", "", "a b", "a.b"])
def test_names_that_stand_in_templates_and_paths_are_plain(bench, name):
    from matterstack.errors import CampaignError

    for document in ({"tasks": {name: {"command": "x"}}}, {"tasks": {"a": {"command": "x"}}, "params": {name: 1}}):
        with pytest.raises(CampaignError, match="expected a name of letters, digits and '_'"):
            load_campaign(bench.write(json.dumps({"matterstack": 1, "name": "t", **document}), "c.json"))


def test_a_run_root_that_is_moved_to_an_odd_path_while_a_task_runs_goes_on(bench):
    bench.start(
        "tasks: {a: {command: 'until [ -e WITNESS ]; do sleep 0.05; done; echo $PWD > o', outputs: {o: o}}, b: {inputs: {o: o}, command: 'cat ${{ inputs.o }}'}}\n"
    )
    bench.step()
    moved = bench.folder / "Mein Umzug: 'neu'\n"
    bench.root.rename(moved)
    bench.root = moved
    bench.witness.touch()
    assert run_until_done(moved).state == "COMPLETED"
    assert bench.cli("logs", moved, "b").returncode == 0
