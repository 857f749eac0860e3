"""The whole orchestration against a simulated world: random campaigns, faults at any effect, and what always holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

import matterstack.core.reconcile
import matterstack.simulation.run
from matterstack.core.board import Board
from matterstack.core.model import Resources
from matterstack.core.plan import Unlaunchable, decide_outcomes
from matterstack.core.reasons import Code, reason
from matterstack.core.states import ATTEMPT_MOVES, AttemptState, FailureClass
from matterstack.orchestration.step import Step
from matterstack.simulation.run import SimulatedWorkshop
from tests.simulation.history import History, shortest
from tests.simulation.search import describe, search

MOVES = {(str(before), str(after)) for before, afters in ATTEMPT_MOVES.items() for after in afters}


def test_what_must_hold_holds_in_a_sample_of_histories():
    moves, failed = search(range(150), processes=1)

    assert [describe(seed) for seed in failed[:1]] == []
    assert len(moves) > len(MOVES) * 2 / 3


def test_a_history_is_played_again_exactly_from_its_seed():
    for seed in (3, 14):
        once, again = History(seed), History(seed)
        once.play()
        again.play()
        assert once.world.journal == again.world.journal
        assert once.log == again.log


@pytest.mark.parametrize(
    "seed",
    [
        771,  # an intent on record for a task whose round was dropped
        9254,  # a table made again, below whose group something is blocked
        12487,  # a round made again while an attempt of the dropped one is alive
    ],
)
def test_a_history_that_found_a_fault_once_holds(seed):
    History(seed).play()


@pytest.mark.simulation
def test_what_must_hold_holds_in_10_000_histories_that_reach_every_move():
    moves, failed = search(range(10_000))

    assert [describe(seed) for seed in sorted(failed)[:1]] == []
    assert set(moves) == MOVES


# --- it finds what was wrong once -------------------------------------------------------------------------------------


class HandsOverFirst(Step):
    """An attempt is recorded after its hand-over."""

    def _pass(self, plans):
        board, plan, _ = self._decide()
        acted = self._act(plan)
        self._commit(plan)
        board = Board(self.store)
        evidence = self._gather(board.live, acted.seen)
        second = decide_outcomes(board, self._workshop(board), acted.seen, evidence, acted.outcomes, self.now)
        self._commit(second)
        plans += [plan, second]
        return Board(self.store), acted


class FailsTasksForTheLedger(SimulatedWorkshop):
    """An error of the ledger fails the task that was looked at (D1)."""

    def prepare(self, task):
        try:
            return super().prepare(task)
        except Exception as error:
            made = self._made((task.task_id, task.attempts + 1), task, Resources())
            return Unlaunchable(made, FailureClass.DEFECT, reason(Code.DEFECT, during="rendering", error=str(error)))


def count_every_fence(monkeypatch):
    """Three intents in a row that were fenced count like three processes that ended without claiming."""
    was = matterstack.core.reconcile._not_started
    monkeypatch.setattr(
        matterstack.core.reconcile,
        "_not_started",
        lambda facts, seen, now: was(
            replace(facts, live=replace(facts.live, state=AttemptState.SUBMITTED)), replace(seen, unclaimed=True), now
        ),
    )


OLD_FAULTS = {
    "recorded after the hand-over": (
        lambda monkeypatch: monkeypatch.setattr(matterstack.simulation.run, "Step", HandsOverFirst),
        ("nothing_runs_that_is_not_on_record", "starts_twice", "KeyError"),
    ),
    "every fence counts": (count_every_fence, ("nobody_gives_up_on_a_task",)),
    "the ledger fails tasks": (
        lambda monkeypatch: monkeypatch.setattr(
            matterstack.simulation.run, "SimulatedWorkshop", FailsTasksForTheLedger
        ),
        ("only_a_defect_of_an_operator",),
    ),
}


@pytest.mark.simulation
@pytest.mark.parametrize(("put_back", "found_as"), OLD_FAULTS.values(), ids=OLD_FAULTS)
def test_a_fault_of_the_past_is_found_shortened_and_replayed(monkeypatch, put_back, found_as):
    put_back(monkeypatch)
    for seed in range(5000):
        try:
            History(seed).play()
        except Exception:
            break
    else:
        pytest.fail("not found in 5,000 histories")

    found = shortest(seed)
    text = describe(seed)

    assert found is not None
    history, error = found
    assert any(name in f"{type(error).__name__}: {error}" for name in found_as), text
    assert f"replay: python -m tests.simulation --seed {seed}" in text
    with pytest.raises(type(error)):
        History(seed, history.faults.left_out, history.groups_left_out).play()
