"""Random campaigns: fan-outs, whole groups, soft failures, conditions, retries, delays, gates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from matterstack.core.model import (
    Campaign,
    DependencyRule,
    Edge,
    Instance,
    OperatorSpec,
    OutputSpec,
    Repeat,
    ResolvedInput,
    ResolvedOutput,
    Retries,
    Source,
    Tasks,
    TaskSpec,
)
from matterstack.simulation.chance import Chance


def campaign(seed: int, left_out: Iterable[str] = (), version: int = 1) -> tuple[Campaign, list[Instance]]:
    """Give a campaign of two to six groups; ``left_out`` names groups that are not made, to shorten a history.

    In a later ``version`` some groups have another width, another command or other handling, or are gone.
    """
    chance, without = Chance(seed), set(left_out)
    specs: dict[str, TaskSpec] = {}
    members: dict[str, list[Instance]] = {}
    position = 0
    for number in range(chance.number(2, 6, "groups")):
        name = f"t{number}"
        if name in without or (version > 1 and chance.happens(0.1, "gone", name, version)):
            continue
        spec = _spec(chance, name, list(specs), specs)
        last = max([v for v in range(2, version + 1) if chance.happens(0.4, "amended", name, v)], default=0)
        if last and spec.command is not None:
            spec = replace(spec, command=chance.choice(("true", f"true {last}"), "command", name, last))
            spec = replace(spec, retries=chance.choice((spec.retries, Retries(2, 0.0)), "new retries", name, last))
        specs[name] = spec
        count = (
            1
            if spec.operator == "board"
            else chance.choice((1, 1, 2, 3), "width", name, last)
            if last
            else chance.choice((1, 1, 2, 3), "width", name)
        )
        labels = [name] if count == 1 else [f"{name}/{index}" for index in range(count)]
        members[name] = [_instance(chance, spec, task_id, members) for task_id in labels]
        position += count
    if not specs:
        specs["t0"] = TaskSpec("t0", command="true")
        members["t0"] = [_instance(chance, specs["t0"], "t0", {})]
    if "plans" not in without and version == 1:
        _add_plans(chance, specs, members)
    operators = {
        "local": OperatorSpec("local", "local", max_active=chance.choice((None, 1, 2), "cap"), slot_cpus=4),
        "board": OperatorSpec("board", "human"),
    }
    made = Campaign("simulated", "", {}, (), operators, Tasks(specs), 10**7)
    return made, [item for group in members.values() for item in group]


def _add_plans(chance: Chance, specs: dict[str, TaskSpec], members: dict[str, list[Instance]]) -> None:
    """Add a group and a loop that results make, now and then, with what needs them."""
    single = [name for name, items in members.items() if len(items) == 1 and specs[name].operator == "local"]

    def add(spec: TaskSpec, edges: Iterable[Edge], plan: str = "") -> None:
        specs[spec.name] = spec
        operator = "" if plan else spec.operator
        outputs = {} if plan else {"o": ResolvedOutput(f"o/{spec.name}", "out")}
        members[spec.name] = [
            Instance(spec.name, spec.name, spec.name, {}, operator, 0, {}, outputs, tuple(edges), plan)
        ]

    def body(name: str, **more: Any) -> TaskSpec:
        retries = Retries(chance.choice((0, 1), "retries", name), 0.0)
        return TaskSpec(name, command="true", retries=retries, allow_failure=chance.happens(0.3, "soft", name), **more)

    if single and chance.happens(0.3, "late"):
        source = chance.choice(single, "source of late")
        axis = {"i": {"range": f"${{{{ metrics.{source}.n }}}}"}}
        spec = body("late", matrix=axis, late=("i",), outputs={"o": OutputSpec("o/late/${{ matrix.i }}", "out")})
        add(spec, [Edge(source, f"metrics.{source}")], "group")
        rule = chance.choice((None, DependencyRule()), "rule", "after")
        allow = chance.happens(0.5, "allow skipped", "after")
        after = TaskSpec("after", command="true", needs=("late",), allow_dependency_failure=rule, allow_skipped=allow)
        add(after, [Edge("late", "needs[0]")])
    if chance.happens(0.3, "loop"):
        carry = {"v": {"first": 1, "next": "${{ metrics.c.n }}"}}
        repeat = Repeat(chance.number(1, 4, "max"), chance.choice((None, "${{ metrics.c.done }}"), "until"), carry)
        edges = [Edge(name, f"needs[{index}]") for index, name in enumerate(single[:1])]
        add(TaskSpec("loop", needs=tuple(single[:1]), repeat=repeat), edges, "loop")
        axis = {"i": {"range": "${{ metrics.a.n }}"}}
        rule = chance.choice((None, DependencyRule()), "rule", "loop/c")
        outputs = {"o": OutputSpec("e/${{ matrix.i }}", "out")}
        for spec in (
            body("loop/a", outputs={"o": OutputSpec("a", "out")}),
            body("loop/b", matrix=axis, late=("i",), outputs=outputs),
            body("loop/c", needs=("b",), allow_dependency_failure=rule, allow_skipped=True),
        ):
            specs[spec.name] = spec
        report = TaskSpec("report", command="true", needs=("loop",))
        add(report, [Edge("loop", "needs[0]")])


def _spec(chance: Chance, name: str, before: list[str], specs: dict[str, TaskSpec]) -> TaskSpec:
    gate = chance.happens(0.2, "gate", name)
    gates = [other for other in before if specs[other].operator == "board"]
    when = None
    if gates and chance.happens(0.4, "when", name):
        when = f"${{{{ response.{chance.choice(gates, 'which gate', name)}.go }}}}"
    rule = chance.choice(
        (None, None, None, DependencyRule(), DependencyRule(min_count=1), DependencyRule(min_percent=60)), "rule", name
    )
    delay = chance.choice((0.0, 0.0, 15.0), "delay", name)
    return TaskSpec(
        name=name,
        command=None if gate else "true",
        operator="board" if gate else "local",
        retries=Retries() if gate else Retries(chance.choice((0, 0, 1, 2), "retries", name), delay),
        priority=chance.number(0, 2, "priority", name),
        allow_failure=chance.happens(0.25, "soft", name),
        allow_dependency_failure=rule,
        allow_skipped=chance.happens(0.2, "allow skipped", name),
        when=when,
    )


def _instance(chance: Chance, spec: TaskSpec, task_id: str, members: dict[str, list[Instance]]) -> Instance:
    edges: dict[Edge, None] = {}
    inputs: dict[str, ResolvedInput] = {}
    for index, (group, upstream) in enumerate(members.items()):
        how = chance.roll("edge", spec.name, group)
        if how < 0.15 and len(upstream) > 1 and spec.allow_dependency_failure is None:
            edges[Edge(group, f"needs[{index}]")] = None  # the group as a whole
        elif how < 0.25:
            edges |= {Edge(item.task_id, f"needs[{index}]"): None for item in upstream}
        elif how < 0.45:
            edges |= {Edge(item.task_id, f"inputs.i{index}"): None for item in upstream}
            sources = tuple(Source(item.task_id, "o", "") for item in upstream)
            inputs[f"i{index}"] = ResolvedInput(True, None, sources)
    if spec.when is not None:
        gate = spec.when.split(".")[1]
        edges[Edge(gate, f"response.{gate}")] = None
    outputs = {"o": ResolvedOutput(f"o/{task_id}", "out")}
    label = task_id.rpartition("/")[2]
    return Instance(task_id, spec.name, label, {}, spec.operator, int(spec.priority), inputs, outputs, tuple(edges))
