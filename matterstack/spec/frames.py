"""Tasks that name each other: those of a campaign, or those of one round of a loop; and what results gave their axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from matterstack.core.model import Source, TaskSpec
from matterstack.core.values import dump_json
from matterstack.deferred import dataclass
from matterstack.template.language import whole


@dataclass(frozen=True)
class Known:
    """What results gave of the late axes of a group: their values, `table` as rows, and the files of those that are files."""

    axes: Mapping[str, list[Any]]
    files: Mapping[str, Mapping[str, Source]] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)  # what the campaign said of these axes then

    def to_json(self) -> dict[str, Any]:
        files = {
            axis: {stem: [source.task, source.output, source.path] for stem, source in found.items()}
            for axis, found in self.files.items()
        }
        return {"axes": dict(self.axes), "files": files, "written": dict(self.written)}

    def is_of(self, spec: TaskSpec) -> bool:
        """Return whether a task still takes these axes from where they came."""
        return {axis: dump_json(value) for axis, value in self.written.items()} == {
            axis: dump_json((spec.matrix or {})[axis]) for axis in spec.late
        }


def known_from_json(data: Mapping[str, Any]) -> Known:
    """Undo `Known.to_json`."""
    files = {axis: {stem: Source(*item) for stem, item in found.items()} for axis, found in data["files"].items()}
    return Known(data["axes"], files, data["written"])


@dataclass(frozen=True)
class Grown:
    """What results have made in a run so far: of groups, and of loops what each round was given."""

    known: Mapping[str, Known]
    rounds: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a task's names are looked for first. ``prefix`` is "" for those of a campaign, else such as `learn/3`."""

    prefix: str = ""
    loop: str = ""  # the name of the task that repeats
    row: str = ""  # the id of its instance
    matrix: Mapping[str, Any] = field(default_factory=dict)  # axes of the loop
    round: int = 0
    carry: Mapping[str, Any] = field(default_factory=dict)  # what the round was given, a path as one from results/
    paths: frozenset[str] = frozenset()  # of these, the names of paths

    def id_of(self, spec: TaskSpec) -> str:
        """Return the id of a task, or of its group, in this frame."""
        return f"{self.prefix}/{spec.name.rpartition('/')[2]}" if self.prefix else spec.name

    def has(self, spec: TaskSpec) -> bool:
        return spec.loop == self.loop

    @property
    def given(self) -> dict[str, Any]:
        """The template roots that only the tasks of a round have."""
        return {"carry": dict(self.carry), "repeat": {"round": self.round}} if self.prefix else {}


ROOT = Frame()
ANYWHERE = Frame()  # for a path that a round is given: it may be of the round before


def round_frame(loop: TaskSpec, row: str, matrix: Mapping[str, Any], given: Mapping[str, Any]) -> Frame:
    """Return the frame of a round of the loop ``row``, by the template roots that its tasks are given."""
    assert loop.repeat is not None
    number = int(given["repeat"]["round"])
    axes = {
        name: value for name, value in matrix.items() if name in (loop.matrix or {}) or "table" in (loop.matrix or {})
    }
    when = "first" if number == 1 else "next"
    paths = frozenset(name for name, item in loop.repeat.carry.items() if is_path(item[when]))
    return Frame(f"{row}/{number}", loop.name, row, axes, number, given["carry"], paths)


def is_path(written: Any) -> bool:
    """Return whether `first` or `next` of a carried thing is a path, and no value."""
    return isinstance(written, str) and whole(written) is None
