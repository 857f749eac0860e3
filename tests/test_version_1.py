"""A run root that version 1 left in the middle of everything: the first command that writes makes it one of today.

The run (tests/histories/version-1) has attempts that live, gates that wait, a parcel that is out, tasks that are blocked,
skipped, paused or due to be retried; `status.json` is what the old version said of it.
"""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys

import pytest

from tests.conftest import MATTERSTACK
from tests.histories import HERE

KEPT = HERE / "version-1"
KILLER = """
import os, signal, sys
left = int(sys.argv[1])
AT = {"execute", "executemany", "executescript", "backup", "commit", "replace", "rename", "link", "unlink", "fsync", "write"}
def count(frame, event, called):
    global left
    if event == "c_call" and getattr(called, "__name__", "") in AT:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(count)
sys.argv = ["matterstack", *sys.argv[2:]]
from matterstack.cli.main import main
try:
    main()
finally:
    sys.setprofile(None)
    print(left, file=sys.stderr)
"""


def command(*words, code=None):
    start = MATTERSTACK if code is None else (sys.executable, "-c", KILLER, str(code))
    return subprocess.run([*start, *map(str, words)], capture_output=True, text=True)


def make(root):
    """Put the run root there, at home in a folder of this machine."""
    shutil.copytree(KEPT / "run", root)
    with sqlite3.connect(root / "state.sqlite") as db:
        db.executescript((KEPT / "state.sql").read_text(encoding="utf-8"))
        home = (socket.gethostname(), str(root), (root / "state.sqlite").stat().st_ino)
        db.execute("UPDATE run SET home_host = ?, home_path = ?, home_inode = ?", home)
    db.close()
    return root


@pytest.fixture
def root(tmp_path):
    return make(tmp_path / "runs" / "v1")


def status(root):
    done = command("status", root, "--json")
    assert done.returncode in (0, 3, 4), done.stderr
    return in_short(json.loads(done.stdout))


def in_short(told):
    """Give what a status says, but for its sentences, whose words may change."""
    return [
        told["counts"],
        [{key: task[key] for key in ("id", "state", "operator", "attempts")} for task in told["tasks"]],
    ]


def before():
    return in_short(json.loads((KEPT / "status.json").read_text(encoding="utf-8")))


def rows(root):
    """Give all of the ledger but what differs from one migration to the next: when it was, and who writes."""
    db = sqlite3.connect(root / "state.sqlite")
    try:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return {name: db.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names
                if name not in ("run", "events", "schema_info")}  # fmt: skip
    finally:
        db.close()


def test_it_says_what_it_said(root):
    assert command("pause", root, "after_slow").returncode == 0

    assert status(root) == before()
    kept = {path.name for path in root.iterdir()}
    assert {"state.sqlite.v1-backup", "journal.v1.jsonl"} <= kept
    assert (root / "journal.v1.jsonl").read_bytes() == (KEPT / "run" / "journal.jsonl").read_bytes()


def test_a_reader_sees_it_before_anything_is_written(root):
    old = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    done = command("status", root, "--json")
    assert done.returncode in (0, 1, 3, 4) and "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == old


def test_its_journal_alone_makes_the_same_ledger(root):
    command("pause", root, "after_slow")
    migrated = rows(root)
    (root / "state.sqlite").unlink()

    done = command("doctor", root, "--fix")

    assert "state.sqlite: missing; rebuilt" in done.stdout, done.stdout
    rebuilt = rows(root)
    assert rebuilt.keys() == migrated.keys()
    assert {name: rebuilt[name] == migrated[name] for name in rebuilt} == dict.fromkeys(rebuilt, True)


@pytest.mark.faults
@pytest.mark.parametrize("part", range(12))
def test_a_kill_in_the_middle_loses_nothing(root, part):
    whole = command("pause", root, "after_slow", code=10**9)
    calls = 10**9 - int(whole.stderr.split()[-1])
    expected = rows(root)
    assert calls > 100

    shutil.rmtree(root)
    make(root)
    killed = command("pause", root, "after_slow", code=1 + calls * part // 12)
    assert killed.returncode == -9, killed

    assert command("pause", root, "after_slow").returncode == 0
    assert status(root) == before()
    assert rows(root) == expected
    assert "journal" not in command("doctor", root).stdout
