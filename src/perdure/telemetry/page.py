"""The page `/metrics`: what this node counts, and the nodes behind the same port."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from perdure.actors.ids import plain
from perdure.figures import release
from perdure.metrics import Family, Sample, gauge, merged, page
from perdure.runtime import Runtime
from perdure.telemetry.process import process
from perdure.workflow.limits import Queue

#: The name of the question that nodes behind one port ask each other.
METRICS = "metrics"
#: Seconds for which a node is waited for.
ANSWER_WITHIN = 1.0


class MetricsPage:
    """One per node: answers for it, and asks those that share its port."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        app_id: str,
        namespace: str,
        ready: Callable[[], bool],
        leading: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._common = {"app_id": app_id, "namespace": namespace}
        self._ready = ready
        self._leading = leading
        runtime.questions.register(METRICS, self._asked)

    async def page(self) -> bytes:
        """The node's metrics. Where several processes serve one port (`--nodes`), whichever is asked answers for all
        of them: each sample then has the label `node`."""
        siblings = self._siblings()
        own = await self._own()
        if not siblings:
            return page(own)
        node = self._runtime.placement.node
        asked = [other for other in siblings if other != node]
        answers = await asyncio.gather(*(self._families_of(other) for other in asked))
        pages = {node: own} | {
            other: families for other, families in zip(asked, answers, strict=True) if families is not None
        }
        up = [Sample({"node": other}, other in pages) for other in sorted({node, *asked})]
        about = "Whether the process of this node answered: those behind one port share a page."
        return page([*merged(pages, "node"), Family("perdure_node_up", "gauge", about, up)])

    def _siblings(self) -> list[str]:
        """The nodes that serve the same port, with this one; none where it serves it alone."""
        placement = self._runtime.placement
        url = placement.member.http
        if placement.table is None or not url:
            return []
        found = sorted(node for node, member in placement.table.members.items() if member.http == url)
        return found if len(found) > 1 else []

    async def _families_of(self, node: str) -> list[Family] | None:
        answer = await self._runtime.questions.ask(node, METRICS, None, ANSWER_WITHIN)
        try:
            return msgspec.convert(answer, list[Family])
        except msgspec.ValidationError:
            return None  # none in time, or of a release that says something else

    async def _asked(self, _: Any) -> Any:
        # As plain values, which every release can read.
        return msgspec.to_builtins(await self._own())

    async def _own(self) -> list[Family]:
        clock = self._runtime.clock
        began = clock.monotonic()
        await clock.sleep(0)
        lag = clock.monotonic() - began
        common = self._common
        return [
            *self._runtime.engine.monitor.families(common),
            *self._actors(),
            *self._queues(),
            *self._store(),
            *self._placement(),
            gauge("perdure_ready", "Whether the node serves: 1 or 0.", self._ready(), common),
            gauge("perdure_loop_lag_seconds", "What one round of the event loop took just now.", lag, common),
            gauge("perdure_build_info", "The release, as a label.", 1, {**common, "version": release()}),
            *process(),
        ]

    def _actors(self) -> Iterator[Family]:
        host, common = self._runtime.host, self._common
        live: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for actor, activation in host.activations.items():
            live[actor.type] += 1
            waiting[actor.type] += len(activation.mailbox)
        partitions = Counter(key.type for key in host.owned)
        yield self._by_type("perdure_activations", "Actors in memory.", live)
        yield self._by_type(
            "dapr_runtime_actor_pending_actor_calls", "Messages that wait for their actor's turn.", waiting
        )
        yield self._by_type("perdure_partitions", "Partitions that this node serves.", partitions)
        yield Family(
            "dapr_runtime_actor_reminders_fired_total",
            "counter",
            "Reminders and timers of workflows that were due.",
            host.reminders.fired.samples(common),
        )

    def _by_type(self, name: str, help: str, values: Mapping[str, int]) -> Family:
        samples = [
            Sample({**self._common, "actor_type": plain(kind)}, value)
            for kind, value in sorted(values.items())
        ]
        return Family(name, "gauge", help, samples)

    def _queues(self) -> Iterator[Family]:
        engine = self._runtime.engine
        queues = engine.queues()
        yield self._queued("perdure_activities", "activity_name", "Activities", queues["activities"])
        yield self._queued(
            "perdure_workflows", "workflow_name", "Instances of limited workflows", queues["workflows"]
        )

    def _queued(self, name: str, label: str, what: str, queues: Mapping[str, Queue]) -> Family:
        samples = [
            Sample({**self._common, label: of, "state": state}, value)
            for of, queue in sorted(queues.items())
            for state, value in (("running", queue.running), ("queued", queue.queued))
        ]
        return Family(name, "gauge", f"{what} that run or wait for room on this node.", samples)

    def _store(self) -> Iterator[Family]:
        committer, common = self._runtime.committer, self._common
        yield gauge(
            "perdure_store_available", "Whether the store answers: 1 or 0.", committer.trouble is None, common
        )
        yield gauge("perdure_commits_pending", "Commits that are not written yet.", committer.pending, common)
        yield Family(
            "perdure_store_write_seconds",
            "histogram",
            "Time until the store had a batch of commits.",
            committer.seconds.samples(common),
        )
        yield Family(
            "perdure_store_batch_commits",
            "histogram",
            "Commits in a batch.",
            committer.sizes.samples(common),
        )
        yield Family(
            "perdure_store_retries_total",
            "counter",
            "Batches that were tried again since the store gave no answer.",
            committer.retries.samples(common),
        )

    def _placement(self) -> Iterator[Family]:
        placement, common = self._runtime.placement, self._common
        table = placement.table
        leads = self._leading()
        yield gauge("perdure_placement_leading", "Whether this node runs placement: 1 or 0.", leads, common)
        if table is not None:
            members = len(table.members)
            yield gauge("perdure_placement_members", "Nodes in this node's newest table.", members, common)
            yield gauge("perdure_placement_term", "The term of that table.", table.term, common)
            yield gauge("perdure_placement_epoch", "The number of that table.", table.epoch, common)
