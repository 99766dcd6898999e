"""The smallest workflow: one activity, one result.

perdure run examples/hello.py:app
"""

from perdure import ActivityContext, App, WorkflowContext

app = App("hello")


@app.activity
async def greet(ctx: ActivityContext, name: str) -> str:
    return f"Hello, {name}!"


@app.workflow
async def hello(ctx: WorkflowContext, name: str) -> str:
    return await ctx.call_activity(greet, input=name)


if __name__ == "__main__":
    app.run()
