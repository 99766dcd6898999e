"""The parts of the PostgreSQL store that need no server."""

from __future__ import annotations

import string
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.errors import ConfigurationError, StoreError, StoreUnavailable
from perdure.statestore import open_store
from perdure.statestore.keys import split
from perdure.statestore.postgres import batch, reads
from perdure.statestore.postgres.ids import lock_key, storable, type_number
from perdure.statestore.postgres.lineage import Lineage, Server
from perdure.statestore.postgres.options import parse
from perdure.statestore.postgres.places import after, key, place
from perdure.testing.store_contract import actor_id, put, reminder, row

# --- places --------------------------------------------------------------------------------------------------------

KEYS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.builds(
        "{}-{}".format,
        st.text("a-\0\x01\xff0z\U0010ffff", max_size=4),
        st.text(string.digits, min_size=5, max_size=19),
    ),
)


@given(st.lists(KEYS, max_size=20))
@example(["a-000001", "a-\0-000001", "a-b-000001", "a-", "a-999999", "a-1000000", "a-0000001"])
def test_the_order_of_places_is_that_of_keys(keys: list[str]) -> None:
    assert sorted(keys, key=place) == sorted(keys, key=split)
    assert [key(place(one)) for one in keys] == keys


@given(st.binary(max_size=3), st.binary(max_size=3))
def test_what_comes_after_a_prefix(prefix: bytes, rest: bytes) -> None:
    prefix = b"\0" + prefix
    assert prefix + rest < after(prefix)
    assert after(prefix)[:-1] <= prefix


@given(KEYS, st.text("a-\0\x0109", max_size=5), st.none() | KEYS)
@example("x-000012", "x-00", None)
@example("x-000012", "x-", "x-000012")
@example("x-0000012", "x-00", "w")
def test_ranges_hold_all_keys_with_a_prefix(one: str, prefix: str, start: str | None) -> None:
    """And no key twice; those without the prefix are only numbers of a family that its end names."""
    ranges = reads.key_ranges(prefix, start)
    found = [low for low, high in ranges if low <= place(one) < high]
    wanted = one.startswith(prefix) and (start is None or split(one) >= split(start))
    assert len(found) <= 1
    assert bool(found) >= wanted
    if found and not wanted:
        assert split(one).numbered
        assert prefix[-1:].isdigit()
    assert ranges == sorted(ranges)


# --- commits as arrays ---------------------------------------------------------------------------------------------


def test_commits_are_ordered_as_the_index_is() -> None:
    """So that two batches never wait for each other in a circle."""
    commits = [
        put(actor_id(name, kind), None, {"a": b"1"}) for name in ("z", "é", "b") for kind in ("T", "U")
    ]
    called = batch.call(commits)
    ids = called.arguments[4]
    assert [commits[at].actor.id for at in called.order] == list(ids)
    ordered = [(type_number(commits[at].actor.type), commits[at].actor.id.encode()) for at in called.order]
    assert ordered == sorted(ordered)
    assert called.arguments[3] == sorted(called.arguments[3])


def test_a_numbered_key_is_new_unless_its_family_is_known_to_be_rewritten() -> None:
    commits = [put(actor_id(), None, {"history-000001": b"h", "x-000001": b"x", "plain": b"p"})]
    called = batch.call(commits)
    assert [list(column) for column in called.arguments[11:14]] == [
        [1, 1],
        [place("history-000001"), place("x-000001")],
        [b"h", b"x"],
    ]
    assert called.fresh == {place("history-000001")[:-8], place("x-000001")[:-8]}
    again = batch.call(commits, {place("x-000001")[:-8]})
    assert again.arguments[12] == (place("history-000001"),)
    assert set(again.arguments[15]) == {place("x-000001"), place("plain")}


@pytest.mark.parametrize(
    "commit",
    [
        put(actor_id("a\0b"), None, {}),
        put(actor_id(), None, {"\ud800": b""}),
        put(actor_id(), None, {}, delete=["\ud800"]),
        put(actor_id(), None, {}, reminders=[reminder(actor_id(), "\0", 1)]),
        put(actor_id(), None, {}, reminders=[reminder(actor_id(), "r", 2**63)]),
        put(actor_id(), None, {}, delete_reminders=["\ud800"]),
        put(actor_id(), None, {}, row=row(actor_id(), 1, "\0")),
        put(actor_id(), None, {}, row=row(actor_id(), 2**70)),
        put(actor_id(), None, {}, partition=-1),
        put(actor_id(), None, {}, partition=2**31),
    ],
)
def test_what_can_never_be_stored_is_told_apart(commit: object) -> None:
    assert batch.unstorable(commit)  # type: ignore[arg-type]


def test_what_can_be_stored() -> None:
    assert batch.unstorable(put(actor_id("é"), None, {"\0": b"\0", "x-000001": b""})) is None
    assert storable("\x01\U0010ffff")
    with pytest.raises(StoreError):
        batch.call([put(actor_id(), None, {}, partition=-1)])


def test_numbers_are_the_same_everywhere() -> None:
    """They are in stored rows and in locks of other releases: golden values."""
    assert type_number("dapr.internal.default.orders.workflow") == -5301674333031355316
    assert lock_key("perdure", "lease placement") == 1556618799551668809


# --- options -------------------------------------------------------------------------------------------------------


def test_a_plain_url() -> None:
    options = parse(urlsplit("postgresql://user:secret@host:5433/db"))
    assert options.dsn == options.direct == "postgresql://user:secret@host:5433/db"
    assert (options.schema, options.connections, options.timeout) == ("perdure", 8, 10.0)
    assert options.where == "postgresql://host:5433/db"


def test_hosts() -> None:
    for hosts in ("h", "h:5432", "[::1]", "[::1]:5432", "user:a%40b@h,[::1]:2", ""):
        assert parse(urlsplit(f"postgresql://{hosts}/db")).dsn.startswith(f"postgresql://{hosts}/db")


def test_options_and_what_is_for_the_driver() -> None:
    options = parse(
        urlsplit(
            "postgres://h1:1,h2:2/db?schema=a_1&sslmode=verify-full&sslrootcert=/ca%20x.pem&connections=3&timeout=2.5"
            "&pooler=transaction&direct=postgresql%3A%2F%2Fh3%2Fdb"
        )
    )
    assert options.dsn == (
        "postgres://h1:1,h2:2/db?sslmode=verify-full&sslrootcert=%2Fca+x.pem&target_session_attrs=primary"
    )
    assert (options.schema, options.connections, options.timeout) == ("a_1", 3, 2.5)
    assert (options.pooler, options.direct) == ("transaction", "postgresql://h3/db")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("schema=Bad", "schema is lower-case"),
        ("schema=a%3Bdrop", "schema is lower-case"),
        ("schema=", "schema is lower-case"),
        ("connections=1", "from 2 to 1000"),
        ("connections=many", "from 2 to 1000"),
        ("timeout=0", "from 0.1 to 3600"),
        ("timeout=nan", "from 0.1 to 3600"),
        ("pooler=session", "one of auto, none, transaction"),
        ("synchronous_commit=maybe", "one of on, off"),
        ("synchronous_commit=off&pooler=transaction", "through a pooler"),
        ("direct=mysql%3A%2F%2Fh", "direct is a postgresql:// URL"),
        ("colour=blue", "no option 'colour'"),
        ("nonsense", "name=value"),
    ],
)
def test_wrong_options(query: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store(f"postgresql://user:secret@host/db?{query}")


def test_a_password_is_never_shown() -> None:
    for url in (
        "postgresql://user:secret@host/db?password=secret",
        "postgresql://user:secret@host/db?secrets=secret",
        "postgersql://user:secret@host/db",
        "postgersql://user:secret@x@host/db",
        "postgresql://user:secret/'more@host/db",
        "postgresql://user:x?secret'@host/db",
        "postgresql://user:x#secret'@host/db",
        "postgresql://user:secret'",
    ):
        with pytest.raises(ConfigurationError) as error:
            open_store(url)
        assert "secret" not in str(error.value).replace("no option 'secrets'", "")


# --- lineage -------------------------------------------------------------------------------------------------------

FIRST = Server(system=1, timeline=3, started="a", position=100, durable=True)


def test_what_is_no_rollback() -> None:
    """The first server; another connection to it; a restart of one that keeps what it acknowledged."""
    lineage = Lineage()
    assert lineage.admit(FIRST, broke=True) is None
    assert lineage.admit(FIRST._replace(position=200), broke=False) is None
    assert lineage.admit(FIRST._replace(position=300, started="b"), broke=True) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system": 2}, "another database cluster"),
        ({"timeline": 4}, "replica was promoted"),
        ({"position": 99}, "ends earlier"),
    ],
)
def test_what_is_one(change: dict[str, int], reason: str) -> None:
    lineage = Lineage()
    lineage.admit(FIRST, broke=False)
    then = FIRST._replace(**change)
    assert reason in str(lineage.admit(then, broke=True))
    assert lineage.admit(then._replace(position=1000), broke=True) is None


def test_a_server_that_acknowledges_early() -> None:
    """Whenever it was interrupted, or may have been."""
    early = FIRST._replace(durable=False)
    lineage = Lineage()
    lineage.admit(early, broke=False)
    assert lineage.admit(early._replace(position=200), broke=False) is None
    assert "interrupted" in str(lineage.admit(early._replace(position=300), broke=True))
    assert "interrupted" in str(lineage.admit(early._replace(position=400, started="b"), broke=False))


def test_an_old_primary_is_refused() -> None:
    lineage = Lineage()
    lineage.admit(FIRST, broke=False)
    lineage.admit(FIRST._replace(timeline=4), broke=False)
    with pytest.raises(StoreUnavailable, match="old primary"):
        lineage.admit(FIRST, broke=False)
    assert lineage.admit(FIRST._replace(timeline=4, position=200), broke=False) is None
