"""Fan-out with a bound: never more than five activities at a time.

Dapr's documentation has this pattern for .NET only; this says the same in Python.

python examples/dapr/bounded_parallelism.py
"""

import threading
import time

import perdure.dapr.ext.workflow as wf

MAX_PARALLELISM = 5

# How many run now, and how many ran at most. Not state of the workflow: this process only looks at itself.
running = 0
most = 0
lock = threading.Lock()


def batch_processing_workflow(ctx: wf.DaprWorkflowContext, wf_input: int):
    # get a list of N work items to process in parallel
    work_batch = yield ctx.call_activity(get_work_batch, input=wf_input)

    results = []
    in_flight = []
    for work_item in work_batch:
        if len(in_flight) >= MAX_PARALLELISM:
            finished = yield wf.when_any(in_flight)
            results.append(finished.get_result())
            in_flight.remove(finished)
        in_flight.append(ctx.call_activity(process_work_item, input=work_item))
    results += yield wf.when_all(in_flight)

    yield ctx.call_activity(post_results, input=sum(results))
    return sum(results)


def get_work_batch(ctx, batch_size):
    return [i + 1 for i in range(batch_size)]


def process_work_item(ctx, work_item):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.2)
    with lock:
        running -= 1
    return work_item * 2


def post_results(ctx, total):
    print(f'Total: {total}.')


if __name__ == '__main__':
    runtime = wf.WorkflowRuntime()
    runtime.register_workflow(batch_processing_workflow)
    for activity in (get_work_batch, process_work_item, post_results):
        runtime.register_activity(activity)
    runtime.start()

    client = wf.DaprWorkflowClient()
    instance_id = client.schedule_new_workflow(workflow=batch_processing_workflow, input=20)
    state = client.wait_for_workflow_completion(instance_id, timeout_in_seconds=60)
    print(f'Workflow ended: {state.runtime_status.name} {state.serialized_output}')
    print(f'At most {most} ran at a time.')

    runtime.shutdown()
