"""Mistakes that were made once. Each test would have caught one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from matterstack import run_until_done
from matterstack.core.model import Retries
from matterstack.core.resources import escalate, most_cpu_seconds
from matterstack.core.states import FailureClass
from matterstack.spec.load import load_campaign
from matterstack.views.attempts import attempts
from tests.conftest import HEAD


def test_a_lone_surrogate_in_metrics_stops_nobody(bench):
    bench.start("tasks: {a: {command: 'printf %s ${{ params.m }} > metrics.json'}, b: {needs: [a], command: 'true'}}\n"
                "params: {m: '{\"x\": \"\\ud800\"}'}\n")  # fmt: skip
    assert bench.step_until_over().state == "COMPLETED"


@pytest.mark.parametrize("name", ["metrics.json", "exit.json", "out", "outputs.sha256"])
def test_a_named_pipe_where_a_file_is_expected_hangs_nobody(bench, name):
    bench.start(f"tasks: {{a: {{command: 'mkfifo {name}', outputs: {{o: {{path: out, optional: true}}}}}}}}\n")
    bench.step_until_over(limit_s=20)


def test_a_retry_waits_for_an_upstream_that_is_run_again(bench):
    bench.start(
        "tasks: {a: {command: '[ $MATTERSTACK_ATTEMPT = 1 ] || sleep 1; echo 1 > o', outputs: {o: o}}, "
        "b: {inputs: {i: o}, retries: {max: 1, delay: 1s}, command: 'cat ${{ inputs.i }}; [ $MATTERSTACK_ATTEMPT = 2 ]'}}\n"
    )
    bench.step_until(lambda: "retry 1 of 1" in bench.reasons().get("b", ""))
    bench.cli("rerun", bench.root, "a")
    bench.step_until(lambda: bench.states()["a"] == "RUNNING")

    assert bench.step_until_over().state == "COMPLETED"
    used = json.loads((bench.attempt("b", 2) / "task.json").read_text())["inputs"]["i"]["files"]
    assert [file["attempt"] for file in used] == [2]


def test_a_retry_is_blocked_if_an_upstream_has_failed_meanwhile(bench):
    bench.start(
        "tasks: {a: {command: '[ $MATTERSTACK_ATTEMPT = 1 ] && echo 1 > o', outputs: {o: o}}, "
        "b: {inputs: {i: 'o*'}, retries: {max: 1, delay: 1s}, command: '[ $MATTERSTACK_ATTEMPT = 2 ]'}}\n"
    )
    bench.step_until(lambda: "retry 1 of 1" in bench.reasons().get("b", ""))
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    assert bench.states() == {"a": "FAILED", "b": "BLOCKED"}


def test_rerun_downstream_leaves_what_runs_alone(bench):
    bench.start(
        "tasks: {a: {command: 'true'}, b: {needs: [a], command: 'sleep 60'}, c: {needs: [a], command: 'true'}}\n"
    )
    bench.step_until(lambda: bench.states() == {"a": "COMPLETED", "b": "RUNNING", "c": "COMPLETED"})
    bench.cli("rerun", bench.root, "a", "--downstream")
    assert bench.states() == {"a": "PENDING", "b": "RUNNING", "c": "PENDING"}


def test_what_a_rerun_unsettles_is_an_event(bench):
    bench.start("operators: {local: {kind: local, max_active: 1}}\n"
                "tasks: {a: {command: 'true'}, x: {command: 'sleep 60', needs: [a], priority: 9}, b: {needs: [a], command: 'true'}}\n")  # fmt: skip
    bench.step_until(lambda: bench.states() == {"a": "COMPLETED", "x": "RUNNING", "b": "READY"})
    bench.cli("rerun", bench.root, "a")
    assert bench.states()["b"] == "PENDING"
    assert [event["state"] for event in bench.journal() if "b" in event.get("tasks", ())][-1] == "PENDING"


def test_refresh_that_is_killed_between_commit_and_swap_is_finished_by_the_next_step(bench):
    (bench.folder / "s.sh").write_text("echo old\n")
    bench.start('files: ["*.sh"]\ntasks: {a: {command: "sh ${{ source }}/s.sh"}}\n')
    (bench.folder / "s.sh").write_text("echo new\n")
    from matterstack.core.events import SourceChanged
    from matterstack.orchestration.session import open_ledger
    from matterstack.run_root.layout import STAGING
    from matterstack.run_root.source import stage_source

    for commits in (False, True):
        with open_ledger(bench.root) as store:
            staged = stage_source(bench.root, bench.folder, ["s.sh"])
            if commits:
                store.append([SourceChanged("d", {path: list(item) for path, item in staged.items()})], 0.0)
        open_ledger(bench.root).close()
        assert (bench.root / "source" / "s.sh").read_text() == ("echo new\n" if commits else "echo old\n")
        assert not (bench.root / "source" / STAGING).exists()


def test_a_correction_within_the_runs_source_is_seen_and_not_overwritten(bench):
    (bench.folder / "s.sh").write_text("exit 1\n")
    bench.start('files: ["*.sh"]\ntasks: {a: {command: "sh ${{ source }}/s.sh"}}\n')
    (bench.root / "source" / "s.sh").write_text("echo mine\n")
    done = bench.cli("refresh", bench.root, "--yes")
    assert done.stdout.startswith("edited   s.sh")
    assert "was edited within the run's source/" in done.stderr
    (bench.folder / "s.sh").write_text("echo mine\n")
    assert "copied: 1 file" in bench.cli("refresh", bench.root, "--yes").stdout
    assert bench.cli("refresh", bench.root).stdout.startswith("source/ is as in ")


def test_an_order_of_axes_or_a_digit_is_another_campaign(tmp_path):
    digests = set()
    for matrix in ("{a: [1.00], b: [2]}", "{b: [2], a: [1.00]}", "{a: [1.0], b: [2]}"):
        (tmp_path / "c.yaml").write_text(HEAD + f"tasks: {{t: {{matrix: {matrix}, command: x}}}}\n")
        digests.add(load_campaign(tmp_path / "c.yaml").digest)
    assert len(digests) == 3


def test_retries_are_merged_key_by_key(tmp_path):
    (tmp_path / "c.yaml").write_text(
        HEAD
        + "defaults: {retries: {max: 2, delay: 10s}}\ntasks: {a: {command: x, retries: {delay: 1s}}, b: {command: x, retries: 0}}\n"
    )
    tasks = load_campaign(tmp_path / "c.yaml").campaign.tasks
    assert (tasks["a"].retries.max, tasks["a"].retries.delay_s) == (2, 1)
    assert (tasks["b"].retries.max, tasks["b"].retries.delay_s) == (0, 10)


def test_a_value_in_needs_is_made_safe_as_labels_are(tmp_path):
    (tmp_path / "c.yaml").write_text(
        HEAD + 'params: {v: ["a*", "a b", "ab", "-x"]}\ntasks: {x: {matrix: {v: "${{ params.v }}"}, command: x}, '
        'y: {matrix: {v: "${{ params.v }}"}, needs: ["x/${{ matrix.v }}"], command: x, label: "${{ matrix.v }}y"}}\n'
        .replace('"a*", ', '"c*", ')
    )  # fmt: skip
    loaded = load_campaign(tmp_path / "c.yaml")
    assert [[edge.upstream for edge in item.edges] for item in loaded.instances[4:]] == [
        ["x/c_"],
        ["x/a_b"],
        ["x/ab"],
        ["x/_x"],
    ]


def test_a_tasks_own_param_counts_in_its_resources(bench):
    bench.start(
        "params: {n: 1}\ntasks: {a: {matrix: {i: [3]}, params: {n: '${{ matrix.i }}'}, resources: {cpus: '${{ params.n }}'}, "
        "command: 'echo ${{ params.n }} ${{ resources.cpus }}'}}\n"
    )
    bench.step_until_over()
    assert (bench.attempt("a/3") / "stdout.log").read_text() == "3 3\n"


def test_a_templated_operator_that_cannot_run_is_refused_by_init(bench):
    file = bench.write(
        "operators: {c: {kind: slurm}}\ntasks: {a: {matrix: {op: [local, c]}, operator: '${{ matrix.op }}', command: 'true'}}\n"
    )
    assert bench.cli("init", file).returncode == 2


def test_a_typo_in_a_thousand_instances_is_told_once_and_at_once(tmp_path):
    from matterstack.errors import CampaignError

    (tmp_path / "c.yaml").write_text(
        HEAD + f"params: {{n: {list(range(1000))}}}\n"
        'tasks: {a: {matrix: {i: "${{ params.n }}"}, command: x, outputs: {o: "out/${{ matrix.i }}"}}, '
        'b: {matrix: {i: "${{ params.n }}"}, command: x, inputs: {o: "oot/${{ matrix.i }}"}}}\n'
    )
    with pytest.raises(CampaignError) as caught:
        load_campaign(tmp_path / "c.yaml")
    assert len(caught.value.problems) == 1
    assert "did you mean 'out/" in str(caught.value)


def test_a_rerun_below_a_group_that_is_waited_for_as_a_whole_is_no_product(bench):
    bench.start(
        f"params: {{n: {list(range(400))}}}\n"
        "tasks: {a: {matrix: {i: '${{ params.n }}'}, command: 'true'}, "
        "b: {matrix: {i: '${{ params.n }}'}, needs: [a], command: 'true'}, c: {needs: [b], command: 'true'}}\n"
    )
    from matterstack.core.graph import build, descendants
    from matterstack.orchestration.session import open_ledger

    with open_ledger(bench.root, read_only=True) as store:
        edges = store.all_edges()
    assert len(edges) == 400 + 400 + 400 + 1
    assert len(descendants(build(edges), ["a/1"])) == 400 + 1 + 2  # with the nodes of both groups


def test_a_cell_may_hold_any_character_but_the_end_of_its_line(tmp_path):
    (tmp_path / "t.csv").write_text('id,note\na,"x\u2028y\x0cz"\nb,"two\nlines"\n', newline="")
    (tmp_path / "c.yaml").write_text(HEAD + 'tasks: {a: {matrix: {table: t.csv}, command: "x ${{ matrix.note }}"}}\n')
    notes = [item.matrix["note"] for item in load_campaign(tmp_path / "c.yaml").instances]
    assert notes == ["x\u2028y\x0cz", "two\nlines"]


@pytest.mark.skipif(not (shutil.which("strace") or os.environ.get("CI")), reason="needs strace")
@pytest.mark.parametrize("write", range(1, 60, 4))
def test_a_commit_that_is_killed_at_any_write_is_rolled_back_and_repeated(bench, write):
    bench.start(
        f"tasks: {{a: {{matrix: {{i: {list(range(40))}}}, command: 'echo ${{{{ matrix.i }}}} >> WITNESS'}}}}\n"
        "operators: {local: {kind: local, slots: {cpus: 100}}}\n"
    )
    killed = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=KILL:when={write}",
         sys.executable, "-m", "matterstack", "step", str(bench.root)],
        cwd=bench.folder, capture_output=True,
    )  # fmt: skip
    assert killed.returncode in (0, -signal.SIGKILL, 137)

    assert bench.cli("run", bench.root).returncode == 0

    assert sorted(map(int, bench.witnessed())) == list(range(40))


def test_a_fan_in_is_stale_when_a_task_that_it_had_to_do_without_succeeds(bench):
    (bench.folder / "s.sh").write_text("[ $1 != 2 ] && echo $1 > o\n")
    bench.start(
        'files: ["*.sh"]\ntasks: {a: {matrix: {n: [1, 2, 3]}, command: "sh ${{ source }}/s.sh ${{ matrix.n }}", allow_failure: true, '
        'outputs: {o: {file: o, path: "o/${{ matrix.n }}"}}}, '
        'b: {inputs: {i: "o/*"}, allow_dependency_failure: {min: 2}, command: "cat ${{ inputs.i }} > p", outputs: {p: p}}}\n'
    )
    bench.step_until_over()
    assert "\nstale  " not in bench.cli("status", bench.root).stdout
    (bench.folder / "s.sh").write_text("echo $1 > o\n")
    bench.cli("refresh", bench.root, "--yes")
    bench.cli("rerun", bench.root, "a/2")
    bench.step_until_over()
    assert "stale  b: made without a/2, which has succeeded since" in bench.cli("status", bench.root).stdout
    assert bench.cli("explain", bench.root).stdout.startswith(
        "every task is COMPLETED, 1 of them stale:\nb: COMPLETED: stale: "
    )
    bench.cli("rerun", bench.root, "b")
    bench.step_until_over()
    assert "\nstale  " not in bench.cli("status", bench.root).stdout
    assert (bench.root / "results" / "p").read_text() == "1\n2\n3\n"


def test_a_paused_task_is_pending_wherever_it_is_shown(bench):
    bench.start("tasks: {a: {command: 'true'}, b: {command: 'true'}}\n")
    bench.cli("pause", bench.root)
    report = bench.step()
    assert report.line() == "Tick: 0 ready, 0 submitted, 0 completed, 0 failed, 0 active, 2 pending"
    rows = json.loads(bench.cli("results", bench.root, "--json").stdout)
    assert {row["state"] for row in rows} == set(bench.states().values()) == {"PENDING"}


def test_a_dry_run_tells_of_wishes_and_of_what_will_be_rejected(bench):
    from matterstack.core.events import Wished
    from matterstack.orchestration.session import open_ledger

    bench.start(
        "tasks: {a: {command: 'sleep 60'}, f: {command: 'false', outputs: {o: o}}, "
        "r: {inputs: {i: o}, command: 'echo ${{ inputs.i }}', allow_dependency_failure: true}}\n"
    )
    bench.step()
    bench.exit_of("f")
    with open_ledger(bench.root) as store:
        store.append([Wished((("a", 1),), "cancel")], 0.0)
    lines = bench.cli("step", "--dry-run", bench.root).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "would record  f, attempt 1", "would record  r, attempt 1", "would end     a, attempt 1 (cancel requested)",
    ]  # fmt: skip


def test_the_wrapper_leaves_the_tasks_environment_alone(bench):
    names = "claim head limit timeout date shell options mv started stat uptime kills pid file code tries sha256 folder"
    env = ", ".join(f"{name}: mine" for name in names.split())
    bench.start(f"tasks: {{a: {{env: {{{env}}}, command: env, resources: {{time: 1m}}, outputs: {{}}}}}}\n")
    bench.step_until_over()
    found = dict(
        line.split("=", 1) for line in (bench.attempt("a") / "stdout.log").read_text().splitlines() if "=" in line
    )
    assert {name: found.get(name) for name in names.split()} == dict.fromkeys(names.split(), "mine")


def test_a_case_within_a_substitution_does_not_let_a_value_out_of_its_quotes(tmp_path):
    (tmp_path / "c.yaml").write_text(
        HEAD + "params: {x: $(touch pwned)}\n"
        'tasks: {a: {command: "echo \\"$(case a in a) echo \\"${{ params.x }}\\" ;; esac)\\""}}\n'
    )
    with pytest.raises(Exception, match="is inside double quotes"):
        load_campaign(tmp_path / "c.yaml")


@pytest.mark.parametrize("limit", ["0s", "0.001s"])
def test_a_time_limit_of_nothing_is_refused_and_not_taken_for_none(tmp_path, limit):
    (tmp_path / "c.yaml").write_text(HEAD + f"tasks: {{a: {{command: x, resources: {{time: {limit}}}}}}}\n")
    with pytest.raises(Exception, match="leaves no time to run"):
        load_campaign(tmp_path / "c.yaml")


def test_what_is_over_stays_over_when_it_is_cancelled_or_paused(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    bench.step_until_over()
    assert bench.cli("cancel", bench.root).stdout == "cancelled: 1 had ended before\n"
    assert bench.cli("pause", bench.root).returncode == 2
    assert bench.cli("run", bench.root).returncode == 0


def test_refresh_of_a_moved_run_root_never_takes_another_campaigns_files(bench, tmp_path):
    (bench.folder / "s.sh").write_text("echo right\n")
    bench.start('files: ["*.sh"]\ntasks: {a: {command: "sh ${{ source }}/s.sh"}}\n')
    deep = tmp_path / "x" / "y" / "z"
    deep.mkdir(parents=True)
    (tmp_path / "x" / "s.sh").write_text("echo wrong\n")
    bench.root.rename(deep / "t")
    (bench.folder / "s.sh").write_text("echo better\n")

    assert bench.cli("refresh", deep / "t", "--yes").returncode == 0

    assert (deep / "t" / "source" / "s.sh").read_text() == "echo better\n"
    (bench.folder / "campaign.yaml").rename(bench.folder / "elsewhere.yaml")
    lost = bench.cli("refresh", deep / "t")
    assert lost.returncode == 2
    assert "say where its folder is now with --from DIR" in lost.stderr


def test_the_loop_does_not_spin_while_a_command_outlives_its_wrapper(bench):
    bench.start("tasks: {a: {command: 'sleep 2', retries: 0}}\n")
    bench.step()
    claim = json.loads(bench.wait_for(bench.attempt("a") / "claim").read_text())
    bench.wait_for(bench.attempt("a") / "stderr.log")
    time.sleep(0.2)
    os.kill(claim["pid"], signal.SIGKILL)
    ticks = []

    run_until_done(bench.root, ticks.append)

    assert len(ticks) < 8


def test_a_job_that_removes_its_claim_is_lost_and_not_started_anew(bench):
    bench.start("tasks: {a: {command: 'echo x >> WITNESS; rm -rf ./*; sleep 0.2; kill -9 $PPID'}}\n")
    bench.step_until_over()
    assert bench.witnessed() == ["x"]
    assert attempts(bench.root, "a")[1][-1]["class"] == "lost"


REFUSED = {
    "a huge number in a template": ("tasks: {a: {command: 'echo ${{ 1e400 }}'}}", "is too large for a number"),
    "a huge priority": ("tasks: {a: {command: x, priority: 99999999999999999999}}", "expected a whole number"),
    "huge cpus": ("tasks: {a: {command: x, resources: {cpus: 99999999999999999999}}}", "expected a whole number"),
    "a long template": ("tasks: {a: {command: 'x ${{ " + "a" * 1100 + " }}', outputs: {o: '${{ " + "b" * 1100 + " }}'}}}", "a template of"),
    "null in a list": ("tasks: {a: {command: [x, null]}}", "expected a text or a number"),
    "an unknown kind": ("operators: {l: {kind: locl}}\ntasks: {a: {command: x}}", "did you mean 'local'?"),
    "an input as an output": ("tasks: {a: {command: x, inputs: {i: {path: c.yaml, as: o}}, outputs: {o: o}}}", "is an output as well"),
    "more than there are": ("tasks: {b: {command: x}, a: {command: x, needs: [b], allow_dependency_failure: {min: 3}}}", "needs at least 3 completed tasks, but a depends on only 1"),
    "no program": ("tasks: {a: {command: ['']}}", "the name of the program is empty"),
    "another case": ("tasks: {c: {command: x}, a: {command: x, needs: [C]}}", "did you mean 'c'?"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_its_place(tmp_path, text, words):
    from matterstack.errors import CampaignError

    (tmp_path / "c.yaml").write_text(HEAD + text + "\n")
    with pytest.raises(CampaignError, match=words.replace("?", r"\?")) as caught:
        load_campaign(tmp_path / "c.yaml")
    assert all(problem.line for problem in caught.value.problems)


def test_more_problems_are_told_beside_an_unknown_key(tmp_path):
    from matterstack.errors import CampaignError

    (tmp_path / "c.yaml").write_text(
        HEAD + "tasks:\n  a: {comand: x, needs: [zz], description: 3}\n"
        '  b: {command: "${{ nope }} ${{ params.y }}", env: {E: "${{ inputs.q }}"}, needs: [b]}\n'
    )
    with pytest.raises(CampaignError) as caught:
        load_campaign(tmp_path / "c.yaml")
    assert [problem.where for problem in caught.value.problems] == [
        "tasks.a.comand", "tasks.a.needs[0]", "tasks.a.description", "tasks.b", "tasks.b.command", "tasks.b.command",
        "tasks.b.env.E",
    ]  # fmt: skip


def test_json_may_write_characters_as_pairs_of_escapes_and_indent_with_tabs(tmp_path):
    data = {"matterstack": 1, "name": "t", "tasks": {"a": {"command": "echo 😀 \\ud83d / \t"}}}
    (tmp_path / "c.json").write_text(json.dumps(data, indent="\t"))
    assert load_campaign(tmp_path / "c.json").campaign.tasks["a"].command == data["tasks"]["a"]["command"]


def test_a_link_of_an_older_attempt_does_not_stay_beside_a_newer_result(bench):
    bench.start(
        "tasks: {a: {command: 'echo 1 > o; [ $MATTERSTACK_ATTEMPT = 2 ] || echo 1 > extra', "
        "outputs: {o: o, e: {path: extra, optional: true}}}}\n"
    )
    bench.step_until_over()
    assert (bench.root / "results" / "extra").exists()
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    assert sorted(path.name for path in (bench.root / "results").iterdir()) == ["o"]


def test_files_in_a_folder_output_are_digested_by_the_job_and_found_by_globs(bench):
    bench.start(
        "tasks: {a: {command: 'mkdir d/sub; echo 1 > d/x; echo 2 > d/sub/y', outputs: {d: d/}}, "
        "b: {inputs: {all: 'd/**', one: d/x}, command: 'cat ${{ inputs.all }} ${{ inputs.one }}'}}\n"
    )
    bench.step_until_over()
    assert len((bench.attempt("a") / "outputs.sha256").read_text().splitlines()) == 2
    assert (bench.attempt("b") / "stdout.log").read_text() == "2\n1\n1\n"


def test_an_input_as_keeps_its_mode(bench):
    script = bench.folder / "run.sh"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    bench.start("tasks: {a: {inputs: {s: {path: run.sh, as: go.sh}}, command: ./go.sh}}\n")
    assert bench.step_until_over().state == "COMPLETED"


def test_init_into_an_empty_folder_that_exists_also_the_current_one(bench):
    file = bench.write("tasks: {a: {command: 'true'}}\n")
    empty = bench.folder / "empty"
    empty.mkdir()
    (bench.folder / "link").symlink_to(empty)

    assert bench.cli("init", file, "--root", ".", cwd=empty).returncode == 0
    assert bench.cli("run", ".", cwd=empty).returncode == 0
    assert bench.cli("init", file, "--root", bench.folder / "link").returncode == 2
    assert sorted(path.name for path in empty.iterdir()) == sorted(
        ["campaign.yaml", "operators.yaml", "run.json", "run.lock", "state.sqlite", "journal.jsonl", "expanded", "source",
         "tasks", "results", ".gitignore", ".gitattributes"]
    )  # fmt: skip


def test_a_hint_to_type_is_quoted(bench):
    file = bench.write("tasks: {a: {command: 'true'}}\n")
    done = bench.cli("init", file, "--root", "a b$(touch pwned)'ü")
    assert """`matterstack run 'a b$(touch pwned)'"'"'ü'`""" in done.stdout


def test_closed_output_is_no_reason_to_fail(bench):
    import subprocess
    import sys

    bench.start("tasks: {a: {command: 'true'}}\n")
    for words in ("status", "step", "results"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m matterstack {words} {bench.root} >&- 2>&-"], cwd=bench.folder
        )
        assert done.returncode == 0


def test_names_that_are_not_utf8_are_refused_or_shown_but_never_a_traceback(bench):
    odd = os.fsdecode(b"r\xff")
    file = bench.write("tasks: {a: {command: 'true'}}\n")
    assert bench.cli("run", file, "--root", odd).returncode == 0
    assert bench.cli("run", file, "--set", os.fsdecode(b"x=\xff")).returncode == 2
    (bench.folder / "d").mkdir()
    (bench.folder / "d" / odd).write_text("")
    file = bench.write("files: [d/**]\ntasks: {a: {command: 'true'}}\n")
    done = bench.cli("validate", file)
    assert done.returncode == 2
    assert "is not UTF-8; rename the file" in done.stderr


# --- found in a review of the campaign file's checks -----------------------------------------------------------------


def test_the_number_of_the_attempt_can_be_used_in_resources_and_params(bench):
    bench.start(
        "tasks: {a: {command: 'false', retries: 1, params: {seed: '${{ task.attempt }}'}, "
        "resources: {memory: '${{ task.attempt }}G', time: '${{ params.seed }}m'}}}\n"
    )
    bench.step_until_over()
    second = json.loads((bench.attempt("a", 2) / "task.json").read_text())
    assert second["resources"] == {"cpus": 1, "memory": "2G", "time": "2m"}
    assert second["params"] == {"seed": 2}


def test_a_factor_multiplies_the_one_cpu_that_is_asked_for_by_default(bench):
    bench.start("tasks: {a: {command: 'false', retries: {max: 1, exit_code: {cpus: x2}}}}\n")
    bench.step_until_over()
    assert json.loads((bench.attempt("a", 2) / "task.json").read_text())["resources"]["cpus"] == 2


def test_a_limit_of_growth_never_makes_a_resource_smaller():
    rules = Retries(max=1, rules={"timeout": {"time": "x2", "up_to": "1h"}})
    assert escalate({"time": "10h"}, rules, [(FailureClass.TIMEOUT, None)]) == {"time": "36000s"}


def test_the_most_cpu_seconds_is_a_bound_also_where_rules_ask_for_less():
    rules = Retries(max=5, rules={"timeout": {"time": "1m"}, "exit_code": {"time": "1m"}})
    assert most_cpu_seconds({"time": "10h"}, rules) == 6 * 36000


def test_answers_and_metrics_may_be_named_under_several_keys(bench):
    file = bench.write(
        "tasks:\n  a: {matrix: {m: [1, 2]}, command: 'true'}\n"
        "  b: {matrix: {m: [1.0, 2]}, command: 'echo ${{ metrics.a.e }}', resources: {memory: '${{ metrics.a.m }}'}}\n"
    )
    loaded = load_campaign(file)
    assert [(e.upstream, i.task_id) for i in loaded.instances for e in i.edges] == [("a/1", "b/1.0"), ("a/2", "b/2")]


def test_own_params_are_seen_by_deadline_condition_and_schema(bench):
    file = bench.write(
        "operators: {h: {kind: human}}\nparams: {n: no}\ntasks: {a: {operator: h, instructions: x, params: {days: 3d, n: 3, go: true}, "
        "deadline: '${{ params.days }}', when: '${{ params.go }}', response_schema: {maxProperties: '${{ params.n }}'}}}\n"
    )
    load_campaign(file)


def test_a_value_that_bash_would_evaluate_again_can_only_be_a_number(bench):
    bench.start(
        "params: {n: 3}\ntasks: {a: {command: 'if [[ ${{ params.n }} -eq 3 ]]; then echo a >> WITNESS; fi; let x=${{ params.n }}'}}\n"
    )
    bench.step_until_over()
    assert bench.witnessed() == ["a"]


def test_many_unknown_names_and_many_patterns_are_told_within_seconds(bench):
    tasks = {f"t{i}": {"command": "x", "needs": [f"zz{i}"]} for i in range(3000)}
    file = bench.write(json.dumps({"matterstack": 1, "name": "t", "tasks": tasks}), "c.json")
    done = bench.cli("validate", file, timeout=30)
    assert done.stderr.count("is not defined") == 3000
    deep = {f"t{i}": {"command": "x", "outputs": {"o": "a/" * 25 + f"f{i}"}} for i in range(300)}
    deep["z"] = {"command": "x", "inputs": {"i": "**/a/" * 14 + "**/q"}}
    file = bench.write(json.dumps({"matterstack": 1, "name": "t", "tasks": deep}), "d.json")
    assert "matches no declared output" in bench.cli("validate", file, timeout=30).stderr


def test_a_table_with_too_many_rows_is_not_read_to_its_end(bench):
    with open(bench.folder / "t.csv", "w") as file:
        file.write("id\n" + "".join(f"{n}\n" for n in range(300_000)))
    done = bench.cli("validate", bench.write("tasks: {a: {command: x, matrix: {table: t.csv}}}\n"), timeout=30)
    assert done.stderr.endswith("t.csv:250002:1: has more than 250000 rows, the most instances of a campaign\n")


def test_a_task_that_failed_before_its_hand_over_is_shown_with_its_own_attempt(bench):
    file = bench.write("tasks: {a: {command: x, env: {T: {from_env: NOT_SET_HERE}}}}\n")
    done = bench.cli("run", file, "--root", bench.root)
    assert "a failed: attempt 1, the environment variable NOT_SET_HERE is not set where the step runs" in done.stderr


def test_a_persons_answer_can_be_an_input(bench):
    file = bench.write(
        "operators: {h: {kind: human}}\ntasks: {a: {operator: h, instructions: x}, b: {inputs: {r: responses/a.json}, command: 'cat ${{ inputs.r }}'}}\n"
    )
    assert [(e.upstream, i.task_id) for i in load_campaign(file).instances for e in i.edges] == [("a", "b")]


@pytest.mark.parametrize("text", ["{'name': 'x'}", "{'command': {'program': 'x', 'arguments': ['\\ud800']}}"])
def test_an_odd_recording_is_refused_or_imported_never_a_traceback(bench, text):
    document = json.loads(text.replace("'", '"'))
    workflow = {"workflow": {"tasks": [{"name": "a", "files": [{"link": "input", "name": ""}], **document}]}}
    (bench.folder / "in.json").write_text(json.dumps(workflow))
    done = bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (bench.folder / "c.yaml").exists()


def test_a_file_that_is_changed_in_place_makes_an_edge(bench):
    tasks = [{"id": "a", "outputFiles": ["f"]}, {"id": "b", "inputFiles": ["f"], "outputFiles": ["f"]}]
    (bench.folder / "in.json").write_text(json.dumps({"workflow": {"specification": {"tasks": tasks}}}))
    bench.cli("import", "wfformat", "in.json", "-o", "c.yaml")
    assert json.loads(bench.cli("graph", "c.yaml", "--json").stdout)["edges"] == [["a", "b"]]
