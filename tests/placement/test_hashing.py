"""Partitions and ranks: fixed values, even spread."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perdure.placement.hashing import partition_of, ranked, score, scores

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize(("actor_id", "partitions", "expected"), GOLDEN["partition_of"])
def test_an_actor_stays_in_its_partition_over_releases(actor_id: str, partitions: int, expected: int) -> None:
    assert partition_of(actor_id, partitions) == expected


@pytest.mark.parametrize(("node", "actor_type", "partition", "expected"), GOLDEN["score"])
def test_scores_are_the_same_over_releases(node: str, actor_type: str, partition: int, expected: int) -> None:
    assert score(node, actor_type, partition) == expected


@pytest.mark.parametrize(("nodes", "key", "expected"), GOLDEN["ranked"])
def test_ranks_are_the_same_over_releases(nodes: list[str], key: str, expected: list[str]) -> None:
    assert ranked(nodes, key) == expected
    assert ranked(reversed(nodes), key) == expected


def test_a_score_does_not_depend_on_the_number_of_partitions() -> None:
    assert scores("n", "Cart", 1024)[:16] == scores("n", "Cart", 16)


def test_actors_spread_evenly() -> None:
    loads = Counter(partition_of(f"order-{number}", 64) for number in range(64_000))
    assert len(loads) == 64
    assert min(loads.values()) > 850
    assert max(loads.values()) < 1150


def test_a_node_that_goes_leaves_the_order_of_the_others() -> None:
    nodes = [f"n{number}" for number in range(9)]
    for key in ("a::1::1", "b::1::1", "c::1::1"):
        order = ranked(nodes, key)
        assert ranked([node for node in nodes if node != "n4"], key) == [
            node for node in order if node != "n4"
        ]


def test_first_ranks_spread_evenly() -> None:
    nodes = [f"n{number}" for number in range(8)]
    first = Counter(ranked(nodes, f"order::{number}::1")[0] for number in range(8000))
    assert min(first.values()) > 850
    assert max(first.values()) < 1150
