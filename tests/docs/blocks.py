"""The fenced blocks of a Markdown file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block: what it is marked as, what is in it, and the line it begins on."""

    info: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    source = path.read_text()
    return [
        Block(match["info"].strip(), match["text"], source.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(source)
    ]
