"""`perdure run --nodes N`: real processes, and what happens when one of them ends, hangs, or cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cli.nodes import APP, Nodes, alive, running
from tests.faults.processes import WORKFLOWS
from tests.servers.redis import redis_server
from tests.waiting import until


def one_error(nodes: Nodes, *, status: int = 1) -> str:
    """Starts what cannot start: the one line that it says."""
    process = nodes.spawn()
    try:
        assert process.wait(60) == status
    finally:
        nodes.kill()
    (line,) = [line for line in nodes.log.read_text().splitlines() if "INFO" not in line]
    assert line.startswith("error: ")
    return line


# --- good days -------------------------------------------------------------------------------------------------------


def test_from_start_to_stop(tmp_path: Path) -> None:
    """One summary, one port, work in every process, one file that names the parent; SIGTERM ends all of them."""
    with running(Nodes(tmp_path)) as nodes:
        lines = nodes.log.read_text().splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("perdure "))
        assert [line.split(maxsplit=1) for line in lines[at : at + 6]] == [
            ["perdure", "0.1.0: app shop, namespace default"],
            ["store", nodes.store],
            ["http", f"http://127.0.0.1:{nodes.port}"],
            ["nodes", "3"],
            ["workflows", "approval, spread"],
            ["activities", "where"],
        ]
        assert len([line for line in lines if line.startswith("perdure ")]) == 1
        children = nodes.until_whole()
        for number in range(4):
            nodes.begin("spread", f"s-{number}", [5, 0])
        ran = {pid for number in range(4) for pid in nodes.output(f"s-{number}")}
        assert ran == set(children)
        holder = json.loads((tmp_path / "state.db.lock").read_text())
        assert (holder["pid"], holder["address"]) == (nodes.pid, f"http://127.0.0.1:{nodes.port}")
        command = [sys.executable, "-m", "perdure", "workflow", "list", "--store", nodes.store, "--json"]
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60)
        assert {one["instanceID"] for one in json.loads(listed.stdout)["instances"]} == {
            f"s-{number}" for number in range(4)
        }
        sockets = {line.split("store.sock")[0] for line in Path("/proc/net/unix").read_text().splitlines()}
        assert any("perdure-nodes-" in one for one in sockets)
        assert nodes.stop() == 0
        assert not any(map(alive, children))
        assert nodes.errors() == []


def test_a_store_in_memory(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "--store", "memory://", nodes=2)
    with running(nodes):
        nodes.begin("spread", "s", [8, 0])
        assert set(nodes.output("s")) == set(nodes.children())
        assert nodes.stop() == 0
    assert not nodes.path.exists()


def test_over_redis(tmp_path: Path) -> None:
    """A shared store: the nodes are a cluster by themselves, and others could join them. The URL is no argument of
    theirs: it may hold a password."""
    with redis_server() as redis:
        redis.command("ACL", "SETUSER", "nodes", "on", ">secret", "~*", "&*", "+@all")
        nodes = Nodes(tmp_path, nodes=2)
        url = redis.url(user="nodes", password="secret")
        nodes.store = url
        nodes._command = [url if one.startswith("sqlite:") else one for one in nodes._command]
        with running(nodes):
            children = nodes.until_whole()
            for pid in children:
                assert b"secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            nodes.begin("spread", "s", [8, 0])
            assert set(nodes.output("s")) == set(children)
            os.kill(children[0], signal.SIGKILL)
            nodes.until(lambda: children[0] not in nodes.children(), "it is gone")
            nodes.until_whole()
            assert nodes.stop() == 0
            assert "secret" not in nodes.log.read_text()
        assert not nodes.path.exists()


def test_logs_as_json(tmp_path: Path) -> None:
    """Every line is an object, and says which node it is from; also what is no log."""
    app = APP + "\nprint('{not json', file=__import__('sys').stderr, flush=True)\n"
    with running(Nodes(tmp_path, "--log-json", nodes=2, app=app)) as nodes:
        assert nodes.stop() == 0
        entries = nodes.entries()
    assert {entry["number"] for entry in entries if entry["event"] == "node.ready"} == {1, 2}
    assert {entry["number"] for entry in entries if entry["event"] == "{not json"} == {1, 2}
    (serves,) = [entry for entry in entries if entry["event"] == "run.serves"]
    assert (serves["nodes"], serves["workflows"]) == (2, ["approval", "spread"])
    assert "number" not in serves


# --- what cannot start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "status", "said"),
    [
        ("import nothing_of_the_kind", 1, "nothing_of_the_kind"),
        ("raise SystemExit(7)", 7, "status 7"),
        ("import os; os._exit(5)", 5, "ended with status 5 while"),
        ("import os; os.kill(os.getpid(), 9)", 1, "ended with signal SIGKILL while"),
    ],
)
def test_an_app_that_cannot_be_loaded(tmp_path: Path, app: str, status: int, said: str) -> None:
    """One clear error, once, and its exit status."""
    assert said in one_error(Nodes(tmp_path, app=app), status=status)


def test_a_command_line_that_is_wrong(tmp_path: Path) -> None:
    for arguments, status, said in (
        (("--nodes", "0"), 2, "--nodes"),
        (("--store", f"sqlite:///{tmp_path}/none/state.db"), 1, "folder"),
        (("--store", "mysql://x"), 1, "not the URL of a store"),
        (("--host", "256.1.1.1"), 1, "cannot listen"),
    ):
        nodes = Nodes(tmp_path, *arguments, nodes=2)
        nodes.log.unlink(missing_ok=True)
        assert said in one_error(nodes, status=status)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    with socket.create_server(("127.0.0.1", nodes.port)):
        assert f"cannot listen on 127.0.0.1:{nodes.port}" in one_error(nodes)


def test_a_store_that_is_held(tmp_path: Path) -> None:
    """A second parent, and a single node, are told who has the file."""
    with running(Nodes(tmp_path, nodes=2)) as first:
        second = Nodes(tmp_path, nodes=2)
        second.log = tmp_path / "second.log"
        assert f"process {first.pid} (http://127.0.0.1:{first.port})" in one_error(second)
        alone = Nodes(tmp_path, nodes=1)
        alone.log = tmp_path / "alone.log"
        assert f"process {first.pid} (http://127.0.0.1:{first.port})" in one_error(alone)
        assert first.errors() == []


# --- a node that ends ------------------------------------------------------------------------------------------------


def test_killed_children_under_load(tmp_path: Path) -> None:
    """Their workflows go on in the others, every one to its end, and a new process takes each one's place."""
    with running(Nodes(tmp_path)) as nodes:
        first = nodes.until_whole()
        over = threading.Event()

        def calling(caller: int) -> int:
            number = 0
            while not over.is_set():
                id = f"c-{caller}-{number}"
                nodes.begin("spread", id, [5, 0.02])
                assert len(nodes.output(id)) == 5
                number += 1
            return number

        with ThreadPoolExecutor(6) as pool:
            callers = [pool.submit(calling, number) for number in range(6)]
            try:
                for victim in first[:2]:
                    os.kill(victim, signal.SIGKILL)
                    nodes.until(lambda victim=victim: victim not in nodes.children(), "it is gone")
                    nodes.until_whole()
            finally:
                over.set()
            assert all(caller.result() > 0 for caller in callers)
        assert set(nodes.children()) & set(first) == {first[2]}
        ended = [line for line in nodes.errors() if "node.ended" in line]
        assert len(ended) == 2
        assert all("signal SIGKILL" in line for line in ended)
        assert nodes.stop() == 0


def test_a_killed_parent(tmp_path: Path) -> None:
    """Nothing outlives it, not even a child that is stopped or whose loop stands still; the next start goes on with
    everything."""
    app = APP + (
        "\n\n@app.activity\ndef hang(ctx: ActivityContext, _: object) -> None:\n"
        "    note('hanging', os.getpid())\n    time.sleep(0 if (FOLDER / 'quick').exists() else 600)\n\n\n"
        "@app.workflow\nasync def hanging(ctx: WorkflowContext) -> None:\n    await ctx.call_activity(hang)\n"
    )
    with running(Nodes(tmp_path, nodes=2, app=app)) as nodes:
        children = nodes.until_whole()
        nodes.begin("hanging", "hanging")
        for number in range(12):
            nodes.begin("approval", f"a-{number}")
        nodes.until(lambda: nodes.lines("hanging"), "an activity hangs")
        stopped = next(pid for pid in children if str(pid) not in nodes.lines("hanging"))
        os.kill(stopped, signal.SIGSTOP)
        nodes.signal(signal.SIGKILL)
        nodes.ended()
        until(lambda: not any(map(alive, children)), "all children end")
        (tmp_path / "quick").write_text("")
        nodes.start()
        nodes.until_status("hanging", "COMPLETED")
        for number in range(12):
            nodes.call("POST", f"{WORKFLOWS}/a-{number}/raiseEvent/go", number)
        assert [nodes.output(f"a-{number}") for number in range(12)] == list(range(12))
        assert nodes.stop() == 0


def test_a_stopped_child(tmp_path: Path) -> None:
    """SIGSTOP: the others take over what it has; when it goes on it finds out, and is one of them again."""
    with running(Nodes(tmp_path, nodes=2)) as nodes:
        frozen = nodes.until_whole()[0]
        for number in range(9):
            nodes.begin("approval", f"a-{number}")
        os.kill(frozen, signal.SIGSTOP)
        try:
            nodes.until(lambda: len(nodes.members()) == 1, "it is missed")
            for number in range(9):
                nodes.call("POST", f"{WORKFLOWS}/a-{number}/raiseEvent/go", number)
            assert [nodes.output(f"a-{number}") for number in range(9)] == list(range(9))
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert frozen in nodes.until_whole()
        for number in range(6):
            nodes.begin("spread", f"s-{number}", [5, 0])
        assert frozen in {pid for number in range(6) for pid in nodes.output(f"s-{number}")}
        assert nodes.stop() == 0


def test_a_child_that_cannot_start_again(tmp_path: Path) -> None:
    """Broken code on the disk: the others go on, the attempts get rarer, and the repaired app is served by all."""
    with running(Nodes(tmp_path, nodes=2)) as nodes:
        children = nodes.until_whole()
        nodes.app.write_text("raise RuntimeError('broken by hand')")
        os.kill(children[0], signal.SIGKILL)

        def attempts() -> list[str]:
            return [line for line in nodes.errors() if "broken by hand" in line]

        nodes.until(lambda: len(attempts()) >= 3, "it was tried again")
        assert [line.rpartition("again_in=")[2] for line in attempts()[:3]] == ["0.2", "0.4", "0.8"]
        nodes.begin("spread", "s", [6, 0])
        assert set(nodes.output("s")) == set(children[1:])
        nodes.app.write_text(APP)
        assert set(nodes.until_whole()) >= set(children[1:])
        assert nodes.stop() == 0


# --- stopping and rolling --------------------------------------------------------------------------------------------


def test_all_drain_together(tmp_path: Path) -> None:
    """What runs when SIGTERM comes is finished, and its result is stored, wherever activity and workflow are: the
    next start runs nothing again."""
    with running(Nodes(tmp_path)) as nodes:
        nodes.until_whole()
        for number in range(12):
            nodes.begin("spread", f"s-{number}", [1, 1.5])
        nodes.until(lambda: len(nodes.lines("began")) == 12, "all activities run")
        assert nodes.lines("ended") == []
        assert nodes.stop() == 0
        assert sorted(nodes.lines("ended")) == sorted(nodes.lines("began"))
        nodes.start()
        for number in range(12):
            assert len(nodes.output(f"s-{number}")) == 1
        assert len(nodes.lines("began")) == 12
        assert nodes.stop() == 0
        assert nodes.errors() == []


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running(Nodes(tmp_path, "--drain-seconds", "600", nodes=2)) as nodes:
        children = nodes.until_whole()
        nodes.begin("spread", "s", [1, 600])
        nodes.until(lambda: nodes.lines("began"), "an activity runs")
        nodes.signal(signal.SIGINT)
        nodes.until(lambda: not nodes.ready(), "it stops")
        nodes.signal(signal.SIGINT)
        assert nodes.ended() == -signal.SIGINT
        until(lambda: not any(map(alive, children)), "all children end")


def test_a_drain_has_an_end(tmp_path: Path) -> None:
    """An activity that does not end in time runs again at the next start."""
    with running(Nodes(tmp_path, "--drain-seconds", "0.3", nodes=2)) as nodes:
        nodes.begin("spread", "s", [1, 30])
        nodes.until(lambda: nodes.lines("began"), "it runs")
        assert nodes.stop() == 0
        nodes.app.write_text(APP.replace("asyncio.sleep(seconds)", "asyncio.sleep(0)"))
        nodes.start()
        assert len(nodes.output("s")) == 1
        assert nodes.lines("began") == 2 * nodes.lines("began")[:1]


def test_a_rolling_restart(tmp_path: Path) -> None:
    """SIGHUP: new code in every node, one after the other, and nobody who calls notices."""
    with running(Nodes(tmp_path, nodes=2)) as nodes:
        before = nodes.until_whole()
        nodes.app.write_text(APP.replace("return os.getpid()", "return -os.getpid()"))
        over = threading.Event()

        def calling(caller: int) -> list[tuple[int, Any]]:
            answers = []
            while not over.is_set():
                answers.append(nodes.ask("GET", f"{WORKFLOWS}/none-{caller}"))
            return answers

        with ThreadPoolExecutor(2) as pool:
            callers = [pool.submit(calling, number) for number in range(2)]
            try:
                nodes.signal(signal.SIGHUP)
                nodes.until(lambda: "nodes.rolled" in nodes.text(), "all are new")
            finally:
                over.set()
            answers = [answer for caller in callers for answer in caller.result()]
        assert {status for status, _ in answers} == {404}
        after = nodes.until_whole()
        assert not set(before) & set(after)
        nodes.begin("spread", "s", [6, 0])
        assert {-pid for pid in nodes.output("s")} <= set(after)
        assert nodes.errors() == []
        assert nodes.stop() == 0


def test_a_roll_to_code_that_is_broken(tmp_path: Path) -> None:
    """It stops at the first node, and the others keep serving what they have."""
    with running(Nodes(tmp_path, nodes=2)) as nodes:
        before = nodes.until_whole()
        nodes.app.write_text("raise RuntimeError('broken by hand')")
        nodes.signal(signal.SIGHUP)
        nodes.until(lambda: "nodes.rolling_stopped" in nodes.text(), "the roll stops")
        assert len(set(nodes.children()) & set(before)) == 1
        nodes.begin("spread", "s", [4, 0])
        assert set(nodes.output("s")) <= set(before)
        assert nodes.stop() == 0


def test_a_child_that_is_told_to_end(tmp_path: Path) -> None:
    """By whoever: it goes in good order, and another takes its place."""
    with running(Nodes(tmp_path, nodes=2)) as nodes:
        before = nodes.until_whole()
        nodes.begin("spread", "s", [3, 0.3])
        nodes.until(lambda: nodes.lines("began"), "an activity runs")
        for pid in before:
            os.kill(pid, signal.SIGTERM)
            nodes.until(lambda pid=pid: pid not in nodes.children(), "it ends")
            nodes.until_whole()
        assert len(nodes.output("s")) == 3
        assert nodes.stop() == 0


SERVER = """
import asyncio, sys
from perdure.statestore import open_store
from perdure.statestore.socket import StoreServer

async def main():
    server = StoreServer(open_store("memory://"), sys.argv[1])
    await server.start()
    print(server.url, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_node_that_loses_its_store(tmp_path: Path) -> None:
    """Whoever has the store is killed: a node that was started by hand does not outlive it either, and says why."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "store.sock")], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            nodes = Nodes(tmp_path, "--peer-port", "0", "--store", server.stdout.readline().strip(), nodes=1)
            nodes.spawn()
            try:
                nodes.until(nodes.ready, "it serves")
                server.kill()
                assert nodes.ended() == 69
                assert "store.lost" in nodes.log.read_text()
            finally:
                nodes.kill()
        finally:
            server.kill()


TERMINAL = """
import os, pty, sys, time
pid, master = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
print(pid, flush=True)
sys.stdin.read()
os.close(master)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """It asks for new code no more than Ctrl-C does: all stop in good order."""
    nodes = Nodes(tmp_path, nodes=2)
    with nodes.log.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", TERMINAL, *nodes._command],
            env={**nodes._environment, "NO_COLOR": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    nodes._process = process
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        parent = int(process.stdout.readline())
        nodes.until(lambda: len(nodes.members()) == 2, "all nodes serve")
        nodes.begin("spread", "s", [1, 0.5])
        nodes.until(lambda: nodes.lines("began"), "an activity runs")
        process.stdin.close()
        assert process.wait(60) == 0
        assert not alive(parent)
        assert nodes.lines("ended") == nodes.lines("began")
        process.stdout.close()
    finally:
        nodes.kill()
