"""Child: one node's process, as its parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec

from perdure.logs import fields
from perdure.supervisor import channel
from perdure.supervisor.channel import FromChild, ToChild
from perdure.supervisor.output import Mark, Output

log = logging.getLogger("perdure.supervisor")


class Child:
    """A process that runs `perdure run`, from its start. In a session of its own: Ctrl-C on the terminal is the
    parent's affair, who then stops all in good order.

    To be started on the main thread: the child dies with the thread that started it. OSError when it cannot be.
    """

    def __init__(
        self,
        number: int,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        files: Sequence[int],
        output: Output,
        mark: Mark,
        told: Callable[[Child, FromChild], object],
    ) -> None:
        """`files`: descriptors that it inherits under their numbers. `told` is called on the loop with what it says."""
        self.number = number
        self._loop = asyncio.get_running_loop()
        self._told = told
        self._rest = b""
        #: Its exit status, as `subprocess` has it, once it has ended.
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._channel, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "perdure", "run", *arguments, "--channel", str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), *files),
                start_new_session=True,
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        assert self._process.stderr is not None
        output.follow(self._process.stderr, mark)
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._read)
        threading.Thread(target=self._wait, name=f"perdure-child-{number}", daemon=True).start()

    def tell(self, message: ToChild) -> None:
        """Does nothing when it has ended."""
        # A few bytes, which always fit: BlockingIOError is one of a child that reads nothing any more.
        with contextlib.suppress(OSError):
            self._channel.send(channel.line(message))

    def signal(self, number: int) -> None:
        """Does nothing when it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def _read(self) -> bool:
        """Takes what it has said; False when there is nothing now."""
        try:
            data = self._channel.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._channel)
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for one in lines:
            try:
                message = channel.decode_from_child(one)
            except msgspec.DecodeError as error:
                log.error("node.unintelligible", extra=fields(number=self.number, reason=str(error)))
                continue
            self._told(self, message)
        return True

    def _wait(self) -> None:
        status = self._process.wait()
        # RuntimeError: the loop is closed, and nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._has_ended, status)

    def _has_ended(self, status: int) -> None:
        # What it said last may not have been read yet.
        while self._read():
            pass
        self._loop.remove_reader(self._channel)
        self._channel.close()
        if not self.ended.done():
            self.ended.set_result(status)


def how(status: int) -> str:
    """How a process ended, for people."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
