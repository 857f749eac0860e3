"""What is known of a campaign only from its results: which axes wait for them, and which paths they may make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from matterstack.core.model import TaskSpec
from matterstack.core.selection import WILDCARD
from matterstack.template.language import Hole, is_template, parse, references

HOLE = "\0"  # in a declared path: a value, which has no slash
_TOKEN = re.compile(r"\[[^\]]*\]|.", re.DOTALL)


def late_axes(spec: TaskSpec, tasks: Mapping[str, TaskSpec]) -> tuple[str, ...]:
    """Return the axes of a task, and `table`, whose values a result of another task gives."""
    out = []
    for name, values in (spec.matrix or {}).items():
        given = values.get("range") if isinstance(values, Mapping) else values
        if any(reference[0] in ("response", "metrics") for reference in references(given)):
            out.append(name)
            continue
        path = values if name == "table" else values.get("files") if isinstance(values, Mapping) else None
        if isinstance(path, str) and any(can_match(path, declared) for _, _, declared in visible(spec, tasks)):
            out.append(name)
    return tuple(out)


def visible(spec: TaskSpec, tasks: Mapping[str, TaskSpec]) -> Iterator[tuple[str, str, str]]:
    """Yield (task, output, declared path) of what a task may read of others, values in the paths as `HOLE`."""
    for other in tasks.values():
        if other is spec or other.repeat is not None or (other.loop and spec.loop and other.loop != spec.loop):
            continue
        before: tuple[str, ...] = ("",)
        if other.loop and not spec.loop:
            before = (f"{other.loop}/", f"{other.loop}/{HOLE}/")
            if tasks[other.loop].matrix is not None:
                before = (f"{other.loop}/{HOLE}/", f"{other.loop}/{HOLE}/{HOLE}/")
        for name, output in other.outputs.items():
            for prefix in before:
                yield other.name, name, prefix + declared(output.path)


@lru_cache(maxsize=4096)
def declared(path: str) -> str:
    """Return a declared path with each template in it as `HOLE`."""
    if not is_template(path):
        return path
    return "".join(HOLE if isinstance(part, Hole) else part for part in parse(path))


def can_match(pattern: str, path: str) -> bool:
    """Return whether a pattern can match a declared path, or what lies in it if it is a folder."""
    parts = path.rstrip("/").split("/")
    return _can_match(tuple(declared(pattern).rstrip("/").split("/")), tuple(parts), is_folder=path.endswith("/"))


@lru_cache(maxsize=16384)
def _can_match(pattern: tuple[str, ...], path: tuple[str, ...], *, is_folder: bool) -> bool:
    if not path:
        return not pattern or is_folder or set(pattern) == {"**"}
    if not pattern:
        return False
    if pattern[0] == "**":
        return _can_match(pattern[1:], path, is_folder=is_folder) or _can_match(pattern, path[1:], is_folder=is_folder)
    return _meet(pattern[0], path[0]) and _can_match(pattern[1:], path[1:], is_folder=is_folder)


def _meet(one: str, other: str) -> bool:
    """Return whether a name can be what both a pattern and a declared name stand for."""
    if HOLE not in other and HOLE not in one and not WILDCARD.search(one):
        return one == other
    left, right = _TOKEN.findall(one), [char if char == HOLE else f"={char}" for char in other]
    left = [token if token in ("*", "?", HOLE) or token.startswith("[") else f"={token}" for token in left]
    reached = {0}
    # States are positions in `right`; each token of `left` moves them on.
    for token in left:
        if token in ("*", HOLE):
            reached = set(range(min(reached), len(right) + 1)) if reached else set()
            continue
        moved: set[int] = set()
        for at in _with_holes(reached, right):
            if at < len(right) and (right[at] == HOLE or token == right[at] or not token.startswith("=")):
                moved |= {at, at + 1} if right[at] == HOLE else {at + 1}
        reached = moved
    return len(right) in _with_holes(reached, right)


def _with_holes(reached: set[int], right: list[str]) -> set[int]:
    """Return positions with those behind values, which may be of any length."""
    out = set(reached)
    for at in sorted(reached):
        while at < len(right) and right[at] == HOLE:
            at += 1
            out.add(at)
    return out
