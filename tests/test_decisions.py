"""The decisions as tables: legal moves, readiness, what a failure leads to, the state of a run."""

from __future__ import annotations

import pytest

from matterstack.core.model import AttemptFacts, DependencyRule, Evidence, LiveAttempt, Observation, Retries, Sighting
from matterstack.core.readiness import TaskStanding, Upstream, WaitingTask, settle
from matterstack.core.reasons import NO_REASON
from matterstack.core.reconcile import reconcile
from matterstack.core.resources import escalate, parse_resources
from matterstack.core.states import ATTEMPT_MOVES, ENDED, LIVE, AttemptState, FailureClass, TaskState, run_state
from matterstack.text.reasons import sentence

STATES = {  # legend of the tables below
    "c": (TaskState.COMPLETED, False), "F": (TaskState.FAILED, False), "f": (TaskState.FAILED, True),
    "B": (TaskState.BLOCKED, False), "X": (TaskState.CANCELLED, False), "s": (TaskState.SKIPPED, False),
    "p": (TaskState.PENDING, False), "r": (TaskState.RUNNING, False), "R": (TaskState.READY, False),
}  # fmt: skip


def test_every_live_state_may_go_to_any_end_and_no_end_goes_back_to_life():
    for state in LIVE:
        assert ATTEMPT_MOVES[state] >= ENDED
        assert state not in ATTEMPT_MOVES[state]
    for state in ENDED:
        assert not ATTEMPT_MOVES[state] & LIVE
    assert set(ATTEMPT_MOVES) == set(AttemptState)


# One string an entry of needs or inputs, one letter an upstream task; then rule, allow_skipped, and what follows.
READINESS = [
    ([], None, False, "READY"),
    (["c"], None, False, "READY"),
    (["cr"], None, False, "PENDING"),
    (["F"], None, False, "BLOCKED"),
    (["rF"], None, False, "BLOCKED"),
    (["B"], None, False, "BLOCKED"),
    (["X"], None, False, "BLOCKED"),
    (["f"], None, False, "SKIPPED"),
    (["fr"], None, False, "PENDING"),
    (["fF"], None, False, "BLOCKED"),
    (["cs"], None, False, "READY"),
    (["ss"], None, False, "SKIPPED"),
    (["c", "s"], None, False, "SKIPPED"),
    (["c", "s"], None, True, "READY"),
    (["sf"], None, True, "SKIPPED"),
    (["F"], DependencyRule(), False, "READY"),
    (["Fr"], DependencyRule(), False, "PENDING"),
    (["FBXf"], DependencyRule(), False, "READY"),
    (["ss"], DependencyRule(), False, "SKIPPED"),
    (["ss"], DependencyRule(), True, "READY"),
    (["cccF"], DependencyRule(min_count=3), False, "READY"),
    (["ccFf"], DependencyRule(min_count=3), False, "BLOCKED"),
    (["cc", "c"], DependencyRule(min_count=3), False, "READY"),
    (["cF"], DependencyRule(min_percent=50), False, "READY"),
    (["cFF"], DependencyRule(min_percent=50), False, "BLOCKED"),
    (["cFs"], DependencyRule(min_percent=50), False, "READY"),
    (["ccc"], DependencyRule(min_percent=100), False, "READY"),
]


@pytest.mark.parametrize(("entries", "rule", "allow_skipped", "expected"), READINESS)
def test_readiness(entries, rule, allow_skipped, expected):
    upstreams, pairs = {}, []
    for number, letters in enumerate(entries):
        for position, letter in enumerate(letters):
            name = f"u{number}{position}"
            state, soft = STATES[letter]
            upstreams[name] = Upstream.of_task(TaskStanding(name, position, state, soft, None))
            pairs.append((f"needs[{number}]", name))

    (change,) = settle([WaitingTask("t", rule, allow_skipped, tuple(pairs))], upstreams)

    assert change.state == expected
    assert (change.watch is not None) == (expected == "PENDING")


def test_too_few_says_how_many():
    upstreams = {
        f"u{i}": Upstream.of_task(TaskStanding(f"u{i}", i, STATES["c" if i < 5 else "F"][0], False, None))
        for i in range(7)
    }
    task = WaitingTask("t", DependencyRule(min_count=7), False, tuple(("inputs.x", name) for name in upstreams))

    (change,) = settle([task], upstreams)

    assert sentence(change.reason) == "5 of 7 completed upstream, at least 7 needed"
    assert change.cause == "u5"


def facts(retries=Retries(), tries=0, wish=None, soft=False, unclaimed=0, state=AttemptState.RUNNING):  # noqa: B008 (frozen)
    live = LiveAttempt("t", tries + 1, "/x", state, "", 60.0, 0.0)
    return AttemptFacts(live, wish, 50.0 if wish else None, NO_REASON, retries, tries, unclaimed, soft)


E0 = Observation(Sighting.ENDED, exit_code=0, ended_at=40.0)
E0_LATE = Observation(Sighting.ENDED, exit_code=0, ended_at=60.0)
E1 = Observation(Sighting.ENDED, exit_code=1, ended_at=60.0)
TIMEOUT = Observation(Sighting.ENDED, exit_code=124, failure=FailureClass.TIMEOUT, ended_at=60.0)
GONE = Observation(Sighting.GONE)
FENCED = Observation(Sighting.NOT_STARTED)
NONE, MISSING = Evidence(), Evidence(missing=("out",))
RECONCILE = [  # facts, observation, evidence -> attempt, class, task
    (facts(), E0, NONE, "COMPLETED", None, "COMPLETED"),
    (facts(), E0, MISSING, "FAILED", "missing_output", "FAILED"),
    (facts(), E1, NONE, "FAILED", "exit_code", "FAILED"),
    (facts(Retries(1)), E1, NONE, "FAILED", "exit_code", "PENDING"),
    (facts(Retries(1), tries=1), E1, NONE, "FAILED", "exit_code", "FAILED"),
    (facts(Retries(1, delay_s=5)), E1, NONE, "FAILED", "exit_code", "PENDING"),
    (facts(Retries(1, rules={"exit_code_1": "never"})), E1, NONE, "FAILED", "exit_code", "FAILED"),
    (facts(Retries(1, rules={"exit_code": "never"})), TIMEOUT, NONE, "FAILED", "timeout", "PENDING"),
    (facts(), GONE, NONE, "LOST", "lost", "FAILED"),
    (facts(Retries(1)), GONE, NONE, "LOST", "lost", "PENDING"),
    (facts(), FENCED, NONE, "CANCELLED", "not_started", "PENDING"),
    (facts(unclaimed=2), FENCED, NONE, "CANCELLED", "not_started", "FAILED"),
    (facts(unclaimed=2, state=AttemptState.SUBMITTING), FENCED, NONE, "CANCELLED", "not_started", "PENDING"),
    (facts(wish="cancel"), FENCED, NONE, "CANCELLED", "not_started", "CANCELLED"),
    (facts(wish="cancel"), E1, NONE, "CANCELLED", "cancelled", "CANCELLED"),
    (facts(wish="cancel"), E0_LATE, NONE, "CANCELLED", "cancelled", "CANCELLED"),
    (facts(wish="cancel"), E0, NONE, "COMPLETED", None, "COMPLETED"),
    (facts(wish="rerun"), E1, NONE, "CANCELLED", "cancelled", "PENDING"),
    (facts(Retries(3), wish="cancel"), GONE, NONE, "CANCELLED", "cancelled", "CANCELLED"),
]


@pytest.mark.parametrize(("given", "seen", "evidence", "attempt", "failure", "task"), RECONCILE)
def test_reconcile(given, seen, evidence, attempt, failure, task):
    change, task_change = reconcile(given, seen, evidence, now=100.0)

    assert (change.state, change.failure, task_change.state) == (attempt, failure, task)
    assert (task_change.retry_at is not None) == (given.retries.delay_s > 0)


def test_what_is_not_seen_changes_nothing():
    assert reconcile(facts(), Observation(Sighting.UNKNOWN), NONE, 100.0) == (None, None)


ESCALATE = [
    ({"memory": "2G"}, {"out_of_memory": {"memory": "x2"}}, ["out_of_memory"] * 2, {"memory": "8192M"}),
    ({"memory": "2G"}, {"out_of_memory": {"memory": "x2", "up_to": "3G"}}, ["out_of_memory"] * 3, {"memory": "3072M"}),
    ({"memory": "2G"}, {"out_of_memory": {"memory": "x2"}}, ["exit_code"], {"memory": "2G"}),
    ({"time": "10m"}, {"timeout": {"time": "x1.5"}}, ["timeout"], {"time": "900s"}),
    ({"cpus": 2}, {"lost": {"cpus": 1}}, ["lost"], {"cpus": 1}),
    ({}, {"timeout": {"time": "x2"}}, ["timeout"], {}),
]


@pytest.mark.parametrize(("resources", "rules", "failures", "expected"), ESCALATE)
def test_retry_rules_change_the_resources_of_the_next_attempt(resources, rules, failures, expected):
    past = [(FailureClass(name), None) for name in failures]
    assert escalate(resources, Retries(5, rules=rules), past) == expected


@pytest.mark.parametrize(
    "resources", [{"cpus": 0}, {"cpus": "two"}, {"cpus": True}, {"memory": "5"}, {"time": 3}, {"gpus": -1}]
)
def test_resources_out_of_range_are_refused_by_name(resources):
    with pytest.raises(ValueError, match=rf"resources\.{next(iter(resources))}: "):
        parse_resources(resources)


RUN_STATES = [  # counts, hard ends, can move, paused, cancelled -> state
    ({"READY": 2, "PENDING": 1}, 0, True, False, False, "PENDING"),
    ({"RUNNING": 1, "PENDING": 1}, 0, False, False, False, "RUNNING"),
    ({"WAITING": 1, "PENDING": 1}, 0, False, False, False, "WAITING"),
    ({"WAITING": 1, "READY": 1}, 0, True, False, False, "RUNNING"),
    ({"COMPLETED": 1, "READY": 1}, 0, False, False, False, "PAUSED"),
    ({"COMPLETED": 1, "READY": 1}, 0, True, True, False, "PAUSED"),
    ({"COMPLETED": 1, "FAILED": 1}, 0, False, False, False, "COMPLETED"),
    ({"COMPLETED": 1, "FAILED": 1}, 1, False, False, False, "FAILED"),
    ({"COMPLETED": 1, "CANCELLED": 1}, 1, False, False, True, "CANCELLED"),
    ({"COMPLETED": 1}, 0, False, True, False, "COMPLETED"),
]


@pytest.mark.parametrize(("counts", "hard", "move", "paused", "cancelled", "expected"), RUN_STATES)
def test_the_state_of_a_run(counts, hard, move, paused, cancelled, expected):
    by_state = {TaskState(name): count for name, count in counts.items()}
    assert run_state(by_state, hard_ends=hard, can_move=move, paused=paused, cancelled=cancelled) == expected
