"""What an attempt asks for: its resources, checked, and raised by the retry rules of the failures before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from matterstack.core.model import Resources, Retries
from matterstack.core.states import RETRIED, FailureClass
from matterstack.core.values import LONGEST_TIME_S, MOST_MEMORY, as_text, dump_json, parse_memory, parse_time
from matterstack.errors import ValueRefused

LEAST_TIME_S = 0.1
_MOST = 1_000_000  # cpus or gpus of one attempt
MOST_RETRIES = 1000
RETRY_CLASSES = tuple(sorted(RETRIED))
_EXIT_CODE = re.compile(r"exit_code_([1-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])\Z")
_FACTOR = re.compile(r"x[0-9]+(\.[0-9]+)?\Z")


def rule_for(retries: Retries, failure: FailureClass, exit_code: int | None) -> Any:
    """Return the rule for a failure: `never`, a mapping of resources, or None."""
    if failure is FailureClass.EXIT_CODE and f"exit_code_{exit_code}" in retries.rules:
        return retries.rules[f"exit_code_{exit_code}"]
    return retries.rules.get(str(failure))


def parse_retries(*layers: Any) -> Retries:
    """Merge `retries` of defaults and task (each a number or a mapping) key by key, and convert.

    Raises ValueError for one that is wrong, with its place in words.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if isinstance(layer, Mapping):
            merged.update(layer)
        elif isinstance(layer, int) and not isinstance(layer, bool):
            merged["max"] = layer
        else:
            raise ValueRefused(f"expected a number of retries or a mapping, got {_shown(layer)}", ("retries",))
    problem = next(retry_problems(merged), None)
    if problem is not None:
        raise ValueRefused(problem[1], ("retries", *problem[0]))
    rules = {key: rule for key, rule in merged.items() if key not in ("max", "delay")}
    return Retries(int(merged.get("max", 0)), parse_time(merged.get("delay", "0s")), rules)


def retry_problems(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Return (keys below retries, message) for everything that is wrong."""
    for key, value in data.items():
        if key == "max":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_RETRIES:
                yield (key,), f"expected a whole number from 0 to {MOST_RETRIES}, got {_shown(value)}"
        elif key == "delay":
            message = _problem_of(parse_time, value)
            if message:
                yield (key,), message
        elif key not in RETRY_CLASSES and not _EXIT_CODE.match(key):
            yield (key,), f"is not a class of failures; the classes are {', '.join(RETRY_CLASSES)} and exit_code_N"
        elif isinstance(value, Mapping):  # an empty one retries unchanged
            for name, message in _rule_problems(value):
                yield (key, name), message
        elif value != "never":
            yield (key,), f"expected never, or a mapping like {{memory: x2, up_to: 120G}}, got {_shown(value)}"


def _rule_problems(rule: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    changed = [key for key in rule if key != "up_to"]
    if rule and not changed:
        yield "up_to", "limits nothing; name what grows, like {memory: x2, up_to: 120G}"
        return
    for key, value in rule.items():
        kind = changed[0] if key == "up_to" else key
        if key == "up_to" and len(changed) > 1:
            yield key, f"limits one resource, here are {', '.join(changed)}"
        elif kind not in _RESOURCES:
            yield key, "expected cpus, gpus, memory or time, and up_to"
        elif key != "up_to" and isinstance(value, str) and value.startswith("x"):
            if not _FACTOR.match(value) or not 0 < float(value[1:]) <= 1000:
                yield key, f"expected a factor like x2, got {value}"
        else:
            message = _problem_of(_RESOURCES[kind], value)
            if message:
                yield key, message


def _problem_of(parse: Callable[[Any], object], value: Any) -> str:
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return ""


def most_cpu_seconds(resources: Mapping[str, Any], retries: Retries) -> float | None:
    """Return an upper bound of cpus times time over all attempts, None where there is no time limit.

    Each retry is taken to be the one whose rule asks for most, or the same again.
    """
    first = parse_resources(resources)
    if first.time_s is None:
        return None
    classes: list[tuple[FailureClass, int | None]] = [(FailureClass.EXIT_CODE, None)]
    for key, rule in retries.rules.items():
        if isinstance(rule, Mapping):
            code = int(key[10:]) if key.startswith("exit_code_") else None
            classes.append((FailureClass.EXIT_CODE if code is not None else FailureClass(key), code))
    total = last = first.cores * first.time_s
    asked = dict(resources)
    for retry in range(retries.max):
        tries = [asked, *(escalate(asked, retries, [failure]) for failure in classes)]
        found = [parse_resources(values) for values in tries]
        # Of each resource the most that any rule gives: a bound, also where rules of several classes follow each other.
        most = {
            **asked,
            "cpus": max((item.cpus, item.as_written["cpus"]) for item in found)[1],
            "time": max((item.time_s or 0.0, str(item.as_written["time"])) for item in found)[1],
        }
        checked = parse_resources(most)
        before, last = last, checked.cores * (checked.time_s or 0.0)
        if last == before:  # it stays so
            return total + last * (retries.max - retry)
        asked, total = most, total + last
    return total


def escalate(
    resources: Mapping[str, Any], retries: Retries, failures: list[tuple[FailureClass, int | None]]
) -> dict[str, Any]:
    """Apply the retry rules of the failures so far, in their order, to resolved resources.

    ``{memory: x2, up_to: 120G}`` doubles; a value without `x` replaces. Raises ValueError for a value that is
    no resource.
    """
    out = dict(resources)
    for failure, exit_code in failures:
        rule = rule_for(retries, failure, exit_code)
        if not isinstance(rule, Mapping):
            continue
        for key, value in rule.items():
            if key == "up_to":
                continue
            factor = value[1:] if isinstance(value, str) and value.startswith("x") else None
            if factor is None:
                out[key] = value
            elif out.get(key) is not None or key == "cpus":  # one cpu is asked for where nothing is written
                out[key] = _multiply(key, out.get(key, 1), float(factor), rule.get("up_to"))
    return out


def _multiply(key: str, value: Any, factor: float, up_to: Any) -> Any:
    """Multiply a resource, at most to ``up_to``; what is above that already stays as it is."""
    if key == "memory":
        size = parse_memory(value)
        return _memory_text(_grown(size, factor, parse_memory(up_to) if up_to is not None else MOST_MEMORY))
    if key == "time":
        seconds = parse_time(value)
        grown = _grown(seconds, factor, parse_time(up_to) if up_to is not None else LONGEST_TIME_S)
        return f"{grown:.3f}".rstrip("0").rstrip(".") + "s"
    return max(1, round(_grown(int(value), factor, int(up_to) if up_to is not None else _MOST)))


def _grown(value: float, factor: float, most: float) -> float:
    return value * factor if factor < 1 else max(value, min(value * factor, most))


def _memory_text(bytes_: float) -> str:
    size = int(bytes_)
    return f"{size // 2**20}M" if size % 2**20 == 0 else f"{max(1, size // 2**10)}K"


def parse_resources(values: Mapping[str, Any]) -> Resources:
    """Check and convert resolved resources. Raises ValueError with a message for a person."""
    return Resources(
        cpus=_resource(values, "cpus") or 1,
        memory=_resource(values, "memory"),
        gpus=_resource(values, "gpus") or 0,
        time_s=_resource(values, "time"),
        as_written={"cpus": 1, **values},
        tasks=_resource(values, "tasks") or 1,
        nodes=_resource(values, "nodes") or 1,
        licences=_resource(values, "licences") or {},
    )


def _resource(values: Mapping[str, Any], name: str) -> Any:
    if values.get(name) is None:
        return None
    try:
        return _CHECKED[name](values[name])
    except ValueError as error:
        raise ValueRefused(str(error), ("resources", name)) from None


def _whole_number(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
        raise ValueError(f"expected a whole number from {least} to {_MOST}, got {_shown(value)}")
    return int(value)


def _time_limit(value: Any) -> float:
    seconds = parse_time(value)
    if seconds < LEAST_TIME_S:
        raise ValueError(f"a limit of {value} leaves no time to run")
    return seconds


def _licences(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping of licences to numbers, got {_shown(value)}")
    return {name: _whole_number(count, 1) for name, count in value.items()}


_RESOURCES: dict[str, Callable[[Any], Any]] = {
    "cpus": lambda value: _whole_number(value, 1),
    "gpus": lambda value: _whole_number(value, 0),
    "memory": parse_memory,
    "time": _time_limit,
}
_CHECKED = {
    **_RESOURCES,
    "tasks": _RESOURCES["cpus"],
    "nodes": _RESOURCES["cpus"],
    "licences": _licences,
}  # these no retry rule changes


def _shown(value: object) -> str:
    try:
        return as_text(value)
    except ValueError:
        return dump_json(value)
