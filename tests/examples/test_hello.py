"""The two smallest examples do what they say."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from perdure import RuntimeStatus


async def test_hello(load: Callable[[str], ModuleType]) -> None:
    example = load("hello")
    async with example.app.serve(store="memory://", http_port=None) as node:
        instance = await node.client.schedule_new_workflow(example.hello, input="Ada")
        state = await node.client.wait_for_workflow_completion(instance, timeout=30)
    assert state.runtime_status is RuntimeStatus.COMPLETED
    assert state.output == "Hello, Ada!"


async def test_hello_in_the_generator_style_greets_everybody(load: Callable[[str], ModuleType]) -> None:
    example = load("hello_generator")
    async with example.app.serve(store="memory://", http_port=None) as node:
        instance = await node.client.schedule_new_workflow(example.hello_all, input=["Ada", "Grace"])
        state = await node.client.wait_for_workflow_completion(instance, timeout=30)
    assert state.runtime_status is RuntimeStatus.COMPLETED
    assert state.output == ["Hello, Ada!", "Hello, Grace!"]
