"""The public types, as mypy and pyright in their strict modes see them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALLS = Path(__file__).parent / "typing" / "calls.py"


@pytest.fixture(scope="module", autouse=True)
def links() -> None:
    """The type checkers find the layers by links."""
    subprocess.run([sys.executable, str(ROOT / ".ci" / "link-types")], check=True)


def test_mypy_knows_what_calls_give(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path),
        str(CALLS),
    ]
    _check(command, {"MYPYPATH": str(ROOT / "build" / "typing")})


def test_pyright_knows_what_calls_give(tmp_path: Path) -> None:
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent))
    assert pyright is not None, "pyright is not installed: pip install -e '.[dev]'"
    config = tmp_path / "pyrightconfig.json"
    config.write_text(
        f'{{"typeCheckingMode": "strict", "include": ["{CALLS}"], "extraPaths": ["{ROOT / "build" / "typing"}"]}}'
    )
    _check([pyright, "--project", str(config), "--pythonpath", sys.executable], {})


def _check(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
