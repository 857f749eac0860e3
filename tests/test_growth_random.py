"""Random loops and late groups, with reruns and amendments at random moments: in the end each is what the campaign says."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from matterstack.api import load_campaign
from matterstack.errors import UsageError
from matterstack.orchestration.actions import pause, rerun
from matterstack.orchestration.amend import amend
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.views.reruns import Selection
from tests.conftest import Bench
from tests.test_growth import check_rebuilt

CAMPAIGNS = st.fixed_dictionaries(
    {
        "rows": st.integers(0, 3),  # of the table outside of the loop
        "rounds": st.integers(1, 3),
        "max": st.integers(1, 3),
        "a": st.integers(0, 2),  # a round has (a * round + b) modulo 3 rows
        "b": st.integers(0, 2),
        "word": st.sampled_from("AB"),
        "loops": st.integers(0, 2),  # 0: one loop; else as many, each for a value of an axis
    }
)
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(
            ["rerun p", "rerun -d p", "rerun q", "rerun -d q", "rerun -d c", "rerun l", "word", "more", "pause"]
        ),
    ),
    max_size=3,
)


def text_of(c):
    axis = f"matrix: {{k: {list(range(c['loops']))}}}, " if c["loops"] else ""
    place = "l/*/acc.txt" if c["loops"] else "l/acc.txt"
    return (
        "matterstack: 1\nname: t\nfiles: [start.txt]\noperators: {local: {kind: local, slots: {cpus: 8}}}\ntasks:\n"
        f"  p: {{command: 'echo id > t.csv; seq {c['rows']} >> t.csv', outputs: {{t: t.csv}}}}\n"
        f"  g: {{matrix: {{table: t.csv}}, command: 'echo {c['word']} ${{{{ matrix.id }}}} > o', outputs: {{o: {{file: o, path: 'g/${{{{ matrix.id }}}}'}}}}}}\n"
        f"  l:\n    {axis[:-2]}\n"
        f"    repeat: {{max: {c['max']}, until: '${{{{ repeat.round >= {c['rounds']} }}}}', carry: {{acc: {{first: start.txt, next: acc.txt}}}}}}\n"
        "    tasks:\n"
        f"      q: {{command: 'echo id > q.csv; seq $(( ({c['a']} * ${{{{ repeat.round }}}} + {c['b']}) % 3 )) >> q.csv', outputs: {{q: q.csv}}}}\n"
        f"      m: {{matrix: {{table: q.csv}}, command: 'echo {c['word']} ${{{{ repeat.round }}}} ${{{{ matrix.id }}}} > o', outputs: {{o: {{file: o, path: 'm/${{{{ matrix.id }}}}'}}}}}}\n"
        "      c: {inputs: {acc: '${{ carry.acc }}', m: 'm/*'}, allow_skipped: true, command: 'cat ${{ inputs.acc }} ${{ inputs.m }} > acc.txt', outputs: {acc: acc.txt}}\n"
        f"  s: {{inputs: {{g: 'g/*', l: '{place}'}}, allow_skipped: true, command: 'cat ${{{{ inputs.g }}}} ${{{{ inputs.l }}}} > sum', outputs: {{sum: sum}}}}\n"
    )


def expected(c):
    """Give what `s` makes in a run from its beginning."""
    acc = "start\n"
    for number in range(1, min(c["rounds"], c["max"]) + 1):
        acc += "".join(f"{c['word']} {number} {row}\n" for row in range(1, (c["a"] * number + c["b"]) % 3 + 1))
    return "".join(f"{c['word']} {row}\n" for row in range(1, c["rows"] + 1)) + acc * max(c["loops"], 1)


def instances(c):
    """Give the tasks that there are in the end, but for the groups that were skipped."""
    out = {"p", "s", *(f"g/{row}" for row in range(1, c["rows"] + 1)), *([] if c["rows"] else ["g"])}
    for loop in [f"l/{k}" for k in range(c["loops"])] or ["l"]:
        out.add(loop)
        for number in range(1, min(c["rounds"], c["max"]) + 1):
            rows = (c["a"] * number + c["b"]) % 3
            out |= {f"{loop}/{number}/{task}" for task in ("q", "c", *(f"m/{row}" for row in range(1, rows + 1)))}
            out |= set() if rows else {f"{loop}/{number}/m"}
    return out


def act(bench, action, c):
    """Do what a person may do at any moment, where it means anything; return what the campaign is then."""
    words = action.split()
    if words[0] == "rerun":
        wanted = [name for name in bench.states() if name.split("/")[-1] == words[-1]][:1]
        if wanted:
            rerun(bench.root, wanted, downstream="-d" in words)
    elif words[0] == "pause":
        with suppress(UsageError):  # it may be over
            pause(bench.root, ())
            bench.step()
        with suppress(UsageError):
            pause(bench.root, (), resume=True)
    else:
        c = {**c, "word": "C"} if words[0] == "word" else {**c, "max": c["max"] + 1}
        (bench.folder / "campaign.yaml").write_text(text_of(c))
        amend(bench.root, load_campaign(bench.folder / "campaign.yaml"))
    return c


@pytest.mark.simulation
@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)  # a run takes seconds: nothing is shrunk
@given(c=CAMPAIGNS, actions=ACTIONS)
def test_whatever_is_done_to_it_a_campaign_that_grows_ends_as_it_says(c, actions):
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.folder.mkdir(exist_ok=True)
        (bench.folder / "start.txt").write_text("start\n")
        bench.start(text_of(c))
        for after, action in sorted(actions):
            for _ in range(after):
                bench.step()
            c = act(bench, action, c)
        for _ in range(20):
            report = bench.step_until_over(60)
            with SQLiteStateStore(bench.root / "state.sqlite", read_only=True) as store:
                stale = store.stale()
            if not stale:
                break
            rerun(bench.root, Selection(stale=True), most=None)
        assert report.state == "COMPLETED", (report, bench.reasons())
        assert set(bench.states()) == instances(c)
        assert (bench.root / "results/sum").read_text() == expected(c)
        check_rebuilt(bench)
