"""Something scarce: a licence with three seats, one printer per machine, and two books at a time.

perdure run examples/limits.py:app
curl -X POST 'http://localhost:3500/v1.0/workflows/dapr/book/start?instanceID=novel' -d 12
curl http://localhost:3500/v1.0/metadata
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from perdure import ActivityContext, App, WorkflowContext

app = App("press")

SEATS = 3
LICENCE = Path(os.environ.get("PRESS_LICENCE", "/tmp/press-licence"))


@contextmanager
def seat() -> Generator[int, None, None]:
    """One seat of the licence. It refuses whoever comes when all are taken."""
    LICENCE.mkdir(exist_ok=True)
    for number in range(SEATS):
        with open(LICENCE / f"seat-{number}", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
    raise RuntimeError("all seats of the licence are taken")


@app.activity(global_max_concurrent=SEATS)
def render(ctx: ActivityContext, page: int) -> str:
    """On all nodes together no more than the licence allows: the others wait their turn, and none is refused."""
    with seat() as number:
        time.sleep(0.02)
        return f"page {page}, seat {number}"


@app.activity(max_concurrent=1)
async def print_page(ctx: ActivityContext, page: str) -> None:
    """One at a time on each node, which has a printer of its own."""
    ctx.logger.info("printed %s", page)


@app.workflow(global_max_concurrent=2)
async def book(ctx: WorkflowContext, pages: int) -> int:
    """Two books at a time, from the first page to the last; more are PENDING, and begin in the order they came."""
    rendered = await ctx.map(render, range(1, pages + 1))
    for page in rendered:
        await ctx.call_activity(print_page, input=page)
    return len(rendered)


if __name__ == "__main__":
    app.run()
