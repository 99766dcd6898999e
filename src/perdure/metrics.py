"""Counters and histograms that cost a fraction of a microsecond, and their page in Prometheus' text format.

Counted on one event loop, without locks. Labels are bounded: what is beyond `MOST_SERIES` combinations of a family is
counted under `OTHER`, so that names from outside cannot fill the memory of this process or of who scrapes it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

import msgspec

#: Combinations of label values that one family tells apart.
MOST_SERIES = 1_000
#: Stands for every further one.
OTHER = "(other)"
#: Names are shown up to this many characters.
LONGEST_LABEL = 256

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of a page: the family's name and `suffix`, labels, value."""

    labels: dict[str, str]
    value: float
    suffix: str = ""


class Family(msgspec.Struct, frozen=True, array_like=True):
    """All samples of one name. Crosses between nodes as plain values."""

    name: str
    #: "counter", "gauge" or "histogram".
    kind: str
    help: str
    samples: list[Sample]


class Counts:
    """A counter per combination of label values."""

    __slots__ = ("_names", "_values")

    def __init__(self, *names: str) -> None:
        """`names`: the labels'."""
        self._names = names
        self._values: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        values = self._values
        if labels not in values:
            labels = _bounded(labels, values)
        values[labels] = values.get(labels, 0) + 1

    def samples(self, common: Mapping[str, str]) -> list[Sample]:
        return [
            Sample({**common, **dict(zip(self._names, labels, strict=True))}, value)
            for labels, value in self._values.items()
        ]


class Series:
    """How many observations were in each bucket, the last being for all that is above every bound; and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Distribution:
    """A histogram per combination of label values."""

    __slots__ = ("_bounds", "_names", "_series")

    def __init__(self, bounds: Sequence[float], *names: str) -> None:
        """`bounds`: the upper ends of the buckets, ascending, inclusive."""
        self._bounds = bounds
        self._names = names
        self._series: dict[tuple[str, ...], Series] = {}

    def observe(self, value: float, *labels: str) -> None:
        series = self._series.get(labels) or self.series(*labels)
        series.counts[bisect_left(self._bounds, value)] += 1
        series.total += value

    def observe_all(self, values: Iterable[float], *labels: str) -> None:
        """As `observe` for each, at a fraction of its cost."""
        ordered = sorted(values)
        series = self.series(*labels)
        before = 0
        for place, bound in enumerate(self._bounds):
            upto = bisect_right(ordered, bound)
            series.counts[place] += upto - before
            before = upto
        series.counts[-1] += len(ordered) - before
        series.total += sum(ordered)

    def series(self, *labels: str) -> Series:
        """What observations with these labels go to."""
        labels = _bounded(labels, self._series)
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Series(len(self._bounds) + 1)
        return found

    def samples(self, common: Mapping[str, str]) -> list[Sample]:
        found = []
        for values, series in self._series.items():
            labels = {**common, **dict(zip(self._names, values, strict=True))}
            so_far = 0
            for bound, count in zip((*self._bounds, float("inf")), series.counts, strict=True):
                so_far += count
                found.append(Sample({**labels, "le": number(bound)}, so_far, "_bucket"))
            found.append(Sample(labels, series.total, "_sum"))
            found.append(Sample(labels, so_far, "_count"))
        return found

    def counts(self, common: Mapping[str, str]) -> list[Sample]:
        """How many there were, alone."""
        return [
            Sample({**common, **dict(zip(self._names, values, strict=True))}, sum(series.counts))
            for values, series in self._series.items()
        ]


class Pending(dict[str, list[float]]):
    """Observations by their first label, not in their buckets yet: `pending[name].append(value)` is all that one costs.

    Whoever has one calls `settle` now and then, whether or not anybody reads the distribution: what waits is kept
    value by value."""

    __slots__ = ("_distribution", "_labels", "_unit")

    def __init__(self, distribution: Distribution, unit: float, *labels: str) -> None:
        """`unit`: how many of the values' units are one of the distribution's. `labels`: those after the first."""
        super().__init__()
        self._distribution = distribution
        self._unit = unit
        self._labels = labels

    def __missing__(self, name: str) -> list[float]:
        if len(self) >= MOST_SERIES:
            name = OTHER
        return self.setdefault(name, [])

    def settle(self) -> None:
        unit = self._unit
        for name, values in self.items():
            if values:
                self._distribution.observe_all([value / unit for value in values], name, *self._labels)
                # The same list: an effect of a turn under way may be its `append`.
                values.clear()


def _bounded(labels: tuple[str, ...], known: Mapping[tuple[str, ...], object]) -> tuple[str, ...]:
    shown = tuple(label[:LONGEST_LABEL] for label in labels)
    return shown if shown in known or len(known) < MOST_SERIES else (OTHER,) * len(labels)


def gauge(name: str, help: str, value: float, labels: Mapping[str, str] | None = None) -> Family:
    """A family of one sample."""
    return Family(name, "gauge", help, [Sample(dict(labels or {}), float(value))])


def merged(pages: Mapping[str, Iterable[Family]], label: str) -> list[Family]:
    """The families of several sources as one page: each sample says with `label` which source it is of."""
    found: dict[str, Family] = {}
    for source, families in pages.items():
        for family in families:
            whole = found.setdefault(family.name, Family(family.name, family.kind, family.help, []))
            whole.samples.extend(
                Sample({**sample.labels, label: source}, sample.value, sample.suffix)
                for sample in family.samples
            )
    return list(found.values())


def page(families: Iterable[Family]) -> bytes:
    """Prometheus' text format, version 0.0.4. Families without samples are left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{name}="{_quoted(value)}"' for name, value in sample.labels.items())
            braces = f"{{{labels}}}" if labels else ""
            lines.append(f"{family.name}{sample.suffix}{braces} {number(sample.value)}")
    # Ids and names may hold halves of a surrogate pair, which no encoding has.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def number(value: float) -> str:
    """As Prometheus reads it."""
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
