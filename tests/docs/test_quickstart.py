"""The quickstart's files, put together as the page builds them, and run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT, blocks

QUICKSTART = ROOT / "docs" / "quickstart.md"
#: A reader's pytest may have neither.
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:asyncio")


def test_the_program_works_and_its_test_passes(tmp_path: Path) -> None:
    """A block marked with a file's name belongs to that file."""
    files: dict[str, list[str]] = {}
    for block in blocks(QUICKSTART):
        if block.info.startswith("python"):
            files.setdefault(block.info.removeprefix("python").strip(), []).append(block.text)
    assert set(files) == {"trip.py", "test_trip.py"}
    for name, parts in files.items():
        (tmp_path / name).write_text("\n\n".join(parts))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *WITHOUT, "test_trip.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
