"""A whole campaign rehearsed: the real steps over a run root in a temporary folder, with operators that only pretend, and a clock
that goes from one end to the next.

Nothing is computed. How long work takes and how often it fails is guessed or given; what tasks write is an empty stand-in, or what
samples say, since the plan may depend on it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from matterstack.core.model import (
    Launch,
    LiveAttempt,
    LoadedCampaign,
    Observation,
    OperatorSpec,
    Sighting,
    Submission,
    TaskSpec,
)
from matterstack.core.states import AttemptState, TaskState
from matterstack.core.suggestions import did_you_mean
from matterstack.core.times import to_text
from matterstack.core.validation import schema_violation
from matterstack.core.values import dump_json, parse_time
from matterstack.deferred import dataclass
from matterstack.errors import SubmissionRejected, UsageError
from matterstack.operators.answers import BadAnswer, check_data, with_defaults
from matterstack.operators.base import Key
from matterstack.operators.processes import machine_slots
from matterstack.orchestration.init import initialize_run
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step
from matterstack.run_root.files import write_beside
from matterstack.run_root.layout import METRICS, RESPONSE, TASK
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.template.language import references
from matterstack.text.reasons import sentence

_GUESS_S = 60.0  # of work without a time limit
_SHARE = 0.5  # of its time limit that work takes
_DELAY_S = 86400.0  # until a person, a lab or a colleague has answered
_ROWS = 3  # of a table that makes instances, without `expect`
_MOST_STEPS = 100_000


@dataclass(frozen=True)
class Rates:
    """How long attempts take, in seconds, and which share of them fails, by task; ``people`` is the delay of answers."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    fails: Mapping[str, float] = field(default_factory=dict)
    people_s: float = _DELAY_S


def rates_from(data: Any, tasks: Iterable[str]) -> Rates:
    """Read rates: {people: 1d, TASK: {time: 2h, fails: 0.1}}. Raises UsageError."""
    known, seconds, fails, people = list(tasks), dict[str, float](), dict[str, float](), _DELAY_S
    try:
        for name, value in (data or {}).items():
            if name == "people":
                people = parse_time(value)
            elif name not in known or not isinstance(value, Mapping) or set(value) - {"time", "fails"}:
                raise ValueError(
                    f"'{name}': expected `people: 1d`, or a task with {{time: 2h, fails: 0.1}}; there are {', '.join(known)}"
                )
            else:
                if "time" in value:
                    seconds[name] = parse_time(value["time"])
                if "fails" in value:
                    share = value["fails"]
                    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                        raise ValueError(f"{name}.fails: expected a share from 0 to 1, got {dump_json(share)[:60]}")
                    fails[name] = float(share)
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"rates: {error}") from None
    return Rates(seconds, fails, people)


@dataclass(frozen=True)
class Line:
    """What became of a task of the file: seconds count from the beginning of the run."""

    task: str
    instances: int
    attempts: int
    failures: int
    begins_s: float
    ends_s: float
    cpu_hours: float
    waits_for_people: bool


@dataclass(frozen=True)
class Rehearsal:
    state: str
    ends_s: float
    cpu_hours: float
    people_alone_s: float  # while nobody but people was at work
    lines: tuple[Line, ...]
    never: tuple[tuple[str, str], ...]  # tasks of which nothing ran, and why
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state, "ends_s": round(self.ends_s, 3), "cpu_hours": round(self.cpu_hours, 6),
            "people_alone_s": round(self.people_alone_s, 3),
            "tasks": [
                {
                    "task": line.task, "instances": line.instances, "attempts": line.attempts, "failures": line.failures,
                    "begins_s": round(line.begins_s, 3), "ends_s": round(line.ends_s, 3), "cpu_hours": round(line.cpu_hours, 6),
                }
                for line in self.lines
            ],
            "never": [{"task": task, "reason": why} for task, why in self.never],
            "remarks": list(self.remarks),
        }  # fmt: skip


@dataclass()
class _Stage:
    """The clock, and what is at work."""

    loaded: LoadedCampaign
    rates: Rates
    samples: Mapping[str, Any]
    began: float
    now: float
    ends: dict[Key, float]
    stand_ins: Mapping[str, Mapping[str, Any]]  # task -> metrics that templates name
    made: dict[str, int] = field(default_factory=dict)  # task -> how many have ended well
    refused: str = ""  # why it cannot go on

    def spec(self, folder: str) -> TaskSpec:
        return self.loaded.campaign.tasks[_task_of(Path(folder))["group"]]


class RehearsedOperator:
    """Takes everything, does nothing, and says when it would have ended."""

    def __init__(self, spec: OperatorSpec, stage: _Stage) -> None:
        self.spec = spec
        self.stage = stage

    def origin(self) -> str:
        return ""

    def slots(self) -> tuple[int | None, int | None]:
        if not self.spec.row.on_this_machine:
            return self.spec.slot_cpus, self.spec.slot_memory
        cpus, memory = machine_slots()
        return self.spec.slot_cpus or cpus, self.spec.slot_memory or memory

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        out: dict[Key, Submission | SubmissionRejected] = {}
        stage = self.stage
        for launch in launches:
            name = stage.spec(launch.folder).name
            if self.spec.row.asks:
                took, state = stage.rates.people_s, AttemptState.WAITING
            else:
                limit = launch.resources.time_s
                took, state = _GUESS_S if limit is None else _SHARE * limit, AttemptState.RUNNING
            stage.ends[launch.task_id, launch.attempt] = stage.now + stage.rates.seconds.get(name, took)
            out[launch.task_id, launch.attempt] = Submission("{}", state)
        return out

    def recover(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return {}

    def observe(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        out = {}
        for attempt in attempts:
            over = self.stage.ends.get(attempt.key, self.stage.now) <= self.stage.now
            alive = Sighting.WAITING if self.spec.row.asks else Sighting.RUNNING
            out[attempt.key] = self._end(attempt) if over else Observation(alive)
        return out

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        return {}

    def wake_fds(self, attempts: Sequence[LiveAttempt]) -> Sequence[int]:
        return ()

    def _end(self, attempt: LiveAttempt) -> Observation:
        stage, folder = self.stage, Path(attempt.folder)
        spec, at = stage.spec(attempt.folder), stage.ends[attempt.key]
        began = attempt.started_at if attempt.started_at is not None else at
        if _roll(attempt.key) < stage.rates.fails.get(spec.name, 0.0):
            return Observation(Sighting.ENDED, exit_code=1, started_at=began, ended_at=at)
        number = stage.made[spec.name] = stage.made.get(spec.name, 0) + 1
        sample = _sample(stage.samples, spec.name)
        task = _task_of(folder)
        _write_outputs(folder, spec, task["outputs"], sample.get("outputs", {}), stage.loaded)
        metrics = {**stage.stand_ins.get(spec.name, {}), **_nth(sample.get("metrics", {}), number)}
        if metrics:
            write_beside(folder / METRICS, dump_json(metrics))
        if self.spec.row.asks and not self.spec.row.answers:
            return Observation(Sighting.ENDED, exit_code=0, ended_at=at)
        if not self.spec.row.answers:
            return Observation(Sighting.ENDED, exit_code=0, started_at=began, ended_at=at)
        schema = task["asked"].get("response_schema") or task["asked"].get("result_schema")
        data = (
            _nth(sample["response"], number) if "response" in sample else with_defaults(schema, fitting(schema or {}))
        )
        wrong = _why_not(schema, data)
        if wrong:
            given = "does not fit its schema" if "response" in sample else "is to be pretended, and nothing plain fits"
            stage.refused = f"samples: {spec.name}.response {given}: {wrong}; give it with --samples"
            return Observation(Sighting.WAITING)
        record = {"status": "COMPLETED", "data": data, "by": "rehearsal", "at": to_text(at)}
        write_beside(folder / RESPONSE, dump_json(record))
        return Observation(Sighting.ENDED, response=record, ended_at=at)


def _why_not(schema: Any, data: Any) -> str:
    """Return why an answer would not be accepted, "" if it would."""
    try:
        check_data(RESPONSE, data, schema, "response_schema")
    except BadAnswer as error:
        return str(error).removeprefix(f"{RESPONSE}: ")
    return ""


def _task_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / TASK).read_text(encoding="utf-8"))
    return found


def _roll(key: Key) -> float:
    """Return a number from 0 to 1 that is the same in each rehearsal."""
    return int.from_bytes(hashlib.sha256(f"{key[0]} {key[1]}".encode()).digest()[:6], "big") / 2**48


def _sample(samples: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = samples.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _nth(value: Any, number: int) -> Any:
    """Return what a sample gives for the n-th success of a task: lists give one after the other, and stay at the last."""
    if isinstance(value, Mapping):
        return {key: _nth(item, number) for key, item in value.items()}
    return value[min(number, len(value)) - 1] if isinstance(value, list) and value else value


def _write_outputs(
    folder: Path, spec: TaskSpec, outputs: Mapping[str, Any], samples: Mapping[str, Any], loaded: LoadedCampaign
) -> None:
    for name, item in outputs.items():
        path = folder / str(item["file"])
        if str(item["file"]).endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            for number in range(1, _expected(loaded, spec, name) + 1):
                (path / f"sample{number}").write_text("rehearsed\n")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in samples:
            path.write_text(str(samples[name]))
        elif path.name != RESPONSE:
            _write_stand_in(path, _columns(loaded, path.name), _expected(loaded, spec, name))


def _write_stand_in(path: Path, columns: Sequence[str], rows: int) -> None:
    if path.suffix not in (".csv", ".tsv"):
        path.write_text("rehearsed\n")
        return
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writerow(columns)
        table.writerows([[f"r{number}", *[number] * (len(columns) - 1)] for number in range(1, rows + 1)])


def _columns(loaded: LoadedCampaign, file: str) -> list[str]:
    """Return the columns of a table that the tasks which it makes name, the first one first."""
    names: dict[str, None] = {}
    for spec in loaded.campaign.tasks.values():
        if "table" in spec.late and spec.matrix is not None and str(spec.matrix["table"]).endswith(file):
            texts = [spec.command, spec.setup, spec.env, spec.params, spec.label, spec.when, spec.resources,
                     [item.path for item in spec.outputs.values()], [item.pattern for item in spec.inputs.values()]]  # fmt: skip
            names |= {
                name[1]: None
                for name in references(texts)
                if name[0] == "matrix" and len(name) > 1 and name[1] not in spec.matrix
            }
    return sorted(names, key=lambda name: name not in ("id", "name", "label")) or ["id"]


def _expected(loaded: LoadedCampaign, spec: TaskSpec, output: str) -> int:
    """Return how many instances an output is expected to make."""
    found = [other.expect for other in loaded.campaign.tasks.values() if other.late and other.expect is not None]
    return min(found, default=_ROWS) if found else _ROWS


def fitting(schema: Mapping[str, Any]) -> Any:
    """Return a value that satisfies a JSON Schema of the usual kind: its default, its first choice, else something plain."""
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        wanted = [name for name in properties if name in schema.get("required", ()) or "default" in properties[name]]
        return {name: fitting(properties[name]) for name in wanted}
    if kind == "array":
        return _different(schema.get("items", {}), int(schema.get("minItems", 1)))
    if kind in ("number", "integer"):
        low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
        value = low if low is not None else min(high, 1) if high is not None else 1
        return value + 1 if "exclusiveMinimum" in schema and "minimum" not in schema else value
    return True if kind == "boolean" else "x" * max(1, int(schema.get("minLength", 1)))


def _different(schema: Mapping[str, Any], count: int) -> list[Any]:
    """Return values that satisfy a schema, no two the same as far as that is easy: they may become the values of an axis."""
    if isinstance(schema.get("enum"), list) and len(schema["enum"]) >= count:
        return list(schema["enum"][:count])
    first = fitting(schema)
    values = [first] * count
    if isinstance(first, str):
        values = [first, *(f"{first}{number}" for number in range(2, count + 1))]
    elif isinstance(first, int | float) and not isinstance(first, bool):
        values = [first + number for number in range(count)]
    return [first if schema_violation(schema, value) else value for value in values]


def stand_ins(loaded: LoadedCampaign) -> dict[str, dict[str, Any]]:
    """Return values for the metrics that templates name: true for a whole condition, else 1."""
    tasks, out = loaded.campaign.tasks, dict[str, dict[str, Any]]()
    for spec in tasks.values():
        repeat = [spec.repeat.until, spec.repeat.carry] if spec.repeat is not None else []
        loop = spec.name if spec.repeat is not None else spec.loop
        texts = [
            spec.command,
            spec.setup,
            spec.env,
            spec.params,
            spec.resources,
            spec.when,
            spec.matrix,
            spec.asked,
            repeat,
        ]
        for reference in references(texts):
            if reference[0] != "metrics" or len(reference) < 3:
                continue
            task, name = reference[1], reference[2]
            if f"{loop}/{task}" in dict.keys(tasks):
                task = f"{loop}/{task}"
            elif len(reference) > 3 and f"{task}/{name}" in dict.keys(tasks):
                task, name = f"{task}/{name}", reference[3]
            is_condition = (
                spec.when is not None
                and list(references(spec.when)) == [reference]
                and spec.when.count(".") == len(reference) - 1
            )
            out.setdefault(task, {}).setdefault(name, is_condition or 1)
    return out


def rehearse(loaded: LoadedCampaign, folder: Path, rates: Rates, samples: Mapping[str, Any], now: float) -> Rehearsal:
    """Rehearse a campaign in an empty folder; ``samples`` gives {task: {outputs, metrics, response}}. Raises UsageError."""
    names = {spec.name for spec in loaded.campaign.tasks.values()}
    unknown = next((name for name in samples if name not in names), None)
    if unknown is not None:
        raise UsageError(
            f"samples: '{unknown}' is not a task{did_you_mean(unknown, names)}; the tasks are {', '.join(sorted(names))}"
        )
    for name, sample in samples.items():
        keys = set(sample) if isinstance(sample, Mapping) else {"?"}
        outputs = sample.get("outputs", {}) if isinstance(sample, Mapping) else {}
        if keys - {"outputs", "metrics", "response"} or not isinstance(outputs, Mapping):
            raise UsageError(
                f"samples: {name}: expected outputs, metrics and response, got {', '.join(map(str, sorted(keys)))}"
            )
        declared = loaded.campaign.tasks[name].outputs
        unknown = next((key for key in outputs if key not in declared), None)
        if unknown is not None:
            has = f"it has {', '.join(declared)}" if declared else "it has none"
            raise UsageError(f"samples: '{unknown}' is not an output of {name}{did_you_mean(unknown, declared)}; {has}")
        odd = next((key for key, text in outputs.items() if not isinstance(text, str)), None)
        if odd is not None:
            raise UsageError(
                f"samples: {name}.outputs.{odd}: expected the text of the file, got {dump_json(outputs[odd])[:60]}"
            )
    for spec in loaded.campaign.tasks.values():
        for value in spec.env.values():
            if isinstance(value, Mapping):
                os.environ.setdefault(str(value["from_env"]), "rehearsed")
    root = initialize_run(loaded, folder / "run")
    stage = _Stage(loaded, rates, samples, now, now, {}, stand_ins(loaded))
    warnings: dict[str, None] = {}
    with open_to_write(root) as store:
        pool = Pool(store, lambda spec: RehearsedOperator(spec, stage))
        for _ in range(_MOST_STEPS):
            report = Step(root, store, pool=pool, clock=lambda: stage.now).take()
            warnings |= dict.fromkeys(report.warnings)
            if stage.refused:
                raise UsageError(stage.refused)
            if report.state.is_over:
                break
            alive = [stage.ends[row.key] for row in store.live_attempts() if row.key in stage.ends]
            due = [at for at in (*alive, store.next_retry()) if at is not None and at > stage.now]
            if not due and not report.startable and not any(at <= stage.now for at in alive):
                break
            stage.now = min(due, default=stage.now)
        return _told(store, stage, str(report.state), list(warnings))


def _told(store: SQLiteStateStore, stage: _Stage, state: str, warnings: list[str]) -> Rehearsal:
    attempts: dict[str, list[tuple[float, float, int, bool, bool]]] = {}
    instances: dict[str, int] = {}
    reasons: dict[str, str] = {}
    failed_with: dict[str, str] = {}
    for row in store.tasks():
        name = stage.loaded.campaign.tasks[row.group].name
        if row.plan is None:
            instances[name] = instances.get(name, 0) + 1
        if row.state not in (TaskState.COMPLETED, TaskState.PENDING) and row.reason:
            reasons.setdefault(name, sentence(row.reason))
            if row.state is TaskState.FAILED and row.plan is None:
                failed_with.setdefault(name, f"{row.task_id} failed: {sentence(row.reason)}")
        for attempt in store.attempts(row.task_id) if row.plan is None else ():
            if attempt.failure is not None and attempt.started_at is None and attempt.ended_at is None:
                continue
            began = attempt.started_at if attempt.started_at is not None else attempt.created_at
            ended = attempt.ended_at if attempt.ended_at is not None else stage.now
            asks = store.operators(attempt.campaign_version)[attempt.operator].row.asks
            failed = attempt.state is AttemptState.FAILED
            attempts.setdefault(name, []).append((began, ended, 0 if asks else attempt.cpus, failed, asks))
    lines = tuple(
        Line(
            name, instances.get(name, 0), len(found), sum(item[3] for item in found),
            max(0.0, min(item[0] for item in found) - stage.began), max(0.0, max(item[1] for item in found) - stage.began),
            sum((item[1] - item[0]) * item[2] for item in found) / 3600, any(item[4] for item in found),
        )
        for name, found in sorted(attempts.items(), key=lambda pair: min(item[0] for item in pair[1]))
    )  # fmt: skip
    everything = [item for found in attempts.values() for item in found]
    people = _union((item[0], item[1]) for item in everything if item[4])
    work = _union((item[0], item[1]) for item in everything if not item[4])
    never = tuple(
        (spec.name, reasons.get(spec.name, "nothing led to it"))
        for spec in stage.loaded.campaign.tasks.values()
        if spec.repeat is None and spec.name not in attempts
    )
    loops = {name: why for name, why in reasons.items() if stage.loaded.campaign.tasks[name].repeat is not None}
    for row in store.plans(TaskState.COMPLETED):
        loops.setdefault(row.task_id, sentence(row.reason))
    guessed = [
        f"metrics.{task.replace('/', '.')}.{name}"
        for task, values in stage.stand_ins.items()
        for name in values
        if name not in _sample(_sample(stage.samples, task), "metrics")
    ]
    remarks = [*failed_with.values(), *(f"{name}: {why}" for name, why in loops.items())]
    remarks += [f"pretended, since --samples does not give it: {', '.join(guessed)}"] if guessed else []
    remarks += warnings
    ends = max((line.ends_s for line in lines), default=0.0)
    return Rehearsal(
        state,
        ends,
        sum(line.cpu_hours for line in lines),
        _length(people) - _overlap(people, work),
        lines,
        never,
        tuple(remarks),
    )


def _union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for began, ended in sorted(spans):
        if out and began <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], ended))
        else:
            out.append((began, ended))
    return out


def _length(spans: Iterable[tuple[float, float]]) -> float:
    return sum(ended - began for began, ended in spans)


def _overlap(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float:
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in one for b in other)
