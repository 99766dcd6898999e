"""What the page on actors shows is done, one block after the other, on a real node."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "actors.md"


async def test_its_blocks_do_what_it_says() -> None:
    program = [block for block in blocks(PAGE) if block.info == "python app.py"]
    given: dict[str, Any] = {"__name__": "app"}
    for block in program:
        eval(compile(block.text, f"{PAGE}:{block.line}", "exec"), given)
    # The command line finds the interpreter's own `perdure` first.
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    async with given["app"].serve(store="memory://", http_port=0) as node:
        given["node"] = node
        environment = {**os.environ, "PATH": os.pathsep.join(paths), "PERDURE_SERVER": node.url}
        for block in blocks(PAGE):
            if block.info == "python":
                code = compile(block.text, f"{PAGE}:{block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                found = eval(code, given)
                if inspect.isawaitable(found):
                    await found
            elif block.info == "sh":
                for line in re.split(r"\n(?=\S)", block.text.strip()):
                    await _shell(line.replace("http://localhost:3500", node.url), environment)
        account, session = given["Account"], given["Session"]
        assert await node.actor(account, "ann").balance() == 10
        assert await node.actor(account, "bob").balance() == 10
        assert await node.actor(session, "1").user() == "ann"
        assert await node.actor(given["Order"], "1").place("tea") == 3
        await node.actor(given["Invoice"], "8").send(30)
        id = await node.client.schedule_new_workflow(given["payday"], input=7)
        state = await node.client.wait_for_workflow_completion(id)
        assert state.output == 7
        assert await node.actor(account, "eve").balance() == 7


async def _shell(line: str, environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_shell(
        line.replace("curl ", "curl -sS --fail-with-body ", 1),
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
    assert process.returncode == 0, (line, said.decode())
