"""Laboratories: a request in a file, taken by a claim, and a result in a file, checked (docs/lab-protocol.md)."""

from __future__ import annotations

import hashlib
import json
import os
import time

import pytest
from jsonschema import Draft202012Validator

from matterstack.care.checks import examine
from matterstack.orchestration.actions import cancel, rerun
from matterstack.spec.schema import read_schema
from matterstack.views.attempts import attempts
from matterstack.views.results import results

FILM = """
operators: {lab: {kind: experiment}}
tasks:
  recipe: {command: "echo r > r", outputs: {r: r}}
  film:
    operator: lab
    inputs: {recipe: r}
    params: {temperature: {value: 300, unit: K}}
    result_schema: {type: object, required: [t]}
    outputs: {curve: curve.csv, notes: {path: notes.txt, optional: true}}
  fit: {inputs: {c: curve.csv}, command: "cp ${{ inputs.c }} f; echo ${{ response.film.t }} >> f", outputs: {f: f}}
"""


@pytest.fixture
def lab(bench):
    bench.start(FILM)
    bench.step_until(lambda: bench.states()["film"] == "WAITING")
    return bench


def request_of(bench, number=1):
    return json.loads((bench.attempt("film", number) / "experiment_request.json").read_text())


def put(path, content):
    beside = path.with_name(".new")
    beside.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    os.replace(beside, path)


def result(bench, number=1, *, curve=b"1,2\n", file="curve.csv", age_s=0.0, **more):
    """Answer as an instrument does; give the result file."""
    folder = bench.attempt("film", number)
    (folder / file).parent.mkdir(exist_ok=True)
    put(folder / file, curve)
    files = {"curve": {"path": file, "sha256": hashlib.sha256(curve).hexdigest()}}
    content = {
        "status": "COMPLETED", "token": request_of(bench, number)["token"], "data": {"t": 3.5}, "files": files,
        "instrument": "robot 7", "started_at": "2026-01-01T08:00:00Z", "ended_at": "2026-01-01T09:00:00Z", **more,
    }  # fmt: skip
    put(folder / "experiment_result.json", content)
    if age_s:
        os.utime(folder / "experiment_result.json", (time.time() - age_s,) * 2)
    return folder / "experiment_result.json"


def test_a_request_says_what_is_wanted_on_what_with_units_and_digests(lab):
    request = request_of(lab)
    (recipe,) = request["inputs"]["recipe"]
    file = lab.attempt("film") / recipe["path"]
    assert request["parameters"] == {"temperature": {"value": 300, "unit": "K"}}
    assert hashlib.sha256(file.read_bytes()).hexdigest() == recipe["sha256"]
    assert request["outputs"]["curve"] == {"file": "curve.csv", "optional": False}
    assert request["result_schema"] == {"type": "object", "required": ["t"]}
    assert len(request["token"]) == 32


def test_request_result_and_heartbeat_fit_the_schemas_that_ship(lab):
    path = result(lab)
    for name, file in (("experiment-request", path.with_name("experiment_request.json")), ("experiment-result", path)):
        assert Draft202012Validator(json.loads(read_schema(name))).is_valid(json.loads(file.read_text())), name


def test_a_result_completes_the_task_and_its_data_and_files_go_on(lab):
    result(lab)
    assert lab.step_until_over().state == "COMPLETED"
    assert (lab.root / "results" / "f").read_text() == "1,2\n3.5\n"
    recorded = attempts(lab.root, "film")[1][0]
    assert recorded["started_at"].startswith("2026-01-01T08:00:00")
    assert (recorded["response"]["by"], recorded["reason"]) == ("robot 7", "measured by robot 7")
    assert {row["task"]: row for row in results(lab.root)}["film"]["response"] == {"t": 3.5}
    assert examine(lab.root, digests=True) == []


def test_a_file_may_lie_where_the_instrument_says(lab):
    result(lab, file="raw/run 12.csv")
    assert lab.step_until_over().state == "COMPLETED"
    assert os.readlink(lab.root / "results" / "curve.csv") == "../tasks/film/attempt-1/raw/run 12.csv"
    (lab.root / "state.sqlite").unlink()
    assert lab.cli("doctor", "--fix", lab.root).returncode == 0
    assert examine(lab.root, digests=True) == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"token": "other"}, "`token` is other, not that of the request"),
        ({"status": "DONE"}, "`status` is \"DONE\""),
        ({"data": {}}, "'t' is a required property"),
        ({"files": {"curve": {"path": "curve.csv", "sha256": "0" * 64}}}, "curve.csv has sha256 "),
        ({"files": {"curve": {"path": "../../../../campaign.yaml", "sha256": "0" * 64}}}, "is no file of the attempt's"),
        ({"files": {"curve": {"path": "/etc/passwd", "sha256": "0" * 64}}}, "is no file of the attempt's folder"),
        ({"files": {"other": {"path": "curve.csv", "sha256": "0" * 64}}}, "`files.other` is not an output"),
        ({"files": {"curve": "curve.csv"}}, "needs `path` and `sha256`"),
        ({"files": ["curve.csv"]}, "`files` must be an object"),
    ],
)  # fmt: skip
def test_a_bad_result_is_kept_and_asked_for_again(lab, more, reason):
    path = result(lab, age_s=9, **more)
    kept = path.read_bytes()

    lab.step_until(lambda: len(attempts(lab.root, "film")[1]) == 2)  # what does not fit may still be on its way

    first = attempts(lab.root, "film")[1][0]
    assert (first["class"], reason in first["reason"]) == ("bad_response", True), first
    assert path.read_bytes() == kept
    assert request_of(lab, 2)["token"] != request_of(lab)["token"]
    result(lab, 2)
    assert lab.step_until_over().state == "COMPLETED"


def test_files_that_are_still_on_their_way_are_waited_for(lab):
    path = result(lab)
    (path.parent / "curve.csv").write_text("1,")
    lab.step()
    assert lab.states()["film"] == "WAITING"
    (path.parent / "curve.csv").write_text("1,2\n")
    assert lab.step_until_over().state == "COMPLETED"


def test_an_output_that_is_missing_is_asked_for_again_without_a_retry(lab):
    result(lab, files={})
    (lab.attempt("film") / "curve.csv").unlink()
    lab.step()
    first = attempts(lab.root, "film")[1][0]
    assert (first["class"], first["reason"]) == ("missing_output", "measured by robot 7, but curve.csv was not written")
    assert lab.states()["film"] == "WAITING"


def test_a_failed_experiment_fails_its_task_with_what_the_instrument_says(lab):
    result(lab, status="FAILED", error="the film \x1b[2Jbroke")
    assert lab.step_until_over().state == "FAILED"
    assert lab.reasons()["film"] == "attempt 1 of 1: robot 7 failed: the film ?[2Jbroke"


def take(bench, number=1):
    """Take a request as an instrument does; say whether it was free."""
    try:
        fd = os.open(bench.attempt("film", number) / "claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(fd, b'{"by": "robot 7"}\n')
    os.close(fd)
    return True


def test_a_request_is_taken_once_and_who_has_it_is_told(lab):
    assert take(lab)
    assert not take(lab)
    lab.step()
    assert "taken by robot 7 at " in lab.reasons()["film"]


def test_a_heartbeat_that_stops_is_told_once(lab):
    take(lab)
    beat = lab.attempt("film") / "heartbeat.json"
    beat.write_text('{"interval_s": 20}')
    lab.step()
    assert "heartbeat" not in lab.reasons()["film"]
    os.utime(beat, (time.time() - 100,) * 2)
    lab.step()
    assert "no heartbeat since " in lab.reasons()["film"]
    before = lab.digest()
    lab.step()
    assert lab.digest() == before


def test_a_cancelled_request_is_never_taken(lab):
    cancel(lab.root, ["film"])
    assert lab.states()["film"] == "CANCELLED"
    assert not take(lab)


def test_cancel_asks_an_instrument_that_works_to_stop_and_waits_for_its_end(lab):
    take(lab)
    lab.step()
    cancel(lab.root, ["film"])
    asked = json.loads((lab.attempt("film") / "cancel.json").read_text())
    assert asked["token"] == request_of(lab)["token"]
    assert lab.states()["film"] == "WAITING"
    result(lab, status="FAILED", error="stopped")
    lab.step()
    assert lab.states()["film"] == "CANCELLED"


def test_a_rerun_asks_with_a_new_token(lab):
    result(lab)
    lab.step_until_over()
    rerun(lab.root, ["film"])
    lab.step()
    assert request_of(lab, 2)["token"] != request_of(lab)["token"]
