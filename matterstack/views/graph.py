"""The graph of a run, as values."""

from __future__ import annotations

from pathlib import Path

from matterstack.views.plans import in_words, open_plans
from matterstack.views.reading import reading
from matterstack.views.status import RunView, open_run


def graph_of_run(root: str | Path) -> tuple[RunView, dict[str, list[str]], dict[str, str]]:
    """Return a run, for each task what it waits for (tasks, or whole groups by their name), and what is said of groups and
    loops whose tasks are not known."""
    view = open_run(root)
    with reading(root) as (_, store):
        entries = store.entries(task.task_id for task in view.tasks)
        notes = {row.task_id: in_words(store, row) for row in open_plans(store)}
    return view, {task_id: [upstream for _, upstream in pairs] for task_id, pairs in entries.items()}, notes
