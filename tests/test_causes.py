"""The cause of a failure is shown where it is available (issue 14.3)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from matterstack.spec.load import load_campaign
from matterstack.views.attempts import attempts
from matterstack.views.explain import explain
from matterstack.views.failures import alike, failure_groups

HEAD = "matterstack: 1\nname: t\n"


def cause(bench, command, shell="bash", setup=""):
    text = json.dumps(command)
    bench.start(f"tasks: {{a: {{shell: {shell}, command: {text}{setup}}}}}\n")
    bench.step_until_over()
    return explain(bench.root, ["a"])[0].cause


# --- where a shell ended ---------------------------------------------------------------------------------------------

STRICT = {
    "a line": ("true\ngrep -c ERROR /etc/hostname > n.txt; cat n.txt", "command.sh: line 4: grep -c ERROR /etc/hostname > n.txt: exit code 1"),
    "an arithmetic command": ("n=0; ((n++)); echo $n", "command.sh: line 3: ((n++)): exit code 1"),
    "a part of a pipe": (
        "seq 1 2000000 | head -n 10 > first.txt",
        "command.sh: line 3: … | head -n 10 > first.txt: exit code 141 (parts of the pipe: 141 0)",
    ),
    "within a function": ("f() {\n  false\n}\nf", "command.sh: line 4: false: exit code 1"),
    "several lines": ("cat <<'END' |\nx\nEND\ngrep y", "command.sh: line 6: … | grep y: exit code 1 (parts of the pipe: 0 1)"),
    "with stderr closed": ("exec 2>&-\nfalse", "command.sh: line 4: false: exit code 1"),
    "with stderr elsewhere": ("{ false; } 2> /dev/null", "command.sh: line 3: false: exit code 1"),
    "after cd": ("cd /\nfalse", "command.sh: line 4: false: exit code 1"),
}  # fmt: skip


@pytest.mark.parametrize(("command", "where"), STRICT.values(), ids=STRICT)
def test_a_strict_bash_says_at_which_line_it_ended(bench, command, where):
    assert cause(bench, command).where == where


SILENT = {
    "a failure that is asked for": "false || true",
    "a condition": "if ! false; then true; fi",
    "a command substitution that goes on": "x=$(false; true); echo $x",
    "without -e for a moment": "set +e\nfalse\nset -e",
}


@pytest.mark.parametrize("command", SILENT.values(), ids=SILENT)
def test_where_a_shell_goes_on_nothing_is_said(bench, command):
    bench.start(f"tasks: {{a: {{command: {json.dumps(command)}}}}}\n")
    assert bench.step_until_over().state == "COMPLETED"
    assert not (bench.attempt("a") / "stderr.log").exists()


def test_setup_that_fails_says_so_with_the_file_that_it_sources(bench):
    (bench.folder / "activate.sh").write_text("true\nfalse\n")
    bench.start("files: [activate.sh]\ntasks: {a: {command: 'true', setup: ['. ${{ source }}/activate.sh']}}\n")
    bench.step_until_over()
    assert explain(bench.root, ["a"])[0].cause.where.startswith("activate.sh: line 2: false: exit code 1")


def test_a_plain_sh_tells_its_exit_code(bench):
    assert cause(bench, "true\nfalse\ntrue", "sh").where.startswith("command.sh: ")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_sh_that_is_bash_tells_the_line(bench, monkeypatch):
    programs = bench.folder / "bin"
    programs.mkdir()
    (programs / "sh").symlink_to(shutil.which("bash"))
    bench.write('tasks: {a: {shell: sh, command: "true\\nfalse"}}\n')
    bench.cli("run", "-q", "campaign.yaml", env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    assert explain(bench.root, ["a"])[0].cause.where == "command.sh: line 4: false: exit code 1"


def test_a_command_keeps_the_shell_that_it_had(bench, monkeypatch):
    """Its own traps, `BASH_ENV` of the user, arguments, options and exit code are what they were."""
    given = bench.folder / "mine.sh"
    given.write_text("mine=read\n")
    monkeypatch.setenv("BASH_ENV", str(given))
    bench.start(
        'tasks: {a: {command: \'trap "echo bye" EXIT; echo $0 $# $mine $BASH_ENV; bash -c "echo inner \\$mine"; exit 3\'}}\n'
    )
    bench.step_until_over()
    printed = (bench.attempt("a") / "stdout.log").read_text().splitlines()
    assert printed == [f"command.sh 0 read {given}", "inner read", "bye"]
    assert attempts(bench.root, "a")[1][0]["exit_code"] == 3


def test_a_parcel_says_it_too(bench):
    bench.start(
        'operators: {c: {kind: manual}}\ntasks: {a: {operator: c, command: "true\\nfalse", resources: {cpus: 3}}}\n'
    )
    bench.step()
    bench.cli("parcel", "export", bench.root, "-o", "w.tar")
    subprocess.run(["tar", "xf", "w.tar"], cwd=bench.folder, check=True)
    (home,) = (path.parent for path in bench.folder.glob("*/run.sh"))
    env = {**os.environ, "OMP_NUM_THREADS": "64"}
    subprocess.run(["sh", "run.sh"], cwd=home, capture_output=True, env=env)
    assert (
        home / "tasks/a/attempt-1/stderr.log"
    ).read_text() == "matterstack: command.sh: line 4: false: exit code 1\n"


# --- what it printed -------------------------------------------------------------------------------------------------


def test_where_stderr_says_nothing_the_end_of_stdout_is_shown(bench):
    found = cause(bench, "echo starts; echo ' ERROR: negative eigenvalue in step 3'; exit 7")
    assert (found.lines, found.path) == (
        ("starts", "ERROR: negative eigenvalue in step 3"),
        "tasks/a/attempt-1/stdout.log",
    )
    shown = bench.cli("explain", bench.root).stdout
    assert "    ERROR: negative eigenvalue in step 3\n" in shown


def test_where_stderr_says_something_that_is_shown(bench):
    found = cause(bench, "echo out; echo KeyError >&2; false")
    assert (found.line, found.path) == ("KeyError", "tasks/a/attempt-1/stderr.log")


def test_a_script_with_windows_line_ends_is_named_by_validate_and_by_the_failure(bench):
    (bench.folder / "run.py").write_bytes(b"#!/usr/bin/env python3\r\nprint(1)\r\n")
    (bench.folder / "run.py").chmod(0o755)
    bench.write("files: [run.py]\ntasks: {a: {command: '${{ source }}/run.py'}}\n")
    assert (
        "files: run.py has Windows line ends: sed -i 's/\\r$//' run.py\n"
        in bench.cli("validate", "campaign.yaml").stderr
    )
    bench.cli("run", "-q", "campaign.yaml")
    (remark,) = explain(bench.root)[0].cause.remarks
    assert remark.startswith("run.py has Windows line ends")


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_valid_metrics_are_kept_and_each_invalid_one_is_told_where_it_matters(bench):
    values = '{\\"energy\\": -3.7, \\"forces\\": [1, 2], \\"gap\\": NaN}'
    bench.start(
        f"tasks:\n  a: {{command: \"echo '{values}' > metrics.json\"}}\n"
        "  good: {command: 'echo ${{ metrics.a.energy }}'}\n  bad: {command: 'echo ${{ metrics.a.forces }}'}\n"
    )
    bench.step_until_over()

    (row,) = json.loads(bench.cli("results", bench.root, "--task", "a", "--json").stdout)
    assert row["metrics"] == {"energy": -3.7}
    words = "metrics.json: 'forces' is a list, not a single value, 'gap' is not a number"
    assert row["remark"] == words
    assert f"a: {words}\n" in bench.cli("results", bench.root).stderr
    assert words in {item.task_id: item.reason for item in explain(bench.root)}["a"]
    assert (bench.attempt("good") / "stdout.log").read_text() == "-3.7\n"
    assert (
        f"'forces' is not in metrics.a; it has energy; of a, {words}" in bench.reasons()["bad"]
        or words in bench.reasons()["bad"]
    )


# --- nulls -----------------------------------------------------------------------------------------------------------

NULL = """tasks:
  f: {command: "echo no potential >&2; exit 1", allow_failure: true, outputs: {o: ff}}
  g: {inputs: {o: ff}, allow_dependency_failure: true, command: "cat ${{ inputs.o }}"}
"""


def test_a_null_of_a_failed_input_is_told_before_and_names_the_cause_and_the_ways_out_after(bench):
    warned = bench.cli("validate", bench.write(NULL)).stderr
    assert (
        "tasks.g.command: inputs.o is null if f fails, and the command cannot be made then: take it as a list (`ff*`)"
        in warned
    )
    bench.cli("run", "-q", "campaign.yaml")
    said = bench.reasons()["g"]
    assert "inputs.o is null, since f is FAILED (attempt 1 of 1: exit code 1): take it as a list (`ff*`)" in said


# --- groups ----------------------------------------------------------------------------------------------------------

MANY = """tasks:
  relax:
    matrix: {i: [1, 2, 3, 4, 5, 6, 7]}
    command: "echo \\"KeyError: 'O' in line ${{ raw(matrix.i) }} of /tmp/x${{ raw(matrix.i) }}\\" >&2; test ${{ matrix.i }} = 3"
  other: {command: "exit 7"}
  below: {needs: [relax], command: "true"}
"""


def test_equal_causes_are_one_entry_with_one_command_that_selects_exactly_these(bench):
    done = bench.cli("run", bench.write(MANY), "--root", "runs/t")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert "  relax/1, relax/2, relax/4 and 3 more: 6 x exit code 1: KeyError: 'O' in line 1 of /tmp/x1" in lines
    assert "      matterstack rerun runs/t --like relax/1" in lines
    assert len([line for line in done.stderr.splitlines() if line.startswith("relax/")]) == 1

    groups = failure_groups(bench.root)
    assert [len(group.tasks) for group in groups] == [6, 1]
    assert "relax/3" not in groups[0].tasks
    explained = bench.cli("explain", "runs/t").stdout.splitlines()
    assert explained[:2] == [
        "relax/1 and 5 more: FAILED: attempt 1 of 1: exit code 1",
        "    also relax/2, relax/4, relax/5, relax/6, relax/7",
    ]
    assert "    runs/t/tasks/relax/1/attempt-1/stderr.log" in explained  # from where the user is
    assert re.fullmatch(r"below: BLOCKED: relax/\d failed, attempt 1 of 1: exit code 1", explained[-1])  # the first to
    assert "6 x exit code 1" in bench.cli("status", "runs/t").stdout


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("step 3 at 0x7ffe", "step 14 at 0x7a", True),
        ("/scratch/a/b.out: no such file", "/scratch/c/d.out: no such file", True),
        ("energy -1.5e-3 too low", "energy 22.25 too low", True),
        ("KeyError: 'O'", "KeyError: 'H'", False),
    ],
)
def test_failures_are_alike_but_for_numbers_paths_and_hex(one, other, same):
    assert (alike(one) == alike(other)) is same


# --- a command does what it does without us ----------------------------------------------------------------------

SAME = {
    "a trap for ERR of its own": "set +e; trap 'echo TRAP' ERR; f() { false; true; }; f; echo end",
    "traps for RETURN, DEBUG and EXIT": "f() { trap 'echo RET' RETURN; }; f; trap 'echo D' DEBUG; :; trap - DEBUG; trap 'echo bye' EXIT",
    "unset variables": "set -u; unset MATTERSTACK_RUN MATTERSTACK_TASK; (exit 7)",
}


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_command_may_unset_what_it_was_given_and_keeps_its_exit_code(bench, shell):
    bench.start(
        f"tasks: {{a: {{shell: {shell}, command: 'set -u; unset MATTERSTACK_RUN MATTERSTACK_TASK; (exit 7)'}}}}\n"
    )
    bench.step_until_over()
    (attempt,) = attempts(bench.root, "a")[1]
    assert attempt["exit_code"] == 7


@pytest.mark.parametrize("command", SAME.values(), ids=SAME)
def test_a_command_does_what_it_does_by_hand(bench, command):
    bench.start(f"tasks: {{a: {{command: {json.dumps(command)}}}}}\n")
    bench.step_until_over()
    by_hand = subprocess.run(["bash", "-eo", "pipefail", "-c", command], capture_output=True, text=True)
    (attempt,) = attempts(bench.root, "a")[1]
    assert attempt["exit_code"] == by_hand.returncode
    stdout = bench.attempt("a") / "stdout.log"
    assert (stdout.read_text() if stdout.exists() else "") == by_hand.stdout


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("name", ["benv", "$HOME/benv"])
def test_the_users_own_bash_env_is_read_and_passed_on(bench, shell, name, monkeypatch):
    """As on clusters, where it makes `module` known; `sh` may be bash."""
    (bench.folder / "bin").mkdir()
    (bench.folder / "bin/sh").symlink_to(shutil.which("bash"))
    (bench.folder / "benv").write_text("module() { echo loaded; }\n")
    monkeypatch.setenv("HOME", str(bench.folder))
    monkeypatch.setenv("BASH_ENV", name if "$" in name else str(bench.folder / name))
    monkeypatch.setenv("PATH", f"{bench.folder}/bin:{os.environ['PATH']}")
    module = "module; " if shell == "bash" else ""  # as `sh` it does not read the file
    bench.start(f"tasks: {{a: {{shell: {shell}, command: '{module}bash -c module'}}}}\n")
    assert bench.step_until_over().state == "COMPLETED", bench.reasons()


# --- what people bring from elsewhere --------------------------------------------------------------------------------

HABITS = {
    "a #! in a command": ("{command: \"#!/usr/bin/env python\\nprint(1)\\n\"}", "the line #!/usr/bin/env python has no effect, the command runs in bash"),
    "cd before a relative template": ("{command: 'cd /tmp; ls ${{ outputs.o }}', outputs: {o: o.txt}}", "${{ outputs.o }} is relative to the working folder, which `cd /tmp` leaves"),
    "a no-break space": ("{command: \"ls -l\\u00a0/tmp\"}", "holds a no-break space (U+00A0) in its line 1"),
    "a long dash": ("{command: \"ls \\u2013l\"}", "begins with a long dash (U+2013)"),
    "text compared with a number": ("{matrix: {x: [a, b]}, when: '${{ matrix.x == 5 }}', command: x}", "matrix.x is text in every instance ('a', 'b'), which is never equal to the number 5"),
    "a decimal comma": ("{matrix: {table: comma.tsv}, command: x}", "column 'x' holds '0,95', which is text: decimals are written with a point"),
    "a script without ${{ source }}": ("{command: 'python fit.py'}", "fit.py is a file of the campaign folder, where the command does not run"),
}  # fmt: skip
FINE = {
    "cd within parentheses": "{command: '(cd /tmp; ls) && ls ${{ outputs.o }}', outputs: {o: o.txt}}",
    "cd and back": "{command: 'cd /tmp; ls; cd -; ls ${{ outputs.o }}', outputs: {o: o.txt}}",
    "a number compared with a number": "{matrix: {x: [1, b]}, when: '${{ matrix.x == 5 }}', command: x}",
    "a text compared with a text": "{matrix: {x: [a, b]}, when: '${{ matrix.x == \"a\" }}', command: x}",
}


def warnings(tmp_path: Path, task: str) -> list[str]:
    (tmp_path / "comma.tsv").write_text("id\tx\na\t0,95\nb\t1,05\n")
    (tmp_path / "fit.py").write_text("print(1)\n")
    (tmp_path / "c.yaml").write_text(f"{HEAD}tasks: {{a: {task}}}\n")
    return [problem.message for problem in load_campaign(tmp_path / "c.yaml").warnings]


@pytest.mark.parametrize(("task", "words"), HABITS.values(), ids=HABITS)
def test_a_habit_from_elsewhere_is_a_warning(tmp_path, task, words):
    assert any(words in message for message in warnings(tmp_path, task))


@pytest.mark.parametrize("task", FINE.values(), ids=FINE)
def test_what_works_is_no_warning(tmp_path, task):
    assert warnings(tmp_path, task) == []


@pytest.mark.parametrize(("text", "sign"), [("id;x\na;1\n", "';'"), ("id\tx\na\t1\n", "a tab"), ("id|x\na|1\n", "'|'")])
def test_a_table_with_other_separators_is_refused_with_the_way_out(bench, text, sign):
    (bench.folder / "t.csv").write_text(text)
    done = bench.cli("validate", bench.write("tasks: {a: {matrix: {table: t.csv}, command: x}}\n"))
    assert (
        f"t.csv:1:1: has one column, '{text.splitlines()[0]}': its cells are separated by {sign} ("
        in done.stderr.replace("\\t", "\t")
    )


def test_failures_that_name_their_own_instance_are_one_cause(bench):
    bench.start(
        "tasks: {relax: {matrix: {m: [Al, Cu, Ag]}, command: 'echo no potential for ${{ matrix.m }} >&2; exit 1'}}\n"
    )
    bench.step_until_over()
    (group,) = failure_groups(bench.root)
    assert len(group.tasks) == 3


@pytest.mark.parametrize("command", ["'[ -f nothing ] && cp nothing else'", "'exit 5'", "[grep, -q, X, /dev/null]"])
def test_a_failure_without_a_word_says_what_may_be_silent(bench, command):
    bench.start(f"tasks: {{a: {{command: {command}}}}}\n")
    bench.step_until_over()
    (remark,) = explain(bench.root, ["a"])[0].cause.remarks
    assert remark.startswith("it printed nothing: ")


ELSEWHERE = {
    "on stdout, beside a note on stderr": ("echo 'Note: IEEE_UNDERFLOW_FLAG' >&2; echo 'ERROR: eigenvalue'; echo done", "ERROR: eigenvalue"),
    "before a table of times": ("echo 'ERROR: eigenvalue'; for i in 1 2 3 4 5 6 7 8; do echo time $i; done", "ERROR: eigenvalue"),
    "none": ("echo a note >&2; echo '0 errors, no warnings'", "a note"),
    "at the end, where all is said": ("echo 'error: early'; echo KeyError: 1 >&2", "KeyError: 1"),
}  # fmt: skip


@pytest.mark.parametrize(("command", "line"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_the_line_that_speaks_of_an_error_is_the_cause(bench, command, line):
    assert cause(bench, f"{command}; exit 7").line == line
    assert f"exit code 7: {line}\n" in bench.cli("run", bench.root).stdout
    assert line in bench.cli("explain", bench.root).stdout
