"""The one glob language of MatterStack, and which tasks an id or a glob names.

`*`, `?` and `[…]` stay within one component of a path, `**` crosses components. As in a shell, `*` and `**` do not match
names that begin with a dot. The same rules hold for outputs, files, the ids in `needs` and the TASK of a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache

from matterstack.core.suggestions import did_you_mean
from matterstack.errors import UsageError

WILDCARD = re.compile(r"[*?\[]")


@lru_cache(maxsize=4096)
def _matcher(component: str) -> re.Pattern[str] | None:
    """Return the pattern of one component, None for one without wildcards."""
    return re.compile(translate(component)) if WILDCARD.search(component) else None


def matches(component: str, name: str) -> bool:
    """Return whether one component of a pattern matches one of a path."""
    pattern = _matcher(component)
    if pattern is None:
        return component == name
    if name.startswith(".") and not component.startswith("."):
        return False
    return pattern.match(name) is not None


def names_task(pattern: str, task_id: str) -> bool:
    """Return whether a glob names a task: its id, or the group that it is an instance of."""
    return _matches_parts(pattern.split("/"), task_id.split("/"))


def _matches_parts(pattern: list[str], parts: list[str]) -> bool:
    if not pattern:
        return True  # the name of a group means all of its instances
    if pattern[0] == "**":
        return any(_matches_parts(pattern[1:], parts[skipped:]) for skipped in range(len(parts) + 1))
    return bool(parts) and matches(pattern[0], parts[0]) and _matches_parts(pattern[1:], parts[1:])


def in_short(ids: Sequence[str]) -> str:
    """Return the first few of many ids, for a message."""
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


def select_tasks(known: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the tasks that ids or globs name, in the order of ``known``.

    The name of a group, or a glob that matches it, means all of its instances. Raises UsageError for one that names
    nothing.
    """
    ids = list(known)
    as_set = set(ids)
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern in as_set:
            found = {pattern}
        elif WILDCARD.search(pattern):
            found = {task_id for task_id in ids if names_task(pattern, task_id)}
        else:
            found = {task_id for task_id in ids if task_id.startswith(f"{pattern}/")}
        if not found:
            groups = list(dict.fromkeys(task_id.partition("/")[0] for task_id in ids))
            own = [task_id for task_id in ids if task_id.startswith(f"{pattern.partition('/')[0]}/")]
            near = did_you_mean(pattern, [*groups, *ids])
            raise UsageError(f"no task is named '{pattern}'{near}; there are {in_short(own or groups)}")
        chosen |= found
    return [task_id for task_id in ids if task_id in chosen]


def one_task(known: Iterable[str], name: str) -> str:
    """Return the one task that an id or a glob names. Raises UsageError for none or several."""
    found = select_tasks(known, [name])
    if len(found) > 1:
        more = ", …" if len(found) > 3 else ""
        raise UsageError(f"'{name}' names {len(found)} tasks ({', '.join(found[:3])}{more}); name one")
    return found[0]
