"""What can be checked of every page without running it."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
_NAMED_FILE = re.compile(
    r"`((?:src|sidecar|workflow|actors|placement|statestore|examples|benchmarks|tests)/[\w./-]*)`"
)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert broken == []


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    """In backticks and with a folder of this repository: `workflow/events.py`."""
    missing = [name for name in _NAMED_FILE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert missing == []


@pages
def test_python_blocks_are_python_and_shell_blocks_are_shell(page: Path) -> None:
    for block in blocks(page):
        if block.info.startswith("python"):
            ast.parse(block.text)
        elif block.info.startswith("sh"):
            shlex.split(block.text, comments=True)


def test_lines_are_not_longer_than_code() -> None:
    """Tables and links cannot be broken; the rest can."""
    long = [
        f"{page.name}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > 120 and not line.startswith("|") and "](" not in line
    ]
    assert long == []
