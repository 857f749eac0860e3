"""Amending a campaign while it runs: each instance is compared with what its attempt was asked to do."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time

import pytest

from matterstack.care.checks import examine
from matterstack.care.repair import repair
from matterstack.core.events import attempt_made
from matterstack.core.model import Resources
from matterstack.orchestration.session import open_to_write
from tests.test_doctor import content

TABLE = """
params: {emax: 5}
files: [scripts/**]
tasks:
  relax:
    matrix: {table: c.csv}
    command: sh ${{ source }}/scripts/relax.sh ${{ matrix.id }} ${{ matrix.v }} ${{ params.emax }} > ${{ outputs.o }}
    outputs: {o: "o/${{ task.label }}"}
  rank: {inputs: {o: "o/*"}, command: "cat ${{ inputs.o }} > r", outputs: {r: r}}
"""
ROWS = "id,v\na,1\nb,2\nc,3\n"
SCRIPT = "echo relax $1 >> WITNESS; echo $1 $2 $3; [ $2 != bad ]\n"


@pytest.fixture
def screen(bench):
    """A finished run of three candidates; the witness has a line for each that was computed."""
    (bench.folder / "scripts").mkdir()
    write_script(bench, SCRIPT)
    write(bench, "c.csv", ROWS)
    bench.start(TABLE)
    bench.step_until_over()
    bench.witness.unlink()
    return bench


def write(bench, name, text):
    (bench.folder / name).write_text(text)


def write_script(bench, text):
    write(bench, "scripts/relax.sh", text.replace("WITNESS", str(bench.witness)))


def amend(bench, *words):
    done = bench.cli("amend", bench.root, "--yes", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def preview(bench, *words):
    """Give what `amend` says of each task, by its name."""
    lines = bench.cli("amend", bench.root, *words).stdout.splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))


def computed(bench):
    """Give which candidates are computed from now to the end, and forget them."""
    bench.step_until_over()
    found = [name for name in bench.witnessed() if name != "relax"]
    bench.witness.unlink(missing_ok=True)
    return sorted(found)


def stale(bench):
    shown = json.loads(bench.cli("status", bench.root, "--json").stdout)
    return {item["task"]: item["why"] for item in shown[0].get("stale", [])} if isinstance(shown, list) else shown


# --- the table of docs/changing-a-campaign.md ------------------------------------------------------------------------


def test_rows_that_are_added_are_computed_and_nothing_else(screen):
    write(screen, "c.csv", ROWS + "d,4\ne,5\n")
    assert preview(screen) == {
        "relax": "2 new: d, e; 3 COMPLETED stay",
        "rank": "1 COMPLETED becomes stale (2 more inputs): rank",
    }
    assert computed(screen) == []  # a preview changes nothing
    amend(screen)
    assert computed(screen) == ["d", "e"]
    assert screen.cli("rerun", screen.root, "--stale").returncode == 0
    assert computed(screen) == []
    assert (screen.root / "results/r").read_text() == "a 1 5\nb 2 5\nc 3 5\nd 4 5\ne 5 5\n"


def test_a_mistyped_value_is_computed_anew_and_nothing_else(screen):
    write(screen, "c.csv", ROWS.replace("b,2", "b,22"))
    assert preview(screen)["relax"] == "1 COMPLETED becomes stale (matrix.v): b; 2 COMPLETED stay"
    amend(screen)
    assert computed(screen) == []
    assert "stale  relax/b: changed since it was made: matrix.v" in screen.cli("status", screen.root).stdout
    screen.cli("rerun", screen.root, "--stale")
    assert computed(screen) == ["b"]
    assert (screen.root / "results/o/b").read_text() == "b 22 5\n"


def test_what_had_failed_starts_again_in_its_new_form_with_what_is_below(screen):
    write(screen, "c.csv", ROWS + "d,bad\n")
    amend(screen)
    assert computed(screen) == ["d"]
    assert screen.states()["relax/d"] == "FAILED"
    write(screen, "c.csv", ROWS + "d,4\n")
    assert preview(screen)["relax"] == "1 FAILED becomes PENDING (matrix.v): d; 3 COMPLETED stay"
    amend(screen)
    assert computed(screen) == ["d"]
    assert screen.states()["relax/d"] == "COMPLETED"


def test_what_is_gone_is_retired_and_comes_back_as_it_was(screen):
    write(screen, "c.csv", ROWS.replace("b,2\n", ""))
    assert preview(screen) == {
        "relax": "1 retired: b; 2 COMPLETED stay",
        "rank": "1 COMPLETED becomes stale (1 fewer input): rank",
    }
    amend(screen)
    assert not (screen.root / "results/o/b").is_symlink()
    assert (screen.attempt("relax/b") / "o/b").exists()
    assert "relax/b" not in screen.states()
    assert screen.cli("attempts", screen.root, "relax/b").returncode == 0
    assert "3 tasks: 3 COMPLETED" in screen.cli("status", screen.root).stdout
    write(screen, "c.csv", ROWS)
    amend(screen)
    assert computed(screen) == []
    assert screen.states()["relax/b"] == "COMPLETED"
    assert "stale" not in screen.cli("status", screen.root).stdout


def test_there_and_back_is_no_change(screen):
    for text in (ROWS.replace("b,2", "b,3"), ROWS):
        write(screen, "c.csv", text)
        out = amend(screen)
    assert "1 COMPLETED no longer stale" in out
    assert "stale" not in screen.cli("status", screen.root).stdout
    assert computed(screen) == []


def test_a_new_column_counts_only_if_it_is_named(screen):
    write(screen, "c.csv", "id,v,note\na,1,x\nb,2,y\nc,3,z\n")
    assert preview(screen) == {"no": "instance is concerned"}
    screen.write(TABLE.replace("${{ matrix.v }}", "${{ matrix.v }}${{ matrix.note }}"))
    assert preview(screen)["relax"].startswith("3 COMPLETED become stale (command, matrix.note): a, b, c")


def test_a_parameter_counts_where_it_is_named(screen):
    assert preview(screen, "--set", "emax=6") == {
        "relax": "3 COMPLETED become stale (param emax): a, b, c",
    }
    amend(screen, "--set", "emax=6")
    assert "nothing differs from version 2" in amend(screen)  # a value that is set stays
    assert preview(screen, "--unset", "emax") == {"relax": "3 COMPLETED no longer stale"}


def test_a_script_counts_where_a_command_names_it_and_each_attempt_keeps_its_own(screen):
    write_script(screen, SCRIPT + "true\n")
    assert preview(screen)["relax"].startswith("3 COMPLETED become stale (scripts/relax.sh)")
    amend(screen)
    assert (screen.root / "versions/1/source/scripts/relax.sh").read_text().endswith("!= bad ]\n")
    assert (screen.root / "source/scripts/relax.sh").read_text().endswith("true\n")
    shown = screen.cli("attempts", screen.root, "relax/a", "--show", 1).stdout
    assert "versions/1/source/scripts/relax.sh" in shown
    assert "relax/a, attempt 1: version 1 of the campaign, of 2" in screen.cli("logs", screen.root, "relax/a").stderr


def test_a_module_that_no_command_names_is_told_and_counts_with_uses(screen):
    write(screen, "scripts/common.sh", "x\n")
    amend(screen)
    write(screen, "scripts/common.sh", "y\n")
    told = screen.cli("amend", screen.root).stdout
    assert "scripts/common.sh: changed (named by no task: `uses` says whose results it determines)" in told
    assert "no instance is concerned" in told
    screen.write(TABLE.replace("    command: sh", "    uses: [scripts/common.sh]\n    command: sh"))
    assert preview(screen)["relax"].startswith("3 COMPLETED become stale (scripts/common.sh)")


def test_a_time_limit_that_is_raised_restarts_what_it_had_ended(bench):
    text = "tasks: {a: {matrix: {s: [0, 30]}, command: 'sleep ${{ matrix.s }}', resources: {time: LIMIT}, allow_failure: true}}"
    bench.start(text.replace("LIMIT", "1s"))
    bench.step_until_over()
    bench.write(text.replace("LIMIT", "40s").replace("command", "description: longer, command"))
    assert preview(bench) == {"a": "1 FAILED becomes PENDING (time limit): 30; 1 COMPLETED stays"}
    bench.write(text.replace("LIMIT", "1h"))
    amend(bench)
    assert bench.states() == {"a/0": "COMPLETED", "a/30": "PENDING"}


def test_retries_that_are_allowed_now_are_taken(bench):
    bench.start("tasks: {a: {command: 'exit 1'}}\n")
    bench.step_until_over()
    bench.write("tasks: {a: {command: 'exit 1', retries: 2}}\n")
    assert preview(bench) == {"a": "1 FAILED becomes PENDING (retries): a"}
    amend(bench)
    bench.step_until_over()
    assert len(json.loads(bench.cli("attempts", bench.root, "a", "--json").stdout)) >= 3


def test_what_runs_goes_on_as_it_was_started_and_is_stale_then(bench):
    bench.start("params: {x: 1}\ntasks: {a: {command: 'sleep 1; echo ${{ params.x }} > o', outputs: {o: o}}}\n")
    bench.step()
    bench.wait_for(bench.attempt("a") / "claim")
    bench.write("params: {x: 2}\ntasks: {a: {command: 'sleep 1; echo ${{ params.x }} > p', outputs: {p: p}}}\n")
    assert preview(bench)["a"].startswith("1 RUNNING go on as they were started, and will be stale")
    amend(bench)
    bench.step_until_over()
    assert bench.states() == {"a": "COMPLETED"}
    assert (bench.root / "results/o").read_text() == "1\n"
    assert "stale  a: changed since it was made: command" in bench.cli("status", bench.root).stdout
    bench.cli("rerun", bench.root, "--stale")
    bench.step_until_over()
    assert (bench.root / "results/p").read_text() == "2\n"
    assert not (bench.root / "results/o").is_symlink()


def test_a_question_whose_work_changed_is_withdrawn_and_asked_again(bench):
    text = "operators: {board: {kind: human}}\ntasks: {ask: {operator: board, instructions: 'Is it WHAT?'}}\n"
    bench.start(text.replace("WHAT", "red"))
    bench.step()
    bench.write(text.replace("WHAT", "blue"))
    assert preview(bench) == {"ask": "1 WAITING asked again (instructions)"}
    amend(bench)
    bench.step()
    assert bench.states() == {"ask": "WAITING"}
    assert "blue" in (bench.attempt("ask", 2) / "instructions.md").read_text()


def test_another_deadline_holds_at_once(bench):
    text = "operators: {board: {kind: human}}\ntasks: {ask: {operator: board, instructions: Which?, deadline: LIMIT}}\n"
    bench.start(text.replace("LIMIT", "1h"))
    bench.step()
    bench.write(text.replace("LIMIT", "0.1s"))
    amend(bench)
    time.sleep(0.2)
    bench.step_until_over()
    assert bench.states() == {"ask": "FAILED"}
    assert len(json.loads(bench.cli("attempts", bench.root, "ask", "--json").stdout)) == 1


def test_what_a_person_cancelled_stays_cancelled(bench):
    bench.start("tasks: {a: {command: 'sleep 30'}, b: {command: 'true'}}\n")
    bench.cli("cancel", bench.root, "a")
    bench.step_until_over()
    bench.write("tasks: {a: {command: 'sleep 31'}, b: {command: 'true'}}\n")
    amend(bench)
    assert bench.states() == {"a": "CANCELLED", "b": "COMPLETED"}


def test_what_runs_of_an_instance_that_is_gone_goes_on_and_holds_nothing_up(bench):
    text = "tasks: {a: {matrix: {i: ROWS}, command: 'sleep 20'}, b: {command: 'true'}}\n"
    bench.start(text.replace("ROWS", "[1]"))
    bench.step()
    bench.wait_for(bench.attempt("a/1") / "claim")
    bench.write("tasks: {b: {command: 'true'}}\n")
    told = amend(bench)
    assert "1 retired (goes on to its end): 1" in told
    assert "(a task of another name" not in told
    bench.step_until_over()
    assert bench.states() == {"b": "COMPLETED"}
    assert bench.cli("amend", bench.root, "--yes", "--cancel-gone").returncode == 0
    bench.write(text.replace("ROWS", "[1]"))
    amend(bench)
    assert bench.states()["a/1"] in ("RUNNING", "SUBMITTED")
    bench.write("tasks: {b: {command: 'true'}}\n")
    amend(bench, "--cancel-gone")
    assert json.loads(bench.cli("attempts", bench.root, "a/1", "--json").stdout)[0]["state"] == "CANCELLED"


def test_fan_ins_count_what_is_in_the_newest_version(bench):
    text = (
        "tasks:\n  a: {matrix: {i: ROWS}, command: '[ ${{ matrix.i }} != 3 ] && echo 1 > o', "
        "outputs: {o: {file: o, path: 'o/${{ matrix.i }}'}}}\n"
        "  b: {inputs: {o: 'o/*'}, command: 'cat ${{ inputs.o }}'}\n"
    )
    bench.start(text.replace("ROWS", "[1, 2, 3]"))
    bench.step_until_over()
    assert bench.states()["b"] == "BLOCKED"
    bench.write(text.replace("ROWS", "[1, 2]"))
    amend(bench)
    assert bench.step_until_over().state == "COMPLETED"


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_file_with_mistakes_changes_nothing_and_tells_them_all(screen):
    before = screen.digest()
    screen.write(
        TABLE.replace("outputs: {r: r}", "outputs: {r: r, s: o/a}").replace("${{ params.emax }}", "${{ params.e }}")
    )
    done = screen.cli("amend", screen.root, "--yes")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert screen.digest() == before


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("name: other\n" + TABLE, (), "a name cannot be amended"),
        (TABLE.replace("params: {emax: 5}\n", "").replace(" ${{ params.emax }}", ""), (), "--unset emax drops that"),
        (TABLE, ("--plan", "0123456789abcdef"), "have changed since that was shown"),
        (TABLE, ("--to", "3"), "has the versions 1 to 2"),
    ],
    ids=["another name", "a parameter that is gone", "an outdated plan", "no such version"],
)  # fmt: skip
def test_what_cannot_be_taken_is_one_sentence(screen, text, words, told):
    amend(screen, "--set", "emax=6")
    screen.write(("matterstack: 1\n" + text) if text.startswith("name") else text)
    write(screen, "c.csv", ROWS + "d,4\n")
    before = screen.digest()
    done = screen.cli("amend", screen.root, "--yes", *words)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert told in done.stderr
    assert screen.digest() == before


def test_an_operator_cannot_go_while_it_has_live_attempts(bench):
    bench.start("operators: {big: {kind: local}}\ntasks: {a: {operator: big, command: 'sleep 20'}}\n")
    bench.step()
    bench.wait_for(bench.attempt("a") / "claim")
    bench.write("tasks: {a: {command: 'sleep 20'}}\n")
    done = bench.cli("amend", bench.root, "--yes")
    assert done.returncode == 2
    assert "operator 'big' is gone" in done.stderr
    bench.cli("cancel", bench.root)


def test_a_renamed_task_is_another_one_and_that_is_said(screen):
    screen.write(TABLE.replace("rank:", "order:"))
    told = screen.cli("amend", screen.root).stdout
    assert "  rank   1 retired: rank" in told
    assert "  order  1 new: order" in told
    assert "a task of another name is another task: rank gone" in told


def test_a_new_axis_renames_all_and_that_is_said(bench):
    bench.start("tasks: {a: {matrix: {i: [1, 2]}, command: 'true'}}\n")
    bench.write("tasks: {a: {matrix: {i: [1, 2], j: [1]}, command: 'true'}}\n")
    assert "`label:` keeps the ids" in bench.cli("amend", bench.root).stdout


def test_a_preview_that_was_agreed_to_is_taken_and_no_other(screen):
    write(screen, "c.csv", ROWS + "d,4\n")
    plan = json.loads(screen.cli("amend", screen.root, "--json").stdout)["plan"]
    write(screen, "c.csv", ROWS + "d,5\n")
    assert screen.cli("amend", screen.root, "--plan", plan).returncode == 2
    write(screen, "c.csv", ROWS + "d,4\n")
    done = json.loads(screen.cli("amend", screen.root, "--plan", plan, "--json").stdout)
    assert done["taken"]
    assert done["tasks"] == {
        "relax": {"new": [{"task": "relax/d", "state": "PENDING"}]},
        "rank": {"stale": [{"task": "rank", "state": "COMPLETED", "why": "1 more input"}]},
    }


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_version_is_gone_back_to(screen):
    write(screen, "c.csv", ROWS + "d,4\n")
    amend(screen)
    computed(screen)
    assert preview(screen, "--to", "1")["relax"] == "1 retired: d; 3 COMPLETED stay"
    amend(screen, "--to", "1")
    assert "stale" not in screen.cli("status", screen.root).stdout
    assert (screen.root / "source/c.csv").read_text() == ROWS
    assert preview(screen)["relax"] == "1 comes back: d; 3 COMPLETED stay"  # the campaign folder has it still


def test_a_run_alone_can_be_corrected(screen):
    shutil.rmtree(screen.folder / "scripts")
    for name in ("campaign.yaml", "c.csv"):
        (screen.folder / name).unlink()
    assert "--checkout DIR" in screen.cli("amend", screen.root).stderr
    assert screen.cli("amend", screen.root, "--checkout", "out").returncode == 0
    (screen.folder / "out/c.csv").write_text(ROWS + "d,4\n")
    amend(screen, "out/campaign.yaml")
    assert computed(screen) == ["d"]


def test_a_ledger_is_rebuilt_as_it_was_after_amendments(screen):
    for text in (ROWS + "d,4\n", ROWS.replace("a,1\n", ""), ROWS.replace("b,2", "b,7") + "e,5\n"):
        write(screen, "c.csv", text)
        amend(screen)
        computed(screen)
    before = content(screen.root / "state.sqlite")
    (screen.root / "state.sqlite").unlink()
    repair(screen.root)
    assert content(screen.root / "state.sqlite") == before
    assert examine(screen.root) == []


def test_an_edit_within_the_run_is_told_and_never_used(screen):
    script = screen.root / "source/scripts/relax.sh"
    script.chmod(0o644)
    script.write_text("echo mine\n")
    assert any("was edited within the run" in item.message for item in examine(screen.root))
    for command in ("status", "step"):
        assert "source/scripts/relax.sh was edited within" in screen.cli(command, screen.root).stderr
    assert "nothing differs" in amend(screen)


def test_a_killed_amend_leaves_the_old_state_or_the_new_one(screen):
    write(screen, "c.csv", ROWS.replace("a,1\n", "") + "d,4\n")
    for delay in range(0, 400, 40):
        process = screen.popen("amend", screen.root, "--yes")
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with sqlite3.connect(screen.root / "state.sqlite") as db:
            version = db.execute("SELECT MAX(version) FROM campaign_versions").fetchone()[0]
        db.close()
        assert ("relax/d" in screen.states()) == (version == 2)
        assert ("relax/a" in screen.states()) == (version == 1)
    screen.cli("amend", screen.root, "--yes")
    assert computed(screen) == ["d"]
    assert not (screen.root / "results/o/a").is_symlink()
    assert examine(screen.root) == []


def test_amend_works_while_a_loop_runs(bench):
    text = "tasks: {a: {matrix: {i: ROWS}, command: 'sleep 0.8; echo ${{ matrix.i }} >> WITNESS'}}\n"
    bench.start(text.replace("ROWS", str(list(range(8)))))
    loop = bench.popen("run", "-q", bench.root)
    bench.wait_for(bench.attempt("a/0") / "claim")
    bench.write(text.replace("ROWS", str([*range(8), 20, 21])))
    amend(bench)
    assert loop.wait(60) == 0
    assert sorted(map(int, bench.witnessed())) == [*range(8), 20, 21]


def test_who_changed_what_and_why_is_on_record(screen):
    write(screen, "c.csv", ROWS + "d,4\n")
    amend(screen, "--why", "a late candidate")
    line = next(event for event in screen.journal() if event["kind"] == "amended")
    assert line["why"] == "a late candidate"
    assert "@" in line["who"]


def test_what_reads_a_group_goes_on_while_a_retired_instance_of_it_succeeds(bench):
    text = (
        "tasks:\n"
        "  a: {matrix: {x: VALUES}, command: 'while [ ${{ matrix.x }} = 2 ] && [ ! -e WITNESS ]; do sleep 0.02; done; echo > o', outputs: {o: {file: o, path: 'o/${{ matrix.x }}'}}}\n"
        "  b: {inputs: {o: 'o/*'}, command: 'ls ${{ inputs.o }}'}\n"
    )
    bench.start(text.replace("VALUES", "[1, 2]"))
    bench.step_until(lambda: bench.states()["a/1"] == "COMPLETED")
    bench.write(text.replace("VALUES", "[1, 3]"))
    assert bench.cli("amend", bench.root, "--yes").returncode == 0
    bench.witness.touch()
    assert bench.step_until_over().state == "COMPLETED"


def test_an_intent_of_a_killed_loop_is_taken_back_also_when_its_task_is_gone(bench):
    bench.start("tasks: {a: {matrix: {i: [1, 2]}, command: 'true'}, b: {command: 'true'}}\n")
    with open_to_write(bench.root) as store:  # as a loop that is killed leaves it: on record, and nothing made of it
        store.append([attempt_made(("a/2", 1), "local", "{}", Resources(), "", {})], time.time())
    bench.write("tasks: {a: {matrix: {i: [1]}, command: 'true'}, b: {command: 'true'}}\n")
    assert bench.cli("amend", bench.root, "--yes").returncode == 0

    assert bench.step_until_over().state == "COMPLETED"

    assert bench.states() == {"a/1": "COMPLETED", "b": "COMPLETED"}
    assert bench.cli("doctor", bench.root).returncode == 0
