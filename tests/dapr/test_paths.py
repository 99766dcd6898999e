"""Every import line of Dapr's programs works with `perdure.` before `dapr`."""

from __future__ import annotations

import importlib

import pytest

import perdure.dapr


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "perdure.dapr.ext.workflow",
            "WorkflowRuntime DaprWorkflowContext WorkflowActivityContext RetryPolicy DaprWorkflowClient WorkflowState",
        ),
        (
            "perdure.dapr.ext.workflow",
            "WorkflowStatus when_any when_all alternate_name",
        ),
        ("perdure.dapr.clients", "DaprClient DaprInternalError"),
        ("perdure.dapr.clients.exceptions", "DaprInternalError"),
        ("perdure.dapr.conf", "Settings settings"),
    ],
)
def test_names_are_where_the_sdk_has_them(module: str, names: str) -> None:
    found = importlib.import_module(module)
    for name in names.split():
        assert hasattr(found, name), name
        if name != "settings":
            assert getattr(found, name) is getattr(perdure.dapr, name)


def test_all_is_sorted_and_documented() -> None:
    assert list(perdure.dapr.__all__) == sorted(perdure.dapr.__all__)
    for name in perdure.dapr.__all__:
        assert getattr(perdure.dapr, name).__doc__, name
