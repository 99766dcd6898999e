"""docs/errors.md has every error that there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text()
FOLDERS = ("src", "sidecar", "workflow", "actors", "statestore", "placement", "console")
#: Endings that say what is wrong with a name or an id.
ENDINGS = ("_MISSING", "_TOO_LONG", "_INVALID")


def sources() -> str:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert Path(ROOT / "src" / "perdure" / "errors.py") in files
    return "\n".join(path.read_text() for path in files)


def codes(text: str) -> set[str]:
    """Whole ones: of a code that is put together, only the beginning stands in the source."""
    return set(re.findall(r"\bERR_[A-Z_]*[A-Z]\b", text))


def test_every_code_is_explained() -> None:
    told = codes(PAGE)
    missing = {code for code in codes(sources()) - told if not code.endswith(ENDINGS)}
    assert sorted(missing) == []


def test_every_code_on_the_page_exists() -> None:
    # f"ERR_ACTOR_{what}_NAME" is put together.
    made = {"ERR_ACTOR_REMINDER_NAME", "ERR_ACTOR_TIMER_NAME"}
    assert sorted(codes(PAGE) - codes(sources()) - made) == []


def test_every_type_of_failure_is_explained() -> None:
    types = set(re.findall(r'FailureDetails\(\s*"([A-Za-z]+)"', sources()))
    assert "CrashedProcess" in types
    assert sorted(name for name in types if f"`{name}`" not in PAGE) == []


def test_every_kind_of_stall_is_explained() -> None:
    kinds = re.findall(
        r'^[A-Z]+(?:_[A-Z]+)* = "[\w-]+"$', (ROOT / "workflow" / "stall.py").read_text(), re.MULTILINE
    )
    section = PAGE.split("## STALLED")[1].split("\n## ")[0]
    assert len(kinds) == section.count("\n|") - 2
