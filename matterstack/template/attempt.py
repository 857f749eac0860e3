"""What one attempt runs: every template that is resolved at an attempt, resolved.

Pure: `validate` renders a sample of each task with it, `init` relies on that, and a step renders the real thing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from matterstack.core.model import Campaign, Instance, OperatorSpec, Resources, Retries, TaskSpec
from matterstack.core.resources import escalate, parse_resources, parse_retries
from matterstack.core.states import FailureClass
from matterstack.core.values import as_text, parse_time
from matterstack.deferred import dataclass
from matterstack.errors import TemplateError
from matterstack.template.forms import render, render_argv, render_command, render_text
from matterstack.template.language import evaluate, is_template, list_file, listed_inputs, references, whole

SHELLS = {"bash": ("bash", "-eo", "pipefail"), "sh": ("sh", "-e")}
COMMAND_FILE = "command.sh"
FIRST_SOURCE = "versions/1/source"  # where the files of a run's first version are, below its root

# Answers and metrics by root and task: {"response": {task: data}, "metrics": {task: values}}; ABSENT of a task that
# has none, because it was skipped or failed.
LateValues = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RunFacts:
    run_id: str
    run_name: str
    source: str  # where the files of the attempt's version of the campaign are, below the run root
    restarted: bool = False  # whether the attempt goes on from files of one before


_ROOM_FOR_ENVIRONMENT = 128 * 1024  # bytes of what a command takes that its variables and other words may need


@dataclass(frozen=True)
class Rendered:
    """The resolved parts of an attempt. ``env`` holds texts; ``env_from`` names variables of the submitter."""

    command: str | tuple[str, ...]  # as it runs, without setup
    script: str  # contents of command.sh
    argv: tuple[str, ...]  # runs it, in the attempt's folder
    env: Mapping[str, str]
    env_from: Mapping[str, str]
    resources: Resources
    params: Mapping[str, Any]
    lists: Mapping[str, str]  # files of the folder that list paths -> their text
    asked: Mapping[str, Any]  # of people and labs: instructions, schema, deadline_s, on_deadline, default, responders


@contextmanager
def _naming(*keys: str) -> Iterator[None]:
    """Put the key before the message of a template that cannot be resolved."""
    try:
        yield
    except TemplateError as error:
        raise TemplateError(error.what, (*keys, *error.keys)) from None


def params_for_scripts(campaign: Campaign, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params that task.json shows: all but those that are an axis of some matrix.

    Their values are in `matrix`; written whole into every instance's file, n values would cost n squared.
    """
    axes = _axes(campaign)
    return {name: value for name, value in params.items() if name not in axes}


@lru_cache(maxsize=8)
def _axes(campaign: Campaign) -> frozenset[str]:
    """Return the params that are an axis of some matrix."""
    return frozenset(
        reference[1]
        for spec in campaign.tasks.values()
        for axis in (spec.matrix or {}).values()
        for reference in references(axis)
        if reference[0] == "params" and len(reference) > 1
    )


def path_up(task_id: str) -> str:
    """Return the path from an attempt's folder to the run root, with a slash at its end."""
    return "../" * (task_id.count("/") + 3)


def source_path(task_id: str, source: str) -> str:
    """Return the path from an attempt's folder to ``source``, which is below the run root."""
    return path_up(task_id) + source


def render_attempt(
    campaign: Campaign,
    instance: Instance,
    attempt: int,
    run: RunFacts,
    inputs: Mapping[str, Any],
    failures: list[tuple[FailureClass, int | None]],
    late: LateValues | None = None,
) -> Rendered:
    """Resolve one attempt of an instance.

    ``inputs`` gives for each input a path relative to the working folder, a list of them, or None.
    ``failures`` are the failed attempts so far, which retry rules answer; ``late`` the answers and metrics that its
    templates name. Raises TemplateError, and ValueError for a resource out of range.
    """
    operator = campaign.operators[instance.operator]
    spec = campaign.tasks[instance.group].for_operator(operator)
    early = early_scope(campaign, instance, attempt, late)
    resources = parse_resources(
        escalate(asked_resources(spec, operator, early), resolve_retries(spec, early), failures)
    )
    scope: dict[str, Any] = {
        **early,
        "task": {**early["task"], "restarted": run.restarted},
        "inputs": inputs,
        "outputs": {name: output.file.rstrip("/") for name, output in instance.outputs.items()},
        "source": source_path(instance.task_id, run.source),
        "resources": resources.as_written,
        "operator": {"params": operator.params},
        "run": {"id": run.run_id, "name": run.run_name},
    }
    params = {**campaign.params}
    for name, value in spec.params.items():
        with _naming("params", name):
            params[name] = render(value, scope)
    scope["params"] = params
    with _naming("setup"):
        setup = [render_command(line, scope) for line in (*operator.setup, *spec.setup)]
    env, env_from = _env({**operator.env, **spec.env}, scope)
    with _naming("command"):
        command = _command(spec, scope)
    script, argv = _script(spec, instance, attempt, setup, command)
    asked = _asked(spec, early, scope) if operator.row.reads_request else {}
    return Rendered(command, script, argv, env, env_from, resources, params, _lists(spec, operator, inputs), asked)


def _lists(spec: TaskSpec, operator: OperatorSpec, inputs: Mapping[str, Any]) -> dict[str, str]:
    if not inputs:
        return {}
    texts = [
        spec.command,
        *operator.setup,
        *spec.setup,
        *operator.env.values(),
        *spec.env.values(),
        *spec.params.values(),
    ]
    names = dict.fromkeys(listed_inputs(texts))
    return {list_file(name): "".join(f"{path}\n" for path in inputs[name]) for name in names}


def expanded_inputs(spec: TaskSpec, operator: OperatorSpec) -> set[str]:
    """Return the inputs whose paths a command holds one by one, and not as the path of a list."""
    if not spec.inputs:
        return set()
    texts = [spec.command, *operator.setup, *spec.setup]
    named = [reference[1] for reference in references(texts) if reference[0] == "inputs" and len(reference) == 2]
    for name in listed_inputs(texts):
        named.remove(name)
    return set(named)


def check_fits(name: str, size: int) -> None:
    """Raise TemplateError for an input whose paths no command can take. Source: execve(2), limits on size of arguments."""
    most = os.sysconf("SC_ARG_MAX") - _ROOM_FOR_ENVIRONMENT
    if size > most:
        raise TemplateError(
            f"the paths of inputs.{name} are too long for a command: {size} bytes of at most {most}; "
            f"${{{{ list(inputs.{name}) }}}} is the path of a list file with one path on each line"
        )


def _asked(spec: TaskSpec, early: Mapping[str, Any], scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people and labs are asked; a key that the task does not have is left out."""
    keys = spec.asked
    asked: dict[str, Any] = {key: keys[key] for key in ("default", "responders", "on_deadline") if key in keys}
    with _naming("instructions"):
        text = render_text(keys.get("instructions", ""), scope, join_lists=True)
    asked["instructions"] = text or spec.description
    for key in ("response_schema", "result_schema"):
        if key in keys:
            asked[key] = _resolve(keys[key], spec, early, key)
    if "deadline" in keys:
        with _naming("deadline"):
            try:
                asked["deadline_s"] = parse_time(resolve_early(keys["deadline"], spec, early))
            except ValueError as error:
                raise TemplateError(str(error)) from None
    return asked


def condition_names(spec: TaskSpec) -> set[str]:
    """Return the answers and metrics that a task's `when` names, also through its own params, as `response.TASK`."""
    condition = spec.when
    values = [condition, *(spec.params.get(r[1]) for r in references(condition) if r[0] == "params" and len(r) > 1)]
    return {f"{r[0]}.{r[1]}" for r in references(values) if r[0] in ("response", "metrics") and len(r) > 1}


def meets_condition(
    campaign: Campaign, instance: Instance, attempt: int, run: RunFacts, late: LateValues
) -> bool | None:
    """Evaluate the `when` of an instance; True without one, None if it cannot be evaluated (see `check_condition`)."""
    try:
        return check_condition(campaign, instance, attempt, run, late)
    except (TemplateError, ValueError):
        return None


def check_condition(campaign: Campaign, instance: Instance, attempt: int, run: RunFacts, late: LateValues) -> bool:
    """Evaluate the `when` of an instance. Raises TemplateError if it gives neither true nor false, ValueError."""
    operator = campaign.operators[instance.operator]
    spec = campaign.tasks[instance.group].for_operator(operator)
    condition = spec.when
    hole = whole(condition) if condition is not None else None
    if hole is None:
        return True
    early = early_scope(campaign, instance, attempt, late)
    scope: dict[str, Any] = {
        **early,
        "source": source_path(instance.task_id, run.source),
        "operator": {"params": operator.params},
        "run": {"id": run.run_id, "name": run.run_name},
    }
    with _naming("when"):
        if any(reference[0] == "resources" for reference in references(condition)):
            scope["resources"] = parse_resources(asked_resources(spec, operator, early)).as_written
        value = evaluate(hole.expression, with_own_params(spec, scope, condition))
        if not isinstance(value, bool):
            raise TemplateError(f"{hole.source} is {value!r}; a condition gives true or false")
    return value


def with_own_params(spec: TaskSpec, early: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Return the scope of a value in which the task's params that it names stand over the campaign's.

    Of those, only what names nothing but params, matrix and task itself is known so early; one that names more is
    left out, so that using it is an error and never the campaign's value of that name.
    """
    params = dict(early["params"])
    for name in {reference[1] for reference in references(value) if reference[0] == "params" and len(reference) > 1}:
        if name not in spec.params:
            continue
        if all(reference[0] in early for reference in references(spec.params[name])):
            with _naming("params", name):
                params[name] = render(spec.params[name], early)
        else:
            params.pop(name, None)
    return {**early, "params": params}


def early_scope(
    campaign: Campaign, instance: Instance, attempt: int = 1, late: LateValues | None = None
) -> dict[str, Any]:
    """Return what is known of an attempt before anything is resolved: the roots params, matrix and task, and ``late``."""
    name = instance.group.rpartition("/")[2] if instance.given else instance.group
    task = {"id": instance.task_id, "name": name, "label": instance.label, "attempt": attempt}
    return {
        "params": campaign.params,
        "matrix": instance.matrix,
        "task": task,
        **(instance.given or {}),
        **(late or {}),
    }


def asked_resources(spec: TaskSpec, operator: OperatorSpec, early: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources that a first attempt asks for, as written. Raises TemplateError."""
    values = {**operator.resources, **spec.resources}
    return {
        name: _resolve(value, spec, early, "resources", name) if is_template(value) else value
        for name, value in values.items()
    }


def resolve_early(value: Any, spec: TaskSpec, early: Mapping[str, Any]) -> Any:
    """Resolve a value that sees params (the campaign's with the task's over them), matrix and task."""
    return render(value, with_own_params(spec, early, value))


def resolve_retries(spec: TaskSpec, early: Mapping[str, Any]) -> Retries:
    """Return the retries of a task, their templates resolved. Raises TemplateError, and ValueError for a wrong value."""
    if not spec.retries_written:
        return spec.retries
    with _naming("retries"):
        layers = [resolve_early(layer, spec, early) for layer in spec.retries_written]
    return parse_retries(*layers)


def _resolve(value: Any, spec: TaskSpec, early: Mapping[str, Any], *keys: str) -> Any:
    with _naming(*keys):
        return resolve_early(value, spec, early)


def _env(values: Mapping[str, Any], scope: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    env: dict[str, str] = {}
    env_from: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            env_from[name] = value["from_env"]
            continue
        with _naming("env", name):
            text = render_text(value, scope) if isinstance(value, str) else as_text(value)
            if "\0" in text:
                raise TemplateError("a NUL cannot be passed to a command")
        env[name] = text
    return env, env_from


def _command(spec: TaskSpec, scope: Mapping[str, Any]) -> str | tuple[str, ...]:
    if isinstance(spec.command, str):
        return render_command(spec.command, scope)
    words = tuple(render_argv(spec.command or (), scope))
    if spec.command is not None and (not words or any("\0" in word for word in words)):
        raise TemplateError("it is empty, or holds a NUL")
    return words


# What `setup` made of the environment, for the record; a folder that it went to, or a full disk, is no reason to fail.
_NOTE_SETUP = (
    "{ printf '%s\\n' "
    '"${PATH-}" "${VIRTUAL_ENV-}" "${CONDA_PREFIX-}" "${LOADEDMODULES-}" '
    '> "${MATTERSTACK_RUN-}/tasks/${MATTERSTACK_TASK-}/attempt-${MATTERSTACK_ATTEMPT-}/.environment"; } 2> /dev/null || :'
)


def _script(
    spec: TaskSpec, instance: Instance, attempt: int, setup: list[str], command: str | tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    if not command:
        return "", ()
    shell = "sh" if isinstance(command, tuple) and not setup else spec.shell
    argv = (*SHELLS[shell], COMMAND_FILE)
    body = command if isinstance(command, str) else "exec " + shlex.join(command)
    # A label may hold letters of any script but no newline, so it is safe in a comment.
    title = (
        f"#!/usr/bin/env {shell}\n# {instance.task_id}, attempt {attempt}; runs in this folder as: {' '.join(argv)}\n"
    )
    lines = [*setup, _NOTE_SETUP] if setup else []
    return title + "".join(line + "\n" for line in lines) + body.rstrip("\n") + "\n", argv
