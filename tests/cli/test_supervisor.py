"""The parts of `perdure run --nodes N` that need no processes of nodes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.supervisor import folder
from perdure.supervisor.channel import Failed, Loaded, Stop, decode_from_child, decode_to_child, line
from perdure.supervisor.child import how
from perdure.supervisor.folder import PrivateFolder
from perdure.supervisor.output import Output, json_mark, text_mark
from perdure.supervisor.restarts import Restarts
from tests.cli.nodes import alive
from tests.waiting import until


def test_restarts() -> None:
    """Twice as long each time, up to a limit, until a process has lived for a while."""
    restarts = Restarts()
    delays = [restarts.ended(0.5) for _ in range(8)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert [restarts.ended(lived) for lived in (10.0, 9.9, 60.0)] == [0.1, 0.2, 0.1]


def test_marks() -> None:
    assert text_mark(2)(b"12:00:00 INFO") == b"[2] 12:00:00 INFO"
    mark = json_mark(2)
    assert json.loads(mark(b'{"event": "x", "node": "id"}')) == {"number": 2, "event": "x", "node": "id"}
    for text in ("", "{", "{}", "Traceback", '{"open', "\u00fc", '"quoted"', "[1]"):
        entry = json.loads(mark(text.encode()))
        assert (entry["number"], entry["event"]) == (2, text)
    assert json.loads(mark(b"\xff"))["event"] == "\ufffd"


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    one, two = text_mark(1)(b"x"), text_mark(2)(b"x")
    assert one.startswith(b"\x1b[")
    assert one.endswith(b"x")
    assert one.partition(b"[1]")[0] != two.partition(b"[2]")[0]


def test_output(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole lines of each child, also its last one without an end, and one that is longer than any buffer."""
    with open(2, "w", closefd=False) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        output = Output()
        writers = []
        for number in (1, 2):
            reading, writing = os.pipe()
            output.follow(os.fdopen(reading, "rb"), text_mark(number))
            writers.append(os.fdopen(writing, "wb"))
        for _ in range(100):
            for writer in writers:
                writer.write(b"some line\n")
        writers[0].write(b"x" * 100_000 + b"\nlast")
        for writer in writers:
            writer.close()
        output.finish(30)
    lines = capfdbinary.readouterr().err.splitlines()
    assert lines.count(b"[1] some line") == lines.count(b"[2] some line") == 100
    assert sum(one.count(b"x") for one in lines) == 100_000
    assert b"[1] last" in lines


def test_how_it_ended() -> None:
    assert (how(3), how(-9), how(-250)) == ("status 3", "signal SIGKILL", "signal 250")


def test_messages() -> None:
    for one in (Loaded(), Failed("why\nnot", 2)):
        encoded = line(one)
        assert encoded.count(b"\n") == 1
        assert decode_from_child(encoded) == one
    assert decode_to_child(line(Stop())) == Stop()


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is this user's alone; those that killed parents left are removed, those of living ones are not."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, living, fresh, other = (
        tmp_path / f"{folder.PREFIX}{name}" for name in ("dead", "live", "new", "x")
    )
    servers = []
    for one in (dead, living, fresh, other):
        one.mkdir(mode=0o700)
        if one is not other:
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(one / folder.SOCKET))
            servers.append(server)
    servers[1].listen()
    for one in (dead, living, other):
        os.utime(one, (1e9, 1e9))
    made = PrivateFolder()
    assert made.path.stat().st_mode & 0o777 == 0o700
    assert [one.exists() for one in (dead, living, fresh, other)] == [False, True, True, True]
    made.remove()
    made.remove()
    assert not made.path.exists()
    for server in servers:
        server.close()


ORPHAN = """
import os, socket, subprocess, sys, time
ours, theirs = socket.socketpair()
code = '''
import sys, time
{before}
from perdure.supervisor.channel import Parent
parent = Parent(int(sys.argv[1]))
parent.loaded()
while True: pass
'''
child = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()])
theirs.close()
print(child.pid, flush=True)
ours.recv(100)
print("loaded", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "before",
    [
        "",
        # As where the system does not end it.
        "import perdure.supervisor.channel; sys.platform = 'elsewhere'",
    ],
    ids=["by the system", "by the connection"],
)
def test_no_child_outlives_its_parent(before: str) -> None:
    """Whatever it is doing: this one never gets to its event loop."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN.replace("{before}", before)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            assert parent.stdout.readline() == "loaded\n"
            assert alive(pid)
            parent.kill()
            parent.wait()
            until(lambda: not alive(pid), "the child ends")
        finally:
            parent.kill()
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
