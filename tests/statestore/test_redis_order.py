"""Places sort as the contract sorts, and ranges of them hold what begins with a prefix."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from perdure.statestore.keys import split
from perdure.statestore.redis import order

TEXTS = st.text(st.sampled_from("ab-\0\1é019"), max_size=9)
KEYS = TEXTS | st.builds("{}-{}".format, TEXTS, st.integers(0, 10**19).map("{:06d}".format))
TIMES = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(KEYS, unique=True))
def test_keys(keys: list[str]) -> None:
    assert sorted(keys, key=order.place) == sorted(keys, key=split)


@given(st.lists(KEYS, unique=True), TEXTS | KEYS, st.none() | KEYS)
@example(["x-000012", "x-1200000", "x-0000012", "x-00-000001", "x-00a"], "x-00", None)
@example(["x-100000", "x-1000000", "x-999999", "x-10000000"], "x-1", "x-1000000")
def test_ranges(keys: list[str], prefix: str, start: str | None) -> None:
    ordered = sorted(keys, key=split)
    wanted = [
        key for key in ordered if key.startswith(prefix) and (start is None or split(key) >= split(start))
    ]
    found = [
        key for low, high in order.ranges(prefix, start) for key in ordered if low <= order.place(key) < high
    ]
    assert found == wanted


@given(st.lists(TIMES, unique=True))
def test_times(times: list[int]) -> None:
    assert sorted(times, key=order.time_place) == sorted(times)
    assert sorted(times, key=order.newest_place) == sorted(times, reverse=True)
    assert [order.place_time(order.time_place(time)) for time in times] == times
    assert [order.place_newest(order.newest_place(time)) for time in times] == times


@given(st.lists(st.tuples(TEXTS, TEXTS), unique=True))
def test_pairs(pairs: list[tuple[str, str]]) -> None:
    """Texts that are escaped and ended can be joined."""
    joined = {order.escaped(one) + order.END + two.encode(): (one, two) for one, two in pairs}
    assert [joined[place] for place in sorted(joined)] == sorted(pairs)
    for place, (one, _) in joined.items():
        assert order.unescaped(place.partition(order.END)[0]) == one
