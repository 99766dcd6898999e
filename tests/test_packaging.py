"""What is installed is what is in the folders."""

from __future__ import annotations

import os
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packages_in_folders() -> dict[str, Path]:
    """Every package that the mapping of folders to names implies: to setuptools each folder is one, also one that
    holds only data."""
    found: dict[str, Path] = {}
    for name, folder in SETTINGS["package-dir"].items():
        root = ROOT / folder
        for path in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            if path.name != "__pycache__" and any(file.is_file() for file in path.iterdir()):
                found[".".join([name, *path.relative_to(root).parts])] = path
    return found


def test_every_package_is_listed() -> None:
    """setuptools installs only what the list names: a package left out works in a checkout and nowhere else."""
    assert sorted(SETTINGS["packages"]) == sorted(packages_in_folders())


def test_every_package_has_an_init_file() -> None:
    missing = [
        name
        for name, path in packages_in_folders().items()
        if any(path.glob("*.py")) and not (path / "__init__.py").exists()
    ]
    assert missing == []


def test_every_other_file_is_package_data() -> None:
    """Files that are not Python are installed only if a pattern of package-data matches them."""
    patterns: dict[str, list[str]] = SETTINGS["package-data"]
    left_out: set[Path] = set()
    for package, folder in packages_in_folders().items():
        left_out |= set(data_files(folder))
        for pattern in [*patterns.get("*", []), *patterns.get(package, [])]:
            left_out -= set(folder.glob(pattern))
    assert sorted(str(path.relative_to(ROOT)) for path in left_out) == []


def data_files(folder: Path) -> list[Path]:
    """The files of one package that are not Python."""
    return [path for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")]


@pytest.mark.skipif(
    "PERDURE_WHEEL" not in os.environ, reason="set PERDURE_WHEEL to a built wheel; .ci/run does"
)
def test_the_wheel_has_every_file() -> None:
    names = set(zipfile.ZipFile(os.environ["PERDURE_WHEEL"]).namelist())
    wanted: set[str] = set()
    for package, folder in packages_in_folders().items():
        target = "/".join(package.split("."))
        wanted |= {f"{target}/{path.name}" for path in [*folder.glob("*.py"), *data_files(folder)]}
    assert "perdure/py.typed" in wanted
    assert sorted(wanted - names) == []
    assert all(name.startswith("perdure") for name in names)


#: What a checkout has beside the packages, and an sdist too: its tests run, and its README's commands work.
BESIDE = (".ci", "benchmarks", "docs", "examples", "tests")


@pytest.mark.skipif(
    "PERDURE_SDIST" not in os.environ, reason="set PERDURE_SDIST to a built sdist; .ci/run does"
)
def test_the_sdist_has_every_file() -> None:
    with tarfile.open(os.environ["PERDURE_SDIST"]) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    folders = [*packages_in_folders().values(), *(ROOT / name for name in BESIDE)]
    wanted = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    wanted |= {path for path in ROOT.iterdir() if path.is_file() and path.name != ".gitignore"}
    kept = {path for path in wanted if not {"__pycache__", ".git"} & set(path.parts)}
    assert sorted({str(path.relative_to(ROOT)) for path in kept} - names) == []
