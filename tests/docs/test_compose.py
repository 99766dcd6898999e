"""compose.yaml, as far as it can be checked without containers: its commands are commands, and lead to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from perdure.addresses import split_addresses
from perdure.cli.main import app
from perdure.cli.options import DEFAULT_SERVER
from perdure.statestore.urls import open_store
from tests.docs.blocks import ROOT

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "perdure-example"}


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of a command; raises for what it would refuse."""
    group = typer.main.get_command(app)
    with group.make_context("perdure", list(arguments)) as outer:
        name, command, rest = group.resolve_command(outer, list(arguments))  # type: ignore[attr-defined]
        with command.make_context(name, rest, parent=outer) as context:
            return dict(context.params)


@pytest.mark.parametrize("name", OURS)
async def test_every_command_is_one(name: str) -> None:
    options = parsed(OURS[name]["command"])
    assert options["host"] == "0.0.0.0", "who listens on loopback is reached by no other container"
    store = open_store(options["store"])
    assert store.shared
    await store.close()


@pytest.mark.parametrize("name", OURS)
def test_what_it_names_is_there(name: str) -> None:
    service = OURS[name]
    profile = set(service["profiles"])
    options = parsed(service["command"])
    hosts = [address.partition(":")[0] for address in split_addresses(options.get("placement") or "", "it")]
    for other in [*hosts, *service["depends_on"]]:
        assert profile <= set(SERVICES[other]["profiles"]), f"{other} is not started with {name}"
    if "target" in options:
        assert (ROOT / options["target"].partition(":")[0]).is_file()


@pytest.mark.parametrize("name", OURS)
def test_its_health_is_asked_where_it_answers(name: str) -> None:
    service = OURS[name]
    node = service["command"][0] == "run"
    url = f"http://127.0.0.1:{parsed(service['command'])['http_port']}/{'readyz' if node else 'healthz'}"
    assert f"urlopen('{url}')" in service["healthcheck"]["test"][-1]


def test_the_ports_are_those_that_are_told() -> None:
    port = DEFAULT_SERVER.rpartition(":")[2]
    assert OURS["node"]["ports"] == [f"{port}-{int(port) + 2}:{port}"]
    assert OURS["node"]["deploy"]["replicas"] == 3
    placement = parsed(OURS["placement"]["command"])
    assert parsed(OURS["node"]["command"])["placement"] == f"placement:{placement['port']}"


def test_the_image_has_what_it_needs() -> None:
    """.dockerignore lets in what the build reads, and nothing else."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    missing = [name for name in allowed if not (ROOT / name).exists()]
    assert missing == []
    layers = {path.parent.name for path in Path(ROOT).glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert layers <= allowed
