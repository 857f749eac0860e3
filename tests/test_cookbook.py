"""Every idiom of docs/cookbook.md, and every campaign of docs/loops.md, does what the page says it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import open_to_others, run_as

DOCS = Path(__file__).parent.parent / "docs"


def parts_of(page):
    return {part.partition("\n")[0]: part for part in (DOCS / page).read_text().split("\n## ")[1:]}


IDIOMS = {
    **parts_of("cookbook.md"),
    **{title: text for title, text in parts_of("loops.md").items() if "```yaml" in text},
}
BLOCK = re.compile(r"(?:^(?P<name>[\w.]+):\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

# Runs a command that sees, of what lies beside the run root, only the folder that is bound, as a container does; without
# `--bind` that is the working folder.
APPTAINER = """#!/bin/bash
shift; seen=$PWD; [ "$1" != --bind ] || { seen=$2; shift 2; }
shift
exec unshare -m bash -c 'seen=$1; shift; here=$PWD; above=$(dirname "$MATTERSTACK_RUN"); kept=$(mktemp -d)
mount --bind "$seen" "$kept" && mount -t tmpfs tmpfs "$above" && mkdir -p "$seen" && mount --bind "$kept" "$seen" || exit 99
cd "$here"; exec "$@"' x "$seen" "$@"
"""


def can_mount() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


def blocks(idiom):
    return [(match["kind"], match["name"], match["text"]) for match in BLOCK.finditer(idiom)]


@pytest.mark.parametrize("title", IDIOMS)
def test_an_idiom_runs_as_it_is_written(tmp_path, title):
    if title == "Containers" and not can_mount():
        pytest.skip("takes the right to mount: a container is stood in for")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "matterstack").write_text(f'#!/bin/sh\nexec {sys.executable} -m matterstack "$@"\n')
    (programs / "apptainer").write_text(APPTAINER)
    for program in programs.iterdir():
        program.chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    scripts, expected = [], []
    for kind, name, text in blocks(IDIOMS[title]):
        if kind == "yaml" or (kind == "sh" and name):
            (place / (name or "campaign.yaml")).write_text(text)
        elif kind == "sh":
            scripts.append(text)
        elif kind == "text" and scripts:
            expected += text.splitlines()
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "-ec", "\n".join(scripts)], cwd=place, env=env, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert expected or title == "Licences"
    printed = done.stdout.splitlines()
    assert [line for line in expected if line not in printed] == []


def test_a_container_that_mounts_the_working_folder_alone_does_not_see_its_inputs(tmp_path):
    if not can_mount():
        pytest.skip("takes the right to mount: a container is stood in for")
    campaign = blocks(IDIOMS["Containers"])[0][2].replace('--bind "$MATTERSTACK_RUN" ', "")
    (tmp_path / "campaign.yaml").write_text(campaign)
    (tmp_path / "apptainer").write_text(APPTAINER)
    (tmp_path / "apptainer").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "matterstack", "run", "-q", "campaign.yaml"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "No such file or directory" in done.stdout


def test_no_more_run_at_once_than_there_are_licences(tmp_path):
    (tmp_path / "campaign.yaml").write_text(blocks(IDIOMS["Licences"])[0][2])
    subprocess.run([sys.executable, "-m", "matterstack", "run", "-q", "campaign.yaml"], cwd=tmp_path, check=True)

    moments = []
    for folder in (tmp_path / "runs/licences/tasks/solve").glob("*/attempt-1"):
        moments.append((float((folder / "begin").read_text()), 1))
        moments.append((float((folder / "end").read_text()), -1))
    at_once = most = 0
    for _, change in sorted(moments):
        at_once += change
        most = max(most, at_once)
    assert len(moments) == 8
    assert most == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: steps are taken as other users")
def test_a_group_shares_a_run(tmp_path_factory):
    place = tmp_path_factory.mktemp("group")
    group = 54321
    os.chown(place, 0, group)
    (place / "campaign.yaml").write_text(
        "matterstack: 1\nname: t\ntasks: {a: {command: 'sleep 0.1; id -u > u', outputs: {u: u}}, b: {needs: [a], command: 'id -u'}}\n"
    )
    open_to_others(place)
    place.chmod(0o2775)

    def matterstack(number, *words):
        done = run_as(number, list(words), place, group)
        assert done.returncode == 0, done.stderr

    matterstack(4001, "init", "-q", "campaign.yaml", "--root", "r")
    matterstack(4001, "step", "-q", "r")
    matterstack(4002, "run", "-q", "r")
    assert (place / "r/tasks/a/attempt-1/u").read_text() == "4001\n"
    assert (place / "r/tasks/b/attempt-1/stdout.log").read_text() == "4002\n"
