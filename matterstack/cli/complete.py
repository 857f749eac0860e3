"""complete."""

from __future__ import annotations

from pathlib import Path

import click

from matterstack.cli import completing
from matterstack.cli.options import common, json_option, run_argument, task_argument
from matterstack.errors import ExitCode, UsageError
from matterstack.hints import Hint


@click.command()
@run_argument
@task_argument
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME=FILE", shell_complete=completing.files,
    help="The file, or folder, for an output of the task.",
)  # fmt: skip
@click.option("--why", required=True, metavar="TEXT", help="How it was done, and why by hand, for the record.")
@json_option
@common
def complete(run: str, task: str, outputs: tuple[str, ...], why: str, as_json: bool) -> int:
    """Record that a person did a task: it is COMPLETED, with these files as its outputs."""
    from matterstack.cli.render import plural, print_json
    from matterstack.orchestration.complete import complete as complete_task
    from matterstack.orchestration.session import WHY

    given: dict[str, Path] = {}
    for text in outputs:
        name, equals, file = text.partition("=")
        if not equals or not name or not file:
            raise UsageError(f"--output {text}: expected NAME=FILE")
        if name in given:
            raise UsageError(f"--output {name} is given twice")
        given[name] = Path(file)
    text = " ".join(why.split())[:500]
    if not text:
        raise UsageError("--why: say how it was done")
    WHY.set(text)
    done = complete_task(run, task, given, text)
    if as_json:
        print_json(
            {
                "task": done.task_id,
                "attempt": done.attempt,
                "outputs": list(done.outputs),
                "reopened": list(done.reopened),
                "made_again": list(done.made_again),
            }
        )
        return ExitCode.FINE
    below = f"; {plural(len(done.reopened), 'task')} below can run now" if done.reopened else ""
    if done.made_again:
        below += f", after {plural(len(done.made_again), 'task')} whose temporary outputs were removed ({done.made_again[0]})"
    click.echo(f"{done.task_id} is COMPLETED by hand (attempt {done.attempt}){below}; {Hint('run', run)} goes on")
    return ExitCode.FINE
