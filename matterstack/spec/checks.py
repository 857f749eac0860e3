"""What is wrong, or looks wrong, with a campaign whose instances are known; and the most that it asks for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from matterstack.core.kinds import BUILT_IN, EXPERIMENT, HUMAN
from matterstack.core.model import Campaign, Instance, OperatorSpec, Resources, TaskSpec
from matterstack.core.resources import most_cpu_seconds, parse_resources
from matterstack.core.selection import matches
from matterstack.core.suggestions import did_you_mean
from matterstack.core.validation import SchemaError, check_schema, schema_violation
from matterstack.core.values import format_memory, parse_time
from matterstack.errors import TemplateError, ValueRefused
from matterstack.spec.campaign import Builder
from matterstack.spec.expand import Expansion, is_pattern
from matterstack.template.attempt import (
    FIRST_SOURCE,
    RunFacts,
    asked_resources,
    check_fits,
    early_scope,
    expanded_inputs,
    render_attempt,
    resolve_early,
    resolve_retries,
    source_path,
    with_own_params,
)
from matterstack.template.forms import render_pattern
from matterstack.template.language import evaluate, is_template, parse, references, whole

_MOST_SAMPLES = 500  # of one task
_MOST_PATTERNS = 1000  # of a campaign, compared with every output that nobody uses
_EARLY = frozenset(["params", "matrix", "task"])

Where = tuple[str | int, ...]


def check_gpus(campaign: Campaign, builder: Builder, here: int) -> None:
    """Warn of operators that give more GPUs than there are ``here``."""
    for name, operator in campaign.operators.items():
        given = len(operator.slot_gpus or ())
        if given > here and operator.row.on_this_machine:
            message = f"{given} given, {here or 'none'} found on this machine: tasks get them all the same"
            builder.add(("operators", name, "slots", "gpus"), message, severity="warning")


def check_licences(campaign: Campaign, builder: Builder) -> None:
    """Report tasks that ask for more licences than the run has; warn of licences that nothing limits."""
    known = campaign.limits.get("licences", {})
    for spec in campaign.tasks.values():
        operator = campaign.operators.get(spec.operator)
        given = spec.resources.get("licences", operator.resources.get("licences", {}) if operator is not None else {})
        for name, count in given.items() if isinstance(given, Mapping) else ():
            place: Where = ("tasks", spec.name, "resources", "licences", name)
            if name not in known:
                near = did_you_mean(name, known)
                message = f"'{name}' is not under `limits: {{licences: …}}`{near}, so nothing limits it"
                builder.add(place, message, severity="warning")
            elif isinstance(count, int) and count > known[name]:
                builder.add(place, f"{count} asked for, the run has {known[name]} (`limits`)")


def check_chosen_kinds(campaign: Campaign, expansion: Expansion, builder: Builder, installed: Iterable[str]) -> None:
    """Report kinds that this version cannot run, of operators that instances name by a template."""
    kinds = set(installed)
    for instance in expansion.instances:
        kind = campaign.operators[instance.operator].kind
        place: Where = ("operators", instance.operator, "kind")
        if kind not in kinds and not builder.has_problem(place):
            message = f"{instance.task_id}: this version of MatterStack cannot run operators of kind '{kind}' yet"
            builder.add(place, message)


def check_kinds(campaign: Campaign, builder: Builder, installed: Iterable[str], *, to_run: bool) -> None:
    """Report kinds of operators that do not exist, and ``to_run`` also what this version can check but not run."""
    kinds = set(installed)
    used = {spec.operator for spec in campaign.tasks.values()}
    templated = any(is_template(name) for name in used)
    for name, operator in campaign.operators.items():
        place: Where = ("operators", name, "kind")
        if operator.kind not in kinds and operator.kind not in BUILT_IN:
            near = did_you_mean(operator.kind, (*BUILT_IN, *kinds))
            builder.add(
                place,
                f"there is no operator of kind '{operator.kind}'{near}; there are {', '.join(dict.fromkeys((*BUILT_IN, *kinds)))}",
            )
        elif operator.kind not in kinds and (name in used or templated):
            message = f"this version of MatterStack cannot run operators of kind '{operator.kind}' yet"
            builder.add(place, message, severity="error" if to_run else "warning")
    severity = "error" if to_run else "warning"
    for spec in campaign.tasks.values():
        if spec.bundle is not None:
            message = "this version of MatterStack cannot run 'bundle' yet"
            builder.add(("tasks", spec.name, "bundle"), message, severity=severity)


def check_instances(campaign: Campaign, expansion: Expansion, builder: Builder) -> None:
    """Report what an attempt would stumble over.

    What params, matrix and task decide is looked at for every instance; whole attempts are rendered for the first
    instance of a task and for each value of each axis, at most 500 of one task.
    """
    groups: dict[str, list[Instance]] = {}
    for instance in expansion.instances:
        groups.setdefault(instance.group, []).append(instance)
    wrong = {problem.path[1] for problem in builder.problems if problem.severity == "error" and len(problem.path) > 1}
    general = builder.doubts.any or any(problem.path[:1] == ("defaults",) for problem in builder.problems)
    for name, instances in groups.items():
        complete = set(campaign.tasks[name].inputs) <= set(instances[0].inputs)
        if name in wrong or not complete or (general and not _stands_alone(campaign, name, builder)):
            continue  # a sample is only worth rendering where inputs and outputs are known to be right
        answer_keys = {key for keys in expansion.named[campaign.tasks[name].name].values() for key in keys}
        with_templates = _has_early_templates(campaign, name)
        fine = all(
            _check_early(campaign, instance, answer_keys, builder)
            for instance in (instances if with_templates else instances[:1])
        )
        if fine and not answer_keys - {"when"}:  # nothing is known of answers and metrics before they exist
            all(_check_whole(campaign, instance, builder) for instance in _samples(instances))
        if fine:
            _warn_of_long_lists(campaign, instances[0], groups, builder)
        for kind in {campaign.operators[instance.operator].kind: instance for instance in instances}.values():
            _check_people(campaign, campaign.tasks[name], kind, builder)


def _stands_alone(campaign: Campaign, task: str, builder: Builder) -> bool:
    """Return whether a task hangs on nothing that is in doubt."""
    spec, doubts = campaign.tasks[task], builder.doubts
    values = [
        spec.command,
        spec.setup,
        spec.env,
        spec.params,
        spec.resources,
        spec.asked,
        spec.when,
        spec.retries_written,
    ]
    named = {reference[:2] for reference in references(values)}
    return not (
        doubts.operators or any(doubts.about(task, *name) for name in named) or (doubts.outputs and spec.inputs)
    )


def _warn_of_long_lists(
    campaign: Campaign, instance: Instance, by_group: Mapping[str, Sequence[Instance]], builder: Builder
) -> None:
    """Warn of inputs with more paths than a command takes; the paths of outputs are estimated."""
    operator, source = campaign.operators[instance.operator], source_path(instance.task_id, FIRST_SOURCE)
    for name in sorted(expanded_inputs(campaign.tasks[instance.group].for_operator(operator), operator)):
        item = instance.inputs.get(name)
        if item is None or not item.is_list:
            continue
        size = sum(
            len(f"{source}/{found.path} ") if task is None
            else len(f"{source}/{task}/attempt-1/{found.output}/{found.path} ")
            for found in item.sources
            for task in ([item.task_id for item in by_group.get(str(found.task), ())] if found.whole else [found.task])
        )  # fmt: skip
        try:
            check_fits(name, size)
        except TemplateError as error:
            builder.add(("tasks", campaign.tasks[instance.group].name, "command"), str(error), severity="warning")


def _has_early_templates(campaign: Campaign, task: str) -> bool:
    spec = campaign.tasks[task]
    if is_template(spec.operator) or spec.retries_written:
        return True
    operator = campaign.operators.get(spec.operator)
    values = [
        spec.resources,
        operator.resources if operator else {},
        spec.asked.get("deadline"),
        spec.when,
    ]
    return any(True for _ in references(values))


def _samples(instances: list[Instance]) -> Iterator[Instance]:
    """Return the first instance, and each one in which a value of an axis appears for the first time."""
    seen: set[tuple[str, str]] = set()
    given = 0
    for index, instance in enumerate(instances):
        values = {(axis, str(value)) for axis, value in instance.matrix.items()}
        if index and values <= seen:
            continue
        seen |= values
        yield instance
        given += 1
        if given == _MOST_SAMPLES:
            return


def _check_early(campaign: Campaign, instance: Instance, answer_keys: set[str], builder: Builder) -> bool:
    """Report a resource, retry rule, deadline or condition of an instance that cannot be; say if all are fine."""
    operator = campaign.operators[instance.operator]
    spec = campaign.tasks[instance.group].for_operator(operator)
    early = early_scope(campaign, instance)
    deadline = spec.asked.get("deadline")
    checks: dict[str, Callable[[], object]] = {
        "resources": lambda: _check_slots(parse_resources(asked_resources(spec, operator, early)), operator),
        "retries": lambda: resolve_retries(spec, early),
        "deadline": lambda: parse_time(resolve_early(deadline, spec, early)) if deadline is not None else None,
        "when": lambda: _check_when(spec, early),
    }
    fine = True
    for key, check in checks.items():
        if key != "when" and answer_keys & {key, "params"}:
            continue  # known only when the task starts
        try:
            check()
        except (TemplateError, ValueError) as error:
            _report(campaign, instance, key, error, builder)
            fine = False
    return fine


def _check_whole(campaign: Campaign, instance: Instance, builder: Builder) -> bool:
    try:
        render_attempt(campaign, instance, 1, RunFacts("run", "run", FIRST_SOURCE), _sample_inputs(instance), [])
    except (TemplateError, ValueError) as error:
        _report(campaign, instance, "", error, builder)
        return False
    return True


def _report(campaign: Campaign, instance: Instance, key: str, error: Exception, builder: Builder) -> None:
    """Report an error of one instance where its key is written; ``key`` is what was looked at, if it does not say."""
    message: str = str(error)
    keys: tuple[str, ...] = (key,) if key else ()
    if isinstance(error, TemplateError | ValueRefused) and error.keys:
        message, keys = error.what, (error.keys[0], ".".join(error.keys[1:])) if error.keys[1:] else error.keys
    of = f"{instance.task_id}: " if instance.matrix else ""
    builder.add(("tasks", campaign.tasks[instance.group].name, *keys), f"{of}{message}")


def _check_slots(resources: Resources, operator: OperatorSpec) -> None:
    if operator.row.on_this_machine and resources.nodes > 1:
        raise ValueError(f"asks for {resources.nodes} nodes, operator '{operator.name}' has this machine")
    if operator.slot_cpus is not None and resources.cores > operator.slot_cpus:
        asked = f"{resources.cores} cpus" + (
            f" ({resources.cpus} for each of {resources.tasks} tasks)" if resources.tasks > 1 else ""
        )
        raise ValueError(f"asks for {asked}, operator '{operator.name}' has {operator.slot_cpus}")
    if operator.slot_gpus is not None and resources.gpus > len(operator.slot_gpus):
        raise ValueError(f"asks for {resources.gpus} gpus, operator '{operator.name}' has {len(operator.slot_gpus)}")
    if operator.slot_memory is not None and (resources.memory or 0) > operator.slot_memory:
        asked, there = format_memory(resources.memory or 0), format_memory(operator.slot_memory)
        raise ValueError(f"asks for {asked}, operator '{operator.name}' has {there}")


def _check_when(spec: TaskSpec, early: Mapping[str, Any]) -> None:
    condition = spec.when
    hole = whole(condition) if condition is not None else None
    if hole is None or any(reference[0] not in _EARLY for reference in references(condition)):
        return
    value = evaluate(hole.expression, with_own_params(spec, early, condition))
    if not isinstance(value, bool):
        raise TemplateError(f"{hole.source} is {value!r}; a condition gives true or false")


def _sample_inputs(instance: Instance) -> dict[str, Any]:
    def path(name: str) -> str:
        return instance.inputs[name].as_name or f"{source_path(instance.task_id, FIRST_SOURCE)}/{name}"

    return {name: [path(name)] if item.is_list else path(name) for name, item in instance.inputs.items()}


# --- people and laboratories ----------------------------------------------------------------------------------------


def _check_people(campaign: Campaign, spec: TaskSpec, instance: Instance, builder: Builder) -> None:
    """Report keys for people and labs that contradict each other or that nobody reads."""
    kind = campaign.operators[instance.operator].row
    keys, where = spec.asked, ("tasks", spec.name)
    written = builder.root["tasks"][spec.name]

    def warn(key: str, message: str) -> None:
        if key in written:  # a default holds for whom it concerns
            builder.add((*where, key), message, severity="warning")

    if not kind.reads_request:
        for key in ("response_schema", "result_schema", "deadline", "on_deadline", "default", "responders"):
            warn(key, f"is for people and laboratories; operator '{instance.operator}' is of kind {kind.name}")
        return
    if kind is HUMAN:
        warn("result_schema", "is for laboratories; a person's answer has a `response_schema`")
        if not keys.get("instructions") and not spec.description:
            message = "says nothing to the person who is asked; write `instructions`"
            builder.add(where, message, at_key=True, severity="warning")
    elif kind is EXPERIMENT:
        warn("response_schema", "is for people; what an instrument gives has a `result_schema`")
    if "deadline" not in keys:
        warn("on_deadline", "has no effect without a `deadline`")
    if keys.get("on_deadline") == "default" and not kind.can_default:
        builder.add(
            (*where, "on_deadline"),
            f"'default' is an answer of a person; operator '{instance.operator}' is of kind {kind.name}",
        )
    if keys.get("responders") == []:
        builder.add((*where, "responders"), "is empty: nobody could answer")
    schemas = {key: keys[key] for key in ("response_schema", "result_schema") if key in keys}
    rendered: dict[str, Any] = {}
    for key, schema in schemas.items():
        try:
            rendered[key] = resolve_early(schema, spec, early_scope(campaign, instance))
            check_schema(rendered[key])
        except TemplateError as error:
            if not builder.has_problem((*where, key)):
                builder.add((*where, key), f"{instance.task_id}: {error}")
        except SchemaError as error:
            builder.add((*where, key), f"is not a JSON Schema: {error}")
            rendered.pop(key, None)
    _check_default(keys, rendered.get("response_schema"), where, builder, warn)


def _check_default(
    keys: Mapping[str, Any],
    schema: Mapping[str, Any] | None,
    where: Where,
    builder: Builder,
    warn: Callable[[str, str], None],
) -> None:
    if keys.get("on_deadline") == "default" and "default" not in keys:
        builder.add((*where, "on_deadline"), "uses the answer under `default`, which is missing")
    if "default" not in keys:
        return
    if keys.get("on_deadline") != "default":
        warn("default", "is only used with `on_deadline: default`")
    try:
        problem = schema_violation(schema, keys["default"]) if schema is not None else ""
    except SchemaError as error:
        builder.add((*where, "response_schema"), str(error))
        return
    if problem:
        builder.add((*where, "default"), f"does not satisfy `response_schema`: {problem}")


# --- typos that another match hides ---------------------------------------------------------------------------------


def warn_of_typos(campaign: Campaign, expansion: Expansion, builder: Builder) -> None:
    """Warn of outputs that nobody uses where a name close to theirs is used."""
    first: dict[str, Instance] = {}
    used: set[tuple[str, str]] = set()
    groups = {instance.task_id: instance.group for instance in expansion.instances}
    for instance in expansion.instances:
        first.setdefault(instance.group, instance)
        for item in instance.inputs.values():
            used.update((groups.get(s.task, s.task), str(s.output)) for s in item.sources if s.task is not None)
    patterns = _patterns(campaign, first.values())
    for group, instance in first.items():
        spec = campaign.tasks[group]
        for name, output in instance.outputs.items():
            if (group, name) in used or (group, "*") in used or spec.loop:
                continue
            where: Where = ("tasks", spec.name, "outputs", name)
            path = output.path.rstrip("/")
            near = next((item for item in patterns if item[0] != group and _is_almost(path, item[2])), None)
            if near is not None:
                message = f"'{path}' is used by no task, and {near[0]} takes '{near[2]}' (is one of them a typo?)"
                builder.add(where, message, severity="warning")
                continue
            word = _other_word(spec, instance, name)
            if word:
                file = output.file.rstrip("/")
                message = f"'{file}' is not in the command, which names '{word}' (is one of them a typo?)"
                builder.add(where, message, severity="warning")


def _patterns(campaign: Campaign, instances: Iterable[Instance]) -> list[tuple[str, str, str]]:
    """Return (task, input, pattern) of each input that is a glob or takes a file of the campaign folder."""
    found: dict[str, tuple[str, str, str]] = {}
    for instance in instances:
        for name, item in instance.inputs.items():
            spec = campaign.tasks[instance.group].inputs.get(name)
            if spec is None:
                continue  # the file of an axis
            written = spec.pattern
            if is_pattern(written) or any(source.task is None and not source.is_external for source in item.sources):
                pattern = render_pattern(written, early_scope(campaign, instance), escape=item.is_list)
                found.setdefault(pattern, (instance.group, name, pattern))
    return list(found.values())[:_MOST_PATTERNS]


def _is_almost(path: str, pattern: str) -> bool:
    """Return whether all but one component of a path match those of a pattern, and that one nearly does."""
    parts, wanted = path.split("/"), pattern.rstrip("/").split("/")
    if len(parts) != len(wanted) or "**" in wanted:
        return False
    other = [(part, want) for part, want in zip(parts, wanted, strict=True) if not matches(want, part)]
    return len(other) == 1 and _alike(*other[0])


def _alike(one: str, other: str) -> bool:
    """Return whether two names differ as by a slip: in one word, by a letter too many, or two that have changed places.

    Not at the word's beginning, where scf and nscf, ethane and methane differ.
    """
    parts, others = (re.split(r"([A-Za-z]+)", name) for name in (one, other))
    if len(parts) != len(others):
        return False
    differing = [pair for pair in zip(parts, others, strict=True) if pair[0] != pair[1]]
    if len(differing) != 1 or min(map(len, differing[0])) < 3 or not "".join(differing[0]).isalpha():
        return False
    short, long = sorted(differing[0], key=len)
    if len(short) == len(long):
        at = [index for index, (a, b) in enumerate(zip(short, long, strict=True)) if a != b]
        return len(at) == 2 and at[0] > 0 and at[1] == at[0] + 1 and sorted(short) == sorted(long)
    return len(long) == len(short) + 1 and any(long[:at] + long[at + 1 :] == short for at in range(1, len(long)))


def _other_word(spec: TaskSpec, instance: Instance, output: str) -> str:
    """Return a word of the command that is nearly the file of an output which the command does not name."""
    texts = [spec.command] if isinstance(spec.command, str) else list(spec.command or ())
    if any(reference[0] == "outputs" and reference[1:2] in ((), (output,)) for reference in references(texts)):
        return ""
    literal = " ".join("".join(part if isinstance(part, str) else "\0" for part in parse(text)) for text in texts)
    words = set(re.findall(r"(?<![\w\0/.$-])[\w./-]*[./][\w./-]*\w(?![\w\0/])", literal))
    file = instance.outputs[output].file.rstrip("/")
    if any(word.removeprefix("./") == file for word in words) or file in literal:
        return ""
    taken = {item.file for item in instance.outputs.values()} | {item.as_name for item in instance.inputs.values()}
    return next((word for word in sorted(words) if word not in taken and _alike(word, file)), "")


# --- what it asks for -----------------------------------------------------------------------------------------------


def expected_instances(campaign: Campaign, expansion: Expansion) -> int:
    """Return how many instances there will be, with `expect` of groups that results make (else one) and all rounds of loops."""
    loops = Counter(item.group for item in expansion.instances if item.plan == "loop")
    total = 0
    for item in (*expansion.instances, *expansion.samples):
        spec = campaign.tasks[item.group]
        if item.plan == "loop":
            continue
        loop = campaign.tasks[spec.loop] if spec.loop else None
        rounds = loop.repeat.max * max(loops[spec.loop], 1) if loop is not None and loop.repeat is not None else 1
        total += rounds * (spec.expect or 1 if item.plan else 1)
    return total


def cpu_hours(campaign: Campaign, expansion: Expansion) -> tuple[float, list[str]]:
    """Return the most cpu-hours that all attempts may use, all retries included, and the tasks without a time limit.

    Of a group that results make, `expect` says how many instances there are, else the limit of the run; of a loop, all
    its rounds count. People, labs and closed clusters use none of ours.
    """
    total, unlimited = 0.0, dict[str, None]()
    of_task: dict[tuple[str, str], float | None] = {}
    of_values: dict[str, float | None] = {}
    rows: dict[str, int] = {}
    for instance in expansion.instances:
        if instance.plan == "loop":
            rows[instance.group] = rows.get(instance.group, 0) + 1
    for instance in (*expansion.instances, *expansion.samples):
        spec = campaign.tasks[instance.group]
        times: int | None = 1
        if spec.loop:
            loop = campaign.tasks[spec.loop]
            assert loop.repeat is not None
            times = loop.repeat.max * max(rows.get(spec.loop, 1), 1)
        if instance.plan == "loop":
            continue
        if instance.plan:
            expected = spec.expect or campaign.limits.get("attempts")
            times = None if expected is None or times is None else times * int(expected)
            if is_template(spec.operator):
                times = None
            else:
                instance = replace(instance, operator=spec.operator)
        if times is None:
            unlimited[spec.name] = None
            continue
        operator = campaign.operators[instance.operator]
        if operator.row.asks:
            continue
        key = (instance.group, instance.operator)
        if key not in of_task or _has_early_templates(campaign, instance.group):
            answer_keys = {name for names in expansion.named[spec.name].values() for name in names}
            of_task[key] = None  # where an answer or metric decides, nobody knows yet
            if not answer_keys & {"resources", "retries", "params"}:
                early = early_scope(campaign, instance)
                try:
                    asked, retries = asked_resources(spec, operator, early), resolve_retries(spec, early)
                except (TemplateError, ValueError):  # of a column that is not known yet
                    unlimited[spec.name] = None
                    continue
                values = repr((asked, retries))
                if values not in of_values:
                    of_values[values] = most_cpu_seconds(asked, retries)
                of_task[key] = of_values[values]
        seconds = of_task[key]
        if seconds is None:
            unlimited[spec.name] = None
        else:
            total += seconds * times
    return total / 3600, list(unlimited)
