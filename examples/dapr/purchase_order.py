"""External events with a time limit: dear orders wait for an approval, for 24 hours.

The workflow and its activities are those of Dapr's documentation ("Workflow patterns", The Dapr Authors, CC BY 4.0);
only the import lines are changed. Below them is what runs them; it approves as the documentation does.

python examples/dapr/purchase_order.py
"""

from dataclasses import asdict, dataclass
from datetime import timedelta
from perdure.dapr.clients import DaprClient
import perdure.dapr.ext.workflow as wf


@dataclass
class Order:
    cost: float
    product: str
    quantity: int

    def __str__(self):
        return f'{self.product} ({self.quantity})'


@dataclass
class Approval:
    approver: str

    @staticmethod
    def from_dict(dict):
        return Approval(**dict)


def purchase_order_workflow(ctx: wf.DaprWorkflowContext, order: Order):
    # Orders under $1000 are auto-approved
    if order.cost < 1000:
        return "Auto-approved"

    # Orders of $1000 or more require manager approval
    yield ctx.call_activity(send_approval_request, input=order)

    # Approvals must be received within 24 hours or they will be canceled.
    approval_event = ctx.wait_for_external_event("approval_received")
    timeout_event = ctx.create_timer(timedelta(hours=24))
    winner = yield wf.when_any([approval_event, timeout_event])
    if winner == timeout_event:
        return "Cancelled"

    # The order was approved
    yield ctx.call_activity(place_order, input=order)
    approval_details = Approval.from_dict(approval_event.get_result())
    return f"Approved by '{approval_details.approver}'"


def send_approval_request(_, order: Order) -> None:
    print(f'*** Sending approval request for order: {order}')


def place_order(_, order: Order) -> None:
    print(f'*** Placing order: {order}')


def approve(instance_id):
    with DaprClient() as d:
        d.raise_workflow_event(
            instance_id=instance_id,
            workflow_component="dapr",
            event_name="approval_received",
            event_data=asdict(Approval("Jane Doe")))


if __name__ == '__main__':
    runtime = wf.WorkflowRuntime()
    runtime.register_workflow(purchase_order_workflow)
    runtime.register_activity(send_approval_request)
    runtime.register_activity(place_order)
    runtime.start()

    client = wf.DaprWorkflowClient()
    for order in (Order(12.5, 'Paperclips', 100), Order(15000, 'Car', 1)):
        instance_id = client.schedule_new_workflow(workflow=purchase_order_workflow, input=order)
        if order.cost >= 1000:
            approve(instance_id)
        state = client.wait_for_workflow_completion(instance_id, timeout_in_seconds=30)
        print(f'{order}: {state.runtime_status.name} {state.serialized_output}')

    runtime.shutdown()
