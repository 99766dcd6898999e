"""Where activities run: what nodes ask each other about requests that a partition's owner may not remember."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.actors.questions import NodeQuestions
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, TypePartition
from perdure.workflow.requests import ActivityRequest

if TYPE_CHECKING:
    from perdure.workflow.engine import WorkflowEngine

#: The names of the questions.
OF_PARTITIONS = "activities-of"
UNKNOWN = "activities-unknown"


class Request(NamedTuple):
    """One activity request, as its history event names it."""

    type: str
    instance_id: str
    execution_id: str
    task_id: int
    nonce: bytes

    @property
    def actor(self) -> ActorId:
        return ActorId(self.type, self.instance_id)


class ActivitiesOf(msgspec.Struct, frozen=True, tag=True):
    """Which requests of instances in these partitions do you know? Asked by their new owner."""

    actor_type: str
    partitions: list[int]


class KnownActivities(msgspec.Struct, frozen=True, tag=True):
    """These: they are queued here, run here, or have ended without an acknowledged answer."""

    requests: list[Request]


class WhichUnknown(msgspec.Struct, frozen=True, tag=True):
    """Which of these requests, that you have acknowledged, do you not know any more?"""

    requests: list[Request]


class UnknownActivities(msgspec.Struct, frozen=True, tag=True):
    """These, by their places in the question: their answers were acknowledged, or they are lost."""

    places: list[int]


class Whereabouts:
    """One per engine: answers such questions of other nodes, and asks them."""

    def __init__(self, engine: WorkflowEngine, questions: NodeQuestions) -> None:
        self._engine = engine
        self._questions = questions
        questions.register(OF_PARTITIONS, self._asked_of)
        questions.register(UNKNOWN, self._asked_unknown)

    # --- answering -----------------------------------------------------------------------------------------------------

    async def _asked_of(self, question: ActivitiesOf) -> KnownActivities:
        return KnownActivities(self._known_here(question.actor_type, set(question.partitions)))

    def _known_here(self, kind: str, partitions: Collection[int]) -> list[Request]:
        count = self._engine.host.partitions
        return [
            named(request)
            for request in self._engine.activities.requests
            if request.actor_type == kind and partition_of(request.instance_id, count) in partitions
        ]

    async def _asked_unknown(self, question: WhichUnknown) -> UnknownActivities:
        knows = self._engine.activities.knows
        return UnknownActivities(
            [
                place
                for place, request in enumerate(question.requests)
                if not knows(request.execution_id, request.task_id, request.nonce)
            ]
        )

    # --- asking --------------------------------------------------------------------------------------------------------

    async def of(self, taken: Sequence[TypePartition]) -> list[tuple[Request, str]]:
        """What is known anywhere of requests of these partitions, which are of one type, with the node that knows it.
        A node that does not answer in time counts as one that knows nothing."""
        engine = self._engine
        kind, partitions = taken[0].type, [key.partition for key in taken]
        found = [(request, engine.node) for request in self._known_here(kind, set(partitions))]
        others = [node for node in engine.locator.nodes() if node != engine.node]
        question = ActivitiesOf(kind, partitions)
        asking = [engine.clock.spawn(self._questions.ask(node, OF_PARTITIONS, question)) for node in others]
        if asking:
            await asyncio.wait(asking)
        for node, task in zip(others, asking, strict=True):
            answer = task.result()
            if isinstance(answer, KnownActivities):
                found += [(request, node) for request in answer.requests]
        return found

    async def unknown(self, node: str, requests: Sequence[ActivityRequest]) -> Iterable[ActivityRequest]:
        """Those that the node has acknowledged and does not know any more; none when it does not answer."""
        question = WhichUnknown([named(request) for request in requests])
        answer = await self._questions.ask(node, UNKNOWN, question)
        if not isinstance(answer, UnknownActivities):
            return []
        return [requests[place] for place in answer.places if place < len(requests)]


def named(request: ActivityRequest) -> Request:
    return Request(
        request.actor_type, request.instance_id, request.execution_id, request.task_id, request.nonce
    )
