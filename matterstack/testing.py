"""Contract tests for operators, for those who write one.

Subclass `OperatorContract` in a test module, say how your operator is made and how its work is brought to an end, and
pytest runs each promise of `matterstack.operators.base` against it:

    class TestMyOperator(OperatorContract):
        def make(self): return MyOperator(OperatorSpec("mine", "mine", params={...}))
        def finish(self, launch): ...          # let the work end well
        def starts(self, launch): return ...   # how often the work of this attempt was begun

pytest is needed to run it and is not imported here.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.model import Launch, LiveAttempt, Observation, ResolvedOutput, Resources, Sighting, Submission
from matterstack.core.states import LIVE, AttemptState
from matterstack.errors import SubmissionRejected
from matterstack.operators.base import Operator
from matterstack.run_root.attempts import create_attempt_folder
from matterstack.run_root.layout import attempt_folder

ENDED = (Sighting.ENDED, Sighting.GONE, Sighting.NOT_STARTED)


def prepare_attempt(
    root: Path,
    task_id: str = "work/Al",
    attempt: int = 1,
    *,
    command: str = "true",
    outputs: Mapping[str, str] | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Launch:
    """Make an attempt's folder below a run root as a step does before it hands over; return what `submit` gets.

    ``outputs`` maps names to files; ``asked`` is what people and labs are asked, under that key of task.json.
    """
    folder = root.resolve() / attempt_folder(task_id, attempt)
    declared = {name: ResolvedOutput(file, file) for name, file in (outputs or {}).items()}
    task = {
        "task": task_id, "attempt": attempt, "group": task_id.partition("/")[0], "label": task_id.rpartition("/")[2],
        "run": {"id": "contract-00000000", "name": "contract"}, "operator": "contract", "command": command,
        "shell": ["bash", "-eo", "pipefail"], "matrix": {}, "params": {}, "inputs": {},
        "outputs": {name: {"path": item.path, "file": item.file} for name, item in declared.items()},
        "resources": {"cpus": 1}, "source": "../" * (task_id.count("/") + 3) + "versions/1/source", "env": [],
        "created_at": "2026-01-01T00:00:00.000000Z", "asked": {"instructions": "", **(asked or {})},
    }  # fmt: skip
    create_attempt_folder(str(folder), task, f"#!/usr/bin/env bash\n{command}\n", declared.values())
    env = {"MATTERSTACK_TASK": task_id, "MATTERSTACK_ATTEMPT": str(attempt), "MATTERSTACK_RUN": str(root.resolve())}
    return Launch(
        task_id, attempt, str(folder), ("bash", "-eo", "pipefail", "command.sh"), env, Resources(),
        tuple(item.file for item in declared.values()),
    )  # fmt: skip


class OperatorContract:
    """The promises of an operator, as tests. `tmp_path` is pytest's."""

    command = "true"
    outputs: Mapping[str, str] = {}
    asked: Mapping[str, Any] = {}
    limit_s = 20.0

    def make(self) -> Operator:
        """Return the operator, as one step would make it; each call stands for another step."""
        raise NotImplementedError

    def finish(self, launch: Launch) -> None:
        """Let the work of an attempt that was handed over end well."""
        raise NotImplementedError

    def starts(self, launch: Launch) -> int:
        """Return how often the work of an attempt was begun, by a witness that the operator does not write."""
        raise NotImplementedError

    def on_cancel(self, launch: Launch) -> None:
        """Do what the other side does when it is asked to stop; nothing, if the operator ends the work by itself."""

    # --- helpers ---

    def launch(self, root: Path, number: int = 1) -> Launch:
        return prepare_attempt(root, f"work/{number}", command=self.command, outputs=self.outputs, asked=self.asked)

    def live(self, launch: Launch, operator: Operator, submission: Submission | None = None) -> LiveAttempt:
        """Return an attempt as the ledger knows it: with what `submit` gave, or as one whose outcome is unknown."""
        state = AttemptState.SUBMITTING if submission is None else submission.state
        handle = operator.origin() if submission is None else submission.handle
        return LiveAttempt(launch.task_id, launch.attempt, launch.folder, state, handle, None, time.time())

    def submitted(self, launch: Launch) -> LiveAttempt:
        operator = self.make()
        outcome = operator.submit([launch])[launch.task_id, launch.attempt]
        assert isinstance(outcome, Submission), outcome
        assert outcome.state in LIVE
        return self.live(launch, operator, outcome)

    def see(self, attempt: LiveAttempt) -> Observation | None:
        return self.make().observe([attempt]).get(attempt.key)

    def wait_until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.limit_s
        while not done():
            assert time.monotonic() < deadline, f"not within {self.limit_s} s: {what}"
            time.sleep(0.02)

    def ended(self, attempt: LiveAttempt) -> Observation:
        found: list[Observation] = []

        def look() -> bool:
            seen = self.see(attempt)
            found[:] = [seen] if seen is not None and seen.sighting in ENDED else []
            return bool(found)

        self.wait_until(look, "seen to have ended")
        return found[0]

    # --- promises ---

    def test_it_says_what_may_be_used_and_from_where_it_hands_over(self) -> None:
        operator = self.make()
        assert isinstance(operator.origin(), str)
        for most in operator.slots():
            assert most is None or (isinstance(most, int) and most > 0)

    def test_nothing_asked_is_nothing_answered(self) -> None:
        operator = self.make()
        asked: Sequence[LiveAttempt] = ()
        assert dict(operator.submit([])) == {}
        assert dict(operator.observe(asked)) == dict(operator.recover(asked)) == dict(operator.cancel(asked)) == {}
        assert list(operator.wake_fds(asked)) == []

    def test_a_batch_is_handed_over_and_each_outcome_is_said(self, tmp_path: Path) -> None:
        launches = [self.launch(tmp_path, number) for number in (1, 2, 3)]
        operator = self.make()
        outcomes = operator.submit(launches)
        assert set(outcomes) <= {(item.task_id, item.attempt) for item in launches}
        for launch in launches:
            outcome = outcomes[launch.task_id, launch.attempt]
            assert isinstance(outcome, Submission | SubmissionRejected)
        attempts = [self.live(item, operator, self._accepted(outcomes, item)) for item in launches]
        seen = self.make().observe(attempts)
        assert set(seen) <= {attempt.key for attempt in attempts}
        self._clean_up(launches, attempts)

    def _accepted(self, outcomes: Mapping[tuple[str, int], Any], launch: Launch) -> Submission:
        outcome = outcomes[launch.task_id, launch.attempt]
        assert isinstance(outcome, Submission), outcome
        return outcome

    def test_work_that_ended_well_is_seen_so_and_stays_so(self, tmp_path: Path) -> None:
        launch = self.launch(tmp_path)
        attempt = self.submitted(launch)
        self.finish(launch)
        first = self.ended(attempt)
        assert first.sighting is Sighting.ENDED and first.is_good, first
        assert self.ended(attempt) == first
        assert self.starts(launch) == 1

    def test_looking_changes_nothing_of_ours(self, tmp_path: Path) -> None:
        launch = self.launch(tmp_path)
        attempt = self.submitted(launch)
        before = (Path(launch.folder) / "task.json").read_bytes()
        first, second = self.see(attempt), self.see(attempt)
        assert first is None or first.sighting is not Sighting.UNKNOWN, first
        assert second is None or second.sighting is not Sighting.UNKNOWN, second
        assert (Path(launch.folder) / "task.json").read_bytes() == before
        self._clean_up([launch], [attempt])

    def test_a_hand_over_of_unknown_outcome_is_adopted_or_can_never_start(self, tmp_path: Path) -> None:
        launch = self.launch(tmp_path)
        operator = self.make()
        unknown = self.live(launch, operator)  # its intent is on record, and nobody knows whether submit came about
        seen = self.make().recover([unknown])[unknown.key]
        if seen.sighting is Sighting.NOT_STARTED:
            operator.submit([launch])  # comes late
            time.sleep(0.5)
            assert self.starts(launch) == 0
        else:
            adopted = self._with(unknown, seen)
            self.finish(launch)
            assert self.ended(adopted).is_good
            assert self.starts(launch) == 1

    def test_what_was_handed_over_is_adopted_after_a_kill_and_never_started_twice(self, tmp_path: Path) -> None:
        launch = self.launch(tmp_path)
        operator = self.make()
        operator.submit([launch])  # killed before the outcome was recorded
        unknown = self.live(launch, operator)
        self.wait_until(lambda: self.starts(launch) == 1, "begun")
        seen = self.make().recover([unknown])[unknown.key]
        assert seen.sighting is not Sighting.NOT_STARTED, seen
        again = self.make().recover([unknown])[unknown.key]
        assert again.sighting is not Sighting.NOT_STARTED, again
        self.finish(launch)
        assert self.ended(self._with(unknown, seen)).is_good
        assert self.starts(launch) == 1

    @staticmethod
    def _with(attempt: LiveAttempt, seen: Observation) -> LiveAttempt:
        states = {Sighting.RUNNING: AttemptState.RUNNING, Sighting.WAITING: AttemptState.WAITING}
        return LiveAttempt(
            attempt.task_id, attempt.attempt, attempt.folder, states.get(seen.sighting, AttemptState.SUBMITTED),
            seen.handle or attempt.handle, attempt.time_s, attempt.started_at,
        )  # fmt: skip

    def test_cancelled_work_ends_and_ended_work_keeps_its_end(self, tmp_path: Path) -> None:
        launch, done = self.launch(tmp_path, 1), self.launch(tmp_path, 2)
        attempt, other = self.submitted(launch), self.submitted(done)
        self.finish(done)
        self.ended(other)
        assert self.make().cancel([other])[other.key].is_good

        def cancelled() -> bool:
            seen = self.make().cancel([attempt]).get(attempt.key)
            self.on_cancel(launch)
            return seen is not None and seen.sighting in ENDED

        self.wait_until(cancelled, "ended by cancel")

    def test_one_broken_attempt_does_not_hide_the_others(self, tmp_path: Path) -> None:
        launches = [self.launch(tmp_path, number) for number in (1, 2)]
        attempts = [self.submitted(launch) for launch in launches]
        for launch in launches:
            self.finish(launch)
        for attempt in attempts:
            self.ended(attempt)
        shutil.rmtree(launches[0].folder)
        seen = self.make().observe(attempts)
        assert seen[attempts[1].key].is_good
        broken = seen.get(attempts[0].key)
        assert broken is None or broken.sighting is not Sighting.ENDED or broken.is_good

    def test_a_handle_that_is_not_its_own_is_never_taken_for_a_success(self, tmp_path: Path) -> None:
        launch = self.launch(tmp_path)
        for handle in ("", "{}", "[]", "no json", json.dumps({"pid": "x"}), "\x00"):
            strange = LiveAttempt(
                launch.task_id, 1, launch.folder, AttemptState.SUBMITTED, handle, None, time.time()
            )  # fmt: skip
            try:
                seen = self.make().observe([strange]).get(strange.key)
            except Exception:  # "not seen": an operator may raise, and nothing is decided on it
                continue
            assert seen is None or not (seen.sighting is Sighting.ENDED and seen.is_good)

    def test_file_descriptors_to_wake_up_by_can_be_closed(self, tmp_path: Path) -> None:
        launch = self.launch(tmp_path)
        attempt = self.submitted(launch)
        for fd in self.make().wake_fds([attempt]):
            os.close(fd)
        self._clean_up([launch], [attempt])

    def _clean_up(self, launches: Sequence[Launch], attempts: Sequence[LiveAttempt]) -> None:
        for launch in launches:
            self.finish(launch)
        for attempt in attempts:
            self.ended(attempt)
