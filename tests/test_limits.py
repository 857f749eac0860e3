"""Limits of a whole run: what runs at once, and what it may use up before somebody decides."""

from __future__ import annotations

import json

import pytest

from matterstack.errors import CampaignError
from matterstack.spec.load import load_campaign


def kinds(bench, word):
    return [event for event in bench.journal() if event["kind"] == word]


def most_at_once(bench, group=""):
    """Give how many attempts were alive at the same time, by their records."""
    marks = []
    for path in bench.root.glob(f"tasks/{group}*/*/attempt-*/exit.json"):
        data = json.loads(path.read_text())
        marks += [(data["started_at"], 1), (data["ended_at"], -1)]
    alive = most = 0
    for _, step in sorted(marks):
        alive += step
        most = max(most, alive)
    return most


def test_max_active_counts_all_operators(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 8}}, other: {kind: local, slots: {cpus: 8}}}\nlimits: {max_active: 2}\n"
        "tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'sleep 0.2'}, b: {operator: other, matrix: {i: [1, 2, 3]}, command: 'sleep 0.2'}}\n"
    )
    assert bench.step().active == 2
    assert "the run has 2 of 2 active" in bench.reasons()["b/1"]
    assert bench.cli("run", bench.root).returncode == 0
    assert most_at_once(bench) <= 2


def test_a_licence_is_held_by_as_many_as_there_are_and_others_go_before(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 8}}}\nlimits: {licences: {vasp: 1}}\n"
        "tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'sleep 0.2', resources: {licences: {vasp: 1}}}, b: {command: 'true'}}\n"
    )
    report = bench.step()
    assert [task for task, _ in report.submitted] == ["a/1", "b"]
    assert "1 of 1 licences of vasp are in use" in bench.reasons()["a/2"]
    assert bench.cli("run", bench.root).returncode == 0
    assert most_at_once(bench, "a") == 1


def test_a_licence_that_nothing_limits_is_a_warning_and_too_many_an_error(bench):
    text = "limits: {licences: {vasp: 2}}\ntasks: {a: {command: 'true', resources: {licences: {NAME: COUNT}}}}\n"
    loaded = load_campaign(bench.write(text.replace("NAME", "vaps").replace("COUNT", "1")))
    assert [str(item.message) for item in loaded.warnings] == [
        "'vaps' is not under `limits: {licences: …}` (did you mean 'vasp'?), so nothing limits it"
    ]
    with pytest.raises(CampaignError, match="3 asked for, the run has 2"):
        load_campaign(bench.write(text.replace("NAME", "vasp").replace("COUNT", "3")))


ATTEMPTS = "limits: {attempts: 2}\noperators: {local: {kind: local, max_active: 1}}\ntasks: {a: {matrix: {i: [1, 2, 3, 4]}, command: 'echo ${{ matrix.i }} >> WITNESS'}}\n"


def test_a_run_that_has_made_its_attempts_pauses_with_the_figures(bench):
    bench.start(ATTEMPTS)
    done = bench.cli("run", bench.root)
    assert done.returncode == 4
    assert "paused: 2 of 2 attempts made" in done.stdout
    assert bench.witnessed() == ["1", "2"]
    assert bench.reasons()["a/3"] == "the run is paused: 2 of 2 attempts made"
    assert "paused: 2 of 2 attempts made" in bench.cli("status", bench.root).stdout
    assert len(kinds(bench, "paused")) == 1


def test_it_goes_on_after_an_amendment_that_raises_the_limit(bench):
    bench.start(ATTEMPTS)
    bench.cli("run", bench.root)
    bench.write(ATTEMPTS.replace("attempts: 2", "attempts: 3"))
    assert "limits.attempts 2 -> 3" in bench.cli("amend", bench.root, "--yes").stdout
    assert bench.cli("run", bench.root).returncode == 4
    assert bench.witnessed() == ["1", "2", "3"]


def test_it_goes_on_over_its_limit_until_the_next_amendment(bench):
    bench.start(ATTEMPTS)
    bench.cli("run", bench.root)
    refused = bench.cli("resume", bench.root)
    assert refused.returncode == 2
    assert "2 of 2 attempts made; `matterstack resume" in refused.stderr
    assert bench.cli("resume", bench.root, "--over").returncode == 0
    assert bench.cli("run", bench.root).returncode == 0
    assert sorted(bench.witnessed()) == ["1", "2", "3", "4"]
    bench.write(ATTEMPTS.replace("3, 4]", "3, 4, 5]"))
    bench.cli("amend", bench.root, "--yes")
    assert bench.cli("run", bench.root).returncode == 4


def test_cpu_hours_are_never_exceeded_and_count_as_they_were_used(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 4}}}\nlimits: {cpu_hours: 0.002}\n"
        "tasks: {a: {matrix: {i: {range: 6}}, command: 'echo x >> WITNESS', resources: {time: 3s}}}\n"
    )  # 7.2 s: two of 3 s at once, and then more, since each took much less
    assert len(bench.step().submitted) == 2
    assert bench.cli("run", bench.root).returncode == 0
    assert len(bench.witnessed()) == 6


def test_a_task_that_needs_more_than_is_left_pauses_the_run(bench):
    bench.start("limits: {cpu_hours: 0.01}\ntasks: {a: {command: 'true', resources: {time: 1h, cpus: 2}}}\n")
    done = bench.cli("run", bench.root)
    assert done.returncode == 4
    assert "0 of 0.01 cpu-hours used, the next needs 2" in done.stdout


def test_failures_for_good_pause_and_a_resume_forgives_them(bench):
    bench.start(
        "operators: {local: {kind: local, max_active: 1}}\nlimits: {max_failures: 2}\n"
        "tasks: {soft: {command: 'exit 1', allow_failure: true, priority: 1}, a: {matrix: {i: {range: 5}}, command: 'exit 1'}}\n"
    )
    assert bench.cli("run", bench.root).returncode == 4
    assert list(bench.states().values()).count("FAILED") == 3
    assert "2 tasks have failed since the last resume, the limit is 2" in bench.cli("explain", bench.root).stdout
    assert bench.cli("resume", bench.root).returncode == 0
    assert bench.cli("run", bench.root).returncode == 4
    assert list(bench.states().values()).count("FAILED") == 5


def test_a_rebuilt_ledger_knows_what_paused_it(bench):
    from matterstack.care.repair import repair
    from tests.test_doctor import content

    bench.start(ATTEMPTS)
    bench.cli("run", bench.root)
    before = content(bench.root / "state.sqlite")
    (bench.root / "state.sqlite").unlink()
    repair(bench.root)
    assert content(bench.root / "state.sqlite") == before
    assert bench.cli("run", bench.root).returncode == 4


def test_validate_says_which_limits_the_run_will_reach(bench):
    text = "limits: {attempts: 100, cpu_hours: 10}\ntasks:\n  p: {command: 'true', resources: {time: 1m}, outputs: {t: t.csv}}\n"
    file = bench.write(
        f"{text}  q: {{matrix: {{table: t.csv}}, expect: 200, resources: {{time: 1h}}, command: 'true'}}\n"
    )
    told = bench.cli("validate", file).stdout
    assert "about 201 instances are expected: the run pauses at `limits.attempts: 100`" in told
    assert "200.017 cpu-hours are more than `limits.cpu_hours: 10`, at which the run pauses" in told
    few = bench.write(f"{text}  q: {{matrix: {{table: t.csv}}, expect: 5, resources: {{time: 1h}}, command: 'true'}}\n")
    assert "the run pauses" not in bench.cli("validate", few).stdout


def test_a_run_that_has_made_its_last_attempt_ends_where_nothing_more_is_to_start(bench):
    bench.start(
        "limits: {attempts: 1}\n"
        "tasks:\n  p: {command: 'echo id > t.csv', outputs: {t: t.csv}}\n  q: {matrix: {table: t.csv}, command: 'true'}\n"
    )
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.states() == {"p": "COMPLETED", "q": "SKIPPED"}
