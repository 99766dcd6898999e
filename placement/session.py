"""The link between one node and the placement service, as both its ends see it: in process, simulated or over a
network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from perdure.clock import Clock
from perdure.placement.messages import Message


class Session(Protocol):
    """Sends to the other end. Messages may be lost only together with the link, or late, or (a simulated link)
    singly: both ends repeat what matters."""

    def send(self, message: Message) -> None:
        """Sends without waiting. Never raises; on a closed link it does nothing. Does not call the receiver."""

    def close(self) -> None:
        """Closes the link after what was sent. Idempotent. Both ends' receivers get `closed`."""


class Receiver(Protocol):
    """What an end does with what arrives. Called on the end's own event loop, never from within `send`."""

    def received(self, message: Message) -> None:
        """One message. None comes after `closed`."""

    def closed(self) -> None:
        """The link is gone. Called once."""


#: Opens a link to the placement service at an address, whose messages go to the receiver. `Unavailable` or `OSError`
#: when there is none, within a few seconds.
Connect = Callable[[str, Receiver], Awaitable[Session]]
#: Takes a link's other end: how the service is given each new link.
Accept = Callable[[Session], Receiver]


class _End:
    """One end of a link within the process: hands over in order, in later iterations of the loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.other: _End | None = None
        self.receiver: Receiver | None = None

    def send(self, message: Message) -> None:
        if self.other is not None:
            self._clock.call_soon(self.other._deliver, message)

    def close(self) -> None:
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            self._clock.call_soon(self._end)
            self._clock.call_soon(other._end)

    def _deliver(self, message: Message) -> None:
        if self.receiver is not None:
            self.receiver.received(message)

    def _end(self) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.closed()


def local_link(clock: Clock, accept: Accept) -> Connect:
    """Links within one process and one event loop, to a service that is called directly."""

    async def connect(address: str, receiver: Receiver) -> Session:
        near, far = _End(clock), _End(clock)
        near.other, far.other = far, near
        near.receiver = receiver
        far.receiver = accept(far)
        return near

    return connect
