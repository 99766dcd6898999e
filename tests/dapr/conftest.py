"""Runtimes that end with their test, over a store of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from perdure.dapr import WorkflowRuntime


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkflowRuntime]:
    """One that is not started."""
    monkeypatch.setenv("PERDURE_STORE", "memory://")
    for name in ("APP_ID", "PERDURE_HTTP_PORT", "PERDURE_HOST", "DAPR_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    runtime = WorkflowRuntime()
    yield runtime
    runtime.shutdown()


@pytest.fixture
def another(runtime: WorkflowRuntime) -> Iterator[Callable[[], WorkflowRuntime]]:
    """Makes more of them."""
    made: list[WorkflowRuntime] = []

    def make() -> WorkflowRuntime:
        made.append(WorkflowRuntime())
        return made[-1]

    yield make
    for one in made:
        one.shutdown()
