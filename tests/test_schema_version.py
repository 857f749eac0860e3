"""The version of the ledger: what is opened, and what is refused in which words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from matterstack.errors import LedgerDamagedError, LedgerForeignError, LedgerMissingError, LedgerNewerError
from matterstack.storage.integrity import integrity_problem
from matterstack.storage.migrations import APPLICATION_ID, SCHEMA_VERSION
from matterstack.storage.state_store import SQLiteStateStore

ONE_TASK = "tasks: {a: {command: 'true'}}\n"


def change(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.fixture
def ledger(bench):
    bench.start(ONE_TASK)
    return bench.root / "state.sqlite"


def test_a_new_ledger_gets_todays_version_in_both_places_and_our_application_id(ledger):
    db = sqlite3.connect(ledger)
    assert db.execute("SELECT version FROM schema_info").fetchall() == [(SCHEMA_VERSION,)]
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    db.close()


def test_a_ledger_of_today_opens(ledger):
    with SQLiteStateStore(ledger) as store:
        assert store.run().name == "t"


def test_a_newer_ledger_is_refused_with_who_wrote_it_and_is_left_alone(bench, ledger):
    change(ledger, "UPDATE schema_info SET version = 8, written_by = '0.9'", "PRAGMA user_version = 8")
    before = bench.digest()

    with pytest.raises(LedgerNewerError) as caught:
        bench.step()

    assert isinstance(caught.value, RuntimeError)
    assert str(caught.value) == (
        f"{ledger} has schema 8, written by MatterStack 0.9; MatterStack 0.1.0 knows 7; use the newer MatterStack"
    )
    assert bench.digest() == before


DAMAGE = {
    "version 0": ["PRAGMA user_version = 0"],
    "no version at all": ["PRAGMA user_version = 0", "DELETE FROM schema_info"],
    "no table of versions": ["DROP TABLE schema_info"],
    "two versions": ["INSERT INTO schema_info VALUES (1, 'x')"],
    "schema_info unlike user_version": ["UPDATE schema_info SET version = 5"],
    "user_version unlike schema_info": ["PRAGMA user_version = 5"],
    "another application id": ["PRAGMA application_id = 7"],
}


@pytest.mark.parametrize("statements", DAMAGE.values(), ids=DAMAGE)
def test_a_ledger_that_contradicts_itself_is_damaged(bench, ledger, statements):
    change(ledger, *statements)

    with pytest.raises(LedgerDamagedError, match=r"is damaged: .*`matterstack doctor .*runs/t --fix` rebuilds it"):
        bench.step()


def test_a_database_of_another_program_is_foreign(bench, ledger):
    ledger.unlink()
    change(ledger, "CREATE TABLE bookmarks (url TEXT)", "PRAGMA application_id = 7")

    with pytest.raises(LedgerForeignError, match="is a database of another program"):
        bench.step()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"SQLite format 3\0", b"\0" * 5000], ids=["empty", "text", "head", "zeros"]
)
def test_a_file_that_is_no_database_is_damaged(bench, ledger, content):
    ledger.write_bytes(content)

    with pytest.raises(LedgerDamagedError, match="not a SQLite database"):
        bench.step()


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.95])
def test_a_truncated_ledger_is_damaged(bench, ledger, keep):
    data = ledger.read_bytes()
    ledger.write_bytes(data[: int(len(data) * keep)])

    with pytest.raises(
        LedgerDamagedError, match=r"is damaged: database disk image is malformed; `matterstack doctor .*runs/t --fix`"
    ):
        bench.step()


def test_a_scribbled_on_ledger_is_damaged(bench, ledger):
    data = bytearray(ledger.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    ledger.write_bytes(data)

    with pytest.raises(LedgerDamagedError):
        bench.step()


def test_a_lost_ledger_is_refused_and_no_new_one_is_made(bench, ledger):
    ledger.unlink()

    with pytest.raises(LedgerMissingError, match=r"is missing; `matterstack doctor .*runs/t --fix`"):
        bench.step()
    assert not ledger.exists()


@pytest.mark.parametrize("command", ["step", "run", "status", "explain", "results", "pause", "cancel"])
def test_every_command_refuses_in_one_line_with_exit_code_1(bench, ledger, command):
    ledger.write_bytes(b"not a database")

    done = bench.cli(command, bench.root)

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_path_and_version_are_logged_with_v(bench, ledger):
    done = bench.cli("step", "-v", bench.root)

    assert f"ledger: {ledger}" in done.stderr
    assert "ledger schema version: 7" in done.stderr


# --- ledgers of every version that was ever written ------------------------------------------------------------------

LEDGERS = sorted((Path(__file__).parent / "ledgers").glob("version-*.sql"))


def test_there_is_a_ledger_of_every_version():
    assert [path.stem for path in LEDGERS] == [f"version-{n}" for n in range(1, SCHEMA_VERSION + 1)]


@pytest.mark.parametrize("script", LEDGERS, ids=lambda path: path.stem)
def test_a_ledger_of_a_past_version_opens_and_says_what_it_said(tmp_path, script):
    db = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
    db.executescript(script.read_text())
    db.close()

    with SQLiteStateStore(tmp_path / "state.sqlite") as store:
        states = {row.task_id: str(row.state) for row in store.tasks()}
        assert states == {
            "a/1": "COMPLETED", "a/1.50": "COMPLETED", "soft": "FAILED", "below": "SKIPPED", "broken": "FAILED",
            "blocked": "BLOCKED", "sum": "COMPLETED",
        }  # fmt: skip
        assert [len(store.attempts(task)) for task in states] == [1, 1, 2, 0, 1, 0, 1]
        assert store.metrics()["a/1.50"] == (1, {"e": -1.5}, {})
        assert len(store.published("sum")[1]["o"][1]) == 64
        assert integrity_problem(store) == ""
        assert len(store.lines_after(0)) == store.last_seq()
