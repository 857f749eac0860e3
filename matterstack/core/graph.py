"""The task graph: the one home of networkx.

Edges point downstream. A node is a task id, or the name of a group on which something waits as a whole; a
member of such a group has an edge to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import networkx as nx

from matterstack.deferred import dataclass

if TYPE_CHECKING:
    Graph = nx.DiGraph[str]
    MultiGraph = nx.MultiDiGraph[str]
else:
    Graph, MultiGraph = nx.DiGraph, nx.MultiDiGraph


_MOST_CYCLES = 20


@dataclass(frozen=True)
class Shape:
    """How deep a graph is (tasks on its longest path) and how wide (tasks that could run at once, by level)."""

    depth: int
    width: int


def build(edges: Iterable[tuple[str, str]], nodes: Iterable[str] = ()) -> Graph:
    """Return the directed graph of (upstream, downstream) pairs."""
    graph: Graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(edges)
    return graph


def find_cycles(graph: Graph) -> list[list[str]]:
    """Return one cycle of each knot of tasks that wait for each other, its nodes in the order of their edges."""
    if nx.is_directed_acyclic_graph(graph):
        return []
    knots = [knot for knot in nx.strongly_connected_components(graph) if len(knot) > 1]
    knots += [{node} for node in nx.nodes_with_selfloops(graph)]
    cycles = [[upstream for upstream, _ in nx.find_cycle(graph.subgraph(knot))] for knot in knots[:_MOST_CYCLES]]
    return sorted(cycles, key=min)


def shape(graph: Graph, group_nodes: Iterable[str]) -> Shape:
    """Return depth and width of an acyclic graph; group nodes take no level of their own."""
    groups = set(group_nodes)
    level: dict[str, int] = {}
    width: dict[int, int] = {}
    for node in nx.topological_sort(graph):
        above = max((level[up] for up in graph.pred[node]), default=0)
        level[node] = above if node in groups else above + 1
        if node not in groups:
            width[level[node]] = width.get(level[node], 0) + 1
    return Shape(depth=max(level.values(), default=0), width=max(width.values(), default=0))


def instance_edges(
    entries: Mapping[str, Iterable[str]], members: Mapping[str, Iterable[str]]
) -> Iterator[tuple[str, str]]:
    """Return each (upstream, downstream) pair of instances once.

    ``entries`` maps each instance to what it waits for, tasks or whole groups; ``members`` each group to its instances.
    """
    for downstream, upstreams in entries.items():
        seen: dict[str, None] = {}
        for name in upstreams:
            seen.update(dict.fromkeys(members.get(name, (name,))))
        yield from ((upstream, downstream) for upstream in seen)


def neighbourhood(entries: Mapping[str, Iterable[tuple[str, str]]]) -> MultiGraph:
    """Return the graph of tasks in question and what they wait for.

    ``entries`` maps each task to its (entry, upstream) pairs; the entry is the key of the edge, so one pair of
    nodes may have several edges.
    """
    graph: MultiGraph = nx.MultiDiGraph()
    for task, pairs in entries.items():
        graph.add_node(task)
        for entry, upstream in pairs:
            graph.add_edge(upstream, task, key=entry)
    return graph
