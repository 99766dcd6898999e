"""What parent and child tell each other, over a pair of connected sockets: JSON, one message a line.

That the connection ends tells the child that its parent is gone. It ends then at once, whatever it is doing: the
parent's store may be another process's by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading

import msgspec

from perdure.logs import fields
from perdure.node import ORPHANED_STATUS, Node

log = logging.getLogger("perdure.supervisor")

_PR_SET_PDEATHSIG = 1


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The app was imported: what is wrong with it would have been said."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The node serves."""

    node: str
    app_id: str
    namespace: str
    workflows: list[str]
    activities: list[str]


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """After `Stop`: none of its activities runs any more."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The node cannot start, and ends."""

    message: str
    status: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """All nodes stop together."""


class End(msgspec.Struct, frozen=True, tag="end"):
    """After `Stop`: no other node needs this one any more."""


FromChild = Loaded | Ready | Drained | Failed
ToChild = Stop | End

decode_from_child = msgspec.json.Decoder(FromChild).decode
decode_to_child = msgspec.json.Decoder(ToChild).decode


def line(message: FromChild | ToChild) -> bytes:
    return msgspec.json.encode(message) + b"\n"


class Parent:
    """The child's end. Made first of all: from then on this process does not outlive its parent."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        # Not for processes that the app starts: they would hold it open.
        self._socket.set_inheritable(False)
        self._node: Node | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        _die_with_parent()
        # A thread of its own: the loop may not run yet, or stand still in the app's code.
        threading.Thread(target=self._listen, name="perdure-parent", daemon=True).start()

    def loaded(self) -> None:
        self._tell(Loaded())

    def failed(self, message: str, status: int) -> None:
        self._tell(Failed(message, status))

    def ready(self, node: Node) -> None:
        """On the node's loop, when it serves and its signal handlers are there."""
        self._node, self._loop = node, asyncio.get_running_loop()
        registry = node.registry
        self._tell(
            Ready(
                node.node_id,
                node.app_id,
                node.namespace,
                sorted(registry.workflows),
                sorted(registry.activities),
            )
        )

    def _tell(self, message: FromChild) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(line(message))

    def _listen(self) -> None:
        with self._socket.makefile("rb") as lines:
            for one in lines:
                message = decode_to_child(one)
                if self._loop is not None:
                    # RuntimeError: it is closed, so the node has stopped.
                    with contextlib.suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(self._told, message)
        log.critical("node.orphaned", extra=fields(pid=os.getpid()))
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(ORPHANED_STATUS)

    def _told(self, message: ToChild) -> None:
        node = self._node
        assert node is not None
        if isinstance(message, End):
            self._end.set()
        elif not node.stopping:
            node.together = self._together
            os.kill(os.getpid(), signal.SIGTERM)

    async def _together(self) -> None:
        self._tell(Drained())
        await self._end.wait()


def _die_with_parent() -> None:
    """Linux ends this process with the one that started it, even if it is stopped. Elsewhere the connection's end
    has to do; also here, should the parent have died just before."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
