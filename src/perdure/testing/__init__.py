"""For tests: of users of Perdure, and of other stores' authors (`perdure.testing.store_contract`).

    environment         a node with time that the test moves: `Environment`, and `blocking` for plain test functions
    clock, time         how that time goes
    override            activities that are something else for a while
    golden              histories that were kept, run again with the code of today
    crashes, lives      a scenario with the process killed at each of its commits

With pytest, the fixture `perdure` is one of these environments: see docs/testing.md. Nothing here but
`store_contract` needs pytest.
"""

from perdure.testing.crashes import CrashMattered, CrashReport, crash_everywhere
from perdure.testing.environment import BlockingEnvironment, Environment
from perdure.testing.golden import Replayed, replay, replay_export
from perdure.testing.override import Override, override
from perdure.testing.time import TimeStandsStill
from perdure.workflow.executor import NonDeterminism

#: `with testing.blocking(app) as perdure:`
blocking = BlockingEnvironment

__all__ = [
    "BlockingEnvironment",
    "CrashMattered",
    "CrashReport",
    "Environment",
    "NonDeterminism",
    "Override",
    "Replayed",
    "TimeStandsStill",
    "blocking",
    "crash_everywhere",
    "override",
    "replay",
    "replay_export",
]
