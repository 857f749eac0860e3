"""Random campaigns: fan-outs, whole groups, soft failures, conditions, retries, delays, gates."""

from __future__ import annotations

from collections.abc import Iterable

from matterstack.core.model import (
    Campaign,
    DependencyRule,
    Edge,
    Instance,
    OperatorSpec,
    ResolvedInput,
    ResolvedOutput,
    Retries,
    Source,
    TaskSpec,
)
from matterstack.simulation.chance import Chance


def campaign(seed: int, left_out: Iterable[str] = ()) -> tuple[Campaign, list[Instance]]:
    """Give a campaign of two to six groups; ``left_out`` names groups that are not made, to shorten a history."""
    chance, without = Chance(seed), set(left_out)
    specs: dict[str, TaskSpec] = {}
    members: dict[str, list[Instance]] = {}
    position = 0
    for number in range(chance.number(2, 6, "groups")):
        name = f"t{number}"
        if name in without:
            continue
        spec = _spec(chance, name, list(specs), specs)
        specs[name] = spec
        count = 1 if spec.operator == "board" else chance.choice((1, 1, 2, 3), "width", name)
        labels = [name] if count == 1 else [f"{name}/{index}" for index in range(count)]
        members[name] = [_instance(chance, spec, task_id, members) for task_id in labels]
        position += count
    if not specs:
        specs["t0"] = TaskSpec("t0", command="true")
        members["t0"] = [_instance(chance, specs["t0"], "t0", {})]
    operators = {
        "local": OperatorSpec("local", "local", max_active=chance.choice((None, 1, 2), "cap"), slot_cpus=4),
        "board": OperatorSpec("board", "human"),
    }
    made = Campaign("simulated", "", {}, (), operators, specs, 10**7)
    return made, [item for group in members.values() for item in group]


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
