"""The cuts of a fault run do what they say."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

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


FORGETS = """
import subprocess, sys, time
from tests.chaos.network import network
with network() as net:
    command = net.add("a").command("sh", "-c", f"echo {net.hosts['a'].name} $$; exec sleep 1000")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    time.sleep(1000)
"""


def test_who_is_killed_leaves_nothing_behind() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", FORGETS], cwd=root, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        name, pid = killed.stdout.readline().split()
        killed.kill()
    deadline = time.monotonic() + 60
    while not ended(int(pid)):
        assert time.monotonic() < deadline, "what it started goes on"
        time.sleep(0.01)
    with network():
        names = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
        assert name not in [line.split()[0] for line in names.splitlines()]


def ended(pid: int) -> bool:
    """Also when nobody has asked how: its parent is not there to do so."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
