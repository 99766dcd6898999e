"""An actor that counts has counted exactly what was acknowledged, whatever happens to its node meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.actors.actor import Actor
from perdure.errors import ActorMethodFailed, PerdureError, StoreError, StoreUnavailable

EVENTS = ["evict", "lose", "steal", "deaf", "refuse", "crash", "time", "spin"]
IDS = ["a", "b"]


class Tally(Actor):
    async def on_activate(self) -> None:
        self.mine = await self.state.get("n", int, default=0)

    async def add(self, how: str) -> int:
        count = await self.state.get("n", int, default=0)
        assert count == self.mine, "attributes show what is not stored"
        self.mine += 1
        self.state.set("n", self.mine)
        if how == "save":
            await self.state.save()
        if how == "wait":
            await asyncio.sleep(0)
        if how == "fail":
            raise ValueError("no")
        return self.mine

    async def read(self) -> int:
        return await self.state.get("n", int, default=0)


class Story:
    def __init__(self, make: Any, store: Any) -> None:
        self.make = make
        self.store = store
        self.rig: Any = None
        self.calls: list[tuple[str, str, asyncio.Task[int]]] = []
        self.trouble: list[Exception] = []
        store.on_commit = self._disturb

    def _disturb(self, batch: Any) -> None:
        if self.trouble:
            raise self.trouble.pop()

    def call(self, actor_id: str, how: str) -> None:
        task = asyncio.ensure_future(self.rig.actor(Tally, actor_id, timeout=30).add(how))
        self.calls.append((actor_id, how, task))

    async def happen(self, event: str) -> None:
        rig = self.rig
        if event == "evict":
            for activation in list(rig.host.activations.values()):
                rig.host.evict(activation)
        elif event == "lose":
            rig.lose()
            await rig.own()
        elif event == "steal":
            # Another owner raises the fence; this node learns of it by its next commit.
            other = await self.make(Tally, on=self.store)
            await other.actor(Tally, "a", timeout=1).read()
            await other.crash()
            await rig.spin(3)
            rig.lose()
            await rig.own()
        elif event == "deaf":
            self.trouble.append(StoreUnavailable())
        elif event == "refuse":
            self.trouble.append(StoreError("refused"))
        elif event == "crash":
            await rig.crash()
            self.rig = await self.make(Tally, on=self.store)
        elif event == "time":
            await rig.clock.advance(1, lambda: rig.spin(5))
        else:
            await rig.spin(2)

    async def settle(self) -> dict[str, tuple[int, int]]:
        """Per actor: how many calls surely counted, and how many may have."""
        self.trouble.clear()
        for _ in range(100):
            await self.rig.clock.advance(1, lambda: self.rig.spin(5))
        counted = dict.fromkeys(IDS, (0, 0))
        for actor_id, how, task in self.calls:
            sure, may = counted[actor_id]
            kind = _outcome(how, task)
            counted[actor_id] = (sure + (kind == "sure"), may + (kind in ("sure", "may")))
        return counted


def _outcome(how: str, task: asyncio.Task[int]) -> str:
    if not task.done():
        task.cancel()
        return "may"  # its node died with it
    error = task.exception()
    if error is None:
        return "sure"
    assert isinstance(error, PerdureError), error
    if how == "save" or not isinstance(error, ActorMethodFailed | StoreError):
        return "may"
    return "not"


steps = st.one_of(
    st.tuples(st.sampled_from(IDS), st.sampled_from(["plain", "wait", "save", "fail"])),
    st.sampled_from(EVENTS),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=st.lists(steps, max_size=25))
def test_what_is_acknowledged_is_counted(story: list[Any], new_store: Any, rig_class: Any) -> None:
    asyncio.run(_tell(story, new_store(), rig_class))


async def _tell(steps: list[Any], store: Any, rig_class: Any) -> None:
    rigs: list[Any] = []

    async def make(*classes: Any, on: Any) -> Any:
        rig = rig_class(on, classes, time=rigs[-1].clock.time if rigs else 0.0)
        rigs.append(rig)
        return await rig.start()

    tale = Story(make, store)
    tale.rig = await make(Tally, on=store)
    for step in steps:
        if isinstance(step, tuple):
            tale.call(*step)
        else:
            await tale.happen(step)
    counted = await tale.settle()
    for actor_id, (sure, may) in counted.items():
        count = await tale.rig.actor(Tally, actor_id).read()
        assert sure <= count <= may, (actor_id, sure, count, may)
    if not any(step in ("crash", "steal") for step in steps) and not any("save" in step for step in steps):
        assert all(sure == may for sure, may in counted.values())
    for rig in rigs:
        await rig.stop()
