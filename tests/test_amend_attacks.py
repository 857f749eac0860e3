"""Faults of amendments that somebody found by attacking them; each stays mended."""

from __future__ import annotations

import json
import shutil
import time

from matterstack.care.checks import examine
from tests.test_amend import amend, preview


def over(bench, text):
    bench.start(text)
    bench.step_until_over()


def stale(bench):
    lines = bench.cli("status", bench.root).stdout.splitlines()
    return [line for line in lines if line.startswith("stale  ")]


def attempts(bench, task):
    return json.loads(bench.cli("attempts", bench.root, task, "--json").stdout)


def test_an_edit_within_the_run_never_becomes_part_of_a_version(bench):
    (bench.folder / "x.sh").write_text("echo 1\n")
    text = "files: [x.sh]\ntasks: {e: {command: 'sh ${{ source }}/x.sh > o', outputs: {o: o}}, h: {command: 'true'}}\n"
    over(bench, text)
    copy = bench.root / "source/x.sh"
    copy.chmod(0o644)
    copy.write_text("echo 7\n")
    bench.write(text.replace("h: {", "h: {priority: 3, "))
    amend(bench)
    assert (bench.root / "source/x.sh").read_text() == "echo 1\n"
    assert [item.path for item in examine(bench.root)] == ["versions/1/source/x.sh"]


def test_a_reader_of_an_output_that_was_not_there_yet_says_what_to_do(bench):
    over(
        bench,
        "tasks: {up: {matrix: {m: [1, 2]}, command: 'echo 1 > o; echo 2 > p', outputs: {o: {file: o, path: 'o/${{ matrix.m }}'}}}}\n",
    )
    bench.write(
        "tasks:\n  up: {matrix: {m: [1, 2]}, command: 'echo 1 > o; echo 2 > p; true', outputs: {o: {file: o, path: 'o/${{ matrix.m }}'}, p: {file: p, path: 'p/${{ matrix.m }}'}}}\n"
        "  down: {inputs: {p: 'p/*'}, command: 'cat ${{ inputs.p }} > q', outputs: {q: q}}\n"
    )
    amend(bench)
    bench.step_until_over()
    assert (
        "up/1 was done before its output 'p' was declared: rerun it, and this one after it" in bench.reasons()["down"]
    )
    bench.cli("rerun", bench.root, "up", "down")
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.root / "results/q").read_text() == "2\n2\n"


def test_an_external_file_without_a_digest_counts_by_size_and_time(bench):
    (bench.folder / "big").write_text("1")
    text = f"tasks: {{g: {{inputs: {{x: {{external: {bench.folder}/big}}}}, command: 'cat ${{{{ inputs.x }}}}'}}, h: {{command: 'true'}}}}\n"
    over(bench, text)
    (bench.folder / "big").write_text("22222")
    assert preview(bench) == {"g": "1 COMPLETED becomes stale (inputs.x): g"}


def test_a_question_is_not_completed_by_hand(bench):
    bench.start("operators: {board: {kind: human}}\ntasks: {ask: {operator: board, instructions: Say}}\n")
    bench.step()
    bench.cli("cancel", bench.root, "ask")
    (bench.folder / "r.json").write_text("{}")
    done = bench.cli("complete", bench.root, "ask", "--output", "response=r.json", "--why", "x")
    assert (done.returncode, "is answered by a person, not completed: `matterstack rerun" in done.stderr) == (2, True)


def test_what_comes_back_has_its_links_again(bench):
    text = (
        "tasks: {e: {matrix: {m: ROWS}, command: 'echo 1 > o', outputs: {o: {file: o, path: 'o/${{ matrix.m }}'}}}}\n"
    )
    over(bench, text.replace("ROWS", "[a, b]"))
    for rows in ("[a]", "[a, b]"):
        bench.write(text.replace("ROWS", rows))
        amend(bench)
    assert (bench.root / "results/o/b").exists()
    assert examine(bench.root) == []


def test_doctor_is_content_after_two_outputs_have_changed_places(bench):
    text = "tasks: {a: {command: 'echo a > x', outputs: {f: {file: x, path: ONE}}}, b: {command: 'echo b > x', outputs: {f: {file: x, path: TWO}}}}\n"
    over(bench, text.replace("ONE", "x.txt").replace("TWO", "y.txt"))
    bench.write(text.replace("ONE", "y.txt").replace("TWO", "x.txt"))
    amend(bench)
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    assert (bench.root / "results/y.txt").read_text() == "a\n"
    assert [item for item in examine(bench.root) if "y.txt" in item.path] == []


def test_cpu_hours_count_what_ends_in_the_same_step(bench):
    bench.start(
        "limits: {cpu_hours: 0.0004}\noperators: {local: {kind: local, max_active: 1}}\n"
        "tasks: {e: {matrix: {x: {range: 3}}, command: 'sleep 0.9', resources: {time: 1s}}}\n"
    )  # 1.44 s: the second would need 0.9 + 1
    assert bench.cli("run", bench.root).returncode == 4
    assert list(bench.states().values()).count("COMPLETED") == 1


def test_failures_that_run_again_are_forgiven_no_more(bench):
    bench.start(
        "limits: {max_failures: 2}\noperators: {local: {kind: local, max_active: 1}}\ntasks: {e: {matrix: {x: {range: 8}}, command: 'false'}}\n"
    )
    for _ in range(2):
        bench.cli("run", bench.root)
        bench.cli("resume", bench.root)
    bench.cli("rerun", bench.root, "--failed", "--yes")
    assert bench.cli("run", bench.root).returncode == 4
    assert list(bench.states().values()).count("FAILED") == 2


COUNTS = (
    "tasks: {md: {command: 'n=$(cat c 2> /dev/null || echo 0); echo $((n + 1)) > c; [ $n -ge 3 ] || exit 85', "
    "restart: {files: [c], after: [exit_code_85], max: MOST}}}\n"
)


def test_a_rerun_has_all_its_restarts_again(bench):
    over(bench, COUNTS.replace("MOST", "3"))
    bench.cli("rerun", bench.root, "md")
    bench.step_until_over()
    assert bench.states() == {"md": "COMPLETED"}
    assert len(attempts(bench, "md")) == 8


def test_more_restarts_go_on_from_where_it_stopped(bench):
    over(bench, COUNTS.replace("MOST", "1"))
    bench.write(COUNTS.replace("MOST", "5"))
    assert preview(bench) == {"md": "1 FAILED becomes PENDING (restart.max): md"}
    amend(bench)
    bench.step_until_over()
    assert (bench.states(), len(attempts(bench, "md"))) == ({"md": "COMPLETED"}, 4)


def test_once_a_stale_result_was_made_anew_nothing_differs(bench):
    text = "params: {k: 1}\ntasks: {e: {command: 'echo ${{ params.k }} > o', outputs: {o: o}}}\n"
    over(bench, text)
    bench.write(text.replace("k: 1", "k: 2"))
    amend(bench)
    bench.cli("rerun", bench.root, "--stale")
    bench.step_until_over()
    assert "nothing differs from version 2" in bench.cli("amend", bench.root).stdout


def test_a_column_that_is_never_named_never_counts(bench):
    text = "tasks: {e: {matrix: {table: t.csv}, command: 'echo ${{ matrix.id }} ${{ matrix.v }}'}}\n"
    (bench.folder / "t.csv").write_text("id,v\na,1\nb,2\n")
    over(bench, text)
    for note in ("x", "z"):
        (bench.folder / "t.csv").write_text(f"id,v,note\na,1,{note}\nb,2,y\n")
        assert "no instance is concerned" in amend(bench)
    assert stale(bench) == []


def test_the_right_to_execute_is_part_of_a_script(bench):
    (bench.folder / "x.sh").write_text("#!/bin/sh\necho 1\n")
    (bench.folder / "x.sh").chmod(0o644)
    over(bench, "files: [x.sh]\ntasks: {e: {command: './${{ source }}/x.sh'}}\n")
    assert bench.states() == {"e": "FAILED"}
    (bench.folder / "x.sh").chmod(0o755)
    assert preview(bench) == {"e": "1 FAILED becomes PENDING (x.sh): e"}
    amend(bench)
    assert bench.step_until_over().state == "COMPLETED"


def test_a_retry_of_something_else_counts_from_zero_and_starts_at_once(bench):
    text = "params: {q: 1}\ntasks: {e: {command: '[ ${{ params.q }} = 2 ]', retries: {max: 2, delay: 1h}}}\n"
    bench.start(text)
    bench.step()
    bench.exit_of("e")
    bench.step()
    bench.write(text.replace("q: 1", "q: 2"))
    amend(bench)
    assert bench.step_until_over().state == "COMPLETED"


def test_to_name_what_was_the_same_then_makes_nothing_stale(bench):
    (bench.folder / "lib.sh").write_text("x\n")
    text = "params: {q: 1}\nfiles: [lib.sh]\ntasks: {e: {command: 'true'MORE}}\n"
    over(bench, text.replace("MORE", ""))
    bench.write(text.replace("MORE", ", uses: [lib.sh], params: {q: 1}"))
    assert "no instance is concerned" in amend(bench)
    (bench.folder / "lib.sh").write_text("y\n")
    assert preview(bench)["e"] == "1 COMPLETED becomes stale (lib.sh): e"


def test_a_preview_says_all_that_it_does(bench):
    over(
        bench,
        "params: {q: 1}\ntasks: {a: {command: 'echo ${{ params.q }}'}, b: {command: 'sleep 20'}}\n".replace(
            "sleep 20", "true"
        ),
    )
    bench.write("params: {q: 1.0}\ntasks: {a: {command: 'echo ${{ params.q }}'}, b: {command: 'true'}}\n")
    assert bench.cli("amend", bench.root).stdout.startswith("campaign.yaml: params.q 1 -> 1.0\n")
    bench.write("params: {q: '1'}\ntasks: {a: {command: 'echo ${{ params.q }}'}, b: {command: 'true'}}\n")
    assert bench.cli("amend", bench.root).stdout.startswith('campaign.yaml: params.q 1 -> "1"\n')


def test_a_cancelled_run_goes_on_only_after_that_was_shown(bench):
    text = "tasks: {a: {matrix: {i: ROWS}, command: 'sleep 20'}}\n"
    bench.start(text.replace("ROWS", "[1]"))
    bench.cli("cancel", bench.root)
    bench.write(text.replace("ROWS", "[1, 2]"))
    assert "(the run was cancelled: this takes that back)" in bench.cli("amend", bench.root).stdout


def test_a_run_whose_versions_are_lost_is_amended_from_the_campaign_folder(bench):
    text = "tasks: {a: {command: 'true'}}\n"
    over(bench, text)
    shutil.rmtree(bench.root / "versions")
    bench.write(text.replace("a: {", "a: {priority: 1, "))
    amend(bench)
    assert (bench.root / "campaign.yaml").exists()


def test_a_result_of_another_run_that_was_changed_is_only_not_taken(bench):
    over(
        bench,
        "tasks: {a: {matrix: {i: [1, 2]}, command: 'echo ${{ matrix.i }} > o', outputs: {o: {file: o, path: 'o/${{ matrix.i }}'}}}}\n",
    )
    file = bench.attempt("a/1") / "o"
    time.sleep(0.01)
    file.chmod(0o644)
    file.write_text("9\n")  # of the same size
    made = bench.cli("init", "campaign.yaml", "--from", bench.root, "--root", "runs/new", "--yes")
    assert "a: 1 of 2 reused; 1 new" in made.stdout
