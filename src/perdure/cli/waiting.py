"""Waiting for an instance over HTTP."""

from __future__ import annotations

import time
from typing import Any

from perdure.cli.failures import CommandError
from perdure.cli.remote import Node, Refused, instance_path

#: Seconds that one request waits; then the next one does.
STEP = 25.0
#: Seconds after which a node that is stopping is asked again.
AGAIN = 0.5


def wait_until(target: Node, id: str, until: str, seconds: float | None) -> dict[str, Any]:
    """The instance once it has started or finished. Goes on when the node is being restarted by somebody who keeps
    its port (503), not when it is gone."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        left = STEP if end is None else end - time.monotonic()
        if left < 0:
            raise CommandError(f"{id} has not {until} within {seconds:g} s; it goes on")
        step = min(STEP, left)
        try:
            path = f"{instance_path(id)}/wait"
            query = {"until": until, "timeout": f"{step:.3f}"}
            found: dict[str, Any] = target.request("GET", path, query)
        except Refused as refusal:
            if refusal.http_status not in (503, 504):
                raise
            if refusal.http_status == 503:
                time.sleep(AGAIN)
            continue
        return found
