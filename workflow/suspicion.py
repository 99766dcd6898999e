"""Finds out, after a crash, whether it is this instance's code or one of its activities that kills the process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from perdure.actors.activation import Activation
from perdure.actors.turn import Turn
from perdure.logs import fields
from perdure.statestore.contract import TypePartition
from perdure.workflow import stall
from perdure.workflow.events import FailureDetails, TaskScheduled
from perdure.workflow.instance import Instance
from perdure.workflow.outbox import GONE
from perdure.workflow.recovery import DEATH_LIMIT, SURVIVED
from perdure.workflow.requests import ActivityDone, ActivityRequest
from perdure.workflow.stall import Stalled
from perdure.workflow.work import Work

if TYPE_CHECKING:
    from perdure.workflow.dispatch import Task
    from perdure.workflow.orchestrator import WorkflowBehaviour

log = logging.getLogger("perdure.workflow")

#: Seconds for which clients ask again.
ASKED_AGAIN = 60.0


def left_behind(number: int) -> int:
    """Under which key of `task_deaths` an activity in the outbox is counted: its task id may be in use again."""
    return -1 - number


class Suspicion:
    """What is true of one instance in this ownership of its partition. In a partition that was released in good
    order there is none.

    INVARIANT: in a crashed partition nothing of the user's runs for an instance before the gate has let it in and a
    death more was committed for what is to run.
    """

    __slots__ = (
        "_activation",
        "_asked_lost",
        "_behaviour",
        "_engine",
        "_lost_admitted",
        "_lost_ticket",
        "_ticket",
        "admitted",
        "code_proven",
        "survived",
    )

    def __init__(self, behaviour: WorkflowBehaviour, activation: Activation) -> None:
        self._behaviour = behaviour
        self._engine = behaviour.engine
        self._activation = activation
        suspect = self._engine.host.crashed(activation.actor, activation.partition)
        #: The gate has let it in.
        self.admitted = not suspect
        #: The code may run: a death was committed for it, or there is no suspicion.
        self.code_proven = not suspect
        #: What was dispatched again after a crash has not done harm: the deaths are to be taken back.
        self.survived = False
        self._ticket: int | None = None
        #: The same for what was with a node that is gone.
        self._asked_lost = self._lost_admitted = False
        self._lost_ticket: int | None = None

    def lately(self) -> bool:
        """Whether the last owner of this partition died so short a time ago that whoever had asked it for something
        may be asking again. A client that asks again itself does not say so."""
        host = self._engine.host
        partition = TypePartition(self._activation.actor.type, self._activation.partition)
        owned = host.owned.get(partition)
        return owned is not None and owned.crashed and host.clock.monotonic() - owned.since < ASKED_AGAIN

    def clear(self) -> None:
        """What begins here and now was not there when a process died."""
        self.admitted = self.code_proven = True
        self.leave()

    def code_settled(self) -> None:
        """The code has run, and the process lives."""
        self.code_proven = True
        self.leave()

    def close(self) -> None:
        """The behaviour is gone."""
        self.leave()
        self._behaviour = GONE

    def leave(self) -> None:
        """Lets the next one through the gate. Idempotent."""
        for ticket in (self._ticket, self._lost_ticket):
            if ticket is not None:
                self._engine.gate.leave(ticket)
        self._ticket = self._lost_ticket = None

    def ask(self, instance: Instance) -> None:
        if self._ticket is not None:
            return
        self._ticket = 0
        meta = instance.meta
        deaths = max([meta.deaths, *meta.task_deaths.values()], default=0)
        self._engine.gate.enter(deaths, self._let_in)

    def _let_in(self, ticket: int) -> None:
        self._ticket = ticket
        self.admitted = True
        self._activation.wake()

    def dispatch_again(self, instance: Instance) -> Turn | None:
        """What is owed goes out, in a crashed partition when the gate lets it, and in none before it is known what of
        it is out elsewhere."""
        if not self._engine.dispatcher.known(self._activation.actor):
            return None
        if not self.admitted:
            self.ask(instance)
        return self.prove(instance) if self.admitted else None

    def prove(self, instance: Instance) -> Turn | None:
        """Dispatches what is owed. After a crash each activity first commits one death more, unless it has been
        dispatched by this process already."""
        self._behaviour.dispatched = True
        meta = instance.meta
        if not self._engine.host.crashed(self._activation.actor, self._activation.partition):
            self._behaviour.redispatch()
            return None
        actor, out = self._activation.actor, self._engine.dispatcher.out
        tasks = [
            task
            for task in instance.open.values()
            if type(task) is TaskScheduled and not out(actor, meta.execution_id, task.id)
        ]
        left = [
            (number, entry.body)
            for number, entry in instance.outbox.items()
            if isinstance(entry.body, ActivityRequest)
            and not out(actor, entry.body.execution_id, entry.body.task_id)
        ]
        if not tasks and not left:
            self._behaviour.redispatch()
            if not self._behaviour.wants_code(instance):
                # Nothing of it runs that could be what killed the process.
                self.leave()
            return None
        for task in tasks:
            deaths = meta.task_deaths.get(task.id, 0)
            if deaths >= DEATH_LIMIT:
                self._fail_crashed(task, deaths)
            meta.task_deaths[task.id] = deaths + 1
        for number, _ in left:
            deaths = meta.task_deaths.get(left_behind(number), 0)
            if deaths >= DEATH_LIMIT:
                self._give_up(instance, number, deaths)
            meta.task_deaths[left_behind(number)] = deaths + 1
        turn = self._activation.begin([])
        turn.effects.append((self._behaviour.redispatch, ()))
        self._watch(instance, [*(task.id for task in tasks), *(left_behind(number) for number, _ in left)])
        work = Work(self._behaviour, turn, taking=False)
        work.row = True
        return work.do()

    # --- nodes that are gone -------------------------------------------------------------------------------------------

    def send_lost(self, instance: Instance) -> Turn | None:
        """Activities whose node is gone go out again when the gate lets them, each with one death more: it may be what
        ended that node, and would go on from node to node."""
        dispatcher, actor = self._engine.dispatcher, self._activation.actor
        meta = instance.meta
        if not self._lost_admitted:
            if not self._asked_lost:
                self._asked_lost = True
                # What it was let in for has come to its end.
                self.leave()
                deaths = max(meta.task_deaths.values(), default=0)
                self._engine.gate.enter(deaths, self._let_lost_in)
            return None
        self._asked_lost = self._lost_admitted = False
        again: dict[Task, int] = {}
        for task in list(dispatcher.lost[actor]):
            key = self._counted_as(instance, task)
            deaths = meta.task_deaths.get(key, 0) if key is not None else 0
            if key is None:
                dispatcher.settled(*task)
            elif deaths < DEATH_LIMIT:
                meta.task_deaths[key] = deaths + 1
                again[task] = key
            elif key < 0:
                self._give_up(instance, left_behind(key), deaths)
                dispatcher.settled(*task)
            else:
                scheduled = instance.open[key]
                assert type(scheduled) is TaskScheduled
                self._fail_crashed(scheduled, deaths)
                dispatcher.settled(*task)
                # Not to be sent again before its failure has arrived.
                meta.task_deaths[key] = deaths + 1
        turn = self._activation.begin([])
        turn.effects.append((dispatcher.send_lost, (list(again),)))
        self._watch(instance, again.values())
        work = Work(self._behaviour, turn, taking=False)
        work.row = True
        return work.do()

    def _let_lost_in(self, ticket: int) -> None:
        self._lost_ticket = ticket
        self._lost_admitted = True
        self._activation.wake()

    def _counted_as(self, instance: Instance, task: Task) -> int | None:
        """Under which key of `task_deaths` it is counted; None: nobody wants it any more."""
        scheduled = instance.open.get(task.task_id)
        if task.execution_id == instance.meta.execution_id and type(scheduled) is TaskScheduled:
            return task.task_id
        for number, entry in instance.outbox.items():
            body = entry.body
            if isinstance(body, ActivityRequest) and task[1:] == (body.execution_id, body.task_id):
                return left_behind(number)
        return None

    def _give_up(self, instance: Instance, number: int, deaths: int) -> None:
        """An activity that nobody waits for is not done any more."""
        body = instance.outbox[number].body
        assert isinstance(body, ActivityRequest)
        log.error(
            "activity.crashed",
            extra=fields(
                instance=self._activation.actor.id, activity=body.name, task=body.task_id, deaths=deaths
            ),
        )
        self._behaviour.outbox.acked.add(number)

    def _fail_crashed(self, task: TaskScheduled, deaths: int) -> None:
        failure = FailureDetails(
            "CrashedProcess",
            f"activity {task.name!r} was running {deaths} times in a row when its process died",
            non_retriable=True,
        )
        instance = self._behaviour.instance
        assert instance is not None
        body = ActivityDone(instance.meta.execution_id, task.id, task.nonce, None, failure)
        self._engine.router.send(self._activation.actor, "done", body)

    def _watch(self, instance: Instance, counted: Iterable[int]) -> None:
        """Takes the deaths of activities back when they have run for long."""
        deaths = {key: instance.meta.task_deaths[key] for key in counted}
        self._engine.clock.call_later(SURVIVED, self._survived, instance, deaths)

    def _survived(self, instance: Instance, deaths: Mapping[int, int]) -> None:
        """What has run this long did not kill the process by being started."""
        if self._behaviour.instance is not instance:
            return
        counted = instance.meta.task_deaths
        lost = self._engine.dispatcher.lost.get(self._activation.actor, ())
        gone = {self._counted_as(instance, task) for task in lost}
        for key, number in deaths.items():
            if counted.get(key) == number and key not in gone:
                del counted[key]
                self.survived = True
        if self.survived:
            self._activation.wake()

    def prove_code(self, instance: Instance) -> Turn | None:
        """Receives what waits and, if that is for the code, commits one death more before the code runs. So it is
        not the activity whose result it was given that is suspected next time."""
        meta = instance.meta
        if meta.deaths >= DEATH_LIMIT:
            reason = f"the process died {meta.deaths} times in a row while this workflow's code ran"
            return self._behaviour.stall(instance, Stalled(stall.CRASHED, reason))
        mailbox = self._activation.mailbox
        messages = list(mailbox)
        mailbox.clear()
        turn = self._activation.begin(messages)
        turn.effects.append((self._activation.wake, ()))
        work = Work(self._behaviour, turn, taking=False)
        work.suspects_code = True
        try:
            work.do()
        except Exception:
            mailbox.extendleft(reversed(messages))
            raise
        self.code_proven = bool(instance.inbox)
        return turn
