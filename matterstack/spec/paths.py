"""Globs over declared outputs and task ids; what is wrong with a path.

`*`, `?` and `[…]` stay in one folder, `**` crosses folders. As in a shell, `*` and `**` do not match names that
begin with a dot.
"""

from __future__ import annotations

from collections.abc import Iterator

from matterstack.core.globs import WILDCARD, matches

LONGEST_NAME = 255  # bytes of one component, on every file system that matters here


def path_problem(path: str) -> str:
    """Say what is wrong with a relative path, or give ""."""
    if "\0" in path:
        return "a path cannot hold a NUL"
    if path.startswith("/"):
        return f"'{path}' is absolute; give a path relative to the campaign folder or to results/"
    parts = path.rstrip("/").split("/")
    if ".." in parts:
        return f"'{path}' leaves its folder by '..'"
    if "" in parts or "." in parts:
        return f"'{path}' has an empty part or a '.'"
    long = next((part for part in parts if len(part.encode(errors="surrogatepass")) > LONGEST_NAME), None)
    if long is not None:
        return f"the name '{long[:40]}…' has more than {LONGEST_NAME} bytes"
    return ""


class PathTree:
    """A set of paths, each with a value, that globs can be matched against without a look at all of them."""

    def __init__(self) -> None:
        self._root: dict[str, object] = {}

    def add(self, path: str, value: object) -> None:
        node = self._root
        for part in path.rstrip("/").split("/"):
            node = node.setdefault(part, {})  # type: ignore[assignment]
        node[""] = value

    def conflict(self, path: str) -> object | None:
        """Give the value of a path that is, contains or lies in ``path``, or None."""
        node = self._root
        for part in path.rstrip("/").split("/"):
            if "" in node:
                return node[""]
            if part not in node:
                return None
            node = node[part]  # type: ignore[assignment]
        while "" not in node:
            child: object = next(iter(node.values()))
            node = child  # type: ignore[assignment]
        return node[""]

    def find(self, path: str) -> tuple[object, str] | None:
        """Give (value, rest) of the path, or of the longest path that contains it; the rest is "" or inside it."""
        node, parts = self._root, path.rstrip("/").split("/")
        for index, part in enumerate(parts):
            if "" in node:
                return node[""], "/".join(parts[index:])
            if part not in node:
                return None
            node = node[part]  # type: ignore[assignment]
        return (node[""], "") if "" in node else None

    def glob(self, pattern: str) -> Iterator[tuple[object, str]]:
        """Give (value, rest) for each path that matches; for one that contains a match, the rest of the pattern."""
        yield from self._walk(self._root, pattern.rstrip("/").split("/"))

    def _walk(self, node: dict[str, object], parts: list[str]) -> Iterator[tuple[object, str]]:
        if "" in node:
            yield node[""], "/".join(parts)  # "**" alone: the path itself, or all in a folder
            return
        if not parts:
            return
        first, rest = parts[0], parts[1:]
        if first == "**":
            if rest:
                yield from self._walk(node, rest)
            for name, child in node.items():
                if not name.startswith("."):
                    yield from self._walk(child, parts)  # type: ignore[arg-type]
            return
        if not WILDCARD.search(first):
            if first in node:
                yield from self._walk(node[first], rest)  # type: ignore[arg-type]
            return
        for name, child in node.items():
            if matches(first, name):
                yield from self._walk(child, rest)  # type: ignore[arg-type]
