"""The environment of the work is the campaign's, and on record (issue 14.1)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from matterstack.operators.environment import THREADS, command_path, describe
from matterstack.run_root.layout import ENVIRONMENTS
from matterstack.views.attempts import attempts
from matterstack.views.explain import explain

OWN = str(Path(sys.executable).parent)


def program(folder: Path, name: str, text: str = "echo found") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


def run(bench, text, env, code=0):
    done = bench.cli("run", "-q", bench.write(text), "--root", bench.root, env={**os.environ, **env})
    assert done.returncode == code, done.stderr
    return bench.attempt("a")


# --- what a command gets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_the_active_environment_comes_first_and_the_own_folder_last(tmp_path, variable):
    active = tmp_path / "lab"
    program(active / "bin", "python")

    found = command_path({"PATH": "/usr/bin:/bin", variable: str(active)}).split(":")

    assert found == [f"{active}/bin", "/usr/bin", "/bin", OWN]


def test_an_active_environment_behind_that_of_matterstack_comes_before_it(tmp_path):
    program(tmp_path / "lab/bin", "python")
    path = f"{OWN}:/bin:{tmp_path}/lab/bin"
    assert command_path({"PATH": path, "VIRTUAL_ENV": f"{tmp_path}/lab"}) == f"{tmp_path}/lab/bin:{OWN}:/bin"


def test_what_is_on_the_path_already_stays_where_the_user_put_it(tmp_path):
    program(tmp_path / "lab/bin", "python")
    path = f"/mine:{tmp_path}/lab/bin:{OWN}:/bin"
    assert command_path({"PATH": path, "VIRTUAL_ENV": f"{tmp_path}/lab"}) == path


def test_an_activated_python_wins_over_that_of_matterstack(bench):
    lab = program(bench.folder / "lab/bin", "python", "echo of the lab").parent
    env = {"VIRTUAL_ENV": str(lab), "PATH": f"{lab}/bin:/usr/bin:/bin"}
    folder = run(bench, "tasks: {a: {command: python}}\n", env)
    assert (folder / "stdout.log").read_text() == "of the lab\n"


@pytest.mark.parametrize("ambient", ["64", "1", None])
def test_threads_follow_the_cpus_of_the_task_and_not_the_shell(bench, monkeypatch, ambient):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
        if ambient is not None:
            monkeypatch.setenv(name, ambient)
    names = " ".join(f"${name}" for name in THREADS)
    folder = run(bench, f"tasks: {{a: {{command: 'echo {names}', resources: {{cpus: 2}}}}}}\n", {})
    assert (folder / "stdout.log").read_text().split() == ["2"] * len(THREADS)


def test_env_of_the_campaign_overrides_threads(bench):
    folder = run(
        bench, "tasks: {a: {command: 'echo $OMP_NUM_THREADS $MKL_NUM_THREADS', resources: {cpus: 2}, env: {OMP_NUM_THREADS: 1}}}\n",
        {"OMP_NUM_THREADS": "64"},
    )  # fmt: skip
    assert (folder / "stdout.log").read_text() == "1 2\n"


def test_a_running_python_shows_its_lines(bench, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    bench.start("tasks: {a: {command: 'python3 -c \"import time; print(1); time.sleep(30)\"'}}\n")
    bench.step()
    bench.wait_for_text(bench.attempt("a") / "stdout.log", "1\n")
    bench.cli("cancel", bench.root)


# --- what is on record -----------------------------------------------------------------------------------------------


def test_an_attempt_keeps_with_what_it_ran(bench):
    lab = program(bench.folder / "lab/bin", "python").parent
    env = {
        "VIRTUAL_ENV": str(lab), "PATH": f"{lab}/bin:/usr/bin:/bin", "LOADEDMODULES": "gcc/12:openmpi/4.1", "SECRET": "s3cr3t",
    }  # fmt: skip
    run(bench, "tasks: {a: {command: 'true'}}\n", env)

    found = attempts(bench.root, "a")[1][0]["environment"]

    assert found["path"][:3] == [f"{lab}/bin", "/usr/bin", "/bin"]
    assert found["python"] == f"{lab}/bin/python"
    assert found["shell"].endswith("bash")
    assert found["virtual_env"] == str(lab)
    assert found["modules"] == ["gcc/12", "openmpi/4.1"]
    assert {"host", "user", "platform", "matterstack", "matterstack_python", "conda_prefix"} <= set(found)
    assert not any("s3cr3t" in path.read_text() for path in (bench.root / ENVIRONMENTS).iterdir())
    shown = bench.cli("attempts", bench.root, "a", "--show", 1).stdout
    assert f"python:             {lab}/bin/python\n" in shown


def test_equal_records_are_stored_once(bench):
    bench.start(
        "tasks: {a: {matrix: {i: [1, 2, 3, 4, 5, 6]}, command: 'true'}, b: {command: 'true', env: {PATH: '/usr/bin:/bin'}}}\n"
    )
    bench.step_until_over()
    assert len(list((bench.root / ENVIRONMENTS).iterdir())) == 2  # that of most, and that of `b`
    assert {item["environment"]["path"][0] for item in attempts(bench.root, "b")[1]} == {"/usr/bin"}


def test_a_command_that_is_not_found_under_another_path_says_so(bench):
    tools = program(bench.folder / "tools", "vasp")
    bench.cli(
        "init",
        bench.write("tasks: {a: {command: vasp}}\n"),
        "--root",
        bench.root,
        env={**os.environ, "PATH": f"{tools}:/usr/bin:/bin"},
    )

    bench.cli("run", "-q", bench.root, env={**os.environ, "PATH": "/usr/bin:/bin"})

    (item,) = explain(bench.root)
    assert item.cause.remarks == (
        f"its PATH is not the one at init ({tools} is not on it): step the run with the same environment active, or name the "
        "environment in `setup` or `env`",
    )


def test_one_that_is_not_found_under_the_same_path_says_nothing_of_that(bench):
    run(bench, "tasks: {a: {command: pyton}}\n", {}, code=3)
    assert explain(bench.root)[0].cause.remarks == ()


def test_validate_shows_the_python_that_a_task_gets(bench):
    lab = program(bench.folder / "lab/bin", "python").parent
    env = {**os.environ, "VIRTUAL_ENV": str(lab), "PATH": "/usr/bin:/bin"}
    shown = bench.cli(
        "validate", bench.write("tasks: {a: {command: 'true'}}\n"), "--task", "a", "--json", env=env
    ).stdout
    assert json.loads(shown)["python"] == f"{lab}/bin/python"


def test_a_record_names_programs_by_the_path_of_the_commands(tmp_path):
    program(tmp_path, "python3")
    assert describe({}, str(tmp_path))["python"] == f"{tmp_path}/python3"
    assert describe({}, "/nowhere")["python"] is None


def test_it_is_compared_with_an_attempt_that_worked_as_well(bench):
    tools = program(bench.folder / "tools", "vasp")
    text = "tasks: {a: {matrix: {i: [1, 2]}, command: vasp, needs: []}}\noperators: {local: {kind: local, slots: {cpus: 1}}}\n"
    plain, with_tools = {**os.environ, "PATH": "/usr/bin:/bin"}, {**os.environ, "PATH": f"{tools}:/usr/bin:/bin"}
    bench.cli("init", bench.write(text), "--root", bench.root, env=plain)
    bench.cli("step", bench.root, env=with_tools)
    bench.exit_of("a/1")
    bench.cli("run", "-q", bench.root, env=plain)
    assert bench.states() == {"a/1": "COMPLETED", "a/2": "FAILED"}
    (remark,) = explain(bench.root)[0].cause.remarks
    assert remark.startswith(f"its PATH is not that of tasks/a/1/attempt-1, which worked ({tools} is not on it): ")


def test_what_setup_made_of_the_environment_is_on_record(bench):
    program(bench.folder / "lab/bin", "python")
    bench.start(
        f"tasks: {{a: {{setup: ['export PATH={bench.folder}/lab/bin:$PATH LOADEDMODULES=vasp/6:gcc'], command: 'true'}}}}\n"
    )
    bench.step_until_over()
    (attempt,) = json.loads(bench.cli("attempts", bench.root, "a", "--json").stdout)
    assert attempt["environment"]["python"] == f"{bench.folder}/lab/bin/python"
    assert attempt["environment"]["modules"] == ["vasp/6", "gcc"]


@pytest.mark.parametrize("setup", ["cd /", "chmod 500 ."])
def test_a_setup_that_leaves_no_place_for_the_record_stops_nothing(bench, setup):
    bench.start(f"tasks: {{a: {{setup: ['{setup}'], command: 'true'}}}}\n")
    assert bench.step_until_over().state == "COMPLETED"
