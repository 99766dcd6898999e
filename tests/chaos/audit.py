"""Who committed what: each node writes down every commit that the store acknowledged to it."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from perdure.statestore.contract import ActorId, Commit, CommitResult, Committed

#: A digest of the actor, its version before (0: it did not exist) and after, each by its first 8 bytes, the fence.
_RECORD = struct.Struct("<8s8s8sQI")
_NOTHING = bytes(8)


class AuditedStore:
    """A store that keeps the record of one node, in a file that survives the process."""

    def __init__(self, store: Any, folder: Path, name: str) -> None:
        self._store = store
        path = folder / f"{name}.{os.getpid()}.audit"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._digests: dict[ActorId, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: Sequence[Commit]) -> Sequence[CommitResult]:
        results: Sequence[CommitResult] = await self._store.commit(batch)
        os.write(
            self._file,
            b"".join(
                self._record(commit)
                for commit, result in zip(batch, results, strict=True)
                if type(result) is Committed
            ),
        )
        return results

    def _record(self, commit: Commit) -> bytes:
        before = _NOTHING if commit.expected is None else commit.expected[:8]
        term, epoch = commit.fence
        return _RECORD.pack(_digest(commit.actor), before, commit.version[:8], term, epoch)


def _digest(actor: ActorId) -> bytes:
    return hashlib.blake2b(str(actor).encode(), digest_size=8).digest()


class Forks:
    """What the records of all nodes say together."""

    def __init__(self) -> None:
        self.commits = 0
        #: Two commits that both built on one version: the sign of two writers.
        self.found: list[str] = []


def forks(folder: Path) -> Forks:
    """Reads all records. A version has one successor, whoever wrote it; and no successor of a version is of an older
    fence than the version itself."""
    answer = Forks()
    after: dict[bytes, tuple[bytes, int, int]] = {}
    fences: dict[bytes, tuple[int, int]] = {}
    records = list(_read(folder))
    for actor, before, version, term, epoch in records:
        answer.commits += 1
        fences[actor + version] = (term, epoch)
        if before == _NOTHING:
            continue  # an actor may be removed and made again
        known = after.setdefault(actor + before, (version, term, epoch))
        if known[0] != version:
            answer.found.append(
                f"two commits of actor {actor.hex()} on version {before.hex()}: {known[0].hex()} under "
                f"({known[1]}, {known[2]}), {version.hex()} under ({term}, {epoch})"
            )
    for actor, before, version, term, epoch in records:
        if fences.get(actor + before, (0, 0)) > (term, epoch):
            answer.found.append(
                f"actor {actor.hex()} has version {version.hex()} under an older fence than before"
            )
    return answer


def _read(folder: Path) -> Iterable[tuple[bytes, bytes, bytes, int, int]]:
    for path in sorted(folder.glob("*.audit")):
        data = path.read_bytes()
        # A killed process may leave a part of a record.
        yield from _RECORD.iter_unpack(data[: len(data) - len(data) % _RECORD.size])
