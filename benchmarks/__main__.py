"""`python -m benchmarks`: measures, prints tables to stdout, and writes the same as JSON."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import child, cluster, crash, scale, servers
from benchmarks.child import Spec
from benchmarks.limits import limits
from benchmarks.result import Figures, Report, Row, medians, progress
from benchmarks.sizes import FULL, PEER_SHARE, SHORT, Sizes

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

TITLES = {
    "limits": "What the machine can do",
    "W1": "W1: a chain of 10 activities, one workflow at a time",
    "W2": "W2: many workflows of 5 activities at once",
    "W3": "W3: one workflow, many activities at once",
    "W4": "W4: one workflow, many activities one after the other",
    "W5": "W5: event raised until completion seen",
    "W6": "W6: timers of 1 s",
    "W7": "W7: killed (SIGKILL) half way through workflows of 5 activities of 50 ms, and restarted",
    "W8": "W8: suspended instances in the store",
    "finished": "W2 again, with finished instances in the store",
    "history": "One instance with a long history",
    "restart": "Restart with instances in flight",
    "nodes": "W2 on several node processes, each with its own clients",
    "handover": "A second node joins one that has many instances in memory",
    "memory": "Two nodes, each with suspended instances",
}

PEERS = {"DBOS, SQLite as it comes": "delete", "DBOS, SQLite WAL FULL": "wal"}

PEER_NOTES = {
    ("W5", "delete"): "looks for events once a second",
    ("W5", "wal"): "set to look for events every 10 ms",
}


def main() -> None:
    options = _options()
    sizes = SHORT if options.short else FULL
    chosen = options.only or [name for name in TITLES if not (options.short and name in _LONG)]
    peers = options.peers and importlib.util.find_spec("dbos") is not None
    if options.peers and not peers:
        progress("DBOS is not installed (extra `bench`): no peer beside the figures")
    report = Report(short=options.short)
    for name in chosen:
        progress(f"{TITLES[name]} …")
        for row in _measure(name, sizes, options.store, peers):
            report.rows.append(Row(TITLES[name], row.subject, row.figures, row.note))
            progress(
                f"  {row.subject}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.figures.items())
            )
    print(report.tables())
    path = options.json or RESULTS / f"{'short' if options.short else 'full'}.json"
    report.write(path)
    progress(f"written to {path}")
    if options.page:
        report.write_page(PAGE)
        progress(f"written to {PAGE}")


#: What a short run leaves out.
_LONG = {"W8", "finished", "history", "restart", "nodes", "handover", "memory"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures Perdure on this machine."
    )
    parser.add_argument("--short", action="store_true", help="small sizes, about a minute in all")
    parser.add_argument("--only", type=_names, metavar="W1,W2", help=f"of: {', '.join(TITLES)}")
    parser.add_argument(
        "--store", type=_kinds, metavar="KIND,…", help=f"of: {', '.join(servers.TITLES)} (default: all)"
    )
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="DBOS beside it (extra `bench`)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="where to write (default: benchmarks/results/)"
    )
    parser.add_argument("--page", action="store_true", help="put the tables into docs/performance.md")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in TITLES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are: {', '.join(TITLES)}")
    return names


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := [kind for kind in kinds if kind not in servers.TITLES]:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; there are: {', '.join(servers.TITLES)}"
        )
    return kinds


def _measure(name: str, sizes: Sizes, stores: list[str] | None, peers: bool) -> Iterator[Row]:
    if name == "limits":
        with servers.folder() as folder:
            yield from limits(folder, sizes.limit_seconds)
        return
    subjects = {title: kind for kind, title in servers.TITLES.items() if stores is None or kind in stores}
    if name in ("W7", "restart"):
        yield from _crashes(name, sizes, subjects, peers)
    elif name in ("nodes", "handover", "memory"):
        yield from cluster.rows(name, sizes, [kind for kind in subjects.values() if kind in servers.SHARED])
    elif name in ("W8", "finished", "history"):
        if "sqlite" in subjects.values():
            with servers.folder() as folder:
                yield from scale.rows(name, sizes, folder)
    else:
        for title, kind in subjects.items():
            runs = [_perdure(name, sizes, kind) for _ in range(sizes.repeats)]
            yield Row(name, title, medians(runs))
        for title, journal in PEERS.items() if peers else ():
            runs = [_dbos(name, sizes, journal) for _ in range(sizes.repeats)]
            yield Row(name, title, medians(runs), PEER_NOTES.get((name, journal), ""))


def _counts(name: str, sizes: Sizes) -> tuple[int, int]:
    """How many, and for W5 how many more with 32 in flight."""
    counts = {
        "W1": sizes.chains,
        "W2": sizes.instances,
        "W3": sizes.fan_out,
        "W4": sizes.sequence,
        "W5": sizes.events,
        "W6": sizes.timers,
    }
    return counts[name], sizes.events_in_flight


def _perdure(name: str, sizes: Sizes, kind: str) -> Figures:
    count, in_flight = _counts(name, sizes)
    with servers.folder() as folder, servers.store_url(kind, folder) as url:
        figures: Figures = child.run(Spec("perdure", name, url, count, in_flight))
    return figures


def _dbos(name: str, sizes: Sizes, journal: str) -> Figures:
    count, in_flight = _counts(name, sizes)
    if name in ("W1", "W2", "W5"):  # figures of these are per workflow or event
        count, in_flight = max(5, count // PEER_SHARE), max(32, in_flight // PEER_SHARE)
    if name == "W5" and journal == "delete":
        count, in_flight = min(count, 10), min(in_flight, 64)
    with servers.folder() as folder:
        figures: Figures = child.run(Spec("dbos", name, f"{folder}/benchmark.db", count, in_flight, journal))
    return figures


def _crashes(name: str, sizes: Sizes, subjects: dict[str, str], peers: bool) -> Iterator[Row]:
    kill: Callable[[Spec, Path], Figures] = crash.half_way if name == "W7" else crash.in_flight
    count = sizes.killed if name == "W7" else sizes.in_flight

    def runs(spec: Callable[[Path], Spec]) -> Sequence[Figures]:
        found: list[Figures] = []
        for _ in range(sizes.repeats):
            with servers.folder() as folder:
                found.append(kill(spec(folder), folder))
        return found

    for title, kind in subjects.items():
        if kind == "sqlite":
            yield Row(
                name,
                title,
                medians(runs(lambda folder: Spec("perdure", "", f"sqlite:///{folder}/benchmark.db", count))),
            )
    if peers and name == "W7":
        yield Row(
            name,
            "DBOS, SQLite WAL FULL",
            medians(runs(lambda folder: Spec("dbos", "", f"{folder}/benchmark.db", count))),
        )


if __name__ == "__main__":
    main()
