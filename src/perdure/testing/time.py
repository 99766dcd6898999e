"""Moves time for a node with a virtual clock: to where something happens, when everything else has come to rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from perdure.actors.activation import Phase
from perdure.actors.reminders import ReminderClock
from perdure.errors import DeadlineExceeded
from perdure.statestore.contract import Reminder
from perdure.testing.clock import VirtualClock
from perdure.workflow.orchestrator import WorkflowBehaviour
from perdure.workflow.state import when

if TYPE_CHECKING:
    from perdure.node import Node

T = TypeVar("T")

#: Passes of the event loop in which nothing begins: then nothing goes on.
PASSES = 6
#: Passes after which real time is waited for: a thread runs, or a file is read.
EAGER = 200
#: Seconds of such a wait.
PAUSE = 0.001
#: Microseconds by which more time may pass than was asked for: turns of one instance that are made at one moment have
#: times a microsecond apart, and what is due an hour after the third had better come when an hour has passed.
SLACK = 1000
#: Later than any time.
_NEVER = 2**62


def _reminding(reminders: ReminderClock, now: int) -> bool:
    """Whether a reminder is due, or with its actor, or reminders are being read."""
    heap = reminders._heap
    return bool(reminders._refilling or reminders._in_flight or (heap and heap[0][0] <= now))


class TimeStandsStill(AssertionError):
    """What a test waits for does not come: nothing is left to happen, or something keeps time from going on."""


class Time:
    """Of one node at a time: after a restart, of the next. All that moves time comes here, one after another."""

    def __init__(self, *, patience: float, alone: bool = False) -> None:
        """`patience`: real seconds for which something that time does not bring may be waited for. `alone`: nobody but
        whoever waits can do anything meanwhile."""
        self._patience = patience
        self._alone = alone
        self._moving = asyncio.Lock()
        #: None: between two lives.
        self.node: Node | None = None
        self.clock: VirtualClock

    @property
    def now(self) -> datetime:
        """To the millisecond: see SLACK."""
        now = self.clock.now()
        return when(now - now % SLACK)

    async def settle(self) -> None:
        """Returns when everything that can happen now has happened: no turn, commit or activity is under way.
        `TimeStandsStill` when that takes longer than the patience."""
        await self._settle(_never)

    async def advance(self, delta: timedelta, *, while_running: bool = False) -> None:
        """Moves time by so much, and has everything that is due on the way happen at its time. Activities that run are
        waited for before each move, unless `while_running`."""
        if delta < timedelta():
            raise ValueError("time goes only forward")
        async with self._moving:
            target = self.clock.now() + delta // timedelta(microseconds=1)
            while True:
                await self._settle(_never, while_running=while_running)
                stop = await self._next_stop()
                if stop is None or stop > target + SLACK:
                    break
                self.clock.move(stop)
            self.clock.move(target)
            await self._settle(_never, while_running=while_running)

    async def until(
        self,
        wanted: Awaitable[T],
        what: Callable[[], str],
        timeout: float | None = None,  # noqa: ASYNC109 - of virtual time
    ) -> T:
        """What `wanted` comes to, with time moved from one thing that is due to the next until it does. `what` says
        in words what it is. `DeadlineExceeded` after `timeout` seconds of virtual time; `TimeStandsStill`."""
        task = asyncio.ensure_future(wanted)
        try:
            deadline = None if timeout is None else self.clock.now() + int(timeout * 1e6)
            began = time.monotonic()
            while not task.done():
                async with self._moving:
                    moved = await self._step(task, deadline, what)
                if moved:
                    began = time.monotonic()
                elif not task.done():
                    if self._alone or time.monotonic() - began > self._patience:
                        raise TimeStandsStill(f"{what()}, and nothing is left that time would bring")
                    await asyncio.sleep(PAUSE)
            return task.result()
        finally:
            task.cancel()

    async def _step(self, task: asyncio.Future[T], deadline: int | None, what: Callable[[], str]) -> bool:
        """Moves time once; False when there is nothing to move to."""
        await self._settle(task.done)
        if task.done():
            return True
        stop = await self._next_stop()
        if deadline is not None and (stop is None or stop > deadline):
            self.clock.move(deadline)
            await self._settle(task.done)
            if not task.done():
                raise DeadlineExceeded(f"{what()}, by {when(deadline).isoformat()}")
            return True
        if stop is None or task.done():
            return False
        self.clock.move(stop)
        return True

    # --- what goes on ------------------------------------------------------------------------------------------------

    async def _settle(self, enough: Callable[[], bool], *, while_running: bool = False) -> None:
        began, passes, quiet, seen = time.monotonic(), 0, 0, -1
        while quiet < PASSES and not enough():
            passes += 1
            await asyncio.sleep(0 if passes < EAGER or quiet else PAUSE)
            stirs = self.clock.stirs
            quiet = quiet + 1 if stirs == seen and not self._busy(while_running) else 0
            seen = stirs
            if time.monotonic() - began > self._patience:
                raise TimeStandsStill(
                    f"{self._under_way()} for {self._patience:g} real seconds, and time does not go on meanwhile"
                )

    def _busy(self, while_running: bool) -> bool:
        node = self.node
        if node is None or self.clock.prompt:
            return True
        runtime = node.runtime
        host, activities = runtime.host, runtime.engine.activities
        if while_running:
            if self.clock.awake > activities.running:
                return True
        elif self.clock.awake or activities.known:
            return True
        return bool(
            host.busy
            or runtime.committer.pending
            or _reminding(host.reminders, self.clock.now())
            or runtime.engine.replay_check.checking
        )

    def _under_way(self) -> str:
        node = self.node
        if node is None:
            return "the node has not come back"
        requests = list(node.runtime.engine.activities.requests)
        if requests:
            first = requests[0]
            more = f" (and {len(requests) - 1} more)" if len(requests) > 1 else ""
            return f"activity {first.name!r} of instance {first.instance_id!r}{more} has been running"
        turns = [a.actor for a in node.runtime.host.activations.values() if a.phase is Phase.TURN]
        return f"{turns[0]} has been in a turn" if turns else "the node has been busy"

    async def _next_stop(self) -> int | None:
        """When the next thing is due that nobody has to do anything for."""
        stops = [stop for stop in (self.clock.next_stop, await self._next_reminder()) if stop is not None]
        return min(stops, default=None)

    async def _next_reminder(self) -> int | None:
        """Of those that are not due yet: one that is due has been tried, and is tried again by the clock."""
        node = self.node
        assert node is not None
        now, cursor = self.clock.now(), None
        held = list(node.runtime.host.owned)
        while held:
            page = await node.store.due(held, _NEVER, cursor, 100)
            later: Reminder | None = next((one for one in page.items if one.due > now), None)
            if later is not None:
                return later.due
            cursor = page.cursor
            if cursor is None:
                return None
        return None

    def waits(self, instance_id: str) -> str:
        """What this instance waits for, as far as its code is in memory."""
        node = self.node
        if node is None:
            return ""
        engine = node.runtime.engine
        activation = engine.host.activations.get(engine.actor(instance_id))
        behaviour = activation.behaviour if activation is not None else None
        if not isinstance(behaviour, WorkflowBehaviour) or behaviour.instance is None:
            return ""
        if behaviour.instance.meta.reason:
            return f": it is {behaviour.instance.meta.status}: {behaviour.instance.meta.reason}"
        run = behaviour.run
        return f": it waits for {', '.join(run.waiting_for())}" if run is not None else ""


def _never() -> bool:
    return False
