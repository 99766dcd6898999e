"""What one node's workflows and activities have done since it started, counted for a monitoring system.

Names and labels are those that Dapr's sidecar has for the same things; durations in milliseconds are so, too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from perdure.metrics import MOST_SERIES, Counts, Distribution, Family, Series

#: Upper ends of buckets in milliseconds: of answers to requests, and of what may take days.
ANSWERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
RUNS = (
    *(1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000),
    *(3_600_000, 21_600_000, 86_400_000, 604_800_000),
)

#: The operations, by the method of the message that asks for them.
OPERATIONS = {
    "start": "create_workflow",
    "raise": "add_event",
    "purge": "purge_workflow",
    "suspend": "pause_workflow",
    "resume": "resume_workflow",
    "terminate": "terminate_workflow",
}
#: What the labels call the ends of an execution.
STATUSES = {"completed": "success", "failed": "failed", "terminated": "terminated"}


class Monitor:
    """One per engine. Called on its loop; never raises. Durations of what the history says are by its times, so that
    they are right also if another node began it."""

    __slots__ = (
        "_answers",
        "_asked",
        "_asked_well",
        "_ended",
        "_runs",
        "_runs_well",
        "_scheduling",
        "_sent_again",
        "_stalls",
    )

    def __init__(self) -> None:
        self._answers = Distribution(ANSWERS, "operation", "status")
        self._ended = Distribution(RUNS, "workflow_name", "status")
        self._scheduling = Distribution(ANSWERS, "workflow_name")
        self._asked = Distribution(RUNS, "activity_name", "status")
        self._runs = Distribution(RUNS, "activity_name", "status")
        #: Those of activities that went well, by name: the two that are told of most.
        self._asked_well: dict[str, Series] = {}
        self._runs_well: dict[str, Series] = {}
        self._stalls = Counts("workflow_name", "kind")
        self._sent_again = Counts("activity_name")

    def answered(self, method: str, seconds: float, *, well: bool) -> None:
        """A client's request was answered; `method` is that of its message."""
        operation = OPERATIONS.get(method, method)
        self._answers.observe(seconds * 1000, operation, "success" if well else "failed")

    def started(self, name: str, micros: int) -> None:
        """An execution has begun, so long after it was to."""
        self._scheduling.observe(micros / 1000, name)

    def ended(self, name: str, status: str, micros: int) -> None:
        """An instance is "completed", "failed" or "terminated", so long after it began."""
        self._ended.observe(micros / 1000, name, STATUSES[status])

    def activity_settled(self, name: str, well: bool, micros: int) -> None:
        """A workflow has the answer of an activity, so long after it asked for it."""
        if well:
            series = self._asked_well.get(name) or _kept(self._asked_well, self._asked, name)
            series.counts[bisect_left(RUNS, micros / 1000)] += 1
            series.total += micros / 1000
        else:
            self._asked.observe(micros / 1000, name, "failed")

    def activity_ran(self, name: str, well: bool, seconds: float) -> None:
        """This node has run an activity's function."""
        if well:
            series = self._runs_well.get(name) or _kept(self._runs_well, self._runs, name)
            value = seconds * 1000
            series.counts[bisect_left(RUNS, value)] += 1
            series.total += value
        else:
            self._runs.observe(seconds * 1000, name, "failed")

    def stalled(self, name: str, kind: str) -> None:
        """An instance could not go on: see `stall.py` for the kinds."""
        self._stalls.add(name, kind)

    def sent_again(self, name: str) -> None:
        """The node that had an activity is gone, or does not know it any more."""
        self._sent_again.add(name)

    def families(self, common: Mapping[str, str]) -> list[Family]:
        """All of it, each sample with the labels in `common`."""
        found = []
        for name, kept, of in (
            ("operation", self._answers, "requests to start, steer and purge workflows"),
            ("execution", self._ended, "workflow instances that ended"),
            ("activity_operation", self._asked, "activities, from asked for to answered"),
            ("activity_execution", self._runs, "runs of activity functions on this node"),
        ):
            prefix = f"dapr_runtime_workflow_{name}"
            found.append(Family(f"{prefix}_count", "counter", f"Number of {of}.", kept.counts(common)))
            found.append(
                Family(f"{prefix}_latency", "histogram", f"Milliseconds: {of}.", kept.samples(common))
            )
        found.append(
            Family(
                "dapr_runtime_workflow_scheduling_latency",
                "histogram",
                "Milliseconds from when a workflow was to start until its code did.",
                self._scheduling.samples(common),
            )
        )
        found.append(
            Family(
                "perdure_workflow_stalls_total",
                "counter",
                "Times that an instance could not go on, by kind of reason.",
                self._stalls.samples(common),
            )
        )
        found.append(
            Family(
                "perdure_activities_sent_again_total",
                "counter",
                "Activity requests sent again since the node that had them was gone or did not know them.",
                self._sent_again.samples(common),
            )
        )
        return found


def _kept(kept: dict[str, Series], distribution: Distribution, name: str) -> Series:
    series = distribution.series(name, "success")
    if len(kept) < MOST_SERIES:
        kept[name] = series
    return series
