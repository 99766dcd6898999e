"""Monitor: looks again and again, less often while all is well, for ever.

The workflow and its activities are those of Dapr's documentation ("Workflow patterns", The Dapr Authors, CC BY 4.0);
only import lines are changed. Below them is what runs them.

python examples/dapr/monitor.py
"""

from dataclasses import dataclass
from datetime import timedelta
import random
from perdure.dapr.clients.exceptions import DaprInternalError
import perdure.dapr.ext.workflow as wf


@dataclass
class JobStatus:
    job_id: str
    is_healthy: bool


def status_monitor_workflow(ctx: wf.DaprWorkflowContext, job: JobStatus):
    # poll a status endpoint associated with this job
    status = yield ctx.call_activity(check_status, input=job)
    if not ctx.is_replaying:
        print(f"Job '{job.job_id}' is {status}.")

    if status == "healthy":
        job.is_healthy = True
        next_sleep_interval = 60  # check less frequently when healthy
    else:
        if job.is_healthy:
            job.is_healthy = False
            ctx.call_activity(send_alert, input=f"Job '{job.job_id}' is unhealthy!")
        next_sleep_interval = 5  # check more frequently when unhealthy

    yield ctx.create_timer(fire_at=ctx.current_utc_datetime + timedelta(minutes=next_sleep_interval))

    # restart from the beginning with a new JobStatus input
    ctx.continue_as_new(job)


def check_status(ctx, _) -> str:
    return random.choice(["healthy", "unhealthy"])


def send_alert(ctx, message: str):
    print(f'*** Alert: {message}')


if __name__ == '__main__':
    runtime = wf.WorkflowRuntime()
    runtime.register_workflow(status_monitor_workflow)
    runtime.register_activity(check_status)
    runtime.register_activity(send_alert)
    runtime.start()

    client = wf.DaprWorkflowClient()
    try:
        state = client.get_workflow_state('job1')
    except DaprInternalError:
        client.schedule_new_workflow(
            workflow=status_monitor_workflow,
            input=JobStatus(job_id='job1', is_healthy=True),
            instance_id='job1',
        )
        print('Monitoring.', flush=True)
    else:
        print(f'Monitoring since {state.created_at}.', flush=True)

    input('Press Enter to stop. Started again, it goes on where it was.\n')
    runtime.shutdown()
