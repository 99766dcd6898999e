"""What placement costs at a thousand nodes: `python -m benchmarks.placement [--nodes 1000] [--partitions 16384]`

CPU time per table, how well it is balanced, how much moves, and what goes over the wire to each node.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from perdure.placement import change
from perdure.placement.member import Member
from perdure.placement.messages import TableUpdate
from perdure.placement.messages import decode as decode_message
from perdure.placement.messages import encode as encode_message
from perdure.placement.table import Table, assign, decode, diff, encode

T = TypeVar("T")

TYPES = ("dapr.internal.default.orders.workflow", "Cart")
#: Each figure is the best of so many: other work on the machine can only make it worse.
ROUNDS = 5


def member(number: int) -> Member:
    return Member(
        node=f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}",
        address=f"10.0.{number // 256}.{number % 256}:50002",
        app_id="orders",
        namespace="default",
        actor_types=TYPES,
        workflows=tuple(f"order_workflow_{name}" for name in range(10)),
        activities=tuple(f"activity_number_{name}" for name in range(20)),
        http=f"http://10.0.{number // 256}.{number % 256}:3500",
    )


def timed(what: str, work: Callable[[], T], note: Callable[[T], str] = lambda _: "") -> T:
    best, found = float("inf"), None
    for _ in range(ROUNDS):
        began = time.process_time()
        found = work()
        best = min(best, time.process_time() - began)
    assert found is not None
    print(f"{what:<44} {best * 1000:>9.1f} ms   {note(found)}")
    return found


def spread(table: Table) -> str:
    loads = [Counter(row).values() for row in table.owners.values()]
    return f"a node has {min(map(min, loads))} to {max(map(max, loads))} partitions of a type"


def moves(old: Table, new: Table) -> int:
    return sum(move.before != move.after for move in diff(old, new))


def measure(nodes: int, partitions: int) -> None:
    print(f"{nodes} nodes, {len(TYPES)} actor types of {partitions} partitions each\n")
    members = [member(number) for number in range(nodes + 1)]
    first = timed("table: all nodes at once", lambda: assign(members[:-1], None, 1, 1, partitions), spread)

    def told(new: Table, old: Table = first) -> str:
        count = moves(old, new)
        most = 1.2 * len(TYPES) * partitions / (nodes + 1)
        return f"{count} partitions move (at most {most:.0f})"

    joined = timed("table: one node joins", lambda: assign(members, first, 1, 2, partitions), told)
    left = timed(
        "table: one node is gone",
        lambda: assign([each for each in members if each != members[nodes // 2]], joined, 1, 3, partitions),
        lambda new: f"{moves(joined, new)} partitions move, all of them the node's",
    )
    timed("a node looks for what changed", lambda: diff(joined, left))
    timed("a node lists what it has", lambda: left.held(members[0].node))
    print()
    stored = timed("stored: written", lambda: encode(left), lambda data: f"{len(data):,} bytes")
    timed("stored: read", lambda: decode(stored))
    whole = timed(
        "sent whole: made once for all nodes",
        lambda: encode_message(TableUpdate(left)),
        lambda data: f"{len(data):,} bytes to each node",
    )
    timed("sent whole: read by a node", lambda: decode_message(whole))
    part = timed(
        "sent as a change: made once for all nodes",
        lambda: change.encode(joined, left),
        lambda data: f"{len(data):,} bytes to each node",
    )
    timed("sent as a change: read by a node", lambda: change.decode(part).applied(joined))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--partitions", type=int, default=16_384)
    chosen = parser.parse_args()
    measure(chosen.nodes, chosen.partitions)


if __name__ == "__main__":
    main()
