"""Names: under which keys of Redis a store keeps what. docs/state-format.md has the list for people."""

from __future__ import annotations

import re
from binascii import crc_hqx
from typing import NamedTuple

from perdure.errors import ConfigurationError
from perdure.statestore.contract import TypePartition

SLOTS = 16384
#: Fields of an actor's hash that are not its keys: a key is UTF-8, which has no such byte.
PRIVATE = b"\xff"
VERSION = b"\xffversion"

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Names(NamedTuple):
    """The names of one partition of one actor type, all in one slot. A prefix is completed by an actor's id."""

    slot: int
    actor: bytes
    sorted: bytes
    reminders: bytes
    fence: bytes
    owing: bytes
    rows: bytes
    instances: bytes
    due: bytes


class Layout:
    """The names of one store: one namespace of a server."""

    def __init__(self, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigurationError(
                f"namespace={namespace!r}: a namespace has 1 to 64 letters, digits, dots, hyphens and underscores"
            )
        self.namespace = namespace
        self._own = f"perdure:{{{namespace}}}#".encode()
        self.own_slot = slot(namespace.encode())
        self._names: dict[tuple[str, int], Names] = {}

    def own(self, name: str) -> bytes:
        """A key of the store itself, in the slot `own_slot`."""
        return self._own + name.encode()

    def names(self, type: str, partition: int) -> Names:
        found = self._names.get((type, partition))
        if found is None:
            if len(self._names) > 100_000:
                self._names.clear()  # Whoever asks for types that never were is not to fill the memory.
            found = self._names[type, partition] = self._made(TypePartition(type, partition))
        return found

    def partition_key(self, partition: int, name: str) -> tuple[int, bytes]:
        """A key beside those of all types of a partition, and its slot."""
        tag = f"{self.namespace}/{partition}"
        return slot(tag.encode()), f"perdure:{{{tag}}}#{name}".encode()

    def _made(self, held: TypePartition) -> Names:
        tag = f"{self.namespace}/{held.partition}".encode()
        # Without a bar in it a type cannot reach into the id: there is one way to take a name apart.
        kind = held.type.replace("%", "%25").replace("|", "%7C").encode()
        begin = b"perdure:{" + tag + b"}"
        return Names(
            slot(tag),
            begin + b":" + kind + b"||",
            begin + b"#sorted:" + kind + b"||",
            begin + b"#reminders:" + kind + b"||",
            begin + b"#fence:" + kind,
            begin + b"#owing:" + kind,
            begin + b"#rows:" + kind,
            begin + b"#instances:" + kind,
            begin + b"#due:" + kind,
        )


def slot(tag: bytes) -> int:
    """The slot in Redis Cluster of a key with this hash tag."""
    return crc_hqx(tag, 0) % SLOTS
