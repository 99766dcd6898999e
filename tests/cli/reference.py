"""The part of docs/cli.md that says what `--help` says: `python -m tests.cli.reference` writes it anew."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from perdure.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN = "<!-- begin: written by tests/cli/reference.py -->"
END = "<!-- end -->"
#: Explained once, for all commands that have them.
SHARED = ("--server", "--store", "--app-id", "--json")


def commands() -> Iterator[tuple[str, Any]]:
    """Each command with its name, as one types it; in the order of `--help`."""
    yield from _commands("perdure", typer.main.get_command(app))


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, one in below.items():
        yield from _commands(f"{name} {word}", one)


def section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    parts = [f"### {name}", inspect.cleandoc(command.help or "")]
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts.append(f"```text\n{usage}\n```")
    rows, shared = [], []
    asks = any("--server" in parameter.opts for parameter in command.params)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None:
            continue
        if any(option in SHARED and (asks or option == "--json") for option in parameter.opts):
            shared += [option for option in parameter.opts if option in SHARED]
        elif "--help" not in parameter.opts:
            rows.append("| " + " | ".join(_cell(text) for text in record) + " |")
    if rows:
        parts.append("\n".join(["| | |", "|---|---|", *rows]))
    if shared:
        parts.append("Also: " + ", ".join(f"`{option}`" for option in shared) + ".")
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace(" <str>", "").replace("|", "\\|").replace("<", "\\<")


def written() -> str:
    """All sections."""
    return "\n\n".join(section(name, command) for name, command in commands())


def page(text: str) -> str:
    """The page with its part as it has to be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{written()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
