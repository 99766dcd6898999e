"""Waiting for a state, not for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns when it holds; fails when that takes so long."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any state, of any part
            await asyncio.sleep(0.005)
