"""Instances that results make: tables, answers, files and numbers that are not known when a run begins."""

from __future__ import annotations

import json
import re

import pytest

from matterstack import step_run
from matterstack.care.rebuild import memory_ledger
from matterstack.errors import CampaignError
from matterstack.orchestration.actions import rerun
from matterstack.orchestration.beside import Beside
from matterstack.orchestration.growth import Growing
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step
from matterstack.spec.load import load_campaign
from matterstack.storage.migrations import TABLES
from matterstack.storage.state_store import SQLiteStateStore

LATE = """
files: [propose.csv]
tasks:
  propose: {command: 'cp ${{ source }}/propose.csv proposals.csv', outputs: {table: proposals.csv}}
  relax:
    matrix: {table: proposals.csv}
    expect: 200
    command: 'echo ${{ matrix.x }} >> WITNESS; echo ${{ matrix.x }} > ${{ outputs.e }}'
    outputs: {e: "e/${{ matrix.id }}"}
  check: {matrix: {table: proposals.csv}, inputs: {e: "e/${{ matrix.id }}"}, command: 'cat ${{ inputs.e }} > c', outputs: {c: {path: "c/${{ matrix.id }}", file: c}}}
  sum: {inputs: {e: "e/*"}, command: 'cat ${{ inputs.e }} > sum', outputs: {sum: sum}}
"""


@pytest.fixture
def late(bench):
    (bench.folder / "propose.csv").write_text("id,x\na,1\nb,2\n")
    return bench


def check_rebuilt(bench):
    """Check that the ledger that the journal gives is the one that is there, row by row."""
    with SQLiteStateStore(bench.root / "state.sqlite", read_only=True) as store, memory_ledger(bench.root) as other:
        for table in TABLES:
            rows = [sorted(map(repr, item.db.execute(f"SELECT * FROM {table}"))) for item in (store, other)]
            assert rows[0] == rows[1], table
    assert bench.cli("doctor", bench.root).returncode == 0


def test_a_table_that_a_task_writes_makes_the_instances_of_the_groups_that_name_it(late):
    late.start(LATE)
    assert late.states() == {"propose": "READY", "relax": "PENDING", "check": "PENDING", "sum": "PENDING"}
    assert late.step_until_over().state == "COMPLETED"
    assert late.states() == dict.fromkeys(["propose", "sum", "relax/a", "relax/b", "check/a", "check/b"], "COMPLETED")
    assert (late.root / "results/sum").read_text() == "1\n2\n"
    made = [line for line in late.journal() if line["kind"] == "expanded"]
    assert [(line["task"], line["count"], line["reads"]) for line in made] == [
        ("relax", 2, {"propose": 1}), ("check", 2, {"propose": 1}),
    ]  # fmt: skip
    check_rebuilt(late)


def test_what_is_not_known_yet_is_one_line_everywhere(late):
    file = late.write(LATE)
    told = late.cli("validate", file).stdout
    assert "  relax (not known yet: waits for propose; expect 200)\n" in told
    assert "sum.e: those of relax that match" in told
    late.start(LATE)
    assert "relax (not known yet: waits for propose; expect 200)" in late.cli("status", late.root).stdout
    assert (
        "relax: PENDING: not known yet: waits for propose; expect 200; propose is READY"
        in late.cli("explain", late.root, "relax").stdout
    )
    for what in (file, late.root):
        assert 'label="relax (not known yet: waits for propose; expect 200)"' in late.cli("graph", what).stdout
    tasks = {task["id"]: task["reason"] for task in json.loads(late.cli("status", late.root, "--json").stdout)["tasks"]}
    assert tasks["relax"] == "not known yet: waits for propose; expect 200"


def test_no_rows_skip_the_group_and_what_reads_it(late):
    (late.folder / "propose.csv").write_text("id,x\n")
    late.start(LATE)
    assert late.step_until_over().state == "COMPLETED"
    assert late.states() == {"propose": "COMPLETED", "relax": "SKIPPED", "check": "SKIPPED", "sum": "SKIPPED"}
    assert late.reasons()["relax"] == "its result gives no rows"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,x\na,1\nb\n", "tasks/propose/attempt-1/proposals.csv, line 3: has 1 cell, the header 2 columns"),
        ("id,x\na,1\na,2\n", "{id: a, x: 1} and {id: a, x: 2} have the same label 'a'"),
        ("name,x\na,1\n", "'id' is not in matrix"),
        ("", "tasks/propose/attempt-1/proposals.csv, line 1: has no header line"),
        ("id,x\n../../etc,1\n", "a value in a path cannot hold '/'"),
    ],
)
def test_a_bad_table_fails_the_group_with_file_row_and_reason(late, text, told):
    (late.folder / "propose.csv").write_text(text)
    late.start(LATE)
    assert late.step_until_over().state == "FAILED"
    assert late.states()["relax"] == "FAILED"
    assert late.states()["sum"] == "BLOCKED"
    assert told in late.reasons()["relax"]
    assert "Traceback" not in late.cli("explain", late.root).stdout


def test_no_file_in_a_folder_and_a_number_of_zero_give_no_rows(late):
    late.start(
        "tasks:\n"
        "  p: {command: 'echo {\\\"n\\\": 0} > metrics.json; mkdir -p d', outputs: {d: d/}}\n"
        "  f: {matrix: {x: {files: 'd/*.xyz'}}, command: 'cat ${{ inputs.x }}'}\n"
        "  r: {matrix: {n: {range: '${{ metrics.p.n }}'}}, command: 'echo ${{ matrix.n }}'}\n"
    )
    assert late.step_until_over().state == "COMPLETED"
    assert late.states() == {"p": "COMPLETED", "f": "SKIPPED", "r": "SKIPPED"}
    assert late.reasons()["f"] == late.reasons()["r"] == "its result gives no rows"


def test_a_column_that_no_row_has_fails_the_group_and_not_each_instance(late):
    (late.folder / "propose.csv").write_text("id,y\na,1\nb,2\n")
    late.start(LATE)
    assert late.step_until_over().state == "FAILED"
    assert "attempt-1/proposals.csv: 'x' is not in matrix; it has id, y" in late.reasons()["relax"]
    assert "relax/a" not in late.states()


@pytest.mark.parametrize("bad", ["id,x\na,1\na,2\n", "id,x\n../x,1\n"])
def test_a_group_that_could_not_be_made_is_made_of_the_next_result(late, bad):
    (late.folder / "propose.csv").write_text(bad)
    late.start(LATE.replace("cp ${{ source }}/propose.csv", f"cp {late.folder}/propose.csv"))
    assert late.step_until_over().state == "FAILED"
    assert late.states()["sum"] == "BLOCKED"
    (late.folder / "propose.csv").write_text("id,x\na,1\nb,2\n")
    assert late.cli("rerun", late.root, "propose", "--yes").returncode == 0
    assert late.step_until_over().state == "COMPLETED"
    assert (late.root / "results/sum").read_text() == "1\n2\n"
    check_rebuilt(late)


@pytest.mark.parametrize("other", ["needs: [t], command: 'true'", "matrix: {e: [1, 2]}, needs: [t], command: 'true'"])
def test_a_group_that_is_not_known_yet_becomes_a_task_or_a_group_by_an_amendment_and_back(late, other):
    known = "matrix: {table: t.csv}, command: 'echo ${{ matrix.e }}'"
    text = "tasks:\n  t: {{command: 'printf \"e\\n1\\n\" > t.csv', outputs: {{t: t.csv}}}}\n  g: {{{}}}\n"
    late.start(text.format(known))
    for changed in (other, known, other):
        late.write(text.format(changed))
        done = late.cli("amend", late.root, late.folder / "campaign.yaml", "--yes")
        assert done.returncode == 0, done.stderr
    assert late.step_until_over().state == "COMPLETED"
    check_rebuilt(late)


def test_the_history_tells_what_results_made(late):
    late.start(LATE)
    late.step_until_over()
    told = late.cli("history", late.root).stdout
    assert "relax: instances are known: 2 tasks\n" in told


def test_more_rows_than_attempts_are_allowed_fail_the_group(late):
    (late.folder / "propose.csv").write_text("id,x\na,1\nb,2\nc,3\n")
    late.start(LATE.replace("tasks:", "limits: {attempts: 2}\ntasks:", 1))
    late.step_until(lambda: late.states()["relax"] == "FAILED")
    assert "3 instances; limits.attempts allows 2" in late.reasons()["relax"]


def test_an_optional_table_that_was_not_written_fails_the_group(late):
    late.start(
        "tasks:\n  p: {command: 'true', outputs: {t: {path: t.csv, optional: true}}}\n"
        "  r: {matrix: {table: t.csv}, command: 'true'}\n"
    )
    assert late.step_until_over().state == "FAILED"
    assert late.reasons()["r"] == "its instances cannot be made: p did not write t.csv"


def test_an_answer_a_number_and_files_give_axes(late):
    late.start(
        "operators: {board: {kind: human}}\n"
        "tasks:\n"
        "  approve: {operator: board, instructions: Which?, response_schema: {type: object, properties: {metals: {type: array}}}}\n"
        "  probe: {command: 'echo ''{\"n\": 3}'' > metrics.json; mkdir -p frames; echo 1 > frames/f1.xyz; echo 2 > frames/f2.xyz', outputs: {f: frames/}}\n"
        "  metal: {matrix: {m: '${{ response.approve.metals }}'}, command: 'echo ${{ matrix.m }}'}\n"
        "  seed: {matrix: {s: {range: '${{ metrics.probe.n }}'}}, command: 'echo ${{ matrix.s }}'}\n"
        "  frame: {matrix: {f: {files: 'frames/*.xyz'}}, command: 'cat ${{ inputs.f }} > o', outputs: {o: {path: 'o/${{ matrix.f }}', file: o}}}\n"
        "  both: {matrix: {m: '${{ response.approve.metals }}', k: [1, 2]}, command: 'true'}\n"
    )
    late.step_until(lambda: late.states().get("frame/f2") == "COMPLETED")
    assert {name for name in late.states() if name.startswith("seed/")} == {"seed/1", "seed/2", "seed/3"}
    assert (late.root / "results/o/f2").read_text() == "2\n"
    late.cli("respond", late.root, "approve", "--data", "metals=[Al,Cu]")
    assert late.step_until_over().state == "COMPLETED"
    names = set(late.states())
    assert {"metal/Al", "metal/Cu", "both/Al-1", "both/Cu-2"} <= names


def test_a_value_that_is_no_list_fails_the_group(late):
    late.start(
        "tasks:\n  p: {command: 'echo ''{\"n\": 3}'' > metrics.json'}\n  r: {matrix: {n: '${{ metrics.p.n }}'}, command: 'true'}\n"
    )
    late.step_until_over()
    assert late.reasons()["r"] == "its instances cannot be made: ${{ metrics.p.n }} is 3, no list"


def test_a_table_that_is_made_again_is_an_amendment(late):
    late.start(
        LATE.replace("cp ${{ source }}/propose.csv proposals.csv", "cp PROPOSE proposals.csv").replace(
            "PROPOSE", str(late.folder / "propose.csv")
        )
    )
    late.step_until_over()
    (late.folder / "propose.csv").write_text("id,x\nb,2\nc,3\n")
    told = late.cli("rerun", late.root, "propose", "--dry-run").stdout
    assert "relax: 2 instances depend on its rows" in told
    late.cli("rerun", late.root, "propose")
    assert late.step_until_over().state == "COMPLETED"
    states = late.states()
    assert states["relax/b"] == states["relax/c"] == states["check/c"] == "COMPLETED"
    assert "relax/a" not in states
    assert sorted(late.witnessed()) == ["1", "2", "3"]  # b was not computed again
    check_rebuilt(late)
    late.cli("rerun", late.root, "--stale", "--yes")
    late.step_until_over()
    assert (late.root / "results/sum").read_text() == "2\n3\n"


def test_what_is_blocked_below_is_decided_anew_when_the_table_is_made_again(late):
    late.start(LATE.replace("echo ${{ matrix.x }} >> WITNESS; ", "[ ${{ matrix.x }} != 2 ]; "))
    late.step_until_over()
    assert (late.states()["relax/b"], late.states()["sum"]) == ("FAILED", "BLOCKED")
    (late.folder / "propose.csv").write_text("id,x\na,1\nb,3\n")
    assert late.cli("amend", late.root, "--yes").returncode == 0
    assert late.cli("rerun", late.root, "propose", "--yes").returncode == 0
    assert late.step_until_over().state == "COMPLETED"
    assert (late.root / "results/sum").read_text() == "1\n3\n"
    check_rebuilt(late)


def test_while_the_table_is_made_again_nothing_more_of_the_group_is_handed_over(late):
    late.start(LATE)
    late.step_until(lambda: "relax/a" in late.states())
    late.cli("rerun", late.root, "propose")
    late.cli("rerun", late.root, "relax/a")
    late.cli("pause", late.root, "propose")
    late.step()
    late.step()
    assert late.states()["relax/a"] == "PENDING"
    late.cli("resume", late.root, "propose")
    assert late.step_until_over().state == "COMPLETED"


def test_an_amendment_keeps_what_results_have_made(late):
    late.start(LATE)
    late.step_until_over()
    late.write(LATE.replace("> ${{ outputs.e }}'", "> ${{ outputs.e }}; true'"))
    told = late.cli("amend", late.root, "--yes").stdout
    assert re.search(r"relax +2 COMPLETED become stale \(command\): a, b\n", told)
    assert "retired" not in told
    assert set(late.states()) == {"propose", "relax/a", "relax/b", "check/a", "check/b", "sum"}
    check_rebuilt(late)
    assert "nothing" in late.cli("amend", late.root).stdout


def test_an_amendment_to_another_table_makes_the_group_unknown_again(late):
    text = LATE.replace("outputs: {table: proposals.csv}", "outputs: {table: proposals.csv, other: other.csv}").replace(
        "proposals.csv', outputs", 'proposals.csv; printf "id,x\\nz,9\\n" > other.csv\', outputs'
    )
    late.start(text)
    late.step_until_over()
    late.write(text.replace("matrix: {table: proposals.csv}\n    expect", "matrix: {table: other.csv}\n    expect"))
    told = late.cli("amend", late.root, "--yes")
    assert "2 retired: a, b" in told.stdout, told.stdout + told.stderr
    late.step_until(lambda: late.states().get("relax/z") == "COMPLETED")
    assert "relax/a" not in late.states()
    check_rebuilt(late)


def test_a_value_of_an_instance_that_is_not_known_is_refused(late):
    with pytest.raises(CampaignError, match=r"metrics.relax must be of one instance; those of relax are not known yet"):
        load_campaign(late.write(LATE + "  x: {command: 'echo ${{ metrics.relax.e }}'}\n"))


def test_what_matches_nothing_once_it_is_known_is_skipped(late):
    late.start(
        LATE
        + "  none: {inputs: {e: 'e/z*'}, command: 'true'}\n  one: {inputs: {e: e/b}, command: 'cat ${{ inputs.e }}'}\n"
    )
    late.step_until_over()
    assert late.states()["none"] == "SKIPPED"
    assert late.reasons()["none"] == "nothing matches its input e (e/z*)"
    assert (late.attempt("one") / "stdout.log").read_text() == "2\n"


def test_a_table_that_is_made_again_after_an_amendment_makes_instances_of_the_new_form(late):
    text = LATE.replace("cp ${{ source }}/propose.csv proposals.csv", f"cp {late.folder}/propose.csv proposals.csv")
    late.start(text)
    late.step_until_over()
    text = text.replace("echo ${{ matrix.x }} > ${{ outputs.e }}", "echo new ${{ matrix.x }} > ${{ outputs.e }}")
    late.write(text)
    late.cli("amend", late.root, "--yes")
    (late.folder / "propose.csv").write_text("id,x\na,1\nb,2\nc,3\n")
    late.cli("rerun", late.root, "propose")
    late.step_until_over()
    assert (late.root / "results/e/c").read_text() == "new 3\n"
    assert (late.root / "results/e/a").read_text() == "1\n"
    check_rebuilt(late)


def test_a_group_that_an_amendment_removes_is_not_made_again(late):
    late.start(LATE)
    late.step_until_over()
    late.write(LATE[: LATE.index("  check:")])
    late.cli("amend", late.root, "--yes")
    assert set(late.states()) == {"propose", "relax/a", "relax/b"}
    assert "nothing" in late.cli("amend", late.root).stdout
    late.cli("rerun", late.root, "propose")
    assert late.step_until_over().state == "COMPLETED"
    assert set(late.states()) == {"propose", "relax/a", "relax/b"}
    check_rebuilt(late)


def test_a_fork_of_a_run_in_which_results_made_instances_reuses_what_they_are_made_from(late):
    late.start(LATE)
    late.step_until_over()
    other = late.folder / "other"
    done = late.cli("init", late.folder / "campaign.yaml", "--from", late.root, "--root", other, "--yes")
    assert done.returncode == 0, done.stderr
    assert "propose: 1 of 1 reused" in done.stdout
    assert "6 of them with results" in done.stdout
    before = late.witnessed()
    assert late.cli("run", other).returncode == 0
    assert (other / "results/sum").read_text() == "1\n2\n"
    assert late.witnessed() == before  # nothing is computed again
    assert late.cli("doctor", other).returncode == 0


def test_a_value_with_a_separator_of_lines_survives_the_journal(late):
    (late.folder / "propose.csv").write_text("id,x\na,1\u20282\nb,3\x854\n")
    late.start(LATE)
    assert late.step_until_over().state == "COMPLETED"
    check_rebuilt(late)


# --- large groups are expanded while nobody holds the lock ---


@pytest.fixture
def large(late):
    rows = "".join(f"n{number},{number}\n" for number in range(6000))
    (late.folder / "propose.csv").write_text(f"id,x\n{rows}")
    late.start("""
files: [propose.csv]
operators: {later: {kind: manual}}
tasks:
  propose: {command: 'cp ${{ source }}/propose.csv proposals.csv', outputs: {table: proposals.csv}}
  relax: {matrix: {table: proposals.csv}, operator: later, command: 'echo ${{ matrix.x }}', when: "${{ params.go }}"}
params: {go: false}
""")
    late.step()
    late.wait_for(late.attempt("propose") / "exit.json")
    return late


def leave(bench, beside):
    with open_to_write(bench.root) as store:
        return Step(bench.root, store, outcome_of=beside.outcome).take()


def test_a_large_group_is_expanded_while_others_can_have_the_lock(large):
    beside = Beside()
    leave(large, beside)
    assert list(beside.left) == ["relax"]
    with open_to_write(large.root):  # a command of a person; expanding takes no lock
        beside.expand(large.root)
    assert large.states() == {"propose": "COMPLETED", "relax": "READY"}
    leave(large, beside)
    assert not beside.left
    assert len(large.states()) == 6001
    assert [line["count"] for line in large.journal() if line["kind"] == "expanded"] == [6000]
    check_rebuilt(large)


def test_what_was_expanded_beside_the_lock_counts_only_if_nothing_has_changed_since(large):
    beside = Beside()
    leave(large, beside)
    beside.expand(large.root)
    file = large.folder / "campaign.yaml"
    file.write_text(file.read_text().replace("echo ${{ matrix.x }}'", "echo x = ${{ matrix.x }}'"))
    assert large.cli("amend", large.root, "--yes").returncode == 0
    leave(large, beside)
    assert list(beside.left) == ["relax"]  # once more, in its new form
    beside.expand(large.root)
    leave(large, beside)
    assert len(large.states()) == 6001
    made = next(line for line in large.journal() if line["kind"] == "expanded")
    assert made["campaign_version"] == 2
    check_rebuilt(large)


def test_a_step_and_a_run_expand_large_groups_to_the_end(large):
    report = step_run(large.root)
    assert report.completed == 1  # told by the part of the step before the lock was let go
    assert large.cli("run", large.root).returncode == 0
    states = large.states()
    assert len(states) == 6001
    assert set(states.values()) == {"COMPLETED", "SKIPPED"}


def test_a_number_that_is_null_fails_the_group_and_stops_nothing_else(late):
    late.start(
        "tasks:\n"
        '  ask: {command: \'echo "{\\"n\\": null}" > metrics.json\'}\n'
        "  g: {matrix: {i: {range: '${{ metrics.ask.n }}'}}, command: 'true'}\n"
        "  other: {needs: [ask], command: 'true'}\n"
    )
    late.step_until_over()
    assert (late.states()["g"], late.states()["other"]) == ("FAILED", "COMPLETED")
    assert late.cli("run", late.root).returncode == 3


MANY = """
tasks:
  ask: {command: 'echo "{\\"n\\": 5500}" > metrics.json'}
  train: {command: 'echo 1 > m.txt', outputs: {m: m.txt}}
"""


def test_what_changes_while_states_are_decided_is_noticed_when_they_are_recorded(late, monkeypatch):
    late.start(
        f"operators: {{later: {{kind: manual}}}}\n{MANY}"
        "  g: {matrix: {i: {range: '${{ metrics.ask.n }}'}}, operator: later, inputs: {m: m.txt}, command: 'true'}\n"
    )
    late.step_until(
        lambda: (late.attempt("train") / "exit.json").exists() and (late.attempt("ask") / "exit.json").exists()
    )
    beside, decide = Beside(), Growing._first_states
    while not beside.left:  # workers answer a moment after they have written exit.json
        leave(late, beside)

    def then_rerun(growing, items):
        states = decide(growing, items)
        rerun(late.root, ["train"])
        return states

    monkeypatch.setattr(Growing, "_first_states", then_rerun)
    beside.expand(late.root)
    monkeypatch.undo()
    leave(late, beside)
    assert list(beside.left) == ["g"]  # what was made does not count
    beside.expand(late.root)
    leave(late, beside)
    assert "FAILED" not in late.states().values()
    assert len(late.states()) == 5502


def test_of_several_large_groups_each_is_expanded_once_and_none_under_the_lock(late, monkeypatch):
    late.start(
        f"operators: {{later: {{kind: manual, max_active: 1}}}}\n{MANY}"
        + "".join(
            f"  g{k}: {{matrix: {{i: {{range: '${{{{ metrics.ask.n }}}}'}}}}, operator: later, command: 'true'}}\n"
            for k in range(3)
        )
    )
    late.step_until(lambda: (late.attempt("ask") / "exit.json").exists())
    expanded, locked, outcome = [], [], Growing.outcome

    def noted(growing):
        expanded.append(growing.row.task_id)
        locked.append(not growing.store.read_only)
        return outcome(growing)

    monkeypatch.setattr(Growing, "outcome", noted)
    step_run(late.root)
    assert expanded == ["g0", "g1", "g2"]
    assert not any(locked)
    assert len([line for line in late.journal() if line["kind"] == "expanded"]) == 3


def test_a_fork_makes_a_removed_output_again_that_an_instance_reads_which_results_make(late):
    text = (
        "tasks:\n"
        "  big: {command: 'echo big > w', outputs: {w: {path: w, temporary: true}}}\n"
        "  rows: {command: 'printf \"id\\na\\n\" > t.csv', outputs: {t: t.csv}}\n"
        "  use: {matrix: {table: t.csv}, inputs: {w: w}, command: 'cat ${{ inputs.w }} > u', outputs: {u: {file: u, path: 'u/${{ matrix.id }}'}}}\n"
    )
    late.start(text)
    late.step_until_over()
    assert not (late.attempt("big") / "w").exists()
    file = late.write(text.replace("cat ${{ inputs.w }}", "cat ${{ inputs.w }} ${{ inputs.w }}"))
    other = late.folder / "other"
    assert late.cli("init", file, "--from", late.root, "--root", other, "--yes").returncode == 0
    done = late.cli("run", other)
    assert done.returncode == 0, done.stderr
    assert (other / "results/u/a").read_text() == "big\nbig\n"
