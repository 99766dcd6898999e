"""The API token on the command line: from the environment, for serving and for asking."""

from __future__ import annotations

import signal
from typing import Any

import pytest

TOKEN = "t0ken"


@pytest.mark.parametrize("variable", ["PERDURE_API_TOKEN", "DAPR_API_TOKEN"])
def test_a_node_with_a_token(
    serve: Any, perdure: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    running = serve("--api-token", TOKEN) if variable == "PERDURE_API_TOKEN" else None
    monkeypatch.setenv(variable, TOKEN)
    running = running or serve()  # takes it from the environment
    monkeypatch.setenv("PERDURE_SERVER", running.url)
    assert (
        perdure("workflow", "start", "twice", "-i", "4", "--wait", "--json").json["workflowName"] == "twice"
    )
    monkeypatch.setenv(variable, "another")
    result = perdure("workflow", "list")
    assert result.status == 1
    assert result.error == f"{running.url} does not take the API token given: set PERDURE_API_TOKEN"
    monkeypatch.delenv(variable)
    result = perdure("workflow", "list")
    assert result.status == 1
    assert result.error == f"{running.url} wants an API token: set PERDURE_API_TOKEN"
    assert TOKEN not in "".join(running.said)
    assert running.end(signal.SIGTERM) == 0


def test_the_own_variable_goes_before_daprs(
    serve: Any, perdure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve("--api-token", TOKEN)
    monkeypatch.setenv("DAPR_API_TOKEN", "of something else")
    monkeypatch.setenv("PERDURE_API_TOKEN", TOKEN)
    assert perdure("workflow", "list", "--server", running.url, "--json").json == {"instances": []}


def test_a_token_that_no_header_can_carry(perdure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_API_TOKEN", "a\nb")
    result = perdure("workflow", "list")
    assert (result.status, "PERDURE_API_TOKEN" in result.error) == (2, True)
