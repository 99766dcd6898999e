"""`perdure workflow …`: starting and looking."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from perdure.cli import show
from perdure.cli.complete import workflow_names
from perdure.cli.failures import usage
from perdure.cli.instance import show_end, show_instance
from perdure.cli.options import (
    DEFAULT_SERVER,
    AppId,
    AsJson,
    IdPrefix,
    InstanceId,
    Server,
    Statuses,
    Store,
    WorkflowName,
    read_json,
    read_key,
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
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The workflow's name.", autocompletion=workflow_names)
    ],
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="JSON", help="JSON, '-' for stdin, '@file' for a file."),
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The instance id; else one is made.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Begin then: 2030-01-31T12:00:00Z, or in 90s, 2h, P1D."),
    ] = None,
    if_exists: Annotated[
        str | None,
        typer.Option(
            "--if-exists", metavar="error|return|replace", help="What if an instance has the id; else error."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Idempotency key: the same again changes nothing."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="May be given again.")
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
        started = _start(target, name, payload, id, _options(at, if_exists, tag), read_key(key, "--key"))
        if wait:
            show_end(wait_until(target, started["instanceID"], "finished", seconds), as_json)
            return
    if as_json:
        show.show_json(started)
    else:
        print(show.clean(started["instanceID"]))


def _options(at: str | None, if_exists: str | None, tags: list[str] | None) -> dict[str, Any]:
    """What the API's query says of them."""
    if if_exists not in (None, "error", "return", "replace"):
        raise usage(f"--if-exists is {if_exists!r}; write error, return or replace")
    for tag in tags or ():
        if "=" not in tag:
            raise usage(f"--tag is {tag!r}; write NAME=VALUE")
    if at is not None:
        from perdure.duration import parse_moment
        from perdure.errors import InvalidInput

        try:
            parse_moment(at)
        except InvalidInput as error:
            raise usage(f"--at: {error}") from None
    return {"startTime": at, "ifExists": if_exists, "tag": tags or None}


def _start(
    target: Node, name: str, payload: bytes | None, id: str | None, options: dict[str, Any], key: str | None
) -> Any:
    if not name:
        raise usage("NAME is empty; give the workflow's name")
    if id is None or _DAPR_ID.fullmatch(id):
        from urllib.parse import quote

        path = f"/v1.0/workflows/dapr/{quote(name, safe='')}/start"
        return target.request("POST", path, {"instanceID": id, **options}, payload, key=key)
    # The start that is Dapr's takes only its narrow ids; the actor call takes them all.
    import json

    body = b'{"name":' + json.dumps(name).encode() + (b',"input":' + payload if payload else b"") + b"}"
    path = f"{actor_path(target.workflow_type(), id)}/method/start"
    return target.request("POST", path, options, body, key=key)


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
    status: Statuses = None,
    name: WorkflowName = None,
    prefix: IdPrefix = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 100,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Lists instances, newest first."""
    query = read_filter(status, name, prefix)
    with reader(server, store, app_id) as source:
        found = instances(source, query, limit)
    if as_json:
        show.show_json(found)
        return
    show.show_table(HEADINGS, map(instance_row, found["instances"]), "no instances", cut=True)
    if "cursor" in found:
        print(f"the {limit} newest; --limit shows more")


HEADINGS = ("ID", "WORKFLOW", "STATUS", "CREATED", "UPDATED", "")


def instance_row(one: dict[str, Any]) -> tuple[object, ...]:
    return (
        one["instanceID"],
        one["workflowName"],
        show.status_text(one["runtimeStatus"]),
        show.ago(one["createdAt"]),
        show.ago(one["lastUpdatedAt"]),
        one.get("reason") or show.value_of(one, "failure.error_message") or "",
    )


def instances(source: Reader, query: dict[str, Any], limit: int) -> dict[str, Any]:
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


def read_filter(status: list[str] | None, name: str | None, prefix: str | None) -> dict[str, Any]:
    """What a node is asked for by options that say which instances."""
    return {"status": _statuses(status), "name": name or None, "prefix": prefix or None}


def _statuses(given: list[str] | None) -> list[str]:
    """`usage` for a status that does not exist; several may be in one word, with commas."""
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
