"""Globs over declared outputs and task ids; what is wrong with a path.

`*`, `?` and `[…]` stay in one folder, `**` crosses folders. As in a shell, `*` and `**` do not match names that
begin with a dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from matterstack.core.selection import WILDCARD, matches

LONGEST_NAME = 255  # bytes of one component, on every file system that matters here
_DEEPEST = 100  # folders within each other
_USUAL = re.compile(
    r"(?=.{1,100}\Z)[A-Za-z0-9_][\w.+=-]*(/[A-Za-z0-9_][\w.+=-]*)*/?\Z", re.ASCII
)  # nothing can be wrong with it


def path_problem(path: str) -> str:
    """Return what is wrong with a relative path, or give ""."""
    if _USUAL.match(path):
        return ""
    if "\0" in path:
        return "a path cannot hold a NUL"
    if path.startswith("/"):
        return f"'{path}' is absolute; give a path relative to the campaign folder or to results/"
    parts = path.rstrip("/").split("/")
    if ".." in parts:
        return f"'{path}' leaves its folder by '..'"
    if len(parts) > _DEEPEST:
        return f"a path {len(parts)} folders deep (at most {_DEEPEST})"
    if "" in parts or "." in parts:
        return f"'{path}' has an empty part or a '.'"
    long = next((part for part in parts if len(part.encode(errors="surrogatepass")) > LONGEST_NAME), None)
    if long is not None:
        return f"the name '{long[:40]}…' has more than {LONGEST_NAME} bytes"
    return ""


def matching(paths: Iterable[tuple[str, Any, bool]], pattern: str, *, is_list: bool) -> list[tuple[Any, str]]:
    """Return (value, rest) of declared paths, each (path, value, whether it is a folder), that a path or glob means.

    The rest is what to take inside of a folder, "" for all. A value comes once, in the order that was given.
    """
    tree, order = PathTree(), dict[Any, int]()
    folders = set()
    for path, value, is_folder in paths:
        tree.add(path, value)
        order.setdefault(value, len(order))
        if is_folder:
            folders.add(value)
    if is_list:
        found = list(dict.fromkeys(tree.glob(pattern)))
    else:
        single = tree.find(pattern)
        found = [single] if single is not None else []
    whole: list[tuple[Any, str]] = [
        (value, "" if rest == "**" and value not in folders else rest) for value, rest in found
    ]
    whole = [item for item in whole if item[1] in ("", "**")] or [item for item in whole if item[0] in folders]
    return sorted(dict.fromkeys(whole), key=lambda item: order[item[0]])


class _Node:
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.value: object | None = None  # of the path that ends here


class PathTree:
    """A set of paths, each with a value, that globs can be matched against without a look at all of them."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, path: str, value: object) -> None:
        node = self._root
        for part in path.rstrip("/").split("/"):
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = _Node()
            node = child
        node.value = value

    def conflict(self, path: str) -> object | None:
        """Return the value of a path that is, contains or lies in ``path``, or None."""
        node = self._root
        for part in path.rstrip("/").split("/"):
            if node.value is not None:
                return node.value
            if part not in node.children:
                return None
            node = node.children[part]
        while node.value is None:
            node = next(iter(node.children.values()))
        return node.value

    def find(self, path: str) -> tuple[object, str] | None:
        """Return (value, rest) of the path, or of the path that contains it; the rest is "" or what lies inside."""
        node, parts = self._root, path.rstrip("/").split("/")
        for index, part in enumerate(parts):
            if node.value is not None:
                return node.value, "/".join(parts[index:])
            if part not in node.children:
                return None
            node = node.children[part]
        return None if node.value is None else (node.value, "")

    def glob(self, pattern: str) -> Iterator[tuple[object, str]]:
        """Return (value, rest) for each path that matches; for one that contains a match, the rest of the pattern."""
        if not WILDCARD.search(pattern):
            found = self.find(pattern)
            yield from () if found is None else (found,)
            return
        parts: list[str] = []
        for part in pattern.rstrip("/").split("/"):
            if part != "**" or parts[-1:] != ["**"]:  # two in a row mean the same as one
                parts.append(part)
        yield from self._walk(self._root, parts, set())

    def _walk(self, node: _Node, parts: list[str], seen: set[tuple[int, int]]) -> Iterator[tuple[object, str]]:
        # Several `**` reach the same node with the same rest in many ways: once is enough.
        if (id(node), len(parts)) in seen:
            return
        seen.add((id(node), len(parts)))
        if node.value is not None:
            yield node.value, "/".join(parts)  # "**" alone: the path itself, or all in a folder
            return
        if not parts:
            return
        first, rest = parts[0], parts[1:]
        if first == "**":
            if rest:
                yield from self._walk(node, rest, seen)
            for name, child in node.children.items():
                if not name.startswith("."):
                    yield from self._walk(child, parts, seen)
        elif not WILDCARD.search(first):
            if first in node.children:
                yield from self._walk(node.children[first], rest, seen)
        else:
            for name, child in node.children.items():
                if matches(first, name):
                    yield from self._walk(child, rest, seen)
