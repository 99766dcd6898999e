"""`perdure state …`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perdure.cli import show
from perdure.cli.actor import Instance, split_actor
from perdure.cli.failures import usage
from perdure.cli.options import DEFAULT_SERVER, AppId, AsJson, Server, Store
from perdure.cli.target import Reader, reader

app = typer.Typer(help="Shows the stored state of an actor, decoded.", no_args_is_help=True)

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TYPE/ID]", help="The actor; or use --instance.", show_default=False),
]
WordsAndKey = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TYPE/ID] KEY", help="The actor, unless --instance is used, and the key."),
]
PAGE = 1000


@app.command()
def keys(
    words: Words = None,
    instance: Instance = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin so.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 1000,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Lists the state keys of an actor or a workflow instance."""
    with reader(server, store, app_id) as source:
        type, id = _actor(source, words or [], instance)
        found = _keys(source, type, id, prefix, limit)
    if as_json:
        show.show_json(found)
        return
    rows = [(one["key"], one["size"]) for one in found["keys"]]
    show.show_table(("KEY", "BYTES"), rows, f"{type}/{id} has no state")
    if "cursor" in found:
        print(f"the first {limit}; --limit shows more")


def _keys(source: Reader, type: str, id: str, prefix: str | None, limit: int) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    cursor = None
    while len(found) < limit:
        query = {"prefix": prefix, "start": cursor, "limit": min(PAGE, limit - len(found))}
        page = source.keys(type, id, query)
        found += page["keys"]
        cursor = page.get("cursor")
        if cursor is None:
            return {"keys": found}
    return {"keys": found, "cursor": cursor}


@app.command()
def get(
    words: WordsAndKey = None,
    instance: Instance = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Shows one value: JSON either way."""
    if not words:
        raise usage("the key is missing: perdure state get TYPE/ID KEY")
    with reader(server, store, app_id) as source:
        type, id = _actor(source, words[:-1], instance)
        found = source.value(type, id, words[-1])
    show.show_json(found)


def _actor(source: Reader, words: list[str], instance: str | None) -> tuple[str, str]:
    if instance is not None:
        if words:
            raise usage(f"both --instance and the actor {' '.join(words)!r} are given; give one of them")
        return source.workflow_type(), instance
    if len(words) == 2:
        return words[0], words[1]
    if len(words) == 1:
        return split_actor(words[0])
    raise usage("no actor is given: write TYPE/ID, or --instance ID for a workflow instance")
