"""The cuts of a fault run do what they say."""

from __future__ import annotations

import subprocess
import sys

from tests.chaos.network import Host, Network, network

ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    print("listens", flush=True)
    while True:
        link, _ = server.accept()
        link.sendall(b"hello")
        link.close()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2])) as link:
    print(link.recv(5).decode())
"""


def asks(host: Host, other: Host, seconds: float = 10.0) -> bool:
    command = host.command(sys.executable, "-c", ASK, other.address, str(seconds))
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout == "hello\n"


def both(net: Network, one: str, two: str, seconds: float) -> tuple[bool, bool]:
    first, second = net.hosts[one], net.hosts[two]
    return asks(first, second, seconds), asks(second, first, seconds)


def test_a_cut_goes_one_way_and_is_mended() -> None:
    with network() as net:
        servers = []
        try:
            for name in ("a", "b"):
                host = net.add(name)
                command = host.command(sys.executable, "-c", ECHO, host.address)
                server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                servers.append(server)
                assert server.stdout is not None
                assert server.stdout.readline() == "listens\n"
            assert both(net, "a", "b", 10) == (True, True)
            # A connection needs both directions.
            net.cut("a", "b")
            assert both(net, "a", "b", 0.5) == (False, False)
            net.mend("a", "b")
            assert both(net, "a", "b", 10) == (True, True)
            # The machine itself is not cut off.
            net.cut("a", "b")
            net.cut("b", "a")
            own = subprocess.run(
                [sys.executable, "-c", ASK, net.hosts["a"].address, "10"],
                check=False,
                capture_output=True,
                text=True,
            )
            assert own.stdout == "hello\n"
        finally:
            for server in servers:
                server.kill()
                server.wait()
                assert server.stdout is not None
                server.stdout.close()
