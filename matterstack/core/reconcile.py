"""What an observation means for an attempt and its task.

Recorded state + what the operator saw + what the files show -> changes. Pure: the same inputs give the same
changes, so a step that was killed before it recorded them is simply repeated.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from matterstack.core.model import (
    AttemptChange,
    AttemptFacts,
    Evidence,
    Observation,
    Resources,
    Retries,
    Sighting,
    TaskChange,
)
from matterstack.core.states import (
    RETRIED,
    TASK_STATE_OF_ATTEMPT,
    AttemptState,
    FailureClass,
    TaskState,
)
from matterstack.core.values import (
    LONGEST_TIME_S,
    MOST_MEMORY,
    as_text,
    format_duration,
    parse_memory,
    parse_time,
)

LEAST_TIME_S = 0.1
_MOST = 1_000_000  # cpus or gpus of one attempt
MOST_NOT_STARTED = 3  # in a row; then something is wrong that another try does not cure

_LIVE_SIGHTINGS = {
    Sighting.SUBMITTED: AttemptState.SUBMITTED,
    Sighting.RUNNING: AttemptState.RUNNING,
    Sighting.WAITING: AttemptState.WAITING,
}

Changes = tuple[AttemptChange | None, TaskChange | None]


def reconcile(facts: AttemptFacts, seen: Observation, evidence: Evidence, now: float) -> Changes:
    """Decide one live attempt: (change of the attempt, change of its task), None where nothing changes."""
    live = facts.live
    if seen.sighting is Sighting.UNKNOWN:
        if seen.reason == facts.reason:
            return None, None
        return AttemptChange(live.task_id, live.attempt, live.state, reason=seen.reason, handle=seen.handle), None
    if seen.sighting in _LIVE_SIGHTINGS:
        return _still_live(facts, seen)
    if seen.sighting is Sighting.NOT_STARTED:
        return _not_started(facts, seen, now)
    return _ended(facts, seen, evidence, now)


def _still_live(facts: AttemptFacts, seen: Observation) -> Changes:
    live = facts.live
    state = _LIVE_SIGHTINGS[seen.sighting]
    handle = seen.handle if seen.handle != live.handle else None
    if state is live.state and handle is None and seen.reason == facts.reason:
        return None, None
    change = AttemptChange(
        live.task_id, live.attempt, state, reason=seen.reason, handle=handle, started_at=seen.started_at
    )
    return change, TaskChange(live.task_id, TASK_STATE_OF_ATTEMPT[state])


def _not_started(facts: AttemptFacts, seen: Observation, now: float) -> Changes:
    live = facts.live
    reason = seen.reason or "claimed by a step before it could start"
    change = AttemptChange(
        live.task_id, live.attempt, AttemptState.CANCELLED, FailureClass.NOT_STARTED, reason, ended_at=now
    )
    if facts.wish:
        return change, _after_wish(facts)
    if facts.not_started + 1 >= MOST_NOT_STARTED:
        return change, TaskChange(
            live.task_id,
            TaskState.FAILED,
            f"attempt {live.attempt}: not started, {MOST_NOT_STARTED} times in a row: {reason}",
            soft=facts.allow_failure,
        )
    return change, TaskChange(live.task_id, TaskState.PENDING)


def _after_wish(facts: AttemptFacts) -> TaskChange:
    if facts.wish == "rerun":
        return TaskChange(facts.live.task_id, TaskState.PENDING)
    return TaskChange(facts.live.task_id, TaskState.CANCELLED, "cancelled")


def _ended(facts: AttemptFacts, seen: Observation, evidence: Evidence, now: float) -> Changes:
    live = facts.live
    failure, reason = classify(seen, evidence, live.time_s)
    before_wish = facts.wished_at is None or (seen.ended_at or now) < facts.wished_at
    if failure is None and before_wish:
        state, task = AttemptState.COMPLETED, TaskChange(live.task_id, TaskState.COMPLETED)
    elif facts.wish:
        state, task = AttemptState.CANCELLED, _after_wish(facts)
        failure, reason = FailureClass.CANCELLED, f"cancelled ({reason or 'exit code 0'})"
    else:
        assert failure is not None
        state = AttemptState.LOST if failure is FailureClass.LOST else AttemptState.FAILED
        task = after_failure(facts, failure, reason, seen.exit_code, now)
    if facts.wish == "rerun" and state is AttemptState.COMPLETED:
        task = TaskChange(live.task_id, TaskState.PENDING)
    counts = state in (AttemptState.FAILED, AttemptState.LOST) and failure in RETRIED
    change = AttemptChange(
        live.task_id,
        live.attempt,
        state,
        failure,
        reason,
        exit_code=seen.exit_code,
        started_at=seen.started_at,
        ended_at=seen.ended_at if seen.ended_at is not None else now,
        evidence=evidence,
        counts=counts,
    )
    return change, task


def classify(seen: Observation, evidence: Evidence, time_s: float | None) -> tuple[FailureClass | None, str]:
    """Give the failure class of an ended attempt, None for a success, and one sentence."""
    if seen.sighting is Sighting.GONE:
        return FailureClass.LOST, seen.reason or "its process is gone and left no exit.json"
    if seen.failure is not None:
        if seen.failure is FailureClass.TIMEOUT and not seen.reason and time_s is not None:
            return seen.failure, f"stopped at its time limit of {format_duration(time_s)}"
        return seen.failure, seen.reason or str(seen.failure)
    if seen.exit_code != 0:
        return FailureClass.EXIT_CODE, describe_exit(seen.exit_code)
    if evidence.missing:
        names = ", ".join(evidence.missing[:5]) + (", …" if len(evidence.missing) > 5 else "")
        verb = "was" if len(evidence.missing) == 1 else "were"
        return FailureClass.MISSING_OUTPUT, f"exit code 0, but {names} {verb} not written"
    return None, evidence.remark


def describe_exit(exit_code: int | None) -> str:
    """Print an exit code for a person: `exit code 1`, `exit code 137 (SIGKILL)`, `exit code 127 (…)`."""
    if exit_code is None:
        return "no exit code"
    hint = {126: " (a command that cannot be executed)", 127: " (a command that was not found)"}.get(exit_code, "")
    if 128 < exit_code < 160:
        try:
            hint = f" ({signal.Signals(exit_code - 128).name})"
        except ValueError:
            hint = ""
    return f"exit code {exit_code}{hint}"


def after_failure(
    facts: AttemptFacts, failure: FailureClass, reason: str, exit_code: int | None, now: float
) -> TaskChange:
    """Decide what becomes of a task whose attempt failed: a retry, perhaps later, or FAILED.

    A retry is PENDING first: something upstream may have been run again meanwhile.
    """
    live = facts.live
    never = _rule(facts.retries, failure, exit_code) == "never"
    tries = facts.tries + 1
    if failure in RETRIED and tries <= facts.retries.max and not never:
        if facts.retries.delay_s > 0:
            text = f"retry {tries} of {facts.retries.max} after {reason}"
            return TaskChange(live.task_id, TaskState.PENDING, text, retry_at=now + facts.retries.delay_s)
        return TaskChange(live.task_id, TaskState.PENDING, f"retry {tries} of {facts.retries.max} after {reason}")
    if failure not in RETRIED or never:
        which = f"attempt {live.attempt}"
    elif tries == live.attempt:
        which = f"attempt {tries} of {facts.retries.max + 1}"
    else:  # after a rerun, which counts anew
        which = f"attempt {live.attempt} (try {tries} of {facts.retries.max + 1})"
    return TaskChange(live.task_id, TaskState.FAILED, f"{which}: {reason}", soft=facts.allow_failure)


def _rule(retries: Retries, failure: FailureClass, exit_code: int | None) -> Any:
    if failure is FailureClass.EXIT_CODE and f"exit_code_{exit_code}" in retries.rules:
        return retries.rules[f"exit_code_{exit_code}"]
    return retries.rules.get(str(failure))


RETRY_CLASSES = tuple(sorted(RETRIED))
MOST_RETRIES = 1000
_EXIT_CODE = re.compile(r"exit_code_(0|[1-9][0-9]{0,2})\Z")


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
            raise ValueError(f"retries: expected a number of retries or a mapping, got {_shown(layer)}")
    problem = next(retry_problems(merged), None)
    if problem is not None:
        raise ValueError(f"{'.'.join(('retries', *problem[0]))}: {problem[1]}")
    rules = {key: rule for key, rule in merged.items() if key not in ("max", "delay")}
    return Retries(int(merged.get("max", 0)), parse_time(merged.get("delay", "0s")), rules)


def retry_problems(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give (keys below retries, message) for everything that is wrong."""
    for key, value in data.items():
        if key == "max":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_RETRIES:
                yield (key,), f"expected a whole number from 0 to {MOST_RETRIES}, got {_shown(value)}"
        elif key == "delay":
            message = _problem_of(parse_time, value)
            if message:
                yield (key,), message
        elif key not in RETRY_CLASSES and not _EXIT_CODE.match(key):
            yield (key,), f"is no class of failures; there are {', '.join(RETRY_CLASSES)} and exit_code_N"
        elif isinstance(value, Mapping):
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
        kind = next(iter(changed), "") if key == "up_to" else key
        if key == "up_to" and len(changed) > 1:
            yield key, f"limits one resource, here are {', '.join(changed)}"
        elif kind not in ("cpus", "gpus", "memory", "time"):
            yield key, "expected cpus, gpus, memory or time, and up_to"
        elif key != "up_to" and isinstance(value, str) and value.startswith("x"):
            if not _FACTOR.match(value) or not 0 < float(value[1:]) <= 1000:
                yield key, f"expected a factor like x2, got {value}"
        elif kind in ("memory", "time"):
            message = _problem_of(parse_memory if kind == "memory" else parse_time, value)
            if message:
                yield key, message
        elif isinstance(value, bool) or not isinstance(value, int) or value < 0:
            yield key, f"expected a whole number or a factor like x2, got {_shown(value)}"


_FACTOR = re.compile(r"x[0-9]+(\.[0-9]+)?\Z")


def _problem_of(parse: Any, value: Any) -> str:
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return ""


def most_cpu_seconds(resources: Mapping[str, Any], retries: Retries) -> float | None:
    """Give an upper bound of cpus times time over all attempts, None where there is no time limit.

    Each retry is taken to be the one whose rule asks for most.
    """
    first = parse_resources(resources)
    if first.time_s is None:
        return None
    classes: list[tuple[FailureClass, int | None]] = [(FailureClass.EXIT_CODE, None), (FailureClass.TIMEOUT, None)]
    for key, rule in retries.rules.items():
        if isinstance(rule, Mapping):
            code = int(key[10:]) if key.startswith("exit_code_") else None
            classes.append((FailureClass.EXIT_CODE if code is not None else FailureClass(key), code))
    total = first.cpus * first.time_s
    asked = dict(resources)
    for _ in range(retries.max):
        tries = [escalate(asked, retries, [failure]) for failure in classes]
        found = [parse_resources(values) for values in tries]
        # Of each resource the most that any rule gives: a bound, also where rules of several classes follow each other.
        cpus = max((item.cpus, item.as_written["cpus"]) for item in found)[1]
        time = max((item.time_s or 0.0, str(item.as_written["time"])) for item in found)[1]
        asked = {**asked, "cpus": cpus, "time": time}
        last = parse_resources(asked)
        total += last.cpus * (last.time_s or 0.0)
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
        rule = _rule(retries, failure, exit_code)
        if not isinstance(rule, Mapping):
            continue
        for key, value in rule.items():
            if key == "up_to":
                continue
            factor = value[1:] if isinstance(value, str) and value.startswith("x") else None
            if factor is None:
                out[key] = value
            elif out.get(key) is not None:
                out[key] = _multiply(key, out[key], float(factor), rule.get("up_to"))
    return out


def _multiply(key: str, value: Any, factor: float, up_to: Any) -> Any:
    if key == "memory":
        size = int(parse_memory(value) * factor)
        return _memory_text(min(size, parse_memory(up_to) if up_to else MOST_MEMORY))
    if key == "time":
        seconds = min(parse_time(value) * factor, parse_time(up_to) if up_to else LONGEST_TIME_S)
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    return max(1, round(min(int(value) * factor, int(up_to) if up_to else _MOST)))


def _memory_text(size: int) -> str:
    return f"{size // 2**20}M" if size % 2**20 == 0 else f"{max(1, size // 2**10)}K"


def parse_resources(values: Mapping[str, Any]) -> Resources:
    """Check and convert resolved resources. Raises ValueError with a message for a person."""
    cpus, gpus = values.get("cpus", 1), values.get("gpus", 0)
    for name, number, least in (("cpus", cpus, 1), ("gpus", gpus, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= _MOST:
            raise ValueError(f"resources.{name}: expected a whole number from {least} to {_MOST}, got {_shown(number)}")
    time_s = _resource(values, "time", parse_time)
    if time_s is not None and time_s < LEAST_TIME_S:
        raise ValueError(f"resources.time: a limit of {values['time']} leaves no time to run")
    return Resources(
        cpus=int(cpus),
        memory=_resource(values, "memory", parse_memory),
        gpus=int(gpus),
        time_s=time_s,
        as_written={"cpus": cpus, **values},
    )


def _resource(values: Mapping[str, Any], name: str, parse: Any) -> Any:
    if values.get(name) is None:
        return None
    try:
        return parse(values[name])
    except ValueError as error:
        raise ValueError(f"resources.{name}: {error}") from None


def _shown(value: object) -> str:
    try:
        return as_text(value)
    except ValueError:
        return repr(value)
