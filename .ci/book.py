"""What mkdocs.yml has beyond mkdocs: the README is the first page, and files of the repository that pages link to come
along, as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Where such files are in the book.
SOURCE = "source"

_LINK = re.compile(r"\]\((?!https?:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """A page that mkdocs.yml does not list comes last, so that none is lost."""
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    listed = set(_pages(config.nav))
    more = sorted(there - listed)
    if more:
        config.nav.append({"More": more})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the README, and whatever a page links to outside of the folder `docs`."""
    from mkdocs.structure.files import File

    readme = re.sub(r"\]\(docs/", "](", (ROOT / "README.md").read_text())
    files.append(File.generated(config, "index.md", content=_linked(readme, ROOT, "")))
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for match in _LINK.finditer(page.read_text()):
            target = (page.parent / match["path"]).resolve()
            if _outside(target) and target.is_file():
                name = f"{SOURCE}/{target.relative_to(ROOT)}"
                # A Markdown file would become a page; here it is a text.
                name += ".txt" if target.suffix == ".md" else ""
                if files.get_file_from_path(name) is None:
                    files.append(File.generated(config, name, content=target.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri == "index.md":
        return markdown
    parent = Path(page.file.src_uri).parent
    return _linked(markdown, ROOT / "docs" / parent, "../" * len(parent.parts))


def _pages(nav: Any) -> Iterator[str]:
    """The files that a part of the navigation lists."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(entry)


def _linked(markdown: str, folder: Path, up: str) -> str:
    """Links to files outside of `docs` lead to their copies; `up` leads from the page to the book's root. Links to
    folders and to what is not there stay, and are warned of."""

    def replaced(match: re.Match[str]) -> str:
        target = (folder / match["path"]).resolve()
        if target == ROOT / "README.md":
            return f"]({up}index.md{match['anchor'] or ''})"
        if not _outside(target) or not target.is_file():
            return match[0]
        suffix = ".txt" if target.suffix == ".md" else ""
        return f"]({up}{SOURCE}/{target.relative_to(ROOT)}{suffix})"

    return _LINK.sub(replaced, markdown)


def _outside(target: Path) -> bool:
    return target.is_relative_to(ROOT) and not target.is_relative_to(ROOT / "docs")
