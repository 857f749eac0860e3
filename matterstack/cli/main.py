"""The entry point `matterstack`. A command's module is imported when the command is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from click import Command, Context

COMMANDS = {  # name -> what --help says of it without importing it; each has a module of its name
    "validate": "Check a campaign file; report all of its problems.",
    "rehearse": "Play a campaign through with pretended work.",
    "init": "Make the run root of a campaign.",
    "run": "Start or continue a campaign and step it until it is done.",
    "step": "Take one step of a run, and exit.",
    "status": "Show the state of runs.",
    "explain": "Say why tasks are not done, and what to type next.",
    "graph": "Print the graph of a run or a campaign file.",
    "logs": "Show what a task printed.",
    "attempts": "List the attempts of a task.",
    "results": "Print one table of all tasks, with metrics.",
    "inbox": "List what waits for people and laboratories.",
    "respond": "Answer what a task asks a person.",
    "parcel": "Carry work to a closed cluster and back.",
    "pause": "Start nothing more; what runs goes on.",
    "resume": "Undo pause.",
    "cancel": "End a run or tasks of it, for good.",
    "rerun": "Run tasks again, as new attempts.",
    "amend": "Show what a corrected campaign means for its run, and take it.",
    "complete": "Record that a person did a task.",
    "history": "Show who did what to a run, when and why.",
    "doctor": "Check a run root, and repair it.",
    "adopt": "Make this copy of a run the one that may write.",
    "import": "Import a campaign from another format.",
    "schema": "Print the JSON Schema of a file.",
    "completion": "Print the shell's completion script.",
}


_LONGEST = 1600  # characters of a message


def _module_of(name: str) -> str:
    return "import_" if name == "import" else name  # Python has a keyword of that name


class _Lazy(click.Group):
    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = _module_of(cmd_name)
        command: Command = getattr(import_module(f"matterstack.cli.{module}"), module)
        return command

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from matterstack.core.suggestions import did_you_mean

            ctx.fail(f"there is no command '{args[0]}'{did_you_mean(args[0], COMMANDS)}; see `matterstack --help`")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(ctx: Context, _: Any, wanted: bool) -> None:
    if wanted:
        from matterstack.version import __version__

        click.echo(f"matterstack {__version__}")
        ctx.exit()


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 could not work, 2 a mistake in usage or in a file, 3 the run is FAILED or CANCELLED, "
    "4 nothing left but people or paused, 75 locked, 130 interrupted (the jobs go on).",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Print the version."
)
def cli() -> None:
    """Run long scientific campaigns from a YAML file. No server, no daemon; every decision is on disk."""


def main() -> NoReturn:
    """Run the command line and exit with its code (see `errors.ExitCode`)."""
    sys.exit(_run())


def _run() -> int:
    if sys.stdout is None or sys.stderr is None:  # closed by the shell, `>&-`: what is printed is lost, not the work
        sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115 (open until the process ends)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that is not UTF-8 is shown, not a reason to fail
    try:
        if "_MATTERSTACK_COMPLETE" in os.environ:
            cli.main(prog_name="matterstack", complete_var="_MATTERSTACK_COMPLETE")  # answers the shell and exits
        # Not cli.main(): it would take a closed pipe for a failure.
        with cli.make_context("matterstack", sys.argv[1:]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
        return int(code or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        _show_usage(error)
        return 2
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except BrokenPipeError:
        # `matterstack results RUN | head`: the reader has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # a person's mistake becomes a sentence; a defect is raised again, with its traceback
        return _explain(error)


def _tell(text: str) -> None:
    from matterstack.cli.options import tell

    tell(text)


def _show_usage(error: click.ClickException) -> None:
    from matterstack.cli.options import wants_json_lines

    if wants_json_lines():
        _tell(error.format_message())
    else:
        error.show()


def _explain(error: Exception) -> int:
    from matterstack.cli.options import is_quiet
    from matterstack.errors import CampaignError, MatterStackError, RunLockedError, one_line

    if isinstance(error, CampaignError):
        for line in str(error).splitlines():
            _tell(line)
        return int(error.exit_code)
    if isinstance(error, MatterStackError):
        if not (
            isinstance(error, RunLockedError) and is_quiet()
        ):  # that somebody else is at it needs nobody's attention
            _tell(f"error: {_in_short(one_line(str(error)))}")
        return int(error.exit_code)
    if _is_of_the_ledger(error):
        text = f"error: state.sqlite: {str(error)[:200]}; `matterstack doctor` says what is wrong with it"
        _tell(one_line(text))
        return 1
    if isinstance(error, OSError) and error.errno is not None:
        _tell(one_line(f"error: {error.filename or 'the system'}: {error.strerror}"))
        return 1
    raise error


def _in_short(text: str) -> str:
    """Return a message without the middle of what somebody typed at great length."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _is_of_the_ledger(error: Exception) -> bool:
    """Return whether SQLite met something in the file that it cannot read; not that we asked it the wrong way."""
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is None or not isinstance(error, sqlite3.DatabaseError):
        return False
    text = str(error)
    return type(error) is sqlite3.DatabaseError or text.startswith(
        ("Could not decode", "no such table", "no such column")
    )


if __name__ == "__main__":
    main()
