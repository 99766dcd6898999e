"""`perdure workflow watch`: a view that follows one instance, or the list, until there is nothing more to see."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli import history, show
from perdure.cli.complete import instance_ids, status_names, workflow_names
from perdure.cli.failures import usage
from perdure.cli.instance import check_end, failure_of, instance_fields
from perdure.cli.options import DEFAULT_SERVER, AsJson, Server, Store, read_seconds
from perdure.cli.remote import Node, Refused, Unreachable, instance_path
from perdure.cli.target import node
from perdure.cli.workflow import HEADINGS, app, instance_row, instances, read_filter

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

Json = dict[str, Any]

#: Seconds after which a node that gave no answer is asked again.
AGAIN = 1.0
#: What the API gives of a history at once.
PAGE = 1000
#: Lines of the terminal that are not for rows: headings, a note, the prompt.
MARGIN = 4
FINISHED = ("COMPLETED", "FAILED", "TERMINATED")


@app.command()
def watch(
    id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="One instance; without, the list.", autocompletion=instance_ids),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            "-s",
            metavar="STATUS",
            help="Of the list only these; may be given again.",
            autocompletion=status_names,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Of the list only this workflow.", autocompletion=workflow_names
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Of the list only ids that begin so.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE, help="How many at most.")] = 100,
    interval: Annotated[
        str, typer.Option("--interval", metavar="SECONDS", help="Between two looks (500ms, 2s).")
    ] = "1",
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Follows one instance until it has finished, or the list until Ctrl-C.

    In a terminal the view is drawn anew; elsewhere, and with --json, there is a line for each change. Exit status 1 if
    the instance failed or was terminated. A node that goes away is asked again until it is back.
    """
    seconds = max(read_seconds(interval, "--interval") or 0.0, 0.05)
    query = read_filter(status, name, prefix)
    if id is not None and any(query.values()):
        raise usage("--status, --name and --prefix are for the list, not for one instance")
    with node(server, store) as target, _output(as_json) as draw:
        if id is None:
            _watch_list(target, query, limit, seconds, draw)
        else:
            _watch_one(target, id, seconds, draw)


class Draw:
    """Shows what was found: drawn anew in a terminal, line by line elsewhere."""

    def __init__(self, as_json: bool, live: Live | None) -> None:
        self._as_json = as_json
        self._live = live
        self._seen: dict[str, Json] = {}
        self._note = ""

    @property
    def height(self) -> int:
        """Rows that can be seen at a time."""
        return 1_000_000 if self._live is None else max(self._live.console.height - MARGIN, 1)

    @property
    def drawn(self) -> bool:
        """Whether somebody sees a whole view, and not only what changed."""
        return self._live is not None

    def show(self, found: list[Json], view: Callable[[], RenderableType]) -> None:
        """`found`: the instances as they are now, newest first."""
        self._note = ""
        if self._live is not None:
            self._live.update(view(), refresh=True)
            return
        for one in reversed(found):
            if self._seen.get(one["instanceID"]) != one:
                self._say(one)
        self._seen = {one["instanceID"]: one for one in found}

    def trouble(self, note: str) -> None:
        """Said once, until something was found again."""
        if note != self._note:
            (self._live.console.print if self._live is not None else _complain)(show.one_line(note))
        self._note = note

    def _say(self, one: Json) -> None:
        if self._as_json:
            show.show_json_line(one)
        else:
            parts = (one["lastUpdatedAt"], one["instanceID"], one["workflowName"], one["runtimeStatus"])
            print(show.one_line("  ".join([*parts, *filter(None, [failure_of(one)])])), flush=True)


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _output(as_json: bool) -> Iterator[Draw]:
    if as_json or not sys.stdout.isatty():
        yield Draw(as_json, None)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield Draw(False, live)


def _answered(draw: Draw, first: bool, ask: Callable[[], Any]) -> Any:
    """The answer, however long the node is away; None: not yet. Who was never there is not waited for."""
    try:
        return ask()
    except Unreachable as error:
        if first:
            raise
        draw.trouble(f"{error}; trying again")
    except Refused as error:
        if error.http_status not in (503, 504):
            raise
        if error.http_status == 503:
            draw.trouble(f"{error}; trying again")
    time.sleep(AGAIN)
    return None


# --- one instance ----------------------------------------------------------------------------------------------------


def _watch_one(target: Node, id: str, seconds: float, draw: Draw) -> None:
    events = Events(target, id)
    found: Json | None = None
    while found is None or found["runtimeStatus"] not in FINISHED:
        if found is not None:
            _wait(target, id, seconds, draw)
        now = _answered(draw, found is None, lambda: target.workflow(id))
        if now is None or (draw.drawn and _answered(draw, False, partial(events.follow, now)) is None):
            continue
        found = now
        draw.show([now], partial(_one, now, events.last, draw.height))
    check_end(found)


def _wait(target: Node, id: str, seconds: float, draw: Draw) -> None:
    """Returns at the end of the instance, or when it is time to look again."""
    query = {"until": "finished", "timeout": f"{seconds:.3f}"}
    try:
        target.request("GET", f"{instance_path(id)}/wait", query)
    except Refused as refusal:
        if refusal.http_status == 503:
            time.sleep(seconds)
        elif refusal.http_status != 504:
            raise
    except Unreachable as error:
        draw.trouble(f"{error}; trying again")
        time.sleep(AGAIN)


class Events:
    """The history of an instance, as far as it was read."""

    def __init__(self, target: Node, id: str) -> None:
        self._target = target
        self._id = id
        self._execution = ""
        self._next = 0
        #: The last PAGE events, and the first one.
        self.last: list[Json] = []

    def follow(self, found: Json) -> list[Json]:
        """Reads what has been added since."""
        if found.get("executionID", "") != self._execution:
            self._execution, self._next, self.last = found.get("executionID", ""), 0, []
        while True:
            page = self._target.history(self._id, {"start": self._next, "limit": PAGE})
            self.last += page["events"]
            if page["events"]:
                self._next = page["events"][-1]["number"] + 1
            if len(self.last) > PAGE:
                self.last = [self.last[0], *self.last[-(PAGE - 1) :]]
            if page.get("next") is None:
                return self.last


def _one(found: Json, events: list[Json], height: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    fields = instance_fields(found)
    room = max(height - len(fields) - 2, 3)
    shown = events[-room:]
    rows = history.history_rows(shown, events[:1])
    parts: list[RenderableType] = [show.fields_table(fields), Text()]
    if len(shown) < len(events):
        parts.append(Text(f"… the last {len(shown)} events", style="dim"))
    if rows:
        parts.append(show.rows_table(history.HEADINGS, rows, show.terminal_width(), cut=True))
    return Group(*parts)


# --- the list --------------------------------------------------------------------------------------------------------


def _watch_list(target: Node, query: Json, limit: int, seconds: float, draw: Draw) -> None:
    first = True
    while True:
        most = min(limit, draw.height)
        found = _answered(draw, first, partial(instances, target, query, most))
        if found is not None:
            first = False
            draw.show(found["instances"], partial(_list, found))
        time.sleep(seconds)


def _list(found: Json) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    rows = [instance_row(one) for one in found["instances"]]
    more = " and more" if "cursor" in found else ""
    said = f"{show.counted(len(rows))}{more}, {datetime.now(UTC):%H:%M:%S} UTC"
    foot = Text(said, style="dim")
    if not rows:
        return foot
    return Group(show.rows_table(HEADINGS, rows, show.terminal_width(), cut=True), foot)
