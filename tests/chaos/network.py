"""Hosts of its own for a fault run: one network namespace each, joined by a bridge, with cuts between any two.

Needs the rights to make namespaces (root), and Debian's iproute2 and nftables. Nothing of the machine's own network is
touched but for one virtual interface, whose other end is in the first namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence

TABLE = "inet perdure"


class Host:
    """One namespace with one address. Programs are started in it by `command`."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def command(self, *command: str) -> list[str]:
        """What runs a program here, as one process that ends with the thread that starts it."""
        return ["ip", "netns", "exec", self.name, "setpriv", "--pdeathsig", "KILL", "--", *command]


class Network:
    """Made by `network()`."""

    def __init__(self, prefix: str, subnet: str) -> None:
        self._prefix = prefix
        self._subnet = subnet
        self.hosts: dict[str, Host] = {}
        self._cuts: set[tuple[str, str]] = set()
        #: The address of the machine itself, as the hosts see it.
        self.own = f"{subnet}.1"
        self._hub = f"{prefix}hub"
        _run("ip", "netns", "add", self._hub)
        hub = ["ip", "-n", self._hub]
        _run(*hub, "link", "set", "lo", "up")
        _run(*hub, "link", "add", "br0", "type", "bridge")
        _run(*hub, "link", "set", "br0", "up")
        # Names of interfaces have 15 characters at most.
        _run("ip", "link", "add", prefix, "type", "veth", "peer", "name", "own", "netns", self._hub)
        _run("ip", "addr", "add", f"{self.own}/24", "dev", prefix)
        _run("ip", "link", "set", prefix, "up")
        _run(*hub, "link", "set", "own", "master", "br0", "up")

    def add(self, name: str) -> Host:
        """A new host."""
        number = len(self.hosts) + 10
        host = Host(f"{self._prefix}{name}", f"{self._subnet}.{number}")
        _run("ip", "netns", "add", host.name)
        _run(
            *("ip", "-n", self._hub, "link", "add", f"v{number}", "type", "veth"),
            *("peer", "name", "eth0", "netns", host.name),
        )
        _run("ip", "-n", self._hub, "link", "set", f"v{number}", "master", "br0", "up")
        _run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _run("ip", "-n", host.name, "link", "set", "lo", "up")
        _run("ip", "-n", host.name, "link", "set", "eth0", "up")
        rules = f"add table {TABLE}; add chain {TABLE} cut {{ type filter hook input priority 0; }}"
        _run("ip", "netns", "exec", host.name, "nft", rules)
        self.hosts[name] = host
        return host

    def cut(self, sender: str, receiver: str) -> None:
        """What `sender` sends does not reach `receiver` any more: without a word, as a broken cable. Idempotent."""
        if (sender, receiver) not in self._cuts:
            self._cuts.add((sender, receiver))
            self._apply(receiver)

    def mend(self, sender: str, receiver: str) -> None:
        """Ends a cut. Idempotent."""
        if (sender, receiver) in self._cuts:
            self._cuts.discard((sender, receiver))
            self._apply(receiver)

    def mend_all(self) -> None:
        for sender, receiver in list(self._cuts):
            self.mend(sender, receiver)

    def _apply(self, receiver: str) -> None:
        rules = [f"flush chain {TABLE} cut"]
        for sender, cut in sorted(self._cuts):
            if cut == receiver:
                rules.append(f"add rule {TABLE} cut ip saddr {self.hosts[sender].address} drop")
        _run("ip", "netns", "exec", self.hosts[receiver].name, "nft", "; ".join(rules))


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network for the length of the block, of a name and subnet that nobody has. What still runs in its hosts at the
    end of the block is killed."""
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"{' and '.join(missing)} not found: install Debian's iproute2 and nftables")
    if os.geteuid() != 0:
        raise RuntimeError("network namespaces can be made by root only")
    _sweep()
    for number in range(256):
        with _hold(number) as held:
            if held and f" 10.213.{number}.1/" not in _run("ip", "-o", "addr"):
                prefix = f"pd{number}-"
                try:
                    yield Network(prefix, f"10.213.{number}")
                finally:
                    _remove(prefix)
                return
    raise RuntimeError("all 256 networks are taken")


@contextlib.contextmanager
def _hold(number: int) -> Iterator[bool]:
    """Whether the number is this process's for the length of the block. The system takes it back from a process that
    is killed."""
    with socket.socket(socket.AF_UNIX) as holder:
        try:
            holder.bind(f"\0perdure-network-{number}")
        except OSError:
            yield False
        else:
            yield True


def _sweep() -> None:
    """Removes what processes left behind that were killed."""
    for prefix in {name.partition("-")[0] + "-" for name in _namespaces("pd") if "-" in name}:
        with _hold(int(prefix[2:-1])) as held:
            if held:
                _remove(prefix)


def _remove(prefix: str) -> None:
    """Removes every host of this prefix and what runs there. Idempotent."""
    for name in _namespaces(prefix):
        listed = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True, text=True)
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", prefix], check=False, capture_output=True)


def _namespaces(prefix: str) -> list[str]:
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.startswith(prefix)]


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{_shown(command)}: {done.stderr.strip()}")
    return done.stdout


def _shown(command: Sequence[str]) -> str:
    return " ".join(command)
