"""Asking a store that may be away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from perdure.errors import StoreUnavailable
from tests.waiting import PATIENCE

T = TypeVar("T")


async def again(ask: Callable[[], Awaitable[T]]) -> T:
    """The first answer that is not `StoreUnavailable`: as the layers above ask."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)
