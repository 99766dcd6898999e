"""What was measured: rows, printed as tables and kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

Figures = dict[str, float]

#: The heading of a page below which tables are put.
FIGURES = "## Figures"


@dataclass(frozen=True)
class Row:
    """One subject's figures for one workload. A figure's name carries its unit."""

    workload: str
    subject: str
    figures: Figures
    note: str = ""


@dataclass
class Report:
    """All rows of one run, in order."""

    short: bool
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: dict[str, str] = field(default_factory=lambda: describe_machine())
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def tables(self) -> str:
        """Markdown: one table per workload, since each has its own figures."""
        parts: list[str] = []
        for workload in dict.fromkeys(row.workload for row in self.rows):
            rows = [row for row in self.rows if row.workload == workload]
            parts.append(f"### {workload}\n\n{_table(rows)}")
        return "\n\n".join(parts)

    def write_page(self, page: Path) -> None:
        """Replaces what the page has below its heading for figures."""
        text, heading, _ = page.read_text().partition(FIGURES)
        if not heading:
            raise ValueError(f"{page} has no heading {FIGURES!r}")
        facts = {"measured": self.started, "sizes": "small" if self.short else "full", **self.machine}
        lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
        page.write_text(f"{text}{FIGURES}\n\n{lines}\n\n{self.tables()}\n")


def medians(runs: Sequence[Figures]) -> Figures:
    """Each figure's median over all runs."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def describe_machine() -> dict[str, str]:
    """What a reader needs to know before comparing figures."""
    found = {
        "cpu": _cpu(),
        "cores": str(_cores()),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in ("perdure", "dbos"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    noted = any(row.note for row in rows)
    header = ["subject", *names, *(["note"] if noted else [])]
    body = [
        [row.subject, *(_shown(row.figures.get(name)) for name in names), *([row.note] if noted else [])]
        for row in rows
    ]
    widths = [max(len(line[at]) for line in [header, *body]) for at in range(len(header))]
    numeric = range(1, 1 + len(names))

    def line(cells: Iterable[str]) -> str:
        padded = (
            cell.rjust(width) if at in numeric else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join(
        "-" * (width + 1) + (":" if at in numeric else "-") for at, width in enumerate(widths)
    )
    return "\n".join([line(header), rule + "|", *(line(cells) for cells in body)])


def _shown(value: float | None) -> str:
    """Three digits that count, thousands apart."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def progress(text: str) -> None:
    """Tells the person who waits; the tables go to stdout alone."""
    print(text, file=sys.stderr, flush=True)
