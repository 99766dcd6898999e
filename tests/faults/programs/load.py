"""A node under load: chains of activities that each note what they did, durably."""

from __future__ import annotations

import asyncio
import os

from perdure import ActivityContext, App, WorkflowContext

LEDGER = os.open(os.path.join(os.environ["FOLDER"], "ledger"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

app = App("load", replay_check="off")


@app.activity
async def note(ctx: ActivityContext, n: int) -> int:
    os.write(LEDGER, f"{ctx.instance_id} {n}\n".encode())
    await asyncio.sleep(0.002)
    return n


@app.workflow
async def chain(ctx: WorkflowContext, length: int) -> list[int]:
    """An activity, an event, an activity, …; what it gives is all that it got."""
    got = []
    for n in range(length):
        got.append(await ctx.call_activity(note, input=n))
        got.append(await ctx.wait_for_external_event("go"))
    return got


if __name__ == "__main__":
    app.run(
        store=os.environ["STORE"],
        http_port=int(os.environ["PORT"]),
        log_level="WARNING",
        drain_seconds=2,
        blocked_after=float(os.environ.get("BLOCKED_AFTER", "2")),
        stuck_after=float(os.environ.get("STUCK_AFTER", "3")),
    )
