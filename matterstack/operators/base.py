"""The protocol between MatterStack and whatever carries work out.

The promises of an operator:

* ``submit`` starts each attempt at most once. Only SubmissionRejected means "not accepted, nothing was started";
  any other exception leaves the outcome unknown, and the attempt is fenced by ``recover``.
* ``recover`` decides an attempt whose hand-over has an unknown outcome, by the *claim* (see `operators.claims`):
  adopt what runs, or make sure that it never will.
* ``observe`` asks once for a whole batch. An exception means "not seen": nothing changes. ``GONE`` is said only
  with proof.
* ``cancel`` asks for the end of attempts, claiming them first; their end is seen by ``observe``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from matterstack.core.model import Launch, LiveAttempt, Observation, OperatorSpec, Submission
from matterstack.errors import SubmissionRejected

Key = tuple[str, int]  # task id, attempt


class Operator(Protocol):
    """One operator of a campaign, made once a step by its class with its `OperatorSpec`."""

    spec: OperatorSpec

    def origin(self) -> str:
        """Return what is recorded with an intent, for `recover` after a kill: from where it would be handed over."""
        ...

    def slots(self) -> tuple[int | None, int | None]:
        """Return what all live attempts may use in sum, (cpus, bytes of memory); None means no limit."""
        ...

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        """Hand over a batch whose intents are on record; the outcome of one that is left out is unknown."""
        ...

    def recover(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        """Settle attempts that may or may not have been handed over; one that is left out stays as it is."""
        ...

    def observe(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        """Look at all live attempts; one that is left out was not seen."""
        ...

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        """End attempts, and give what is seen of them afterwards; one that is left out has not ended yet."""
        ...

    def wake_fds(self, attempts: Sequence[LiveAttempt]) -> Sequence[int]:
        """Return file descriptors that become readable when something ends; the caller closes them."""
        ...
