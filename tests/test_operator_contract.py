"""Every built-in operator keeps the promises that plug-in authors test theirs against (`matterstack.testing`)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from matterstack.core.kinds import RUNNABLE
from matterstack.core.model import OperatorSpec
from matterstack.operators.registry import make_operator
from matterstack.testing import OperatorContract


def put(folder, name, data):
    """Write a file as a careful person does: beside, and moved over."""
    beside = Path(folder) / f".{name}.new"
    beside.write_text(json.dumps(data))
    os.replace(beside, Path(folder) / name)


class TestLocal(OperatorContract):
    command = "echo start >> starts; while test ! -e go; do sleep 0.02; done"

    def make(self):
        return make_operator(OperatorSpec("local", "local"))

    def finish(self, launch):
        (Path(launch.folder) / "go").touch()

    def starts(self, launch):
        file = Path(launch.folder) / "starts"
        return len(file.read_text().splitlines()) if file.exists() else 0


class _Asks(OperatorContract):
    request = ""  # the file whose appearance begins the work

    def make(self):
        kind = type(self).__name__.removeprefix("Test").lower()
        return make_operator(OperatorSpec("x", kind))

    def starts(self, launch):
        # Somebody who sees the request and finds no claim begins.
        folder = Path(launch.folder)
        claim = folder / "claim"
        fenced = claim.exists() and '"by": "step"' in claim.read_text()
        return int((folder / self.request).exists() and not fenced)


class TestHuman(_Asks):
    request = "instructions.md"
    asked = {"response_schema": {"type": "object"}}

    def finish(self, launch):
        put(launch.folder, "response.json", {"status": "COMPLETED", "data": {}, "by": "ada"})


class TestManual(_Asks):
    request = "instructions.md"

    def finish(self, launch):
        put(launch.folder, "status.json", {"status": "COMPLETED"})


class TestExperiment(_Asks):
    request = "experiment_request.json"
    asked = {"token": "0123"}
    outputs = {"curve": "curve.csv"}

    def finish(self, launch):
        file = Path(launch.folder) / "curve.csv"
        file.write_text("1,2\n")
        files = {"curve": {"path": "curve.csv", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}
        put(
            launch.folder,
            "experiment_result.json",
            {"status": "COMPLETED", "token": "0123", "data": {}, "files": files},
        )


def test_every_kind_that_this_version_runs_is_under_contract():
    tested = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}
    assert set(RUNNABLE) == tested


@pytest.mark.parametrize("kind", RUNNABLE)
def test_a_kind_is_made_by_its_name(kind):
    assert make_operator(OperatorSpec("x", kind)).spec.kind == kind
