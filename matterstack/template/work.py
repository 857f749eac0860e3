"""What determines the result of an instance: its *work*, as a digest and as parts that have names.

Everything else is handling, how the work gets done: resources, retries, priority, the operator and all it contributes,
caps, deadlines, responders, `allow_*`. An amendment compares work alone (docs/changing-a-campaign.md).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.model import Campaign, Instance, ResolvedInput, TaskSpec, inputs_to_json, to_json
from matterstack.core.selection import names_task
from matterstack.core.values import dump_json, encode_json
from matterstack.deferred import dataclass
from matterstack.template.language import Hole, Name, parse, references

Parts = dict[
    str, str
]  # name of what determines a result, such as `command`, `param emax`, `scripts/fit.py` -> its digest

_ASKED = ("instructions", "response_schema", "result_schema", "default")
_LITERAL_PATH = re.compile(r"/([\w./+@%=,-]+)")


@dataclass(frozen=True)
class _OfGroup:
    """What is the same for all instances of a task."""

    parts: Parts
    digest: str
    columns: frozenset[str]  # of its matrix, that its templates name


class Works:
    """The work of the instances of one version of a campaign.

    ``files`` gives the sha256 of each file of the campaign folder that the version has, and of external ones that are
    recorded; ``members`` the ids of the instances of each task, in the order of the file.
    """

    def __init__(self, campaign: Campaign, files: Mapping[str, str], members: Mapping[str, Sequence[str]]) -> None:
        self.campaign = campaign
        self.files = files
        self.members = members
        self._groups: dict[str, _OfGroup] = {}
        self._of_members: dict[str, str] = {}

    def digest(self, row: Sequence[Any], instance: Instance) -> str:
        """Return the digest of an instance's work; ``row`` is what `storage.apply.row_of` makes of it."""
        sources = [source for item in instance.inputs.values() for source in item.sources]
        own = [self._file(source.path) for source in sources if not source.task]
        whole = [self._all_of(str(source.task)) for source in sources if source.whole]
        given = [dump_json(instance.given, exact=True)] if instance.given else []
        return _digest("\n".join([self._group(instance.group).digest, row[3], row[6], *own, *whole, *given]))

    def parts(self, instance: Instance) -> Parts:
        """Return all parts of an instance's work."""
        group = self._group(instance.group)
        out = dict(group.parts)
        for name, value in instance.matrix.items():
            out[f"matrix.{name}"] = _digest(dump_json(value, exact=True))
        for name, item in instance.inputs.items():
            out[f"inputs.{name}"] = self._input(item)
        for root, values in instance.given.items():
            out |= {f"{root}.{name}": _digest(dump_json(value, exact=True)) for name, value in values.items()}
        return out

    def named_columns(self, group: str) -> frozenset[str]:
        """Return the columns and axes that the templates of a task name."""
        return self._group(group).columns

    def files_named(self) -> set[str]:
        """Return the files of the campaign folder that commands name; what else changes concerns no task."""
        return {name for task in self.campaign.tasks for name in self._group(task).parts if name in self.files}

    # --- parts ---

    def _group(self, name: str) -> _OfGroup:
        spec = self.campaign.tasks[name]
        found = self._groups.get(spec.name)
        if found is None:
            found = self._groups[spec.name] = self._of_group(spec)
        return found

    def _of_group(self, spec: TaskSpec) -> _OfGroup:
        values: dict[str, Any] = {"command": spec.command, "shell": spec.shell, "when": spec.when, "setup": spec.setup}
        values |= {f"env {name}": value for name, value in spec.env.items()}
        values |= {f"outputs.{name}": _made(to_json(item)) for name, item in spec.outputs.items()}
        values |= {key: spec.asked[key] for key in _ASKED if key in spec.asked}
        texts = [
            spec.command, spec.setup, spec.env, spec.params, spec.when,
            [to_json(item) for item in spec.outputs.values()], [spec.asked.get(key) for key in _ASKED],
        ]  # fmt: skip
        named = list(references(texts))
        params = {**self.campaign.params, **spec.params}
        wanted = {name[1] for name in named if name[0] == "params" and len(name) > 1} | set(spec.params)
        if any(name == ("params",) for name in named):
            wanted = set(params)
        values |= {f"param {name}": params[name] for name in sorted(wanted) if name in params}
        parts = {key: _digest(dump_json(value, exact=True)) for key, value in values.items() if value not in (None, ())}
        for path in self._named_files([*texts[:5], *texts[6:]], spec.uses):
            parts[path] = self.files[path]
        columns = frozenset(name[1] for name in named if name[0] == "matrix" and len(name) > 1)
        return _OfGroup(parts, _digest(encode_json(sorted(parts.items()))), columns)

    def _named_files(self, texts: Any, uses: Iterable[str]) -> list[str]:
        own = {path for path in self.files if not path.startswith("/")}
        found: set[str] = set()
        for path in _source_paths(texts):
            below = {name for name in own if not path or name.startswith(f"{path.rstrip('/')}/")}
            found |= {path} if path in own else below
        for pattern in uses:
            found |= {name for name in own if names_task(pattern, name)}
        return sorted(found)

    def _input(self, item: ResolvedInput) -> str:
        """Return digest and number of the files of an input; the outputs of other tasks count by their names alone."""
        short = inputs_to_json({"": item})[""]
        more = [
            self._all_of(str(s.task)) if s.whole else self._file(s.path) if s.task is None else "" for s in item.sources
        ]
        count = sum(
            len(self.members.get(str(source.task), ())) if source.whole and not source.match else 1
            for source in item.sources
        )
        return f"{_digest(encode_json([short, more]))}:{count}"

    def _file(self, path: str) -> str:
        if path in self.files:
            return self.files[path]
        below = sorted((name, digest) for name, digest in self.files.items() if name.startswith(f"{path.rstrip('/')}/"))
        return _digest(encode_json(below)) if below else ""

    def _all_of(self, group: str) -> str:
        if group not in self._of_members:
            # Which instances a result makes is its content, and that makes what reads it stale, no more.
            late = group not in self.members or self.campaign.tasks[group].is_unknown
            self._of_members[group] = "" if late else _digest("\n".join(self.members[group]))
        return self._of_members[group]


def digests_of(sources: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Return {path: sha256} of files that are recorded as (sha256, bytes, stamp).

    Of one whose digest is not recorded, size and time stand for it.
    """
    return {path: str(item[0]) or ":".join(str(item[2]).split(":")[:2]) for path, item in sources.items()}


def with_modes(place: Callable[[str], Path], digests: Mapping[str, str]) -> dict[str, str]:
    """Return digests of files, with a mark on those that can be executed. ``place`` says where they are."""
    return {path: f"{digest}+x" if os.access(place(path), os.X_OK) else digest for path, digest in digests.items()}


def digest_of_value(value: Any) -> str:
    """Return what stands for a value among the parts of a work."""
    return _digest(dump_json(value, exact=True))


def members_of(instances: Iterable[Instance]) -> dict[str, list[str]]:
    """Return the ids of the instances of each task."""
    out: dict[str, list[str]] = {}
    for item in instances:
        out.setdefault(item.group, []).append(item.task_id)
    return out


def differences(before: Mapping[str, str], now: Mapping[str, str], named: Collection[str]) -> list[str]:
    """Return the names of what differs between two works; a column that is new counts only if it is ``named``."""
    out = []
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) == now.get(name):
            continue
        root, _, column = name.partition(".")
        if root == "matrix" and name not in before and column not in named:
            continue
        out.append(_in_words(name, before.get(name, ""), now.get(name, "")))
    return out


def _in_words(name: str, before: str, now: str) -> str:
    """Return a part's name, of a list of inputs that is longer or shorter than it was by how much."""
    if not name.startswith("inputs.") or not before or not now:
        return name
    were, are = (int(value.rpartition(":")[2]) for value in (before, now))
    if were == are:
        return name
    count = abs(are - were)
    return f"{count} {'more' if are > were else 'fewer'} input{'s' if count > 1 else ''}"


def _made(output: Any) -> Any:
    """Return what of an output determines a result; when it is removed again does not."""
    return {key: value for key, value in output.items() if key != "temporary"}


def _source_paths(value: Any) -> Iterator[str]:
    """Yield the paths that texts name after `${{ source }}/`; "" for all, `scripts/` for what is below a folder."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _source_paths(item)
    if not isinstance(value, str) or "${{" not in value:
        return
    given = parse(value)
    for index, part in enumerate(given):
        if not isinstance(part, Hole):
            continue
        if part.expression != Name("source"):
            if any(reference[0] == "source" for reference in references(part.source)):
                yield ""
            continue
        following = given[index + 1] if index + 1 < len(given) else ""
        match = _LITERAL_PATH.match(following) if isinstance(following, str) else None
        if match is None or not isinstance(following, str):
            yield ""
        elif match.end() == len(following) and index + 2 < len(given):
            yield match[1].rpartition("/")[0]  # the rest is a value
        else:
            yield match[1].rstrip("/.,")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]
