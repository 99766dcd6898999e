"""`perdure workflow …`: starting and looking."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from perdure.cli import show
from perdure.cli.failures import usage
from perdure.cli.instance import show_end, show_instance
from perdure.cli.options import (
    DEFAULT_SERVER,
    AppId,
    AsJson,
    InstanceId,
    Server,
    Store,
    read_json,
    read_seconds,
)
from perdure.cli.remote import Node, actor_path
from perdure.cli.target import Reader, node, reader
from perdure.cli.waiting import wait_until

app = typer.Typer(help="Starts, watches and steers workflow instances.", no_args_is_help=True)

Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="SECONDS", help="Wait at most so long (30, 90s, 1h).")
]
#: What the API takes at once.
PAGE = 1000
_DAPR_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@app.command()
def start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The workflow's name.")],
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="JSON", help="JSON, '-' for stdin, '@file' for a file."),
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The instance id; else one is made.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end, and show it.")] = False,
    timeout: Timeout = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Starts a workflow and prints the instance's id."""
    payload = read_json(input, "--input")
    seconds = read_seconds(timeout, "--timeout")
    with node(server, store) as target:
        started = _start(target, name, payload, id)
        if wait:
            show_end(wait_until(target, started["instanceID"], "finished", seconds), as_json)
            return
    if as_json:
        show.show_json(started)
    else:
        print(show.clean(started["instanceID"]))


def _start(target: Node, name: str, payload: bytes | None, id: str | None) -> Any:
    if not name:
        raise usage("NAME is empty; give the workflow's name")
    if id is None or _DAPR_ID.fullmatch(id):
        from urllib.parse import quote

        path = f"/v1.0/workflows/dapr/{quote(name, safe='')}/start"
        return target.request("POST", path, {"instanceID": id}, payload)
    # The start that is Dapr's takes only its narrow ids; the actor call takes them all.
    import json

    body = b'{"name":' + json.dumps(name).encode() + (b',"input":' + payload if payload else b"") + b"}"
    return target.request("POST", f"{actor_path(target.workflow_type(), id)}/method/start", None, body)


@app.command()
def get(
    id: InstanceId,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Shows one instance."""
    with reader(server, store, app_id) as source:
        found = source.workflow(id)
    show_instance(found, as_json)


@app.command()
def wait(
    id: InstanceId,
    until: Annotated[str, typer.Option("--until", metavar="started|finished", help="What for.")] = "finished",
    timeout: Timeout = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Waits until an instance has finished, and shows it. Exit status 1 if it failed or was terminated."""
    if until not in ("started", "finished"):
        raise usage(f"--until is {until!r}; write started or finished")
    seconds = read_seconds(timeout, "--timeout")
    with node(server, store) as target:
        show_end(wait_until(target, id, until, seconds), as_json)


@app.command("list")
def list_(
    status: Annotated[
        list[str] | None,
        typer.Option("--status", "-s", metavar="STATUS", help="Only these; may be given again."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only this workflow.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Only ids that begin so.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 100,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Lists instances, newest first."""
    query = {"status": _statuses(status), "name": name or None, "prefix": prefix or None}
    with reader(server, store, app_id) as source:
        found = _instances(source, query, limit)
    if as_json:
        show.show_json(found)
        return
    rows = [
        (
            one["instanceID"],
            one["workflowName"],
            show.status_text(one["runtimeStatus"]),
            show.ago(one["createdAt"]),
            show.ago(one["lastUpdatedAt"]),
            one.get("reason") or show.value_of(one, "failure.error_message") or "",
        )
        for one in found["instances"]
    ]
    show.show_table(("ID", "WORKFLOW", "STATUS", "CREATED", "UPDATED", ""), rows, "no instances")
    if "cursor" in found:
        print(f"the {limit} newest; --limit shows more")


def _instances(source: Reader, query: dict[str, Any], limit: int) -> dict[str, Any]:
    found: dict[str, Any] = {"instances": []}
    cursor = None
    while len(found["instances"]) < limit:
        page = source.workflows(
            {**query, "cursor": cursor, "limit": min(PAGE, limit - len(found["instances"]))}
        )
        found["instances"] += page["instances"]
        cursor = page.get("cursor")
        if cursor is None:
            return found
    return {**found, "cursor": cursor}


def _statuses(given: list[str] | None) -> list[str]:
    from perdure.workflow.state import RuntimeStatus

    found = [word.strip().lower() for one in given or () for word in one.split(",") if word.strip()]
    known = [status.value for status in RuntimeStatus]
    for word in found:
        if word not in known:
            raise usage(f"--status {word!r} does not exist; there are: {', '.join(known)}")
    return found


@app.command()
def history(
    id: InstanceId,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Shows an instance's history."""
    from perdure.cli.history import show_history

    with reader(server, store, app_id) as source:
        events = _events(source, id)
    if as_json:
        show.show_json({"events": events})
    else:
        show_history(events)


def _events(source: Reader, id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None:
        page = source.history(id, {"start": start, "limit": PAGE})
        found += page["events"]
        start = page.get("next")
    return found
