"""Loops in a campaign file: the tasks of a loop become tasks of the file, named `LOOP/TASK`, so that all checks look at them."""

from __future__ import annotations

from matterstack.spec.loader import Document, Map
from matterstack.spec.schema import NAME


def with_loops(document: Document) -> Document:
    """Return a document in which no task has `tasks`; the one that was given if none does.

    What cannot be a loop is among the `problems` of the document.
    """
    tasks = document.root.get("tasks") if isinstance(document.root, Map) else None
    if not isinstance(tasks, Map) or not any(isinstance(task, Map) and "tasks" in task for task in tasks.values()):
        return document
    root, whole = Map(document.root.at), Map(tasks.at)
    _copy_all(document.root, root)
    done = Document(document.file, root, document.at, document.warnings, document.text)
    done.problems = [*document.problems]
    done.bases, done.included, done.origins = dict(document.bases), document.included, document.origins
    done.outside, done.in_part = document.outside, document.in_part
    for name, task in tasks.items():
        _copy(tasks, name, whole)
        if not isinstance(task, Map) or "tasks" not in task:
            continue
        if "repeat" not in task:
            message = "only a loop has tasks of its own: add `repeat: {max: 10}`, or move them out"
            done.problems.append(document.problem(("tasks", name, "tasks"), message, at_key=True))
        whole[name] = Map(task.at)
        for key in task:
            if key != "tasks":
                _copy(task, key, whole[name])
        body = task["tasks"]
        if isinstance(body, Map) and not any(not key.startswith("x-") for key in body):
            done.problems.append(document.problem(("tasks", name, "tasks"), "a loop needs at least one task"))
        for inner in body if isinstance(body, Map) else ():
            where = ("tasks", name, "tasks", inner)
            if inner.startswith("x-"):
                continue
            own = body[inner]
            problem = ""
            if not NAME.match(inner):
                problem = f"'{inner}' cannot be the name of a task: letters, digits and _, not beginning with a digit"
            elif inner in tasks:
                problem = f"'{inner}' is the name of a task outside of the loop as well; rename one"
            elif isinstance(own, Map) and ("repeat" in own or "tasks" in own):
                problem = "a loop within a loop is not possible: make it one loop, or let the inner one be a script"
            if problem:
                done.problems.append(document.problem(where, problem, at_key=True))
                done.in_part = True
                continue
            full = f"{name}/{inner}"
            whole[full] = own
            whole.keys_at[full], whole.values_at[full] = body.keys_at[inner], body.values_at[inner]
            if name in done.bases:
                done.bases[full] = done.bases[name]
    root["tasks"] = whole
    return done


def _copy_all(origin: Map, target: Map) -> None:
    for key in origin:
        _copy(origin, key, target)


def _copy(origin: Map, key: str, target: Map) -> None:
    target[key] = origin[key]
    target.keys_at[key], target.values_at[key] = origin.keys_at[key], origin.values_at[key]
