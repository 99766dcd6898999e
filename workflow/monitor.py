"""What one node's workflows and activities have done since it started, counted for a monitoring system.

Names and labels are those that Dapr's sidecar has for the same things; durations in milliseconds are so, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.metrics import Counts, Distribution, Family, Pending

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


#: How many are a millisecond: of seconds, of microseconds.
_SECONDS = 0.001
_MICROSECONDS = 1000


class Monitor:
    """One per engine. Called on its loop; never raises. Durations of what the history says are by its times, so that
    they are right also if another node began it.

    What goes well is told of most, and by appending: `monitor.ran[name].append(seconds)`."""

    __slots__ = (
        "_answers",
        "_asked",
        "_ended",
        "_runs",
        "_scheduling",
        "_sent_again",
        "_stalls",
        "answered",
        "completed",
        "ran",
        "settled",
        "started",
    )

    def __init__(self) -> None:
        self._answers = Distribution(ANSWERS, "operation", "status")
        self._ended = Distribution(RUNS, "workflow_name", "status")
        self._scheduling = Distribution(ANSWERS, "workflow_name")
        self._asked = Distribution(RUNS, "activity_name", "status")
        self._runs = Distribution(RUNS, "activity_name", "status")
        self._stalls = Counts("workflow_name", "kind")
        self._sent_again = Counts("activity_name")
        #: Clients' requests, by operation (`OPERATIONS`): seconds until they were answered.
        self.answered = Pending(self._answers, _SECONDS, "success")
        #: Executions that have begun, by workflow: microseconds since they were to.
        self.started = Pending(self._scheduling, _MICROSECONDS)
        #: Instances that are completed, by workflow: microseconds since they began.
        self.completed = Pending(self._ended, _MICROSECONDS, STATUSES["completed"])
        #: Activities whose results their workflows have, by name: microseconds since they asked for them.
        self.settled = Pending(self._asked, _MICROSECONDS, "success")
        #: Activities' functions that this node has run, by name: seconds that they took.
        self.ran = Pending(self._runs, _SECONDS, "success")

    def refused(self, method: str, seconds: float) -> None:
        """A client's request was answered with an error; `method` is that of its message."""
        self._answers.observe(seconds / _SECONDS, OPERATIONS.get(method, method), "failed")

    def ended(self, name: str, status: str, micros: int) -> None:
        """An instance is "failed" or "terminated", so long after it began."""
        self._ended.observe(micros / _MICROSECONDS, name, STATUSES[status])

    def activity_settled(self, name: str, micros: int) -> None:
        """A workflow has the failure of an activity, so long after it asked for it."""
        self._asked.observe(micros / _MICROSECONDS, name, "failed")

    def activity_failed(self, name: str, seconds: float) -> None:
        """An activity's function that this node has run has failed."""
        self._runs.observe(seconds / _SECONDS, name, "failed")

    def stalled(self, name: str, kind: str) -> None:
        """An instance could not go on: see `stall.py` for the kinds."""
        self._stalls.add(name, kind)

    def sent_again(self, name: str) -> None:
        """The node that had an activity is gone, or does not know it any more."""
        self._sent_again.add(name)

    def settle(self) -> None:
        """Sorts what was told by appending; to be called now and then, so that it takes little room."""
        for pending in (self.answered, self.started, self.completed, self.settled, self.ran):
            pending.settle()

    def families(self, common: Mapping[str, str]) -> list[Family]:
        """All of it, each sample with the labels in `common`."""
        self.settle()
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
