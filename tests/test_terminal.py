"""What a terminal shows and takes (issue 14.8)."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from tests.conftest import MATTERSTACK

RUN = """description: Equations of state.
operators: {h: {kind: human}}
tasks:
  relax: {matrix: {i: [1, 2, 3]}, command: "test ${{ matrix.i }} = 2"}
  ask: {operator: h, matrix: {m: [Al, Cu]}, instructions: "Keep which?", response_schema: {type: object, required: [metals], properties: {metals: {type: array, maxItems: 2, items: {enum: [Al, Cu, Ni]}}, n: {enum: [10, 20]}}}}
"""


class Terminal:
    """A program in a terminal of its own; `read` gives what it has shown so far."""

    def __init__(self, argv, folder, env=()):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(dict(env))
            os.execvp(argv[0], [str(word) for word in argv])
        self.shown = ""

    def read(self, until, limit_s=30.0):
        end = time.monotonic() + limit_s
        while until not in self.shown:
            assert time.monotonic() < end, f"{until!r} is not in {self.shown!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    break
        assert until in self.shown, self.shown
        return self.shown

    def type(self, text):
        self.shown = ""
        os.write(self.fd, text.encode())

    def close(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture
def run(bench):
    bench.start(RUN)
    bench.step_until(lambda: sorted(bench.states().values()) == ["COMPLETED", "FAILED", "FAILED", "WAITING", "WAITING"])
    return bench


# --- completion ------------------------------------------------------------------------------------------------------


def programs(bench):
    folder = bench.folder / "bin"
    folder.mkdir()
    (folder / "matterstack").write_text(f'#!/bin/sh\nexec {" ".join(MATTERSTACK)} "$@"\n')
    (folder / "matterstack").chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PS1": "$ ",
        "TERM": "dumb",
        "HOME": str(bench.folder),
    }


COMPLETED = [
    ("matterstack val", "matterstack validate "),
    ("matterstack validate camp", "matterstack validate campaign.yaml "),
    ("matterstack step ru", "matterstack step runs/"),
    ("matterstack status runs/", "matterstack status runs/t "),
    ("matterstack explain runs/t rel", "matterstack explain runs/t relax"),
    ("matterstack rerun runs/t relax/3", "matterstack rerun runs/t relax/3 "),
    ("matterstack logs runs/t as", "matterstack logs runs/t ask"),
    ("matterstack respond runs/t ask/C", "matterstack respond runs/t ask/Cu "),
    ("matterstack schema exp", "matterstack schema experiment-re"),
    ("matterstack init campaign.yaml --operators camp", "matterstack init campaign.yaml --operators campaign.yaml "),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_bash_in_a_terminal_completes_commands_files_runs_tasks_and_schemas(run):
    (run.folder / "rules.txt").write_text("")
    terminal = Terminal(["bash", "--norc", "--noprofile", "-i"], run.folder, programs(run))
    try:
        terminal.type(
            'bind "set bell-style none"; bind "set enable-bracketed-paste off"; eval "$(matterstack completion bash)"; echo re"ady"\n'
        )
        terminal.read("ready\r\n")
        for typed, shown in COMPLETED:
            terminal.type(f"{typed}\t")
            terminal.read(shown)
            terminal.type('\x15echo do"ne"\n')
            terminal.read("done\r\n")
    finally:
        terminal.type("exit\n")
        terminal.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_and_is_answered(run, shell):
    assert "_MATTERSTACK_COMPLETE" in run.cli("completion", shell).stdout
    words = ("matterstack explain runs/t rel", "3") if shell != "fish" else ("matterstack explain runs/t rel", "rel")
    env = {**os.environ, "_MATTERSTACK_COMPLETE": f"{shell}_complete", "COMP_WORDS": words[0], "COMP_CWORD": words[1]}
    assert "relax/3" in subprocess.run([*MATTERSTACK], cwd=run.folder, env=env, capture_output=True, text=True).stdout


def test_somebody_who_is_typing_is_told_of_no_damage(run):
    (run.root / "state.sqlite").write_bytes(b"no ledger")
    env = {
        **os.environ,
        "_MATTERSTACK_COMPLETE": "bash_complete",
        "COMP_WORDS": "matterstack explain runs/t rel",
        "COMP_CWORD": "3",
    }
    done = subprocess.run([*MATTERSTACK], cwd=run.folder, env=env, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


# --- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(run, env, coloured):
    terminal = Terminal([*MATTERSTACK, "status", "runs/t"], run.folder, {"TERM": "xterm", **env})
    shown = terminal.read("relax")
    terminal.close()
    assert ("\x1b[" in shown) is coloured


def test_a_dumb_terminal_gets_plain_lines_of_a_loop(bench):
    bench.write("tasks: {a: {command: 'sleep 1'}}\n")
    terminal = Terminal([*MATTERSTACK, "run", "campaign.yaml"], bench.folder, {"TERM": "dumb"})
    shown = terminal.read("results of 1 task")
    terminal.close()
    assert "\x1b[" not in shown
    assert "0 of 1 task" in shown


# --- status, inbox ---------------------------------------------------------------------------------------------------


def test_status_says_what_and_since_when_and_commands_stand_on_lines_of_their_own(run):
    lines = run.cli("status", "runs/t").stdout.splitlines()
    assert lines[1] == "Equations of state."
    assert re.fullmatch(r"made 20\d\d-\d\d-\d\d \d\d:\d\d UTC, .+ ago, last change .+ ago", lines[2])
    assert "    matterstack rerun runs/t --like relax/1" in lines
    assert lines[3] == "5 tasks: 2 WAITING, 1 COMPLETED, 2 FAILED"
    assert "2 tasks waiting for people: `matterstack inbox runs/t`" in lines


def test_one_task_is_one_task(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    bench.step_until_over()
    shown = bench.cli("status", bench.root).stdout
    assert "\n1 task: 1 COMPLETED\n" in shown
    assert re.search(r"made .* UTC, ended .* UTC, after ", shown)


def test_status_and_inbox_find_the_runs_below_a_folder(run):
    shutil.copytree(run.root, run.folder / "runs/deep/er/other", symlinks=True)
    (run.folder / "empty").mkdir()
    found = json.loads(run.cli("status", "runs", "--json").stdout)
    assert [item["run"]["root"] for item in found] == ["runs/deep/er/other", "runs/t"]
    assert {item["root"] for item in json.loads(run.cli("inbox", "runs", "--json").stdout)} == {
        "runs/deep/er/other",
        "runs/t",
    }
    assert {item["root"] for item in json.loads(run.cli("inbox", "--json").stdout)} == {"runs/deep/er/other", "runs/t"}
    refused = run.cli("status", "empty")
    assert (refused.returncode, refused.stderr) == (2, "error: empty is not a run root, and there is none below it\n")


def test_inbox_keeps_why_an_answer_was_refused_and_how_long_somebody_has_been_asked_in_all(bench):
    bench.start(
        "operators: {h: {kind: human}}\ntasks: {q: {operator: h, instructions: 'Go on?', deadline: 1s, on_deadline: remind}}\n"
    )
    bench.step()
    answer = bench.attempt("q") / "response.json"
    answer.write_text("no answer")
    os.utime(answer, (1, 1))
    bench.step()
    bench.wait_for(bench.attempt("q", 2) / "instructions.md")
    time.sleep(1.1)
    (waiting,) = json.loads(bench.cli("inbox", bench.root, "--json").stdout)
    assert waiting["times"] == 2 and waiting["first"] < waiting["since"]
    assert waiting["overdue"] is True
    shown = bench.cli("inbox", bench.root).stdout
    assert ", asked 2 times, for " in shown
    assert "asked again: attempt 1: response.json is not JSON" in shown


def test_results_are_one_table_for_each_group_where_columns_differ(bench):
    bench.start(
        "tasks:\n  a: {matrix: {x: [1, 2]}, command: \"echo '{\\\"e\\\": 1}' > metrics.json\"}\n  b: {matrix: {y: [1]}, command: 'true'}\n  c: {command: 'true'}\n"
    )
    bench.step_until_over()
    tables = bench.cli("results", bench.root).stdout.split("\n\n")
    assert [table.splitlines()[0].split() for table in tables] == [
        ["task", "state", "attempt", "x", "e"], ["task", "state", "attempt", "y"], ["task", "state", "attempt"],
    ]  # fmt: skip


# --- respond ---------------------------------------------------------------------------------------------------------


def test_respond_goes_through_all_that_waits_with_numbered_choices_and_says_who_answers(run):
    terminal = Terminal([*MATTERSTACK, "respond", "runs/t", "--by", "ada"], run.folder, {"TERM": "dumb"})
    terminal.read("metals [0 to 2 of these, with commas]: ")
    assert "  1  Al\r\n  2  Cu\r\n  3  Ni\r\n" in terminal.shown
    for typed, then in (
        ("1,3\n", "n ["),
        ("20\n", "comment"),
        ("\n", "send this answer of ask/Al, by ada?"),
        ("y\n", "metals ["),
    ):
        terminal.type(typed)
        terminal.read(then)
    for typed, then in (
        ("Cu\n", "n ["),
        ("\n", "comment"),
        ("gold\n", "send this answer of ask/Cu, by ada?"),
        ("y\n", "continue with"),
    ):
        terminal.type(typed)
        terminal.read(then)
    terminal.close()
    answers = {name: json.loads((run.attempt(f"ask/{name}") / "response.json").read_text()) for name in ("Al", "Cu")}
    assert answers["Al"]["data"] == {"metals": ["Al", "Ni"], "n": 20}
    assert (answers["Cu"]["data"], answers["Cu"]["by"], answers["Cu"]["comment"]) == ({"metals": ["Cu"]}, "ada", "gold")


def test_a_glob_answers_many_alike_after_showing_them(run):
    refused = run.cli("respond", "runs/t", "ask/*", "--data", "metals=Al")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[:2] == ["ask/Al: Keep which?", "ask/Cu: Keep which?"]
    assert "2 tasks would be answered alike; --yes does so without asking" in refused.stderr
    assert run.cli("respond", "runs/t", "ask/*", "--data", "metals=Al", "--yes").returncode == 0
    assert run.cli("respond", "runs/t", "ask/*", "--approve").stderr.startswith(
        "error: runs/t: none of those that 'ask/*' names waits"
    )


def test_on_a_terminal_many_are_asked_about(run):
    terminal = Terminal(
        [*MATTERSTACK, "respond", "runs/t", "ask/*", "--reject", "--by", "ada"], run.folder, {"TERM": "dumb"}
    )
    terminal.read("reject these 2 alike, by ada? [y/N]: ")
    terminal.type("n\n")
    terminal.close()
    assert not (run.attempt("ask/Al") / "response.json").exists()


def test_a_changed_answer_offers_to_run_what_used_the_old_one(bench):
    bench.start(
        "operators: {h: {kind: human}}\ntasks:\n  q: {operator: h, instructions: x}\n  use: {command: 'echo ${{ response.q.n }} > n', outputs: {n: n}}\n  end: {inputs: {n: n}, command: 'cat ${{ inputs.n }}'}\n"
    )
    bench.step()
    bench.cli("respond", bench.root, "q", "--data", "n=1")
    bench.step_until_over()
    bench.cli("rerun", bench.root, "q")
    bench.step()
    said = bench.cli("respond", bench.root, "q", "--data", "n=2").stderr
    assert f"`matterstack rerun {bench.root} --stale --downstream` runs it again with this one" in said
    bench.step_until_over()
    assert bench.cli("rerun", bench.root, "--stale", "--downstream").returncode == 0
    bench.step_until_over()
    assert (bench.root / "results/n").read_text() == "2\n"


# --- paths -----------------------------------------------------------------------------------------------------------


def test_a_path_that_is_too_long_names_the_limit_before_anything_is_made(bench):
    deep = bench.folder / "/".join(["d" * 99] * 5)
    deep.mkdir(parents=True)
    file = bench.write("tasks: {a: {command: 'true'}}\n")
    for words in (
        ["init", file, "--root", deep / "r"],
        ["run", file, "--root", deep / "r"],
        ["validate", file, "--root", deep / "r"],
    ):
        done = bench.cli(*words)
        assert done.returncode == 2
        assert re.search(
            r"the path of its ledger needs \d+ bytes, SQLite takes 512; name a shorter folder with --root", done.stderr
        )
    assert list(deep.iterdir()) == []
    bench.start("tasks: {a: {command: 'true'}}\n")
    shutil.copytree(bench.root, deep / "r")
    assert "SQLite takes 512" in bench.cli("status", deep / "r").stderr


def test_an_attempt_whose_path_would_be_too_long_is_told_at_init(bench):
    name = "/".join(["n" * 200] * 20)
    done = bench.cli("init", bench.write(f"tasks: {{a: {{command: x, outputs: {{o: '{name}'}}}}}}\n"))
    assert done.returncode == 2
    assert "the system takes 4095; name a shorter folder with --root, or shorter labels and outputs" in done.stderr


# --- results that went by older ones -------------------------------------------------------------------------------

JUDGED = """operators: {board: {kind: human}}
tasks:
  a: {command: 'echo $MATTERSTACK_ATTEMPT > o', outputs: {o: o}}
  check: {inputs: {o: o}, allow_failure: true, command: 'grep -q 2 ${{ inputs.o }}'}
  approve: {operator: board, inputs: {o: o}, instructions: "Look at ${{ inputs.o }}."}
  after: {needs: [approve], command: 'true'}
"""


@pytest.fixture
def judged(bench):
    bench.start(JUDGED)
    bench.step_until(lambda: bench.states()["approve"] == "WAITING" and bench.states()["check"] == "FAILED")
    bench.cli("rerun", bench.root, "a")
    bench.step_until(lambda: bench.states()["a"] == "COMPLETED")
    return bench


def test_a_question_and_an_allowed_failure_that_read_older_results_are_stale(judged):
    why = "has read attempt 1 of a, which has a newer one (2)"
    said = judged.cli("status", judged.root).stdout
    assert f"stale  check: {why}" in said
    assert f"stale  approve: {why}" in said
    for words in (("explain",), ("inbox",)):
        said = judged.cli(*words, judged.root).stdout
        assert f"stale: {why}" in said
        assert f"matterstack rerun {judged.root} approve" in said

    assert judged.cli("rerun", judged.root, "--stale").returncode == 0
    judged.step_until(lambda: judged.states()["check"] == "COMPLETED" and judged.states()["approve"] == "WAITING")
    assert "stale" not in judged.cli("status", judged.root).stdout + judged.cli("inbox", judged.root).stdout


def test_who_answers_a_stale_question_is_warned(judged):
    done = judged.cli("respond", judged.root, "approve", "--approve")
    assert done.returncode == 0
    assert "warning: approve has read attempt 1 of a, which has a newer one (2); " in done.stderr


def test_results_and_their_copies_say_what_is_stale(judged):
    judged.cli("respond", judged.root, "approve", "--approve")
    judged.step_until_over()
    rows = json.loads(judged.cli("results", judged.root, "--json").stdout)
    assert {row["task"] for row in rows if row.get("stale")} == {"approve", "check"}
    assert "approve: stale: made from attempt 1 of a" in judged.cli("results", judged.root, "--csv").stderr


def test_a_stale_result_is_explained_beside_others(judged):
    judged.cli("respond", judged.root, "approve", "--approve")
    judged.step_until_over()
    assert "approve: COMPLETED: stale: " in judged.cli("explain", judged.root).stdout


def test_paths_of_inputs_are_those_from_where_one_is(judged):
    (waiting,) = json.loads(judged.cli("inbox", judged.root, "--json").stdout)
    path = waiting["summary"].removeprefix("Look at ").removesuffix(".")
    assert os.path.exists(path)


def test_a_rerun_says_that_a_corrected_script_is_not_the_runs(bench):
    (bench.folder / "x.py").write_text("raise SystemExit(1)\n")
    bench.start("files: [x.py]\ntasks: {a: {command: 'python3 ${{ source }}/x.py'}}\n")
    bench.step_until_over()
    (bench.folder / "x.py").write_text("print(1)\n")
    assert (
        "1 file of the campaign folder differs from version 1 (x.py), which the run goes on with"
        in bench.cli("rerun", bench.root, "a").stderr
    )


def test_what_is_blocked_by_a_failure_like_another_needs_no_more_words(bench):
    bench.start(
        "tasks:\n  a: {matrix: {x: [Cu, Ag]}, command: 'echo no >&2; exit 1', outputs: {o: 'o/${{ matrix.x }}'}}\n"
        "  f: {matrix: {x: [Cu, Ag]}, inputs: {o: 'o/${{ matrix.x }}'}, command: 'true'}\n"
    )
    bench.step_until_over()
    assert bench.cli("explain", bench.root).stdout.count("matterstack rerun ") == 1


def test_inside_a_run_root_and_its_folders_commands_know_the_run(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    bench.step_until_over()
    for folder in (bench.root, bench.root / "tasks", bench.attempt("a")):
        assert bench.cli("status", cwd=folder).stdout.startswith("t-")
    for verb in ("respond", "cancel", "rerun"):
        done = bench.cli(verb, "a", *(["--failed"] if verb == "rerun" else []), cwd=bench.root)
        assert "RUN comes first: inside a run root write `. a`" in done.stderr
