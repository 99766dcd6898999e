"""What a replica of the placement service tells a monitoring system."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from perdure.placement.observer import Observer
from perdure.placement.table import Table, diff


class Leading(Protocol):
    """What is needed of a `PlacementLeader`."""

    @property
    def leading(self) -> bool: ...
    @property
    def term(self) -> int | None: ...
    @property
    def table(self) -> Table | None: ...


class PlacementMetrics(Observer):
    """In a registry of its own: a process may have other metrics besides."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._leading = Gauge(
            "perdure_placement_leading", "Whether this replica leads: 1 or 0.", registry=registry
        )
        self._term = Gauge("perdure_placement_term", "The leader's term; 0 on a standby.", registry=registry)
        self._epoch = Gauge(
            "perdure_placement_epoch",
            "The number of the leader's newest table; 0 on a standby.",
            registry=registry,
        )
        self._members = Gauge(
            "perdure_placement_members",
            "Nodes in the leader's newest table; 0 on a standby.",
            registry=registry,
        )
        self._tables = Counter("perdure_placement_tables", "Tables published.", registry=registry)
        self._moved = Counter(
            "perdure_placement_moved_partitions", "Partitions that changed their owner.", registry=registry
        )
        self._gone = Counter(
            "perdure_placement_gone",
            "Nodes taken out: left, closed (link), silent, absent (after a change of leader), replaced, aside.",
            ["reason"],
            registry=registry,
        )
        self._refused = Counter("perdure_placement_refused", "Hellos refused.", registry=registry)
        self._heartbeats = Counter("perdure_placement_heartbeats", "Heartbeats received.", registry=registry)
        self._seconds = Histogram(
            "perdure_placement_store_seconds",
            "Time until the store had a new table.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
            registry=registry,
        )

    def stored(self, before: Table | None, table: Table, seconds: float) -> None:
        self._tables.inc()
        self._seconds.observe(seconds)
        if before is not None:
            self._moved.inc(sum(move.before not in (None, move.after) for move in diff(before, table)))

    def gone(self, reason: str) -> None:
        self._gone.labels(reason).inc()

    def heard(self) -> None:
        self._heartbeats.inc()

    def refused(self) -> None:
        self._refused.inc()

    def page(self, leader: Leading) -> bytes:
        """All of it now, in Prometheus' text format."""
        table = leader.table
        self._leading.set(leader.leading)
        self._term.set(leader.term or 0)
        self._epoch.set(table.epoch if table is not None else 0)
        self._members.set(len(table.members) if table is not None else 0)
        return generate_latest(self._registry)
