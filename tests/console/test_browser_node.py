"""Actors and the cluster in a real browser, and a node that comes and goes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from perdure.console.api import ConsoleApi
from perdure.statestore.contract import ActorId
from tests.console.browser_use import Tab, browser, served, tab, tab_of

__all__ = ["browser", "served", "tab"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_actors(tab: Tab, served: Any) -> None:
    await served.node.call_actor(ActorId("Cart", "42"), "add", b'"apple"')
    await tab.open("#/actors")
    await expect(tab.find("tbody tr", "Cart").locator("td.number").first).to_have_text("1")
    await tab.page.get_by_label("Actor type", exact=True).select_option("Cart")
    await tab.page.get_by_label("Actor id").fill("42")
    await tab.page.keyboard.press("Enter")
    await expect(tab.find("h1")).to_have_text("42")
    await expect(tab.find(".events > li", "items")).to_contain_text('["apple"]')
    await expect(tab.find("tbody tr")).to_contain_text("checkout")
    await expect(tab.find("tbody tr")).to_contain_text("in 23 h 59 min")
    await served.node.call_actor(ActorId("Cart", "42"), "add", b'"pear"')
    await expect(tab.find(".events > li", "items")).to_contain_text('["apple","pear"]'.replace(",", ", "))
    await tab.open("#/actors/Cart/nobody")
    await expect(tab.find(".card", "State")).to_contain_text("This actor has no state.")


async def test_a_large_value_is_shown_when_asked_for(tab: Tab, served: Any) -> None:
    item = "x" * 10_000
    await served.node.call_actor(ActorId("Cart", "1"), "add", f'"{item}"'.encode())
    await tab.open("#/actors/Cart/1")
    row = tab.find(".events > li", "items")
    await row.locator("summary").click()
    await expect(row).to_contain_text("characters.")
    await row.locator("button").click()
    await expect(row.locator("pre")).to_have_text(f'[\n  "{item}"\n]')


async def test_the_cluster(tab: Tab, served: Any) -> None:
    await served.start("waits", "w-1")
    await tab.open("#/cluster")
    node = tab.find(".node")
    await expect(node).to_have_count(1)
    await expect(node).to_contain_text("this node")
    await expect(node).to_contain_text("leads placement")
    await expect(node.locator(".figure", has_text="activities running")).to_contain_text("1")
    await expect(node.locator(".figure", has_text="partitions")).to_contain_text("2,048")
    await expect(tab.find(".share", "shop workflows")).to_contain_text("1,024 partitions on 1 node")
    await node.locator("summary").click()
    await expect(node).to_contain_text("reserve")
    served.shop.gate.set()
    await expect(node.locator(".figure", has_text="activities running")).to_contain_text("0")
    # What was opened stays open.
    await expect(node.locator("details")).to_have_attribute("open", "")


async def test_a_node_that_restarts(browser: Browser, serve: Any, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    async with serve(store) as served:
        port = int(served.url.rpartition(":")[2])
        await served.start("listener", "l-1")
        context = await browser.new_context()
        tab = Tab(context, await context.new_page(), served)
        tab.expected = re.compile("Failed to load resource")
        await tab.open("#/instances/l-1")
        await expect(tab.find(".wait")).to_contain_text("event first")
    await expect(tab.find("#live")).to_have_text("disconnected")
    await expect(tab.find(".trouble")).to_contain_text("cannot be reached")
    # What was known is still there to read.
    await expect(tab.find(".wait")).to_contain_text("event first")
    async with serve(store, port=port) as served:
        await tab.live()
        await expect(tab.find(".trouble")).to_be_hidden()
        await served.node.client.raise_workflow_event("l-1", "first")
        await expect(tab.find(".wait")).to_contain_text("event second")
        await tab.check()
        await context.close()


async def test_the_token(browser: Browser, serve: Any) -> None:
    async with serve("memory://", api_token="secret") as served, tab_of(browser, served) as tab:
        tab.expected = re.compile("401")
        await served.end("quick", "q-1", 1)
        await tab.open("#/instances", live=False)
        dialog = tab.find("#token")
        await expect(dialog).to_be_visible()
        await tab.page.get_by_label("Token", exact=True).fill("wrong")
        await tab.page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("That was not the API token")
        await tab.page.get_by_label("Token", exact=True).fill("secret")
        await tab.page.keyboard.press("Enter")
        await expect(tab.rows).to_have_text(["q-1"])
        await expect(dialog).to_be_hidden()
        await expect(tab.find("#app")).to_have_text("shop")
        # This tab remembers it; no other does, and no address has it.
        await tab.page.reload()
        await expect(tab.rows).to_have_text(["q-1"])
        assert "secret" not in tab.page.url
        other = await tab.context.new_page()
        await other.goto(served.url)
        await expect(other.locator("#token")).to_be_visible()


async def test_a_tab_that_nobody_looks_at_asks_nothing(
    tab: Tab, served: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr("perdure.console.api.HEARTBEAT", 0.05)
    hubs: list[Any] = []
    send = ConsoleApi._send

    async def noted(self: Any, *more: Any) -> None:
        hubs.append(self.hub)
        await send(self, *more)

    monkeypatch.setattr(ConsoleApi, "_send", noted)
    await served.start("listener", "l-1")
    await tab.open("#/instances/l-1")
    show = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await tab.page.evaluate(show, True)
    await expect(tab.find("#live")).to_have_text("paused")

    async def quiet() -> bool:
        return not hubs[0].topics

    await eventually(quiet, "an end of the watching")
    await served.node.client.raise_workflow_event("l-1", "first")
    await tab.page.evaluate(show, False)
    await tab.live()
    await expect(tab.find(".wait")).to_contain_text("event second")


async def test_more_pages_than_there_are_streams_for(
    tab: Tab, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.console.hub.MAX_STREAMS", 0)
    tab.expected = re.compile("503")
    await served.end("quick", "q-1", 1)
    await tab.open("#/instances", live=False)
    await expect(tab.rows).to_have_text(["q-1"])
    await expect(tab.find("#live")).to_have_text("every 10 s")
