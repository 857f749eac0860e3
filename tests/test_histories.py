"""Real runs of every version: each beginning of their journals is rebuilt and goes on as it did when it was recorded."""

from __future__ import annotations

import json

import pytest

from tests.histories import HISTORIES, beginnings


def test_there_are_histories_of_version_1_of_kills_of_gates_of_an_adoption_and_of_amendments():
    names = " ".join(path.name for path in HISTORIES)
    assert all(word in names for word in ("version-1", "killed", "gate", "adoption", "amended"))


@pytest.mark.simulation
@pytest.mark.parametrize("history", HISTORIES, ids=lambda path: path.name)
def test_each_beginning_rebuilds_the_same_ledger_and_decides_the_same_step(history, tmp_path):
    expected = (history / "expected.jsonl").read_text(encoding="utf-8").splitlines()

    found = list(beginnings(history, tmp_path))

    assert len(found) == len(expected)
    for told, line in zip(found, expected, strict=True):
        assert told == json.loads(line), f"beginning of {told['lines']} lines"
