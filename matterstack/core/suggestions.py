"""A suggestion for a name that was mistyped."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """Return ` (did you mean 'x'?)`, or nothing if no known name is near."""
    import difflib  # only for a message

    names = [str(item) for item in known]
    near = [item for item in names if item.lower() == name.lower()] or difflib.get_close_matches(name, names, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
