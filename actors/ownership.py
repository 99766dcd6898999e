"""Makes the placement table true for one node: takes what it was given, gives back what it was not."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from perdure.actors import handover
from perdure.actors.handover import ASK_FOR, FIRST_ANSWER, RELEASE, Release, Released
from perdure.actors.host import ActorHost
from perdure.actors.questions import NodeQuestions
from perdure.errors import Moved, StoreError
from perdure.logs import fields
from perdure.placement.table import Table
from perdure.statestore.contract import Fence, Refused, Taken, TypePartition

log = logging.getLogger("perdure.actors")

#: Seconds that turns and commits under way have to end before their partition is given away without them.
DRAIN = 1.0
#: By how much longer than placement says its word is waited out: clocks of different machines do not run alike.
DRIFT = 1.25
#: Seconds between tries of a store that gives no answer.
RETRY = 0.1
#: Seconds for which a newer table is waited for before a new fence is asked for, and between such questions.
RENEW = 1.0

Held = Mapping[TypePartition, Fence]


class Placement(Protocol):
    """What is needed of a `PlacementClient`."""

    @property
    def node(self) -> str: ...
    @property
    def table(self) -> Table | None: ...
    @property
    def word(self) -> float: ...
    def renew(self, held: Collection[TypePartition]) -> None: ...


class Ownership:
    """INVARIANT: a partition is served only after the store raised its fence for this node (invariant 5), and after
    its former owner said that it serves it no more, or can believe no word of placement that it still does.

    Each partition moves for itself: one that is slow to leave, here or elsewhere, holds up no other.
    """

    def __init__(self, host: ActorHost, placement: Placement, questions: NodeQuestions) -> None:
        self._host = host
        self._placement = placement
        self._questions = questions
        self._settled = asyncio.Event()
        self._settled.set()
        self._retired = asyncio.Event()
        #: Seconds after which nobody believes a word of placement about a table that was followed by another.
        self.handover = placement.word * DRIFT
        #: On their way here, each with the fence under which it is taken.
        self._taking: dict[TypePartition, Fence] = {}
        #: Of which the store is being asked to raise the fence.
        self._asking: dict[TypePartition, Fence] = {}
        #: Served no more; done when nothing is under way there any more and the store knows.
        self._leaving: dict[TypePartition, asyncio.Future[None]] = {}
        #: Of which a new fence is to be asked for, if the newest table still gives them under one that is too low.
        self._stale: dict[TypePartition, Fence] = {}
        self._renewing = False
        self._asked: Counter[str] = Counter()
        #: A table, and what it gives this node: there are thousands of partitions.
        self._known: tuple[Table | None, dict[TypePartition, Fence]] = (None, {})
        self._stopped = False
        host.on_fenced = self._fenced
        host.on_retired = lambda _: self._retired.set()
        questions.register(RELEASE, self._asked_to_release)

    # --- for observers -----------------------------------------------------------------------------------------------

    @property
    def handovers(self) -> Mapping[str, int]:
        """How many partitions each node is being asked to release."""
        return {node: count for node, count in self._asked.items() if count > 0}

    @property
    def taking(self) -> int:
        """How many partitions are on their way here."""
        return len(self._taking)

    @property
    def leaving(self) -> int:
        """How many partitions are served no more and are not given back yet."""
        return len(self._leaving)

    async def settled(self) -> None:
        """Returns when everything that the newest table gives this node was taken or refused."""
        await self._settled.wait()

    # --- what changes --------------------------------------------------------------------------------------------------

    def applied(self, old: Table | None, new: Table) -> None:
        """A newer table is there. To be registered with `PlacementClient.on_table`."""
        if self._stopped:
            return
        host = self._host
        host.newest = new.name
        wanted = self._wanted()
        for key, fence in list(host.newer.items()):
            # INVARIANT: what was asked away or refused is served again only by a table that knows of that.
            if new.name >= fence and (key not in wanted or wanted[key] > fence):
                del host.newer[key]
        self._leave({key: owned.fence for key, owned in host.owned.items() if wanted.get(key) != owned.fence})
        for key in [key for key, fence in self._taking.items() if wanted.get(key) != fence]:
            self._take_no_more(key)
        self._begin(new, wanted)

    def _wanted(self) -> dict[TypePartition, Fence]:
        """What the newest table gives this node."""
        table = self._placement.table
        if table is None:
            return {}
        if table is not self._known[0]:
            held: Held = table.held(self._placement.node)
            types = self._host.types
            self._known = table, {key: fence for key, fence in held.items() if key.type in types}
        return self._known[1]

    def _begin(self, table: Table, wanted: Held) -> None:
        """Takes what is neither here nor on its way, all of one former owner together."""
        host = self._host
        batches: dict[tuple[str | None, asyncio.Future[None] | None], dict[TypePartition, Fence]] = {}
        for key, fence in wanted.items():
            if key in host.owned or key in self._taking:
                continue
            if not self._usable(key, fence):
                self._stale.setdefault(key, fence)
                continue
            self._taking[key] = fence
            batches.setdefault((table.former(*key), self._leaving.get(key)), {})[key] = fence
        self._expect(wanted)
        for (former, leaving), keys in batches.items():
            host.clock.spawn(self._take_over(keys, former, leaving))
        self._renew_stale()
        self._look()

    def _usable(self, key: TypePartition, fence: Fence) -> bool:
        known = self._host.newer.get(key)
        return known is None or fence > known

    def _expect(self, wanted: Held) -> None:
        """Messages wait here for what comes here, but not for what a newer table may have given to another node."""
        self._host.expect(key for key, fence in wanted.items() if self._comes(key, fence))

    def _comes(self, key: TypePartition, fence: Fence) -> bool:
        return key not in self._host.owned and self._host.newer.get(key, fence) <= fence

    def _look(self) -> None:
        if self._taking:
            self._settled.clear()
        else:
            self._settled.set()

    # --- taking --------------------------------------------------------------------------------------------------------

    async def _take_over(self, keys: Held, former: str | None, leaving: asyncio.Future[None] | None) -> None:
        """Takes partitions, as soon as whoever had them serves them no more."""
        clock = self._host.clock
        quiet_at = clock.monotonic() + self.handover
        if leaving is not None:
            await asyncio.wait([leaving])
        if former is not None:
            keys = await self._released(keys, former)
            while keys and (wait := quiet_at - clock.monotonic()) > 0:
                await clock.sleep(wait)
        await self._take(keys)

    async def _released(self, keys: Held, former: str) -> Held:
        """Asks the former owner, and takes what it releases at once. Returns the rest."""
        clock = self._host.clock
        left = {key: fence for key, fence in keys.items() if self._taking.get(key) == fence}
        until = clock.monotonic() + ASK_FOR
        patience = FIRST_ANSWER
        while left and (wait := until - clock.monotonic()) > 0:
            question = Release(handover.groups(left), min(patience, wait))
            self._asked[former] += len(left)
            try:
                answer = await self._questions.ask(former, RELEASE, question, wait)
            finally:
                self._asked[former] -= len(left)
            if not isinstance(answer, Released):
                break
            done = handover.keys(answer.groups)
            released = {key: fence for key, fence in left.items() if done.get(key) == fence}
            if released:
                clock.spawn(self._take(released))
            left = {
                key: fence
                for key, fence in left.items()
                if key not in released and self._taking.get(key) == fence
            }
            patience *= 2
        if left:
            log.warning("partitions.not_released_by", extra=fields(node=former, count=len(left)))
        return left

    async def _take(self, keys: Held) -> None:
        for fence, held in _by_fence(keys).items():
            await self._take_under(held, fence)

    async def _take_under(self, keys: list[TypePartition], fence: Fence) -> None:
        keys = [key for key in keys if self._taking.get(key) == fence]
        if not keys:
            return
        self._asking.update(dict.fromkeys(keys, fence))
        asked, results = await self._ask_store(keys, fence)
        taken, unwanted = self._taken(asked, results, fence)
        self._asked_store(key for key in keys if key not in unwanted)
        if unwanted:
            await self._release_in_store(unwanted)
            self._asked_store(unwanted)
        if taken:
            log.info("partitions.taken", extra=fields(count=len(taken), node=self._placement.node))
            self._host.on_taken(taken)
            self._host.reminders.owned()
            self._host.clock.spawn(self._recover(taken))
        self._look()

    async def _ask_store(
        self, keys: list[TypePartition], fence: Fence
    ) -> tuple[list[TypePartition], Sequence[Taken | Refused]]:
        """The store's answers, as long as they are wanted, with what they are about."""
        while keys:
            try:
                return keys, await self._host.store.take(keys, fence)
            except StoreError as error:
                log.warning("take.failed", extra=fields(reason=error))
                await self._host.clock.sleep(RETRY)
                keys = [key for key in keys if self._taking.get(key) == fence]
        return [], []

    def _asked_store(self, keys: Iterable[TypePartition]) -> None:
        """The store has been asked; whoever waited for that because it wants them under another fence may go on."""
        for key in keys:
            del self._asking[key]
            if key in self._leaving:
                self._left(key)

    def _taken(
        self, keys: list[TypePartition], results: Sequence[Taken | Refused], fence: Fence
    ) -> tuple[list[TypePartition], dict[TypePartition, Fence]]:
        """What is served from here on, and what was taken and is wanted no more."""
        taken: list[TypePartition] = []
        unwanted: dict[TypePartition, Fence] = {}
        for key, result in zip(keys, results, strict=True):
            wanted = self._taking.get(key) == fence
            # A fence names one owner: an earlier try was done after all, and only its answer was lost.
            mine = isinstance(result, Taken) or result.stored == fence
            if wanted:
                del self._taking[key]
            if wanted and mine:
                self._host.newer.pop(key, None)
                self._host.own(key, fence, crashed=not (isinstance(result, Taken) and result.released))
                taken.append(key)
            elif mine:
                unwanted[key] = fence
            elif wanted:
                assert isinstance(result, Refused)
                self._refused(key, fence, result.stored)
        return taken, unwanted

    def _refused(self, key: TypePartition, fence: Fence, stored: Fence) -> None:
        """Somebody took it under a newer table, which will come here too. Or there is no such table: it, or the store,
        has gone back to what it was before."""
        log.info("take.refused", extra=fields(type=key.type, partition=key.partition, stored=stored))
        self._host.newer[key] = stored
        self._stale[key] = fence
        self._host.expect_no_more(key)
        self._renew_stale()

    def _take_no_more(self, key: TypePartition) -> None:
        """Forgets a partition that was on its way here. What the store is being asked comes to its end first."""
        del self._taking[key]
        if key in self._asking and key not in self._leaving:
            self._leaving[key] = asyncio.get_running_loop().create_future()

    async def _recover(self, taken: list[TypePartition]) -> None:
        while not self._host.closed:
            try:
                await self._host.recover(taken)
                return
            except StoreError as error:
                log.warning("recover.failed", extra=fields(reason=error))
                await self._host.clock.sleep(RETRY)

    # --- giving back ---------------------------------------------------------------------------------------------------

    def _leave(self, lost: Held) -> None:
        """INVARIANT: what the applied table gives to others is served no more: from here on placement's word is about
        this table. What is under way there comes to its end before the store is told."""
        if not lost:
            return
        host = self._host
        # The same for all: which table moved each of them matters less than that a newer one did.
        name = max([host.newest, *(host.newer[key] for key in lost if key in host.newer)])
        host.retire(lost, Moved(term=name.term, epoch=name.epoch))
        for key in lost:
            self._leaving[key] = asyncio.get_running_loop().create_future()
        host.clock.spawn(self._give_back(dict(lost)))

    async def _give_back(self, lost: dict[TypePartition, Fence]) -> None:
        """Tells the store of each partition when nothing is under way there any more, or of none that takes too long:
        the new owner's fence settles those, and what it finds there counts as crashed."""
        host = self._host
        until = host.clock.monotonic() + DRAIN
        while True:
            idle = {key: fence for key, fence in lost.items() if key not in host.retiring}
            if idle:
                host.clock.spawn(self._give_back_idle(idle))
                lost = {key: fence for key, fence in lost.items() if key not in idle}
            wait = until - host.clock.monotonic()
            if not lost or wait <= 0:
                break
            self._retired.clear()
            timer = host.clock.call_later(wait, self._retired.set)
            await self._retired.wait()
            timer.cancel()
        if lost:
            log.warning("partitions.not_drained", extra=fields(count=len(lost)))
        for key in lost:
            host.drop_retiring(key)
            self._left(key)

    async def _give_back_idle(self, lost: Held) -> None:
        await self._release_in_store(lost)
        for key in lost:
            self._left(key)

    def _left(self, key: TypePartition) -> None:
        self._leaving.pop(key).set_result(None)

    async def _release_in_store(self, lost: Held) -> None:
        try:
            async with asyncio.timeout(DRAIN):
                for fence, keys in _by_fence(lost).items():
                    await self._host.store.release(keys, fence)
        except (TimeoutError, StoreError) as error:
            # As in `_finish`.
            log.warning("partitions.not_released", extra=fields(count=len(lost), reason=repr(error)))

    async def _asked_to_release(self, question: Release) -> Released:
        """A new owner asks: it may know a newer table than this node, and then this node believes it."""
        host = self._host
        asked = handover.keys(question.groups)
        lost: dict[TypePartition, Fence] = {}
        for key, fence in list(asked.items()):
            owned = host.owned.get(key)
            if owned is not None and owned.fence >= fence:
                # It is the question that is late.
                del asked[key]
                continue
            host.newer[key] = max(fence, host.newer.get(key, fence))
            if owned is not None:
                lost[key] = owned.fence
            elif key in self._taking and self._taking[key] <= fence:
                self._take_no_more(key)
        self._leave(lost)
        wanted = self._wanted()
        self._expect(wanted)
        # The table that says so will come here too. If it does not, there is none.
        self._stale.update((key, wanted[key]) for key in asked if key in wanted)
        self._renew_stale()
        self._look()
        waits = {self._leaving[key]: None for key in asked if key in self._leaving}
        if waits:
            await asyncio.wait(waits, timeout=question.patience)
        return Released(
            handover.groups({key: fence for key, fence in asked.items() if key not in self._leaving})
        )

    # --- lost fences -----------------------------------------------------------------------------------------------------

    def _fenced(self, actor_type: str, partition: int, fence: Fence, stored: Fence | None) -> None:
        key = TypePartition(actor_type, partition)
        wanted = self._wanted()
        self._host.newer.setdefault(key, fence)
        if wanted.get(key) == fence:
            self._stale[key] = fence
            if self._comes(key, fence):
                self._host.coming.setdefault(key, [])
        if stored is None or stored < fence:
            # The store lost writes: its fence is older than one it acknowledged.
            self._placement.renew([key])
        self._renew_stale()

    def rolled_back(self, reason: str) -> None:
        """The store has lost what it acknowledged: nothing in memory is true any more, and writes that are still on
        their way must not meet what comes. Everything is taken anew, under new fences."""
        host = self._host
        log.error("store.rolled_back", extra=fields(reason=reason, partitions=len(host.owned)))
        void = {key: owned.fence for key, owned in host.owned.items()} | self._taking
        for key in list(self._taking):
            self._take_no_more(key)
        for key in list(host.retiring):
            host.drop_retiring(key)
        for key, fence in void.items():
            host.newer[key] = max(fence, host.newer.get(key, fence))
        self._stale.update(void)
        host.disown(list(host.owned), Moved("the store has lost what it acknowledged"))
        self._expect(self._wanted())
        if void:
            self._placement.renew(list(void))
        self._renew_stale()
        self._look()

    def _renew_stale(self) -> None:
        if self._stale and not self._renewing:
            self._renewing = True
            self._host.clock.spawn(self._renew())

    async def _renew(self) -> None:
        """Asks for new fences until a table brings them: the question may be lost."""
        while self._stale and not self._host.closed:
            known = dict(self._stale)
            await self._host.clock.sleep(RENEW)
            owned, wanted = self._host.owned, self._wanted()
            self._stale = {
                key: fence
                for key, fence in wanted.items()
                if key not in owned and not self._usable(key, fence)
            }
            lasting = [key for key in self._stale if key in known]
            if lasting and not self._stopped:
                log.warning("fences.stale", extra=fields(count=len(lasting)))
                self._placement.renew(lasting)
        self._renewing = False

    # --- the end ---------------------------------------------------------------------------------------------------------

    async def release_all(self) -> None:
        """Gives everything back in good order: the node stops."""
        self._stopped = True
        for key in list(self._taking):
            self._take_no_more(key)
        self._leave({key: owned.fence for key, owned in self._host.owned.items()})
        self._host.expect(())
        while self._leaving:
            await asyncio.wait(set(self._leaving.values()))


def _by_fence(keys: Held) -> dict[Fence, list[TypePartition]]:
    found: dict[Fence, list[TypePartition]] = {}
    for key, fence in keys.items():
        found.setdefault(fence, []).append(key)
    return found
