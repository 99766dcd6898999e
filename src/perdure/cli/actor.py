"""`perdure actor …`"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from perdure.cli import show
from perdure.cli.failures import usage
from perdure.cli.options import DEFAULT_SERVER, AppId, AsJson, Server, Store, read_json, read_key
from perdure.cli.remote import EMPTY, actor_path
from perdure.cli.target import node, reader

app = typer.Typer(help="Calls actors, and shows what will wake them.", no_args_is_help=True)

Actor = Annotated[str, typer.Argument(metavar="TYPE/ID", help="The actor.")]
Instance = Annotated[
    str | None, typer.Option("--instance", metavar="ID", help="The actor of this workflow instance.")
]


def split_actor(text: str) -> tuple[str, str]:
    type, slash, id = text.partition("/")
    if not slash or not type or not id:
        raise usage(f"{text!r} is no actor: write TYPE/ID, such as Cart/42")
    return type, id


@app.command()
def call(
    actor: Actor,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="The method's name.")],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON", help="JSON, '-' for stdin, '@file' for a file."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Idempotency key: the same again is not executed again."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Calls a method and shows its result."""
    type, id = split_actor(actor)
    path = f"{actor_path(type, id)}/method/{quote(method, safe='')}"
    payload = read_json(data, "--data")
    key = read_key(key, "--key")
    with node(server, store) as target:
        found = target.request("POST", path, None, payload, key=key)
    if found is not EMPTY:
        show.show_json(found)
    elif as_json:
        show.show_json(None)


@app.command()
def reminders(
    actor: Annotated[
        str | None, typer.Argument(metavar="[TYPE/ID]", help="The actor; or use --instance.")
    ] = None,
    instance: Instance = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Lists the timed reminders of an actor or a workflow instance."""
    if (actor is None) == (instance is None):
        raise usage("give either an actor, TYPE/ID, or --instance ID")
    with reader(server, store, app_id) as source:
        type, id = split_actor(actor) if actor is not None else (source.workflow_type(), str(instance))
        found = source.reminders(type, id)
    if as_json:
        show.show_json(found)
        return
    rows = [
        (
            one["name"],
            show.moment_text(str(one["dueTime"])),
            "" if one["data"] is None else show.compact(one["data"]),
        )
        for one in found["reminders"]
    ]
    show.show_table(("NAME", "DUE", "DATA"), rows, f"{type}/{id} has no reminders")
