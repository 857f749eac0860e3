"""Each task and attempt names the version of the campaign that it is of: a run may hold several."""

from __future__ import annotations

import json
import sqlite3

from matterstack.views.explain import explain


def test_a_task_of_an_older_version_goes_on_as_that_version_says(bench):
    """As after a change of the campaign: the newest version has other operators, retries and commands."""
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 2}}}\n"
        "tasks:\n"
        "  a: {command: 'echo old >> WITNESS; exit 1', retries: 1, allow_failure: true}\n"
        "  b: {needs: [a], allow_dependency_failure: true, command: 'echo old >> WITNESS'}\n"
    )
    with sqlite3.connect(bench.root / "state.sqlite") as db:
        text = db.execute("SELECT definition FROM campaign_versions WHERE version = 1").fetchone()[0]
        newer = json.loads(text)
        newer["tasks"] = {"c": {**newer["tasks"]["b"], "name": "c", "command": "echo new >> WITNESS"}}
        db.execute(
            "INSERT INTO campaign_versions SELECT 2, digest, created_at, ?, source, campaign_sha256, operators_sha256, site FROM campaign_versions",
            (json.dumps(newer),),
        )
    db.close()

    report = bench.step_until_over()

    assert report.state == "COMPLETED"
    assert bench.states() == {"a": "FAILED", "b": "COMPLETED"}
    assert bench.witnessed() == ["old", "old", "old"]
    assert [item.reason for item in explain(bench.root, ["a"])] == ["attempt 2 of 2: exit code 1 (allowed)"]
