"""A step that expands a group, or begins a round, killed at every call that changes anything."""

from __future__ import annotations

import os
import time

import pytest

from matterstack import initialize_run, open_run, step_run
from tests.faults.harness import Site, wait

pytestmark = pytest.mark.faults

TEXT = """
matterstack: 1
name: t
tasks:
  learn:
    repeat: {max: 3, until: "${{ metrics.train.n >= 2 }}", carry: {m: {first: data.txt, next: model.txt}}}
    tasks:
      propose: {inputs: {m: "${{ carry.m }}"}, command: 'echo ${{ task.id }} $MATTERSTACK_ATTEMPT >> WITNESS; printf "id\\na\\nb\\n" > p.csv', outputs: {p: p.csv}}
      label: {matrix: {table: p.csv}, command: 'echo ${{ task.id }} $MATTERSTACK_ATTEMPT >> WITNESS; echo ${{ repeat.round }} > ${{ outputs.e }}', outputs: {e: "e/${{ matrix.id }}"}}
      train: {inputs: {e: "e/*"}, command: 'echo ${{ task.id }} $MATTERSTACK_ATTEMPT >> WITNESS; cat ${{ inputs.e }} > model.txt; echo "{\\"n\\": $MS_ROUND}" > metrics.json', env: {MS_ROUND: "${{ repeat.round }}"}, outputs: {m: model.txt}}
  end: {inputs: {m: learn/model.txt}, command: 'echo ${{ task.id }} $MATTERSTACK_ATTEMPT >> WITNESS; cat ${{ inputs.m }} > sum', outputs: {s: sum}}
"""
EVERY = int(os.environ.get("MATTERSTACK_TEST_EVERY", "3"))  # 1 is the whole sweep, which takes 20 minutes
STATES = dict.fromkeys(
    ["learn", "end", *(f"learn/{n}/{t}" for n in (1, 2) for t in ("propose", "train", "label/a", "label/b"))],
    "COMPLETED",
)


def ended(site, task):
    return (site.root / "tasks" / task / "attempt-1/exit.json").exists()


def take_until(site, task):
    def is_over():
        if ended(site, task):
            return True
        step_run(site.root)
        return False

    wait(is_over, 60)
    time.sleep(0.2)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("growth"), TEXT)
    initialize_run(site.file, site.root)
    site.keep("fresh")
    step_run(site.root)
    wait(lambda: ended(site, "learn/1/propose"))
    time.sleep(0.2)
    site.keep("expands")
    take_until(site, "learn/1/train")
    site.keep("begins a round")
    take_until(site, "learn/2/train")
    site.keep("ends")
    return site


@pytest.mark.parametrize("state", ["fresh", "expands", "begins a round", "ends"])
def test_each_instance_of_each_round_once_wherever_a_step_is_killed(site, state):
    points = site.points("step", ("step", "runs/t"), state)
    assert len(points) > 10
    killed = 0
    for point in points[len(state) % EVERY :: EVERY]:
        if not site.kill_at(point, ("step", "runs/t"), state):
            continue
        killed += 1
        site.finish()
        found = {task.task_id: str(task.state) for task in open_run(site.root).tasks}
        assert found == STATES, point
        site.check(states=STATES)
        assert (site.root / "results/sum").read_text() == "2\n2\n", point
    assert killed > 5
