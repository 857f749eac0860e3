"""Whatever people, labs and clusters write: no step raises, waits for ever or takes nonsense for an answer."""

from __future__ import annotations

import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matterstack import initialize_run, open_run, step_run
from matterstack.views.attempts import attempts

CAMPAIGN = """
matterstack: 1
name: t
operators: {board: {kind: human}, lab: {kind: experiment}, far: {kind: manual}}
tasks:
  ask: {operator: board, instructions: x, response_schema: {type: object, required: [go], properties: {go: {type: boolean}, n: {type: integer, default: 3}}}}
  film: {operator: lab, result_schema: {type: object}, outputs: {c: c.csv}}
  work: {operator: far, command: echo > out, outputs: {o: out}}
  go: {when: "${{ response.ask.go }}", command: "echo ${{ response.ask.n }}"}
"""
FILES = {"ask": "response.json", "film": "experiment_result.json", "work": "status.json"}
KEYS = ["status", "data", "by", "at", "comment", "error", "token", "files", "task", "attempt", "exit_code", "instrument",
        "started_at", "ended_at", "go", "n", "path", "sha256", "c"]  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["COMPLETED", "FAILED", "ask", "film", "work", "c.csv", "../x", "/etc/passwd", "\x1b[2J", "\ud800"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
ANSWERS = st.fixed_dictionaries(
    {"status": st.sampled_from(["COMPLETED", "FAILED"]) | SCALARS},
    optional={key: VALUES for key in KEYS if key != "status"},
)
CONTENT = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda value: json.dumps(value).encode(errors="surrogatepass"), VALUES),
    st.builds(lambda value: json.dumps(value).encode(errors="surrogatepass"), ANSWERS),
    st.builds(
        lambda value, cut: json.dumps(value).encode(errors="surrogatepass")[:cut], ANSWERS, st.integers(0, 60)
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "campaign.yaml").write_text(CAMPAIGN)
    root = initialize_run(folder / "campaign.yaml", folder / "run").root
    step_run(root)
    return root


@settings(
    max_examples=40 if settings().max_examples == 100 else settings().max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.fixed_dictionaries(dict.fromkeys(FILES, CONTENT)), age_s=st.sampled_from([0.0, 9.0, 1e6, -1e6]))
def test_no_file_that_anybody_writes_breaks_a_step(run, content, age_s):
    from matterstack.orchestration.actions import rerun

    for task in FILES:  # each example finds every task waiting in a new attempt
        if {item.task_id: item for item in open_run(run).tasks}[task].state != "WAITING":
            rerun(run, [task])
    step_run(run)
    before = {task: len(attempts(run, task)[1]) for task in FILES}
    for task, name in FILES.items():
        path = run / "tasks" / task / f"attempt-{before[task]}" / name
        path.write_bytes(content[task])
        os.utime(path, (time.time() - age_s,) * 2)

    report = step_run(run)

    assert not [text for text in report.warnings if "cannot be looked at" in text or "failed:" in text]
    states = {item.task_id: str(item.state) for item in open_run(run).tasks}
    for task, name in FILES.items():
        last = attempts(run, task)[1][before[task] - 1]
        assert last["state"] in ("WAITING", "COMPLETED", "FAILED"), last
        assert last["class"] in (None, "bad_response", "missing_output", "rejected", "exit_code", "timeout"), last
        assert last["reason"].isprintable()
        path = run / "tasks" / task / f"attempt-{before[task]}" / name
        assert path.read_bytes() == content[task]
        if last["state"] == "COMPLETED":
            assert json.loads(content[task])["status"] == "COMPLETED"
        if last["state"] == "WAITING":
            path.unlink()  # half-written: the next example writes another
    assert states["go"] in ("PENDING", "SKIPPED", "BLOCKED", "READY", "RUNNING", "SUBMITTED", "COMPLETED", "FAILED")
