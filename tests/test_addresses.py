from __future__ import annotations

import pytest

from perdure.addresses import advertised, split_address, split_addresses
from perdure.errors import ConfigurationError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.5:50002", ("10.0.0.5", 50002)),
        ("[::1]:7", ("::1", 7)),
        ("node-1.local:1", ("node-1.local", 1)),
    ],
)
def test_an_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address, "it") == expected


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":50002", "host:0", "host:65536", "http://host:80", "h:x"]
)
def test_anything_else_is_refused_with_what_would_be_right(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--placement is .* write host:port"):
        split_address(address, "--placement")


def test_several_addresses() -> None:
    assert split_addresses(" a:1, b:2 ,", "it") == ("a:1", "b:2")
    assert split_addresses("", "it") == ()
    with pytest.raises(ConfigurationError):
        split_addresses("a:1,b", "it")


def test_a_node_tells_where_it_listens_unless_told_otherwise() -> None:
    assert advertised("127.0.0.1", 7, "") == "127.0.0.1:7"
    assert advertised("0.0.0.0", 7, "10.0.0.5") == "10.0.0.5:7"
    assert advertised("0.0.0.0", 7, "10.0.0.5:8") == "10.0.0.5:8"
    assert advertised("::1", 7, "") == "[::1]:7"
    assert advertised("0.0.0.0", 7, "fd00::5") == "[fd00::5]:7"


def test_who_listens_everywhere_names_an_address_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "perdure.addresses.socket.getaddrinfo",
        lambda *_, **__: [(2, 1, 6, "", ("127.0.1.1", 0)), (2, 1, 6, "", ("10.1.2.3", 0))],
    )
    assert advertised("0.0.0.0", 7, "") == "10.1.2.3:7"
    monkeypatch.setattr(
        "perdure.addresses.socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.1.1", 0))]
    )
    with pytest.raises(ConfigurationError, match="--advertise"):
        advertised("0.0.0.0", 7, "")
