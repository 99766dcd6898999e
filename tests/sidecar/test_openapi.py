"""The served API keeps what its own description promises, for whatever clients send."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings

from perdure.sidecar.openapi import describe_api
from perdure.sidecar.server import MAX_BODY, make_app

EXAMPLES = 15


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


bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def check(case: Any, url: str) -> None:
    # What a cursor may be, how times are written, or the argument of an actor's method, is not in the description:
    # only those that an answer gave, or that the method takes, are right.
    query = case.query or {}
    excluded = []
    # An import takes only what an export gave.
    changes = (
        case.path.endswith("/import")
        or case.path.endswith("/state")
        or "/reminders/" in case.path
        or "/timers/" in case.path
    )
    if "cursor" in query or "start" in query or "/method/" in case.path or changes:
        excluded.append("positive_data_acceptance")
    if "Idempotency-Key" in (case.headers or {}):
        excluded.append("negative_data_rejection")  # Keys may be more than what is described: any text
    if "/wait" in case.path:
        excluded.append("not_a_server_error")  # 504: it has not happened in time
        if "timeout" not in query:
            case.query = {**query, "timeout": 0.01}
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in excluded]
    case.call_and_validate(base_url=url, excluded_checks=checks)


@schema.parametrize()
@bounded
def test_answers_are_as_described(case: Any, served_node: Any) -> None:
    check(case, served_node.url)


@schema.parametrize()
@bounded
def test_answers_of_a_real_node_are_as_described(case: Any, real_node: Any) -> None:
    check(case, real_node.url)
