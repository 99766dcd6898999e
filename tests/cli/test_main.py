"""The command line as such: usage, errors, exit statuses, addresses."""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure.cli import show
from perdure.cli.options import read_seconds

NO_NODE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["--nothing"],
        ["run"],
        ["run", "x:app", "--http-port", "70000"],
        ["run", "x:app", "--log-level", "loud"],
        ["run", "x:"],
        ["workflow", "nothing"],
        ["workflow", "get"],
        ["workflow", "get", "a", "b"],
        ["workflow", "start", ""],
        ["workflow", "list", "--limit", "0"],
        ["workflow", "list", "--limit", "x"],
        ["workflow", "list", "--status", "done"],
        ["workflow", "wait", "x", "--until", "done"],
        ["workflow", "wait", "x", "--timeout", "soon"],
        ["workflow", "get", "x", "--server", "localhost:3500"],
        ["workflow", "get", "x", "--server", "http://localhost:port"],
        ["workflow", "get", "x", "--store", "mysql://here"],
        ["workflow", "get", "x", "--store", "memory://"],
        ["actor", "call", "Cart", "add"],
        ["actor", "call", "/1", "add"],
        ["actor", "reminders"],
        ["actor", "reminders", "Cart/1", "--instance", "x"],
        ["state", "keys"],
        ["state", "keys", "Cart"],
        ["state", "keys", "Cart/1", "--instance", "x"],
        ["state", "get"],
        ["state", "get", "count"],
    ],
)
def test_a_wrong_command_line_is_status_2(perdure: Any, arguments: list[str]) -> None:
    result = perdure(*arguments)
    assert result.status == 2
    assert result.error
    assert result.out == ""


@pytest.mark.parametrize("group", [[], ["workflow"], ["state"], ["actor"]])
def test_a_group_alone_shows_its_help(perdure: Any, group: list[str]) -> None:
    result = perdure(*group)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("Usage: perdure")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["list"], "'list' (there is 'perdure workflow list'); see 'perdure --help'"),
        (["get", "x"], "'get' (there is 'perdure workflow get' and 'perdure state get'); see"),
        (
            ["actor", "history", "x"],
            "'history' (there is 'perdure workflow history'); see 'perdure actor --help'",
        ),
    ],
)
def test_a_command_of_another_group_is_named_in_full(perdure: Any, arguments: list[str], named: str) -> None:
    result = perdure(*arguments)
    assert result.status == 2
    assert named in result.error


def test_help(perdure: Any) -> None:
    result = perdure("workflow", "list", "--help")
    assert (result.status, result.err) == (0, "")
    assert "--status" in result.out
    assert perdure("-h").status == 0


def test_version(perdure: Any) -> None:
    assert set(perdure("version", "--json").json) == {"perdure", "python", "sqlite"}
    assert "perdure" in perdure("version").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["workflow", "start", "x"],
        ["workflow", "get", "x"],
        ["workflow", "list"],
        ["state", "keys", "--instance", "x"],
        ["actor", "call", "Cart/1", "add"],
    ],
)
def test_no_node(perdure: Any, arguments: list[str]) -> None:
    result = perdure(*arguments, "--server", NO_NODE)
    assert result.status == 1
    assert result.error == (
        f"no node answers at {NO_NODE} (Connection refused); start one with 'perdure run', or name another with "
        "--server"
    )


def test_a_name_that_is_no_host(perdure: Any) -> None:
    result = perdure("workflow", "list", "--server", "http://no-such-host.invalid")
    assert (result.status, result.error.startswith("no node answers at")) == (1, True)


def test_something_else_that_answers(perdure: Any) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *arguments: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        result = perdure("workflow", "list", "--server", url)
        server.shutdown()
        thread.join()
    assert result.error == f"what answers at {url} is no Perdure node: 200 OK, text/html"


def test_something_that_closes_without_an_answer(perdure: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = perdure("workflow", "list", "--server", url)
        thread.join()
    assert (result.status, result.error.startswith(f"no answer from {url}")) == (1, True)


def test_a_reader_that_has_enough(node: Any) -> None:
    command = [Path(sys.executable).with_name("perdure"), "workflow", "list", "--json", "--server", node.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(60) in (0, 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("1.5", 1.5), ("90s", 90), ("1h30m", 5400), ("250ms", 0.25), (None, None)],
)
def test_durations_on_the_command_line(text: str | None, seconds: float | None) -> None:
    assert read_seconds(text, "--timeout") == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.009, "9 ms"),
        (1.26, "1.3 s"),
        (10, "10 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (7300, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


def test_times_for_people() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert show.ago("2026-01-02T03:01:05Z", now) == "3 min ago"
    assert show.ago("2026-01-02T05:04:05Z", now) == "in 2 h"
