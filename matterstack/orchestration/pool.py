"""The operators of a run, made when they are asked for, and what they see."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from matterstack.core.model import LiveAttempt, Observation, OperatorSpec, Sighting
from matterstack.core.plan import Notice
from matterstack.core.reasons import Code, reason
from matterstack.core.recorded import AttemptRow
from matterstack.core.slots import Capacity
from matterstack.core.states import AttemptState
from matterstack.errors import OperatorUnavailable
from matterstack.operators.base import Key, Operator
from matterstack.operators.registry import make_operator
from matterstack.storage.queries import Queries

log = logging.getLogger("matterstack")

Make = Callable[[OperatorSpec], Operator]
Ask = Callable[[Operator, Sequence[LiveAttempt]], Mapping[Key, Observation]]


class Pool:
    """Operators by version of the campaign and name. Warnings are kept in ``notices``."""

    def __init__(self, store: Queries, make: Make = make_operator) -> None:
        self._store = store
        self._make = make
        self._made: dict[tuple[int, str], Operator] = {}
        self.notices: list[Notice] = []

    def of(self, version: int, name: str) -> Operator:
        """Return an operator. Raises whatever making it raises: a plug-in may be missing or not load."""
        key = (version, name)
        if key not in self._made:
            self._made[key] = self._make(self._store.operators(version)[name])
        return self._made[key]

    def usable(self, version: int, name: str) -> Operator | None:
        """Return an operator, None with a notice if it cannot be made: that must not stop the others.

        Raises LedgerError if the ledger cannot give its campaign: the operator is not at fault, and the step stops.
        """
        self._store.operators(version)
        try:
            return self.of(version, name)
        except Exception as error:  # of a plug-in that is missing or does not load: the other operators go on
            log.debug("operator '%s'", name, exc_info=True)
            self.notices.append(_unusable(name, error))
            return None

    def capacity(self, name: str) -> Capacity | Notice:
        """Return what an operator may use in sum, by the newest version of the campaign."""
        version = self._store.newest_version()
        self._store.operators(version)  # a ledger that cannot be read stops the step, as in `usable`
        try:
            operator = self.of(version, name)
            cpus, memory = operator.slots()
        except Exception as error:  # as above
            log.debug("operator '%s'", name, exc_info=True)
            return _unusable(name, error)
        devices: Callable[[], Sequence[str]] | None = getattr(operator, "devices", None)
        most: Callable[[], int | None] | None = getattr(operator, "most", None)
        return Capacity(
            most() if most is not None else operator.spec.max_active,
            cpus,
            memory,
            len(devices()) if devices is not None else None,
        )

    # --- asking ---

    def observe(
        self, live: Sequence[AttemptRow], lost: Sequence[AttemptRow], folders: Mapping[Key, str]
    ) -> dict[Key, Observation]:
        """Return what is seen of live attempts, and the ends of lost ones that turned up; nothing is changed.

        One question for each operator, about all of its attempts whose hand-over is known.
        """
        asked = [row for row in live if row.state is not AttemptState.SUBMITTING]
        seen = self.ask(lambda operator, attempts: operator.observe(attempts), [*asked, *lost], folders)
        late = {row.key for row in lost}
        return {
            key: item for key, item in seen.items() if key not in late or item.sighting is Sighting.ENDED
        }  # fmt: skip

    def ask(self, question: Ask, rows: Sequence[AttemptRow], folders: Mapping[Key, str]) -> dict[Key, Observation]:
        """Ask each operator once about its attempts. No exception of one hides what the others saw."""
        by_operator: dict[tuple[int, str], list[LiveAttempt]] = {}
        for row in rows:
            attempts = by_operator.setdefault((row.campaign_version, row.operator), [])
            attempts.append(LiveAttempt(*row.key, folders[row.key], row.state, row.handle, row.time_s, row.started_at))
        out: dict[Key, Observation] = {}
        for (version, name), attempts in by_operator.items():
            operator = self.usable(version, name)
            if operator is None:
                continue
            try:
                out.update(question(operator, attempts))
            except OperatorUnavailable as error:
                self._notice(Code.OPERATOR_AWAY, name, str(error), len(attempts))
            except Exception as error:  # a defect of one operator never stops the others: nothing was seen or changes
                log.debug("operator '%s'", name, exc_info=True)
                self._notice(Code.OPERATOR_RAISED, name, f"{type(error).__name__}: {error}", len(attempts))
        return out

    def _notice(self, code: Code, name: str, error: str, attempts: int) -> None:
        self.notices.append(Notice("", reason(code, operator=name, error=error, attempts=attempts)))

    def wake_fds(self, live: Sequence[AttemptRow], folders: Mapping[Key, str]) -> list[int]:
        """Return descriptors that become readable when something ends; the caller closes them."""
        fds: list[int] = []
        by_operator: dict[tuple[int, str], list[LiveAttempt]] = {}
        for row in live:
            attempts = by_operator.setdefault((row.campaign_version, row.operator), [])
            attempts.append(LiveAttempt(*row.key, folders[row.key], row.state, row.handle, row.time_s, row.started_at))
        for (version, name), attempts in by_operator.items():
            self._store.operators(version)  # as in `usable`
            try:
                fds += self.of(version, name).wake_fds(attempts)
            except Exception:  # of a plug-in, or one that is not installed: the loop looks again after a while
                log.debug("operator '%s'", name, exc_info=True)
        return fds


def _unusable(name: str, error: Exception) -> Notice:
    text = f"{type(error).__name__}: {error}"
    return Notice("", reason(Code.OPERATOR_UNUSABLE, operator=name, error=text))
