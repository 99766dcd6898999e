"""An instance is imported by one node while its owner dies."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.errors import PerdureError
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import Commit
from perdure.workflow.record import Record
from perdure.workflow.state import RuntimeStatus
from tests.simulation.directed import owner, play, until
from tests.simulation.node import SimNode
from tests.simulation.world import World

OPS = b'{"ops": [["act", 1], ["event", "go"], ["timer", 0.05], ["act", 2]], "out": []}'
GO = b'{"t": "i:go:1", "v": "value of go"}'

#: Of the checker, what compares commits with the story of an instance: to it, one that comes from outside has none.
_STORY = ("committed", "acknowledged", "trusted", "sending", "taken", "began", "turn_began")


def blind(world: World) -> list[Commit]:
    """The checker looks at nothing; what was committed since."""
    commits: list[Commit] = []
    for name in _STORY:
        setattr(world.checker, name, lambda *_: None)
    world.checker.deliver = lambda process, message: message  # type: ignore[method-assign]
    world.checker.committed = lambda process, commit: commits.append(commit)  # type: ignore[method-assign]
    world.ledger._began = world.ledger._turn_began = lambda *_: None
    return commits


def places(world: World, node: SimNode) -> tuple[SimNode, SimNode]:
    """The owner of the instance, and another node."""
    key = (node.runtime.engine.name, partition_of("i", world.partitions))
    mine = owner(world, *key)
    assert mine is not None
    other = next(each for each in world.living() if each is not mine)
    return mine, other


async def exported(world: World, node: SimNode) -> Record:
    """An instance that waits for an event, and is then gone."""
    await node.ask(lambda c: c._workflows.start("program", OPS, "i"))
    actor = node.runtime.engine.actor("i")
    await until(world, lambda: (found := world.server.memory.actors.get(actor)) and not found.recover)
    record: Record = await node.have(lambda: node.runtime.transfers.export("i"))
    await node.ask(lambda c: c.purge_workflow("i", force=True))
    assert record.status == RuntimeStatus.RUNNING
    return record


async def outcome(node: SimNode) -> Any:
    await node.ask(lambda c: c._workflows.raise_event("i", "go", GO))
    state = await node.ask(lambda c: c.wait_for_workflow_completion("i"))
    assert state.runtime_status is RuntimeStatus.COMPLETED
    return state.output


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    """What comes of it where nothing happens."""
    found = []

    async def body(world: World) -> None:
        blind(world)
        node = world.living()[0]
        await node.ask(lambda c: c._workflows.start("program", OPS, "i"))
        found.append(await outcome(node))

    play(body, nodes=1)
    return found[0]


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50])
@pytest.mark.parametrize("replace", [False, True])
def test_the_owner_dies_while_it_imports(milliseconds: int, replace: bool, undisturbed: Any) -> None:
    async def body(world: World) -> None:
        commits = blind(world)
        mine, other = places(world, world.living()[0])
        record = await exported(world, other)
        commits.clear()
        asked = world.spawn(other.have(lambda: other.runtime.transfers.restore(record, replace=replace)))
        await world.sleep(milliseconds / 1000)
        world.kill(mine)
        # It is asked again, and knows that it has done so if it has: it is no other one's instance.
        await asked
        imports = [
            one for one in commits if one.actor.id == "i" and one.clear_reminders and one.row is not None
        ]
        assert len(imports) == 1
        assert await outcome(other) == undisturbed

    play(body, nodes=3)


@pytest.mark.parametrize("milliseconds", [0, 2, 5, 10, 20])
def test_two_imports_at_once(milliseconds: int, undisturbed: Any) -> None:
    """One of them has the id; with the other nothing has happened."""

    async def body(world: World) -> None:
        blind(world)
        mine, other = places(world, world.living()[0])
        record = await exported(world, other)
        answers: list[str] = []

        async def put(node: SimNode) -> None:
            try:
                await node.have(lambda: node.runtime.transfers.restore(record))
                answers.append("imported")
            except PerdureError as error:
                answers.append(type(error).__name__)

        tasks = [world.spawn(put(mine))]
        await world.sleep(milliseconds / 1000)
        tasks.append(world.spawn(put(other)))
        for task in tasks:
            await task
        assert sorted(answers) == ["AlreadyExists", "imported"]
        assert await outcome(other) == undisturbed

    play(body, nodes=2)


def test_a_record_is_what_it_was_after_a_link() -> None:
    """Other nodes read it whole: bytes and reminders."""

    async def body(world: World) -> None:
        blind(world)
        mine, other = places(world, world.living()[0])
        record = await exported(world, mine)
        await other.have(lambda: other.runtime.transfers.restore(record))
        again: Record = await mine.have(lambda: mine.runtime.transfers.export("i"))
        left = {key: value for key, value in again.values.items() if key != "metadata"}
        assert left == {key: value for key, value in record.values.items() if key != "metadata"}
        assert again.reminders == record.reminders

    play(body, nodes=2)
