"""A file with mistakes, made fit to be checked for the others: what is wrong is taken out, and what hangs on it is in doubt.

Nothing that is said about the rest may be a consequence of what was taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any

from matterstack.core.suggestions import did_you_mean
from matterstack.deferred import dataclass
from matterstack.errors import Problem, TemplateError
from matterstack.spec.loader import Document
from matterstack.template.language import is_template, parse

Path = tuple[str | int, ...]

_PLACEHOLDERS: dict[str, Any] = {"matterstack": 1, "name": "x", "tasks": {}}
_BY_NAME = ("inputs", "outputs", "params", "env", "resources")  # of a task: one entry can be taken out
_ROOT_OF = {"inputs": "inputs", "outputs": "outputs", "params": "params", "matrix": "matrix", "resources": "resources"}
_WITH_TEMPLATES = frozenset(
    [
        "matrix", "label", "needs", "operator", "priority", "inputs", "outputs", "command", "setup", "env", "params",
        "instructions", "resources", "deadline", "retries", "when", "response_schema", "result_schema", "repeat",
    ]
)  # fmt: skip


@dataclass()
class Doubts:
    """What cannot be judged in a file of which something was taken out."""

    params: bool = False  # of the campaign
    param_names: set[str] = field(default_factory=set)  # single ones that were taken out
    outputs: bool = False  # what is declared, and by which instances
    files: bool = False
    operators: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)  # that were taken out as a whole
    roots: dict[str, set[str]] = field(default_factory=dict)  # task -> template roots below which names are not known

    @property
    def any(self) -> bool:
        return bool(
            self.params or self.param_names or self.outputs or self.files or self.operators or self.tasks or self.roots
        )

    def about(self, task: str | None, root: str, name: str | None = None) -> bool:
        """Return whether the names below a template root, or this one, as a task sees them, are in doubt."""
        if root == "params" and (self.params or name in self.param_names):
            return True
        if root in ("response", "metrics") and self.tasks:
            return True
        return root in self.roots.get(task or "", ()) or root in self.roots.get("", ())


def unparsable(document: Document) -> list[Problem]:
    """Return the templates of a file that cannot be parsed, where templates may stand."""
    found = []
    for path, text in _texts(document.root, ()):
        if _may_be_template(path) and is_template(text):
            try:
                parse(text)
            except TemplateError as error:
                found.append(document.problem(path, str(error)))
    return found


def _may_be_template(path: Path) -> bool:
    if not path:
        return False
    if path[0] == "tasks":
        return len(path) > 2 and path[2] in _WITH_TEMPLATES
    if path[0] == "defaults":
        return len(path) > 1 and path[1] in _WITH_TEMPLATES
    return path[0] == "operators" and len(path) > 2 and path[2] in ("setup", "env", "resources")


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not str(key).startswith("x-"):
                yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def mend(root: Any, problems: Iterable[Problem]) -> Doubts | None:
    """Take what is wrong out of the plain value of a campaign file; None if it is no campaign at all."""
    if not isinstance(root, dict):
        return None
    doubts = Doubts()
    for problem in problems:
        _mend_one(root, problem, doubts)
    for key, value in _PLACEHOLDERS.items():
        root.setdefault(key, value)
    return doubts


def _mend_one(root: dict[str, Any], problem: Problem, doubts: Doubts) -> None:
    path = problem.path
    if not path:  # a key of the file is missing
        return
    top = str(path[0])
    if top == "tasks":
        _mend_task(root, path, problem, doubts)
    elif top == "defaults" and len(path) > 1:
        _doubt_key(doubts, "", str(path[1]))
        _take_out(root, path[:2])
    elif top == "params" and len(path) > 1:
        doubts.param_names.add(str(path[1]))
        _take_out(root, path[:2])
    elif top == "operators" and len(path) > 1:
        _mend_operator(root, path, doubts)
    else:
        for key in ("params", "files", "operators", "defaults"):
            if top == key or (problem.unknown_key and did_you_mean(top, [key])):  # what was meant is not there
                _doubt_section(doubts, key)
        _take_out(root, path[:1])


def _doubt_section(doubts: Doubts, key: str) -> None:
    doubts.params |= key == "params"
    doubts.files |= key == "files"
    if key in ("operators", "defaults"):
        doubts.operators.add("*")
    if key == "defaults":
        doubts.roots.setdefault("", set()).update(_ROOT_OF.values())


def _mend_task(root: dict[str, Any], path: Path, problem: Problem, doubts: Doubts) -> None:
    tasks = root.get("tasks")
    if len(path) == 1 or not isinstance(tasks, dict):
        root["tasks"] = {}
        doubts.outputs = True
        return
    name = str(path[1])
    task = tasks.get(name)
    if not isinstance(task, dict):
        if name in tasks:
            doubts.tasks.add(name)
            doubts.outputs = True
            del tasks[name]
        return
    if len(path) < 3:
        return  # its name is wrong, or it lacks a key: the rest of it can be checked
    key = str(path[2])
    if problem.unknown_key and len(path) == 3:
        near_command = bool(did_you_mean(key, ["command"]))
        for meant in _ROOT_OF:
            if did_you_mean(key, [meant]):
                _doubt_key(doubts, name, meant)
        task.pop(key, None)
        if near_command:
            task.setdefault("command", "true")
        return
    _doubt_key(doubts, name, key)
    if key in _BY_NAME and len(path) > 3 and isinstance(task.get(key), dict):
        task[key].pop(path[3], None)
        return
    task.pop(key, None)
    if key in ("command", "repeat"):
        task["command"] = "true"
        doubts.outputs |= key == "repeat"


def _doubt_key(doubts: Doubts, task: str, key: str) -> None:
    """Note what is in doubt where a key of a task, or of all tasks (``task`` is ""), was wrong."""
    if key in _ROOT_OF:
        doubts.roots.setdefault(task, set()).add(_ROOT_OF[key])
    if key in ("outputs", "matrix", "label"):
        doubts.outputs = True
    if key == "operator":
        doubts.operators.add("*")


def _mend_operator(root: dict[str, Any], path: Path, doubts: Doubts) -> None:
    name, operators = str(path[1]), root.get("operators")
    if not isinstance(operators, dict):
        return
    doubts.operators.add(name)
    operator = operators.get(name)
    if not isinstance(operator, dict):
        operators[name] = {"kind": "local"}
        return
    if len(path) > 2:
        operator.pop(path[2], None)
    operator.setdefault("kind", "local")


def _take_out(root: dict[str, Any], path: Path) -> None:
    node: Any = root
    for part in path[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(path[-1], None)
