"""Key texts and their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.statestore.keys import join, numbered, split


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("history-000012", (1, "history-", 12)),
        ("history-1000000", (1, "history-", 1_000_000)),
        ("-000000", (1, "-", 0)),
        ("a-b-000001", (1, "a-b-", 1)),
        ("metadata", (0, "metadata", 0)),
        ("x-12345", (0, "x-12345", 0)),
        ("x-0000012", (0, "x-0000012", 0)),
        ("x-00000a", (0, "x-00000a", 0)),
        ("x-\u0660\u0660\u0660\u0660\u0660\u0661", (0, "x-\u0660\u0660\u0660\u0660\u0660\u0661", 0)),
        ("x-" + "9" * 18, (1, "x-", 10**18 - 1)),
        ("x-" + "9" * 19, (0, "x-" + "9" * 19, 0)),
        ("", (0, "", 0)),
    ],
)
def test_split(key: str, parts: tuple[int, str, int]) -> None:
    assert split(key) == parts


@given(st.text(alphabet="ab-0123456789é"))
def test_a_key_has_one_form(key: str) -> None:
    """No two keys have the same parts: what is split can be joined again."""
    assert join(*split(key)) == key


@given(st.lists(st.integers(0, 10**8), unique=True))
def test_numeric_order(numbers: list[int]) -> None:
    """A family's keys are ordered by number, also beyond six digits."""
    keys = [numbered("history-", number) for number in numbers]
    assert [split(key).seq for key in sorted(keys, key=split)] == sorted(numbers)
