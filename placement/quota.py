"""How the partitions of one actor type are shared out: by weight, with the fewest moves, in rendezvous order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from perdure.placement.hashing import scores, upper_bytes

#: Scores above which not all of them are looked at.
_MANY = 500_000
#: Nodes per partition that are looked at first.
_TOPS = 8


class Balance:
    """Shares out one type's partitions. Made for one use: `keep` what is there, then `fill` the rest.

    A node's quota is its share rounded down, plus one for as many nodes as it takes to cover all partitions (the
    *extras*), never above the share rounded up.
    """

    def __init__(self, actor_type: str, weights: Mapping[str, int], partitions: int) -> None:
        total = sum(weights.values())
        self._type = actor_type
        self._partitions = partitions
        self._nodes = sorted(weights)
        self._floor = {node: partitions * weights[node] // total for node in self._nodes}
        #: Nodes whose share is not a whole number: these may have one more than their floor.
        self._uneven = {node for node in self._nodes if partitions * weights[node] % total}
        self._extras = partitions - sum(self._floor.values())
        self._load = dict.fromkeys(self._nodes, 0)
        self._owners: list[str | None] = [None] * partitions

    def keep(self, before: Sequence[str]) -> None:
        """Leaves with its owner of before whatever quotas allow; no other choice moves fewer."""
        held: dict[str, list[int]] = {node: [] for node in self._nodes}
        for partition, owner in enumerate(before):
            if owner in held:
                held[owner].append(partition)
        for node, kept in held.items():
            self._shed(node, kept, len(kept) - self._floor[node] - (node in self._uneven))
        self._shed_extras(held)
        for node, kept in held.items():
            self._load[node] = len(kept)
            for partition in kept:
                self._owners[partition] = node

    def _shed(self, node: str, kept: list[int], count: int) -> None:
        """Takes from a node the partitions for which it ranks lowest."""
        if count > 0:
            row = scores(node, self._type, self._partitions)
            kept.sort(key=lambda partition: row[partition], reverse=True)
            del kept[-count:]

    def _shed_extras(self, held: dict[str, list[int]]) -> None:
        """Where more nodes are above their floor than there are extras, others would miss their floor."""
        above = [node for node in self._nodes if len(held[node]) > self._floor[node]]
        surplus = len(above) - self._extras
        if surplus <= 0:
            return

        def weakest(node: str) -> int:
            row = scores(node, self._type, self._partitions)
            return min(row[partition] for partition in held[node])

        for node in sorted(above, key=weakest)[:surplus]:
            self._shed(node, held[node], 1)

    def fill(self) -> tuple[str, ...]:
        """The owner of every partition. Each free one goes to the node with room that ranks highest for it."""
        extras = self._extras - sum(self._load[node] > self._floor[node] for node in self._nodes)
        free = [partition for partition, owner in enumerate(self._owners) if owner is None]
        room = _Room(self._type, self._partitions, self._open(self._nodes, extras), len(free))
        for partition in free:
            node = room.best(partition)
            self._owners[partition] = node
            load = self._load[node] = self._load[node] + 1
            if load > self._floor[node]:
                extras -= 1
                room.close(node)
                if extras == 0:
                    room.keep_only(self._open(room.nodes, 0))
            elif load == self._floor[node] and not (extras and node in self._uneven):
                room.close(node)
        return tuple([owner for owner in self._owners if owner is not None])

    def _open(self, nodes: Iterable[str], extras: int) -> list[str]:
        return [
            node
            for node in nodes
            if self._load[node] < self._floor[node] + (1 if extras and node in self._uneven else 0)
        ]


class _Room:
    """The nodes that can still take a partition; in order of their names, so that equal scores are settled alike
    everywhere."""

    def __init__(self, actor_type: str, partitions: int, nodes: list[str], free: int) -> None:
        """`free`: how many partitions are to be given out."""
        self.nodes = nodes
        self._rows = {node: scores(node, actor_type, partitions) for node in nodes}
        self._top: list[list[tuple[int, int, str]]] | None = None
        if len(nodes) * free > _MANY:
            self._top = self._tops(partitions)

    def _tops(self, partitions: int) -> list[list[tuple[int, int, str]]]:
        """Per partition, the nodes that score highest for it, best first: all whose score's upper byte is above a
        bound that a few dozen pass. Looking at every score of every node would take seconds."""
        tops: list[list[tuple[int, int, str]]] = [[] for _ in range(partitions)]
        count = min(256, max(1, 256 * _TOPS // len(self.nodes)))
        marks = bytes(256 - count) + b"\1" * count
        for number, node in enumerate(self.nodes):
            row = self._rows[node]
            marked = upper_bytes(row).translate(marks)
            partition = marked.find(1)
            while partition >= 0:
                tops[partition].append((-row[partition], number, node))
                partition = marked.find(1, partition + 1)
        for top in tops:
            top.sort()
        return tops

    def best(self, partition: int) -> str:
        rows = self._rows
        if self._top is not None:
            for _, _, node in self._top[partition]:
                if node in rows:
                    return node
        column = [row[partition] for row in rows.values()]
        return self.nodes[column.index(max(column))]

    def close(self, node: str) -> None:
        self.nodes.remove(node)
        del self._rows[node]

    def keep_only(self, nodes: Iterable[str]) -> None:
        self.nodes = list(nodes)
        self._rows = {node: self._rows[node] for node in self.nodes}
