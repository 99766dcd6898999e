"""One instance in a real browser, and what users may have written into it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from perdure.statestore.contract import ActorId
from tests.console.browser_use import Tab, browser, pages, served, tab, tab_of

__all__ = ["browser", "served", "tab"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_instance_as_it_goes_on(tab: Tab, served: Any) -> None:
    await served.start("order", "o-1", {"cost": 12.5, "name": "Ada"})
    await tab.open("#/instances/o-1")
    await expect(tab.find(".title .chip")).to_have_text("running")
    await expect(tab.find(".wait")).to_contain_text("event approval")
    await expect(tab.find(".wait")).to_contain_text("gives up in 23 h")
    await expect(tab.find(".card", "Input")).to_contain_text('"name": "Ada"')
    await expect(tab.find(".card", "Custom status")).to_contain_text("waiting for approval")
    marked = await tab.page.evaluate("window.mark = 1")
    await served.node.client.raise_workflow_event("o-1", "approval", data="Jane")
    await expect(tab.find(".title .chip")).to_have_text("completed")
    await expect(tab.find(".card", "Output")).to_contain_text('"approved_by": "Jane"')
    await expect(tab.find(".waiting")).to_have_count(0)
    await expect(tab.find(".step")).to_have_count(6)
    assert await tab.page.evaluate("window.mark") == marked
    charge = tab.find(".step", "charge")
    await expect(charge.locator(".took")).to_have_text(re.compile(r"^\d+ ms$"))
    assert await charge.locator(".b-completed").evaluate("bar => bar.getBoundingClientRect().width") > 0
    flaky = tab.find(".step", "flaky")
    await expect(flaky).to_contain_text("3 attempts")
    await expect(flaky.locator(".b-failed")).to_have_count(2)
    await expect(flaky.locator(".b-completed")).to_have_count(1)
    # What comes later is further to the right.
    lefts = [
        await tab.find(".step", name)
        .locator(".b-completed, .b-raised")
        .last.evaluate("bar => bar.offsetLeft")
        for name in ("reserve", "approval", "charge", "flaky")
    ]
    assert lefts == sorted(lefts)
    assert len(set(lefts)) == 4
    await tab.find("button", "even out").click()
    await expect(tab.find(".scale")).to_have_text("in order")


async def test_everything_that_is_waited_for(tab: Tab, served: Any) -> None:
    await served.start("waits", "w-1")
    await tab.open("#/instances/w-1")
    waits = tab.find(".wait")
    await expect(waits).to_have_count(7)
    await expect(waits.filter(has_text="activity ship")).to_contain_text("running on node")
    await expect(waits.filter(has_text="activity unknown")).to_contain_text(
        "no node of app elsewhere has this activity"
    )
    await expect(waits.filter(has_text="a timer")).to_contain_text("due in 2 h 59 min")
    await expect(waits.filter(has_text="event go")).to_contain_text("until somebody raises it")
    await expect(waits.filter(has_text="event approval")).to_contain_text("gives up in 59 min")
    await expect(waits.filter(has_text="next attempt of down")).to_contain_text("connection refused")
    await waits.filter(has_text="child workflow").locator("a").click()
    await expect(tab.find("h1")).to_have_text("w-1-child")
    await expect(tab.find(".under")).to_contain_text("child of w-1 (waits)")
    await tab.find(".under a", "w-1").click()
    await expect(tab.find("h1")).to_have_text("w-1")


async def test_a_failure(tab: Tab, served: Any) -> None:
    await served.end("fails", "f-1")
    await tab.open("#/instances/f-1")
    banner = tab.find(".banner")
    await expect(banner).to_contain_text("card declined: 15,000.00 EUR")
    await expect(banner).to_contain_text("NonRetriableError")
    await banner.locator("summary").first.click()
    await expect(banner.locator("pre").first).to_contain_text("broken")


async def test_a_stalled_instance(browser: Browser, serve: Any, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    async with serve(store) as served:
        await served.start("listener", "l-1")
    async with serve(store, changed=True) as served, tab_of(browser, served) as tab:
        await tab.open("#/instances?status=stalled")
        await served.node.client.raise_workflow_event("l-1", "first")
        await expect(tab.find("tbody tr", "l-1")).to_contain_text("does not do what its history says")
        await tab.rows.first.click()
        banner = tab.find(".banner")
        await expect(banner).to_contain_text("Stalled")
        await expect(banner.locator(".sides > div").nth(0)).to_contain_text("the history ends here")
        await expect(banner.locator(".sides > div").nth(1)).to_contain_text("activity 'charge' (task 0)")
        await expect(banner).to_contain_text("Deploy the code")
        await expect(tab.find(".facts")).to_contain_text("messages not taken")


async def test_a_long_history(tab: Tab, served: Any) -> None:
    await served.start("many", "m-1", 2500)
    await tab.open("#/instances/m-1")
    await expect(tab.find(".facts")).to_contain_text("5,001 events")
    await expect(tab.find(".step")).to_have_count(100)
    await expect(tab.find(".timeline .pager")).to_contain_text(pages(2402, 2501, 2501))
    await tab.find(".timeline button", "First").click()
    await expect(tab.find(".timeline .pager")).to_contain_text(pages(1, 100, 2501))
    await expect(tab.find(".step").first).to_contain_text("started many")
    await tab.find(".timeline button", "Later").click()
    await expect(tab.find(".timeline .pager")).to_contain_text(pages(101, 200, None))
    await tab.find(".history > details > summary").click()
    events = tab.find(".events > li")
    await expect(events).to_have_count(50)
    await tab.find(".history button", "Last").click()
    await expect(events.last).to_contain_text("TaskCompleted")
    await expect(tab.find(".history .pager")).to_contain_text(pages(5001, 5001, 5001))
    await served.node.client.raise_workflow_event("m-1", "end")
    await expect(tab.find(".title .chip")).to_have_text("completed")
    await expect(events).to_have_count(3)
    # Who looks at an earlier page of the timeline stays there.
    await expect(tab.find(".timeline .pager")).to_contain_text(pages(101, 200, 2503))
    assert await tab.page.locator("*").count() < 2500


async def test_events_decoded_and_as_stored(tab: Tab, served: Any) -> None:
    await served.end("quick", "q-1", {"n": 12345678901234567890})
    await tab.open("#/instances/q-1")
    await tab.find(".history > details > summary").click()
    started = tab.find(".events > li").first
    await started.locator("summary").click()
    # Numbers are shown as they are, also those that JavaScript cannot count to.
    await expect(started.locator("pre")).to_contain_text('"n": 12345678901234567890')
    await started.locator("button").click()
    await expect(started.locator("pre").nth(1)).to_contain_text("ExecutionStarted"[:8])
    await expect(started).to_contain_text("key history-000000, msgpack")


async def test_an_instance_that_is_not_there_and_then_is(tab: Tab, served: Any) -> None:
    await tab.open("#/instances/q-1")
    await expect(tab.find(".empty")).to_have_text("There is no such instance.")
    await served.end("quick", "q-1", 1)
    await expect(tab.find(".title .chip")).to_have_text("completed")
    await served.node.client.purge_workflow("q-1")
    await expect(tab.find(".empty")).to_be_visible()


async def test_addresses_that_make_no_sense(tab: Tab) -> None:
    tab.expected = re.compile("400")
    for hash in ("#/nothing", "#/instances/a/b", "#/actors/x", "#/%"):
        await tab.open(hash, live=False)
        await expect(tab.find(".empty")).to_have_text("There is no such page.")
    await tab.open("#/instances?status=bad")
    await expect(tab.find(".trouble")).to_contain_text("status 'bad' does not exist")
    await tab.open("#/instances?after=nonsense")
    await expect(tab.find(".trouble")).to_contain_text("cursor")
    await tab.find(".tab").first.click()
    await expect(tab.find(".trouble")).to_be_hidden()


async def test_nothing_that_users_write_is_more_than_text(tab: Tab, served: Any, evil: str) -> None:
    # Ids and names of every kind.
    await served.start(evil, evil, evil)
    await served.node.client.pause_workflow(evil, reason=evil)
    await served.node.call_actor(ActorId("Cart", evil), "add", b'"<script>document.title=666</script>"')

    async def harmless(*texts: str) -> None:
        for text in texts:
            await expect(tab.page.locator("main")).to_contain_text(text)
        assert await tab.page.title() != "666"
        assert await tab.page.locator("main img, main script, main iframe").count() == 0

    await tab.open("#/instances")
    await expect(tab.rows).to_have_text([evil])
    await harmless(evil)
    await tab.rows.first.click()
    await expect(tab.find("h1")).to_have_text(evil)
    await expect(tab.find(".wait")).to_contain_text(evil)
    await tab.find(".history > details > summary").click()
    await tab.find(".events > li summary").first.click()
    await expect(tab.find(".banner")).to_contain_text(evil)
    await harmless(evil)
    await tab.open("#/actors")
    await tab.find(".ids a", evil).first.click()
    await expect(tab.find("h1")).to_have_text(evil)
    await harmless("<script>")
    await tab.open("#/cluster")
    await tab.find(".node summary").click()
    await harmless(evil)
