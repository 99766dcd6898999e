"""The pytest plugin in a project that has nothing but pytest, or pytest-asyncio, or anyio; and docs/testing.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "testing.md"
#: pytest-asyncio wants to be told.
ASYNCIO = ("-o", "asyncio_default_fixture_loop_scope=function")
#: As in an environment where neither is installed.
NEITHER = ("-p", "no:asyncio", "-p", "no:anyio")


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of the page, put together as it builds them."""
    files: dict[str, list[str]] = {}
    for block in blocks(PAGE):
        kind, _, name = block.info.partition(" ")
        if kind in ("python", "ini"):
            files.setdefault(name, []).append(block.text)
    assert set(files) == {"shop.py", "test_shop.py", "test_async.py", "pytest.ini"}
    for name, parts in files.items():
        (tmp_path / name).write_text("\n\n".join(parts))
    return tmp_path


@pytest.mark.parametrize("plugins", [NEITHER, (*ASYNCIO, "-o", "asyncio_mode=auto")], ids=["neither", "auto"])
def test_the_page_works(project: Path, plugins: tuple[str, ...]) -> None:
    done = pytest_in(project, "-q", *plugins)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


def test_with_anyio_and_the_marks_of_pytest_asyncio(project: Path) -> None:
    (project / "test_marked.py").write_text(
        """
import asyncio
import pytest
from shop import trial

@pytest.fixture
async def other():
    return asyncio.get_running_loop()

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(perdure, other, anyio_backend):
    assert other is asyncio.get_running_loop()
    id = await perdure.start(trial, "ada")
    await perdure.raise_event(id, "cancel")
    assert (await perdure.state(id)).output == "cancelled"

class TestInAClass:
    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    @pytest.mark.parametrize("customer", ["ada", "bob"])
    async def test_anyio(self, perdure, anyio_backend, customer):
        assert (await perdure.start(trial, customer))
"""
    )
    (project / "test_asyncio.py").write_text(
        """
import asyncio
import pytest
import pytest_asyncio
from shop import trial

@pytest_asyncio.fixture
async def other():
    return asyncio.get_running_loop()

@pytest.mark.asyncio
async def test_asyncio(perdure, other):
    assert other is asyncio.get_running_loop()
    id = await perdure.start(trial, "ada")
    await perdure.raise_event(id, "cancel")
    assert (await perdure.state(id)).output == "cancelled"
"""
    )
    done = pytest_in(project, "-q", *ASYNCIO, "test_marked.py", "test_asyncio.py", "test_async.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_failures_are_the_tests_own(project: Path) -> None:
    (project / "test_failing.py").write_text(
        """
import itertools
from shop import app, trial

def test_plain(perdure):
    assert perdure.run(trial, "ada").output == "something else"

async def test_async(perdure):
    assert (await perdure.start(trial, "ada")) == "x"

counter = itertools.count()

def test_determinism(perdure):
    @app.workflow(name="counts")
    async def counts(ctx):
        return next(counter)
    perdure.run("counts")
"""
    )
    done = pytest_in(project, *NEITHER, "test_failing.py")
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "1 error" in done.stdout
    assert "assert None == 'something else'" in done.stdout
    assert "NonDeterminism: the workflow code does not do what its history says it did" in done.stdout


def test_no_app_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(perdure): pass\n")
    done = pytest_in(tmp_path, *NEITHER)
    assert done.returncode != 0
    assert "set perdure_app = module:attribute" in done.stdout + done.stderr


def test_a_project_may_have_its_own_fixtures(project: Path) -> None:
    (project / "conftest.py").write_text(
        """
from datetime import UTC, datetime
import pytest
import shop

@pytest.fixture
def perdure_app():
    return shop.app

@pytest.fixture
def perdure_options(tmp_path):
    return {"start": datetime(2024, 2, 28, tzinfo=UTC), "store": f"sqlite:///{tmp_path}/state.db"}
"""
    )
    (project / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (project / "test_it.py").write_text(
        """
def test_it(perdure):
    perdure.advance(days=2)
    assert perdure.now.isoformat() == "2024-03-01T00:00:00+00:00"
"""
    )
    done = pytest_in(project, "-q", *NEITHER, "test_it.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_whoever_does_not_use_it_does_not_load_perdure(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import sys

def test_it():
    assert "perdure_pytest" in sys.modules
    assert not [name for name in sys.modules if name.split(".")[0] in ("perdure", "msgspec", "aiohttp")]

async def helper_that_is_no_test(): ...
"""
    )
    done = pytest_in(tmp_path, "-q", *NEITHER, "-p", "no:xdist", "-p", "no:schemathesis")
    assert done.returncode == 0, done.stdout + done.stderr
