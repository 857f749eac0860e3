"""What an attack found, and what happens now (issue 14.9)."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time

import pytest

from matterstack.run_root.files import write_beside
from matterstack.spec.files import glob_files
from matterstack.views.attempts import attempts
from matterstack.views.explain import explain
from tests.conftest import MATTERSTACK, open_to_others, run_as

BUSY = """tasks:
  a: {matrix: {i: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], j: [1, 2, 3, 4, 5, 6, 7, 8]}, command: "sleep 0.05; echo 1 > o", outputs: {o: {file: o, path: "o/${{ task.label }}"}}}
  b: {inputs: {o: "o/*"}, command: "cat ${{ inputs.o }} | wc -l > n", outputs: {n: n}}
"""


def test_doctor_beside_a_busy_run_raises_no_false_alarm(bench):
    """A1: what may be changing is looked at again while nobody changes it."""
    bench.start(BUSY)
    loop = bench.popen("run", "-q", bench.root)
    calls = 0
    while loop.poll() is None:
        done = bench.cli("doctor", bench.root)
        assert (done.returncode, done.stdout) == (0, "nothing is wrong\n"), done.stdout
        calls += 1
    assert loop.returncode == 0
    assert calls > 2


# --- A2: what cannot be read ends its attempt ------------------------------------------------------------------------

DEEP = """import os
for _ in range(120):
    os.mkdir("d" * 50); os.chdir("d" * 50)
open("x", "w").close()
"""


@pytest.fixture
def deep(bench):
    """A tree deeper than any path may be long, as an output."""
    (bench.folder / "deep.py").write_text(DEEP)
    bench.start(
        "files: [deep.py]\noperators: {local: {kind: local, slots: {cpus: 1}}}\ntasks:\n"
        f"  a: {{command: 'cd o; {sys.executable} $MATTERSTACK_SOURCE/deep.py', outputs: {{o: o/}}}}\n  b: {{command: 'true'}}\n"
    )
    yield bench
    subprocess.run(["rm", "-rf", str(bench.root)], check=True)


def test_an_output_that_cannot_be_read_fails_its_attempt_with_path_and_error_and_holds_no_slot(deep):
    deep.step_until_over()
    assert deep.states() == {"a": "FAILED", "b": "COMPLETED"}
    (failed,) = attempts(deep.root, "a")[1]
    assert failed["class"] == "unreadable"
    assert failed["reason"].endswith("cannot be read: File name too long")
    assert explain(deep.root)[0].advice[0].text == "make it readable if you need what it left, then run it again"
    assert "Traceback" not in deep.cli("doctor", deep.root).stderr
    assert deep.cli("rerun", deep.root, "a").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: a folder is given to somebody else")
def test_a_folder_that_may_not_be_entered_hides_no_other_attempt(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 4}}}\n"
        "tasks: {a: {command: 'chmod 000 .', outputs: {o: o}}, b: {command: 'exit 1'}, c: {command: 'true'}}\n"
    )
    bench.step()
    for task in "abc":
        bench.exit_of(task)
    for path in [bench.root, *bench.root.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    os.chown(bench.attempt("a"), 0, 0)
    open_to_others(bench.folder)
    os.seteuid(65534)
    try:
        assert bench.step_until_over().state == "FAILED"
        assert bench.states() == {"a": "FAILED", "b": "FAILED", "c": "COMPLETED"}
        failed = attempts(bench.root, "a")[1][0]
        assert (failed["class"], failed["reason"]) == (
            "unreadable", "it ended, and tasks/a/attempt-1/exit.json cannot be read: Permission denied"
        )  # fmt: skip
        assert {item.task_id for item in explain(bench.root)} == {"a", "b"}
    finally:
        os.seteuid(0)


# --- A3: loops and closed doors in a campaign folder -----------------------------------------------------------------


def test_a_link_that_cannot_be_followed_ends_no_search_and_is_told(bench):
    scripts = bench.folder / "scripts"
    scripts.mkdir()
    for name in ("a.py", "z.py", "m.txt"):
        (scripts / name).write_text("1\n")
    (scripts / "loop.py").symlink_to("loop.py")
    (scripts / "loop.txt").symlink_to("loop.txt")
    (scripts / "nowhere.py").symlink_to("nothing")

    unreadable: dict[str, str] = {}
    assert glob_files(bench.folder, "scripts/*.py", unreadable) == ["scripts/a.py", "scripts/z.py"]
    assert unreadable == {
        "scripts/loop.py": "Too many levels of symbolic links"
    }  # what the pattern does not select is no matter
    done = bench.cli(
        "validate", bench.write("files: ['scripts/*.py']\ntasks: {a: {command: x, inputs: {s: 'scripts/*.py'}}}\n")
    )
    assert done.returncode == 2
    assert (
        "files: 'scripts/*.py' selects scripts/loop.py, which cannot be read: Too many levels of symbolic links"
        in done.stderr
    )


# --- A4: a clock that was ahead --------------------------------------------------------------------------------------


def test_a_retry_that_was_recorded_in_the_future_is_due_now(bench):
    bench.start("tasks: {a: {command: '[ $MATTERSTACK_ATTEMPT = 2 ]', retries: {max: 1, delay: 3s}}}\n")
    bench.step()
    bench.exit_of("a")
    ahead = time.time() + 400 * 86400
    with open(bench.attempt("a") / "exit.json") as file:
        record = json.load(file)
    assert record["exit_code"] == 1
    script = (
        "import time; real = time.time; time.time = lambda: real() + 400 * 86400\n"
        f"from matterstack import step_run; step_run({str(bench.root)!r})"
    )
    for name in ("started_at", "ended_at"):
        record[name] = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(ahead))
    (bench.attempt("a") / "exit.json").write_text(json.dumps(record) + "\n")
    subprocess.run([sys.executable, "-c", script], check=True)
    assert bench.states() == {"a": "PENDING"}
    assert explain(bench.root)[0].reason.endswith("; due at the next step")
    bench.step_until_over()
    assert bench.states() == {"a": "COMPLETED"}


# --- A5: a plug-in that is not here ----------------------------------------------------------------------------------

PLUG_IN = """from matterstack.operators.human import HumanOperator
class Operator(HumanOperator):
    pass
"""


def test_reading_commands_work_without_a_plug_in_and_say_which_is_missing(bench, tmp_path):
    site = tmp_path / "site"
    (site / "robot-1.0.dist-info").mkdir(parents=True)
    (site / "robot_operator.py").write_text(PLUG_IN)
    (site / "robot-1.0.dist-info/METADATA").write_text("Name: robot\nVersion: 1.0\n")
    (site / "robot-1.0.dist-info/entry_points.txt").write_text(
        "[matterstack.operators]\nrobot = robot_operator:Operator\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}"}
    text = "operators: {r: {kind: robot}}\ntasks: {a: {operator: r, instructions: x}, b: {command: 'exit 1'}, c: {operator: r, needs: [b]}}\n"
    assert bench.cli("init", bench.write(text), "--root", bench.root, env=env).returncode == 0
    assert bench.cli("step", bench.root, env=env).returncode == 0
    bench.exit_of("b")

    for words in (
        ["status"],
        ["explain"],
        ["explain", "a"],
        ["results"],
        ["inbox"],
        ["graph"],
        ["doctor"],
        ["attempts", "a"],
    ):
        done = bench.cli(words[0], bench.root, *words[1:])
        assert done.returncode in (0, 1), (words, done.stderr)
        assert "Traceback" not in done.stderr
    assert "robot" in bench.cli("explain", bench.root, "a").stdout


# --- A6: an output that leads to the whole machine -------------------------------------------------------------------


def test_an_output_folder_that_is_a_link_to_the_root_is_not_entered(bench):
    bench.start("tasks: {a: {command: 'rmdir o; ln -s / o', outputs: {o: o/}, resources: {time: 20s}}}\n")
    began = time.monotonic()
    bench.step_until_over()
    assert time.monotonic() - began < 15
    assert attempts(bench.root, "a")[1][0]["reason"].startswith(
        "exit code 0, but o/ is a link to /, out of the attempt's folder"
    )
    assert not (bench.attempt("a") / "outputs.sha256").exists()


# --- A7: doctor looks at what a step needs ---------------------------------------------------------------------------


def test_doctor_finds_what_would_stop_a_step_and_goes_on_after_each_finding(bench):
    bench.start(
        "operators: {h: {kind: human}}\ntasks: {q: {operator: h, instructions: x}, a: {command: 'echo 1 > o', outputs: {o: o}}}\n"
    )
    bench.step_until(lambda: bench.states()["a"] == "COMPLETED")
    (bench.attempt("q") / "task.json").write_text("{")
    (bench.root / "state.sqlite-journal").mkdir()
    (bench.attempt("a") / "o").unlink()
    findings = json.loads(bench.cli("doctor", bench.root, "--json").stdout)["findings"]
    found = {(finding["check"], finding["path"], finding["message"]) for finding in findings}
    assert ("questions", "tasks/q/attempt-1/task.json", "cannot be read, so nobody can answer") in found
    assert ("ledger", "state.sqlite-journal", "is a folder where SQLite writes its rollback journal") in found
    assert ("outputs", "tasks/a/attempt-1/o", "is missing") in found


# --- A8: names that nobody can know before ---------------------------------------------------------------------------


def test_a_file_is_written_beside_under_a_name_that_no_link_waits_at(tmp_path):
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    folder = tmp_path / "shared"
    folder.mkdir()
    for pid in (os.getpid(), 0):
        (folder / f".cancel.json.{pid}").symlink_to(treasure)
    (folder / "cancel.json").symlink_to(treasure)
    write_beside(folder / "cancel.json", "{}")
    assert treasure.read_text() == "mine"
    assert not (folder / "cancel.json").is_symlink()


# --- A9: schemas that nobody could answer ----------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["http://127.0.0.1:1/x", "other.json", "#/$defs/nothing", "file:///etc/passwd"])
def test_a_ref_that_leads_nowhere_is_a_mistake_of_the_file(bench, ref):
    schema = f"{{type: object, properties: {{a: {{$ref: '{ref}'}}}}}}"
    done = bench.cli(
        "validate",
        bench.write(
            f"operators: {{h: {{kind: human}}}}\ntasks: {{q: {{operator: h, instructions: x, response_schema: {schema}}}}}\n"
        ),
    )
    assert done.returncode == 2
    assert f"`$ref` leads nowhere: {ref}" in done.stderr


def test_a_ref_within_the_schema_is_fine(bench):
    schema = "{type: object, properties: {a: {$ref: '#/$defs/n'}}, $defs: {n: {type: integer}}}"
    text = f"operators: {{h: {{kind: human}}}}\ntasks: {{q: {{operator: h, instructions: x, response_schema: {schema}}}}}\n"
    assert bench.cli("validate", bench.write(text)).returncode == 0


# --- A10: parcels ----------------------------------------------------------------------------------------------------


@pytest.fixture
def parcel(bench):
    """A run with a parcel out, and a function that makes what comes back."""
    bench.start("operators: {c: {kind: manual}}\ntasks: {t: {operator: c, command: 'true'}}\n")
    bench.step()
    bench.cli("parcel", "export", bench.root, "-o", "w.tar")
    with tarfile.open(bench.folder / "w.tar") as tar:
        name = next(member.name for member in tar if member.name.endswith("/parcel.json"))
        info = tar.extractfile(name).read()
    folder = f"{os.path.dirname(name)}/tasks/t/attempt-1"

    def back(*members, mode="w"):
        with tarfile.open(bench.folder / "back.tar", mode) as tar:
            for path, content in ((name, info), (f"{folder}/status.json", b'{"status": "COMPLETED"}'), *members):
                if isinstance(content, tarfile.TarInfo):
                    tar.addfile(content)
                    continue
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        began = time.monotonic()
        done = bench.cli("parcel", "import", bench.root, "back.tar")
        assert "Traceback" not in done.stderr
        assert time.monotonic() - began < 10
        return done

    return bench, folder, back


def link(name, target, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return name, member


def test_a_hard_link_to_a_loop_of_links_is_refused(parcel):
    _, folder, back = parcel
    loop = [link(f"{folder}/a", f"{folder}/b", tarfile.LNKTYPE), link(f"{folder}/b", f"{folder}/a", tarfile.LNKTYPE),
            link(f"{folder}/s", "s", tarfile.SYMTYPE), link(f"{folder}/h", f"{folder}/s", tarfile.LNKTYPE)]  # fmt: skip
    done = back(*loop)
    assert done.returncode == 2
    assert "is a link to what is not in the parcel" in done.stderr


def test_a_compressed_bomb_is_refused_by_its_size_unless_it_is_meant(parcel, monkeypatch):
    bench, folder, back = parcel
    done = back((f"{folder}/zeros", bytes(400_000_000)), mode="w:gz")
    assert done.returncode == 2
    assert re.search(
        r"would unpack to more than [\d.]+[GM], 200 times its size; if that is meant, --max-size says how much",
        done.stderr,
    )
    assert "--max-size allows" in bench.cli("parcel", "import", bench.root, "back.tar", "--max-size", "100M").stderr
    assert not (bench.attempt("t") / "zeros").exists()


def test_a_very_long_name_is_refused_at_once(parcel):
    _, folder, back = parcel
    done = back((f"{folder}/" + "tasks/attempt-" * 12_000, b"x"))
    assert done.returncode == 2
    assert "holds a name of " in done.stderr and len(done.stderr) < 2000


def test_what_a_killed_import_left_is_removed_by_fix_and_by_the_next_import(parcel):
    bench, _, back = parcel
    (bench.root / ".parcel-0123").mkdir()
    assert "files  .parcel-0123: was left by a killed command" in bench.cli("doctor", bench.root).stdout
    assert bench.cli("doctor", bench.root, "--fix").returncode == 0
    assert not (bench.root / ".parcel-0123").exists()
    (bench.root / ".parcel-4567").mkdir()
    back()
    assert not (bench.root / ".parcel-4567").exists()


# --- A11: a damaged ledger of the right version ----------------------------------------------------------------------

DAMAGE = {
    "a table is dropped": "DROP TABLE attempts",
    "another table is dropped": "DROP TABLE edges",
    "a column is dropped": "ALTER TABLE outputs DROP COLUMN stamp",
    "text in place of a number": "UPDATE tasks SET attempts = 'xx'",
    "text in place of a time": "UPDATE tasks SET retry_at = 'xx'",
    "text in place of a time of an attempt": "UPDATE attempts SET created_at = 'xx'",
    "no state": "UPDATE tasks SET state = 'DONE'",
    "no campaign": "UPDATE campaign_versions SET definition = '{}'",
}  # fmt: skip


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_a_ledger_that_holds_what_nobody_wrote_is_damaged_and_rebuilt(bench, statement):
    bench.start(
        "operators: {h: {kind: human}}\ntasks: {a: {command: 'echo 1 > o', outputs: {o: o}}, q: {operator: h, instructions: x}, b: {needs: [q], command: 'true'}}\n"
    )
    bench.step_until(lambda: bench.states() == {"a": "COMPLETED", "q": "WAITING", "b": "PENDING"})
    db = sqlite3.connect(bench.root / "state.sqlite")
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute(statement)
    db.commit()
    db.close()
    for words in (
        ["status"],
        ["explain"],
        ["results"],
        ["step"],
        ["inbox"],
        ["graph"],
        ["attempts", "a"],
    ):
        done = bench.cli(words[0], bench.root, *words[1:])
        assert "Traceback" not in done.stderr, words
        assert done.returncode in (0, 1, 3), words
    assert "doctor" in bench.cli("doctor", bench.root).stdout
    assert bench.cli("doctor", bench.root, "--fix").returncode == 0
    assert bench.states()["a"] == "COMPLETED"
    assert bench.cli("doctor", bench.root).stdout == "nothing is wrong\n"


# --- A12, A13: messages and what they echo ---------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: a file of somebody else is read")
def test_a_source_file_that_may_not_be_read_is_named_and_not_the_run(bench):
    (bench.folder / "secret.py").write_text("x")
    (bench.folder / "secret.py").chmod(0)
    bench.write("files: [secret.py]\ntasks: {a: {command: x}}\n")
    open_to_others(bench.folder)
    bench.folder.chmod(0o777)
    done = run_as(4001, ["init", "campaign.yaml", "--root", "rr"], bench.folder)
    assert done.returncode == 1
    assert done.stderr == "error: secret.py: cannot be read: Permission denied; the run needs a copy of it\n"


def test_what_somebody_typed_at_great_length_is_not_echoed_in_full(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    done = bench.cli("explain", bench.root, "x" * 3000)
    assert done.returncode == 2
    assert len(done.stderr) < 2000


def test_values_are_harmless_on_a_terminal_and_exact_in_a_pipe(bench):
    value = "\\u001b]0;owned\\u0007" + "long " * 100
    bench.start(
        f'tasks: {{a: {{command: "printf \'{{\\"e\\": \\"{value}\\"}}\' > metrics.json"}}}}\n'.replace("\\\\u", "\\u")
    )
    (bench.root / "metrics.json").write_text(json.dumps({"e": "\x1b]0;owned\x07" + "long " * 100}))
    bench.cli("cancel", bench.root)
    shutil.rmtree(bench.root)
    (bench.folder / "m.json").write_text(json.dumps({"e": "\x1b]0;owned\x07" + "long " * 100}))
    bench.start("files: [m.json]\ntasks: {a: {command: 'cp $MATTERSTACK_SOURCE/m.json metrics.json'}}\n")
    bench.step_until_over()

    assert "\x1b]0;owned\x07" + "long " * 100 in bench.cli("results", bench.root, "--csv").stdout
    for words in (["results", bench.root, "--csv"], ["results", bench.root]):
        pid, fd = pty.fork()
        if pid == 0:
            os.execvp(MATTERSTACK[0], [*MATTERSTACK, *map(str, words)])
        shown = ""
        while select.select([fd], [], [], 10)[0]:
            try:
                part = os.read(fd, 65536).decode()
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(fd)
        os.waitpid(pid, 0)
        assert "\x1b]" not in shown and "\x07" not in shown
        assert max(map(len, shown.splitlines())) < 200


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: another user runs it, whom permissions stop")
def test_a_loop_ends_beside_a_folder_that_its_command_closed_and_cancel_ends_it_too(bench):
    """The worker of a loop is alive after its attempt has ended, and nothing of the attempt can be read."""
    bench.write("tasks: {a: {command: 'chmod 000 .'}, b: {needs: [a], command: 'true'}}\n")
    open_to_others(bench.folder)
    for path in [bench.folder, *bench.folder.rglob("*")]:
        os.chown(path, 4001, 65534)
    done = run_as(4001, ["run", "campaign.yaml", "--root", "runs/t"], bench.folder)
    assert done.returncode == 3, done.stderr
    assert "tasks/a/attempt-1" in done.stdout
    assert "cannot be read: Permission denied" in done.stdout

    assert run_as(4001, ["init", "campaign.yaml", "--root", "runs/u"], bench.folder).returncode == 0
    assert run_as(4001, ["step", "runs/u"], bench.folder).returncode == 0
    deadline = time.monotonic() + 10
    while (bench.folder / "runs/u/tasks/a/attempt-1").stat().st_mode & 0o777 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert run_as(4001, ["cancel", "runs/u"], bench.folder).returncode == 0
    assert run_as(4001, ["status", "runs/u"], bench.folder).stdout.startswith("t-")
    assert "RUNNING" not in run_as(4001, ["status", "runs/u"], bench.folder).stdout
