"""`perdure workflow …`: what changes an instance that is there."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from perdure.cli import show
from perdure.cli.options import (
    DEFAULT_SERVER,
    AsJson,
    InstanceId,
    Reason,
    Recursive,
    Server,
    Store,
    read_json,
    read_key,
)
from perdure.cli.remote import instance_path
from perdure.cli.target import node
from perdure.cli.workflow import app


@app.command("raise")
def raise_(
    id: InstanceId,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's name.")],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON", help="JSON, '-' for stdin, '@file' for a file."),
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option("--event-id", metavar="ID", help="Yours: the same again changes nothing."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Raises an event that an instance waits for, or will."""
    path = f"{instance_path(id)}/raiseEvent/{quote(event, safe='')}"
    payload = read_json(data, "--data")
    with node(server, store) as target:
        target.request("POST", path, None, payload, key=read_key(event_id, "--event-id"))
    _say(f"raised {event} to {id}", as_json)


@app.command()
def pause(
    id: InstanceId,
    reason: Reason = "",
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Pauses an instance: what arrives waits until it is resumed."""
    _post(server, store, id, "pause", {"reason": reason or None})
    _say(f"paused {id}", as_json)


@app.command()
def resume(
    id: InstanceId,
    reason: Reason = "",
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Lets a paused or stalled instance go on."""
    _post(server, store, id, "resume", {"reason": reason or None})
    _say(f"resumed {id}", as_json)


@app.command()
def cancel(
    id: InstanceId,
    reason: Reason = "",
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Lets an instance come to an end by itself: its code may undo what it has done."""
    _post(server, store, id, "cancel", {"reason": reason or None})
    _say(f"cancelled {id}", as_json)


@app.command()
def terminate(
    id: InstanceId,
    output: Annotated[
        str | None, typer.Option("--output", metavar="JSON", help="Becomes its output.")
    ] = None,
    reason: Reason = "",
    recursive: Recursive = True,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Ends an instance, and its child workflows."""
    query = {"reason": reason or None, "recursive": None if recursive else "false"}
    payload = read_json(output, "--output")
    _post(server, store, id, "terminate", query, payload)
    _say(f"terminated {id}", as_json)


@app.command()
def purge(
    id: InstanceId,
    force: Annotated[
        bool, typer.Option("--force", help="Even if it has not finished, with all it owes.")
    ] = False,
    recursive: Recursive = True,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Removes a finished instance, and its child workflows."""
    query = {"force": "true" if force else None, "recursive": None if recursive else "false"}
    _post(server, store, id, "purge", query)
    _say(f"purged {id}", as_json)


@app.command()
def rerun(
    id: InstanceId,
    from_event: Annotated[
        int | None,
        typer.Option("--from-event", metavar="N", min=0, help="Go on from this history event; else anew."),
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--new-id", metavar="ID", help="The new instance's id; else one is made.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", metavar="JSON", help="Another input: '-' for stdin, '@file' for a file."
        ),
    ] = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Runs a finished instance again, as a new one, and prints its id."""
    payload = read_json(input, "--input")
    query = {"fromEvent": from_event, "instanceID": new_id}
    started = _post(server, store, id, "rerun", query, payload)
    if as_json:
        show.show_json(started)
    else:
        print(show.clean(started["instanceID"]))


def _post(
    server: str, store: str | None, id: str, what: str, query: dict[str, Any], payload: bytes | None = None
) -> Any:
    with node(server, store) as target:
        return target.request("POST", f"{instance_path(id)}/{what}", query, payload)


def _say(done: str, as_json: bool) -> None:
    if as_json:
        show.show_json({})
    else:
        print(show.clean(done))
