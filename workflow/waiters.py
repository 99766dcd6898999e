"""Waiters: messages that wait for an instance to start or finish."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.actors.messages import Message
from perdure.errors import InstanceNotFound
from perdure.workflow.instance import Instance, describe
from perdure.workflow.requests import Wait


def told(waiters: Sequence[Message], instance: Instance | None) -> list[Message]:
    """Answers those `Wait`s whose instance has come so far, or is gone; the others go on waiting."""
    waiting: list[Message] = []
    for message in waiters:
        body: Wait = message.body
        if instance is None or instance.purged:
            message.answer(InstanceNotFound())
        elif instance.finished or (body.until == "started" and instance.meta.started):
            message.answer(describe(instance.row()))
        else:
            waiting.append(message)
    return waiting
