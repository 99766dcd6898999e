"""What may be an actor type, an id, a name and a key, and what the error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.actors import ids
from perdure.errors import ConfigurationError, InvalidId, InvalidInput
from perdure.statestore.contract import ActorId, Commit, Fence, StateStore, TypePartition
from perdure.statestore.memory import MemoryStore
from perdure.statestore.urls import open_store

WRONG = ["", "a/b", "a\nb", "\x7f", "\x85", "x" * 257, "é" * 129, "\ud800"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(InvalidId, match=r"^the actor id "):
        ids.check_actor(ActorId("Cart", text))
    with pytest.raises(InvalidInput, match=r"^the actor type "):
        ids.check_actor(ActorId(text, "42"))
    with pytest.raises(InvalidInput, match=r"^the name of the reminder "):
        ids.check_name(text, "reminder")
    with pytest.raises(ConfigurationError):
        ids.check_user_type(text)


@pytest.mark.parametrize("text", ["a", "x" * 256, "é" * 128, "order 7||x", "-", "日本"])
def test_what_is_one(text: str) -> None:
    assert ids.check_actor(ActorId(text, text)) == (text, text)


def test_reserved_types_are_refused_to_users_only() -> None:
    name = "dapr.internal.default.app.workflow"
    assert ids.check_type(name) == name
    with pytest.raises(ConfigurationError, match=r"reserved.*dapr\.internal\..*Perdure's own"):
        ids.check_user_type(name)


def test_keys() -> None:
    for key in ("a", "a/b", "order-100001", "x-0000012", "inbox-12", "metadata"):
        assert ids.check_key(key) == key
    for key in ("", "a\0", "inbox-000001", "outbox-1000000", "history-000000"):
        with pytest.raises(InvalidInput, match=r"^the state key "):
            ids.check_key(key)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_numbered_keys_of_users_are_keys_like_any_other(kind: str, tmp_path: Path) -> None:
    store: StateStore = MemoryStore() if kind == "memory" else open_store(f"sqlite:///{tmp_path}/keys.db")
    actor = ActorId("Cart", "42")
    keys = [
        "order-000001",
        "order-100001",
        "order-1000000",
        "order-0000012",
        "order-12",
        "-000001",
        "metadata",
    ]
    await store.take([TypePartition("Cart", 0)], Fence(1, 1))
    put = {ids.check_key(key): key.encode() for key in keys}
    await store.commit([Commit(actor, 0, Fence(1, 1), None, b"v" * 16, put)])
    snapshot = await store.load(actor)
    assert snapshot is not None
    assert snapshot.complete
    assert dict(snapshot.values) == put
    for key in keys:
        page = await store.keys(actor, key, key, 1)
        assert page.items[0] == (key, key.encode())
    await store.close()
