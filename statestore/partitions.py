"""Which partition an actor is in. What is stored follows from it, so its values never change."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b


# As many ids as a busy node has in flight.
@lru_cache(8192)
def partition_of(actor_id: str, partitions: int) -> int:
    """The partition of an actor id, the same for every actor type: 0 to `partitions` - 1."""
    return int.from_bytes(blake2b(actor_id.encode(), digest_size=8).digest(), "big") % partitions
