"""What lies downstream of tasks: a search that is done before networkx would be loaded."""

from __future__ import annotations

from collections.abc import Iterable


def below(edges: Iterable[tuple[str, str]], nodes: Iterable[str]) -> set[str]:
    """Return everything downstream of the nodes, without the nodes themselves; ``edges`` are (upstream, downstream)."""
    start = set(nodes)
    following: dict[str, list[str]] = {}
    for upstream, downstream in edges:
        following.setdefault(upstream, []).append(downstream)
    found, border = set(start), list(start)
    while border:  # one search from all of them
        border = [name for node in border for name in following.get(node, ()) if name not in found]
        found.update(border)
        border = list(dict.fromkeys(border))
    return found - start
