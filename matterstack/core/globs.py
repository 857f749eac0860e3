"""One component of a glob, the same for outputs, task ids and files.

`*`, `?` and `[…]` stay in one folder, `**` crosses folders. As in a shell, `*` and `**` do not match names that
begin with a dot.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache

WILDCARD = re.compile(r"[*?\[]")


@lru_cache(maxsize=4096)
def _matcher(component: str) -> re.Pattern[str] | None:
    """Give the pattern of one component, None for one without wildcards."""
    return re.compile(translate(component)) if WILDCARD.search(component) else None


def matches(component: str, name: str) -> bool:
    """Say whether one component of a path matches one of a pattern."""
    pattern = _matcher(component)
    if pattern is None:
        return component == name
    if name.startswith(".") and not component.startswith("."):
        return False
    return pattern.match(name) is not None
