"""All commands in one program, and how it ends."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from perdure.cli import actor, state, steering, watch, workflow
from perdure.cli.cluster import cluster
from perdure.cli.completion import completion
from perdure.cli.doctor import doctor
from perdure.cli.failures import FAILED, INTERRUPTED, USAGE, CommandError
from perdure.cli.options import AsJson
from perdure.cli.placement import placement
from perdure.cli.run import run
from perdure.cli.transfer import export, import_
from perdure.errors import PerdureError
from perdure.signals import end_on_sigterm

app = typer.Typer(
    name="perdure",
    help="Virtual actors and durable workflows.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(placement)
# These add their commands to those of `workflow`.
assert steering
assert watch
app.add_typer(workflow.app, name="workflow")
app.add_typer(state.app, name="state")
app.add_typer(actor.app, name="actor")
app.command()(cluster)
app.command()(doctor)
app.command("export")(export)
app.command("import")(import_)
app.command()(completion)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Shows the versions of Perdure and of what it runs on."""
    import platform
    import sqlite3
    from importlib.metadata import version as installed

    from perdure.cli.show import show_fields

    show_fields(
        {
            "perdure": installed("perdure"),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
        as_json,
    )


def main(arguments: Annotated[Sequence[str] | None, "without the program's name"] = None) -> None:
    """Runs the command line and exits: 0, 1 (it could not be done), 2 (the command line is wrong)."""
    end_on_sigterm()
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return int(app(args=arguments, prog_name="perdure", standalone_mode=False) or 0)
    except CommandError as error:
        return _fail(str(error), error.status)
    except PerdureError as error:
        return _fail(error.message, FAILED)
    except SystemExit as end:
        # `App.run` ends so when it cannot start.
        if isinstance(end.code, str):
            return _fail(end.code, FAILED)
        raise
    except BrokenPipeError:
        # Whoever reads (`| head`) has enough. Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _fail_usage(error, message())


def _fail(message: str, status: int) -> int:
    from perdure.cli.show import one_line

    print(f"error: {one_line(message)}", file=sys.stderr)
    return status


def _fail_usage(error: Exception, message: str) -> int:
    """A usage error of the option parser. Where nothing was given at all, its message is the help."""
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
        return USAGE
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "perdure"
    return _fail(f"{message.rstrip('.')}{_elsewhere(context, message)}; see '{path} --help'", USAGE)


def _elsewhere(context: Any, message: str) -> str:
    """Where there is a command of that name, if one was not found here."""
    missing = re.match("No such command '([^']+)'", message)
    if missing is None or context is None:
        return ""
    groups = context.find_root().command.commands.items()
    found = [
        f"'perdure {name} {missing[1]}'"
        for name, group in groups
        if missing[1] in getattr(group, "commands", {})
    ]
    return f" (there is {' and '.join(found)})" if found else ""
