"""Stores from their URLs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.errors import ConfigurationError
from perdure.statestore import open_store


def test_memory() -> None:
    """Without a name each is its own; with one it is shared in the process."""
    assert open_store("memory://") is not open_store("memory://")
    assert open_store("memory://shared", partitions=8) is open_store("memory://shared")
    with pytest.raises(ConfigurationError, match="8 partitions"):
        open_store("memory://shared", partitions=9)


async def test_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes are relative, four absolute."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///a%20b.db", f"sqlite:///{tmp_path}/c.db?synchronous=normal"):
        store = open_store(url)
        await store.health()
        await store.close()
    assert {"a b.db", "c.db"} <= set(os.listdir(tmp_path))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nothing", "known are memory://, sqlite://"),
        ("mysql://x", "not the URL"),
        ("sqlite://relative.db", "sqlite:///file.db"),
        ("sqlite:///", "names no file"),
        ("sqlite:////no/such/folder/x.db", "folder"),
        ("sqlite:///x.db?cache=1", "no option 'cache'"),
        ("sqlite:///x.db?synchronous=off", "'full' or 'normal'"),
        ("memory://x?a=b", "no option 'a'"),
    ],
)
def test_wrong_urls(url: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what would be right."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=reason):
        open_store(url)
