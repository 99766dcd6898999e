"""docs/determinism.md: its programs fail, stall and go on as the page says."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from perdure import RuntimeStatus
from perdure.clock import LoopClock
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "determinism.md"
PATIENCE = 60


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """The page's program of this name."""
    loaded: list[str] = []

    def load(name: str) -> ModuleType:
        (text,) = (block.text for block in blocks(PAGE) if block.info == f"python {name}")
        (tmp_path / name).write_text(text)
        unique = f"determinism_{uuid.uuid4().hex}"
        spec = spec_from_file_location(unique, tmp_path / name)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[unique] = module
        loaded.append(unique)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


async def test_misuse_is_told_with_what_to_use_instead(program: Callable[[str], ModuleType]) -> None:
    (remedy,) = (block.text.strip() for block in blocks(PAGE) if block.info == "text clock.py")
    clock = program("clock.py")
    async with clock.app.serve(store="memory://") as node:
        instance = await node.client.schedule_new_workflow(clock.sleepy)
        state = await node.client.wait_for_workflow_completion(instance, timeout=PATIENCE)
    assert state.runtime_status is RuntimeStatus.FAILED
    assert state.failure_details is not None
    assert remedy in state.failure_details.message


async def test_code_that_differs_stalls_and_goes_on_when_it_fits_again(
    program: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/one.db"
    first, second = program("first.py"), program("second.py")
    async with first.app.serve(store=store) as node:
        await node.client.schedule_new_workflow(first.order, instance_id="order-1")
        await until(node, lambda names: "TaskCompleted" in names)
    async with second.app.serve(store=store) as node:
        await node.client.raise_workflow_event("order-1", "paid")
        state = await until_status(node, RuntimeStatus.STALLED)
        assert "check" in state.reason
        assert "reserve" in state.reason
        # Others do not notice.
        other = await node.client.schedule_new_workflow(second.order)
        await node.client.raise_workflow_event(other, "paid")
        await node.client.wait_for_workflow_completion(other, timeout=PATIENCE)
    async with first.app.serve(store=store) as node:
        state = await node.client.wait_for_workflow_completion("order-1", timeout=PATIENCE)
        assert state.output == "done"


async def test_versions_live_beside_each_other(program: Callable[[str], ModuleType]) -> None:
    versions = program("versions.py")
    async with versions.app.serve(store="memory://") as node:
        for name, wanted in (("order", "as before"), ("order-2", "the new way")):
            instance = await node.client.schedule_new_workflow(name)
            state = await node.client.wait_for_workflow_completion(instance, timeout=PATIENCE)
            assert state.output == wanted


async def until(node: object, reached: Callable[[set[str]], bool]) -> None:
    clock = LoopClock()
    end = clock.monotonic() + PATIENCE
    while True:
        page = await node.client.history("order-1")  # type: ignore[attr-defined]
        if reached({type(event).__name__ for _, event in page.items}):
            return
        assert clock.monotonic() < end
        await clock.sleep(0.01)


async def until_status(node: object, status: RuntimeStatus):  # type: ignore[no-untyped-def]
    clock = LoopClock()
    end = clock.monotonic() + PATIENCE
    while True:
        state = await node.client.get_workflow_state("order-1")  # type: ignore[attr-defined]
        if state is not None and state.runtime_status is status:
            return state
        assert clock.monotonic() < end
        await clock.sleep(0.01)
