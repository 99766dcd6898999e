"""The service's decisions, with time given to it."""

from __future__ import annotations

import pytest

from perdure.errors import ConfigurationError
from perdure.placement.member import Member
from perdure.placement.messages import Pulse, Refused, TableUpdate
from perdure.placement.options import PlacementOptions
from perdure.placement.service import NONE, Action, Gone, PlacementService, Publish, Send, StoreTable
from perdure.placement.table import Table
from perdure.statestore.contract import Fence, TypePartition

PARTITIONS = 12


def member(node: str, address: str = "", *types: str) -> Member:
    return Member(node, address, "shop", "default", types or ("Cart",))


class Driver:
    """A service whose store accepts everything at once."""

    def __init__(
        self,
        previous: Table | None = None,
        *,
        term: int = 1,
        exclusive: bool = False,
        leader: str = "",
        lease_life: float = 0.0,
    ) -> None:
        self.service = PlacementService(
            term, PARTITIONS, previous, 0.0, leader=leader, exclusive=exclusive, lease_life=lease_life
        )
        self.published: list[Table] = []
        self.sent: list[Send] = []
        self.gone: list[tuple[str, str]] = []
        self.run(self.service.start(), 0.0)

    def run(self, actions: list[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, StoreTable):
                self.run(self.service.stored(action.table, now), now)
            elif isinstance(action, Publish):
                self.published.append(action.table)
            elif isinstance(action, Gone):
                self.gone.append((action.node, action.reason))
            else:
                self.sent.append(action)

    def join(self, member: Member, now: float = 0.0, applied: Fence = NONE) -> None:
        self.run(self.service.join(member, now, applied=applied), now)

    def beat(self, *nodes: str, now: float) -> None:
        for node in nodes:
            self.run(self.service.heard(node, now, Fence(0, 0), now), now)

    def tick(self, now: float) -> None:
        self.run(self.service.tick(now), now)

    @property
    def table(self) -> Table:
        assert self.service.table is not None
        return self.service.table

    @property
    def nodes(self) -> set[str]:
        return set(self.table.members)


def three() -> Driver:
    driver = Driver()
    for node in "abc":
        driver.join(member(node))
    driver.tick(0.4)
    return driver


def test_each_change_is_one_table_with_the_next_epoch() -> None:
    driver = three()
    assert [(table.term, table.epoch) for table in driver.published] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert driver.nodes == {"a", "b", "c"}
    driver.run(driver.service.leave("b", 1.0), 1.0)
    assert driver.table.name == (1, 5)
    assert driver.nodes == {"a", "c"}


def test_hello_again_changes_nothing_and_brings_the_table() -> None:
    driver = three()
    driver.sent.clear()
    driver.join(member("b"), 1.0)
    assert driver.table.epoch == 4
    assert driver.sent == [Send("b", TableUpdate(driver.table))]


def test_a_node_that_hosts_other_types_changes_the_table() -> None:
    driver = three()
    driver.join(member("b", "", "Cart", "Order"), 1.0)
    assert driver.table.owner("Order", 0) == "b"
    driver.join(member("b", "", "Order"), 2.0)
    assert "b" not in driver.table.owners["Cart"]


def test_changes_while_a_table_is_stored_share_the_next_one() -> None:
    service = PlacementService(1, PARTITIONS, None, 0.0)
    (first,) = service.start()
    assert isinstance(first, StoreTable)
    assert service.join(member("a"), 0.0) == []
    assert service.join(member("b"), 0.0) == []
    published, second = service.stored(first.table, 0.1)
    assert published == Publish(first.table)
    assert isinstance(second, StoreTable)
    assert set(second.table.members) == {"a", "b"}
    assert service.table is first.table
    assert service.heard("a", 7.0, Fence(0, 0), 0.2)[-1] == Send("a", Pulse(first.table.name, 7.0))


def test_who_came_and_went_while_a_table_was_stored_makes_no_table() -> None:
    service = PlacementService(1, PARTITIONS, None, 0.0)
    (first,) = service.start()
    assert isinstance(first, StoreTable)
    service.join(member("a"), 0.0)
    service.leave("a", 0.0)
    assert service.stored(first.table, 0.1) == [Publish(first.table)]


def test_a_link_that_is_back_within_a_second_moves_nothing() -> None:
    driver = three()
    driver.service.link_closed("b", 1.0)
    driver.tick(1.9)
    driver.join(member("b"), 1.95)
    driver.beat("a", "c", now=2.0)
    driver.tick(2.5)
    assert driver.table.epoch == 4


def test_a_link_that_stays_away_takes_its_node_out() -> None:
    driver = three()
    driver.service.link_closed("b", 1.0)
    driver.tick(1.95)
    assert "b" in driver.nodes
    driver.tick(2.0)
    assert driver.nodes == {"a", "c"}


def test_silence_takes_a_node_out_and_its_next_word_shows_it_that() -> None:
    driver = three()
    driver.beat("a", "c", now=2.9)
    driver.tick(3.0)
    assert driver.nodes == {"a", "c"}
    driver.sent.clear()
    driver.beat("b", now=3.1)
    assert driver.sent == [Send("b", TableUpdate(driver.table))]
    driver.join(member("b"), 3.2)
    assert "b" in driver.nodes


def test_a_node_that_is_back_while_its_removal_is_stored_gets_no_word() -> None:
    driver = three()
    service = driver.service
    driver.beat("a", "c", now=2.9)
    gone, removal = service.tick(3.0)
    assert gone == Gone("b", "silent")
    assert isinstance(removal, StoreTable)
    assert service.join(member("b"), 3.05) == [Send("b", TableUpdate(driver.table))]
    assert service.heard("b", 3.1, driver.table.name, 3.1) == []
    assert service.heard("a", 3.1, driver.table.name, 3.1) == [Send("a", Pulse(driver.table.name, 3.1))]
    published, back = service.stored(removal.table, 3.2)
    assert published == Publish(removal.table)
    assert isinstance(back, StoreTable)
    assert set(back.table.members) == {"a", "b", "c"}


def test_a_service_that_stood_still_does_not_hold_it_against_others() -> None:
    driver = three()
    driver.run(driver.service.tick(8.0, 7.9), 8.0)
    assert driver.nodes == {"a", "b", "c"}
    driver.beat("a", "b", now=8.1)
    driver.tick(11.05)
    assert driver.nodes == {"a", "b"}


def test_heartbeats_are_answered_with_their_own_time_and_the_newest_table() -> None:
    driver = three()
    driver.sent.clear()
    driver.run(driver.service.heard("b", 123.5, driver.table.name, 0.5), 0.5)
    assert driver.sent == [Send("b", Pulse(Fence(1, 4), 123.5))]
    driver.sent.clear()
    driver.run(driver.service.heard("b", 123.6, Fence(1, 3), 0.6), 0.6)
    assert driver.sent == [Send("b", Pulse(Fence(1, 4), 123.6))], "the table is on its way"
    driver.sent.clear()
    driver.run(driver.service.heard("b", 123.8, Fence(1, 3), 0.8), 0.8)
    assert driver.sent == [Send("b", TableUpdate(driver.table)), Send("b", Pulse(Fence(1, 4), 123.8))]
    driver.sent.clear()
    driver.run(driver.service.heard("b", 123.9, Fence(1, 3), 0.9), 0.9)
    assert driver.sent == [Send("b", Pulse(Fence(1, 4), 123.9))], "it is on its way again"


def test_a_change_of_leader_moves_nothing() -> None:
    old = three().table
    driver = Driver(old, term=2)
    assert driver.table.name == (2, 5)
    assert driver.table.same_placement(old)
    driver.join(member("a"), 1.0)
    driver.tick(3.9)
    driver.join(member("b"), 3.9)
    driver.beat("a", "c", now=3.95)
    driver.tick(5.1)
    assert driver.table.name == (2, 5)
    assert [table.name for table in driver.published] == [(2, 5)]


def test_a_new_leader_changes_nothing_before_its_members_had_their_time() -> None:
    old = three().table
    driver = Driver(old, term=2)
    driver.join(member("a"), 1.0)
    driver.join(member("d"), 1.0)
    driver.join(member("b"), 1.0)
    driver.beat("a", "b", "d", now=4.0)
    driver.tick(4.9)
    assert driver.nodes == {"a", "b", "c"}
    driver.tick(5.0)
    assert driver.table.name == (2, 6)
    assert driver.nodes == {"a", "b", "d"}


def test_once_all_are_back_a_new_leader_waits_only_for_the_last_leaders_word() -> None:
    driver = Driver(three().table, term=2)
    driver.join(member("d"), 0.1)
    for node in "abc":
        driver.join(member(node), 0.2)
    driver.tick(0.5)
    assert driver.table.name == (2, 5)
    driver.tick(0.61)
    assert driver.nodes == {"a", "b", "c", "d"}


def test_with_an_exclusive_lease_the_former_members_are_gone_at_once() -> None:
    driver = Driver(three().table, term=2, exclusive=True)
    assert driver.published == []
    driver.join(member("d"), 0.0)
    assert driver.table.name == (2, 5)
    assert driver.nodes == {"d"}
    assert set(driver.table.fences["Cart"]) == {Fence(2, 5)}


def test_a_new_incarnation_replaces_the_one_whose_link_is_gone() -> None:
    driver = Driver()
    driver.join(member("a1", "a:1"))
    driver.join(member("b1", "b:1"))
    driver.beat("a1", "b1", now=1.0)
    before = driver.table
    driver.service.link_closed("a1", 1.1)
    driver.join(member("a2", "a:1"), 1.2)
    assert driver.nodes == {"a1", "b1"}, "a1 may still believe the word it was given at 1.0"
    driver.tick(1.4)
    assert driver.nodes == {"a2", "b1"}
    kept = [
        partition
        for partition in range(PARTITIONS)
        if driver.table.assigned("Cart", partition) == before.assigned("Cart", partition)
    ]
    assert kept == [partition for partition in range(PARTITIONS) if before.owner("Cart", partition) == "b1"]


def test_of_two_live_nodes_with_one_address_the_second_is_refused() -> None:
    driver = Driver()
    driver.join(member("a1", "a:1"))
    driver.join(member("a2", "a:1"), 0.1)
    assert driver.sent == [], "which of the two lives shows soon"
    driver.beat("a1", now=0.2)
    driver.sent.clear()
    driver.join(member("a2", "a:1"), 1.1)
    (refused,) = driver.sent
    assert refused.node == "a2"
    assert isinstance(refused.message, Refused)
    assert "a:1" in refused.message.reason
    assert "a1" in refused.message.reason
    driver.tick(1.2)
    assert driver.nodes == {"a1"}
    driver.run(driver.service.leave("a1", 1.3), 1.3)
    driver.join(member("a2", "a:1"), 2.0)
    assert driver.nodes == {"a2"}


def test_of_two_nodes_with_one_address_the_second_comes_in_once_the_first_is_silent() -> None:
    """A machine that is back before its connections were missed."""
    driver = Driver()
    driver.join(member("a1", "a:1"))
    driver.beat("a1", now=1.0)
    for at in (1.1, 2.1):
        driver.join(member("a2", "a:1"), at)
        assert driver.nodes == {"a1"}
    driver.join(member("a2", "a:1"), 3.1)
    driver.tick(3.2)
    assert driver.nodes == {"a2"}
    assert driver.gone == [("a1", "replaced")]
    assert not any(isinstance(sent.message, Refused) for sent in driver.sent)


def with_leader_node() -> Table:
    """The table of a leader that ran in node a."""
    driver = Driver(leader="a:1")
    for node in "abc":
        driver.join(member(node, f"{node}:1"))
    driver.tick(0.4)
    return driver.table


@pytest.mark.parametrize(("lease_life", "out_at"), [(2.0, 1.0), (1.9, 1.9), (0.0, 1.9)])
def test_the_node_that_the_last_leader_ran_in_is_waited_for_less(lease_life: float, out_at: float) -> None:
    """But not before nobody can believe that leader: of a lease that expired that is known, of others it is not."""
    driver = Driver(with_leader_node(), term=2, lease_life=lease_life)
    driver.join(member("b", "b:1"), 0.1)
    driver.join(member("c", "c:1"), 0.1)
    driver.beat("b", "c", now=out_at)
    driver.tick(out_at - 0.01)
    assert driver.nodes == {"a", "b", "c"}
    driver.tick(out_at)
    assert driver.nodes == {"b", "c"}
    assert driver.gone == [("a", "absent")]


def test_the_node_that_the_last_leader_ran_in_may_come_over() -> None:
    driver = Driver(with_leader_node(), term=2, lease_life=2.0)
    for node in "abc":
        driver.join(member(node, f"{node}:1"), 0.9)
    driver.tick(3.0)
    assert driver.nodes == {"a", "b", "c"}
    assert driver.table.name == (2, 5)


def test_a_leader_that_cannot_prove_itself_takes_nobody_for_dead() -> None:
    driver = three()
    driver.run(driver.service.tick(60.0, proven=False), 60.0)
    assert driver.nodes == {"a", "b", "c"}
    driver.beat("a", "b", now=60.1)
    driver.tick(60.2)
    assert driver.nodes == {"a", "b"}
    assert driver.gone == [("c", "silent")]


def test_why_members_go() -> None:
    driver = three()
    driver.service.link_closed("b", 1.0)
    driver.run(driver.service.leave("a", 1.0), 1.0)
    driver.run(driver.service.leave("a", 1.0), 1.0)
    driver.tick(2.0)
    driver.tick(3.0)
    assert driver.gone == [("a", "left"), ("b", "closed"), ("c", "silent")]


def test_a_node_that_knows_a_newer_table_shows_that_the_store_lost_it() -> None:
    """The leader found table (1, 4), nodes have (1, 6): what those two moved is taken anew, under new fences, when
    nobody believes any last leader."""
    old = three().table
    driver = Driver(old, term=2)
    driver.join(member("a"), 0.1, applied=Fence(1, 6))
    for node in "bc":
        driver.join(member(node), 0.1, applied=Fence(1, 4))
    driver.beat("a", "b", "c", now=1.8)
    driver.tick(1.89)
    assert driver.table.name == (2, 5)
    assert driver.table.same_placement(old)
    driver.tick(1.9)
    assert driver.table.name == (2, 6)
    assert driver.table.owners == old.owners
    assert set(driver.table.fences["Cart"]) == {Fence(2, 6)}
    driver.join(member("d"), 4.0, applied=Fence(1, 6))
    kept = [fence for fence in driver.table.fences["Cart"] if fence == Fence(2, 6)]
    assert len(kept) == 9, "only once"


def test_a_heartbeat_shows_a_lost_table_as_well() -> None:
    driver = Driver(three().table, term=2)
    for node in "abc":
        driver.join(member(node), 0.1, applied=Fence(1, 4))
    driver.run(driver.service.heard("b", 0.2, Fence(1, 5), 0.2), 0.2)
    driver.beat("a", "b", "c", now=1.8)
    driver.tick(2.0)
    assert set(driver.table.fences["Cart"]) == {Fence(2, 6)}


def test_newer_tables_of_another_leader_and_older_ones_mean_nothing() -> None:
    driver = Driver(three().table, term=2)
    for node, applied in zip("abc", [Fence(1, 4), Fence(2, 5), Fence(3, 1)], strict=True):
        driver.join(member(node), 0.1, applied=applied)
    driver.beat("a", "b", "c", now=1.8)
    driver.tick(2.0)
    assert driver.table.name == (2, 5)


def test_a_node_set_aside_is_out_when_its_last_word_has_lapsed() -> None:
    driver = three()
    driver.beat("a", "b", "c", now=1.0)
    driver.sent.clear()
    driver.run(driver.service.set_aside("b", 1.1), 1.1)
    driver.beat("b", now=1.15)
    assert driver.sent == []
    assert "b" in driver.nodes
    driver.tick(1.4)
    assert driver.nodes == {"a", "c"}
    driver.join(member("b"), 1.5)
    assert "b" in driver.nodes


def test_a_table_that_takes_from_members_stands_until_no_word_from_before_it_is_believed() -> None:
    """c gets partitions of a and b, and leaves at once: b must not take those of a while a may still answer."""
    driver = Driver()
    driver.join(member("a"), 1.0)
    driver.join(member("b"), 1.0)
    driver.beat("a", "b", now=2.0)
    driver.join(member("c"), 2.0)
    assert driver.nodes == {"a", "b", "c"}
    driver.run(driver.service.leave("c", 2.1), 2.1)
    driver.tick(2.35)
    assert driver.nodes == {"a", "b", "c"}
    assert driver.service.mortal
    driver.tick(2.4)
    assert driver.nodes == {"a", "b"}


def test_a_refused_write_ends_the_leadership() -> None:
    service = PlacementService(1, PARTITIONS, None, 0.0)
    (first,) = service.start()
    assert isinstance(first, StoreTable)
    service.refused()
    assert service.ended
    assert service.stored(first.table, 0.1) == []
    assert service.join(member("a"), 0.1) == []
    assert service.heard("a", 0.1, Fence(0, 0), 0.1) == []
    assert service.tick(9.0) == []


def test_an_owner_gets_new_fences_for_its_own_partitions_only() -> None:
    driver = three()
    before = driver.table
    mine = next(iter(before.held("a")))
    others = next(iter(before.held("b")))
    driver.run(driver.service.renew("a", [mine, others, TypePartition("Cart", 999)], 1.0), 1.0)
    assert driver.table.owners == before.owners
    assert driver.table.assigned(*mine) == driver.table.name
    assert driver.table.assigned(*others) == before.assigned(*others)
    driver.run(driver.service.renew("a", [others], 2.0), 2.0)
    assert driver.table.name == (1, 5)


def test_another_number_of_partitions_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="12 partitions, the store 13"):
        PlacementService(2, 13, three().table, 0.0)


def test_options_that_break_the_promise_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"word \(1 s\) must be below link_grace \(1 s\)"):
        PlacementOptions(word=1.0)
    with pytest.raises(ConfigurationError, match="silence must be more than 0"):
        PlacementOptions(silence=0)
