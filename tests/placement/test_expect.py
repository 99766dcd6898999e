"""Members that are known to be on their way: the first table waits for them."""

from __future__ import annotations

from perdure.placement.service import EXPECTED_WITHIN
from tests.placement.test_service import Driver, member


def expecting(members: int) -> Driver:
    driver = Driver(exclusive=True)
    driver.service.expect(members)
    return driver


def test_the_first_table_has_all() -> None:
    driver = expecting(3)
    for number, now in enumerate((5.0, 5.5, 7.9)):
        assert driver.published == []
        driver.tick(now)
        driver.join(member(f"n{number}"), now)
    assert [set(table.members) for table in driver.published] == [{"n0", "n1", "n2"}]


def test_it_does_not_wait_for_long() -> None:
    """One that does not come holds up the others for a moment, however often they say hello."""
    driver = expecting(3)
    driver.join(member("a"), 5.0)
    for now in (6.0, 7.0, 7.9):
        driver.join(member("a"), now)
        driver.join(member("b"), now)
        driver.tick(now)
    assert driver.published == []
    driver.tick(5.0 + EXPECTED_WITHIN)
    assert [set(table.members) for table in driver.published] == [{"a", "b"}]
    # The third is one like any other.
    driver.join(member("c"), 20.0)
    driver.tick(21.0)
    assert "c" in driver.nodes


def test_nobody_is_expected() -> None:
    driver = Driver(exclusive=True)
    driver.join(member("a"), 5.0)
    assert driver.nodes == {"a"}
