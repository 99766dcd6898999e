"""Sweeper: deletes the keys that resets left behind, a bounded number at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from perdure.errors import PerdureError
from perdure.logs import fields

logger = logging.getLogger("perdure.statestore")

#: Keys deleted by one transaction, and seconds between two of them: others want the server too.
ROWS = 500
PAUSE = 0.02
#: Seconds after which garbage is looked for that nobody here made: of a process that died.
REST = 60.0


class Sweeper:
    """A task of the store's. Any number of processes may sweep at the same time."""

    def __init__(self, sweep: Callable[[int], Awaitable[bool]]) -> None:
        """`sweep` deletes so many keys, and says whether there may be more."""
        self._sweep = sweep
        self._wanted = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="perdure-sweeper")

    def wake(self) -> None:
        """There is new garbage."""
        self._wanted.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                more = await self._sweep(ROWS)
                if more:
                    await asyncio.sleep(PAUSE)
                    continue
            except PerdureError as error:
                # The next commits will say the same to those who can act on it.
                logger.warning("housekeeping failed", extra=fields(reason=str(error)))
                await asyncio.sleep(1)
            try:
                async with asyncio.timeout(REST):
                    await self._wanted.wait()
            except TimeoutError:
                pass
