"""python -m tests.simulation --seeds N [--start S] [--scenario NAME] [-v]: runs seeds, and tells what they found."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.run import Failed, simulate
from tests.simulation.scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many, per scenario")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument(
        "--scenario", choices=sorted(SCENARIOS), action="append", help="all, if none is given"
    )
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("-v", "--verbose", action="store_true", help="with the engine's log in the trace")
    options = parser.parse_args()
    failures: list[tuple[str, int, str]] = []
    began, commits, runs = time.monotonic(), 0, 0
    for scenario in options.scenario or SCENARIOS:
        for seed in range(options.start, options.start + options.seeds):
            runs += 1
            try:
                commits += simulate(seed, scenario, verbose=options.verbose).checker.commits
            except Failed as failed:
                failures.append((scenario, seed, str(failed)))
                if not options.keep_going:
                    print(failed)
                    return 1
        seconds = time.monotonic() - began
        print(
            f"{scenario:10} {runs:6} runs {commits:8} commits {seconds:7.1f} s {seconds / runs * 1e3:6.1f} ms each",
            flush=True,
        )
    for scenario, seed, text in failures:
        print(f"{scenario} {seed}: {text.splitlines()[-2][:300]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
