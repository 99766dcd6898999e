"""State stores: the contract and its backends. Knows nothing of actors, placement or workflows.

contract (what every store promises) · memory, sqlite (the stores) · urls (`open_store`) · committer (group commit)
"""

from perdure.statestore.committer import Committer
from perdure.statestore.contract import (
    COMMITTED,
    DEFAULT_PARTITIONS,
    FORMAT_VERSION,
    SNAPSHOT_LIMIT,
    ActorId,
    Commit,
    CommitResult,
    Committed,
    Conflict,
    Fence,
    Fenced,
    InstanceFilter,
    InstanceRow,
    Lease,
    Page,
    Refused,
    Rejected,
    Reminder,
    Settings,
    Snapshot,
    StateStore,
    Taken,
    TypePartition,
)
from perdure.statestore.memory import MemoryStore
from perdure.statestore.urls import open_store

__all__ = [
    "COMMITTED",
    "DEFAULT_PARTITIONS",
    "FORMAT_VERSION",
    "SNAPSHOT_LIMIT",
    "ActorId",
    "Commit",
    "CommitResult",
    "Committed",
    "Committer",
    "Conflict",
    "Fence",
    "Fenced",
    "InstanceFilter",
    "InstanceRow",
    "Lease",
    "MemoryStore",
    "Page",
    "Refused",
    "Rejected",
    "Reminder",
    "Settings",
    "Snapshot",
    "StateStore",
    "Taken",
    "TypePartition",
    "open_store",
]
