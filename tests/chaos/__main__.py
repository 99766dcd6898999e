"""python -m tests.chaos --store redis --minutes 30: breaks a cluster at random, and checks what is left."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.chaos.run import Options, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--store", choices=["redis", "postgres"], default="redis")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="repeats the faults of an earlier run")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument(
        "--placement", type=int, default=2, help="replicas of the service; 0: the nodes run it"
    )
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument(
        "--folder", type=Path, help="where logs and records stay; else they go if all is well"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    folder = given.folder or Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    options = Options(
        store=given.store,
        seconds=given.minutes * 60,
        seed=seed,
        nodes=given.nodes,
        placement=given.placement,
        clients=given.clients,
    )
    print(f"seed {seed}, records in {folder}", flush=True)
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:8.1f} s  {text}", flush=True)

    report = asyncio.run(run(options, folder, tell))
    summary: dict[str, Any] = report.summary()
    print(json.dumps(summary, indent=2))
    if given.json is not None:
        given.json.write_text(json.dumps(summary, indent=2))
    if report.wrong:
        again = f"python -m tests.chaos --store {given.store} --minutes {given.minutes:g} --seed {seed}"
        again += f" --nodes {given.nodes} --placement {given.placement} --clients {given.clients}"
        sys.exit(f"{len(report.wrong)} things are wrong; repeat with: {again}; records in {folder}")
    if given.folder is None:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
