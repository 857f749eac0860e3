"""Operators by kind: the built-in ones, and those that packages register in `matterstack.operators`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from matterstack.core.model import OperatorSpec
from matterstack.errors import UsageError
from matterstack.operators.base import Operator

GROUP = "matterstack.operators"
_BUILT_IN = {
    "local": ("matterstack.operators.local", "LocalOperator"),
    "manual": ("matterstack.operators.manual", "ManualOperator"),
    "human": ("matterstack.operators.human", "HumanOperator"),
    "experiment": ("matterstack.operators.experiment", "ExperimentOperator"),
}


def runnable_kinds() -> frozenset[str]:
    """Return the kinds of operators that this installation can run."""
    from importlib.metadata import entry_points  # costs tens of milliseconds; a step with built-in kinds has no need

    return frozenset(_BUILT_IN) | {point.name for point in entry_points(group=GROUP)}


def make_operator(spec: OperatorSpec) -> Operator:
    """Return the operator for a spec. Raises UsageError for a kind that is not installed."""
    if spec.kind in _BUILT_IN:
        module, name = _BUILT_IN[spec.kind]
        factory: Any = getattr(import_module(module), name)
    else:
        from importlib.metadata import entry_points

        found = entry_points(group=GROUP, name=spec.kind)
        if not found:
            raise UsageError(f"operator '{spec.name}' is of kind '{spec.kind}', which is not installed here")
        factory = next(iter(found)).load()
    operator: Operator = factory(spec)
    return operator
