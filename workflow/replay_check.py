"""Finds non-deterministic workflow code early: replays after turns, off the hot path, and compares."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.errors import ConfigurationError, LoopBlocked, PerdureError
from perdure.logs import fields
from perdure.workflow import stall
from perdure.workflow.executor import NonDeterminism
from perdure.workflow.replay import Replay
from perdure.workflow.run import InProcessExecutor

if TYPE_CHECKING:
    from perdure.actors.turn import Turn
    from perdure.workflow.engine import WorkflowEngine
    from perdure.workflow.orchestrator import WorkflowBehaviour

log = logging.getLogger("perdure.workflow")

#: How many turns there are to one that is checked, when sampled.
SAMPLE = 1000
#: Longer histories are only checked when every turn is: reading them would be felt.
SAMPLE_LIMIT = 1000

MODES = ("always", "sampled", "off")


class ReplayCheck:
    def __init__(self, engine: WorkflowEngine, mode: str) -> None:
        if mode not in MODES:
            raise ConfigurationError(f"replay_check is {mode!r}; it must be one of: {', '.join(MODES)}")
        self._engine = engine
        self._mode = mode
        self._count = 0
        self._checking: set[object] = set()
        #: Called for each instance whose code does something else than its history says.
        self.on_mismatch: Callable[[str, NonDeterminism], object] = lambda instance_id, error: None

    @property
    def checking(self) -> bool:
        """Whether a history is being compared now."""
        return bool(self._checking)

    def wants(self, behaviour: WorkflowBehaviour, turn: Turn) -> bool:
        """Whether this turn is to be checked."""
        if self._mode == "off":
            return False
        self._count += 1
        if self._mode == "sampled" and self._count % SAMPLE:
            return False
        instance = behaviour.instance
        if (
            instance is None
            or instance.purged
            or not instance.meta.history
            or behaviour.activation.actor in self._checking
        ):
            return False
        if self._mode == "sampled" and instance.meta.history > SAMPLE_LIMIT:
            return False
        return isinstance(self._engine.executor, InProcessExecutor) and (
            behaviour.run is not None or instance.finished
        )

    def start(self, behaviour: WorkflowBehaviour) -> None:
        self._checking.add(behaviour.activation.actor)
        self._engine.clock.spawn(self._check(behaviour))

    async def _check(self, behaviour: WorkflowBehaviour) -> None:
        instance = behaviour.instance
        actor = behaviour.activation.actor
        assert instance is not None
        execution_id = instance.meta.execution_id
        try:
            history = [event async for _, event in self._engine.history(actor, limit=instance.meta.history)]
            if not history or behaviour.instance is not instance:
                return
            run = self._engine.new_run(actor, history[0])  # type: ignore[arg-type]
            replay = Replay(run)
            try:
                for event in history:
                    replay.feed(event)
                replay.finish()
            finally:
                run.close()
        except NonDeterminism as error:
            log.error(
                "replay.mismatch", extra=fields(instance=actor.id, execution=execution_id, reason=error)
            )
            self.on_mismatch(actor.id, error)
            if behaviour.instance is instance and not instance.finished:
                behaviour.stall_now(stall.NON_DETERMINISM, error.message)
        except (PerdureError, LoopBlocked) as error:
            log.warning("replay.unchecked", extra=fields(instance=actor.id, reason=error))
        finally:
            self._checking.discard(actor)
