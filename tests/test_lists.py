"""Lists of files that are too long for a command: as a file with one path on each line."""

from __future__ import annotations

import os

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
