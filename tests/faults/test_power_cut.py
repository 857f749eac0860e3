"""States after a power cut: a sample of what `python -m tests.faults.power_cut` goes through."""

from __future__ import annotations

import random
import shutil

import pytest

from tests.faults.power_cut import COMMANDS, Disk, Naming, Node, cut

PARTS = [(command, state) for command, (_, states) in COMMANDS.items() for state in states]


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(("command", "state"), PARTS, ids=[f"{command}-{state}" for command, state in PARTS])
def test_a_run_goes_on_from_what_a_power_cut_leaves(command, state):
    points, states, failures = cut(command, state, part=0, parts=12, variants=6)
    print(f"{points} calls, {states} states, of which each twelfth")
    assert failures == []
    assert points > 0
    assert states > 0


@pytest.fixture
def disk(tmp_path):
    """A disk with a file that was overwritten and one that is new, of which nothing is synced."""
    (tmp_path / "old").write_text("old")
    disk = Disk(tmp_path)
    disk.names["old"].pending.append((0, b"NEW!"))
    disk.change(Naming("fresh", Node("file", pending=[(0, b"x" * 600)])))
    return disk


def left(disk, variant, seed=0):
    return {name: content for name, (_, content) in disk.left(variant, random.Random(seed)).items()}


def test_without_a_sync_nothing_is_certain_and_everything_may_be(disk):
    assert left(disk, 0) == {"old": b"old"}
    assert left(disk, 1) == {"old": b"NEW!", "fresh": b"x" * 600}
    assert left(disk, 2) == {"old": b"old", "fresh": b""}
    assert left(disk, 3) == {"old": b"NEW!"}
    some = {repr(left(disk, 4, seed)) for seed in range(200)}
    assert {repr(left(disk, variant)) for variant in (0, 1)} <= some
    assert any("x" * 512 in text and "x" * 600 not in text for text in some)  # torn at a sector


def test_what_was_synced_is_there_whatever_happens(disk):
    disk.sync("old", disk.names["old"])
    disk.sync("fresh", disk.now()["fresh"])
    assert all(left(disk, variant, seed)["old"] == b"NEW!" for variant in range(5) for seed in range(20))
    assert "fresh" not in left(disk, 0)  # its name is not

    disk.sync("", Node("folder"))
    assert all(left(disk, variant, seed)["fresh"] == b"x" * 600 for variant in range(5) for seed in range(20))
