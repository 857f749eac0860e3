"""step."""

from __future__ import annotations

import os
import shlex

import click

from matterstack.cli.options import common, echo_remark, is_quiet, json_option, run_argument
from matterstack.core.states import AttemptState, RunState
from matterstack.errors import ExitCode
from matterstack.hints import Hint


@click.command()
@run_argument
@click.option("--dry-run", is_flag=True, help="Show what a step would do; nothing is written or started.")
@json_option
@common
def step(run: str, dry_run: bool, as_json: bool) -> int:
    """Take one step: look, decide, start what is ready, and exit."""
    from matterstack.cli.attention import tell_attention
    from matterstack.cli.render import print_json
    from matterstack.orchestration.run_lifecycle import step_run
    from matterstack.text.reasons import sentence

    report = step_run(run, dry_run=dry_run)
    if as_json:
        print_json(report.to_json())
    elif dry_run:
        for ended in report.ended:
            number = f", attempt {ended.attempt}" if ended.attempt else ""
            click.echo(f"would record  {ended.task_id}{number}: {ended.state}" + _because(sentence(ended.reason, run)))
        for task_id, attempt in report.to_end:
            click.echo(f"would end     {task_id}, attempt {attempt} (cancel requested)")
        for task_id in report.retried:
            click.echo(f"would retry   {task_id}")
        for task_id, attempt in report.submitted:
            click.echo(f"would submit  {task_id}, attempt {attempt}")
        if not (report.ended or report.to_end or report.retried or report.submitted):
            click.echo("a step would change nothing")
    if dry_run:
        for warning in report.warnings:
            echo_remark(f"warning: {warning}")
        return ExitCode.FINE
    if is_quiet():
        tell_attention(run, report)
    running = sum(row.state is AttemptState.RUNNING for row in report.live)
    if os.getpid() == 1 and running and not report.state.is_over:
        echo_remark(
            f"warning: this is process 1 of a container, which ends now, and with it the {running} running here; "
            f"{Hint('run', run)} waits for them"
        )
    if report.state.is_over:
        echo_remark(
            f"the run is {report.state}; `matterstack explain {shlex.quote(run)}` says why"
            if report.state is not RunState.COMPLETED
            else "the run is COMPLETED"
        )
    return ExitCode.RUN_FAILED if report.state in (RunState.FAILED, RunState.CANCELLED) else ExitCode.FINE


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
