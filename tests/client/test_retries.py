"""What is sent again, and when: without any network."""

from __future__ import annotations

import pytest

from perdure.client.retries import FIRST, LONGEST, Retries, Trouble


@pytest.mark.parametrize("repeatable", [True, False])
def test_what_was_not_sent_is_sent_whatever_it_is(repeatable: bool) -> None:
    assert Retries(repeatable=repeatable, until=10).pause(Trouble.UNREACHED, 0) == FIRST


@pytest.mark.parametrize("trouble", [Trouble.LOST, Trouble.BUSY])
def test_what_may_have_been_executed_is_sent_only_if_that_does_no_harm(trouble: Trouble) -> None:
    assert Retries(repeatable=True, until=10).pause(trouble, 0) == FIRST
    assert Retries(repeatable=False, until=10).pause(trouble, 0) is None


def test_pauses_grow_and_end() -> None:
    retries, now, pauses = Retries(repeatable=True, until=10), 0.0, []
    while (pause := retries.pause(Trouble.UNREACHED, now)) is not None:
        assert pause > 0
        pauses.append(pause)
        now += pause
    assert now == 10
    assert pauses[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert max(pauses) == LONGEST


def test_no_time_no_repetition() -> None:
    assert Retries(repeatable=True, until=5).pause(Trouble.UNREACHED, 5) is None
    assert Retries(repeatable=True, until=5).pause(Trouble.BUSY, 6, at_least=1) is None


def test_what_a_node_asks_for_is_done_within_the_time() -> None:
    assert Retries(repeatable=True, until=10).pause(Trouble.BUSY, 0, at_least=3) == 3
    assert Retries(repeatable=True, until=10).pause(Trouble.BUSY, 9, at_least=3) == 1
