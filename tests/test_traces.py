"""Real workflow traces as campaigns, once by `needs` and once by files alone: both graphs are the recorded one.

The traces are no part of the project: they lie beside a checkout in our CI, and the tests skip without them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from matterstack import initialize_run, run_until_done
from matterstack.spec.load import load_campaign
from matterstack.spec.preview import find_instance, preview

FOLDER = Path(__file__).resolve().parent.parent.parent / "shared" / "workflows"
TRACES = sorted(FOLDER.glob("*.json.xz"))
pytestmark = pytest.mark.skipif(not TRACES, reason="needs the workflow traces")
LARGEST_TO_RUN = 120  # tasks


def read(trace: Path, commands: str = "true", safe_paths: bool = True) -> dict:
    spec = importlib.util.spec_from_file_location("wf2campaign", FOLDER / "wf2campaign.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.convert(module.read(str(trace)), commands=commands, safe_paths=safe_paths)


def name_of(task_id: str) -> str:
    name = "t_" + re.sub(r"\W", "_", task_id)
    return name if len(name) <= 90 else f"{name[:80]}_{hashlib.sha256(task_id.encode()).hexdigest()[:8]}"


def write(bench, workflow, by: str) -> Path:
    tasks = {}
    for task in workflow["tasks"]:
        spec = tasks[name_of(task["id"])] = {"command": f"echo {name_of(task['id'])} >> WITNESS; {task['command']}"}
        if by == "needs":
            spec["needs"] = [name_of(parent) for parent in task["needs"]]
        else:
            spec["inputs"] = {f"i{n}": path for n, path in enumerate(task["inputs"])}
            spec["outputs"] = {f"o{n}": path for n, path in enumerate(task["outputs"])}
    for path in workflow["external_inputs"]:
        (bench.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (bench.folder / path).touch()
    document = {"matterstack": 1, "name": "t", "tasks": tasks}
    return bench.write(json.dumps(document), f"{by}.json")


def edges(loaded) -> set[tuple[str, str]]:
    return {(edge.upstream, item.task_id) for item in loaded.instances for edge in item.edges}


@pytest.mark.parametrize("trace", TRACES, ids=[path.name.split(".")[0] for path in TRACES])
def test_the_graph_by_needs_and_the_graph_by_files_are_the_recorded_one(bench, trace):
    workflow = read(trace)
    recorded = {(name_of(up), name_of(task["id"])) for task in workflow["tasks"] for up in task["needs"]}

    assert edges(load_campaign(write(bench, workflow, "needs"))) == recorded
    assert edges(load_campaign(write(bench, workflow, "files"))) == recorded


@pytest.mark.parametrize("by", ["needs", "files"])
@pytest.mark.parametrize("trace", TRACES, ids=[path.name.split(".")[0] for path in TRACES])
def test_each_task_runs_once_and_never_before_its_parents(bench, trace, by):
    workflow = read(trace)
    if len(workflow["tasks"]) > LARGEST_TO_RUN:
        pytest.skip("its graph is checked above; running it takes long")
    initialize_run(write(bench, workflow, by), bench.root)

    assert run_until_done(bench.root).state == "COMPLETED"

    order = {name: position for position, name in enumerate(bench.witnessed())}
    assert len(bench.witnessed()) == len(order) == len(workflow["tasks"])
    for task in workflow["tasks"]:
        for parent in task["needs"]:
            assert order[name_of(parent)] < order[name_of(task["id"])]


@pytest.mark.parametrize("trace", TRACES, ids=[path.name.split(".")[0] for path in TRACES])
def test_an_imported_trace_has_the_recorded_graph_and_its_commands_unharmed(bench, trace):
    done = bench.cli("import", "wfformat", trace, "-o", "c.yaml")
    assert done.returncode == 0, done.stderr
    loaded = load_campaign(bench.folder / "c.yaml")
    recorded = {task["id"]: task for task in read(trace, commands="argv", safe_paths=False)["tasks"]}
    ids = {spec.description or name: name for name, spec in loaded.campaign.tasks.items()}

    assert edges(loaded) == {(ids[up], ids[task["id"]]) for task in recorded.values() for up in task["needs"]}
    for task_id, task in recorded.items():
        shown = preview(loaded, find_instance(loaded, ids[task_id]))
        body = shown["script"].split("\n", 2)[2]
        assert body == task["command"].rstrip("\n") + "\n" or shlex.split(body)[1:] == shlex.split(task["command"])
