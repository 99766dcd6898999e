"""When something is due next, by arithmetic alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.actors.schedule import LAST, RETRIES, Schedule, decode, schedule
from perdure.errors import CorruptState, InvalidInput

NOW = 1_700_000_000_000_000
SECOND = 1_000_000


def test_forms_of_due() -> None:
    expected = NOW + 90 * SECOND
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=expected)
    for due in (
        timedelta(seconds=90),
        "1m30s",
        "PT1M30S",
        moment,
        moment.replace(tzinfo=None),
        moment.isoformat(),
    ):
        assert schedule(NOW, due).due == expected
    assert schedule(NOW).due == schedule(NOW, "").due == NOW


def test_a_time_in_the_past_is_due_at_once_and_keeps_its_grid() -> None:
    plan = schedule(NOW, datetime(2020, 1, 1, tzinfo=UTC), "1h")
    assert plan.due < NOW
    after = plan.after(NOW)
    assert after is not None
    assert NOW < after.due <= NOW + 3600 * SECOND
    assert (after.due - plan.due) % (3600 * SECOND) == 0


def test_once_has_no_next() -> None:
    assert schedule(NOW, "1s").after(NOW) is None


def test_repeats_count_what_fired() -> None:
    plan: Schedule | None = schedule(NOW, None, "R3/PT1S")
    fired = 0
    while plan is not None:
        fired += 1
        plan = plan.after(plan.due)
    assert fired == 3


def test_ttl_ends_it_whichever_comes_first() -> None:
    plan = schedule(NOW, None, "R10/PT3S", ttl="7s")
    dues = []
    following: Schedule | None = plan
    while following is not None:
        dues.append((following.due - NOW) // SECOND)
        following = following.after(following.due)
    assert dues == [0, 3, 6]
    assert not plan.expired(NOW + 7 * SECOND - 1)
    assert plan.expired(NOW + 7 * SECOND)


@pytest.mark.parametrize(
    "wrong",
    [
        {"due": timedelta(seconds=-1)},
        {"due": "soon"},
        {"due": 5},
        {"due": timedelta.max},
        {"period": timedelta(0)},
        {"period": "0s"},
        {"period": "R0/PT1S"},
        {"period": 5},
        {"due": "10s", "ttl": "10s"},
        {"ttl": "-5s"},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        schedule(NOW, **wrong)  # type: ignore[arg-type]


@given(
    st.integers(0, 10**15),
    st.integers(1, 10**12),
    st.integers(-(10**12), 10**14),
    st.none() | st.integers(1, 5),
)
def test_next_is_on_the_grid_and_the_first_in_the_future(
    due: int, period: int, late: int, left: int | None
) -> None:
    now = due + late
    after = Schedule(due, period, left).after(now)
    if left == 1:
        assert after is None
        return
    assert after is not None
    assert (after.due - due) % period == 0
    assert after.due > max(due, now)
    assert after.due - period <= max(due, now)
    assert after.left == (None if left is None else left - 1)


def test_a_next_tick_beyond_all_time_is_none() -> None:
    assert Schedule(LAST - 5, 10).after(LAST - 5) is None


def test_failures_are_counted_and_end() -> None:
    plan: Schedule | None = Schedule(NOW, 5, data=b"1")
    for failures in range(1, RETRIES + 1):
        assert plan is not None
        plan = plan.retried()
        assert plan is not None
        assert plan.failures == failures
        assert plan.due == NOW
    assert plan is not None
    assert plan.retried() is None
    after = plan.after(NOW)
    assert after is not None
    assert after.failures == 0


def test_codec() -> None:
    plan = schedule(NOW, "1s", "R5/PT1M", "2h", b'{"a":1}')
    assert decode(plan.encode()) == plan
    with pytest.raises(CorruptState):
        decode(b"no")
