"""What one attempt runs: every template that is resolved at an attempt, resolved.

Pure: `validate` renders a sample of each task with it, `init` relies on that, and a step renders the real thing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matterstack.core.model import Campaign, Instance, OperatorSpec, Resources, TaskSpec
from matterstack.core.reconcile import escalate, parse_resources
from matterstack.core.states import FailureClass
from matterstack.core.template import references, render, render_argv, render_command, render_text
from matterstack.core.values import as_text
from matterstack.errors import TemplateError

SHELLS = {"bash": ("bash", "-eo", "pipefail"), "sh": ("sh", "-e")}
COMMAND_FILE = "command.sh"


@dataclass(frozen=True)
class RunFacts:
    run_id: str
    run_name: str


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


def params_for_scripts(campaign: Campaign, params: Mapping[str, Any]) -> dict[str, Any]:
    """Give the params that task.json shows: all but those that are an axis of some matrix.

    Their values are in `matrix`; written whole into every instance's file, n values would cost n squared.
    """
    axes = {
        reference[1]
        for spec in campaign.tasks.values()
        for axis in (spec.matrix or {}).values()
        for reference in references(axis)
        if reference[0] == "params" and len(reference) > 1
    }
    return {name: value for name, value in params.items() if name not in axes}


def source_path(task_id: str) -> str:
    """Give the path of ``source/`` relative to an attempt's folder."""
    return "../" * (task_id.count("/") + 3) + "source"


def render_attempt(
    campaign: Campaign,
    instance: Instance,
    attempt: int,
    run: RunFacts,
    inputs: Mapping[str, Any],
    failures: list[tuple[FailureClass, int | None]],
) -> Rendered:
    """Resolve one attempt of an instance.

    ``inputs`` gives for each input a path relative to the working folder, a list of them, or None.
    ``failures`` are the failed attempts so far, which retry rules answer. Raises TemplateError, and ValueError
    for a resource out of range.
    """
    spec = campaign.tasks[instance.group]
    operator = campaign.operators[instance.operator]
    task = {"id": instance.task_id, "name": spec.name, "label": instance.label, "attempt": attempt}
    early: dict[str, Any] = {"params": campaign.params, "matrix": instance.matrix, "task": task}
    resources = _resources(spec, operator, {**early, "params": _own_params(spec, early)}, failures)
    scope: dict[str, Any] = {
        **early,
        "inputs": inputs,
        "outputs": {name: output.file.rstrip("/") for name, output in instance.outputs.items()},
        "source": source_path(instance.task_id),
        "resources": resources.as_written,
        "operator": {"params": operator.params},
        "run": {"id": run.run_id, "name": run.run_name},
    }
    params = {**campaign.params, **{name: render(value, scope) for name, value in spec.params.items()}}
    scope["params"] = params
    setup = [render_command(line, scope) for line in (*operator.setup, *spec.setup)]
    env, env_from = _env({**operator.env, **spec.env}, scope)
    command = _command(spec, scope)
    script, argv = _script(spec, instance, attempt, setup, command)
    return Rendered(command, script, argv, env, env_from, resources, params)


def _own_params(spec: TaskSpec, early: Mapping[str, Any]) -> dict[str, Any]:
    """Give the params that resources may use: those of the task that name nothing but params, matrix and task.

    One that names more is left out, so that using it is an error and never the campaign's value of that name.
    """
    params = dict(early["params"])
    for name, value in spec.params.items():
        if all(reference[0] in early for reference in references(value)):
            params[name] = render(value, early)
        else:
            params.pop(name, None)
    return params


def _resources(
    spec: TaskSpec, operator: OperatorSpec, scope: Mapping[str, Any], failures: list[tuple[FailureClass, int | None]]
) -> Resources:
    values = render({**operator.resources, **spec.resources}, scope)
    return parse_resources(escalate(values, spec.retries, failures))


def _env(values: Mapping[str, Any], scope: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    env: dict[str, str] = {}
    env_from: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            env_from[name] = value["from_env"]
            continue
        text = render_text(value, scope) if isinstance(value, str) else as_text(value)
        if "\0" in text:
            raise TemplateError(f"env.{name}: a NUL cannot be passed to a command")
        env[name] = text
    return env, env_from


def _command(spec: TaskSpec, scope: Mapping[str, Any]) -> str | tuple[str, ...]:
    if isinstance(spec.command, str):
        return render_command(spec.command, scope)
    words = tuple(render_argv(spec.command or (), scope))
    if spec.command is not None and (not words or any("\0" in word for word in words)):
        raise TemplateError("command: it is empty, or holds a NUL")
    return words


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
    return title + "".join(line + "\n" for line in setup) + body.rstrip("\n") + "\n", argv
