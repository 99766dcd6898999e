"""The simulation finds bugs: each of these is put into the real code, and must be seen within some seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from perdure.actors.activation import Activation
from perdure.actors.context import ActorContext
from perdure.actors.handover import Release, Released
from perdure.actors.host import ActorHost
from perdure.actors.messages import Message
from perdure.actors.ownership import Ownership
from perdure.actors.router import Delivery
from perdure.actors.turn import Turn
from perdure.actors.user_behaviour import UserBehaviour
from perdure.actors.user_turn import UserTurn
from perdure.errors import StoreError, StoreUnavailable
from perdure.placement.client import PlacementClient
from perdure.statestore.committer import Committer, Done
from perdure.statestore.contract import Commit, CommitResult, TypePartition
from perdure.statestore.memory import MemoryStore
from perdure.workflow import controls, decisions, ending, work
from perdure.workflow.commands import CancelTask, CreateTimer
from perdure.workflow.dispatch import Dispatcher
from perdure.workflow.events import TaskCancelled
from perdure.workflow.instance import Instance
from perdure.workflow.metadata import Metadata
from perdure.workflow.outbox import Outbox
from perdure.workflow.requests import Cancel, Waiting
from perdure.workflow.run import InProcessRun
from perdure.workflow.suspicion import Suspicion
from perdure.workflow.work import Work
from tests.simulation.run import Failed, simulate

Patch = pytest.MonkeyPatch
#: Seeds within which each must be found.
SEEDS = 150


def no_fence_check(patch: Patch) -> None:
    commit_one = MemoryStore._commit

    def commit(self: MemoryStore, commit: Commit) -> CommitResult:
        key = TypePartition(commit.actor.type, commit.partition)
        stored = self.fences.get(key)
        self.fences[key] = (commit.fence, False)
        try:
            return commit_one(self, commit)
        finally:
            if stored is not None:
                self.fences[key] = stored

    patch.setattr(MemoryStore, "_commit", commit)


def no_version_check(patch: Patch) -> None:
    commit_one = MemoryStore._commit

    def commit(self: MemoryStore, commit: Commit) -> CommitResult:
        record = self.actors.get(commit.actor)
        commit.expected = record.version if record is not None else None
        return commit_one(self, commit)

    patch.setattr(MemoryStore, "_commit", commit)


def answers_before_the_commit(patch: Patch) -> None:
    commit = Activation._commit

    def early(self: Activation, turn: Turn) -> None:
        for answer, value in turn.answers:
            answer(value)
        turn.answers.clear()
        commit(self, turn)

    patch.setattr(Activation, "_commit", early)


def effects_before_the_commit(patch: Patch) -> None:
    commit = Activation._commit

    def early(self: Activation, turn: Turn) -> None:
        for effect, arguments in turn.effects:
            effect(*arguments)
        turn.effects.clear()
        commit(self, turn)

    patch.setattr(Activation, "_commit", early)


def the_outbox_leaves_before_the_commit(patch: Patch) -> None:
    always = property(lambda self: 10**9, lambda self, value: None)
    patch.setattr(Outbox, "_durable", always)


def recover_is_never_put(patch: Patch) -> None:
    close = Work.close

    def forgetful(self: Work) -> None:
        close(self)
        self.commit.recover = None

    patch.setattr(Work, "close", forgetful)


def recover_goes_before_the_outbox(patch: Patch) -> None:
    patch.setattr(Instance, "owes", property(lambda self: bool(self.open or self.inbox)))


def nobody_recovers(patch: Patch) -> None:
    async def recover(self: ActorHost, keys: Any) -> None:
        pass

    patch.setattr(ActorHost, "recover", recover)


def every_event_is_new(patch: Patch) -> None:
    patch.setattr(Metadata, "knows", lambda self, identity: False)


def a_completion_matches_any_execution(patch: Patch) -> None:
    patch.setattr(Instance, "match", lambda self, body: self.open.get(body.task_id))


def a_turn_is_two_commits(patch: Patch) -> None:
    submit = Committer.submit

    def split(self: Committer, commit: Commit, done: Done) -> None:
        history = {key: value for key, value in commit.put.items() if key.startswith("history-")}
        if not history or commit.reset:
            submit(self, commit, done)
            return
        version = bytes(reversed(commit.version))
        first = Commit(commit.actor, commit.partition, commit.fence, commit.expected, version, history)
        commit.expected = version
        for key in history:
            del commit.put[key]
        submit(self, first, lambda _: submit(self, commit, done))

    patch.setattr(Committer, "submit", split)


def an_unknown_outcome_is_written_again(patch: Patch) -> None:
    """With another version, over whatever is there."""

    async def answer(self: Committer, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        while True:
            try:
                return await self._store.commit(commits)
            except StoreUnavailable as error:
                await self._back_off(error, len(commits))
                for commit in commits:
                    snapshot = self._store._memory.actors.get(commit.actor)  # type: ignore[attr-defined]
                    commit.expected = snapshot.version if snapshot is not None else None
                    commit.version = self._clock.token(16)

    patch.setattr(Committer, "_answer", answer)


def a_request_is_never_forgotten(patch: Patch) -> None:
    patch.setattr(Dispatcher, "settled", lambda self, actor, execution_id, task_id: None)


def an_outbox_message_is_settled_when_it_is_sent(patch: Patch) -> None:
    send_one = Outbox._send_one

    def send(self: Outbox, instance: Instance, number: int) -> None:
        send_one(self, instance, number)
        self.acked.add(number)

    patch.setattr(Outbox, "_send_one", send)


def a_lost_partition_is_read_from_memory(patch: Patch) -> None:
    patch.setattr(PlacementClient, "fresh", lambda self: True)


def continue_as_new_loses_events(patch: Patch) -> None:
    patch.setattr(InProcessRun, "unread_events", lambda self: [])


def a_finished_instance_keeps_its_timers(patch: Patch) -> None:
    finish = ending.finish

    def untidy(work: Work, *rest: Any) -> None:
        finish(work, *rest)
        work.commit.clear_reminders = False

    patch.setattr(ending, "finish", untidy)
    patch.setattr(controls, "finish", untidy)


def a_decision_is_not_written(patch: Patch) -> None:
    create = work.DECISIONS[CreateTimer]

    def forget(self: Work, command: Any) -> None:
        create(self, command)
        self.history.pop()

    patch.setitem(work.DECISIONS, CreateTimer, forget)


def the_row_is_forgotten(patch: Patch) -> None:
    def set_status(self: Work, status: Any, reason: str = "") -> None:
        self.instance.meta.status, self.instance.meta.reason = status, reason

    patch.setattr(Work, "set_status", set_status)


def a_batch_fails_as_one(patch: Patch) -> None:
    from perdure.statestore.contract import Rejected

    answer = Committer._answer

    async def all_or_nothing(self: Committer, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        try:
            return await answer(self, commits)
        except StoreError as error:
            return [Rejected(str(error)) for _ in commits]

    patch.setattr(Committer, "_answer", all_or_nothing)


# --- several nodes ---------------------------------------------------------------------------------------------------------


def a_new_owner_does_not_wait_for_the_word(patch: Patch) -> None:
    """Whoever could not be asked may still answer from memory."""
    patch.setattr(Ownership, "handover", property(lambda self: 0.0, lambda self, value: None), raising=False)


def a_former_owner_goes_on_serving(patch: Patch) -> None:
    async def release(self: Ownership, question: Release) -> Released:
        return Released(question.groups)

    patch.setattr(Ownership, "_asked_to_release", release)


def a_partition_is_released_before_its_last_commit(patch: Patch) -> None:
    release = Ownership._asked_to_release

    async def early(self: Ownership, question: Release) -> Released:
        self._host.clock.spawn(release(self, question))
        await self._host.clock.sleep(0)
        return Released(question.groups)

    patch.setattr(Ownership, "_asked_to_release", early)


def a_turn_is_cut_short_by_a_hand_over(patch: Patch) -> None:
    patch.setattr(ActorHost, "retire", ActorHost.disown)


def a_new_owner_asks_nobody_what_runs(patch: Patch) -> None:
    patch.setattr(Dispatcher, "taken", lambda self, keys: None)


def what_a_lost_node_had_is_forgotten(patch: Patch) -> None:
    patch.setattr(Dispatcher, "table_changed", lambda self, retired=(): self._send_waiting())


def nobody_counts_what_ends_another_node(patch: Patch) -> None:
    def table_changed(self: Dispatcher, retired: Any = ()) -> None:
        for task, out in list(self._out.items()):
            if out.node and not self._engine.locator.present(out.node):
                self._again(task, out)

    patch.setattr(Dispatcher, "table_changed", table_changed)


def a_start_that_comes_again_runs_at_once(patch: Patch) -> None:
    patch.setattr(Suspicion, "lately", lambda self: False)
    patch.setattr(Message, "redelivered", property(lambda self: False, lambda self, value: None))


def a_lost_write_is_still_believed(patch: Patch) -> None:
    patch.setattr(Ownership, "rolled_back", lambda self, reason: None)


def a_call_of_unknown_outcome_is_made_again(patch: Patch) -> None:
    again = Delivery._again

    def repeat(self: Delivery, error: Any) -> bool:
        self._message.repeatable = True
        return again(self, error)

    patch.setattr(Delivery, "_again", repeat)


def what_waits_behind_a_message_forced_away_is_not_sent(patch: Patch) -> None:
    sent = Outbox._sent

    def forgetful(self: Outbox, number: int, answer: Any) -> None:
        instance = self._behaviour.instance
        if instance is not None and number not in instance.outbox:
            self._sending.pop(number, None)
            return
        sent(self, number, answer)

    patch.setattr(Outbox, "_sent", forgetful)


def a_reply_is_not_kept(patch: Patch) -> None:
    patch.setattr(UserBehaviour, "_keep", lambda *_: None)


def a_turn_inside_is_answered_before_the_commit(patch: Patch) -> None:
    async def early(self: UserBehaviour, context: ActorContext, *, look: bool = False) -> None: ...

    patch.setattr(UserBehaviour, "_checkpoint", early)


def a_turn_goes_on_beside_the_one_inside(patch: Patch) -> None:
    async def close_door(self: UserBehaviour, turn: UserTurn) -> None:
        turn.ticket = ""

    patch.setattr(UserBehaviour, "close_door", close_door)


def a_cancelled_task_takes_an_answer(patch: Patch) -> None:
    def noted(self: Work, command: CancelTask) -> None:
        self.history.append(TaskCancelled(self.at, command.id))

    patch.setitem(work.DECISIONS, CancelTask, noted)


def a_cancel_is_acknowledged_and_forgotten(patch: Patch) -> None:
    patch.setitem(work.HANDLERS, Cancel, Work.answer)


def a_cancel_is_lost_when_it_has_to_wait(patch: Patch) -> None:
    receive = Work.receive

    def forget(self: Work, body: Waiting) -> None:
        if not isinstance(body, Cancel):
            receive(self, body)

    patch.setattr(Work, "receive", forget)


def a_child_that_is_cancelled_is_not_told(patch: Patch) -> None:
    patch.setattr(decisions, "cancel_child", lambda work, task, reason: None)


#: Each bug, a scenario that shows it, and words of what the simulation says.
BUGS: list[tuple[Callable[[Patch], None], str, str]] = [
    (no_fence_check, "network", "somebody else than the owner wrote"),
    (no_version_check, "store", "a version was used twice"),
    (answers_before_the_commit, "calm", "acknowledged and is not stored"),
    (effects_before_the_commit, "calm", "before it was decided"),
    (the_outbox_leaves_before_the_commit, "store", "before it was decided"),
    (recover_is_never_put, "calm", "`recover` is not what is owed"),
    (recover_goes_before_the_outbox, "calm", "`recover` is not what is owed"),
    (nobody_recovers, "kills", "after the last fault"),
    (every_event_is_new, "network", "an event"),
    (a_completion_matches_any_execution, "network", ""),
    (a_turn_is_two_commits, "calm", "a commit without metadata"),
    (an_unknown_outcome_is_written_again, "store", ""),
    (a_request_is_never_forgotten, "kills", "an activity request is still out"),
    (an_outbox_message_is_settled_when_it_is_sent, "network", "before its delivery"),
    (a_lost_partition_is_read_from_memory, "network", "a node trusts what it has lost"),
    (continue_as_new_loses_events, "calm", "after the last fault"),
    (a_finished_instance_keeps_its_timers, "calm", "reminder"),
    (a_decision_is_not_written, "calm", ""),
    (the_row_is_forgotten, "calm", "the row has another status"),
    (a_batch_fails_as_one, "poison", "an instance stalled"),
    (a_new_owner_does_not_wait_for_the_word, "splits", "a node trusts what it has lost"),
    (a_former_owner_goes_on_serving, "splits", "a node trusts what it has lost"),
    (a_partition_is_released_before_its_last_commit, "joins", "whoever has not released it"),
    (a_turn_is_cut_short_by_a_hand_over, "joins", "a turn ran twice"),
    (a_new_owner_asks_nobody_what_runs, "joins", "an activity ran twice"),
    (what_a_lost_node_had_is_forgotten, "apps", "after the last fault"),
    (nobody_counts_what_ends_another_node, "lethal-activity", "too many processes died"),
    (a_start_that_comes_again_runs_at_once, "lethal-start", ""),
    (a_lost_write_is_still_believed, "rollback", "after the last fault"),
    (a_call_of_unknown_outcome_is_made_again, "network", "an increment was counted twice"),
    (what_waits_behind_a_message_forced_away_is_not_sent, "calm", "after the last fault"),
    (a_cancelled_task_takes_an_answer, "cancels", ""),
    (a_cancel_is_acknowledged_and_forgotten, "cancels", ""),
    (a_cancel_is_lost_when_it_has_to_wait, "cancels", "after the last fault"),
    (a_child_that_is_cancelled_is_not_told, "cancels", "after the last fault"),
    (a_reply_is_not_kept, "actors", "answered in two ways"),
    (a_turn_inside_is_answered_before_the_commit, "actors", "is not stored"),
    (a_turn_goes_on_beside_the_one_inside, "actors", ""),
]


@pytest.mark.parametrize(("plant", "scenario", "words"), BUGS, ids=[bug[0].__name__ for bug in BUGS])
def test_found(plant: Callable[[Patch], None], scenario: str, words: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    told = []
    for seed in range(SEEDS):
        try:
            simulate(seed, scenario)
        except Failed as failed:
            told.append(str(failed).splitlines()[-2])
            if words in told[-1]:
                return
    pytest.fail(f"not found in {SEEDS} seeds of {scenario}; found instead: {told[:5]}")
