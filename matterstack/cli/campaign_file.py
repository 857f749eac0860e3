"""What the commands on a campaign file share: loading it, and showing one instance."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

import click

from matterstack.cli.options import tell
from matterstack.core.model import LoadedCampaign
from matterstack.errors import ExitCode


def load_and_warn(
    file: str, settings: tuple[str, ...] = (), operators: str | None = None, *, quiet: bool = False
) -> LoadedCampaign:
    """Load a campaign file to look at it, its warnings on stderr. Raises CampaignError."""
    from matterstack.operators.processes import machine_gpus
    from matterstack.operators.registry import runnable_kinds
    from matterstack.spec.load import load_campaign, parse_overrides

    overrides = parse_overrides(settings)
    loaded = load_campaign(
        file, operators=operators, overrides=overrides, installed_kinds=runnable_kinds(), gpus_here=len(machine_gpus())
    )
    for warning in () if quiet else loaded.warnings:
        tell(str(warning), "warning")
    return loaded


def show_instance(loaded: LoadedCampaign, task: str, *, as_json: bool) -> int:
    """Print one instance of a campaign as its first attempt would run."""
    from matterstack.cli.render import harmless, print_json
    from matterstack.core.kinds import LOCAL
    from matterstack.core.values import dump_json
    from matterstack.operators.environment import describe, threads
    from matterstack.spec.preview import find_instance, preview

    found = preview(loaded, find_instance(loaded, task))
    if found["kind"] == LOCAL.name:
        own = found["env"]
        found["env"] = {**threads(int(found["resources"].get("cpus", 1))), **own} if found["script"] else own
        found["python"] = describe(os.environ, own["PATH"] if isinstance(own.get("PATH"), str) else None)["python"]
    if as_json:
        print_json(found)
        return ExitCode.FINE

    def line(name: str, value: object) -> None:
        click.echo(f"{name + ':':<13}{harmless(str(value))}")

    def block(name: str, items: Mapping[str, object]) -> None:
        for index, (key, value) in enumerate(items.items()):
            shown = value if isinstance(value, str) else dump_json(value)
            click.echo(f"{name + ':' if index == 0 else '':<13}{key} = {harmless(shown)}")

    line("task", f"{found['task']} (operator '{found['operator']}', kind {found['kind']})")
    if found.get("python"):
        line("python", found["python"])
    for key in ("needs", "unresolved"):
        if found[key]:
            line(key, ", ".join(found[key]))
    if "when" in found:
        line("when", found["when"])
    block("matrix", found["matrix"])
    for key in ("inputs", "outputs", "resources", "retries", "env"):
        block(key, _shown_values(key, found.get(key) or {}))
    for key in ("instructions", "script"):
        if found.get(key):
            click.echo(f"{key}:")
            click.echo("".join(f"    {text}\n" for text in harmless(found[key]).splitlines()), nl=False)
    if found["unresolved"] and found["command"]:
        line("command", found["command"] if isinstance(found["command"], str) else shlex.join(found["command"]))
    return ExitCode.FINE


def _shown_values(key: str, values: Mapping[str, Any]) -> Mapping[str, object]:
    """Return what stands for a block of `show_instance`: short where the JSON is made for programs."""
    if key == "inputs":
        return {name: " ".join(value) if isinstance(value, list) else value for name, value in values.items()}
    if key == "outputs":
        return {
            name: f"{item['file']} -> results/{item['path']}{' (optional)' if item['optional'] else ''}"
            for name, item in values.items()
        }
    if key == "retries":
        return {name: value for name, value in values.items() if value}
    return values
