"""The served API keeps what its own description promises, for whatever clients send."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings

from perdure.sidecar.openapi import describe_api
from perdure.sidecar.server import MAX_BODY, make_app

EXAMPLES = 20


def test_every_route_is_described(node: Any) -> None:
    described = {
        (method.upper(), path)
        for path, methods in describe_api("1", 1)["paths"].items()
        for method in methods
    }
    served = {
        (route.method, route.resource.canonical)
        for route in make_app(node).router.routes()
        if route.resource is not None and not route.resource.canonical.startswith(("/v1.0-a", "/v1.0-b"))
    }
    assert {(method, path) for method, path in served if method != "HEAD"} == described


async def test_the_description_is_served(call: Any) -> None:
    assert (await call("GET", "/openapi.json")).json == describe_api(version("perdure"), MAX_BODY)


schema = schemathesis.openapi.from_dict(describe_api("1", MAX_BODY))


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case: Any, served_node: Any) -> None:
    # What a cursor may be cannot be described: only those that an answer gave are right.
    opaque = (
        [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
        if "cursor" in (case.query or {})
        else []
    )
    case.call_and_validate(base_url=served_node.url, excluded_checks=opaque)
