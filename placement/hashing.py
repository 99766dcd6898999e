"""Which partition an actor is in, and how nodes rank for it: pure functions whose values never change.

What is stored, and what nodes of different releases agree on, follows from these values; golden vectors in the tests
hold them in place.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from hashlib import blake2b, shake_128

from perdure.statestore.partitions import partition_of

__all__ = ["partition_of", "ranked", "score", "scores", "upper_bytes"]


def scores(node: str, actor_type: str, partitions: int) -> array[int]:
    """A node's rendezvous score for each partition of a type; the highest ranks first.

    One extendable digest gives a whole row, so that ranking 1,000 nodes costs 1,000 calls, not one per partition;
    and a score does not depend on how many partitions there are.
    """
    row = array("I")
    row.frombytes(shake_128(f"{actor_type}\0{node}".encode()).digest(4 * partitions))
    if sys.byteorder == "big":
        row.byteswap()
    return row


def upper_bytes(row: array[int]) -> bytes:
    """The most significant byte of each score."""
    data = row.tobytes()
    return data[3::4] if sys.byteorder == "little" else data[::4]


def score(node: str, actor_type: str, partition: int) -> int:
    """A node's rendezvous score for one partition of a type."""
    return scores(node, actor_type, partition + 1)[partition]


def ranked(nodes: Iterable[str], key: str) -> list[str]:
    """The nodes in rendezvous order for a key of any kind (an activity's id), first choice first.

    A node that comes or goes leaves the order of the others as it is.
    """
    data = key.encode()

    def rank(node: str) -> tuple[bytes, str]:
        return blake2b(data + b"\0" + node.encode(), digest_size=8).digest(), node

    return sorted(nodes, key=rank, reverse=True)
