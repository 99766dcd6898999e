"""Rebuilding an instance's memory from the store: the rest of a long history, and the code's state by replay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.errors import CorruptState, LoopBlocked, NotRegistered, StoreError
from perdure.logs import fields
from perdure.workflow import events, stall
from perdure.workflow.executor import NonDeterminism, Run
from perdure.workflow.instance import Instance, named
from perdure.workflow.replay import Replay
from perdure.workflow.stall import Stalled

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine
    from perdure.workflow.orchestrator import WorkflowBehaviour

log = logging.getLogger("perdure.workflow")

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


async def rebuild_behaviour(behaviour: WorkflowBehaviour, instance: Instance) -> None:
    """Rebuilds what a behaviour has of its instance. Ends with its `rebuilt`, however it goes."""
    suspicion = behaviour.suspicion
    wanted = suspicion.admitted and suspicion.code_proven and behaviour.wants_code(instance)
    try:
        run = await _rebuilt(behaviour, instance, wanted)
    except NotRegistered as error:
        behaviour.rebuilt(instance, None, Stalled(stall.UNREGISTERED, error.message))
    except CorruptState as error:
        behaviour.rebuilt(instance, None, Stalled(stall.UNREADABLE, error.message))
    except Stalled as error:
        behaviour.rebuilt(instance, None, error)
    except LoopBlocked as error:
        # It is raised from another thread, and may arrive when the code that it is meant for has just ended. Were
        # it to end this task, the instance would take messages and never go on.
        behaviour.rebuilt(instance, None, Stalled(stall.BLOCKED, str(error)))
    except Exception as error:
        log.exception("rebuild.failed", extra=fields(instance=instance.actor.id))
        behaviour.rebuilt(instance, None, Stalled(stall.INTERNAL, repr(error)))
    else:
        behaviour.rebuilt(instance, run, None)


async def _rebuilt(behaviour: WorkflowBehaviour, instance: Instance, wanted: bool) -> Run | None:
    """`rebuild`, however long the store takes to answer."""
    attempt = 0
    while True:
        try:
            return await rebuild(
                behaviour.engine, instance, code=wanted, alive=lambda: behaviour.instance is instance
            )
        except StoreError as error:
            attempt += 1
            if attempt == 1:
                log.warning("rebuild.waits", extra=fields(instance=instance.actor.id, reason=error))
            await behaviour.engine.clock.sleep(min(0.05 * 2 ** min(attempt, 8), 5.0))
        if behaviour.instance is not instance:
            return None
