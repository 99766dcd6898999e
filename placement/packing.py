"""Compresses what is long of what is stored and sent."""

from __future__ import annotations

import zlib

#: Bytes above which it is worth it: tables shrink to a tenth, in a few milliseconds per megabyte.
_FROM = 16 * 1024
#: Bytes at most: a table of some thousand nodes that host hundreds of types.
_LIMIT = 256 * 1024 * 1024
#: What zlib's output begins with. A msgpack array begins otherwise.
_ZLIB = b"\x78"


def pack(data: bytes) -> bytes:
    """The msgpack array `data`, compressed if it is long."""
    return zlib.compress(data, 1) if len(data) > _FROM else data


def unpack(data: bytes) -> bytes:
    """What `pack` was given. ValueError when it is damaged."""
    if not data.startswith(_ZLIB):
        return data
    inflate = zlib.decompressobj()
    try:
        whole = inflate.decompress(data, _LIMIT)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not inflate.eof or inflate.unused_data:
        raise ValueError("compressed data does not end where it should")
    return whole
