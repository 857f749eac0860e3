"""Loops: rounds of the same tasks, until a condition holds."""

from __future__ import annotations

import json
import re

import pytest

from matterstack import open_run
from tests.test_growth import check_rebuilt

LOOP = """
operators: {board: {kind: human}}
files: [start.txt]
tasks:
  prep: {command: 'echo 5 > prep.txt', outputs: {p: prep.txt}}
  learn:
    repeat:
      max: 10
      until: "${{ metrics.train.rmse < 0.2 }}"
      carry:
        model: {first: start.txt, next: model.txt}
        t: {first: 300, next: "${{ metrics.train.rmse }}"}
    tasks:
      propose:
        inputs: {model: "${{ carry.model }}"}
        command: 'cat ${{ inputs.model }}; printf "id,x\\na%s,1\\nb,2\\n" ${{ repeat.round }} > proposals.csv'
        outputs: {table: proposals.csv}
      label:
        matrix: {table: proposals.csv}
        inputs: {p: prep.txt}
        command: 'echo ${{ task.id }} >> WITNESS; echo ${{ matrix.x }} ${{ carry.t }} > ${{ outputs.e }}'
        outputs: {e: "e/${{ matrix.id }}.txt"}
      train:
        inputs: {e: "e/*.txt"}
        command: 'cat ${{ inputs.e }} > model.txt; awk -v n=${{ repeat.round }} -f ${{ source }}/rmse.awk > metrics.json'
        outputs: {model: model.txt}
  report:
    inputs: {m: learn/model.txt, all: "learn/*/e/*.txt"}
    command: 'echo ${{ metrics.learn.train.rmse }} > r; cat ${{ inputs.m }} >> r; echo ${{ inputs.all }} | wc -w >> r'
    outputs: {r: r}
""".replace("files: [start.txt]", "files: [start.txt, rmse.awk]")


@pytest.fixture
def loop(bench):
    (bench.folder / "start.txt").write_text("start\n")
    (bench.folder / "rmse.awk").write_text('BEGIN { printf "{\\"rmse\\": %g}", 1 / n / n }\n')
    return bench


def said(bench, task):
    return json.loads(bench.cli("explain", bench.root, task, "--json").stdout)[0]["reason"]


def rounds(bench, name="learn"):
    return sorted({int(task.split("/")[1]) for task in bench.states() if task.startswith(f"{name}/")})


def test_rounds_follow_each_other_until_the_condition_holds(loop):
    loop.start(LOOP)
    assert loop.step_until_over(60).state == "COMPLETED"
    assert rounds(loop) == [1, 2, 3]
    assert loop.states()["learn/3/label/a3"] == "COMPLETED"
    assert said(loop, "learn") == "round 3 of at most 10 met its condition: train.rmse 0.111111"
    assert (loop.attempt("learn/1/propose") / "stdout.log").read_text() == "start\n"
    assert (loop.attempt("learn/2/propose") / "stdout.log").read_text() == "1 300\n2 300\n"
    assert (loop.root / "results/learn/3/model.txt").read_text() == "1 0.25\n2 0.25\n"
    assert (loop.root / "results/learn/model.txt").read_text() == "1 0.25\n2 0.25\n"
    assert sorted(path.name for path in (loop.root / "results/learn/e").iterdir()) == ["a3.txt", "b.txt"]
    assert (loop.root / "results/r").read_text() == "0.111111\n1 0.25\n2 0.25\n6\n"
    assert sorted(loop.witnessed()) == [f"learn/{n}/label/{x}" for n in (1, 2, 3) for x in (f"a{n}", "b")]
    check_rebuilt(loop)


def test_status_and_explain_say_how_far_it_is_and_why_it_goes_on_or_ended(loop):
    loop.start(LOOP)
    assert "learn (at most 10 rounds)" in loop.cli("status", loop.root).stdout
    loop.step_until(lambda: "learn/2/train" in loop.states())
    said = loop.cli("status", loop.root).stdout
    assert "learn (round 2 of at most 10, after the last train.rmse 1)" in said
    assert "learn/" not in said
    explained = loop.cli("explain", loop.root, "learn").stdout
    assert "it goes on, since ${{ metrics.train.rmse < 0.2 }} does not hold yet" in explained
    loop.step_until_over(60)
    assert "met its condition: train.rmse 0.111111" in loop.cli("explain", loop.root, "learn").stdout


def test_the_most_rounds_are_a_success_or_a_failure(loop):
    loop.start(LOOP.replace("max: 10", "max: 2"))
    assert loop.step_until_over(60).state == "COMPLETED"
    assert (
        said(loop, "learn")
        == "2 rounds are done, the most that `max` allows; its condition was not met: train.rmse 0.25"
    )


def test_the_most_rounds_can_be_a_failure(loop):
    loop.start(LOOP.replace("max: 10", "max: 2\n      on_max: fail"))
    assert loop.step_until_over(60).state == "FAILED"
    assert loop.states()["report"] == "BLOCKED"


def test_without_a_condition_all_rounds_are_done(loop):
    loop.start("tasks: {l: {repeat: {max: 3}, tasks: {t: {command: 'echo ${{ repeat.round }} >> WITNESS'}}}}\n")
    assert loop.step_until_over().state == "COMPLETED"
    assert loop.witnessed() == ["1", "2", "3"]
    assert said(loop, "l") == "3 rounds are done, the most that `max` allows"


def test_a_failure_in_a_round_is_one_of_the_loop_and_a_rerun_of_it_goes_on(loop):
    loop.start(
        LOOP.replace(
            "cat ${{ inputs.e }} > model.txt",
            "test ! -e " + str(loop.folder / "bad") + " && cat ${{ inputs.e }} > model.txt",
        )
    )
    (loop.folder / "bad").touch()
    assert loop.step_until_over(60).state == "FAILED"
    assert loop.reasons()["learn"] == "in round 1 learn/1/train failed"
    (loop.folder / "bad").unlink()
    loop.cli("rerun", loop.root, "--failed")
    assert loop.step_until_over(60).state == "COMPLETED"
    assert len(loop.witnessed()) == 6
    check_rebuilt(loop)


def test_a_condition_that_cannot_be_evaluated_fails_the_loop(loop):
    loop.start("tasks: {l: {repeat: {max: 3, until: '${{ metrics.t.none < 1 }}'}, tasks: {t: {command: 'true'}}}}\n")
    loop.step_until_over()
    assert loop.states()["l"] == "FAILED"
    assert "Traceback" not in loop.cli("explain", loop.root).stdout
    assert "none" in loop.reasons()["l"]


def test_rerun_of_a_task_in_a_round_leaves_later_rounds_stale(loop):
    loop.start(
        LOOP.replace(
            "cat ${{ inputs.e }} > model.txt", "cat ${{ inputs.e }} > model.txt; echo ${{ task.attempt }} >> model.txt"
        )
    )
    loop.step_until_over(60)
    loop.cli("rerun", loop.root, "learn/1/train")
    loop.step_until_over(60)
    assert loop.states()["learn"] == "COMPLETED"
    assert rounds(loop) == [1, 2, 3]
    assert "stale  learn/2/propose" in loop.cli("status", loop.root).stdout


def test_rerun_downstream_drops_later_rounds_as_if_they_had_never_been(loop):
    loop.start(LOOP)
    loop.step_until_over(60)
    told = loop.cli("rerun", loop.root, "learn/1/train", "--downstream", "--dry-run").stdout
    assert "2 rounds of learn are dropped (10 tasks); it goes on from round 1" in told
    loop.cli("rerun", loop.root, "learn/1/train", "--downstream")
    assert rounds(loop) == [1]
    assert not list((loop.root / "results/learn/3").rglob("*.txt"))
    assert loop.cli("rerun", loop.root, "--undo").returncode == 2
    check_rebuilt(loop)
    loop.step_until_over(60)
    assert rounds(loop) == [1, 2, 3]
    assert (loop.attempt("learn/2/label/b", 2)).is_dir()  # attempts and numbers are kept
    assert len(loop.witnessed()) == 10
    check_rebuilt(loop)


def test_rerun_of_the_loop_begins_with_round_one(loop):
    loop.start(LOOP)
    loop.step_until_over(60)
    loop.cli("rerun", loop.root, "learn")
    assert rounds(loop) == []
    assert loop.step_until_over(60).state == "COMPLETED"
    assert rounds(loop) == [1, 2, 3]
    check_rebuilt(loop)


def test_rerun_downstream_of_what_a_loop_reads_drops_the_rounds_that_read_it(loop):
    loop.start(LOOP)
    loop.step_until_over(60)
    loop.cli("rerun", loop.root, "prep", "--downstream", "--yes")
    assert rounds(loop) == [1]
    assert loop.states()["learn/1/propose"] == "COMPLETED"
    assert loop.step_until_over(60).state == "COMPLETED"
    assert rounds(loop) == [1, 2, 3]


def test_an_amended_limit_lets_a_loop_that_has_ended_go_on(loop):
    loop.start(LOOP.replace("max: 10", "max: 2"))
    loop.step_until_over(60)
    loop.write(LOOP)
    told = loop.cli("amend", loop.root, "--yes").stdout
    assert re.search(r"learn +1 COMPLETED becomes PENDING \(max\): learn", told), told
    assert "retired" not in told and "new" not in told
    assert loop.step_until_over(60).state == "COMPLETED"
    assert rounds(loop) == [1, 2, 3]
    assert len(loop.witnessed()) == 6  # nothing was computed again
    check_rebuilt(loop)
    assert "nothing" in loop.cli("amend", loop.root).stdout


def test_an_amended_body_makes_settled_rounds_stale_and_holds_from_the_running_one_on(loop):
    loop.start(LOOP)
    loop.step_until(lambda: loop.states().get("learn/1/train") == "COMPLETED")
    loop.cli("pause", loop.root)
    loop.step_until(lambda: "RUNNING" not in loop.states().values())
    loop.write(LOOP.replace("echo ${{ matrix.x }} ${{ carry.t }}", "echo new ${{ matrix.x }} ${{ carry.t }}"))
    told = loop.cli("amend", loop.root, "--yes").stdout
    assert re.search(r"learn/1/label +2 COMPLETED become stale \(command\)", told), told
    loop.cli("resume", loop.root)
    assert loop.step_until_over(60).state == "COMPLETED"
    assert (loop.root / "results/learn/1/e/b.txt").read_text() == "2 300\n"
    assert (loop.root / "results/learn/3/e/b.txt").read_text() == "new 2 0.25\n"
    check_rebuilt(loop)


def test_a_loop_for_each_value_of_an_axis_ends_by_itself(loop):
    loop.start(
        "tasks:\n"
        "  scan:\n"
        "    matrix: {s: [1, 2, 3]}\n"
        "    repeat: {max: 5, until: '${{ repeat.round >= matrix.s }}'}\n"
        "    tasks:\n"
        "      scf: {command: 'echo ${{ matrix.s }} ${{ repeat.round }} > o', outputs: {o: o.txt}}\n".replace(
            "> o'", "> o.txt'"
        )
        + "  all: {inputs: {o: 'scan/*/o.txt'}, command: 'cat ${{ inputs.o }} > all', outputs: {all: all}}\n"
        "  two: {inputs: {o: scan/2/o.txt}, command: 'cat ${{ inputs.o }} > two', outputs: {two: two}}\n"
    )
    assert loop.step_until_over(60).state == "COMPLETED"
    assert (loop.root / "results/all").read_text() == "1 1\n2 2\n3 3\n"
    assert (loop.root / "results/two").read_text() == "2 2\n"
    assert {name for name in loop.states() if name.startswith("scan/3/")} == {f"scan/3/{n}/scf" for n in (1, 2, 3)}
    assert "scan/2 (round 2 of at most 5 met its condition)" in loop.cli("status", loop.root).stdout


def test_a_person_decides_within_a_round(loop):
    loop.start(
        "operators: {board: {kind: human}}\n"
        "tasks:\n"
        "  l:\n"
        "    repeat: {max: 5, until: '${{ response.look.done }}', carry: {t: {first: 1, next: '${{ response.look.t }}'}}}\n"
        "    tasks:\n"
        "      run: {command: 'echo ${{ carry.t }} >> WITNESS; echo x > o', outputs: {o: o}}\n"
        "      look: {operator: board, inputs: {o: o}, instructions: Well?, response_schema: {type: object, required: [done], properties: {done: {type: boolean}, t: {type: number}}}}\n"
        "  after: {command: 'echo ${{ response.l.look.t }} >> WITNESS'}\n"
    )
    loop.step_until(lambda: loop.states().get("l/1/look") == "WAITING")
    loop.cli("respond", loop.root, "l/1/look", "--data", "done=false", "--data", "t=7")
    loop.step_until(lambda: loop.states().get("l/2/look") == "WAITING")
    loop.cli("respond", loop.root, "l/2/look", "--data", "done=true", "--data", "t=9")
    assert loop.step_until_over().state == "COMPLETED"
    assert loop.witnessed() == ["1", "7", "9"]
    assert (loop.root / "results/responses/l/2/look.json").exists()
    check_rebuilt(loop)


def test_run_takes_a_loop_to_its_end(loop):
    loop.write(LOOP)
    done = loop.cli("run", loop.folder / "campaign.yaml", "--root", loop.root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rounds(loop) == [1, 2, 3]
    found = json.loads(loop.cli("results", loop.root, "--json").stdout)
    assert {item["task"] for item in found} >= {"learn/3/train", "report"}


def test_commands_that_mean_one_task_say_what_a_loop_or_an_unknown_group_is(loop):
    file = loop.write(LOOP)
    loop.start(LOOP)
    for words in (
        ("logs", loop.root, "learn"), ("complete", loop.root, "learn", "--why", "x"), ("respond", loop.root, "learn"),
        ("parcel", "export", loop.root, "learn", "-o", loop.folder / "x.tar"), ("validate", file, "--task", "learn"),
        ("explain", file, "learn"),
    ):  # fmt: skip
        done = loop.cli(*words)
        assert done.returncode == 2, done.stderr
        assert re.search(r"'?learn'? is a loop; its tasks are learn/", done.stderr), (words, done.stderr)
    assert "learn/1/propose" in loop.cli("explain", file, "learn/1/propose").stdout
    assert "are not known before the run" in loop.cli("explain", file, "learn/1/label").stderr


def test_only_a_loop_and_what_it_needs(loop):
    loop.write(LOOP + "  other: {command: 'true'}\n")
    done = loop.cli("run", loop.folder / "campaign.yaml", "--root", loop.root, "--only", "learn")
    assert done.returncode in (0, 4), done.stdout + done.stderr
    states = loop.states()
    assert (states["learn"], states["report"], states["other"]) == ("COMPLETED", "READY", "READY")


def test_what_was_made_from_what_is_no_longer_the_last_round_is_stale(loop):
    loop.start(LOOP.replace("max: 10", "max: 2"))
    loop.step_until_over(60)
    loop.write(LOOP)
    loop.cli("amend", loop.root, "--yes")
    loop.step_until_over(60)
    assert "stale  report: was made from round 2 of learn, whose last one is 3" in loop.cli("status", loop.root).stdout
    loop.cli("rerun", loop.root, "--stale", "--yes")
    loop.step_until_over(60)
    assert "stale" not in loop.cli("status", loop.root).stdout
    assert (loop.root / "results/r").read_text().startswith("0.111111\n")


def test_a_loop_that_an_amendment_removes_and_another_brings_back_keeps_its_rounds(loop):
    loop.start(LOOP)
    loop.step_until_over(60)
    loop.write(LOOP[: LOOP.index("  learn:")])
    assert "retired" in loop.cli("amend", loop.root, "--yes").stdout
    assert set(loop.states()) == {"prep"}
    loop.write(LOOP)
    loop.cli("amend", loop.root, "--yes")
    assert loop.step_until_over(60).state == "COMPLETED"
    assert rounds(loop) == [1, 2, 3]
    assert len(loop.witnessed()) == 6  # nothing was computed again
    check_rebuilt(loop)


def test_a_task_that_is_added_to_the_body_is_part_of_the_running_round_and_of_later_ones(loop):
    loop.start(LOOP)
    loop.step_until(lambda: loop.states().get("learn/2/propose") in ("READY", "RUNNING", "SUBMITTED"))
    loop.write(
        LOOP.replace(
            "  report:",
            "      extra: {needs: [train], command: 'echo extra-${{ repeat.round }} >> WITNESS'}\n  report:",
        )
    )
    told = loop.cli("amend", loop.root, "--yes")
    assert told.returncode == 0, told.stderr
    assert loop.step_until_over(60).state == "COMPLETED"
    assert [line for line in loop.witnessed() if line.startswith("extra")] == ["extra-2", "extra-3"]
    assert "learn/1/extra" not in loop.states()
    check_rebuilt(loop)


PLAIN = """
tasks:
  l: {repeat: {max: 2}, tasks: {a: {command: 'echo ${{ repeat.round }} > la', outputs: {la: la}}}}
  e: {inputs: {la: l/la}, command: 'cat ${{ inputs.la }} > e', outputs: {e: e}}
  k: {command: 'true'}
"""


def test_a_loop_can_become_an_ordinary_task_and_the_other_way_round(loop):
    loop.start(PLAIN)
    loop.step_until_over(60)
    ordinary = PLAIN.replace(
        "{repeat: {max: 2}, tasks: {a: {command: 'echo ${{ repeat.round }} > la', outputs: {la: la}}}}",
        "{command: 'mkdir -p l; echo 5 > l/la', outputs: {la: l/la}}",
    )
    for text, wanted in ((ordinary, "5\n"), (PLAIN, "2\n")):
        loop.write(text)
        assert loop.cli("amend", loop.root, "--yes").returncode == 0
        loop.step_until_over(60)
        loop.cli("rerun", loop.root, "--stale", "--yes")
        assert loop.step_until_over(60).state == "COMPLETED"
        assert (loop.root / "results/e").read_text() == wanted
        check_rebuilt(loop)
    assert rounds(loop, "l") == [1, 2]


def test_an_ordinary_task_can_become_a_group_that_a_result_makes(loop):
    text = (
        "tasks:\n  q: {command: 'printf \"id\\na\\nb\\n\" > t.csv', outputs: {t: t.csv}}\n  g: {command: 'echo one'}\n"
    )
    loop.start(text)
    loop.step_until_over()
    loop.write(
        text.replace("g: {command: 'echo one'}", "g: {matrix: {table: t.csv}, command: 'echo ${{ matrix.id }}'}")
    )
    assert loop.cli("amend", loop.root, "--yes").returncode == 0
    assert loop.step_until_over().state == "COMPLETED"
    assert set(loop.states()) == {"q", "g/a", "g/b"}
    check_rebuilt(loop)


def test_a_rerun_downstream_that_is_given_twice_drops_the_rounds_once(loop):
    loop.start(LOOP)
    loop.step_until_over(60)
    for _ in range(2):
        loop.cli("rerun", loop.root, "learn/1/train", "--downstream", "--yes")
        assert rounds(loop) == [1]
    assert loop.step_until_over(60).state == "COMPLETED"
    assert rounds(loop) == [1, 2, 3]


def test_what_reads_a_loop_is_below_each_of_its_rounds(loop):
    loop.start(PLAIN)
    loop.step_until_over(60)
    told = loop.cli("rerun", loop.root, "l/1/a", "--downstream", "--dry-run").stdout
    assert "and below: l, e\n" in told


def test_a_loop_for_each_row_that_a_result_makes(loop):
    loop.start(
        "tasks:\n"
        "  q: {command: 'printf \"s\\n1\\n2\\n\" > t.csv', outputs: {t: t.csv}}\n"
        "  l: {matrix: {table: t.csv}, repeat: {max: 3, until: '${{ repeat.round >= matrix.s }}'}, tasks: {a: {command: 'echo ${{ matrix.s }} ${{ repeat.round }} > o', outputs: {o: o}}}}\n"
        "  e: {inputs: {o: 'l/*/o'}, command: 'cat ${{ inputs.o }} > e', outputs: {e: e}}\n"
    )
    assert loop.step_until_over(60).state == "COMPLETED"
    assert (loop.root / "results/e").read_text() == "1 1\n2 2\n"
    check_rebuilt(loop)


def test_what_reads_an_output_that_the_last_round_skipped_is_skipped(loop):
    loop.start(
        "tasks:\n  l: {repeat: {max: 2}, tasks: {a: {command: exit 3, allow_failure: true, outputs: {la: la}}}}\n"
        "  e: {inputs: {la: l/la}, command: 'cat ${{ inputs.la }}'}\n"
    )
    assert loop.step_until_over(60).state == "COMPLETED"
    assert loop.states()["e"] == "SKIPPED"


def test_a_path_of_a_round_that_cannot_be_is_refused(loop):
    file = loop.write(LOOP.replace("m: learn/model.txt", "m: learn/11/model.txt"))
    told = loop.cli("validate", file)
    assert told.returncode == 2
    assert "'learn/11/model.txt': learn has the rounds 1 to 10 (`repeat.max`)" in told.stderr + told.stdout


@pytest.mark.parametrize(
    ("until", "value"), [("params.goal", "0.2"), ("repeat.round", "1"), ("len(params.goals)", "2"), ("'yes'", "'yes'")]
)
def test_a_condition_that_is_known_to_be_another_value_is_refused(loop, until, value):
    text = f"params: {{goal: 0.2, goals: [1, 2]}}\n{LOOP.replace('metrics.train.rmse < 0.2', until)}"
    told = loop.cli("validate", loop.write(text))
    assert told.returncode == 2
    assert f"until: ${{{{ {until} }}}} is {value}; a condition gives true or false" in told.stderr


def test_a_fork_takes_the_rounds_of_a_loop_over_and_goes_on_from_there(loop):
    loop.start(LOOP)
    loop.step_until_over()
    before = loop.witnessed()
    other = loop.folder / "other"
    file = loop.write(LOOP.replace("metrics.train.rmse < 0.2", "metrics.train.rmse < 0.05"))
    done = loop.cli("init", file, "--from", loop.root, "--root", other, "--yes")
    assert done.returncode == 0, done.stderr
    states = {task.task_id: str(task.state) for task in open_run(other).tasks}
    assert {states[f"learn/{number}/train"] for number in (1, 2, 3)} == {"COMPLETED"}
    assert states["learn/4/propose"] == "READY"
    assert loop.cli("run", other).returncode == 0
    assert {line.split("/")[1] for line in loop.witnessed()[len(before) :]} == {"4", "5"}
    assert (other / "results/r").exists()
    assert loop.cli("doctor", other).returncode == 0


def test_a_temporary_output_that_was_read_while_a_loop_was_open_is_removed_when_it_ends(loop):
    loop.start(
        "tasks:\n"
        "  big: {command: 'echo 1 > w', outputs: {w: {path: w, temporary: true}}}\n"
        "  use: {inputs: {w: w}, command: 'cat ${{ inputs.w }}'}\n"
        "  learn: {repeat: {max: 2}, tasks: {t: {command: 'sleep 0.3'}}}\n"
    )
    loop.step_until(lambda: loop.states()["use"] == "COMPLETED")
    assert (loop.attempt("big") / "w").exists()  # a later round might read it
    loop.step_until_over()
    assert not (loop.attempt("big") / "w").exists()
    check_rebuilt(loop)


CARRIED = """
files: [start.txt]
tasks:
  learn:
    repeat: {max: 3, carry: {model: {first: start.txt, next: model.txt}}}
    tasks:
      propose: {command: 'printf "id\\na\\nb\\n" > new.csv', outputs: {new: new.csv}}
      label:
        matrix: {table: new.csv}
        inputs: {m: "${{ carry.model }}"}
        command: '(cat ${{ inputs.m }}; echo ${{ matrix.id }}) > ${{ outputs.e }}'
        outputs: {e: "e/${{ matrix.id }}"}
      train: {inputs: {e: "e/*"}, command: 'cat ${{ inputs.e }} > model.txt', outputs: {model: model.txt}}
"""


def test_instances_that_a_round_makes_read_what_the_round_before_left(loop):
    loop.start(CARRIED)
    assert loop.step_until_over().state == "COMPLETED"
    one = "start\na\nstart\nb\n"
    assert (loop.root / "results/learn/2/e/a").read_text() == f"{one}a\n"
    assert (loop.root / "results/learn/3/e/b").read_text() == f"{one}a\n{one}b\nb\n"
    check_rebuilt(loop)
    loop.write(CARRIED.replace("echo ${{ matrix.id }}", "echo -${{ matrix.id }}-"))
    assert loop.cli("amend", loop.root, loop.folder / "campaign.yaml", "--yes").returncode == 0


OUTER = """
tasks:
  goal: {command: 'printf "{\\"x\\": 2}" > metrics.json'}
  l:
    repeat: {max: 5, until: "${{ metrics.a.r > metrics.goal.x }}", carry: {s: {first: 0, next: "${{ metrics.goal.x }}"}, r: {first: 0, next: "${{ metrics.a.r }}"}}}
    tasks:
      a: {command: 'echo ${{ carry.s }} ${{ carry.r }} > s; printf "{\\"r\\": %s}" ${{ repeat.round }} > metrics.json', outputs: {s: s}}
"""


def test_until_and_next_see_what_is_outside_of_the_loop_as_well(loop):
    loop.start(OUTER)
    assert loop.step_until_over().state == "COMPLETED"
    assert rounds(loop, "l") == [1, 2, 3]
    assert [(loop.root / f"results/l/{n}/s").read_text() for n in (1, 2, 3)] == ["0 0\n", "2 1\n", "2 2\n"]
    assert said(loop, "l").endswith("a.r 3, goal.x 2")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("metrics.a.r > metrics.goal.x", "metrics.a.none > 1", "until, after round 1: 'none' is not in metrics.a"),
        (
            'next: "${{ metrics.a.r }}"',
            'next: "${{ metrics.a.none }}"',
            "carry.r.next, after round 1: 'none' is not in metrics.a",
        ),
    ],
)
def test_what_a_round_did_not_give_is_told_with_key_and_round(loop, old, new, told):
    loop.start(OUTER.replace(old, new))
    assert loop.step_until_over().state == "FAILED"
    assert told in said(loop, "l")


def test_below_a_loop_that_never_converged_the_file_is_advised_and_not_all_rounds_again(loop):
    body = 'tasks: {a: {command: \'printf "{\\"r\\": 1}" > metrics.json\'}}'
    loop.start(
        f"tasks:\n  l: {{repeat: {{max: 2, until: '${{{{ metrics.a.r > 5 }}}}', on_max: fail}}, {body}}}\n"
        "  end: {needs: [l], command: 'true'}\n"
    )
    assert loop.step_until_over().state == "FAILED"
    told = loop.cli("explain", loop.root, "end").stdout
    assert f"matterstack amend {loop.root}" in told
    assert "rerun" not in told
