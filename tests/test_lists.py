"""Lists of files that are too long for a command: as a file with one path on each line."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing

import pytest

from matterstack.errors import CampaignError
from matterstack.template import attempt


@pytest.fixture
def frames(bench):
    (bench.folder / "data").mkdir()
    for name in ("a 1", "b", "ü"):
        (bench.folder / "data" / f"{name}.json").write_text(name)
    return bench


@pytest.fixture
def short_commands(monkeypatch):
    """As on a system whose commands take nothing but their environment."""
    monkeypatch.setattr(attempt, "_ROOM_FOR_ENVIRONMENT", os.sysconf("SC_ARG_MAX") - 50)


def query(bench, statement):
    with closing(sqlite3.connect(bench.root / "state.sqlite")) as db:
        return db.execute(statement).fetchall()


LISTED = "inputs: {f: 'data/*.json'}, command: 'while read -r x; do cat \"$x\"; done < ${{ list(inputs.f) }} > o', outputs: {o: o}"
EXPANDED = "inputs: {f: 'data/*.json'}, command: 'cat ${{ inputs.f }} > o', outputs: {o: o}"


def test_a_list_is_a_file_of_paths_that_lead_there(frames, short_commands):
    frames.start(f"tasks: {{a: {{{LISTED}}}}}\n")

    assert frames.step_until_over().state == "COMPLETED"

    assert (frames.root / "results" / "o").read_text() == "a 1bü"
    paths = (frames.attempt("a") / "f.list").read_text().splitlines()
    assert [(frames.attempt("a") / path).read_text() for path in paths] == ["a 1", "b", "ü"]


def test_a_list_that_no_command_takes_is_told_before_and_fails_before_it_starts(frames, short_commands):
    frames.start(f"tasks: {{a: {{{EXPANDED}}}}}\n")

    frames.step_until_over()

    assert frames.states() == {"a": "FAILED"}
    assert "the paths of inputs.f are too long for a command" in frames.reasons()["a"]
    assert "${{ list(inputs.f) }} is the path of a list file" in frames.reasons()["a"]
    assert not frames.attempt("a").exists()


def test_validate_warns_of_it(bench):
    (bench.folder / "data").mkdir()
    long = "x" * 200
    for number in range(12_000):
        (bench.folder / "data" / f"{long}{number}.json").touch()
    bench.write(f"tasks: {{a: {{{EXPANDED}}}}}\n")

    shown = bench.cli("validate", "campaign.yaml").stderr

    assert "warning: tasks.a.command: the paths of inputs.f are too long for a command" in shown


@pytest.mark.parametrize("argument", ["inputs", "matrix.x", "inputs.f[0]", "params.x"])
def test_only_an_input_can_be_listed(frames, argument):
    with pytest.raises(CampaignError, match="names one input, like list"):
        frames.start(f"tasks: {{a: {{inputs: {{f: 'data/*.json'}}, command: 'cat ${{{{ list({argument}) }}}}'}}}}\n")


def test_one_file_is_no_list(frames):
    with pytest.raises(CampaignError, match="is one file"):
        frames.start("tasks: {a: {inputs: {f: data/b.json}, command: 'cat ${{ list(inputs.f) }}'}}\n")


def test_a_glob_over_a_whole_group_is_one_edge_and_one_source_however_many_read_it(bench):
    bench.start(
        "params: {n: [1, 2, 3, 4]}\n"
        "tasks: {a: {matrix: {i: '${{ params.n }}'}, command: 'echo ${{ matrix.i }} > o', outputs: {o: {file: o, path: 'o/${{ matrix.i }}'}}}, "
        "b: {matrix: {i: '${{ params.n }}'}, inputs: {all: 'o/*'}, command: 'cat ${{ inputs.all }} > p', "
        "outputs: {p: {file: p, path: 'p/${{ matrix.i }}'}}}}\n"
    )
    assert set(query(bench, "SELECT upstream, entry FROM edges")) == {("a", "inputs.all")}
    assert {row[0] for row in query(bench, "SELECT inputs FROM tasks WHERE group_name = 'b'")} == {
        '{"all": [true, null, [["a", "o", "", true]]]}'
    }

    assert bench.step_until_over().state == "COMPLETED"

    assert (bench.root / "results" / "p" / "3").read_text() == "1\n2\n3\n4\n"
    assert set(query(bench, "SELECT upstream, upstream_attempt FROM attempt_inputs")) == {("a", 1)}
    files = json.loads((bench.attempt("b/1") / "task.json").read_text())["inputs"]["all"]["files"]
    assert [(file["task"], file["attempt"]) for file in files] == [(f"a/{i}", 1) for i in (1, 2, 3, 4)]


def test_of_a_group_read_as_a_whole_one_rerun_makes_its_readers_stale(bench):
    bench.start(
        "tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'date +%N > o', outputs: {o: {file: o, path: 'o/${{ matrix.i }}'}}}, "
        "b: {inputs: {all: 'o/*'}, command: 'cat ${{ inputs.all }} > p', outputs: {p: p}}}\n"
    )
    bench.step_until_over()
    bench.cli("rerun", bench.root, "a/2")
    bench.step_until_over()
    assert "made from attempt 1 of a/2, which has a newer one (2)" in bench.cli("status", bench.root).stdout

    bench.cli("rerun", bench.root, "b")
    bench.step_until_over()

    assert set(query(bench, "SELECT upstream, upstream_attempt FROM attempt_inputs WHERE attempt = 2")) == {
        ("a", 1), ("a/2", 2),
    }  # fmt: skip
    assert "stale" not in bench.cli("status", bench.root).stdout


def test_a_task_of_the_group_itself_reads_all_the_others(bench):
    with pytest.raises(CampaignError, match="a cycle"):
        bench.start(
            "tasks: {a: {matrix: {i: [1, 2]}, inputs: {all: 'o/*'}, command: 'true', outputs: {o: {file: o, path: 'o/${{ matrix.i }}'}}}}\n"
        )


def test_numbers_in_lists_of_the_file_keep_their_text(bench):
    bench.start("params: {p: [[1.50, 2], [0.10]]}\ntasks: {a: {command: 'true'}}\n")
    bench.step_until_over()
    assert '"p": [[1.50, 2], [0.10]]' in (bench.attempt("a") / "task.json").read_text()
