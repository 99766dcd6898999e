"""The console in a browser: what people see, and that it stays true while they look."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from perdure.console.api import ConsoleApi
from perdure.statestore.contract import ActorId

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Milliseconds after which something has not come true; a loaded machine is slow.
PATIENCE = 30_000

expect.set_options(timeout=PATIENCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail(f"there is no browser: install chromium (looked for {', '.join(NAMES)})")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        await browser.close()


def pages(first: int, last: int, total: int | None) -> str:
    """What a pager says."""
    return f"{first:,} \N{EN DASH} {last:,} of {'' if total is None else format(total, ',')}"


class Tab:
    """One page of a browser that remembers nothing. Nothing may go wrong in it, and it may ask nobody but its node."""

    def __init__(self, context: BrowserContext, page: Page, served: Any) -> None:
        self.context = context
        self.page = page
        self.served = served
        self.errors: list[str] = []
        self.foreign: list[str] = []
        #: Messages of the browser that the test brings about.
        self.expected = re.compile(r"(?!)")
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: self.errors.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        context.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        if not url.startswith(self.served.url + "/"):
            self.foreign.append(url)

    async def open(self, hash: str, *, live: bool = True) -> None:
        await self.page.goto(f"{self.served.url}/{hash}")
        if live:
            await self.live()

    async def live(self) -> None:
        await expect(self.page.locator("#live")).to_have_attribute("data-state", "live")

    def find(self, selector: str, text: str | re.Pattern[str] | None = None) -> Any:
        return self.page.locator(selector, has_text=text)

    @property
    def rows(self) -> Any:
        return self.page.locator("tbody tr a.row")

    async def ids(self) -> list[str]:
        return list(await self.rows.all_inner_texts())

    async def check(self) -> None:
        assert self.foreign == []
        assert [error for error in self.errors if not self.expected.search(error)] == []


@pytest_asyncio.fixture(loop_scope="module")
async def served(serve: Any, tmp_path: Path) -> AsyncIterator[Any]:
    async with serve(f"sqlite:///{tmp_path}/state.db") as served:
        yield served


@asynccontextmanager
async def tab_of(browser: Browser, served: Any, **options: Any) -> AsyncIterator[Tab]:
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    tab = Tab(context, await context.new_page(), served)
    try:
        yield tab
        await tab.check()
    finally:
        await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser, served: Any) -> AsyncIterator[Tab]:
    async with tab_of(browser, served) as tab:
        yield tab


# --- lists -------------------------------------------------------------------------------------------------------------


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


# --- one instance ------------------------------------------------------------------------------------------------------


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


# --- what means harm ---------------------------------------------------------------------------------------------------


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


# --- actors, cluster ---------------------------------------------------------------------------------------------------


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


# --- the node comes and goes -------------------------------------------------------------------------------------------


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


# --- for everybody -----------------------------------------------------------------------------------------------------


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
