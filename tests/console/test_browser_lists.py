"""Lists in a real browser: filters, pages, the keyboard, windows of any width."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from perdure.statestore.contract import ActorId
from tests.console.browser_use import Tab, browser, served, tab, tab_of

__all__ = ["browser", "served", "tab"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_list(tab: Tab, served: Any) -> None:
    await served.end("quick", "q-1", 1)
    await tab.open("")
    await expect(tab.page).to_have_url(re.compile("#/instances$"))
    await expect(tab.rows).to_have_text(["q-1"])
    row = tab.find("tbody tr")
    await expect(row).to_contain_text("completed")
    await expect(row).to_contain_text("quick")
    await expect(tab.find("#app")).to_have_text("shop")
    # Without a reload.
    await served.start("order", "o-1", {"cost": 1})
    await expect(tab.rows).to_have_text(["o-1", "q-1"])
    await expect(tab.find("tbody tr", "o-1")).to_contain_text("waiting for approval")
    await expect(tab.find("tbody tr", "o-1").locator(".chip")).to_have_text("running")


async def test_an_empty_list(tab: Tab) -> None:
    await tab.open("#/instances")
    await expect(tab.find(".empty")).to_contain_text("No workflow has been started yet")
    await tab.open("#/instances?q=nothing")
    await expect(tab.find(".empty")).to_have_text("No instance matches.")
    await expect(tab.find(".trouble")).to_be_hidden()


async def test_filters(tab: Tab, served: Any) -> None:
    for number in range(3):
        await served.end("quick", f"q-{number}", number)
    await served.end("fails", "f-1")
    await served.start("listener", "l-1")
    await tab.open("#/instances")
    await expect(tab.rows).to_have_count(5)
    await expect(tab.find(".tab", "completed")).to_contain_text("3")
    await tab.find(".tab", "failed").click()
    await expect(tab.rows).to_have_text(["f-1"])
    await expect(tab.page).to_have_url(re.compile(r"status=failed"))
    await expect(tab.find("tbody tr")).to_contain_text("card declined")
    await tab.find(".tab").first.click()
    await expect(tab.rows).to_have_count(5)
    await tab.page.keyboard.press("/")
    await tab.page.keyboard.type("q-1")
    await expect(tab.rows).to_have_text(["q-1"])
    await expect(tab.page).to_have_url(re.compile(r"q=q-1"))
    # A view is its address.
    await tab.page.reload()
    await expect(tab.rows).to_have_text(["q-1"])
    await expect(tab.find("input[type=search]")).to_have_value("q-1")
    await tab.find("a", "Clear").click()
    await expect(tab.rows).to_have_count(5)
    await tab.find("input.name").fill("listener")
    await expect(tab.rows).to_have_text(["l-1"])
    await tab.find("a", "Clear").click()
    await expect(tab.find("input.name")).to_have_value("")
    await tab.page.get_by_label("Created", exact=True).select_option("1h")
    await expect(tab.rows).to_have_count(5)
    await tab.page.get_by_label("Created", exact=True).select_option("custom")
    await tab.page.get_by_label("Created before").fill("2020-01-01T00:00")
    await expect(tab.find(".empty")).to_have_text("No instance matches.")


async def test_pages(tab: Tab, served: Any) -> None:
    """Never more than a page, and the way back is the way that was come."""
    for number in range(120):
        await served.node.client.start("quick", b"1", f"q-{number:03}")
    await tab.open("#/instances")
    await expect(tab.rows).to_have_count(50)
    assert (await tab.ids())[0] == "q-119"
    await tab.page.keyboard.press("]")
    await expect(tab.rows.first).to_have_text("q-069")
    await expect(tab.find(".pager")).to_contain_text("page 2")
    await tab.page.keyboard.press("]")
    await expect(tab.rows.first).to_have_text("q-019")
    await expect(tab.rows).to_have_count(20)
    await expect(tab.find("[data-key=older]")).to_have_attribute("aria-disabled", "true")
    # What comes meanwhile moves nothing.
    await served.end("quick", "new", 1)
    await tab.find("[data-key=newer]").click()
    await expect(tab.rows.first).to_have_text("q-069")
    await tab.page.keyboard.press("[")
    await expect(tab.rows.first).to_have_text("new")
    # A page that is linked to.
    await tab.page.go_back()
    await expect(tab.rows.first).to_have_text("q-069")
    await tab.page.reload()
    await expect(tab.rows.first).to_have_text("q-069")
    await tab.find("[data-key=newer]", "Newest").click()
    await expect(tab.rows.first).to_have_text("new")


async def test_the_keyboard(tab: Tab, served: Any) -> None:
    await served.end("quick", "q-1", 1)
    await served.start("listener", "l-1")
    await tab.open("#/instances")
    await expect(tab.rows).to_have_count(2)
    await tab.page.keyboard.press("j")
    await expect(tab.rows.nth(0)).to_be_focused()
    await tab.page.keyboard.press("j")
    await expect(tab.rows.nth(1)).to_be_focused()
    # The focus stays where it is when the list changes around it.
    await served.end("quick", "q-2", 1)
    await expect(tab.rows).to_have_text(["q-2", "l-1", "q-1"])
    await expect(tab.rows.nth(2)).to_be_focused()
    await tab.page.keyboard.press("k")
    # Also when the row itself changes.
    await served.node.client.pause_workflow("l-1")
    await expect(tab.find("tbody tr", "l-1")).to_contain_text("suspended")
    await expect(tab.rows.nth(1)).to_be_focused()
    await tab.page.keyboard.press("Enter")
    await expect(tab.find("h1")).to_have_text("l-1")
    await tab.page.keyboard.press("u")
    await expect(tab.rows).to_have_count(3)
    for key, title in (("c", "Cluster"), ("a", "Actors"), ("i", "Instances")):
        await tab.page.keyboard.press("g")
        await tab.page.keyboard.press(key)
        await expect(tab.page).to_have_title(f"{title} · Perdure")
    await tab.page.keyboard.press("?")
    await expect(tab.find("#help")).to_be_visible()
    await tab.page.keyboard.press("Escape")
    await expect(tab.find("#help")).to_be_hidden()
    # What is typed is no command.
    await tab.page.keyboard.press("/")
    await tab.page.keyboard.type("gc?")
    await expect(tab.find("input[type=search]")).to_have_value("gc?")
    await expect(tab.find("#help")).to_be_hidden()


VIEWS = ("#/instances", "#/instances/w-1", "#/actors", "#/actors/Cart/42", "#/cluster")


UNNAMED = """() => [...document.querySelectorAll("a, button, input, select, summary")].filter(
    (one) => one.checkVisibility()
        && !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length)
).map((one) => one.outerHTML)"""


@pytest.mark.parametrize("width", [800, 480])
async def test_narrow_windows(browser: Browser, served: Any, width: int) -> None:
    """Nothing has to be pushed sideways to be read, and everything that can be used has a name."""
    await served.start("waits", "w-1")
    await served.node.call_actor(ActorId("Cart", "42"), "add", b'"apple"')
    async with tab_of(browser, served, viewport={"width": width, "height": 800}) as tab:
        for view in VIEWS:
            await tab.open(view)
            await expect(tab.find("main .card, main tbody tr").first).to_be_visible()
            assert await tab.page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert await tab.page.evaluate(UNNAMED) == [], view
            assert await tab.page.locator("h1").count() == 1, view


async def test_many_changes_leave_nothing_behind(tab: Tab, served: Any) -> None:
    """A page that is open for days keeps what it shows, and nothing else."""
    await served.start("listener", "l-1")
    await tab.open("#/instances/l-1")
    before = await tab.page.locator("*").count()
    for number in range(30):
        await served.node.client.raise_workflow_event("l-1", "nothing", data=number)
    await expect(tab.find(".step")).to_have_count(31)
    await served.node.client.terminate_workflow("l-1")
    await expect(tab.find(".title .chip")).to_have_text("terminated")
    assert await tab.page.locator("*").count() < before + 33 * 16
