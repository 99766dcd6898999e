"""What workflow actors and activities are sent, and answer, over links between nodes."""

from __future__ import annotations

from perdure.actors.codec import Codec
from perdure.workflow.requests import (
    Acquire,
    ActivityDone,
    ActivityRequest,
    Cancel,
    CancelActivity,
    ChildDone,
    Forget,
    Granted,
    Purge,
    Raise,
    Release,
    Restore,
    Resume,
    Start,
    StartDue,
    Suspend,
    Terminate,
    TimerDue,
    Wait,
)
from perdure.workflow.stall import Purged
from perdure.workflow.state import WorkflowState
from perdure.workflow.whereabouts import ActivitiesOf, KnownActivities, UnknownActivities, WhichUnknown

#: The bodies of messages to workflow actors.
ToWorkflow = (
    Start
    | Raise
    | ActivityDone
    | ChildDone
    | TimerDue
    | StartDue
    | Suspend
    | Resume
    | Terminate
    | Cancel
    | Purge
    | Restore
    | Wait
    | Forget
    | Granted
)

#: How the names of the runtime's own actor types begin; see `perdure.workflow.engine`.
_INTERNAL = "dapr.internal."


def register_workflow(codec: Codec) -> None:
    """Teaches a codec the bodies, answers and errors of this layer."""
    codec.bodies(ToWorkflow, prefix=_INTERNAL, suffix=".workflow")
    codec.bodies(ActivityRequest | CancelActivity, prefix=_INTERNAL, suffix=".activity")
    codec.bodies(Acquire | Release, prefix=_INTERNAL, suffix=".slots")
    codec.waits(Wait)
    codec.waits(Acquire)
    for struct in (WorkflowState, ActivitiesOf, KnownActivities, WhichUnknown, UnknownActivities):
        codec.struct(struct)
    codec.error(Purged)
