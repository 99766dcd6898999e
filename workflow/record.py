"""One instance as it is stored, key by key: a line of the file that is exported and imported."""

from __future__ import annotations

import msgspec

from perdure.errors import InvalidInput

#: The form of a record. One with a higher number is of a later release.
FORMAT = 1


class Wake(msgspec.Struct, frozen=True, omit_defaults=True):
    """A timed reminder."""

    name: str
    #: Microseconds since 1970 UTC.
    due: int
    data: bytes = b""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """In JSON, bytes are base64."""

    format: int = msgspec.field(name="perdure")
    #: The actor type, which names namespace and app.
    type: str
    id: str
    #: For people who look at the file; what counts is in `values`.
    workflow: str = ""
    status: str = ""
    values: dict[str, bytes]
    reminders: list[Wake] = []


_decoder = msgspec.json.Decoder(Record)
#: A record as one line of JSON, without its end.
encode = msgspec.json.Encoder().encode


def decode(line: bytes) -> Record:
    """`InvalidInput` when it is no record, or one of a later release."""
    try:
        found = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this is not an exported instance: {error}") from error
    if not 1 <= found.format <= FORMAT:
        raise InvalidInput(
            f"this instance was exported by a later release (its form is {found.format}, this release knows {FORMAT}): "
            "use that release"
        )
    return found
