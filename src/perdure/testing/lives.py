"""Nodes of one process that can be killed as `kill -9` does it: nothing of theirs runs any more, not even `finally`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any

from perdure.app import App
from perdure.node import Node, NodeOptions
from perdure.runtime import RuntimeOptions
from perdure.statestore.contract import Commit, CommitResult
from perdure.statestore.memory import LeaseRecord, MemoryStore
from perdure.testing.clock import VirtualClock
from perdure.workflow.orchestrator import WorkflowBehaviour

#: Whose callback it is; None: the world outside.
_LIFE: ContextVar[Life | None] = ContextVar("perdure_life", default=None)

#: Few, so that a node starts in no time.
PARTITIONS = 8


class MortalLoop(asyncio.SelectorEventLoop):
    """Drops the callbacks of those who are dead. Each belongs to the life in whose context it was scheduled: with a
    node dies every task that its activities have begun."""

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        life = _life_in(context)
        if life is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(_alive, life, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        life = _life_in(context)
        if life is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, _alive, life, callback, args, context=context)


def _life_in(context: Context | None) -> Life | None:
    return _LIFE.get() if context is None else context.get(_LIFE)


def _alive(life: Life, callback: Callable[..., object], args: Sequence[Any]) -> None:
    if not life.ended.done():
        callback(*args)


class Life:
    """One incarnation of the node, on a `MortalLoop`."""

    def __init__(self, app: App, store: MemoryStore, now: int, *, witness: Witness) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._context = copy_context()
        self._context.run(_LIFE.set, self)
        #: Done when it is dead.
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.clock: VirtualClock
        options = NodeOptions(
            store=witness,
            drain_seconds=0,
            blocked_after=0,
            runtime=RuntimeOptions(replay_check="off"),
        )
        self.node: Node = app.node(options)

        def make_clock() -> VirtualClock:
            self.clock = VirtualClock(now)
            return self.clock

        self.node.make_clock = make_clock
        witness.life = self

    async def start(self) -> None:
        """Returns when it serves, or is dead."""
        starting = self._spawn(self.node.start())
        await asyncio.wait((starting, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._loop.create_task(coroutine, context=self._context)

    def kill(self) -> None:
        """Idempotent. What a thread is in the middle of goes on there, unheard."""
        if self.ended.done():
            return
        self.ended.set_result(None)
        runtime = getattr(self.node, "runtime", None)
        if runtime is not None:
            runtime.engine.activities._threads.close()
        # The system frees what a dead process held.
        for name, record in list(self._store.leases.items()):
            self._store.leases[name] = LeaseRecord(record.term, record.value)

    def bury(self) -> None:
        """Ends workflow code where it waits, as the engine does when an instance leaves memory: were it left to the
        garbage collector, its `finally` blocks would be heard of."""
        self.kill()
        runtime = getattr(self.node, "runtime", None)
        for activation in runtime.host.activations.values() if runtime is not None else ():
            behaviour = activation.behaviour
            if isinstance(behaviour, WorkflowBehaviour):
                behaviour.close_run()


class Witness:
    """The store of one life: sees each commit, and may be the end of it."""

    def __init__(self, store: MemoryStore, commit: Callable[[Commit, Callable[[], None]], None]) -> None:
        """`commit(commit, write)` calls `write` for each commit, and kills the life when it likes."""
        self._store = store
        self._commit = commit
        self.life: Life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def shared(self) -> bool:
        return False

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        results: list[CommitResult] = []
        for commit in batch:
            if self.life.ended.done():
                break
            self._commit(commit, lambda commit=commit: results.append(self._store._commit(commit)))  # type: ignore[misc]
        if self.life.ended.done():
            await asyncio.get_running_loop().create_future()
        return results
