"""The operators of the cookbook (docs/operators.md), as it prints them: under contract, and in a campaign."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest

from matterstack.core.model import OperatorSpec
from matterstack.testing import OperatorContract
from matterstack.views.attempts import attempts

DOC = (Path(__file__).resolve().parent.parent / "docs" / "operators.md").read_text()
BLOCKS = {
    re.match(r"# (\w+\.py)\n", block)[1]: block for block in re.findall(r"^```python\n(.*?)^```", DOC, re.M | re.S)
}


@pytest.fixture
def plugins(tmp_path_factory, monkeypatch):
    """The cookbook's modules, installed beside an entry point, as pip would."""
    site = tmp_path_factory.mktemp("site")
    for name, text in BLOCKS.items():
        (site / name).write_text(text)
    info = site / "cookbook-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cookbook\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[matterstack.operators]\noven = oven:OvenOperator\nhotfolder = hotfolder:HotFolderOperator\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    yield site
    for name in ("oven", "hotfolder"):
        sys.modules.pop(name, None)


class Oven:
    """A service on loopback that takes each key once, and remembers."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict] = {}
        oven = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self):
                key, body = self.path.removeprefix("/jobs/"), self.body()
                if oven.jobs.setdefault(key, body) is not body:
                    return self.answer(409, {"error": "the key is taken"})
                body["state"] = "withdrawn" if body.get("withdrawn") else "running"
                if body.get("program") == "too hot":
                    del oven.jobs[key]
                    return self.answer(400, {"error": "2000 K is too hot"})
                return self.answer(201, {})

            def do_POST(self):
                if self.path == "/query":
                    return self.answer(200, {key: oven.jobs[key] for key in self.body() if key in oven.jobs})
                job = oven.jobs[self.path.removeprefix("/jobs/").removesuffix("/cancel")]
                if job["state"] == "running":
                    job["state"] = "cancelled"
                return self.answer(200, {})

            def body(self):
                return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

            def answer(self, code, data):
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(data).encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def job(self, task, attempt=1):
        ends = urllib.parse.quote(f":{task}:{attempt}", safe="")
        return next((job for key, job in self.jobs.items() if key.endswith(ends)), None)


@pytest.fixture
def oven():
    service = Oven()
    yield service
    service.server.shutdown()


class TestOven(OperatorContract):
    @pytest.fixture(autouse=True)
    def _service(self, plugins, oven, tmp_path):
        (tmp_path / "run.json").write_text('{"id": "contract-00000000"}')
        self.oven = oven

    def make(self):
        return import_module("oven").OvenOperator(OperatorSpec("oven", "oven", params={"url": self.oven.url}))

    def finish(self, launch):
        job = self.oven.job(launch.task_id, launch.attempt)
        if job["state"] == "running":
            job.update(state="done", result={"T": 300})

    def starts(self, launch):
        job = self.oven.job(launch.task_id, launch.attempt)
        return int(job is not None and not job.get("withdrawn"))


CAMPAIGN = """
operators: {{oven: {{kind: oven, params: {{url: "{url}"}}}}, machine: {{kind: hotfolder, params: {{jobs: "{jobs}"}}}}}}
tasks:
  bake: {{operator: oven, matrix: {{T: [1, 2]}}, params: {{program: "${{{{ matrix.T }}}}"}}, outputs: {{r: {{file: result.json, path: "r/${{{{ matrix.T }}}}"}}}}}}
  burn: {{operator: oven, params: {{program: too hot}}, allow_failure: true}}
  press: {{operator: machine, needs: [bake]}}
  all: {{inputs: {{r: "r/*"}}, needs: [press], command: "cat ${{{{ inputs.r }}}} > all", outputs: {{all: all}}}}
"""


def test_the_cookbooks_operators_carry_a_campaign_through(plugins, oven, bench):
    jobs = bench.folder / "jobs"
    bench.start(CAMPAIGN.format(url=oven.url, jobs=jobs))
    bench.step()
    assert bench.reasons()["burn"] == "attempt 1: 2000 K is too hot (allowed)"
    assert bench.states()["bake/1"] in ("SUBMITTED", "RUNNING")
    for number in (1, 2):
        oven.job(f"bake/{number}").update(state="done", result={"T": number})
    bench.step()
    assert bench.states()["press"] in ("SUBMITTED", "RUNNING")
    (home,) = jobs.iterdir()
    (home / "result.json").write_text('{"status": "COMPLETED"}')
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.root / "results" / "all").read_text() == '{"T": 1}\n{"T": 2}\n'


def test_a_service_that_is_away_costs_a_warning_and_no_attempt(plugins, oven, bench):
    bench.start(CAMPAIGN.format(url=oven.url, jobs=bench.folder / "jobs"))
    bench.step()
    oven.server.shutdown()
    oven.server.server_close()
    report = bench.step()
    assert any("operator 'oven' is unavailable" in text or "oven" in text for text in report.warnings), report.warnings
    assert bench.states()["bake/1"] in ("SUBMITTED", "RUNNING")
    assert len(attempts(bench.root, "bake/1")[1]) == 1


def test_the_contract_runs_for_plug_ins_as_the_cookbook_says(plugins):
    env = {**os.environ, "PYTHONPATH": str(plugins)}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_hotfolder.py"]
    done = subprocess.run(words, cwd=plugins, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\b1[0-9] passed", done.stdout), done.stdout
