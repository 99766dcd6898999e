"""docs/cli.md says what `--help` says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.cli import reference


def test_the_page_is_what_help_says() -> None:
    text = reference.PAGE.read_text()
    assert text == reference.page(text), "run: python -m tests.cli.reference"


@pytest.mark.parametrize("name", [name for name, _ in reference.commands()])
def test_every_command_says_what_it_does(perdure: Any, name: str) -> None:
    result = perdure(*name.split()[1:], "--help")
    assert (result.status, result.err) == (0, "")
    section = reference.PAGE.read_text().partition(f"### {name}\n")[2].partition("\n### ")[0]
    (usage,) = re.findall(r"```text\n(.*)\n```", section)
    assert usage in " ".join(result.out.split())


@pytest.mark.parametrize("name", [name for name, _ in reference.commands()])
def test_every_command_that_answers_can_answer_json(name: str) -> None:
    """A server's output is its log, and a shell's script is a shell's."""
    if name in ("perdure run", "perdure placement"):
        wanted = "--log-json"
    elif name == "perdure completion":
        return
    else:
        wanted = "--json"
    command = dict(reference.commands())[name]
    assert any(wanted in parameter.opts for parameter in command.params), f"{name} has no {wanted}"
