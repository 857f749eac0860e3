"""Random campaigns, amended at random: no result is lost that a change does not affect, and each that it does is made anew."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matterstack.api import load_campaign
from matterstack.care.repair import repair
from matterstack.orchestration.actions import rerun
from matterstack.orchestration.amend import amend
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.views.reruns import Selection
from tests.conftest import Bench
from tests.test_doctor import content

# What a campaign is here: which values `a` has, and which of them fail; whether `b` takes one file or all; what commands say.
CAMPAIGNS = st.fixed_dictionaries(
    {
        "values": st.lists(st.integers(1, 4), min_size=1, max_size=4, unique=True),
        "failing": st.sets(st.integers(1, 4), max_size=1),
        "word": st.sampled_from("AB"),
        "param": st.integers(1, 2),
        "of_b": st.integers(1, 2),
        "whole": st.booleans(),
        "without": st.booleans(),
        "retries": st.integers(0, 1),
        "time": st.sampled_from(["1m", "2m"]),
        "script": st.sampled_from(["s1", "s2"]),
    }
)


def text_of(c):
    fails = " ".join(f"[ ${{{{ matrix.x }}}} != {x} ] || exit 1;" for x in sorted(c["failing"]))
    rule = ", allow_dependency_failure: true" if c["without"] else ""
    b = (
        f"  b: {{inputs: {{o: 'o/*'}}{rule}, command: 'cat ${{{{ inputs.o }}}} > p; echo {c['of_b']} >> p', outputs: {{p: p}}}}\n"
        if c["whole"]
        else f"  b: {{matrix: {{x: {c['values']}}}, inputs: {{o: 'o/${{{{ matrix.x }}}}'}}, "
        f"command: 'cat ${{{{ inputs.o }}}} > p; echo {c['of_b']} >> p', outputs: {{p: {{file: p, path: 'p/${{{{ matrix.x }}}}'}}}}}}\n"
    )
    return (
        f"matterstack: 1\nname: t\nparams: {{p: {c['param']}}}\nfiles: [s.sh]\n"
        "operators: {local: {kind: local, slots: {cpus: 8}}}\ntasks:\n"
        f"  a: {{matrix: {{x: {c['values']}}}, retries: {c['retries']}, resources: {{time: {c['time']}}}, "
        f"command: '{fails} sh ${{{{ source }}}}/s.sh {c['word']} ${{{{ params.p }}}} ${{{{ matrix.x }}}} > o', "
        "outputs: {o: {file: o, path: 'o/${{ matrix.x }}'}}}\n" + b
    )


def expected(c):
    """Give what a run of this campaign from its beginning gives: {task: content}, None of one that is not COMPLETED."""
    of_a = {x: None if x in c["failing"] else f"{c['script']} {c['word']} {c['param']} {x}\n" for x in c["values"]}
    out = {f"a/{x}": text for x, text in of_a.items()}
    if not c["whole"]:
        return out | {f"b/{x}": None if text is None else f"{text}{c['of_b']}\n" for x, text in of_a.items()}
    blocked = None in of_a.values() and not c["without"]
    made = "".join(text for text in of_a.values() if text is not None)
    # Of a fan-in over nothing `cat` reads an empty stdin.
    return out | {"b": None if blocked else f"{made}{c['of_b']}\n"}


def load(bench, c):
    bench.write(text_of(c))
    (bench.folder / "s.sh").write_text(f"echo {c['script']} $*\n")
    return load_campaign(bench.folder / "campaign.yaml")


def rows(bench):
    with SQLiteStateStore(bench.root / "state.sqlite", read_only=True) as store:
        return {row.task_id: row for row in store.tasks()}, set(store.stale())


def results(bench, tasks):
    found = {}
    for name, row in tasks.items():
        file = "o" if name.startswith("a") else "p"
        found[name] = (bench.attempt(name, row.result) / file).read_text() if row.state == "COMPLETED" else None
    return found


def is_below(name, stale):
    return name.startswith("b") and any(
        other.startswith("a/") and (name == "b" or other[2:] == name[2:]) for other in stale
    )


def check_random_amendments(folder, campaigns):
    bench = Bench(folder)
    first, *others = campaigns
    from matterstack import initialize_run

    initialize_run(load(bench, first), bench.root)
    bench.step_until_over(60)
    tasks, stale = rows(bench)
    assert results(bench, tasks) == expected(first)
    assert not stale
    before: dict = {}  # also of what was RETIRED since
    was: dict = {}
    for c in others:
        before |= tasks
        was |= results(bench, tasks)
        amend(bench.root, load(bench, c))
        bench.step_until_over(60)
        tasks, stale = rows(bench)
        now, wanted = results(bench, tasks), expected(c)
        assert set(now) == set(wanted)
        for name, text in now.items():
            if name in stale:  # nothing was computed anew: it is the very attempt of before
                assert tasks[name].result == before[name].result
            elif not is_below(name, stale):  # what is made from a stale result is so only once that was made anew
                assert text == wanted[name], name
            if name in before and was[name] is not None and was[name] == wanted[name] and name not in stale:
                assert tasks[name].attempts == before[name].attempts, f"{name} was computed again"
        while stale:
            rerun(bench.root, Selection(stale=True))
            bench.step_until_over(60)
            tasks, stale = rows(bench)
        assert results(bench, tasks) == wanted
    made = content(bench.root / "state.sqlite")
    (bench.root / "state.sqlite").unlink()
    repair(bench.root)
    assert content(bench.root / "state.sqlite") == made


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(st.lists(CAMPAIGNS, min_size=2, max_size=3))
def test_a_few_random_amendments(campaigns):
    with tempfile.TemporaryDirectory() as folder:
        check_random_amendments(Path(folder), campaigns)


@pytest.mark.simulation
@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(st.lists(CAMPAIGNS, min_size=3, max_size=5))
def test_many_random_amendments(campaigns):
    with tempfile.TemporaryDirectory() as folder:
        check_random_amendments(Path(folder), campaigns)
