"""What tests of faults in this process share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def eventually() -> Any:
    """`await eventually(lambda: …)`: returns the condition's value when it is true."""

    async def wait(condition: Callable[[], Any], what: str = "the condition", seconds: float = 20) -> Any:
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come true within {seconds} s")
            await asyncio.sleep(0.005)

    return wait
