"""Counters, histograms and their page, as Prometheus' own parser reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from perdure.metrics import (
    MOST_SERIES,
    OTHER,
    Counts,
    Distribution,
    Family,
    Sample,
    gauge,
    merged,
    number,
    page,
)

BOUNDS = (1.0, 2.5, 10)


def read(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a page, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_a_distribution_counts_what_it_was_given(values: list[float]) -> None:
    kept = Distribution(BOUNDS, "name")
    for value in values:
        kept.observe(value, "a")
    found = read(page([Family("x", "histogram", "X.", kept.samples({}))]))
    if not values:
        assert found == {}
        return
    labels = {("name", "a")}
    for bound in BOUNDS:
        below = sum(value <= bound for value in values)
        assert found["x_bucket", frozenset({*labels, ("le", number(bound))})] == below
    assert found["x_bucket", frozenset({*labels, ("le", "+Inf")})] == len(values)
    assert found["x_count", frozenset(labels)] == len(values)
    assert found["x_sum", frozenset(labels)] == pytest.approx(sum(values))


@given(st.text(), st.text())
def test_any_text_can_be_a_label(value: str, help: str) -> None:
    """Also line ends, quotes, backslashes and what no encoding has."""
    found = list(text_string_to_metric_families(page([gauge("x", help, 1, {"a": value})]).decode()))
    (sample,) = found[0].samples
    assert sample.value == 1
    if value.isascii():
        assert sample.labels == {"a": value}


def test_names_from_outside_do_not_fill_the_memory() -> None:
    counts, kept = Counts("name"), Distribution(BOUNDS, "name", "status")
    for index in range(MOST_SERIES + 500):
        counts.add(f"n-{index}")
        counts.add(f"n-{index}")
        kept.observe(1, f"n-{index}", "failed")
    for samples in (counts.samples({}), kept.counts({})):
        assert len(samples) == MOST_SERIES + 1
        assert sum(sample.value for sample in samples) in (MOST_SERIES + 500, 2 * (MOST_SERIES + 500))
        (rest,) = [sample for sample in samples if sample.labels["name"] == OTHER]
        assert rest.value in (500, 1000)
    long = Counts("name")
    long.add("x" * 10_000)
    long.add("x" * 10_000)
    (sample,) = long.samples({})
    assert (len(sample.labels["name"]), sample.value) == (256, 2)


def test_a_family_without_samples_is_left_out() -> None:
    assert page([Family("x", "counter", "X.", [])]) == b"\n"


def test_pages_of_several_sources() -> None:
    """Each name once, as Prometheus wants it, with the samples of all."""
    pages = {
        source: [
            Family("runs_total", "counter", "Runs.", [Sample({"a": "b"}, value)]),
            gauge("up", "Up.", 1),
        ]
        for source, value in (("n1", 1), ("n2", 2))
    }
    text = page(merged(pages, "node"))
    assert text.count(b"# TYPE runs_total counter") == text.count(b"# TYPE up gauge") == 1
    found = read(text)
    assert found["runs_total", frozenset({("a", "b"), ("node", "n2")})] == 2
    assert found["up", frozenset({("node", "n1")})] == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (True, "1"), (2.0, "2"), (0.0005, "0.0005"), (float("inf"), "+Inf"), (1e20, "1e+20")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
