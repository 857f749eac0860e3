"""People: a question in files, a typed answer, who and why; and the branches that answers open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from matterstack.care.checks import examine
from matterstack.errors import UsageError
from matterstack.orchestration.actions import cancel, rerun
from matterstack.people.answer import find_question, respond
from matterstack.people.inbox import inbox
from matterstack.spec.load import load_campaign
from matterstack.views.attempts import attempts
from matterstack.views.results import results
from tests.conftest import MATTERSTACK

GATE = """
operators: {board: {kind: human}}
tasks:
  make: {matrix: {m: [Al, Cu]}, command: "echo ${{ matrix.m }} > out", outputs: {o: {file: out, path: "o/${{ matrix.m }}"}}}
  approve:
    operator: board
    instructions: Keep one of ${{ params.names }}.
    inputs: {files: "o/*"}
    response_schema:
      type: object
      required: [metals]
      properties:
        metals: {type: array, items: {enum: [Al, Cu]}, maxItems: 1}
        note: {type: string, default: none}
  yes: {when: '${{ "Al" in response.approve.metals }}', command: "echo ${{ response.approve.metals }} ${{ response.approve.note }} > y", outputs: {y: y}}
  no: {when: '${{ not ("Al" in response.approve.metals) }}', command: "echo no > n", outputs: {n: n}}
  join: {inputs: {a: y, b: n}, allow_skipped: true, command: "echo ${{ task.id }} > j", outputs: {j: j}}
params: {names: [Al, Cu]}
"""


def ask(bench, text=GATE):
    bench.start(text)
    bench.step_until(lambda: "WAITING" in bench.states().values())


def answer(bench, content, task="approve", number=1, age_s=0.0, name="response.json"):
    path = bench.attempt(task, number) / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    if age_s:
        os.utime(path, (time.time() - age_s,) * 2)
    return path


# --- asking and answering -------------------------------------------------------------------------------------------


def test_a_question_is_files_that_say_what_on_what_and_how(bench):
    ask(bench)
    text = (bench.attempt("approve") / "instructions.md").read_text()
    schema = json.loads((bench.attempt("approve") / "response_schema.json").read_text())

    assert "Keep one of Al, Cu." in text
    for name in ("Al", "Cu"):
        path = f"../../../tasks/make/{name}/attempt-1/out"
        assert f"](<{path}>)" in text and (bench.attempt("approve") / path).exists()
    assert schema["required"] == ["metals"]
    assert bench.step().state == "WAITING"


def test_an_answer_completes_the_task_is_its_output_and_opens_its_branch(bench):
    ask(bench)
    respond(
        find_question(bench.root, "approve"), data={"metals": ["Al"], "note": "nice"}, by="ada", comment="looks good"
    )

    assert bench.step_until_over().state == "COMPLETED"

    assert bench.states() == {
        "make/Al": "COMPLETED", "make/Cu": "COMPLETED", "approve": "COMPLETED", "yes": "COMPLETED", "no": "SKIPPED",
        "join": "COMPLETED",
    }  # fmt: skip
    assert bench.reasons()["no"] == 'when: ${{ not ("Al" in response.approve.metals) }} is false'
    assert (bench.root / "results" / "y").read_text() == "Al nice\n"
    published = json.loads((bench.root / "results" / "responses" / "approve.json").read_text())
    assert (published["by"], published["comment"], published["status"]) == ("ada", "looks good", "COMPLETED")
    rows = {row["task"]: row for row in results(bench.root)}
    assert rows["approve"]["response"] == {"metals": ["Al"], "note": "nice"}
    recorded = attempts(bench.root, "approve")[1][0]["response"]
    assert (recorded["by"], recorded["comment"], recorded["data"]["metals"]) == ("ada", "looks good", ["Al"])
    assert examine(bench.root, digests=True) == []


def test_a_rejection_fails_for_good_and_blocks_what_is_below(bench):
    ask(bench)
    respond(find_question(bench.root, "approve"), data={}, by="ada", comment="too noisy", reject=True)

    assert bench.step_until_over().state == "FAILED"

    assert bench.states()["yes"] == bench.states()["join"] == "BLOCKED"
    assert bench.reasons()["approve"] == "attempt 1: rejected by ada: too noisy"
    assert attempts(bench.root, "approve")[1][0]["class"] == "rejected"
    assert "too noisy" in bench.reasons()["join"]


def test_a_later_answer_never_overwrites_an_earlier_one(bench):
    ask(bench)
    question = find_question(bench.root, "approve")
    first = respond(question, data={"metals": ["Al"]}, by="ada").read_bytes()

    done = bench.cli("respond", bench.root, "approve", "--data", "metals=Cu")

    assert done.returncode == 2
    assert done.stderr.startswith("error: approve is already answered by ada, in ")
    with pytest.raises(UsageError, match="already answered by ada"):
        respond(question, data={"metals": ["Cu"]}, by="bob")
    assert question.answer_path.read_bytes() == first
    bench.step_until_over()
    done = bench.cli("respond", bench.root, "approve", "--data", "metals=Cu")
    assert "approve is COMPLETED: it was answered by ada at " in done.stderr


def test_of_many_answers_at_once_one_is_taken(bench):
    ask(bench)
    words = [[*MATTERSTACK, "respond", bench.root, "approve", "--data", "metals=Al", "--by", f"p{i}"] for i in range(6)]
    running = [subprocess.Popen(item, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for item in words]
    codes = sorted(process.wait() for process in running)
    for process in running:
        process.communicate()

    assert codes == [0, 2, 2, 2, 2, 2]
    assert bench.step_until_over().state == "COMPLETED"


def test_only_named_responders_may_answer(bench):
    ask(bench, "operators: {b: {kind: human}}\ntasks: {a: {operator: b, instructions: x, responders: [ada]}}\n")
    done = bench.cli("respond", bench.root, "a", "--approve", "--by", "bob")
    assert (done.returncode, done.stderr) == (2, "error: bob may not answer a; ada may (--by says who you are)\n")
    answer(bench, {"status": "COMPLETED", "by": "bob"}, "a")

    bench.step()

    assert attempts(bench.root, "a")[1][0]["reason"] == "bob may not answer; ada may"
    assert bench.cli("respond", bench.root, "a", "--approve", "--by", "ada").returncode == 0
    assert bench.step().state == "COMPLETED"


def test_who_and_when_are_the_owner_and_time_of_a_file_that_does_not_say(bench):
    ask(bench)
    path = answer(bench, {"status": "COMPLETED", "data": {"metals": []}}, age_s=100)
    bench.step()
    recorded = attempts(bench.root, "approve")[1][0]
    assert recorded["response"]["by"] == path.owner()
    assert recorded["ended_at"][:19] == recorded["response"]["at"][:19]


# --- answers that are none ------------------------------------------------------------------------------------------

BAD = {
    "whole, and not by the schema": (b'{"status": "COMPLETED", "data": {"metals": ["Pt"]}}', 0, "'Pt' is not one of"),
    "without a status": (b'{"data": {}}', 0, "`status` is missing"),
    "of another status": (b'{"status": "MAYBE"}', 0, '`status` is "MAYBE"'),
    "a list": (b"[]", 0, "is a list, not an object"),
    "of another attempt": (b'{"status": "COMPLETED", "attempt": 7}', 0, "is of attempt 7, not of this one"),
    "half-written, and left": (b'{"status": "COMPL', 9, "is not JSON"),
    "empty, and left": (b"", 9, "is empty"),
    "no UTF-8": (b'{"status": "\xff\xfe"}', 9, "is not UTF-8"),
    "a lone surrogate": (b'{"status": "COMPLETED", "data": "\\ud800"}', 9, "is not UTF-8"),
    "huge": (b'{"status": "' + b"x" * (1 << 20) + b'"}', 9, "is larger than 1048576 bytes"),
    "deep": (b'{"a":' * 100 + b"1" + b"}" * 100, 9, "is nested deeper than 50 levels"),
    "very deep": (b"[" * 100_000, 9, "is nested too deeply"),
    "not a number": (b'{"status": "COMPLETED", "data": {"metals": NaN}}', 9, "NaN is not a number in JSON"),
    "beyond numbers": (b'{"status": "COMPLETED", "data": {"x": 1e999}}', 9, "too large for a number"),
    "with control characters": (b'{"status": "FAILED\\u001b[2J\\u0007"}', 0, "`status` is"),
    "by a list": (b'{"status": "COMPLETED", "by": ["a"]}', 0, "`by` must be a text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_ends_its_attempt_is_kept_and_the_task_asks_again_without_a_retry(bench, name):
    content, age_s, reason = BAD[name]
    ask(bench)
    path = answer(bench, content, age_s=age_s)

    bench.step()

    first = attempts(bench.root, "approve")[1][0]
    assert (first["state"], first["class"]) == ("FAILED", "bad_response")
    assert reason in first["reason"]
    assert first["reason"].isprintable()
    assert path.read_bytes() == content
    assert bench.states()["approve"] == "WAITING"
    respond(find_question(bench.root, "approve"), data={"metals": ["Cu"]}, by="ada")
    assert bench.step_until_over().state == "COMPLETED"
    assert len(attempts(bench.root, "approve")[1]) == 2
    assert bench.states()["yes"] == "SKIPPED"


@pytest.mark.parametrize("content", [b"", b'{"status": "COMPL', b"\xff"])
def test_a_file_that_is_still_being_written_is_waited_for(bench, content):
    ask(bench)
    answer(bench, content)

    bench.step()

    assert bench.states()["approve"] == "WAITING"
    answer(bench, {"status": "COMPLETED", "data": {"metals": []}})
    assert bench.step_until_over().state == "COMPLETED"


@pytest.mark.parametrize("kind", ["a link out of the run root", "a link to nowhere", "a folder", "a pipe"])
def test_what_is_no_file_is_no_answer_and_harms_nothing(bench, kind):
    ask(bench)
    path, outside = bench.attempt("approve") / "response.json", bench.folder / "outside.json"
    outside.write_text('{"status": "COMPLETED", "data": {"metals": []}}')
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(outside if "out of" in kind else "nowhere")
    os.utime(path, (time.time() - 9,) * 2, follow_symlinks=False)

    bench.step()

    assert attempts(bench.root, "approve")[1][0]["class"] == "bad_response"
    assert bench.states()["approve"] == "WAITING"


def test_one_bad_answer_does_not_keep_the_step_from_the_others(bench):
    tasks = "{matrix: {i: [1, 2, 3]}, operator: b, instructions: x}"
    bench.start(f"operators: {{b: {{kind: human}}}}\ntasks: {{a: {tasks}}}\n")
    bench.step()
    answer(bench, b"[" * 100_000, "a/1", age_s=9)
    answer(bench, {"status": "COMPLETED"}, "a/2")
    (bench.attempt("a/3") / "task.json").unlink()

    bench.step()

    assert bench.states() == {"a/1": "WAITING", "a/2": "COMPLETED", "a/3": "WAITING"}
    assert "task.json is gone" in bench.reasons()["a/3"]


# --- deadlines ------------------------------------------------------------------------------------------------------


def with_deadline(more):
    return (
        "operators: {b: {kind: human}}\ntasks:\n"
        f"  a: {{operator: b, instructions: x, deadline: 0.4s, {more}}}\n  c: {{needs: [a], command: 'true'}}\n"
    )


def test_a_deadline_fails_the_task_with_a_class_of_its_own(bench):
    ask(bench, with_deadline("on_deadline: fail"))
    time.sleep(0.5)
    assert bench.step().state == "FAILED"
    assert attempts(bench.root, "a")[1][0]["class"] == "deadline"
    assert bench.states() == {"a": "FAILED", "c": "BLOCKED"}


def test_a_deadline_takes_the_default_answer_and_says_so(bench):
    ask(bench, with_deadline("on_deadline: default, default: {go: true}"))
    time.sleep(0.5)
    assert bench.step_until_over().state == "COMPLETED"
    recorded = attempts(bench.root, "a")[1][0]["response"]
    assert (recorded["by"], recorded["data"]) == ("deadline", {"go": True})
    assert json.loads((bench.root / "results/responses/a.json").read_text())["data"] == {"go": True}
    assert examine(bench.root, digests=True) == []


def test_a_deadline_that_only_reminds_marks_the_task_overdue_and_takes_a_late_answer(bench):
    ask(bench, with_deadline("on_deadline: remind"))
    time.sleep(0.5)
    bench.step()
    assert "overdue since" in bench.reasons()["a"]
    before = bench.digest()
    bench.step()
    assert bench.digest() == before
    (item,) = inbox([bench.root])
    assert item.overdue
    answer(bench, {"status": "COMPLETED"}, "a")
    assert bench.step_until_over().state == "COMPLETED"


def test_an_answer_that_is_there_when_the_step_looks_counts_before_the_deadline(bench):
    ask(bench, with_deadline("on_deadline: default, default: {go: true}"))
    answer(bench, {"status": "COMPLETED", "data": {"go": False}, "by": "ada"}, "a")
    time.sleep(0.5)
    bench.step()
    assert attempts(bench.root, "a")[1][0]["response"]["by"] == "ada"


# --- branches -------------------------------------------------------------------------------------------------------


def test_in_a_matrix_an_answer_and_a_metric_are_those_of_the_instance_of_equal_axis_values(bench):
    bench.start("""
operators: {b: {kind: human}}
tasks:
  fit: {matrix: {m: [Al, Cu]}, command: 'echo "{\\"n\\": \\"of ${{ raw(matrix.m) }}\\"}" > metrics.json'}
  ok: {matrix: {m: [Al, Cu]}, operator: b, instructions: x, needs: ["fit/${{ matrix.m }}"]}
  go: {matrix: {m: [Al, Cu], k: [1, 2]}, when: '${{ response.ok.go }}', command: 'echo ${{ metrics.fit.n }} ${{ response.ok.n }} > f', outputs: {f: {file: f, path: "f/${{ task.label }}"}}}
  all: {inputs: {f: "f/*"}, command: 'cat ${{ inputs.f }} > all', outputs: {all: all}}
""")
    bench.step_until(lambda: list(bench.states().values()).count("WAITING") == 2)
    answer(bench, {"status": "COMPLETED", "data": {"go": True, "n": 7}}, "ok/Al")
    answer(bench, {"status": "COMPLETED", "data": {"go": False}}, "ok/Cu")

    assert bench.step_until_over().state == "COMPLETED"

    assert {k: v for k, v in bench.states().items() if k.startswith("go")} == {
        "go/Al-1": "COMPLETED", "go/Al-2": "COMPLETED", "go/Cu-1": "SKIPPED", "go/Cu-2": "SKIPPED",
    }  # fmt: skip
    assert (bench.root / "results" / "all").read_text() == "of Al 7\nof Al 7\n"


def test_a_condition_that_is_false_wins_over_a_failed_input_whichever_comes_first(bench):
    bench.start("""
operators: {b: {kind: human}}
tasks:
  ok: {operator: b, instructions: x}
  bad: {command: "false"}
  no: {needs: [bad], when: '${{ response.ok.go }}', command: 'true'}
  static: {needs: [bad], when: '${{ params.n > 1 }}', command: 'true'}
  below: {needs: [no], command: 'true'}
params: {n: 1}
""")
    bench.step_until(lambda: bench.states()["bad"] == "FAILED")
    assert (bench.states()["no"], bench.states()["static"]) == ("PENDING", "SKIPPED")
    answer(bench, {"status": "COMPLETED", "data": {"go": False}}, "ok")
    bench.step()
    assert (bench.states()["no"], bench.states()["below"]) == ("SKIPPED", "SKIPPED")
    rerun(bench.root, ["ok"])
    bench.step()
    answer(bench, {"status": "COMPLETED", "data": {"go": True}}, "ok", 2)
    bench.step()
    assert (bench.states()["no"], bench.states()["below"]) == ("BLOCKED", "BLOCKED")


def test_a_condition_that_cannot_be_evaluated_fails_its_task_in_words(bench):
    ask(
        bench,
        "operators: {b: {kind: human}}\ntasks: {a: {operator: b, instructions: x}, c: {when: '${{ response.a.go }}', command: 'true'}}\n",
    )
    answer(bench, {"status": "COMPLETED", "data": {"og": 1}}, "a")
    assert bench.step_until_over().state == "FAILED"
    assert bench.reasons()["c"] == "attempt 1: when: 'go' is not in response.a; it has og"


def test_the_answer_of_a_skipped_task_is_null(bench):
    ask(bench, """
operators: {b: {kind: human}}
tasks:
  a: {operator: b, instructions: x}
  c: {operator: b, instructions: x, when: '${{ response.a.go }}'}
  d: {when: '${{ response.c.go == null }}', allow_skipped: true, command: 'echo d >> WITNESS'}
  e: {when: '${{ response.c.go != null }}', allow_skipped: true, command: 'echo e >> WITNESS'}
""")  # fmt: skip
    answer(bench, {"status": "COMPLETED", "data": {"go": False}}, "a")
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["d"]


def test_answers_and_metrics_decide_resources_retries_and_deadlines(bench):
    bench.start("""
operators: {b: {kind: human}, local: {kind: local, slots: {cpus: 8}}}
tasks:
  probe: {command: 'echo "{\\"cpus\\": 3, \\"again\\": 1}" > metrics.json'}
  work: {command: "test ${{ task.attempt }} -ge 2", resources: {cpus: "${{ metrics.probe.cpus }}"}, retries: "${{ metrics.probe.again }}"}
""")
    assert bench.step_until_over().state == "COMPLETED"
    found = attempts(bench.root, "work")[1]
    assert [item["cpus"] for item in found] == [3, 3]


def test_a_new_answer_makes_what_was_made_from_the_old_one_stale(bench):
    ask(bench)
    respond(find_question(bench.root, "approve"), data={"metals": ["Al"]}, by="ada")
    bench.step_until_over()
    rerun(bench.root, ["approve"])
    bench.step()
    respond(find_question(bench.root, "approve"), data={"metals": ["Al"], "note": "b"}, by="ada")
    bench.step_until_over()
    assert bench.cli("explain", bench.root, "yes").stdout.startswith(
        "yes: COMPLETED: stale: made from attempt 1 of approve, which has a newer one (2)"
    )


def test_inputs_that_changed_after_the_answer_are_reported_by_doctor(bench):
    ask(bench)
    respond(find_question(bench.root, "approve"), data={"metals": ["Al"]}, by="ada")
    bench.step_until_over()
    rerun(bench.root, ["make/Al"])
    bench.step_until_over()

    found = [item for item in examine(bench.root) if item.check == "answers"]

    assert [(item.path, item.message) for item in found] == [
        ("tasks/approve/attempt-1/response.json", "ada answered on attempt 1 of make/Al, which has a newer one (2)")
    ]
    (bench.attempt("make/Cu") / "out").write_text("other\n")
    found = [item.message for item in examine(bench.root) if item.check == "answers"]
    assert found[1] == "ada answered on tasks/make/Cu/attempt-1/out, which has changed since"


# --- cancel, kill, clone --------------------------------------------------------------------------------------------


def test_a_cancelled_question_takes_no_answer(bench):
    ask(bench)
    cancel(bench.root, ["approve"])
    assert bench.states()["approve"] == "CANCELLED"
    done = bench.cli("respond", bench.root, "approve", "--data", "metals=Al")
    assert done.stderr.startswith("error: approve is CANCELLED and asks nothing now")


def test_a_question_whose_hand_over_was_killed_is_finished_and_not_asked_twice(bench):
    bench.start(GATE)
    bench.step_until(lambda: bench.states()["approve"] in ("WAITING",))
    folder = bench.attempt("approve")
    for name in ("instructions.md", "response_schema.json"):
        (folder / name).unlink()
    import sqlite3

    with sqlite3.connect(
        bench.root / "state.sqlite"
    ) as db:  # as a step killed before the outcome was recorded leaves it
        db.execute("UPDATE attempts SET state = 'SUBMITTING', handle = '{}' WHERE task_id = 'approve'")
        db.execute("UPDATE tasks SET state = 'SUBMITTED' WHERE task_id = 'approve'")
    bench.step()
    assert bench.states()["approve"] == "WAITING"
    assert len(attempts(bench.root, "approve")[1]) == 1
    assert (folder / "instructions.md").exists() and (folder / "response_schema.json").exists()


def git(folder, *words):
    words = ("-c", "user.name=a", "-c", "user.email=a@b.c", *words)
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_question_is_answered_in_a_clone_and_the_answer_is_pulled(bench):
    ask(bench)
    git(bench.root, "init", "-qb", "main")
    git(bench.root, "add", "-A")
    git(bench.root, "commit", "-qm", "asked")
    clone = bench.folder / "clone of ä chemist"
    git(bench.folder, "clone", "-q", bench.root, clone)
    (item,) = inbox([clone])
    assert item.task_id == "approve"

    done = bench.cli("respond", clone, "approve", "--data", "metals=Al", "--by", "ada")

    assert done.returncode == 0, done.stderr
    assert bench.cli("step", clone).returncode == 1  # it stays a copy
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "answered")
    git(bench.root, "pull", "-q", "--no-rebase", clone, "main")
    assert bench.step_until_over().state == "COMPLETED"
    assert attempts(bench.root, "approve")[1][0]["response"]["by"] == "ada"
    assert examine(bench.root, digests=True) == []


# --- the terminal ---------------------------------------------------------------------------------------------------


def test_the_inbox_lists_what_waits_the_oldest_first_with_the_command_to_type(bench):
    bench.start(
        "operators: {b: {kind: human}}\ntasks: {a: {operator: b, instructions: 'First?'}, c: {operator: b, description: d, deadline: 2d}}\n"
    )
    bench.step()
    found = json.loads(bench.cli("inbox", "--json").stdout)
    assert [item["task"] for item in found] == ["a", "c"]
    assert found[0]["command"] == "matterstack respond runs/t a"
    assert found[1]["until"] is not None
    text = bench.cli("inbox", cwd=bench.root).stdout
    assert "First?" in text and "matterstack respond . a" in text and ", due " in text
    assert bench.cli("inbox", cwd=bench.folder.parent).returncode == 2
    done = bench.cli("run", bench.root)
    assert done.returncode == 4
    assert "matterstack respond" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "data"),
    [
        (["--approve"], 2, None),  # metals has no default
        (["--approve", "--data", "metals=Al"], 0, {"metals": ["Al"], "note": "none"}),
        (["--data", "metals=[Al]", "--data", "note=12"], 0, {"metals": ["Al"], "note": "12"}),
        (["--data", "metals="], 0, {"metals": [], "note": "none"}),
        (["--data", "metals=Pt"], 2, None),
        (["--data", "metals"], 2, None),
        (["--json", "answer.json"], 0, {"metals": ["Cu"], "note": "none"}),
        (["--json", "nowhere.json"], 2, None),
        (["--json", "broken.json"], 2, None),
        (["--approve", "--reject"], 2, None),
        (["--reject", "--data", "metals=Al"], 2, None),
        ([], 2, None),
    ],
)
def test_respond_takes_an_answer_by_options(bench, words, code, data):
    ask(bench)
    (bench.folder / "answer.json").write_text('{"metals": ["Cu"]}')
    (bench.folder / "broken.json").write_text('{"metals": ')

    done = bench.cli("respond", bench.root, "approve", *words)

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    file = bench.attempt("approve") / "response.json"
    assert file.exists() == (code == 0)
    if data is not None:
        assert json.loads(file.read_text())["data"] == data


def test_respond_asks_field_by_field_until_each_is_right(bench):
    ask(bench, """
operators: {b: {kind: human}}
tasks:
  a:
    operator: b
    instructions: Is it good?
    response_schema:
      type: object
      required: [good, grade, n]
      properties:
        good: {type: boolean}
        grade: {enum: [A, B], default: B}
        n: {type: integer, minimum: 3}
        tags: {type: array, items: {type: string}}
        free: {type: string}
""")  # fmt: skip
    typed = "maybe\nyes\n\n2\nfour\n4\nred, blue\n\n"
    words = [*MATTERSTACK, "respond", str(bench.root), "a"]

    done = subprocess.run(words, input=typed, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    data = json.loads((bench.attempt("a") / "response.json").read_text())["data"]
    assert data == {"good": True, "grade": "B", "n": 4, "tags": ["red", "blue"]}
    assert "2 is less than the minimum of 3" in done.stderr
    assert "Is it good?" in done.stderr


def test_respond_refuses_what_is_no_question_in_words(bench):
    ask(bench)
    assert bench.cli("respond", bench.root, "make/Al").stderr == (
        "error: make/Al is carried out by an operator of kind local, not by a person\n"
    )
    assert "did you mean 'approve'" in bench.cli("respond", bench.root, "aprove").stderr
    assert bench.cli("respond", bench.root, "yes").returncode == 2


def test_terminal_control_characters_in_answers_do_no_harm(bench):
    ask(bench, "operators: {b: {kind: human}}\ntasks: {a: {operator: b, instructions: x}}\n")
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    answer(bench, {"status": "COMPLETED", "by": evil, "comment": evil, "data": {"x": evil, evil: 1}}, "a")
    bench.step()
    for words in (["status"], ["explain"], ["results"], ["attempts"], ["inbox"], ["explain", "a"]):
        task = ["a"] if words == ["attempts"] else words[1:]
        out = bench.cli(words[0], bench.root, *task)
        assert out.returncode == 0
        assert not set("\x1b\x07\u202e") & set(out.stdout + out.stderr), words


def test_respond_imports_no_database_driver_of_ours_twice_and_no_heavy_package():
    code = "import sys; import matterstack.cli.inbox; sys.exit(any(n in sys.modules for n in ('networkx', 'yaml', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_deleted_folder_of_a_question_is_told_and_not_taken_for_an_answer(bench):
    import shutil

    ask(bench)
    shutil.rmtree(bench.attempt("approve"))
    bench.step()
    assert "restore it from git, or rerun the task" in bench.reasons()["approve"]
    rerun(bench.root, ["approve"])
    bench.step()
    assert bench.states()["approve"] == "WAITING"
    assert (bench.attempt("approve", 2) / "instructions.md").exists()
    assert Path(bench.root).exists()


# --- what readers and attackers found -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("human", "response.json", {"status": "COMPLETED", "at": "0001-01-01T00:00:00+14:00"}),
        ("human", "response.json", {"status": "FAILED", "at": "9999-12-31T23:59:59-23:59"}),
        ("manual", "status.json", {"status": "FAILED", "exit_code": 10**30}),
        ("manual", "status.json", {"status": "FAILED", "started_at": "9999-12-31T23:59:59-14:00"}),
        ("manual", "status.json", {"status": "COMPLETED", "ended_at": "0001-01-01T00:00:00+23:59"}),
        ("manual", "status.json", {"status": "COMPLETED", "exit_code": 1}),
        ("human", "response.json", {"status": "COMPLETED", "data": {"x": 10**400}}),
    ],
)
def test_numbers_and_times_that_cannot_be_kept_stop_no_step(bench, kind, name, content):
    command = ", command: 'true'" if kind == "manual" else ", response_schema: {properties: {x: {multipleOf: 0.1}}}"
    bench.start(
        f"operators: {{o: {{kind: {kind}}}}}\n"
        f"tasks: {{a: {{operator: o, instructions: x{command}}}, b: {{operator: o, instructions: x{command}}}}}\n"
    )
    bench.step()
    answer(bench, content, "a", name=name)
    answer(bench, {"status": "COMPLETED"}, "b", name=name)
    assert not [text for text in bench.step().warnings if "cannot be looked at" in text]
    assert bench.states()["b"] == "COMPLETED"
    assert attempts(bench.root, "a")[1][0]["state"] in ("COMPLETED", "FAILED")


def test_a_claim_or_a_request_of_nonsense_does_not_hide_the_other_attempts(bench):
    bench.start("operators: {o: {kind: experiment}}\ntasks: {a: {matrix: {i: [1, 2, 3]}, operator: o}}\n")
    bench.step()
    (bench.attempt("a/1") / "claim").write_text("[" * 60_000 + "\n")
    (bench.attempt("a/2") / "task.json").write_text('{"asked": {}}')
    token = json.loads((bench.attempt("a/3") / "experiment_request.json").read_text())["token"]
    answer(bench, {"status": "COMPLETED", "token": token}, "a/3", name="experiment_result.json")
    answer(bench, {"status": "COMPLETED", "token": "x"}, "a/2", name="experiment_result.json")
    bench.step()
    assert bench.states() == {"a/1": "WAITING", "a/2": "WAITING", "a/3": "COMPLETED"}
    assert bench.cli("doctor", bench.root).returncode in (0, 1)


def test_an_answer_that_is_being_written_at_the_deadline_is_waited_for(bench):
    ask(bench, with_deadline("on_deadline: fail"))
    time.sleep(0.5)
    answer(bench, b'{"status": "COMPL', "a")
    bench.step()
    assert bench.states()["a"] == "WAITING"
    answer(bench, {"status": "COMPLETED"}, "a")
    assert bench.step_until_over().state == "COMPLETED"


@pytest.mark.parametrize(("kind", "value"), [("boolean", False), ("number", 0), ("array", [])])
def test_a_default_that_is_false_or_empty_is_itself(bench, kind, value):
    text = f"on_deadline: default, response_schema: {{type: {kind}}}, default: {json.dumps(value)}"
    ask(bench, with_deadline(text))
    time.sleep(0.5)
    bench.step_until_over()
    assert attempts(bench.root, "a")[1][0]["response"]["data"] == value
    assert {row["task"]: row for row in results(bench.root)}["a"]["response"] == value


def test_a_default_answer_needs_no_responder_even_after_a_kill(bench):
    ask(bench, with_deadline("on_deadline: default, default: {n: 1}, responders: [ada]"))
    asked = json.loads((bench.attempt("a") / "task.json").read_text())["asked"]
    time.sleep(0.5)
    left = {"status": "COMPLETED", "data": {"n": 1}, "error": None, "by": "deadline", "at": asked["deadline_at"],
            "comment": "nobody answered in time; this is the task's default"}  # fmt: skip
    answer(bench, left, "a")  # as a step leaves it that was killed before its commit
    bench.step()
    assert bench.states()["a"] == "COMPLETED"


def test_a_request_whose_deadline_passed_cannot_be_taken_any_more(bench):
    bench.start(
        "operators: {o: {kind: experiment}}\ntasks: {a: {operator: o, deadline: 0.3s}, b: {operator: o, deadline: 0.3s}}\n"
    )
    bench.step()
    (bench.attempt("b") / "claim").write_text('{"by": "robot"}\n')
    time.sleep(0.4)
    bench.step()
    assert '"by": "step"' in (bench.attempt("a") / "claim").read_text()
    assert "token" in json.loads((bench.attempt("b") / "cancel.json").read_text())
    assert {attempts(bench.root, task)[1][0]["class"] for task in "ab"} == {"deadline"}


def test_who_answers_wrongly_is_told_why_gets_no_more_time_and_not_for_ever(bench):
    bench.start(
        "operators: {o: {kind: human}}\ntasks: {a: {operator: o, instructions: x, deadline: 1h, response_schema: {required: [n]}}}\n"
    )
    bench.step()
    first = json.loads((bench.attempt("a") / "task.json").read_text())["asked"]
    for number in range(1, 11):
        answer(bench, {"status": "COMPLETED"}, "a", number)
        bench.step()
        if number == 1:
            again = json.loads((bench.attempt("a", 2) / "task.json").read_text())["asked"]
            assert again["deadline_at"] == first["deadline_at"]
            assert "'n' is a required property" in (bench.attempt("a", 2) / "instructions.md").read_text()
            assert "'n' is a required property" in bench.cli("inbox", bench.root).stdout
    assert bench.reasons()["a"].startswith("10 bad answers in a row, the last: ")
    rerun(bench.root, ["a"])
    bench.step()
    answer(bench, {"status": "COMPLETED"}, "a", 11)
    bench.step()
    assert bench.states()["a"] == "WAITING"


def test_an_answer_does_not_count_among_what_completed_upstream(bench):
    ask(bench, """
operators: {b: {kind: human}}
tasks:
  h: {operator: b, instructions: x}
  up: {matrix: {i: [1, 2, 3]}, command: "test ${{ matrix.i }} != 3; echo > u", outputs: {u: {file: u, path: "u/${{ matrix.i }}"}}}
  sum: {inputs: {u: "u/*"}, allow_dependency_failure: {min: 3}, command: "echo ${{ response.h.n }} ${{ inputs.u }}"}
""")  # fmt: skip
    answer(bench, {"status": "COMPLETED", "data": {"n": 1}}, "h")
    bench.step_until_over()
    assert bench.states()["sum"] == "BLOCKED"


def test_a_paused_run_in_which_only_people_wait_lets_the_loop_end(bench):
    ask(bench)
    bench.cli("pause", bench.root)
    assert bench.cli("run", bench.root, timeout=20).returncode == 4


def test_a_damaged_run_does_not_hide_the_inbox_of_the_others(bench):
    ask(bench)
    bench.cli("init", bench.folder / "campaign.yaml", "--root", bench.folder / "runs" / "u")
    (bench.folder / "runs" / "u" / "state.sqlite").write_text("garbage")
    done = bench.cli("inbox")
    assert done.returncode == 0 and "approve" in done.stdout and "damaged" in done.stderr


def test_an_answer_typed_while_the_question_ended_is_refused(bench):
    ask(bench)
    question = find_question(bench.root, "approve")
    cancel(bench.root, ["approve"])
    with pytest.raises(UsageError, match="approve is CANCELLED and asks nothing now"):
        respond(question, data={"metals": []}, by="ada")
    assert not question.answer_path.exists()


def test_a_persons_answer_can_be_an_input(bench):
    file = bench.write(
        "operators: {h: {kind: human}}\ntasks: {a: {operator: h, instructions: x}, b: {inputs: {r: responses/a.json}, command: 'cat ${{ inputs.r }}'}}\n"
    )
    assert [(e.upstream, i.task_id) for i in load_campaign(file).instances for e in i.edges] == [("a", "b")]
