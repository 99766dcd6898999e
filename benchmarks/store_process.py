"""A process that has a SQLite file and serves it to nodes, as the parent of `perdure run --nodes N` does."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from perdure.app import loop_factory, tune
from perdure.statestore import open_store
from perdure.statestore.socket import StoreServer


@contextlib.contextmanager
def store_process(folder: Path) -> Iterator[str]:
    """The URL by which nodes reach the store, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.store_process", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


async def _serve(folder: Path) -> None:
    store = open_store(f"sqlite:///{folder}/benchmark.db")
    server = StoreServer(store, folder / "store.sock")
    await server.start()
    print(server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()
    await store.close()


if __name__ == "__main__":
    tune()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(Path(sys.argv[1])))
