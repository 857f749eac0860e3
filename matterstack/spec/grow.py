"""What results make of a campaign while it runs: the instances of a group, the tasks of a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.kinds import kind_of
from matterstack.core.model import Campaign, Instance, TaskSpec
from matterstack.errors import CampaignError, Problem
from matterstack.spec.expand import Expander, answer_names
from matterstack.spec.frames import ROOT, Frame, Known, round_frame
from matterstack.spec.late import can_match, declared
from matterstack.spec.mend import Doubts
from matterstack.spec.tables import read_table


class Problems:
    """Collects the problems of an expansion during a run, where no position in a campaign file is known."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.problems: list[Problem] = []
        self.doubts = Doubts()
        self.file = ""
        self._refused: set[tuple[str | int, ...]] = set()

    def lines_from_defaults(self, task: str, lines: int) -> int:
        return 0

    def add(self, path: tuple[str | int, ...], message: str, *, at_key: bool = False, severity: str = "error") -> None:
        if severity == "error":
            self._refused.add(path)
        self.problems.append(Problem("", 0, 0, ".".join(map(str, path)), message, severity=severity, path=path))

    def has_problem(self, path: tuple[str | int, ...]) -> bool:
        return path in self._refused

    def may_give(self, root: str, task: str) -> bool:
        kinds = (operator.kind for operator in self.campaign.operators.values())
        return root == "metrics" or any(kind_of(kind).answers for kind in kinds)

    @property
    def first(self) -> str:
        """What is wrong, "" if nothing is."""
        return next((problem.message for problem in self.problems if problem.severity == "error"), "")


class Refused(Exception):
    """What a result gave makes no instances; the text says why."""


def frame_of(campaign: Campaign, item: Instance) -> Frame:
    """Return the frame of an instance: the campaign, or its round of a loop."""
    spec = campaign.tasks[item.group]
    if not spec.loop:
        return ROOT
    prefix = item.group.rpartition("/")[0]
    return round_frame(campaign.tasks[spec.loop], prefix.rpartition("/")[0], item.matrix, item.given)


def may_read(patterns: Iterable[str], spec: TaskSpec) -> bool:
    """Return whether one of these paths may be an output of a task."""
    return any(can_match(pattern, declared(output.path)) for pattern in patterns for output in spec.outputs.values())


class Grower:
    """Expands one group or round beside the instances that the run has."""

    def __init__(self, campaign: Campaign, folder: Path, files: frozenset[str], known: Mapping[str, Known]) -> None:
        """``folder`` has the ``files`` of the campaign; ``known`` has the groups that results have made already."""
        self.problems = Problems(campaign)
        named = {spec.name: answer_names(spec) for spec in campaign.tasks.values()}
        self.expander = Expander(campaign, named, folder, self.problems, files, known)
        self.campaign = campaign

    def preload(
        self, items: Iterable[Instance], frame: Frame, upstreams: Mapping[str, Sequence[tuple[str, str]]]
    ) -> None:
        for item in items:
            self.expander.preload(item, frame, upstreams.get(item.task_id, ()))

    def group(self, spec: TaskSpec, frame: Frame) -> list[Instance]:
        """Return the instances of a group. Raises Refused."""
        return self._checked(self.expander.grow_group(spec, frame))

    def round(self, frame: Frame) -> list[Instance]:
        """Return the instances of a round, those with a plan among them. Raises Refused."""
        return self._checked(self.expander.grow_round(frame))

    def _checked(self, found: list[Instance]) -> list[Instance]:
        if self.problems.first:
            raise Refused(self.problems.first)
        return found


def rows_of_table(path: Path, shown: str) -> list[dict[str, Any]]:
    """Return the rows of a table that a task wrote, none of one that has but a header. Raises Refused, with file and row."""
    try:
        return read_table(path, shown, may_be_empty=True)
    except CampaignError as error:
        first = error.problems[0]
        raise Refused(f"{first.file}{f', line {first.line}' if first.line else ''}: {first.message}") from None
