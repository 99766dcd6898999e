"""A browser, and a tab in it that shows a node's console: fixtures to be imported."""

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
