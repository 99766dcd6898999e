"""docs/observability.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path

from perdure.workflow.monitor import Monitor

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
SOURCES = [
    Path(__file__).parents[2] / "src" / "perdure" / "telemetry" / "page.py",
]


def metrics() -> set[str]:
    found = {family.name for family in Monitor().families({})}
    for source in SOURCES:
        found |= set(re.findall(r'"((?:perdure|dapr)_[a-z_]+)"', source.read_text()))
    return found


def test_every_metric_is_in_the_page() -> None:
    named = set(re.findall(r"`((?:perdure|dapr)_[a-z_]+)`", PAGE))
    for name in list(named):
        if f"`{name}`, `…_latency`" in PAGE:
            named.add(name.removesuffix("_count") + "_latency")
    assert named == metrics()


def test_every_attribute_of_a_span_is_in_the_page() -> None:
    source = (Path(__file__).parents[2] / "src" / "perdure" / "telemetry" / "otel.py").read_text()
    used = set(re.findall(r'"((?:durabletask|perdure)\.[a-z_.]+)"', source)) - {"perdure.telemetry"}
    assert used == set(re.findall(r"`((?:durabletask|perdure)\.[a-z_.]+)`", PAGE)) - {"perdure.logs"}
