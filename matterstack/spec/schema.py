"""The JSON Schemas that ship with MatterStack, and a campaign file checked against them.

The frame of a campaign is checked once and each distinct *shape* of task once: thousands of tasks that differ in
their commands and paths alone cost no more than one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from matterstack.core.validation import find_errors
from matterstack.core.values import dump_json
from matterstack.errors import Problem, UsageError
from matterstack.spec.loader import Document

RESERVED = ("quorum", "container", "notify")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")
_OF_TASKS_ALONE = ("needs", "inputs", "outputs", "matrix", "label", "command", "when", "expect", "repeat", "tasks")
_FREE_TEXT = ("description", "command", "instructions", "label", "when")


def _folder() -> Path:
    """Return the folder of the schemas: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "schemas"
    return inside if inside.is_dir() else package.parent / "schemas"


def schema_names() -> list[str]:
    """Return the names that `read_schema` takes."""
    return sorted(path.name.removesuffix(".schema.json") for path in _folder().glob("*.schema.json"))


@cache
def read_schema(name: str) -> str:
    """Return the text of a schema. Raises UsageError for an unknown name."""
    if name not in schema_names():
        raise UsageError(f"there is no schema '{name}'; there are {', '.join(schema_names())}")
    return (_folder() / f"{name}.schema.json").read_text(encoding="utf-8")


@cache
def _all_schemas() -> str:
    return (
        "[" + ",".join(read_schema(name) for name in ("campaign", "operators")) + "]"
    )  # those that refer to each other


def check_included(document: Document) -> list[Problem]:
    """Return what the schema does not allow of the parts of an included file that do not become parts of the whole."""
    given = document.plain if isinstance(document.plain, Mapping) else {}
    frame = {"matterstack": 1, "name": "of_another", "tasks": {"of_another": {}}}
    frame |= {key: given[key] for key in ("matterstack", "description", "defaults") if key in given}
    return _check(document, frame, "campaign.schema.json", ())


def check_campaign(document: Document) -> list[Problem]:
    """Return everything in a campaign file that its schema does not allow."""
    root = document.plain
    if not isinstance(root, Mapping):
        return [document.problem((), "is not a campaign: expected a mapping with matterstack, name and tasks")]
    tasks = root.get("tasks")
    problems: list[Problem] = []
    if isinstance(tasks, Mapping) and tasks:
        frame = {**root, "tasks": {}}
        seen: dict[str, bool] = {}
        for name, task in tasks.items():
            shape = _shape(task)
            if shape not in seen:
                found = _check(document, task, "campaign.schema.json#/$defs/task", ("tasks", name))
                seen[shape] = bool(found)
                problems += found
            elif seen[shape]:
                problems += _check(document, task, "campaign.schema.json#/$defs/task", ("tasks", name))
        # Names that are right need not all be looked at again: one stands for them.
        first = next(iter(tasks))
        frame["tasks"] = {
            name: {} for name in tasks if name == first or not (NAME.match(name) or is_of_a_loop(name, tasks))
        }
    else:
        frame = dict(root)
    return _check(document, frame, "campaign.schema.json", ()) + problems


def is_of_a_loop(name: str, tasks: Mapping[str, Any]) -> bool:
    """Return whether a task is one of a loop, as `spec.loops` names it."""
    loop, _, own = name.rpartition("/")
    return loop in tasks and bool(NAME.match(own))


def check_operators(document: Document) -> list[Problem]:
    """Return everything in an operators.yaml that its schema does not allow."""
    return _check(document, document.plain, "operators.schema.json", ())


def _check(document: Document, value: Any, entry: str, prefix: tuple[str | int, ...]) -> list[Problem]:
    problems = []
    for path, found, at_key, unknown in find_errors(_all_schemas(), entry, value):
        key, message = str(path[-1]) if path else "", found
        if unknown and key in RESERVED:
            message = f"'{key}' is reserved for a later version of MatterStack"
        elif unknown and (*prefix, *path)[:-1] == ("defaults",) and key in _OF_TASKS_ALONE:
            message = f"'{key}' belongs to a single task and is not allowed in defaults"
        problem = document.problem((*prefix, *path), message, at_key=at_key)
        problems.append(replace(problem, unknown_key=unknown))
    return problems


def _shape(task: Any) -> str:
    """Return a text that is equal for tasks which the schema cannot tell apart."""
    if not isinstance(task, Mapping):
        return repr(type(task))
    masked: dict[str, Any] = {}
    for key, value in task.items():
        if key in _FREE_TEXT:
            masked[key] = "text" if isinstance(value, str) and value else value
        elif key in ("inputs", "outputs") and isinstance(value, Mapping):
            masked[key] = {k: "text" if isinstance(v, str) and v else v for k, v in value.items()}
        elif key == "needs" and isinstance(value, list):
            masked[key] = sorted({"text" if isinstance(v, str) and v else dump_json(v) for v in value})
        else:
            masked[key] = value
    return dump_json(masked)
