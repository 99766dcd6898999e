"""What the page on starts and events shows is done, one block after the other, on a real node."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import sys
from datetime import timedelta
from pathlib import Path
from types import CodeType
from typing import Any

from perdure import App, RuntimeStatus, WorkflowContext
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "starting.md"


def _app() -> App:
    app = App("docs")

    @app.workflow
    async def report(ctx: WorkflowContext, number: int) -> int:
        return number

    @app.workflow
    async def session(ctx: WorkflowContext) -> None:
        await ctx.wait_for_external_event("end")

    @app.workflow
    async def order(ctx: WorkflowContext, order: dict[str, int]) -> Any:
        return await ctx.wait_for_external_event("paid")

    return app


async def test_its_blocks_do_what_it_says(tmp_path: Path) -> None:
    # The command line finds the interpreter's own `perdure` first.
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    async with _app().serve(store="memory://", http_port=0) as node:
        given = {"client": node.client, "timedelta": timedelta, "order": {"amount": 5}, "request_id": "7f3a"}
        given["receipt"] = {"id": "p-17"}
        environment = {**os.environ, "PATH": os.pathsep.join(paths), "PERDURE_SERVER": node.url}
        for block in blocks(PAGE):
            if block.info == "python":
                code = compile(block.text, f"{PAGE}:{block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                await _run(code, given)
            elif block.info == "sh":
                environment["ID"] = given["id"]
                await _shell(block.text.replace("http://localhost:3500", node.url), environment)
        reports = (await node.client.list(name="report")).items
        assert len(reports) == 4
        assert {state.runtime_status for state in reports} == {RuntimeStatus.PENDING}
        assert len((await node.client.list(name="session")).items) == 1
        order = await node.client.get_workflow_state(given["id"])
        assert (order.generation, order.output) == (1, {"id": "p-17"})
        again = [
            one for one in (await node.client.list(name="order")).items if one.instance_id != given["id"]
        ]
        assert len(again) == 3
        assert {one.instance_id for one in again} >= {given["again"], f"{given['id']}-again"}
        assert {str(one.input) for one in again} == {str(order.input)}


async def _run(code: CodeType, given: dict[str, Any]) -> None:
    found = eval(code, given)
    if inspect.isawaitable(found):
        await found


async def _shell(text: str, environment: dict[str, str]) -> None:
    for line in text.splitlines():
        run = line.replace("curl ", "curl -sS --fail-with-body ", 1)
        process = await asyncio.create_subprocess_shell(
            run,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, f"{line}: {said.decode()}"
