"""Files that no campaign should look like, each refused with the exact words that `bad_files/expected.json` holds.

The same through the command line: exit code 2, nothing on stdout, no traceback, nothing made or changed, soon, and in
little memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from matterstack.cli.main import _run
from matterstack.errors import CampaignError
from matterstack.spec.load import load_campaign

FOLDER = Path(__file__).resolve().parent / "bad_files"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_every_file_of_the_corpus_has_its_messages():
    files = {path.name for path in FOLDER.iterdir() if path.suffix in (".yaml", ".json")} - {"expected.json"}
    assert files == set(EXPECTED)
    assert len(files) >= 100


@pytest.mark.parametrize("name", EXPECTED)
def test_a_bad_file_is_refused_in_exactly_these_words(name, monkeypatch):
    monkeypatch.chdir(FOLDER)
    with pytest.raises(CampaignError) as caught:
        load_campaign(name)
    assert [str(problem) for problem in caught.value.problems] == EXPECTED[name]
    places = [(problem.file, problem.line, problem.column) for problem in caught.value.problems]
    assert places == sorted(places)


@pytest.mark.parametrize("command", ["validate", "init", "run"])
def test_every_command_that_takes_a_file_refuses_the_whole_corpus_and_makes_nothing(
    command, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    for name in EXPECTED:
        monkeypatch.setattr(sys, "argv", ["matterstack", command, str(FOLDER / name)])
        code = _run()
        printed = capsys.readouterr()
        assert (code, printed.out) == (2, ""), name
        assert "Traceback" not in printed.err, name
        assert all(line.startswith(str(FOLDER)) for line in printed.err.splitlines()), printed.err
    assert list(tmp_path.iterdir()) == []


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (500 * 2**20, 500 * 2**20))


def write_large(path, kind):
    head = "matterstack: 1\nname: t\ntasks: {a: {command: x}}\nparams:\n"
    if kind == "100 MB of text":
        with open(path, "wb") as file:
            file.truncate(100 * 2**20)
    elif kind == "millions of items":
        path.write_text(head + "  p: [" + "x," * 4_000_000 + "]\n")
    elif kind == "a matrix of 10^9":
        axis = ", ".join(map(str, range(1000)))
        path.write_text(
            f"matterstack: 1\nname: t\ntasks: {{a: {{command: x, matrix: {{i: [{axis}], j: [{axis}], k: [{axis}]}}}}}}\n"
        )
    elif kind == "deep":
        path.write_text(head + "  p: " + "{a: " * 200_000 + "1" + "}" * 200_000 + "\n")
    elif kind == "a long line of quotes":
        path.write_text(head + "  p: " + "'" * 5_000_001 + "\n")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a loop of links":
        path.symlink_to(path)


LARGE = {
    "100 MB of text": "has 104857600 bytes; a campaign file may have 33554432 (use a matrix or a table)",
    "millions of items": "4:2500001: holds more than 2500000 values (use a matrix or a table)",
    "a matrix of 10^9": "3:32: tasks.a.matrix: 1000000000 instances; a campaign may have 250000",
    "deep": "5:245: is nested deeper than 60 levels",
    "a long line of quotes": "5:6: is not YAML: the quote that opens here is never closed",
    "a pipe": "is not a regular file",
    "a device": "is not a regular file",
    "a loop of links": "cannot be read: Too many levels of symbolic links",
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_file_that_is_too_much_is_refused_soon_and_within_500_mb(bench, kind):
    file = bench.folder / "large.yaml"
    write_large(file, kind)

    done = bench.cli("validate", file, preexec_fn=limited, timeout=30)

    message = LARGE[kind].split(": ", 1)[-1] if kind != "a device" else LARGE[kind]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_table_that_is_a_pipe_does_not_hang(bench):
    os.mkfifo(bench.folder / "t.csv")
    file = bench.write("tasks: {a: {command: x, matrix: {table: t.csv}}}\n")
    done = bench.cli("validate", file, timeout=30)
    assert done.stderr.endswith("t.csv: is not a regular file\n")


def test_what_a_person_may_not_read_is_said_in_words(bench):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    file = bench.write("tasks: {a: {command: x}}\n")
    file.chmod(0)
    assert "cannot be read: Permission denied" in bench.cli("validate", file).stderr


def test_a_bad_operators_file_is_told_with_its_own_places(bench):
    file = bench.write("tasks: {a: {command: x}}\n")
    site = bench.folder / "site.yaml"
    site.write_text("cluster: {kind: slrum, max_actve: 3}\nlocal: 5\n")
    done = bench.cli("validate", file, "--operators", site)
    assert done.returncode == 2
    assert f"{site}:1:24: cluster.max_actve: unknown key (did you mean 'max_active'?)" in done.stderr
    assert f"{site}:2:8: local: expected a mapping with `kind`, got 5" in done.stderr


def test_validate_json_gives_the_problems_as_they_are_printed(bench):
    file = FOLDER / "many-problems.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "matterstack", "validate", "--json", str(file)], capture_output=True, text=True
    )
    data = json.loads(done.stdout)
    assert done.returncode == 2
    assert data["summary"] == {}
    assert [f"{p['file']}:{p['line']}:{p['column']}: {p['where']}: {p['message']}" for p in data["problems"]] == [
        f"{FOLDER}/{line}" for line in EXPECTED["many-problems.yaml"]
    ]
    assert {p["severity"] for p in data["problems"]} == {"error"}
