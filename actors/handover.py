"""What nodes say to each other when partitions change hands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from perdure.statestore.contract import Fence, TypePartition

#: The name of the question.
RELEASE = "release"
#: Seconds for which the former owner is asked in all.
ASK_FOR = 1.0
#: Seconds that it may take for its first answer: most partitions have nothing under way. Doubled each time.
FIRST_ANSWER = 0.05


class Group(NamedTuple):
    """Partitions of one type that are taken by one table."""

    type: str
    term: int
    epoch: int
    partitions: list[int]


class Release(msgspec.Struct, frozen=True, tag=True):
    """A newer table gives me these: serve them no more, and say so when what is under way there has ended."""

    groups: list[Group]
    #: Seconds after which to answer with those that are done by then.
    patience: float


class Released(msgspec.Struct, frozen=True, tag=True):
    """These are served here no more, nothing is under way there, and no older table brings them back. Others still
    have something under way, or were taken by a table that is not older than the one that the question is about."""

    groups: list[Group]


def groups(keys: Mapping[TypePartition, Fence]) -> list[Group]:
    """The partitions, each with the fence by which it is taken, as they are sent."""
    found: dict[tuple[str, Fence], list[int]] = {}
    for (kind, partition), fence in keys.items():
        found.setdefault((kind, fence), []).append(partition)
    return [Group(kind, *fence, partitions) for (kind, fence), partitions in found.items()]


def keys(groups: Iterable[Group]) -> dict[TypePartition, Fence]:
    """The opposite of `groups`."""
    return {
        TypePartition(group.type, partition): Fence(group.term, group.epoch)
        for group in groups
        for partition in group.partitions
    }
