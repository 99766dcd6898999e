"""What activities did, written down outside of all nodes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from perdure.workflow.activity_context import ActivityContext
from tests.simulation.loop import PROCESS
from tests.simulation.process import Process


class TaskKey(NamedTuple):
    """One activity task of one execution, as its history event names it."""

    instance: str
    execution_id: str
    task_id: int
    nonce: bytes


class Ledger:
    def __init__(
        self,
        rng: random.Random,
        began: Callable[[Process, TaskKey], None],
        turn: Callable[[Process, str], None],
    ) -> None:
        self._rng = rng
        self._began = began
        #: Called with each turn of a user actor that begins, by the name of what it does.
        self.turn = turn
        #: Runs begun, by idempotency key.
        self.runs: Counter[str] = Counter()
        #: Tasks of which a run came to its end.
        self.ended: set[TaskKey] = set()
        #: Seconds that an activity takes at most.
        self.longest = 0.05

    async def run(self, ctx: ActivityContext) -> int:
        """Takes its time. How often this call was begun."""
        process = PROCESS.get()
        assert process is not None
        with self.noted(ctx, process):
            request = ctx._request
            self.runs[request.key] += 1
            runs = self.runs[request.key]
            delay = self._rng.random() * self.longest
            if delay > self.longest / 4:
                await process.sleep(delay)
        return runs

    @contextmanager
    def noted(self, ctx: ActivityContext, process: Process) -> Iterator[None]:
        """A run, from its beginning to its end."""
        request = ctx._request
        key = TaskKey(request.instance_id, request.execution_id, request.task_id, request.nonce)
        self._began(process, key)
        yield
        self.ended.add(key)


#: That of the run in progress.
LEDGER: ContextVar[Ledger] = ContextVar("ledger")
