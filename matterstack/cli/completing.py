"""What the shell offers for a word that is being typed. Nothing here fails or prints: then it offers nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
_MOST = 500


def files(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
    return [CompletionItem(word, type="file")]


def folders(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
    return [CompletionItem(word, type="dir")]


def runs(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
    """Offer the run roots that begin so, else folders."""
    # The first is what the shell falls back on: bash asks its own completion only where nothing else matches.
    return [CompletionItem(word, type="dir"), *map(CompletionItem, dict.fromkeys(_run_roots(word)))]


def _run_roots(word: str) -> Iterable[str]:
    folder, name = os.path.split(word)
    for base in (folder, *([word] if os.path.isdir(word) else [])) if word else ("", "runs"):
        wanted = name if base == folder else ""
        try:
            found = sorted(os.listdir(base or "."))[:_MOST]
        except OSError:
            continue
        for item in found:
            path = os.path.join(base, item)
            if item.startswith(wanted) and os.path.isfile(os.path.join(path, "run.json")):
                yield path


def tasks(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
    """Offer the ids of the run that stands before the word."""
    run = ctx.params.get("run")
    return _tasks_of(str(run), word) if run else []


def _tasks_of(run: str, word: str) -> list[CompletionItem]:
    known = _read_silently(_task_ids, run)
    groups = dict.fromkeys(task.partition("/")[0] for task in known)
    found = [name for name in (*groups, *known) if name.startswith(word)]
    return [CompletionItem(name) for name in dict.fromkeys(found[:_MOST])]


def _read_silently(read: Callable[[str], list[str]], run: str) -> list[str]:
    """Return what is read of a run, nothing if that fails."""
    import logging

    logging.getLogger("matterstack").setLevel(logging.CRITICAL)
    try:
        return read(run)
    except Exception:  # whatever is wrong with the run, a traceback in the middle of a line that is typed helps nobody
        return []


def _task_ids(run: str) -> list[str]:
    from matterstack.views.reading import reading

    with reading(run) as (_, store):
        return store.task_ids()


def _waiting_ids(run: str) -> list[str]:
    from matterstack.people.inbox import inbox

    return [item.task_id for item in inbox([run])]


def runs_then_tasks(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
    """Offer run roots and files for the first of several words, ids of that run for the others."""
    given = ctx.params.get(param.name or "") or ()
    before = [item for item in given if item]
    return _tasks_of(str(before[0]), word) if before else files(ctx, param, word)


def waiting(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
    """Offer the tasks of a run that wait for a person."""
    run = ctx.params.get("run")
    found = _read_silently(_waiting_ids, str(run)) if run else []
    return [CompletionItem(name) for name in found if name.startswith(word)]


def schemas(ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
    from matterstack.spec.schema import schema_names

    return [CompletionItem(name) for name in schema_names() if name.startswith(word)]
