"""What nodes say of themselves, to each other: for the view of the cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import msgspec

from perdure.cluster_view import Heard, NodeFigures, handovers, heard
from perdure.runtime import Runtime

#: The name of the question.
FIGURES = "figures"
#: Seconds for which a node is waited for.
ANSWER_WITHIN = 1.0
#: How many nodes are asked at a time.
AT_ONCE = 50


class Figures:
    """One per node: answers for it, and asks the others."""

    def __init__(self, runtime: Runtime, *, started: int, leading: Callable[[], bool]) -> None:
        """`started`: when this node did, in microseconds since 1970 UTC."""
        self._runtime = runtime
        self._started = started
        self._leading = leading
        self._asking: asyncio.Task[dict[str, Heard]] | None = None
        runtime.questions.register(FIGURES, self._asked)

    def own(self) -> NodeFigures:
        runtime = self._runtime
        table = runtime.placement.table
        served = {key: owned.fence for key, owned in runtime.host.owned.items()}
        node = runtime.placement.node
        return NodeFigures(
            node,
            runtime.clock.now(),
            self._started,
            release(),
            dict(Counter(actor.type for actor in runtime.host.activations)),
            runtime.engine.activities.running,
            runtime.engine.activities.queued,
            runtime.committer.pending,
            handovers(table, node, served) if table is not None else [],
            self._leading(),
            runtime.engine.queues(),
        )

    async def of(self, nodes: Iterable[str]) -> dict[str, Heard]:
        """The figures of those of the nodes that answer in time, by node. Whoever asks while somebody else's
        questions are out shares the answers."""
        if self._asking is None:
            self._asking = self._runtime.clock.spawn(self._ask(sorted(nodes)), name="perdure-figures")
            self._asking.add_done_callback(self._answered)
        # Whoever goes does not take the others' answers away.
        return await asyncio.shield(self._asking)

    def _answered(self, _: Any) -> None:
        self._asking = None

    async def _ask(self, nodes: list[str]) -> dict[str, Heard]:
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(node: str) -> Heard | None:
            async with at_once:
                return await self._heard(node)

        found = await asyncio.gather(*(one(node) for node in nodes))
        return {node: answer for node, answer in zip(nodes, found, strict=True) if answer is not None}

    async def _heard(self, node: str) -> Heard | None:
        clock = self._runtime.clock
        if node == self._runtime.placement.node:
            own = self.own()
            return heard(own, own.now, own.now)
        # By the steady clock: the other one may be set meanwhile.
        asked, began = clock.now(), clock.monotonic()
        answer = await self._runtime.questions.ask(node, FIGURES, None, ANSWER_WITHIN)
        took = int((clock.monotonic() - began) * 1_000_000)
        try:
            figures = msgspec.convert(answer, NodeFigures)
        except msgspec.ValidationError:
            return None  # none in time, or of a release that says something else
        return heard(figures, asked, asked + took)

    async def _asked(self, _: Any) -> Any:
        # As plain values, which every release can read.
        return msgspec.to_builtins(self.own())


@cache
def release() -> str:
    """The release of Perdure that this process runs."""
    # Late: importing it takes longer than most of what a node imports.
    from importlib.metadata import version

    return version("perdure")
