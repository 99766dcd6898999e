"""Compensation (a saga): when a step fails, the steps before it are undone, the last one first.

Dapr's documentation has this pattern for Java only; this says the same in Python.

python examples/dapr/compensation.py
"""

import perdure.dapr.ext.workflow as wf

runtime = wf.WorkflowRuntime()


@runtime.workflow(name='PaymentProcessingWorkflow')
def payment_processing_workflow(ctx: wf.DaprWorkflowContext, order_id: str):
    compensations = []
    try:
        # Step 1: Reserve inventory
        yield ctx.call_activity(reserve_inventory, input=order_id)
        compensations.append(release_inventory)

        # Step 2: Process payment
        yield ctx.call_activity(process_payment, input=order_id)
        compensations.append(refund_payment)

        # Step 3: Ship order
        yield ctx.call_activity(ship_order, input=order_id)
        compensations.append(cancel_shipment)
    except Exception as error:
        ctx.logger.error('Activity failed: %s', error)
        # Execute compensations in reverse order
        for compensation in reversed(compensations):
            try:
                yield ctx.call_activity(compensation, input=order_id)
            except Exception as e:
                ctx.logger.error('Compensation activity failed: %s', e)
        return 'Order processing failed, compensation applied'

    # Step 4: Send confirmation
    yield ctx.call_activity(send_confirmation, input=order_id)
    return f'Order processed successfully: {order_id}'


@runtime.activity
def reserve_inventory(ctx, order_id: str) -> str:
    print(f'Reserved inventory for order: {order_id}')
    return f'reservation_{order_id}'


@runtime.activity
def release_inventory(ctx, order_id: str) -> str:
    print(f'Released inventory reservation: {order_id}')
    return f'Released: {order_id}'


@runtime.activity
def process_payment(ctx, order_id: str) -> str:
    print(f'Processed payment for order: {order_id}')
    return f'payment_{order_id}'


@runtime.activity
def refund_payment(ctx, order_id: str) -> str:
    print(f'Refunded payment: {order_id}')
    return f'Refunded: {order_id}'


@runtime.activity
def ship_order(ctx, order_id: str) -> str:
    if order_id.startswith('bulky'):
        raise RuntimeError('no carrier takes it')
    print(f'Shipped order: {order_id}')
    return f'shipment_{order_id}'


@runtime.activity
def cancel_shipment(ctx, order_id: str) -> str:
    print(f'Canceled shipment: {order_id}')
    return f'Canceled: {order_id}'


@runtime.activity
def send_confirmation(ctx, order_id: str) -> None:
    print(f'Sent confirmation for order: {order_id}')


if __name__ == '__main__':
    runtime.start()
    client = wf.DaprWorkflowClient()
    for order_id in ('small-1', 'bulky-2'):
        instance_id = client.schedule_new_workflow(workflow=payment_processing_workflow, input=order_id)
        state = client.wait_for_workflow_completion(instance_id, timeout_in_seconds=30)
        print(f'{order_id}: {state.serialized_output}')
    runtime.shutdown()
