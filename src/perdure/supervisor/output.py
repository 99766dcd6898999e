"""One terminal for all nodes: what a child writes to stderr, each line with the number of its node."""

from __future__ import annotations

import sys
import threading
from typing import IO, Protocol

import msgspec

#: The longest piece that is written in one go.
LONGEST = 64 * 1024
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


class Mark(Protocol):
    """Says in a line which node it is from."""

    def __call__(self, line: bytes) -> bytes: ...


def text_mark(number: int) -> Mark:
    """`[2] `, in the node's colour on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    with console.capture() as captured:
        console.print(Text(f"[{number}]", style=COLOURS[(number - 1) % len(COLOURS)]), end=" ")
    prefix = captured.get().encode()
    return lambda line: prefix + line


def json_mark(number: int) -> Mark:
    """A field `number` in each object: `node` is a node's id. What is no JSON object (a traceback of the interpreter's, a user's print)
    becomes one."""
    head = b'{"number": %d, ' % number

    def mark(line: bytes) -> bytes:
        if line.startswith(b'{"') and line.endswith(b"}"):
            return head + line[1:]
        text = line.decode("utf-8", "replace")
        return msgspec.json.encode({"number": number, "level": "INFO", "logger": "stderr", "event": text})

    return mark


class Output:
    """Copies lines from the children to this process's stderr, each child's in a thread: a terminal that is stopped
    holds up who writes, as it would without a parent, and nobody else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def follow(self, source: IO[bytes], mark: Mark) -> None:
        """Until the source ends; closes it."""
        thread = threading.Thread(target=self._copy, args=(source, mark), name="perdure-output", daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()

    def finish(self, within: float) -> None:
        """Waits for the last lines of children that have ended. What they started may hold a source open longer."""
        for thread in self._threads:
            thread.join(within)

    def _copy(self, source: IO[bytes], mark: Mark) -> None:
        with source:
            while line := source.readline(LONGEST):
                marked = mark(line.rstrip(b"\r\n")) + b"\n"
                with self._lock:
                    try:
                        sys.stderr.buffer.write(marked)
                        sys.stderr.buffer.flush()
                    except (OSError, ValueError):
                        # Nobody reads any more. The child must not stop for that.
                        continue
