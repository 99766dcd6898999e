from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.cli.doctor import clocks
from perdure.statestore import open_store
from tests.cli.conftest import in_thread


def test_a_node_is_asked(perdure: Any, node: Any) -> None:
    result = perdure("doctor", "--server", node.url)
    assert result.status == 1
    assert result.out.splitlines()[:3] == [
        "ok  durability: it is on disk",
        "error  reminders: one is overdue",
        "    start a node",
    ]


def test_a_file_that_nobody_has_open(perdure: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    in_thread(lambda: _make(url))
    found = perdure("doctor", "--store", url, "--json").json
    assert {one["level"] for one in found["findings"]} == {"ok"}


def _make(url: str) -> None:
    import asyncio

    async def make() -> None:
        await open_store(url).close()

    asyncio.run(make())


def node(id: str, difference: float | None) -> dict[str, Any]:
    known = {} if difference is None else {"clockDifference": difference}
    return {"id": id, "address": f"{id}:1", "answered": difference is not None, **known}


def test_clocks_that_differ() -> None:
    (found,) = clocks({"nodes": [node("a", 0.0), node("b", 0.2)]})
    assert found["level"] == "ok"
    silent, found = clocks({"nodes": [node("a", 0.0), node("b", 3.5), node("c", None), node("d", -0.5)]})
    assert silent["said"].startswith("c (c:1) gives other nodes no answer")
    assert found["level"] == "error"
    assert "differ by 4.000 s" in found["said"]
    assert "b is ahead" in found["advice"]
