"""The store contract over a Unix socket: `StoreServer` serves any store of its process, `SocketStore` is that store
in the other processes of the machine.

messages (what crosses the socket) · frames (bytes to messages and back) · gather (group commit over all clients) ·
server · session (one client's connection) · lease (its leases) · client
"""

from perdure.statestore.socket.client import SocketLease, SocketStore
from perdure.statestore.socket.server import StoreServer

__all__ = ["SocketLease", "SocketStore", "StoreServer"]
