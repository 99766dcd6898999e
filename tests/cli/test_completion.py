"""What Tab offers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PERDURE = Path(sys.executable).with_name("perdure")


@pytest.fixture
def offered(perdure: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What bash is offered for a line whose last word is being written: `offered("workflow", "get", "or")`."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_PERDURE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["perdure", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        result = perdure()
        assert (result.status, result.err) == (0, "")
        return list(result.out.split())

    return ask


def test_commands_and_options(offered: Any) -> None:
    assert offered("work") == ["workflow"]
    assert {"start", "watch", "raise"} <= set(offered("workflow", ""))
    assert "--timeout" in offered("workflow", "wait", "x", "--t")
    assert offered("completion", "z") == ["zsh"]


def test_statuses(offered: Any) -> None:
    assert offered("workflow", "list", "--status", "s") == ["suspended", "stalled"]
    assert offered("workflow", "list", "--status", "failed,t") == ["failed,terminated"]


def test_instance_ids_of_the_node(offered: Any, node: Any) -> None:
    for id in ("order-1", "order-2", "other"):
        node.run(node.node.workflows.start("waiter", None, id))
    for verb in ("get", "history", "wait", "watch", "pause", "raise"):
        assert offered("workflow", verb, "order") == ["order-2", "order-1"]
    assert offered("workflow", "get", "--server", "http://127.0.0.1:1", "or") == []


def test_ids_that_a_shell_would_take_for_more_are_not_offered(offered: Any, node: Any) -> None:
    for id in ("a$(touch x)", "a b", "a`x`", "a'b", "a*", "a;b", "a.b:c"):
        node.run(node.node.workflows.start("waiter", None, id))
    assert offered("workflow", "get", "a") == ["a.b:c"]


def test_workflow_names(offered: Any, node: Any) -> None:
    assert offered("workflow", "start", "") == ["echo", "waiter"]
    assert offered("workflow", "list", "--name", "w") == ["waiter"]


def test_no_node(offered: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERDURE_SERVER", "http://127.0.0.1:1")
    assert offered("workflow", "get", "") == []
    monkeypatch.setenv("PERDURE_SERVER", "nonsense")
    assert offered("workflow", "get", "") == []
    assert offered("workflow", "get", "--store", f"sqlite:///{tmp_path}/none.db", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(perdure: Any, shell: str) -> None:
    result = perdure("completion", shell)
    assert (result.status, result.err) == (0, "")
    assert f"_PERDURE_COMPLETE=complete_{shell}" in result.out
    assert "_PERDURE_COMPLETE" not in os.environ


def test_a_shell_that_is_not_known(perdure: Any) -> None:
    result = perdure("completion", "cmd")
    assert (result.status, result.error) == (
        2,
        "there is no completion for 'cmd'; there is for bash, zsh, fish",
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_in_bash(node: Any, perdure: Any) -> None:
    node.run(node.node.workflows.start("waiter", None, "order-1"))
    script = f"""
        PATH={PERDURE.parent}:$PATH
        eval "$(perdure completion bash)"
        COMP_WORDS=(perdure workflow get or)
        COMP_CWORD=3
        function=$(complete -p perdure | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        $function perdure or get
        echo "${{COMPREPLY[@]}}"
    """
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert (found.stdout, found.stderr) == ("order-1\n", "")
