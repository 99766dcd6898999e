"""What is looked at, and by whom: each thing is read once, however many look at it, and sent when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable

import msgspec

from perdure.clock import Clock
from perdure.errors import PerdureError
from perdure.logs import fields

log = logging.getLogger("perdure.console")

#: Seconds between two looks at what hints that there is something new in memory.
TICK = 0.1
#: Seconds between two readings at least, however fast something changes.
GAP = 0.5
#: Reading takes at most one part in so many of the time.
SPARING = 10
#: Seconds between two readings at most, however long one takes.
SLOWEST = 60.0
#: Streams of one node at most.
MAX_STREAMS = 100

_encoder = msgspec.json.Encoder(enc_hook=str)


class Topic(msgspec.Struct, frozen=True):
    """Something that can be looked at."""

    #: Equal for two who look at the same.
    key: Hashable
    #: Its JSON value now.
    read: Callable[[], Awaitable[object]]
    #: Seconds between two readings, when nothing hints at a change.
    interval: float = 1.0
    #: Changes as soon as the value may have changed, where that can be seen for free.
    hint: Callable[[], object] = lambda: None


def encode(value: object) -> bytes:
    return _encoder.encode(value)


class Stream:
    """What one looker has still to be sent: only the newest, so that a slow one costs no memory."""

    def __init__(self) -> None:
        self._next: bytes | None = None
        self._changed = asyncio.Event()
        self.ended = False

    def put(self, value: bytes) -> None:
        self._next = value
        self._changed.set()

    def end(self) -> None:
        self.ended = True
        self._changed.set()

    async def next(self) -> bytes | None:
        """The newest value that was not sent yet, as soon as there is one; None: there will be no more."""
        await self._changed.wait()
        value, self._next = self._next, None
        if not self.ended:
            self._changed.clear()
        return value


class _Watch:
    """One topic that is looked at."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.streams: set[Stream] = set()
        self.last: bytes | None = None
        self.task: asyncio.Task[None] | None = None


class Hub:
    """INVARIANT: a topic is read only while somebody looks at it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watches: dict[Hashable, _Watch] = {}
        self._count = 0
        self._stopping = False

    @property
    def full(self) -> bool:
        return self._count >= MAX_STREAMS

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def topics(self) -> int:
        """How many things are being watched."""
        return len(self._watches)

    def open(self, topic: Topic) -> Stream:
        """A stream of the topic's values: the newest at once, if it is known, then each that differs from the last."""
        stream = Stream()
        self._count += 1
        if self._stopping:
            stream.end()
            return stream
        watch = self._watches.get(topic.key)
        if watch is None:
            watch = self._watches[topic.key] = _Watch(topic)
            watch.task = self._clock.spawn(self._follow(watch), name="perdure-console-watch")
        if watch.last is not None:
            stream.put(watch.last)
        watch.streams.add(stream)
        return stream

    def close(self, topic: Topic, stream: Stream) -> None:
        """Nobody reads the stream any more. To be called once for each that was opened."""
        self._count -= 1
        watch = self._watches.get(topic.key)
        if watch is None or stream not in watch.streams:
            return
        watch.streams.discard(stream)
        if not watch.streams:
            del self._watches[topic.key]
            if watch.task is not None:
                watch.task.cancel()

    async def stop(self) -> None:
        """Ends every stream. Idempotent."""
        self._stopping = True
        watches, self._watches = list(self._watches.values()), {}
        tasks = [watch.task for watch in watches if watch.task is not None]
        for watch in watches:
            for stream in watch.streams:
                stream.end()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, watch: _Watch) -> None:
        clock, topic = self._clock, watch.topic
        while True:
            hint, began = topic.hint(), clock.monotonic()
            value = await self._read(topic)
            took = clock.monotonic() - began
            if value != watch.last:
                watch.last = value
                for stream in watch.streams:
                    stream.put(value)
            pause = min(took * SPARING, SLOWEST)
            soonest = began + max(GAP, pause)
            latest = began + max(topic.interval, pause)
            while (now := clock.monotonic()) < latest:
                if now >= soonest and topic.hint() != hint:
                    break
                await clock.sleep(min(TICK, latest - now))

    async def _read(self, topic: Topic) -> bytes:
        """A value that cannot be had now is shown as that: it may be there at the next reading."""
        try:
            return encode({"value": await topic.read()})
        except PerdureError as error:
            return encode({"error": {"code": error.code, "message": error.message}})
        except Exception as error:
            log.exception("console.unreadable", extra=fields(topic=topic.key))
            return encode({"error": {"code": "ERR_INTERNAL", "message": repr(error)}})
