"""The page on HTTP: its commands and programs, run against the app that it shows, answer what it says."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.docs.blocks import ROOT, Block, blocks

PAGE = blocks(ROOT / "docs" / "http.md")
ADDRESS = "http://localhost:3500"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A node of the page's app."""
    [shop] = [block for block in PAGE if block.info == "python shop.py"]
    path = tmp_path / "shop.py"
    path.write_text(shop.text)
    spec = importlib.util.spec_from_file_location("shop_of_the_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ready = threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with module.app.serve(store="memory://", http_port=0) as node:
            found["url"] = node.url
            ready.set()
            await found["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield found["url"]
    found["loop"].call_soon_threadsafe(found["stop"].set)
    thread.join(30)


def test_what_the_page_says_is_so(url: str, tmp_path: Path) -> None:
    """From top to bottom, as somebody reads it."""
    said = ""
    checked = 0
    for block in PAGE:
        if block.info == "sh":
            _settled(url)
            said = _run(["bash", "-euc", block.text.replace(ADDRESS, url)], tmp_path)
        elif block.info == "json":
            _holds(json.loads(said.splitlines()[-1].removeprefix("{}")), json.loads(block.text), block)
            checked += 1
        elif block.info == "http":
            _same_http(said, block)
            checked += 1
    assert checked == 6


def test_the_programs(url: str, tmp_path: Path) -> None:
    programs = {
        block.info: block.text.replace(ADDRESS, url) for block in PAGE if block.info.startswith("python")
    }
    assert set(programs) == {"python shop.py", "python ask.py", "python blocking.py"}
    _run(
        [
            "curl",
            "-s",
            "-X",
            "POST",
            "-d",
            '{"name":"order","input":7}',
            f"{url}{_ACTOR}/order:2/method/start",
        ],
        tmp_path,
    )
    first, *rest = _run([sys.executable, "-c", programs["python ask.py"]], tmp_path).splitlines()
    assert "order-4" in first
    assert rest == ["completed {'amount': 5, 'by': 'Ann'}", "['order-4'] None"]
    assert (
        _run([sys.executable, "-c", programs["python blocking.py"]], tmp_path)
        == "{'amount': 7, 'by': 'Bob'}\n"
    )


_ACTOR = "/v1.0/actors/dapr.internal.default.shop.workflow"


def _run(command: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_TOKEN")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=folder, env=environment
    )
    assert (done.returncode, done.stderr) == (0, ""), (command, done.stdout)
    return done.stdout


def _settled(url: str) -> None:
    """Until what was started is under way: a reader is slower than this test."""
    deadline = time.monotonic() + 30
    while json.loads(urlopen(f"{url}/v1.0/workflows/dapr?status=pending").read())["instances"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _holds(found: Any, shown: Any, block: Block) -> None:
    """The page leaves out some fields of objects, and nothing else."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in found, (block.line, name)
            _holds(found[name], value, block)
    elif isinstance(shown, list):
        assert len(found) == len(shown), block.line
        for one, other in zip(found, shown, strict=True):
            _holds(one, other, block)
    else:
        assert found == shown, block.line


def _same_http(said: str, block: Block) -> None:
    """Every line that the page shows is there; other headers may be."""
    lines = said.replace("\r\n", "\n").splitlines()
    for line in block.text.splitlines():
        assert line in lines, (block.line, line)
