"""The checks of a fault run find what they are there for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from perdure.statestore import ActorId, Commit, CommitResult, Fence, MemoryStore, TypePartition
from perdure.workflow.events import (
    Event,
    ExecutionCompleted,
    ExecutionStarted,
    TaskCompleted,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from tests.chaos.audit import AuditedStore, forks
from tests.chaos.check import Findings, check, problems
from tests.chaos.load import Load, Told

STARTED = ExecutionStarted(at=1, name="walk", start_id="s", execution_id="s")
ASKED = TaskScheduled(at=1, id=0, name="step", nonce=b"n", key="k")
DONE = TaskCompleted(at=2, id=0)
ENDED = ExecutionCompleted(at=3, status="completed")
GOOD: list[Event] = [STARTED, ASKED, DONE, ENDED]


@pytest.mark.parametrize(
    ("history", "numbers", "said"),
    [
        (GOOD, [0, 1, 2, 4], "gaps"),
        (GOOD[1:], range(3), "does not begin with a start"),
        (GOOD[:-1], range(3), "does not end with a completion"),
        ([STARTED, ASKED, ASKED, DONE, ENDED], range(5), "scheduled twice"),
        ([STARTED, ASKED, DONE, DONE, ENDED], range(5), "ended twice"),
        ([STARTED, DONE, ENDED], range(3), "without having been scheduled"),
        ([STARTED, ENDED, DONE], range(3), "does not end"),
        (
            [STARTED, TimerCreated(at=5, id=1, fire_at=9), TimerFired(at=4, id=1), ENDED],
            range(4),
            "time goes back",
        ),
    ],
)
def test_a_bad_history(history: Sequence[Event], numbers: Sequence[int], said: str) -> None:
    assert problems(GOOD, range(4)) == []
    assert any(said in problem for problem in problems(history, list(numbers)))


class Forgetful(MemoryStore):
    """Looks at no version."""

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        blind = []
        for commit in batch:
            record = self.actors.get(commit.actor)
            blind.append(msgspec.structs.replace(commit, expected=record.version if record else None))
        return await super().commit(blind)


ACTOR = ActorId("T", "a")


async def written(folder: Path, *versions: tuple[bytes | None, bytes, Fence]) -> list[str]:
    """What the records say of these commits, each by a node of its own."""
    for number, (before, after, fence) in enumerate(versions):
        inner = Forgetful()
        await inner.take([TypePartition("T", 0)], fence)
        store = AuditedStore(inner, folder, f"n{number}")
        commit = Commit(ACTOR, 0, fence, before, after, {"key": b"value"})
        # The record is of what the node meant to build on.
        result = await store.commit([commit])
        assert len(result) == 1
        os.close(store._file)
    return forks(folder).found


V = [bytes([n + 1]) * 16 for n in range(4)]


async def test_two_writers_are_seen(tmp_path: Path) -> None:
    one, two = Fence(1, 1), Fence(1, 2)
    (tmp_path / "good").mkdir()
    assert await written(tmp_path / "good", (None, V[0], one), (V[0], V[1], one), (V[1], V[2], two)) == []
    (tmp_path / "bad").mkdir()
    (found,) = await written(tmp_path / "bad", (None, V[0], one), (V[0], V[1], one), (V[0], V[2], two))
    assert found.startswith("two commits of actor")
    (tmp_path / "old").mkdir()
    (found,) = await written(tmp_path / "old", (None, V[0], two), (V[0], V[1], one))
    assert "under an older fence" in found


class Answers(Load):
    """Nodes that give these answers."""

    def __init__(self, answers: dict[str, object]) -> None:
        super().__init__(list, 0)
        self._answers = answers

    async def ask(
        self, method: str, path: str, body: object = None, *, url: str | None = None
    ) -> tuple[int, object]:
        return (200, self._answers[path]) if path in self._answers else (404, None)


def told(**changes: object) -> Told:
    known = Told({"steps": 1})
    known.started = known.complete = True
    known.acknowledged = ["w-0", "end"]
    for name, value in changes.items():
        setattr(known, name, value)
    return known


def completed(output: str) -> dict[str, object]:
    return {"runtimeStatus": "COMPLETED", "properties": {"dapr.workflow.output": output}}


async def found(answer: object, known: Told) -> Findings:
    load = Answers({"/v1.0/workflows/dapr/w": answer} if answer else {})
    load.instances["w"] = known
    return await check(load, MemoryStore(partitions=4), settle=0.1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "not completed: None"),
        ({"runtimeStatus": "FAILED"}, "is not completed"),
        (completed('{"done": 2, "seen": ["w-0", "end"]}'), "2 steps counted, not 1"),
        (completed('{"done": 1, "seen": ["end"]}'), "the acknowledged event w-0 was seen 0 times"),
        (
            completed('{"done": 1, "seen": ["w-0", "w-0", "end"]}'),
            "the acknowledged event w-0 was seen 2 times",
        ),
    ],
)
async def test_what_was_acknowledged_and_is_not_there(answer: object, said: str) -> None:
    assert any(said in wrong for wrong in (await found(answer, told())).wrong)


async def test_an_event_of_unknown_outcome_may_come_twice() -> None:
    known = told()
    known.unknown["w-0"] += 1
    answer = completed('{"done": 1, "seen": ["w-0", "w-0", "end"]}')
    # (The history, of which this store has none, is another matter.)
    assert not any("was seen" in wrong for wrong in (await found(answer, known)).wrong)


async def test_a_counter_that_forgot() -> None:
    for value, right in ((4, False), (5, True), (7, True), (8, False)):
        load = Answers({"/v1.0/actors/Counter/c/method/value": value})
        load.counted["c"], load.uncertain["c"] = 5, 2
        wrong = (await check(load, MemoryStore(partitions=4))).wrong
        assert (wrong == []) is right, wrong
