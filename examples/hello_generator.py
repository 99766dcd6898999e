"""The same kind of program in the generator style: a workflow that says `yield` where others say `await`.

perdure run examples/hello_generator.py:app
"""

from collections.abc import Generator
from typing import Any

from perdure import ActivityContext, App, WorkflowContext, when_all

app = App("hello-generator")


@app.activity
def greet(ctx: ActivityContext, name: str) -> str:
    return f"Hello, {name}!"


@app.workflow
def hello_all(ctx: WorkflowContext, names: list[str]) -> Generator[Any, Any, list[str]]:
    """Greets everybody at once. What `yield` gives back has no type; `await` keeps it (see hello.py)."""
    greetings: list[str] = yield when_all([ctx.call_activity(greet, input=name) for name in names])
    return greetings


if __name__ == "__main__":
    app.run()
