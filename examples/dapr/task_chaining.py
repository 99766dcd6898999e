"""Task chaining: each step gets the result of the one before.

The workflow and its activities are those of Dapr's documentation ("Workflow patterns", The Dapr Authors, CC BY 4.0);
only the import line is changed. Below them is what runs them.

python examples/dapr/task_chaining.py
"""

import perdure.dapr.ext.workflow as wf


def task_chain_workflow(ctx: wf.DaprWorkflowContext, wf_input: int):
    try:
        result1 = yield ctx.call_activity(step1, input=wf_input)
        result2 = yield ctx.call_activity(step2, input=result1)
        result3 = yield ctx.call_activity(step3, input=result2)
    except Exception as e:
        yield ctx.call_activity(error_handler, input=str(e))
        raise
    return [result1, result2, result3]


def step1(ctx, activity_input):
    print(f'Step 1: Received input: {activity_input}.')
    # Do some work
    return activity_input + 1


def step2(ctx, activity_input):
    print(f'Step 2: Received input: {activity_input}.')
    # Do some work
    return activity_input * 2


def step3(ctx, activity_input):
    print(f'Step 3: Received input: {activity_input}.')
    # Do some work
    return activity_input ^ 2


def error_handler(ctx, error):
    print(f'Executing error handler: {error}.')
    # Apply some compensating work


if __name__ == '__main__':
    runtime = wf.WorkflowRuntime()
    runtime.register_workflow(task_chain_workflow)
    for activity in (step1, step2, step3, error_handler):
        runtime.register_activity(activity)
    runtime.start()

    client = wf.DaprWorkflowClient()
    for wf_input in (42, 'not a number'):
        instance_id = client.schedule_new_workflow(workflow=task_chain_workflow, input=wf_input)
        state = client.wait_for_workflow_completion(instance_id, timeout_in_seconds=30)
        print(f'Workflow ended: {state.runtime_status.name} {state.serialized_output}')

    runtime.shutdown()
