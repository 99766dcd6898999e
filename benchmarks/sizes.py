"""How big each workload is: large enough for steady figures, or small enough for a check of every change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How many of everything."""

    #: Each figure is the median of this many runs.
    repeats: int
    #: W1: workflows of 10 activities, one after the other.
    chains: int
    #: W2: workflows of 5 activities, all at once.
    instances: int
    #: W3: activities of one workflow, all at once.
    fan_out: int
    #: W4: activities of one workflow, one after the other.
    sequence: int
    #: W5: events to one waiting workflow after the other, and to many with 32 in flight.
    events: int
    events_in_flight: int
    #: W6: workflows that wait a second.
    timers: int
    #: W7: workflows of 5 activities of 50 ms that are killed half way.
    killed: int
    #: W8: suspended instances in the store.
    suspended: int
    #: W2 again, with this many finished instances in the store.
    finished: tuple[int, ...]
    #: Events in one history.
    history: int
    #: Instances in flight when a node starts.
    in_flight: int
    #: Instances in the memory of a node that gives half of them to another.
    active: int
    #: Suspended instances of each of two nodes.
    suspended_each: int
    #: How long each raw limit of the machine is measured, in seconds.
    limit_seconds: float


FULL = Sizes(
    repeats=3,
    chains=200,
    instances=2000,
    fan_out=1000,
    sequence=2000,
    events=500,
    events_in_flight=4000,
    timers=2000,
    killed=500,
    suspended=1_000_000,
    finished=(10_000, 100_000, 1_000_000),
    history=100_000,
    in_flight=10_000,
    active=10_000,
    suspended_each=100_000,
    limit_seconds=2.0,
)

#: About a minute in all.
SHORT = Sizes(
    repeats=1,
    chains=40,
    instances=300,
    fan_out=300,
    sequence=500,
    events=100,
    events_in_flight=400,
    timers=300,
    killed=60,
    suspended=10_000,
    finished=(2_000,),
    history=4_000,
    in_flight=500,
    active=500,
    suspended_each=1_000,
    limit_seconds=0.3,
)

#: What a peer gets of the workloads that would take it minutes; figures are per workflow, activity or event.
PEER_SHARE = 5
