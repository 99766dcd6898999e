"""A virtual actor: state, a reminder that survives restarts, a timer that does not, and calls from a workflow.

perdure run examples/counter_actor.py:app
curl -X POST http://localhost:3500/v1.0/actors/Counter/lobby/method/add -d 3
"""

from datetime import timedelta

from perdure import ActivityContext, Actor, ActorProxy, App, WorkflowContext

app = App("counters")


@app.actor
class Counter(Actor):
    """Counts; each id has a number of its own. Nobody creates it: the first call does."""

    async def on_activate(self) -> None:
        self.added_here = 0
        self.set_timer("report", timedelta(seconds=10), timedelta(seconds=10), self.report)

    async def add(self, amount: int = 1) -> int:
        """One call at a time, so nothing comes between reading and writing. The result leaves after the commit."""
        value = await self.state.get("value", int, default=0) + amount
        if value < 0:
            raise ValueError(f"a counter does not go below 0: {value}")
        self.state.set("value", value)
        self.added_here += amount
        return value

    async def value(self) -> int:
        return await self.state.get("value", int, default=0)

    async def reset_in(self, seconds: float) -> None:
        """A reminder: it fires even if the process is killed and started again meanwhile."""
        await self.set_reminder("reset", timedelta(seconds=seconds))

    async def on_reminder(self, name: str, data: object) -> None:
        self.state.set("value", 0)

    async def report(self) -> None:
        """A timer: it runs only while this actor is in memory, and is set anew when it comes back."""
        print(f"{self.id}: {self.added_here} added here", flush=True)


@app.activity
async def count_visit(ctx: ActivityContext, place: str) -> int:
    """Activities call actors through typed proxies; the type checker sees `add` and what it returns."""
    return await ActorProxy.create(Counter, place).add(1)


@app.workflow
async def visit(ctx: WorkflowContext, places: list[str]) -> dict[str, int]:
    return {place: await ctx.call_activity(count_visit, input=place) for place in places}


if __name__ == "__main__":
    app.run()
