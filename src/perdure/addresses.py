"""Where other nodes reach this one."""

from __future__ import annotations

import errno
import ipaddress
import socket

from perdure.errors import ConfigurationError

#: Hosts that mean all addresses of a machine, to whoever listens.
EVERYWHERE = ("", "0.0.0.0", "::")


def split_address(address: str, what: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` as host and port. `ConfigurationError` for anything else; `what` says which it is."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and 0 < int(port) < 65536:
        host = host.removeprefix("[").removesuffix("]")
        if host and "/" not in host:
            return host, int(port)
    raise ConfigurationError(f"{what} is {address!r}; write host:port, such as 10.0.0.5:50002")


def split_addresses(addresses: str, what: str) -> tuple[str, ...]:
    """`host:port,host:port` as its parts, each checked."""
    parts = tuple(part.strip() for part in addresses.split(",") if part.strip())
    for part in parts:
        split_address(part, what)
    return parts


def bound(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host, bound and not listening, all on the same port; 0: any free one.
    `OSError` when one of them cannot be had."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _resolved(host, port):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            # As servers do: a port whose last connections are still being forgotten can be had.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind((address[0], port or sockets[0].getsockname()[1], *address[2:]))
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def cannot_listen(host: str, port: int, error: Exception) -> ConfigurationError:
    """What to raise when `bound` did."""
    reason = getattr(error, "strerror", None) or error
    taken = getattr(error, "errno", None) == errno.EADDRINUSE
    instead = (
        "; another program has that port (another node?): stop it, or choose another port" if taken else ""
    )
    return ConfigurationError(f"cannot listen on {join(host, port)}: {reason}{instead}")


def _resolved(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Each once: some resolvers name an address several times.
    return list(dict.fromkeys(found))  # type: ignore[arg-type]


def advertised(host: str, port: int, advertise: str) -> str:
    """What a node that listens on host and port tells others: what it was told to (`advertise`: a host, or
    host:port), or where it listens. One that listens everywhere names the address of this host's own name, which in
    a container is the container's; `ConfigurationError` when that leads nobody here."""
    if advertise:
        if ":" in advertise and not _is_v6(advertise):
            split_address(advertise, "the address to advertise")
            return advertise
        return join(advertise, port)
    if host not in EVERYWHERE:
        return join(host, port)
    own = _own_address()
    if own is None:
        raise ConfigurationError(
            f"the node listens on all addresses of {socket.gethostname()!r}, and none of them is known to lead here "
            "from other hosts: say with --advertise where other nodes reach it"
        )
    return join(own, port)


def join(host: str, port: int) -> str:
    """host:port, with brackets where the host has colons itself."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_url(host: str, port: int) -> str:
    """Where this machine reaches an HTTP server: who listens on all addresses is reached by the machine's own."""
    return f"http://{join({'': '127.0.0.1', '0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}"


def _own_address() -> str | None:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    addresses = [str(info[4][0]) for info in found]
    return next(
        (one for one in addresses if not ipaddress.ip_address(one.partition("%")[0]).is_loopback), None
    )


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
