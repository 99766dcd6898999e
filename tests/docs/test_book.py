"""The book builds without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("book")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return site


def test_every_page_is_there(book: Path) -> None:
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).with_suffix(".html") for path in docs.rglob("*.md")} | {
        Path("index.html")
    }
    assert sorted(pages - {path.relative_to(book) for path in book.rglob("*.html")}) == []


def test_files_that_pages_link_to_come_along(book: Path) -> None:
    for page in book.rglob("*.html"):
        text = page.read_text()
        if page.name == "404.html":
            continue  # It may be shown anywhere, so its links begin at the root.
        for link in re.findall(r'href="([^":#]+?)(?:#[^"]*)?"', text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    assert (book / "source" / "examples" / "order_processing.py").read_bytes() == (
        ROOT / "examples" / "order_processing.py"
    ).read_bytes()


def test_nothing_is_loaded_from_elsewhere(book: Path) -> None:
    """No fonts, no scripts, no pictures: it can be read without a network, and tells nobody who reads it."""
    for page in book.rglob("*.html"):
        text = page.read_text()
        assert re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text) == [], page.name
        assert (
            re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|preload)"[^>]+href="(?:https?:)?//', text)
            == []
        )
    for style in book.rglob("*.css"):
        assert "url(http" not in style.read_text(), style.name
