"""Rebuilding an instance's memory from the store: the rest of a long history, and the code's state by replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.errors import LoopBlocked
from perdure.workflow import events, stall
from perdure.workflow.executor import NonDeterminism, Run
from perdure.workflow.instance import Instance, named
from perdure.workflow.replay import Replay
from perdure.workflow.stall import Stalled

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

#: Seconds of replay after which everything else on the loop gets its turn.
SLICE = 0.005
#: Events between two looks at the clock.
STRIDE = 16


async def rebuild(
    engine: WorkflowEngine, instance: Instance, *, code: bool, alive: Callable[[], bool]
) -> Run | None:
    """Reads what is missing of the history, then, if `code`, runs the workflow code over it. Gives up quietly when
    `alive` says that nobody wants the result. Raises `Stalled`, `NotRegistered`, `CorruptState`, `StoreError`."""
    await _read_rest(engine, instance, alive)
    if not code or not alive() or instance.started is None:
        return None
    run = engine.new_run(instance.actor, instance.started)
    try:
        await _replay(engine, instance, run, alive)
    except NonDeterminism as error:
        run.close()
        raise Stalled(stall.NON_DETERMINISM, error.message) from error
    except LoopBlocked as error:
        run.close()
        raise Stalled(stall.BLOCKED, str(error)) from error
    instance.unread = None
    return run


async def _read_rest(engine: WorkflowEngine, instance: Instance, alive: Callable[[], bool]) -> None:
    while not instance.complete and alive():
        start = f"history-{instance.scanned:06d}"
        page = await engine.page(instance.actor, start)
        if not page.items:
            raise Stalled(stall.UNREADABLE, f"key {start} is missing")
        if alive():
            instance.scan([named(key, events.decode, value) for key, value in page.items])


async def _replay(engine: WorkflowEngine, instance: Instance, run: Run, alive: Callable[[], bool]) -> None:
    history = instance.unread
    if history is None:
        history = [event async for _, event in engine.history(instance.actor, limit=instance.meta.history)]
    replay = Replay(run)
    clock = engine.clock
    began = clock.monotonic()
    for index, event in enumerate(history):
        replay.feed(event)
        if index % STRIDE == 0 and clock.monotonic() - began > SLICE:
            await clock.sleep(0)
            if not alive():
                return
            began = clock.monotonic()
    replay.finish()
