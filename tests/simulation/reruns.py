"""Finished instances that clients run again, from the start or from what their code once asked for."""

from __future__ import annotations

import random

from perdure.errors import AlreadyExists, Unavailable
from perdure.workflow.events import ChildScheduled, TaskScheduled, TimerCreated
from tests.simulation.kept import Rerun
from tests.simulation.node import NodeLost
from tests.simulation.programs import Maker, Op, detached_of
from tests.simulation.stories import PausedStory, Story, TerminatedStory
from tests.simulation.world import World


class Again(Story):
    """A run of what another story has finished. One or two clients ask for it, each until it has an answer."""

    def __init__(self, first: Story, number: int) -> None:
        super().__init__(first.world, f"{first.id}-again{number}", first.ops)
        self.first = first
        self._tries = 0

    async def run(self) -> None:
        shadow, checker = self.first.shadow, self.world.checker
        assert shadow is not None
        asked = TaskScheduled | ChildScheduled | TimerCreated
        end = shadow.history[-1].at
        points = [n for n, event in enumerate(shadow.history) if isinstance(event, asked) and event.at < end]
        point = self.rng.choice(points) if points and self.rng.random() < 0.85 else None
        checker.reruns[self.actor] = Rerun(self.first.actor, point)
        clients = [self.world.spawn(self._ask_for_it(point)) for _ in range(self.rng.choice([1, 1, 2]))]
        for client in clients:
            await client
        there = (shadow := self.shadow) is not None and not shadow.purged
        checker.require(there, "run again, and not there", self.id)
        await self.raise_events()
        await self.request(lambda c: c.wait_for_workflow_completion(self.id))

    async def _ask_for_it(self, point: int | None) -> None:
        while True:
            nodes = self.world.living()
            if not nodes:
                await self.world.sleep(0.1)
                continue
            self._tries += 1
            try:
                await self._ask(
                    self.rng.choice(nodes),
                    lambda c: c.rerun_workflow(self.first.id, from_event=point, new_instance_id=self.id),
                )
            except (NodeLost, Unavailable):
                await self.world.sleep(0.05)
            except AlreadyExists:
                self.world.checker.require(self._tries > 1, "refused what nobody else asked for", self.id)
                return
            else:
                return


class RunAgain(Story):
    """It ends, and is run again, at once or one after the other."""

    async def run(self) -> None:
        await super().run()
        await self.request(lambda c: c.wait_for_workflow_completion(self.id))
        self._agains = [Again(self, number) for number in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.5:
            tasks = [self.world.spawn(again.run()) for again in self._agains]
            for task in tasks:
                await task
        else:
            for again in self._agains:
                await again.run()

    def check(self) -> None:
        super().check()
        for again in self._agains:
            again.check()


class PausedRunAgain(RunAgain, PausedStory):
    """What is run again has been paused; the new one is not."""


class TerminatedRunAgain(RunAgain, TerminatedStory):
    """Terminated on its way, it comes to its end when it is run again."""


def stories(world: World, count: int) -> list[Story]:
    rng = random.Random(f"{world.seed}-reruns")
    maker = Maker(rng)
    kinds: list[type[Story]] = [RunAgain, RunAgain, PausedRunAgain, TerminatedRunAgain]
    return [rng.choice(kinds)(world, f"i{number}", _program(maker)) for number in range(count)]


def _program(maker: Maker) -> list[Op]:
    """Without detached ones: those of a second run are to have the ids that those of the first have."""
    while True:
        ops = maker.program(size=5)
        if not list(detached_of(ops)):
            return ops
