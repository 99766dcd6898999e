"""`perdure export` and `perdure import`: instances as JSON Lines, each with every state key as it is stored."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli import show
from perdure.cli.complete import instance_ids
from perdure.cli.failures import CommandError, usage
from perdure.cli.options import DEFAULT_SERVER, AppId, AsJson, IdPrefix, Server, Statuses, Store, WorkflowName
from perdure.cli.remote import Refused, Unreachable
from perdure.cli.target import Reader, importer, reader
from perdure.cli.workflow import PAGE, read_filter
from perdure.errors import InvalidInput, PerdureError, StoreUnavailable

if TYPE_CHECKING:
    from perdure.workflow.record import Record

Json = dict[str, Any]

#: How many of those that could not be transferred are named.
NAMED = 3


def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Where to; '-' is standard output.", show_default=False)
    ] = "-",
    id: Annotated[
        list[str] | None,
        typer.Option(
            "--id", metavar="ID", help="Only this instance; may be given again.", autocompletion=instance_ids
        ),
    ] = None,
    status: Statuses = None,
    name: WorkflowName = None,
    prefix: IdPrefix = None,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    app_id: AppId = None,
    as_json: AsJson = False,
) -> None:
    """Writes workflow instances to a file: one a line, as JSON, with every state key as it is stored.

    Each is as one of its commits left it. While nodes run, two instances may be of different moments. A file is
    complete or not there.
    """
    query = read_filter(status, name, prefix)
    if id and any(query.values()):
        raise usage("give either --id, or --status, --name and --prefix")
    done, failed = 0, list[tuple[str, str]]()
    with reader(server, store, app_id) as source, _written(file) as out:
        for one in id or _ids(source, query):
            try:
                line = source.record(one)
            except (Unreachable, StoreUnavailable):
                raise
            except (CommandError, PerdureError) as error:
                if id or not (isinstance(error, Refused) and error.http_status == 404):
                    # Otherwise it was purged meanwhile.
                    failed.append((one, str(error)))
                continue
            out.write(line + b"\n")
            done += 1
    _tell("exported", done, failed, as_json, quiet=file == "-")


def _ids(source: Reader, query: Json) -> Iterator[str]:
    cursor = None
    while True:
        page = source.workflows({**query, "cursor": cursor, "limit": PAGE})
        for one in page["instances"]:
            yield one["instanceID"]
        cursor = page.get("cursor")
        if cursor is None:
            return


@contextmanager
def _written(name: str) -> Iterator[IO[bytes]]:
    """A file that gets its name when all is in it."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    try:
        part = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from None
    try:
        with part:
            yield part
            part.flush()
            os.fsync(part.fileno())
        os.replace(part.name, path)
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part.name)


def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What 'perdure export' wrote; '-' is standard input.")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Instances with the same ids, whatever they do, are replaced.")
    ] = False,
    server: Server = DEFAULT_SERVER,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Puts exported instances into a store, where each goes on as it was: timers that are overdue fire, and activities
    that had not answered run again.

    A file in which anything is wrong is refused whole. An instance whose id exists is left out, and so is what is there
    already when the same import is begun again; then the exit status is 1.
    """
    done, failed = 0, list[tuple[str, str]]()
    with _lines(file) as lines:
        total = _check(file, lines)
        with importer(server, store) as target:
            for line, record in _records(file, lines):
                try:
                    target.add(record, line, replace)
                except (Unreachable, StoreUnavailable) as error:
                    raise CommandError(f"{error}; {done} of {total} were imported before") from None
                except (Refused, PerdureError) as error:
                    failed.append((record.id, str(error)))
                else:
                    done += 1
    _tell("imported", done, failed, as_json)


@contextmanager
def _lines(name: str) -> Iterator[IO[bytes]]:
    """What can be read twice."""
    if name == "-":
        with tempfile.TemporaryFile() as file:
            while piece := sys.stdin.buffer.read(1 << 20):
                file.write(piece)
            yield file
        return
    try:
        opened = open(name, "rb")  # noqa: SIM115
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from None
    with opened:
        yield opened


def _check(name: str, lines: IO[bytes]) -> int:
    """How many there are; `CommandError` when any is no instance, or is there twice."""
    from perdure.workflow.transfers import check

    seen: dict[tuple[str, str], int] = {}
    for number, record in enumerate((record for _, record in _records(name, lines)), 1):
        try:
            check(record)
        except InvalidInput as error:
            raise CommandError(f"{name}, instance {number}: {error.message}; nothing was imported") from None
        before = seen.setdefault((record.type, record.id), number)
        if before != number:
            raise CommandError(f"{name} has {record.id!r} twice; nothing was imported")
    return len(seen)


def _records(name: str, lines: IO[bytes]) -> Iterator[tuple[bytes, Record]]:
    from perdure.workflow import record as records

    lines.seek(0)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield line, records.decode(line)
        except InvalidInput as error:
            raise CommandError(f"{name}, line {number}: {error.message}; nothing was imported") from None


def _tell(did: str, done: int, failed: list[tuple[str, str]], as_json: bool, *, quiet: bool = False) -> None:
    """What came of it; `CommandError` when something did not go."""
    if as_json and not quiet:
        refused = [{"instanceID": id, "message": message} for id, message in failed]
        show.show_json({did: done, "failed": refused})
    elif not quiet:
        print(f"{did} {show.counted(done)}")
    if failed:
        named = "; ".join(f"{id}: {message}" for id, message in failed[:NAMED])
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        were = "was" if len(failed) == 1 else "were"
        raise CommandError(f"{show.counted(len(failed))} {were} not {did}: {named}{more}")
